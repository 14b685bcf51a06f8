"""Salient spatial feature learning (SSFL, Section 3.4): each part's most telling moment."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.layers.batch_norm import PartBatchNorm
from cstl.models.layers.gradients import weighted_mean
from cstl.models.layers.parts import PartConv, at_least_float32


class Salient(NamedTuple):
    """SSFL's output: vectors of each part, its class logits, and the scores they were chosen by."""

    weighted: Tensor  # (P, B, C)
    selected: Tensor  # (P, B, C)
    logits: Tensor  # (P, B, K)
    scores: Tensor  # (P, B, T), in (0, 1)


class SalientSpatialFeatureLearning(nn.Module):
    """Score every frame of every part; a weighted mean, supervised by the class, trains the scores.

    The frames selected are recombined into one spatial feature: part p comes from the frame in which p scores
    best.
    """

    def __init__(self, parts: int, channels: int, num_classes: int, reduction: int, scales: int = 3) -> None:
        super().__init__()
        width = scales * channels
        self.score_in = PartConv(parts, width, width // reduction)
        self.score_norm = PartBatchNorm(parts, width // reduction)
        self.score_out = PartConv(parts, width // reduction, 1)
        self.decay = PartConv(parts, width, channels)
        self.class_norm = PartBatchNorm(parts, channels)
        self.class_weight = class_matrix(channels, num_classes)

    def forward(self, t: Sequence[Tensor], mask: Tensor | None) -> Salient:
        """Score the scales t themselves, not their sums; frames are selected of the first, frame level."""
        f, scales = t[0], [at_least_float32(scale) for scale in t]
        with torch.autocast(f.device.type, enabled=False):  # in bf16 one arg-max in 25 is another frame
            hidden = F.leaky_relu(self.score_norm(self.score_in(*scales), mask))
            scores = self.score_out(hidden).sigmoid().squeeze(-1)  # (P, B, T)

            s = scores if mask is None else scores * mask  # (P, B, T)
            # The mean over time before the linear map d instead of after it: the same, and a T-th of the
            # work.
            means = [
                scale if scale.shape[2] == 1 else weighted_mean(scale, s[..., None], (2,)) for scale in scales
            ]
            weighted = self.decay(*means).squeeze(2)  # Σ d·s / Σ s, (P, B, C)

        best = s.argmax(dim=2)[..., None, None].expand(-1, -1, -1, f.shape[-1])  # (P, B, 1, C)
        selected = f.gather(2, best).squeeze(2)
        return Salient(weighted, selected, class_logits(weighted, self.class_norm, self.class_weight), scores)


def class_matrix(width: int, num_classes: int) -> nn.Parameter:
    """Make the class matrix (1, C, K), one for all parts."""
    weight = nn.Parameter(torch.empty(1, width, num_classes))
    nn.init.xavier_uniform_(weight)
    return weight


def class_logits(features: Tensor, norm: PartBatchNorm, weight: Tensor) -> Tensor:
    """Normalise features (P, B, C) and multiply them with the class matrix → (P, B, K)."""
    with torch.autocast(features.device.type, enabled=False):
        return norm(features[:, :, None]).squeeze(2) @ weight
