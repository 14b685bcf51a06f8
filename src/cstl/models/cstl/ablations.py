"""CSTL with parts of it changed or left out, as the paper's ablations have it, and what ATA is compared with.

A new aggregation is one class here, entered in `AGGREGATIONS`, and one file in `conf/ablation`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.cstl.ata import AdaptiveTemporalAggregation, cumulative
from cstl.models.cstl.mste import MultiScaleTemporalExtraction, TemporalScales
from cstl.models.cstl.network import CSTL, Attention, attention_of
from cstl.models.cstl.ssfl import SalientSpatialFeatureLearning, class_logits, class_matrix
from cstl.models.layers.batch_norm import PartBatchNorm
from cstl.models.layers.parts import at_least_float32
from cstl.models.published import Form

SCALES = TemporalScales._fields  # frame, short, long
SSFL = {  # what of SSFL goes into the embedding
    "both": ("weighted", "selected"),
    "weighted": ("weighted",),
    "selected": ("selected",),
    "none": (),
}


class MeanAggregation(nn.Module):
    """Average the cumulative sums over scales and frames: ATA's formula with all importances equal."""

    def __init__(self, parts: int, channels: int, reduction: int, scales: int) -> None:
        super().__init__()
        self.width = channels

    def forward(self, t: Sequence[Tensor], mask: Tensor | None) -> tuple[Tensor, None]:
        """Aggregate t, S × (P, B, T, C) → (P, B, width), at least float32, and no importances."""
        return F.leaky_relu(_means(t, mask).mean(dim=2)), None


class MaxAggregation(MeanAggregation):
    """Take the maximum of the cumulative sums over scales and frames."""

    def forward(self, t: Sequence[Tensor], mask: Tensor | None) -> tuple[Tensor, None]:
        u = at_least_float32(cumulative(t))  # (P, B, T, S, C)
        if mask is not None:
            u = u.masked_fill(~mask[None, :, :, None, None], -float("inf"))
        return F.leaky_relu(u.amax(dim=(2, 3))), None


class ConcatenatedAggregation(MeanAggregation):
    """Average each scale's cumulative sum over the frames, one scale after the other."""

    def __init__(self, parts: int, channels: int, reduction: int, scales: int) -> None:
        super().__init__(parts, channels, reduction, scales)
        self.width = scales * channels

    def forward(self, t: Sequence[Tensor], mask: Tensor | None) -> tuple[Tensor, None]:
        return F.leaky_relu(_means(t, mask).flatten(2)), None


AGGREGATIONS: dict[str, Callable[..., Any]] = {
    "ata": AdaptiveTemporalAggregation,
    "mean": MeanAggregation,
    "max": MaxAggregation,
    "concatenation": ConcatenatedAggregation,
}


class AblatedMSTE(MultiScaleTemporalExtraction):
    """Extract some of the temporal scales; the modules of the others are not made."""

    def __init__(self, parts: int, channels: int, reduction: int, scales: Sequence[str]) -> None:
        super().__init__(parts, channels, reduction)
        self.scales = tuple(scales)
        for name, _ in list(self.named_children()):
            if name.split("_")[0] not in scales:
                delattr(self, name)

    def forward(self, f: Tensor, mask: Tensor | None) -> dict[str, Tensor]:  # type: ignore[override]
        """Give the scale of each name in `scales`, as `TemporalScales` has them."""
        make = {"frame": lambda f, mask: f, "short": self.short_term, "long": self.long_term}
        return {scale: make[scale](f, mask) for scale in self.scales}


