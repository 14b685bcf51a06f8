"""The frame encoder: silhouettes to parts (Section 3.1 of the paper)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.layers.gradients import pool_parts


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.xavier_uniform_(convolution.weight)
    return convolution


class Encoder(nn.Module):
    """Convolve each frame alone, four times 3×3, and make a part of every row of the map.

    Input float (frames, H, W) in [0, 1]; output (frames, P, C), P = `parts` and C the last of `channels`. The
    map has H / 2 rows; with fewer parts than rows, a part is a strip of as many rows as it takes.
    """

    def __init__(self, channels: tuple[int, int, int], parts: int) -> None:
        super().__init__()
        first, second, last = channels
        self.parts = parts
        self.conv1 = _convolution(1, first)
        self.conv2 = _convolution(first, second)
        self.conv3 = _convolution(second, last)
        self.conv4 = _convolution(last, last)
        # Twice as fast as the plain layout, on the CPU and on the GPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor) -> Tensor:
        x = frames[:, None].contiguous(memory_format=torch.channels_last)  # (frames, 1, H, W)
        x = F.leaky_relu(self.conv1(x), inplace=True)
        # Pooling comes before LReLU, which keeps the order and then has a quarter to do.
        x = F.max_pool2d(self.conv2(x), 2)
        x = F.leaky_relu(x, inplace=True)
        x = F.leaky_relu(self.conv3(x), inplace=True)
        x = F.leaky_relu(self.conv4(x), inplace=True)  # (frames, C, H/2, W/2)
        strips = x.permute(0, 2, 3, 1).unflatten(1, (self.parts, -1)).flatten(2, 3)  # (frames, P, pixels, C)
        return pool_parts(strips)
