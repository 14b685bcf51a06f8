"""GaitPart: the gait of every part of the body by itself (Fan et al., CVPR 2020)."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models import Output
from cstl.models.layers.convolutions import leaky_convolutions
from cstl.models.layers.frames import parts_in_time, valid_frames, valid_mask
from cstl.models.layers.parts import PartConv, map_parts, part_matrix
from cstl.models.layers.pooling import pool_strips
from cstl.models.published import OPENGAIT, Form, PublishedNetwork, StateDict, stacked, unstacked

PARTS = 16
STRIPS = {3: (1, 4, 8), 4: (1, 1, 8, 8)}  # of networks with so many blocks, as in OpenGait


class GaitPart(PublishedNetwork):
    """Embed an ordered sequence of silhouettes, each part by itself: P = 16 parts, no logits.

    Focal convolutions (FConv) look at horizontal strips, each alone; every part then has its temporal feature
    aggregator (TFA), two branches that weigh templates of 3 and of 5 frames, and a matrix of its own.

    Args:
        channels: widths of the blocks; (32, 64, 128, 256) on OU-MVLP.
        strips: into how many strips each block cuts its maps, 1 for an ordinary convolution; (1, 1, 8, 8) on
            OU-MVLP, where the paper has (2, 2, 8, 8) by its author's correction.
        embedding_dim: values D of an embedding a part; 256 on OU-MVLP.

    Source: as OpenGait has it, which shares the first author.

    Example:
        >>> net = GaitPart(channels=(4, 8, 16), embedding_dim=8).eval()
        >>> net(torch.rand(2, 5, 64, 44)).embeddings.shape
        torch.Size([2, 16, 8])
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128),
        strips: Sequence[int] = (1, 4, 8),
        embedding_dim: int = 128,
    ) -> None:
        super().__init__()
        self.strips = tuple(strips)
        if len(self.strips) != len(channels) or min(self.strips) < 1:
            raise ValueError(
                f"strips must be one number, at least 1, for each of the {len(channels)} blocks of channels="
                f"{tuple(channels)}, found {self.strips}"
            )
        first = channels[0]
        self.blocks = nn.ModuleList([leaky_convolutions(1, first, first, first_kernel=5, pool=True)])
        for number, (inputs, outputs) in enumerate(pairwise(channels), start=1):
            self.blocks.append(leaky_convolutions(inputs, outputs, outputs, pool=number == 1))
        self.tfa = TemporalFeatureAggregator(PARTS, channels[-1])
        self.embedding = part_matrix(PARTS, channels[-1], embedding_dim)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Output:
        """Embed sequences.

        Args:
            silhouettes: float (B, T, H, W) in [0, 1]; H is a multiple of 64, W of 4.
            lengths: int (B,), valid frames of each sequence; None: all T.

        Returns:
            embeddings (B, 16, D), at least float32, the topmost part first.
        """
        rows = math.lcm(64, *(4 * n for n in self.strips))
        x = valid_frames(silhouettes, lengths, rows).images
        for block, strips in zip(self.blocks, self.strips, strict=True):
            x = _joined(block(_cut(x, strips)), strips)
        mask = None if lengths is None else valid_mask(silhouettes, lengths)
        f = parts_in_time(pool_strips(x, PARTS), len(silhouettes), mask)  # (P, B, T, C)
        return Output(map_parts(self.tfa(f, mask), self.embedding).transpose(0, 1), None)

    @staticmethod
    def arguments_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read the arguments off the shapes of a state dict; the strips are those of as many blocks."""
        blocks = {key.split(".")[1] for key in weights if key.startswith("blocks.")}
        channels = [len(weights[f"blocks.{i}.0.weight"]) for i in range(max(len(blocks), min(STRIPS)))]
        return {
            "channels": channels,
            "strips": STRIPS[len(channels)],
            "embedding_dim": weights["embedding"].shape[2],
        }


class TemporalFeatureAggregator(nn.Module):
    """TFA (Section 3.3) of all parts: the largest sum of both branches over time.

    Input f (P, B, T, C), zero where the bool `mask` (B, T) is False, output (P, B, C).
    """

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()
        self.micro3 = MicroMotion(parts, channels, window=3, last_kernel=1)
        self.micro5 = MicroMotion(parts, channels, window=5, last_kernel=3)

    def forward(self, f: Tensor, mask: Tensor | None) -> Tensor:
        total = self.micro3(f, mask) + self.micro5(f, mask)
        if mask is not None:
            total = total.masked_fill(~mask[None, :, :, None], -torch.inf)
        return total.max(dim=2).values


class MicroMotion(nn.Module):
    """Micro-motion capture (MCM) of all parts: templates of so many frames, each weighed by its attention.

    Input f (P, B, T, C), zero where the bool `mask` (B, T) is False, output (P, B, T, C).
    """

    def __init__(self, parts: int, channels: int, window: int, last_kernel: int) -> None:
        super().__init__()
        self.window = window
        self.conv1 = PartConv(parts, channels, channels // 4, kernel=3)
        self.conv2 = PartConv(parts, channels // 4, channels, kernel=last_kernel)
        for conv in (self.conv1, self.conv2):
            for weight in conv.weight.data.chunk(parts):  # each by its own fans
                nn.init.xavier_uniform_(weight)

    def forward(self, f: Tensor, mask: Tensor | None) -> Tensor:
        hidden = F.leaky_relu(self.conv1(f))
        if mask is not None:
            hidden = hidden * mask[None, :, :, None]  # zero beyond a sequence's end, as at its ends
        return self.conv2(hidden).sigmoid() * self.template(f, mask)

    def template(self, f: Tensor, mask: Tensor | None) -> Tensor:
        """Add mean and maximum of the windows around each frame of f (P, B, T, C).

        What lies outside the sequence is zero to the mean, and does not count for the maximum.
        """
        size, padding = (self.window, 1), (self.window // 2, 0)
        x = f.flatten(0, 1).transpose(1, 2)[..., None]  # (P·B, C, T, 1)
        mean = F.avg_pool2d(x, size, stride=1, padding=padding)
        if mask is None:
            largest = F.max_pool2d(x, size, stride=1, padding=padding)
        else:
            outside = ~mask.repeat(len(f), 1)[:, None, :, None]  # (P·B, 1, T, 1)
            largest = F.max_pool2d(x.masked_fill(outside, -torch.inf), size, stride=1, padding=padding)
            largest = largest.masked_fill(outside, 0)  # else a gradient of zero would become NaN
        return (mean + largest)[..., 0].transpose(1, 2).unflatten(0, f.shape[:2])


def _cut(x: Tensor, strips: int) -> Tensor:
    """Cut maps (n, C, H, W) into equal horizontal strips, each a map: (n · strips, C, H / strips, W)."""
    return x.permute(0, 2, 3, 1).unflatten(1, (strips, -1)).flatten(0, 1).permute(0, 3, 1, 2)


def _joined(x: Tensor, strips: int) -> Tensor:
    """Undo `_cut`."""
    return x.permute(0, 2, 3, 1).unflatten(0, (-1, strips)).flatten(1, 2).permute(0, 3, 1, 2)


_BRANCHES = {"tfa.micro3": "conv1d3x1", "tfa.micro5": "conv1d3x3"}
_PLACES = ("0", "2", "5", "7", "10", "12", "14", "16")  # of the convolutions, among pools and LReLUs


def _read(weights: StateDict) -> StateDict:
    for branch in _BRANCHES:
        weights = stacked(weights, branch)
    return weights


def _write(weights: StateDict) -> StateDict:
    for branch in _BRANCHES:
        weights = unstacked(weights, branch, PARTS)
    return weights


GaitPart.forms = {
    "opengait": Form(
        OPENGAIT,
        {
            **{
                f"blocks.{i // 2}.{i % 2 * 2}": f"Backbone.forward_block.feature.{place}.conv"
                for i, place in enumerate(_PLACES)
            },
            **{
                f"{branch}.{{}}.conv{i + 1}": f"TFA.pooling_func.{theirs}.{{}}.{2 * i}.conv"
                for branch, theirs in _BRANCHES.items()
                for i in (0, 1)
            },
            "embedding": "Head.fc_bin",
        },
        _read,
        _write,
    )
}
