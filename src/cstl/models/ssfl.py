"""Salient spatial feature learning (SSFL, Section 3.4): each part's most telling moment."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.mste import TemporalScales
from cstl.models.parts import PartBatchNorm, PartConv, at_least_float32


class Salient(NamedTuple):
    """What SSFL finds: vectors of each part, its class logits, and the scores they were chosen by."""

    weighted: Tensor  # (P, N, C)
    selected: Tensor  # (P, N, C)
    logits: Tensor  # (P, N, K)
    scores: Tensor  # (P, N, T), in (0, 1)


class SalientSpatialFeatureLearning(nn.Module):
    """Scores every frame of every part; a weighted mean, supervised by the class, trains the scores.

    The frames selected are recombined into one spatial feature: part p comes from the frame in which p scores best.
    """

    def __init__(self, parts: int, channels: int, num_classes: int, reduction: int) -> None:
        super().__init__()
        self.score_in = PartConv(parts, 3 * channels, 3 * channels // reduction)
        self.score_norm = PartBatchNorm(parts, 3 * channels // reduction)
        self.score_out = PartConv(parts, 3 * channels // reduction, 1)
        self.decay = PartConv(parts, 3 * channels, channels)
        self.class_norm = PartBatchNorm(parts, channels)
        self.class_weight = nn.Parameter(torch.empty(1, channels, num_classes))  # one for all parts
        nn.init.xavier_uniform_(self.class_weight)

    def forward(self, t: TemporalScales, mask: Tensor | None) -> Salient:  # noqa: D102
        stacked = torch.cat(t, dim=-1)  # the scales themselves, (P, N, T, 3C)
        with torch.autocast(stacked.device.type, enabled=False):  # in bf16 one arg-max in 25 is another frame
            scores = self._scores(at_least_float32(stacked), mask)  # (P, N, T)

        s = scores if mask is None else scores * mask  # (P, N, T)
        d = self.decay(stacked)
        weighted = (d * s[..., None]).sum(dim=2) / s.sum(dim=2)[..., None]  # (P, N, C)

        best = s.argmax(dim=2)[..., None, None].expand(-1, -1, -1, t.frame.shape[-1])  # (P, N, 1, C)
        selected = t.frame.gather(2, best).squeeze(2)

        with torch.autocast(stacked.device.type, enabled=False):
            logits = self.class_norm(weighted[:, :, None]).squeeze(2) @ self.class_weight
        return Salient(weighted, selected, logits, scores)

    def _scores(self, stacked: Tensor, mask: Tensor | None) -> Tensor:
        hidden = F.leaky_relu(self.score_norm(self.score_in(stacked), mask))
        return self.score_out(hidden).sigmoid().squeeze(-1)
