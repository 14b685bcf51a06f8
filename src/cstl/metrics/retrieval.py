"""Distances between sequences, and how well the matches of a probe rank: functions over tensors.

On the CPU the work is cut into blocks of probes, and each of several threads computes one block after the other by
itself. Small operations that all threads share would wait for each other, thousands of times, and ten times as long
where another program keeps one core busy. The blocks follow from the shapes alone, so that the number of threads
changes no digit.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

DISTANCES = ("euclidean", "cosine")
_ROWS, _COLUMNS = 128, 2048  # of a block of distances: a megabyte, which stays near its core
_VALUES = 2**23  # embedding values that are laid out part by part at once
_MANY = 32  # matches of a probe from which on sorting the gallery is faster than a comparison for each


class Embeddings(Protocol):
    """Sequences' embeddings, however they are stored: n of them, P parts, D values."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Give n, P and D."""

    @property
    def device(self) -> torch.device:
        """Say where they are."""

    def parts(self, some: slice) -> Tensor:
        """Lay some of the parts out one after the other: (parts, n, D), float32 or float64."""


class Whole(NamedTuple):
    """Embeddings in one tensor (n, P, D)."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:  # noqa: D102
        return tuple(self.tensor.shape)  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:  # noqa: D102
        return self.tensor.device

    def parts(self, some: slice) -> Tensor:  # noqa: D102
        dtype = torch.promote_types(self.tensor.dtype, torch.float32)
        return self.tensor[:, some].transpose(0, 1).to(dtype)


def distances(probes: Tensor, gallery: Tensor, distance: str = "euclidean") -> Tensor:
    """Compute the distances that gait papers rank by: the mean over the parts of the distances part by part.

    Args:
        probes, gallery: float (n, P, D) and (G, P, D), any floating dtype.
        distance: "euclidean", or "cosine", 1 minus the cosine.

    Returns:
        (n, G), float32, or float64 where one of them is.

    Raises:
        ValueError: shapes that do not go together, or another distance.

    Example:
        >>> distances(torch.zeros(1, 2, 2), torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]))
        tensor([[3.]])
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}; choose one of {', '.join(DISTANCES)}")
    if probes.ndim != 3 or gallery.ndim != 3 or probes.shape[1:] != gallery.shape[1:]:
        raise ValueError(
            "expected embeddings (n, P, D) and (G, P, D) of the same parts and values, found "
            f"{tuple(probes.shape)} and {tuple(gallery.shape)}"
        )
    with own_threads(probes.device) as for_each:
        return total_distances(Whole(probes.detach()), Whole(gallery.detach()), distance, for_each)


ForEach = Callable[[Callable[[slice], None], int], None]


@contextmanager
def own_threads(device: torch.device) -> Iterator[ForEach]:
    """Give the function that calls another for every block of rows, on the CPU in threads of their own."""

    def blocks(rows: int, size: int) -> Iterator[slice]:
        return (slice(first, first + size) for first in range(0, rows, size))

    def here(work: Callable[[slice], None], rows: int) -> None:
        for block in blocks(rows, _ROWS if device.type == "cpu" else 2**13):
            work(block)

    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield here
        return
    inference = torch.is_inference_mode_enabled()  # which threads do not inherit

    def work_as_here(work: Callable[[slice], None], block: slice) -> None:
        with torch.inference_mode(inference):
            work(block)

    torch.set_num_threads(1)  # each thread computes by itself
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:

            def for_each(work: Callable[[slice], None], rows: int) -> None:
                for _ in pool.map(partial(work_as_here, work), blocks(rows, _ROWS)):
                    pass

            yield for_each
    finally:
        torch.set_num_threads(threads)


