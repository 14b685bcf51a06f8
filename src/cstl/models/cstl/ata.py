"""Adaptive temporal aggregation (ATA, Section 3.3): the scales become one vector a part."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.layers.gradients import weighted_mean
from cstl.models.layers.parts import PartConv


class AdaptiveTemporalAggregation(nn.Module):
    """Weigh every scale, frame and channel by an importance; the S scales are first summed cumulatively."""

    def __init__(self, parts: int, channels: int, reduction: int, scales: int = 3) -> None:
        super().__init__()
        self.width = channels  # of what forward gives
        self.in_conv = PartConv(parts, scales * channels, scales * channels // reduction)
        self.out_conv = PartConv(parts, scales * channels // reduction, scales * channels)

    def forward(self, t: Sequence[Tensor], mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Aggregate t, S × (P, B, T, C) → (P, B, C), at least float32; importances (P, B, T, S, C)."""
        u = cumulative(t)  # (P, B, T, S, C)
        A = self.out_conv(F.leaky_relu(self.in_conv(u.flatten(3)))).sigmoid()  # (P, B, T, S·C)
        if mask is not None:
            A = A * mask[None, :, :, None]
        A = A.unflatten(3, u.shape[3:])
        aggregated = weighted_mean(u, A, dim=(2, 3))[:, :, 0, 0]  # both sums before the division
        return F.leaky_relu(aggregated), A


def cumulative(t: Sequence[Tensor]) -> Tensor:
    """Sum the scales, u_f = t_f, u_s = t_s + u_f, u_l = t_l + u_s: S × (P, B, T, C) → (P, B, T, S, C)."""
    return torch.stack(list(accumulate(t)), dim=3)