class ClassHead(nn.Module):
    """Classify the aggregated feature, where there is no SSFL, through its batch norm and class matrix."""

    def __init__(self, parts: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.class_norm = PartBatchNorm(parts, width)
        self.class_weight = class_matrix(width, num_classes)

    def forward(self, aggregated: Tensor) -> Tensor:
        """Return the logits (P, B, K) of aggregated features (P, B, width)."""
        return class_logits(aggregated, self.class_norm, self.class_weight)


class AblatedCSTL(CSTL):
    """Embed silhouettes by CSTL with something changed; the defaults are the paper's network.

    Args:
        height, num_classes, channels, embedding_dim, reduction, batch_norm, ghosts: those of `CSTL`.
        scales: which of frame, short and long MSTE makes and ATA aggregates. SSFL reads the same, and the
            frame level in any case, since it selects among frames.
        aggregation: a name in `AGGREGATIONS`. The long-term scale alone is the same in every frame, so that
            ATA's importances would cancel: mean stands for it.
        ssfl: both, weighted or selected: what of SSFL goes into the embedding. Its weighted feature trains
            with the classes in each case, since nothing else trains its scores. none: no SSFL; the classes
            then train the aggregated feature, through the same batch norm and class matrix.
        parts: P, by default height / 2; it divides height / 2, and a part is then a strip of rows.

    Raises:
        ValueError: an argument that is not one of these.
    """

    def __init__(
        self,
        height: int = 64,
        num_classes: int = 73,
        channels: Sequence[int] = (32, 64, 128),
        embedding_dim: int = 256,
        reduction: int = 16,
        batch_norm: str = "replica",
        ghosts: int = 2,
        *,
        scales: Collection[str] = SCALES,
        aggregation: str = "ata",
        ssfl: str = "both",
        parts: int | None = None,
    ) -> None:
        if isinstance(scales, str) or not scales or not set(scales) <= set(SCALES):
            raise ValueError(
                f"scales is {scales!r}; choose one or more of them in brackets, [{','.join(SCALES)}]"
            )
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation is {aggregation!r}; choose one of {', '.join(AGGREGATIONS)}")
        if ssfl not in SSFL:
            raise ValueError(f"ssfl is {ssfl!r}; choose one of {', '.join(SSFL)}")
        self.scales = tuple(scale for scale in SCALES if scale in scales)
        self.ablation = (aggregation, SSFL[ssfl], parts)
        super().__init__(height, num_classes, channels, embedding_dim, reduction, batch_norm, ghosts)

    forms: ClassVar[Mapping[str, Form]] = {}  # nobody publishes their weights

    def part_count(self) -> int:
        """Count the parts that were asked for."""
        rows, parts = super().part_count(), self.ablation[2]
        if parts is not None and (parts < 1 or rows % parts):
            choices = [str(n) for n in range(1, rows + 1) if rows % n == 0]
            raise ValueError(
                f"parts={parts} does not divide the {rows} rows of the map; choose one of "
                f"{', '.join(choices)}"
            )
        return parts or rows

    def add_temporal_modules(self, channels: int, reduction: int) -> int:
        """Make the modules that are left → the width of the features that are embedded."""
        scales, (aggregation, salient, _) = self.scales, self.ablation
        self.mste = AblatedMSTE(self.parts, channels, reduction, scales)
        if scales == ("long",) and aggregation == "ata":
            aggregation = "mean"
        self.ata = AGGREGATIONS[aggregation](self.parts, channels, reduction, len(scales))
        self.ssfl: Any
        if salient:
            read = len({"frame", *scales})
            self.ssfl = SalientSpatialFeatureLearning(self.parts, channels, self.num_classes, reduction, read)
        else:
            self.ssfl = ClassHead(self.parts, self.ata.width, self.num_classes)
        return self.ata.width + len(salient) * channels

    def look(self, f: Tensor, mask: Tensor | None) -> tuple[list[Tensor], Tensor, Attention]:
        """Run the modules that are left."""
        t = self.mste(f, mask)
        aggregated, importance = self.ata(list(t.values()), mask)
        if isinstance(self.ssfl, ClassHead):
            return [aggregated], self.ssfl(aggregated), attention_of(importance, None)
        salient = self.ssfl(list(({"frame": f} | t).values()), mask)
        features = [aggregated, *(at_least_float32(getattr(salient, name)) for name in self.ablation[1])]
        return features, salient.logits, attention_of(importance, salient.scores)


def _means(t: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """Average the cumulative sums over the frames, (P, B, S, C)."""
    u = at_least_float32(cumulative(t))  # (P, B, T, S, C)
    if mask is None:
        return u.mean(dim=2)
    return u.masked_fill(~mask[None, :, :, None, None], 0).sum(dim=2) / mask.sum(dim=1)[:, None, None]