def total_distances(probes: Embeddings, gallery: Embeddings, distance: str, for_each: ForEach) -> Tensor:
    """Compute `distances` of embeddings that need not lie in one tensor, some parts at a time."""
    (n, parts, values), count = probes.shape, gallery.shape[0]
    step = max(1, _VALUES // max(1, (n + count) * (values + 2)))
    total: Tensor | None = None
    for first in range(0, parts, step):
        some = slice(first, first + step)
        x, y = probes.parts(some), gallery.parts(some)
        if distance == "cosine":
            x, y = (torch.nn.functional.normalize(v, dim=2) for v in (x, y))
        else:
            x, y = _lifted(x), _lifted(y, -2)
        if total is None:
            total = x.new_zeros(n, count)
        for_each(_adding(total, x, y, distance), n)
    return torch.zeros(n, count) if total is None else total.div_(parts)


def _lifted(x: Tensor, factor: float = 1) -> Tensor:
    """Append |x|² and 1 to vectors, so that one product with −2y, 1, |y|² is |x − y|²: (…, D) → (…, D + 2)."""
    square, one = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square(), x.new_ones(*x.shape[:-1], 1)
    return torch.cat([x, square, one] if factor == 1 else [x * factor, one, square], dim=-1)


def _adding(total: Tensor, x: Tensor, y: Tensor, distance: str) -> Callable[[slice], None]:
    """Make the function that adds the distances of x (p, n, D) and y (p, G, D) to some rows of `total` (n, G)."""

    def add(rows: slice) -> None:
        columns = _COLUMNS if total.device.type == "cpu" else len(total[0])
        for first in range(0, total.shape[1], columns):
            place = total[rows, first : first + columns]
            out = torch.empty_like(place, memory_format=torch.contiguous_format)
            with torch.autocast(total.device.type, enabled=False):
                for a, b in zip(x[:, rows], y[:, first : first + columns], strict=True):
                    torch.mm(a, b.T, out=out)
                    place += out.relu_().sqrt_() if distance == "euclidean" else out.neg_().add_(1)

    return add


class Ranked(NamedTuple):
    """How well the matches of n probes rank in a gallery.

    Attributes:
        impostors_ahead: (n,), gallery sequences of other subjects that are at most as far as the nearest match; NaN
            without a match. The probe is recognised at rank k where this is below k.
        average_precision: (n,), the mean, over the probe's matches, of the precision at the match; NaN without one.
        inverse_negative_penalty: (n,), matches divided by the rank of the hardest (Ye et al., TPAMI 2021).
        nearest, match: int64 (n,), column of the nearest sequence, and of the nearest match; −1 where there is none.
        nearest_distance, match_distance: (n,), theirs; infinite where there is none.
    """

    impostors_ahead: Tensor
    average_precision: Tensor
    inverse_negative_penalty: Tensor
    nearest: Tensor
    nearest_distance: Tensor
    match: Tensor
    match_distance: Tensor


def rank(near: Tensor, own: Tensor) -> Ranked:
    """Rank the gallery for each probe; of sequences equally near, those of other subjects come first.

    Args:
        near: distances (n, G); infinite where a sequence is hidden from the probe.
        own: bool (n, G), where probe and gallery sequence have the same subject.
    """
    own = own & ~near.isinf()
    matches = own.sum(1)  # (n,)
    most = max(1, int(matches.max())) if len(matches) else 1
    mine = near.masked_fill(~own, torch.inf)
    others = near.masked_fill(own, torch.inf)
    of_match = mine.topk(most, 1, largest=False).values  # (n, K), sorted, infinite beyond the probe's matches
    if most > _MANY:
        ahead = torch.searchsorted(others.sort(1).values, of_match, right=True).double()
    else:
        flags = torch.empty_like(others)  # 0 or 1; six times faster to sum than booleans
        ahead = torch.stack(
            [torch.le(others, of_match[:, k : k + 1], out=flags).sum(1) for k in range(most)], 1
        ).double()
    order = torch.arange(1, most + 1, device=near.device)
    beyond = order > matches[:, None]
    ahead = ahead.masked_fill(beyond, 0)
    precision = (order / (order + ahead)).masked_fill(beyond, 0).sum(1) / matches
    penalty = matches / (matches + ahead.amax(1))
    first = ahead[:, 0].masked_fill(matches == 0, torch.nan)
    return Ranked(first, precision, penalty, *_nearest(near), *_nearest(mine))


def _nearest(near: Tensor) -> tuple[Tensor, Tensor]:
    """Find the column of the nearest, −1 where all are infinite, and its distance."""
    distance, column = near.min(1)
    return column.masked_fill(distance.isinf(), -1), distance.double()
