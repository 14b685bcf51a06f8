"""Residual blocks of GaitBase and DeepGaitV2, over frames that lie one after another."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.layers.convolutions import Convolution3D, conv2d

RESIDUAL_NAMES = {  # in OpenGait's files
    "conv1": "conv1",
    "norm1": "bn1",
    "conv2": "conv2",
    "norm2": "bn2",
    "shortcut": "downsample",
}


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Make a batch norm of frames (n, C, H, W); its weights begin near 1, deviation 0.02."""
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight, 1.0, 0.02)
    return norm


class ResidualBlock(nn.Module):
    """ReLU(r + shortcut(x)) with r = BN(conv(ReLU(BN(conv(x))))), of each frame alone.

    The shortcut is x itself, or BN(1×1 convolution) where the width or the size changes. Input (n, in, H, W),
    output (n, out, H/stride, W/stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1: nn.Module = conv2d(inputs, outputs, stride=stride)
        self.conv2: nn.Module = conv2d(outputs, outputs)
        self.norm1, self.norm2 = batch_norm(outputs), batch_norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv2d(inputs, outputs, 1), batch_norm(outputs))
        self.stride = stride

    def around(self, x: Tensor) -> Tensor:
        """Take the shortcut.

        Pixels are left out before its 1×1 convolution: with a stride, of fewer than eight channels that lie
        last, the gradient of PyTorch 2.13 writes beyond its memory on processors without AVX-512.
        """
        return self.shortcut(x[:, :, :: self.stride, :: self.stride])

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        """Take frames and how many each sequence has, which only blocks that see time look at."""
        a = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(a)) + self.around(x), inplace=True)


class ResidualBlock3D(ResidualBlock):
    """The same with 3×3×3 convolutions; the stride is one of rows and columns."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, stride)
        self.conv1 = Convolution3D(inputs, outputs, stride=stride)
        self.conv2 = Convolution3D(outputs, outputs)

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        a = F.relu(self.norm1(self.conv1(x, lengths)), inplace=True)
        return F.relu(self.norm2(self.conv2(a, lengths)) + self.around(x), inplace=True)


class ResidualBlockP3D(ResidualBlock):
    """The same with ReLU(a + BN(3×1×1 convolution of a)) between the two convolutions of frames."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, stride)
        self.time, self.time_norm = Convolution3D(outputs, outputs, kernel=1), batch_norm(outputs)

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        a = F.relu(self.norm1(self.conv1(x)), inplace=True)
        a = F.relu(a + self.time_norm(self.time(a, lengths)), inplace=True)
        return F.relu(self.norm2(self.conv2(a)) + self.around(x), inplace=True)


class ResidualEncoder(nn.Module):
    """A first convolution and four stages of residual blocks: frames (n, 1, H, W) → (n, C, H/4, W/4).

    Args:
        channels: widths of the stages.
        blocks: how many each stage has; the first of a stage has its stride, 1, 2, 2, 1.
        kinds: the stages' blocks.
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: Sequence[int] = (1, 1, 1, 1),
        kinds: Sequence[type[ResidualBlock]] = (ResidualBlock,) * 4,
    ) -> None:
        super().__init__()
        self.conv, self.norm = conv2d(1, channels[0]), batch_norm(channels[0])
        self.stages, inputs = nn.ModuleList(), channels[0]
        for outputs, number, kind, stride in zip(channels, blocks, kinds, (1, 2, 2, 1), strict=True):
            first = kind(inputs, outputs, stride)
            self.stages.append(nn.ModuleList([first, *(kind(outputs, outputs) for _ in range(number - 1))]))
            inputs = outputs

    def forward(self, frames: Tensor, lengths: list[int]) -> Tensor:
        """Take frames, those of each sequence one after another, and how many each sequence has."""
        x = F.relu(self.norm(self.conv(frames)), inplace=True)
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, lengths)
        return x
