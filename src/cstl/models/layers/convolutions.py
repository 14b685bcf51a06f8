"""Convolutions as all these networks have them: without bias, initialised by Xavier's uniform rule."""

from itertools import pairwise

from torch import nn


def conv2d(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Make a convolution of frames (n, C, H, W) that keeps their size but for the stride."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.xavier_uniform_(convolution.weight)
    return convolution


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
