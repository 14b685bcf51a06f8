"""Sequences of frames for networks that look at each frame alone: padding goes out, sets are pooled."""

from typing import NamedTuple

import torch
from torch import Tensor


class Frames(NamedTuple):
    """The valid frames of a batch, one after another, without the padding.

    Attributes:
        images: float (n, 1, H, W), channels last; n is the sum of `lengths`.
        lengths: how many of them each of the B sequences has.
    """

    images: Tensor
    lengths: list[int]


def check_silhouettes(
    silhouettes: Tensor, lengths: Tensor | None, rows: int = 1, columns: int = 1, height: int | None = None
) -> None:
    """Refuse what is no batch of silhouettes (B, T, H, W) for a network.

    Args:
        silhouettes: float, in [0, 1].
        lengths: int (B,), valid frames of each sequence, 1 … T; None: all T.
        rows, columns: what H and W are multiples of.
        height: H itself, where the network has one.

    Raises:
        ValueError: another shape or dtype, a height or width that the network cannot divide, or lengths that
            are not those of B sequences of at most T frames.
    """
    shape = tuple(silhouettes.shape)
    if len(shape) != 4 or not silhouettes.is_floating_point() or height not in (None, shape[2]):
        raise ValueError(
            f"silhouettes must be float (B, T, {height or 'H'}, W) for this network, found "
            f"{silhouettes.dtype} {shape}"
            + "; choose height= or prepare the data at that size"
            * bool(height)
        )
    if 0 in shape or shape[2] % rows or shape[3] % columns:
        raise ValueError(
            f"this network reads frames whose height is a multiple of {rows} and whose width is one of "
            f"{columns}, such as 64×44 (res=64) and 128×88 (res=128); found {shape[2]}×{shape[3]}"
        )
    if lengths is not None and (
        lengths.shape != shape[:1] or int(lengths.min()) < 1 or int(lengths.max()) > shape[1]
    ):
        raise ValueError(
            f"lengths must be int ({shape[0]},) with values from 1 to {shape[1]}, found {lengths.tolist()}"
        )


def valid_mask(silhouettes: Tensor, lengths: Tensor) -> Tensor:
    """Mark the valid frames of silhouettes (B, T, …): bool (B, T), where they are."""
    frames = torch.arange(silhouettes.shape[1], device=silhouettes.device)
    return frames < lengths[:, None].to(silhouettes.device)


def valid_frames(silhouettes: Tensor, lengths: Tensor | None, rows: int = 64, columns: int = 4) -> Frames:
    """Lay the valid frames of silhouettes (B, T, H, W) one after another, once they are checked.

    Args:
        silhouettes, lengths, rows, columns: those of `check_silhouettes`.
    """
    check_silhouettes(silhouettes, lengths, rows, columns)
    if lengths is None:
        images, counts = silhouettes.flatten(0, 1), [silhouettes.shape[1]] * len(silhouettes)
    else:
        images, counts = silhouettes[valid_mask(silhouettes, lengths)], lengths.tolist()
    return Frames(images[:, None].contiguous(memory_format=torch.channels_last), counts)


def parts_in_time(x: Tensor, sequences: int, mask: Tensor | None) -> Tensor:
    """Lay what was made of the valid frames out over time: (n, P, C) → (P, B, T, C).

    Args:
        x: of the valid frames of a batch, one after another.
        sequences: B.
        mask: bool (B, T), where they are, zeros stand elsewhere; None: everywhere.
    """
    if mask is None:
        f = x.unflatten(0, (sequences, -1))  # (B, T, P, C)
    else:
        f = x.new_zeros(*mask.shape, *x.shape[1:]).masked_scatter(mask[:, :, None, None], x)
    return f.permute(2, 0, 1, 3).contiguous()


def largest_over_time(x: Tensor, lengths: list[int]) -> Tensor:
    """Take the largest value over the frames of each sequence: (n, …) → (B, …), n the sum of `lengths`.

    Of equal frames one has the gradient.
    """
    if len(set(lengths)) == 1:
        return x.unflatten(0, (len(lengths), -1)).max(dim=1).values
    return torch.stack([frames.max(dim=0).values for frames in x.split(lengths)])


def lengthened(x: Tensor, lengths: list[int], shortest: int) -> tuple[Tensor, list[int]]:
    """Repeat one frame three times and two twice; of three, where four are needed, the first at the end.

    Args:
        x: frames (n, …), those of each sequence one after another.
        lengths: how many each has.
        shortest: 3 or 4, what the network needs.
    """
    if min(lengths) >= shortest:
        return x, lengths
    repeated = {1: [0, 0, 0], 2: [0, 1, 0, 1], 3: [0, 1, 2, 0]}
    each = [
        frames[repeated[length]] if length < shortest else frames
        for frames, length in zip(x.split(lengths), lengths, strict=True)
    ]
    return torch.cat(each), [len(frames) for frames in each]
