"""Multi-scale temporal extraction (MSTE, Section 3.2): frame-level, short-term and long-term features of each part."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.batch_norm import PartBatchNorm
from cstl.models.parts import PartConv, weighted_mean

SCALES = ("frame", "short", "long")


class TemporalScales(NamedTuple):
    """The temporal scales of a sequence, (P, N, T, C); the long term, the same in all frames, is (P, N, 1, C).

    None: not made in this ablation.
    """

    frame: Tensor
    short: Tensor | None
    long: Tensor | None


class MultiScaleTemporalExtraction(nn.Module):
    """Frame-level features as they are, short-term over 3 and 5 frames, long-term over the whole sequence."""

    def __init__(self, parts: int, channels: int, reduction: int, scales: Sequence[str] = SCALES) -> None:
        super().__init__()
        self.scales = scales
        if "short" in scales:
            self.short_conv1 = PartConv(parts, channels, channels, kernel=3)
            self.short_norm1 = PartBatchNorm(parts, channels)
            self.short_conv2 = PartConv(parts, channels, channels, kernel=3)
            self.short_norm2 = PartBatchNorm(parts, channels)
        if "long" in scales:
            self.long_in = PartConv(parts, channels, channels // reduction)
            self.long_norm = PartBatchNorm(parts, channels // reduction)
            self.long_out = PartConv(parts, channels // reduction, channels)

    def forward(self, f: Tensor, mask: Tensor | None) -> TemporalScales:
        """`f` (P, N, T, C), zero where the bool `mask` (N, T) is False."""
        t_s = self._short_term(f, mask) if "short" in self.scales else None
        t_l = self._long_term(f, mask) if "long" in self.scales else None
        return TemporalScales(f, t_s, t_l)

    def _short_term(self, f: Tensor, mask: Tensor | None) -> Tensor:
        a = self.short_norm1(self.short_conv1(f), mask)  # a = BN(conv(f)): 3 frames
        if mask is not None:
            a = a * mask[None, :, :, None]  # what lies beyond a sequence's end is zero, as at its ends
        return a + self.short_norm2(self.short_conv2(a), mask)  # 5 frames

    def _long_term(self, f: Tensor, mask: Tensor | None) -> Tensor:
        w = self.long_out(F.leaky_relu(self.long_norm(self.long_in(f), mask))).sigmoid()
        if mask is not None:
            w = w * mask[None, :, :, None]
        return weighted_mean(f, w, dim=(2,)).to(f.dtype)  # t_l, (P, N, 1, C)
