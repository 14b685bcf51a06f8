"""Multi-scale temporal extraction (MSTE, Section 3.2): frame level, short term, long term."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.layers.batch_norm import PartBatchNorm
from cstl.models.layers.gradients import weighted_mean
from cstl.models.layers.parts import PartConv


class TemporalScales(NamedTuple):
    """The temporal scales, (P, B, T, C); the long term, the same in all frames, is (P, B, 1, C)."""

    frame: Tensor
    short: Tensor
    long: Tensor


class MultiScaleTemporalExtraction(nn.Module):
    """Keep the frame-level features; add short-term ones over 3 and 5 frames, long-term over all."""

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
        """Extract all scales of f (P, B, T, C), which is zero where the bool `mask` (B, T) is False."""
        return TemporalScales(f, self.short_term(f, mask), self.long_term(f, mask))

    def short_term(self, f: Tensor, mask: Tensor | None) -> Tensor:
        """Look at 3 and at 5 frames: f → t_s, both (P, B, T, C)."""
        a = self.short_norm1(self.short_conv1(f), mask)  # a = BN(conv(f)): 3 frames
        if mask is not None:
            a = a * mask[None, :, :, None]  # what lies beyond a sequence's end is zero, as at its ends
        return a + self.short_norm2(self.short_conv2(a), mask)  # 5 frames

    def long_term(self, f: Tensor, mask: Tensor | None) -> Tensor:
        """Weigh all frames: f (P, B, T, C) → t_l (P, B, 1, C)."""
        w = self.long_out(F.leaky_relu(self.long_norm(self.long_in(f), mask))).sigmoid()
        if mask is not None:
            w = w * mask[None, :, :, None]
        return weighted_mean(f, w, dim=(2,)).to(f.dtype)
