"""Salient spatial feature learning (SSFL, Section 3.4): each part's most telling moment."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.batch_norm import PartBatchNorm
from cstl.models.mste import SCALES, TemporalScales
from cstl.models.parts import PartConv, at_least_float32, weighted_mean

SSFL = {  # what of SSFL goes into the embedding
    "both": ("weighted", "selected"),
    "weighted": ("weighted",),
    "selected": ("selected",),
    "none": (),
}


class Salient(NamedTuple):
    """What SSFL finds: vectors of each part, its class logits, and the scores they were chosen by."""

    weighted: Tensor  # (P, N, C)
    selected: Tensor  # (P, N, C)
    logits: Tensor  # (P, N, K)
    scores: Tensor  # (P, N, T), in (0, 1)


class SalientSpatialFeatureLearning(nn.Module):
    """Scores every frame of every part; a weighted mean, supervised by the class, trains the scores.

    The frames selected are recombined into one spatial feature: part p comes from the frame in which p scores best.
    It selects among frames, so it sees the frame level also where that is not one of the `scales`.
    """

    def __init__(
        self, parts: int, channels: int, num_classes: int, reduction: int, scales: Sequence[str] = SCALES
    ) -> None:
        super().__init__()
        width = len({"frame", *scales}) * channels
        self.score_in = PartConv(parts, width, width // reduction)
        self.score_norm = PartBatchNorm(parts, width // reduction)
        self.score_out = PartConv(parts, width // reduction, 1)
        self.decay = PartConv(parts, width, channels)
        self.class_norm = PartBatchNorm(parts, channels)
        self.class_weight = _class_matrix(channels, num_classes)

    def forward(self, t: TemporalScales, mask: Tensor | None) -> Salient:  # noqa: D102
        scales = [at_least_float32(scale) for scale in t if scale is not None]  # themselves, not their sums
        with torch.autocast(t.frame.device.type, enabled=False):  # in bf16 one arg-max in 25 is another frame
            scores = self._scores(scales, mask)  # (P, N, T)

            s = scores if mask is None else scores * mask  # (P, N, T)
            # The mean over time before the linear map d instead of after it: the same, and a T-th of the work.
            means = [scale if scale.shape[2] == 1 else weighted_mean(scale, s[..., None], (2,)) for scale in scales]
            weighted = self.decay(*means).squeeze(2)  # Σ d·s / Σ s, (P, N, C)

        best = s.argmax(dim=2)[..., None, None].expand(-1, -1, -1, t.frame.shape[-1])  # (P, N, 1, C)
        selected = t.frame.gather(2, best).squeeze(2)
        return Salient(weighted, selected, _logits(weighted, self.class_norm, self.class_weight), scores)

    def _scores(self, scales: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        hidden = F.leaky_relu(self.score_norm(self.score_in(*scales), mask))
        return self.score_out(hidden).sigmoid().squeeze(-1)


class ClassHead(nn.Module):
    """Without SSFL: the batch norm and the class matrix that SSFL trains with, for the aggregated feature."""

    def __init__(self, parts: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.class_norm = PartBatchNorm(parts, width)
        self.class_weight = _class_matrix(width, num_classes)

    def forward(self, aggregated: Tensor) -> Tensor:
        """(P, N, width) → logits (P, N, K)."""
        return _logits(aggregated, self.class_norm, self.class_weight)


def _class_matrix(width: int, num_classes: int) -> nn.Parameter:
    weight = nn.Parameter(torch.empty(1, width, num_classes))  # one for all parts
    nn.init.xavier_uniform_(weight)
    return weight


def _logits(features: Tensor, norm: PartBatchNorm, weight: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return norm(features[:, :, None]).squeeze(2) @ weight
