"""Convolutions as all these networks have them: without bias, initialised by Xavier's uniform rule."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.layers.gradients import add_neighbours


def conv2d(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Make a convolution of frames (n, C, H, W) that keeps their size but for the stride."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.xavier_uniform_(convolution.weight)
    return convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def leaky_convolutions(*channels: int, first_kernel: int = 3, pool: bool = False) -> nn.Sequential:
    """Make 3×3 convolutions, each with its LReLU (slope 0.01), (n, C, H, W) → (n, C', H, W).

    The convolutions are the modules 0, 2, 4, ….

    Args:
        channels: widths, the input's first.
        first_kernel: size of the first convolution.
        pool: whether maxima over 2×2 pixels halve the map at the end. They come before the last LReLU, which
            keeps the order and then has a quarter to do.
    """
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(channels)):
        layers += [conv2d(inputs, outputs, 3 if number else first_kernel), nn.LeakyReLU(inplace=True)]
    if pool:
        layers.insert(-1, nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class Convolution3D(nn.Module):
    """Convolve over three frames and k×k pixels without bias, zeros beyond the ends of each sequence.

    Frames of the sequences lie one after another, so there is no padding in time to be set to zero. All three
    products of a frame are one convolution of it, whose results are then added with those of its neighbours:
    in float32 on one core of an AVX2 processor 0.65 of the time of PyTorch's best 3-D convolution at
    64 → 64 channels of 32×22 pixels, as long at 128 of 16×11, 1.4 times at 32 of 64×44, and 0.8 for 3×1×1. Of
    a single channel the neighbours are laid beside it instead: 0.3 of the time.

    Args:
        inputs, outputs: channels.
        kernel: rows and columns k; 3 frames in any case.
        stride: in rows and columns.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, kernel, kernel))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor, lengths: list[int], strips: int = 1) -> Tensor:
        """Convolve frames (n, C, H, W); strips of equal height each as a picture of its own.

        Returns:
            (n, out, H/stride, W/stride).
        """
        padding = self.weight.shape[-1] // 2
        if x.shape[1] == 1:
            x = torch.cat([_neighbours(x, lengths, 1), x, _neighbours(x, lengths, -1)], dim=1)
            return F.conv2d(x, self.weight.transpose(1, 2).flatten(1, 2), None, self.stride, padding)
        weight = self.weight.permute(2, 0, 1, 3, 4).flatten(0, 1)  # (3·out, in, k, k)
        weight = weight.contiguous(memory_format=torch.channels_last)
        z = F.conv2d(_cut(x, strips), weight, None, self.stride, padding)
        return add_neighbours(_joined(z, strips), lengths)


def merge_thirds(x: Tensor, lengths: list[int], weight: Tensor) -> tuple[Tensor, list[int]]:
    """Make one frame of three by a 3×1×1 convolution of stride 3; the one or two left over are dropped.

    Args:
        x: frames (n, C, H, W), those of each sequence one after another.
        lengths: how many each sequence has.
        weight: (out, C, 3, 1, 1).

    Returns:
        (m, out, H, W), and how many of the m each sequence has.
    """
    counts = [length // 3 for length in lengths]
    if any(length % 3 for length in lengths):
        sequences = zip(x.split(lengths), counts, strict=True)
        x = torch.cat([frames[: 3 * count] for frames, count in sequences])
    together = x.permute(0, 2, 3, 1).unflatten(0, (-1, 3)).permute(0, 2, 3, 1, 4).flatten(3)
    # Three frames' channels lie beside each other: (out, 3·in, 1, 1).
    return F.conv2d(together.permute(0, 3, 1, 2), weight.transpose(1, 2).flatten(1, 2)), counts


def _neighbours(x: Tensor, lengths: list[int], by: int) -> Tensor:
    """Put the frame `by` frames earlier in the place of each; zeros where the sequence has none."""
    return torch.cat([F.pad(frames, (0, 0) * 3 + (by, -by)) for frames in x.split(lengths)])


def _cut(x: Tensor, strips: int) -> Tensor:
    """Cut pictures (n, C, H, W) into strips (n·strips, C, H/strips, W), channels last."""
    return x.permute(0, 2, 3, 1).unflatten(1, (strips, -1)).flatten(0, 1).permute(0, 3, 1, 2)


def _joined(x: Tensor, strips: int) -> Tensor:
    """Put strips together again: (n·strips, C, H/strips, W) → (n, C, H, W)."""
    return x.permute(0, 2, 3, 1).unflatten(0, (-1, strips)).flatten(1, 2).permute(0, 3, 1, 2)
