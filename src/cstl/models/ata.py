"""Adaptive temporal aggregation (ATA, Section 3.3): the scales weigh each other and become one vector a part."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.mste import TemporalScales
from cstl.models.parts import PartConv, at_least_float32


class AdaptiveTemporalAggregation(nn.Module):
    """An importance for every scale, frame and channel; the scales are first summed cumulatively."""

    def __init__(self, parts: int, channels: int, reduction: int) -> None:
        super().__init__()
        self.in_conv = PartConv(parts, 3 * channels, 3 * channels // reduction)
        self.out_conv = PartConv(parts, 3 * channels // reduction, 3 * channels)

    def forward(self, t: TemporalScales, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """→ aggregated (P, N, C) and the importances A (P, N, T, 3, C); at least float32."""
        u_f = t.frame
        u_s = t.short + u_f
        u_l = t.long + u_s
        u = torch.cat([u_f, u_s, u_l], dim=-1)  # (P, N, T, 3C)
        A = at_least_float32(self.out_conv(F.leaky_relu(self.in_conv(u))).sigmoid())
        if mask is not None:
            A = A * mask[None, :, :, None]
        scales = (3, t.frame.shape[-1])
        u, A = u.unflatten(-1, scales), A.unflatten(-1, scales)  # (P, N, T, 3, C)
        aggregated = (A * u).sum(dim=(2, 3)) / A.sum(dim=(2, 3))  # both sums before the division
        return F.leaky_relu(aggregated), A
