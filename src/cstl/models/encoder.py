"""The frame encoder: silhouettes to parts (Section 3.1 of the paper)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.xavier_uniform_(convolution.weight)
    return convolution


class _RowPool(torch.autograd.Function):
    """The maximum plus the mean of every row, (frames, C, P, W) → (frames, C, P).

    Written out so that the gradient is made once, in the map's own memory format and precision.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        maximum, at = x.max(dim=-1)
        ctx.save_for_backward(at)
        ctx.width = x.shape[-1]
        return maximum + x.mean(dim=-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (at,) = ctx.saved_tensors
        row = (grad / ctx.width)[..., None].expand(*grad.shape, ctx.width)
        return row.contiguous(memory_format=torch.channels_last).scatter_add_(-1, at[..., None], grad[..., None])


class Encoder(nn.Module):
    """Four 3×3 convolutions, each frame alone, then every row of the map becomes one part.

    Input float (frames, H, W) in [0, 1]; output (frames, P, C), P = H / 2 and C the last of `channels`.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, last = channels
        self.conv1 = _convolution(1, first)
        self.conv2 = _convolution(first, second)
        self.conv3 = _convolution(second, last)
        self.conv4 = _convolution(last, last)
        self.to(memory_format=torch.channels_last)  # twice as fast as the plain layout, on the CPU and on the GPU

    def forward(self, frames: Tensor) -> Tensor:  # noqa: D102
        x = frames[:, None].contiguous(memory_format=torch.channels_last)  # (frames, 1, H, W)
        x = F.leaky_relu(self.conv1(x), inplace=True)
        x = F.leaky_relu(self.conv2(x), inplace=True)
        x = F.max_pool2d(x, 2)
        x = F.leaky_relu(self.conv3(x), inplace=True)
        x = F.leaky_relu(self.conv4(x), inplace=True)  # (frames, C, P, W/2)
        return _RowPool.apply(x).transpose(1, 2)
