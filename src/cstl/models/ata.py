"""Adaptive temporal aggregation (ATA, Section 3.3): the scales weigh each other and become one vector a part."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.mste import SCALES, TemporalScales
from cstl.models.parts import PartConv, at_least_float32, weighted_mean

AGGREGATIONS = ("ata", "mean", "max", "concatenation")


class AdaptiveTemporalAggregation(nn.Module):
    """An importance for every scale, frame and channel; the S scales are first summed cumulatively."""

    def __init__(self, parts: int, channels: int, reduction: int, scales: Sequence[str] = SCALES) -> None:
        super().__init__()
        self.scales, width = scales, len(scales) * channels
        self.in_conv = PartConv(parts, width, width // reduction)
        self.out_conv = PartConv(parts, width // reduction, width)

    def forward(self, t: TemporalScales, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """→ aggregated (P, N, C), at least float32, and the importances A (P, N, T, S, C)."""
        u = torch.stack(_cumulative(t, self.scales), dim=3)  # (P, N, T, S, C)
        A = self.out_conv(F.leaky_relu(self.in_conv(u.flatten(3)))).sigmoid()  # (P, N, T, S·C)
        if mask is not None:
            A = A * mask[None, :, :, None]
        A = A.unflatten(3, u.shape[3:])
        aggregated = weighted_mean(u, A, dim=(2, 3))[:, :, 0, 0]  # both sums before the division
        return F.leaky_relu(aggregated), A


class PlainAggregation(nn.Module):
    """What ATA is compared with: the same cumulative sums and leaky ReLU, but no importances in between.

    - mean: over the scales and the frames, which is ATA's formula with all importances equal.
    - max: over the scales and the frames.
    - concatenation: every scale's mean over the frames, one after the other, (P, N, S·C).
    """

    def __init__(self, how: str, scales: Sequence[str] = SCALES) -> None:
        super().__init__()
        self.how, self.scales = how, scales

    def forward(self, t: TemporalScales, mask: Tensor | None) -> tuple[Tensor, None]:
        """→ aggregated (P, N, C), for concatenation (P, N, S·C), at least float32, and no importances."""
        u = at_least_float32(torch.stack(_cumulative(t, self.scales), dim=3))  # (P, N, T, S, C)
        if mask is None:
            mask = u.new_ones(u.shape[1:3], dtype=torch.bool)
        outside = ~mask[None, :, :, None, None]
        if self.how == "max":
            return F.leaky_relu(u.masked_fill(outside, -torch.inf).amax(dim=(2, 3))), None
        means = u.masked_fill(outside, 0).sum(dim=2) / mask.sum(dim=1)[:, None, None]  # (P, N, S, C)
        return F.leaky_relu(means.mean(dim=2) if self.how == "mean" else means.flatten(2)), None


def _cumulative(t: TemporalScales, scales: Sequence[str]) -> list[Tensor]:
    """The scales summed cumulatively: u_f = t_f, u_s = t_s + u_f, u_l = t_l + u_s."""
    return list(accumulate(getattr(t, scale) for scale in scales))
