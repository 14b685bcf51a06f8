"""Augmentation of a training batch on its device: transforms with probabilities, drawn from (seed, step).

What happens to a sequence is drawn for the global batch and then sliced by rank, so that it depends on
the seed and the step alone. Transforms and parameters are those of GaitBase (Fan et al., CVPR 2023):
coordinates are (x, y) with pixel centres at whole numbers, sampling is bilinear, and what lies outside is
zero.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

AUGMENTATION = 1  # apart from the draws of the batch itself, which have the seed and the step alone


class Transform(Protocol):
    """One kind of change: `draw` chooses what is done to one sequence, `apply` does it to several."""

    probability: float

    def draw(self, generator: np.random.Generator, height: int, width: int) -> Any:
        """Choose the parameters for one sequence of H×W frames."""

    def apply(self, frames: Tensor, drawn: Sequence[Any]) -> Tensor:
        """Change float (n, T, H, W) by the parameters of each of the n sequences."""


class Flip(NamedTuple):
    """Exchange left and right."""

    probability: float = 0.2

    def draw(self, generator: np.random.Generator, height: int, width: int) -> None:
        """Return None: there is nothing to choose."""

    def apply(self, frames: Tensor, drawn: Sequence[None]) -> Tensor:
        """Mirror frames (n, T, H, W)."""
        return frames.flip(-1)


class Rotate(NamedTuple):
    """Turn by up to so many degrees, positive counter-clockwise.

    The centre is x = floor(H/2), y = floor(W/2), as in the published code, which takes one for the other: a
    turn also shifts the figure.
    """

    probability: float = 0.2
    degrees: float = 10.0

    def draw(self, generator: np.random.Generator, height: int, width: int) -> float:
        """Choose the angle in degrees, uniform in ±degrees."""
        return float(generator.uniform(-self.degrees, self.degrees))

    def apply(self, frames: Tensor, drawn: Sequence[float]) -> Tensor:
        """Rotate frames (n, T, H, W)."""
        height, width = frames.shape[-2:]
        x, y = height // 2, width // 2
        matrices = []
        for degrees in drawn:  # from a pixel of the result back to where it comes from
            cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            matrices.append(
                [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y], [0.0, 0.0, 1.0]]
            )
        return warp(frames, torch.tensor(matrices, dtype=torch.float64))


class Perspective(NamedTuple):
    """Stretch the frame sideways by moving its four corners inwards: frames only get wider.

    The corners are those of the uncut square frame, S×S, which the stores have cut to its middle; what was
    cut off is taken as background.
    """

    probability: float = 0.2

    def draw(self, generator: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
        """Choose the x of the corners top left, top right, bottom right and bottom left."""
        reach = 10 * (height // 44)
        low, high = (0, reach), (height - reach, height)
        return tuple(int(generator.integers(*bounds)) for bounds in (low, high, high, low))  # type: ignore[return-value]

    def apply(self, frames: Tensor, drawn: Sequence[tuple[int, int, int, int]]) -> Tensor:
        """Stretch frames (n, T, H, W); W is H, or less where their sides are cut off."""
        side, width = frames.shape[-2:]
        margin = side - width
        square = F.pad(frames, (margin // 2, margin - margin // 2))
        corners = [(0, 0), (side, 0), (side, side), (0, side)]
        matrices = [
            _homography(corners, [(left, 0), (right, 0), (lower_right, side), (lower_left, side)])
            for left, right, lower_right, lower_left in drawn
        ]
        return warp(square, torch.from_numpy(np.stack(matrices)))[..., margin // 2 : margin // 2 + width]


class Erase(NamedTuple):
    """Set a rectangle to zero in every frame of a sequence.

    Its area is uniform in `area`, a share of the frame, and its ratio of height to width in `ratio` … 1 /
    `ratio`.
    """

    probability: float = 0.2
    area: tuple[float, float] = (0.05, 0.2)
    ratio: float = 0.3

    def draw(
        self, generator: np.random.Generator, height: int, width: int
    ) -> tuple[int, int, int, int] | None:
        """Choose top, left, height and width; None where a hundred tries gave none that fits."""
        for _ in range(100):
            area = generator.uniform(*self.area) * height * width
            ratio = generator.uniform(self.ratio, 1 / self.ratio)
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                top, left = generator.integers(height - h + 1), generator.integers(width - w + 1)
                return int(top), int(left), h, w
        return None

    def apply(self, frames: Tensor, drawn: Sequence[tuple[int, int, int, int] | None]) -> Tensor:
        """Set the rectangles of frames (n, T, H, W) to zero."""
        frames = frames.clone()
        for sequence, rectangle in zip(frames, drawn, strict=True):
            if rectangle is not None:
                top, left, h, w = rectangle
                sequence[:, top : top + h, left : left + w] = 0
        return frames


def augment(
    silhouettes: Tensor,
    transforms: Sequence[Transform],
    seed: int,
    step: int,
    share: slice,
    sequences: int,
    together: bool = False,
) -> Tensor:
    """Apply each transform, one after the other, to the sequences that it happens to.

    Args:
        silhouettes: float (B, T, H, W), this rank's share of the batch.
        transforms: in their order.
        seed, step: of the run, and of the batch.
        share: which sequences of the global batch these are.
        sequences: how many the global batch has.
        together: one draw for the global batch, as the toolbox does where clips differ in length, in place of
            one for each sequence.

    Returns:
        float (B, T, H, W); where nothing happens, `silhouettes` itself.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, step, AUGMENTATION]))
    height, width = silhouettes.shape[-2:]
    for transform in transforms:
        draws = [
            transform.draw(generator, height, width)
            if generator.random() < transform.probability
            else _NOTHING
            for _ in range(1 if together else sequences)
        ]
        local_draws = draws * len(silhouettes) if together else draws[share]
        if chosen := [i for i, drawn in enumerate(local_draws) if drawn is not _NOTHING]:
            rows = torch.tensor(chosen, device=silhouettes.device)
            changed = transform.apply(silhouettes[rows], [local_draws[i] for i in chosen])
            silhouettes = silhouettes.index_copy(0, rows, changed)
    return silhouettes


_NOTHING: Any = object()


def warp(frames: Tensor, matrices: Tensor) -> Tensor:
    """Sample frames (n, T, H, W) where matrices (n, 3, 3) lead from the result's pixels → (n, T, H, W)."""
    height, width = frames.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).double()  # (H, W, 3)
    source = torch.einsum("nij,hwj->nhwi", matrices, pixels)
    place = source[..., :2] / source[..., 2:]  # (n, H, W, 2)
    grid = 2 * place / torch.tensor([width - 1.0, height - 1.0], dtype=torch.float64) - 1
    grid = grid.to(frames.dtype).to(frames.device)
    return F.grid_sample(frames, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def _homography(source: Sequence[tuple[int, int]], target: Sequence[tuple[int, int]]) -> np.ndarray:
    """Find the matrix (3, 3) that takes four points to four others."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows, float), np.array(values, float)), 1).reshape(3, 3)
