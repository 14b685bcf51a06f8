"""Layers with weights of their own for every body part, computed for all parts at once.

Inside the network a feature map is laid out as (P, N, T, C): parts, sequences, frames, channels. A map per part is then
one batched matrix product. Weights are kept in the shape of the authors' grouped convolutions, part p in rows
p·out … (p+1)·out−1, so that Xavier initialisation sees their fans and their checkpoints fit.
"""

from typing import Any

import torch
from torch import Tensor, nn


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision values as float32, others as they are: for sums over time, batch statistics and scores."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class PartConv(nn.Module):
    """A convolution over time without bias, of its own for every part.

    Input (P, N, T, in), output (P, N, T, out). Frames outside the sequence count as zeros; `kernel` is odd. With
    kernel 1 several inputs stand for their concatenation along the channels, which is then never made; one of a single
    frame, (P, N, 1, channels), is the same in all frames and multiplied once.
    """

    def __init__(self, parts: int, in_channels: int, out_channels: int, kernel: int = 1) -> None:
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.empty(parts * out_channels, in_channels, kernel))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, *inputs: Tensor) -> Tensor:  # noqa: D102
        _, channels, kernel = self.weight.shape
        weight = self.weight.view(self.parts, -1, channels, kernel)  # (P, out, in, kernel)
        weight = weight.permute(0, 3, 2, 1).flatten(1, 2)  # (P, kernel·in, out)
        if kernel > 1:
            inputs = (_Windows.apply(*inputs, kernel),)
        weights = weight.split([x.shape[-1] for x in inputs], dim=1)
        outputs = [
            torch.bmm(x.flatten(1, 2), w).unflatten(1, x.shape[1:3]) for x, w in zip(inputs, weights, strict=True)
        ]
        return sum(outputs[1:], outputs[0])


class _Windows(torch.autograd.Function):
    """Every frame with its neighbours in time, (P, N, T, C) → (P, N, T, kernel·C), zeros beyond the ends.

    As slices of a padded copy would give it; but autograd fills and adds a whole tensor for each of those.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int) -> Tensor:
        windows = x.new_zeros(*x.shape[:3], kernel, x.shape[3])
        ctx.shifts = [_overlap(x.shape[2], k - kernel // 2) for k in range(kernel)]
        for k, (frame, neighbour) in enumerate(ctx.shifts):
            windows[:, :, frame, k] = x[:, :, neighbour]
        return windows.flatten(3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.unflatten(3, (len(ctx.shifts), -1))  # (P, N, T, kernel, C)
        total = grad[:, :, :, len(ctx.shifts) // 2].clone()  # every frame in its own window
        for k, (frame, neighbour) in enumerate(ctx.shifts):
            if frame != neighbour:
                total[:, :, neighbour] += grad[:, :, frame, k]
        return total, None


def _overlap(frames: int, shift: int) -> tuple[slice, slice]:
    """The frames that have a neighbour `shift` frames later, and these neighbours."""
    count = max(frames - abs(shift), 0)
    first, neighbour = max(-shift, 0), max(shift, 0)
    return slice(first, first + count), slice(neighbour, neighbour + count)


def weighted_mean(value: Tensor, weight: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Σ weight·value / Σ weight over the dimensions `dim`, kept with size 1; sums and result at least float32."""
    return _WeightedMean.apply(value, weight, dim)


class _WeightedMean(torch.autograd.Function):
    """Its gradient written out: two products instead of a copy of the values for every step of the formula."""

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
