"""Multi-scale temporal extraction (MSTE, Section 3.2): frame-level, short-term and long-term features of each part."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.parts import PartBatchNorm, PartConv, at_least_float32


class TemporalScales(NamedTuple):
    """The three temporal scales of a sequence, (P, N, T, C) each."""

    frame: Tensor
    short: Tensor
    long: Tensor


class MultiScaleTemporalExtraction(nn.Module):
    """Frame-level features as they are, short-term over 3 and 5 frames, long-term over the whole sequence."""

    def __init__(self, parts: int, channels: int, reduction: int) -> None:
        super().__init__()
        self.short_conv1 = PartConv(parts, channels, channels, kernel=3)
        self.short_norm1 = PartBatchNorm(parts, channels)
        self.short_conv2 = PartConv(parts, channels, channels, kernel=3)
        self.short_norm2 = PartBatchNorm(parts, channels)
        self.long_in = PartConv(parts, channels, channels // reduction)
        self.long_norm = PartBatchNorm(parts, channels // reduction)
        self.long_out = PartConv(parts, channels // reduction, channels)

    def forward(self, f: Tensor, mask: Tensor | None) -> TemporalScales:
        """`f` (P, N, T, C), zero where the bool `mask` (N, T) is False."""
        valid = None if mask is None else mask[None, :, :, None]

        a = self.short_norm1(self.short_conv1(f), mask)  # a = BN(conv(f)): 3 frames
        if valid is not None:
            a = a * valid  # what lies beyond a sequence's end is zero, as at its ends
        t_s = a + self.short_norm2(self.short_conv2(a), mask)  # 5 frames

        w = at_least_float32(self.long_out(F.leaky_relu(self.long_norm(self.long_in(f), mask))).sigmoid())
        if valid is not None:
            w = w * valid
        t_l = (w * f).sum(dim=2, keepdim=True) / w.sum(dim=2, keepdim=True)  # (P, N, 1, C)
        return TemporalScales(f, t_s, t_l.to(f.dtype).expand_as(f))
