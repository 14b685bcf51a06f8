"""Backward passes written by hand, side by side, each beside the plain formula that it stands for.

Autograd derives the same gradients from the formulas; the tests compare the two. What each function gains in
a training step stands with it: `scripts/benchmark.py --only hand-written` measures it again.
"""

from typing import Any

import torch
from torch import Tensor


def pool_parts(x: Tensor) -> Tensor:
    """Add the maximum and the mean of every part's pixels: (frames, P, pixels, C) → (frames, P, C).

    2.0 × as fast as its formula.
    """
    return _PoolParts.apply(x)


def pool_parts_plainly(x: Tensor) -> Tensor:
    """Write `pool_parts` as its formula."""
    return x.amax(dim=2) + x.mean(dim=2)


class _PoolParts(torch.autograd.Function):
    """One pass in the map's own memory layout and precision; ties share the maximum's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        maximum = x.amax(dim=2, keepdim=True)  # (frames, P, 1, C)
        ctx.save_for_backward(x, maximum)
        return (maximum.squeeze(2) + x.sum(dim=2) / x.shape[2]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, maximum = ctx.saved_tensors
        grad = grad[:, :, None]
        largest = torch.eq(x, maximum, out=torch.empty_like(x))  # 1 or 0
        return largest.mul_(grad / largest.sum(dim=2, keepdim=True)).add_(grad / x.shape[2])


def windows(x: Tensor, kernel: int) -> Tensor:
    """Lay every frame beside its neighbours: (P, B, T, C) → (P, B, T, kernel·C), zeros beyond the ends.

    1.2 × as fast as its formula.
    """
    return _Windows.apply(x, kernel)


def windows_plainly(x: Tensor, kernel: int) -> Tensor:
    """Write `windows` as slices of a padded copy; autograd fills and adds a whole tensor for each of them."""
    padded = torch.nn.functional.pad(x, (0, 0, kernel // 2, kernel // 2))
    return torch.cat([padded[:, :, k : k + x.shape[2]] for k in range(kernel)], dim=3)


class _Windows(torch.autograd.Function):
    """Each neighbour's gradient is added to its frame, in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int) -> Tensor:
        windows = x.new_zeros(*x.shape[:3], kernel, x.shape[3])
        ctx.shifts = [_overlap(x.shape[2], k - kernel // 2) for k in range(kernel)]
        for k, (frame, neighbour) in enumerate(ctx.shifts):
            windows[:, :, frame, k] = x[:, :, neighbour]
        return windows.flatten(3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.unflatten(3, (len(ctx.shifts), -1))  # (P, B, T, kernel, C)
        total = grad[:, :, :, len(ctx.shifts) // 2].clone()  # every frame in its own window
        for k, (frame, neighbour) in enumerate(ctx.shifts):
            if frame != neighbour:
                total[:, :, neighbour] += grad[:, :, frame, k]
        return total, None


def _overlap(frames: int, shift: int) -> tuple[slice, slice]:
    """Name the frames that have a neighbour `shift` frames later, and these neighbours."""
    count = max(frames - abs(shift), 0)
    first, neighbour = max(-shift, 0), max(shift, 0)
    return slice(first, first + count), slice(neighbour, neighbour + count)


def weighted_mean(value: Tensor, weight: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Compute Σ weight·value / Σ weight over the dimensions `dim`, kept as 1; sums are at least float32.

    As fast as its formula; in bf16 the gradient of the weights is 4.6 times more exact.
    """
    return _WeightedMean.apply(value, weight, dim)


def weighted_mean_plainly(value: Tensor, weight: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Write `weighted_mean` as its formula, which keeps a copy of the values for every step."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    return (weight * value).sum(dim, keepdim=True, dtype=dtype) / weight.sum(dim, keepdim=True, dtype=dtype)


class _WeightedMean(torch.autograd.Function):
    """Both gradients from the mean: two products."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor, dim: tuple[int, ...]) -> Tensor:
        dtype = torch.promote_types(value.dtype, torch.float32)
        total = weight.sum(dim, keepdim=True, dtype=dtype)
        mean = (weight * value).sum(dim, keepdim=True, dtype=dtype) / total
        ctx.save_for_backward(value, weight, total, mean)
        return mean

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        value, weight, total, mean = ctx.saved_tensors
        share = grad / total
        to_value = weight.to(value.dtype) * share.to(value.dtype)
        to_weight = (value - mean).mul_(share).sum_to_size(weight.shape)  # float32: value and mean are close
        return to_value, to_weight.to(weight.dtype), None


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and biased variance (P, S, C) over the sequences and frames of x (P, S, B/S, T, C).

    8.6 × as fast as its formula.
    """
    return _Moments.apply(x)


def moments_plainly(x: Tensor) -> tuple[Tensor, Tensor]:
    """Write `moments` as its formula, which PyTorch computes slowly where the channels come last."""
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)
    return mean, variance


class _Moments(torch.autograd.Function):
    """One pass over the batch in backward, in place of four."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean((2, 3), keepdim=True)
        variance = (x - mean).square_().mean((2, 3))
        ctx.save_for_backward(x, mean)
        return mean[:, :, 0, 0], variance

    @staticmethod
    def backward(ctx: Any, to_mean: Tensor, to_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.shape[2] * x.shape[3]
        to_mean, slope = to_mean[:, :, None, None] / count, to_variance[:, :, None, None] * (2 / count)
        return torch.addcmul(to_mean - slope * mean, x, slope)


def add_neighbours(z: Tensor, lengths: list[int]) -> Tensor:
    """Add what comes from the frame before, from a frame itself and from the next: (n, 3·C, …) → (n, C, …).

    Frames of each sequence lie one after another; beyond its ends there are zeros. `lengths` sums to n.
    """
    return _AddNeighbours.apply(z, lengths)


def add_neighbours_plainly(z: Tensor, lengths: list[int]) -> Tensor:
    """Write `add_neighbours` as its formula, sequence by sequence."""
    sums = []
    for frames in z.split(lengths):
        before, here, after = torch.nn.functional.pad(frames, (0, 0, 0, 0, 0, 0, 1, 1)).chunk(3, dim=1)
        sums.append(before[:-2] + here[1:-1] + after[2:])
    return torch.cat(sums)


class _AddNeighbours(torch.autograd.Function):
    """Two additions in place, whose backward is three copies."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, lengths: list[int]) -> Tensor:
        before, here, after = z.chunk(3, dim=1)
        total, ctx.seams = here.clone(), torch.tensor(lengths).cumsum(0)[:-1].tolist()
        total[1:] += before[:-1].index_fill(0, _rows(z, ctx.seams, -1), 0)
        total[:-1] += after[1:].index_fill(0, _rows(z, ctx.seams, -1), 0)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        before = torch.zeros_like(grad)
        after = torch.zeros_like(grad)
        before[:-1] = grad[1:]
        after[1:] = grad[:-1]
        before.index_fill_(0, _rows(grad, ctx.seams, -1), 0)
        after.index_fill_(0, _rows(grad, ctx.seams, 0), 0)
        return torch.cat([before, grad, after], dim=1), None


def _rows(x: Tensor, seams: list[int], shift: int) -> Tensor:
    """Name the frames at the seams, where another sequence begins, or those before them, shift −1."""
    return torch.tensor([seam + shift for seam in seams], dtype=torch.int64, device=x.device)
