"""CSTL: context-sensitive temporal feature learning for gait recognition (Huang et al., ICCV 2021)."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cstl.models.ata import AGGREGATIONS, AdaptiveTemporalAggregation, PlainAggregation
from cstl.models.batch_norm import set_batch_norm
from cstl.models.encoder import Encoder
from cstl.models.mste import SCALES, MultiScaleTemporalExtraction
from cstl.models.parts import at_least_float32
from cstl.models.ssfl import SSFL, ClassHead, SalientSpatialFeatureLearning


class CSTLOutput(NamedTuple):
    """What the network says of N sequences: `embeddings` (N, P, D) to compare, `logits` (N, P, K) to train with."""

    embeddings: Tensor
    logits: Tensor


class Attention(NamedTuple):
    """Where the network looks, in (0, 1): ATA's importance of each scale and SSFL's score of each frame.

    None where an ablation has no ATA or no SSFL.
    """

    scales: Tensor | None  # (N, T, P, S, C), S the scales in use: frame level, short term, long term
    frames: Tensor | None  # (N, T, P)


class CSTL(nn.Module):
    """The network: encoder, MSTE, ATA and SSFL; P parts, each with temporal weights of its own.

    Args:
        height: rows of a silhouette, a multiple of 2 (64 for 64×44, 128 for 128×88); the width is free.
        num_classes: training subjects K.
        channels: widths of the encoder; the last is the C of the paper.
        embedding_dim: values D of an embedding a part.
        reduction: how much narrower the hidden layers of the scores are; it divides C.
        batch_norm, ghosts: replica, synchronised or ghost: over which sequences training takes batch statistics, see
            `PartBatchNorm`. Weights and evaluation do not depend on it.
        scales: which of frame, short and long MSTE makes and ATA aggregates. SSFL reads the same, and the frame level
            in any case. This argument and those below are for ablations: their defaults are the paper's network.
        aggregation: ata; or what it is compared with, mean, max or concatenation, see `PlainAggregation`. The long-term
            scale alone is the same in every frame, so that ATA's importances would cancel: mean stands for it.
        ssfl: both, weighted or selected: what of SSFL goes into the embedding. Its weighted feature trains with the
            classes in each case, since nothing else trains its scores. none: no SSFL; the classes then train the
            aggregated feature, through the same batch norm and class matrix.
        parts: P, by default height / 2, one for each row of the encoder's map; it divides height / 2, and a part is
            then a strip of rows.

    Raises:
        ValueError: an argument that is not one of these.

    Example:
        >>> net = CSTL(height=64, num_classes=10, channels=(4, 8, 16), embedding_dim=8).eval()
        >>> out = net(torch.rand(2, 5, 64, 44), lengths=torch.tensor([5, 3]))
        >>> out.embeddings.shape, out.logits.shape
        (torch.Size([2, 32, 8]), torch.Size([2, 32, 10]))
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
        super().__init__()
        first, second, last = channels
        if height < 2 or height % 2:
            raise ValueError(f"height must be a positive multiple of 2 (two rows make a part), found {height}")
        if last % reduction:
            raise ValueError(f"reduction={reduction} does not divide the last of channels, {last}")
        _check_ablation(height // 2, scales, aggregation, ssfl, parts)
        self.height, self.num_classes, self.embedding_dim = height, num_classes, embedding_dim
        self.parts = parts = parts or height // 2
        scales = tuple(scale for scale in SCALES if scale in scales)
        self.encoder = Encoder((first, second, last), parts)
        self.mste = MultiScaleTemporalExtraction(parts, last, reduction, scales)
        self.ata: AdaptiveTemporalAggregation | PlainAggregation
        if aggregation == "ata" and scales != ("long",):
            self.ata = AdaptiveTemporalAggregation(parts, last, reduction, scales)
        else:
            self.ata = PlainAggregation("mean" if aggregation == "ata" else aggregation, scales)
        width = last * (len(scales) if aggregation == "concatenation" else 1)
        self.ssfl: SalientSpatialFeatureLearning | ClassHead
        if ssfl == "none":
            self.ssfl = ClassHead(parts, width, num_classes)
        else:
            self.ssfl = SalientSpatialFeatureLearning(parts, last, num_classes, reduction, scales)
        self.salient = SSFL[ssfl]
        self.embedding = nn.Parameter(torch.empty(parts, width + len(self.salient) * last, embedding_dim))
        nn.init.xavier_uniform_(self.embedding)
        set_batch_norm(self, batch_norm, ghosts)

    def forward(self, silhouettes: Tensor, lengths: Tensor | None = None) -> CSTLOutput:
        """Embeds sequences of silhouettes.

        Args:
            silhouettes: float (N, T, H, W) in [0, 1].
            lengths: int (N,), valid frames of each sequence, 1 … T; what follows them is not looked at, so that
                sequences of different length give the same result in one batch as one at a time. None: all T.

        Returns:
            embeddings (N, P, D) and logits (N, P, K), at least float32 also under autocast.
        """
        return self._run(silhouettes, lengths)[0]

    def attention(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Attention:
        """ATA's and SSFL's scores of the same input, for pictures; zero for ATA beyond a sequence's length."""
        return self._run(silhouettes, lengths)[1]

    def _run(self, silhouettes: Tensor, lengths: Tensor | None) -> tuple[CSTLOutput, Attention]:
        if silhouettes.ndim != 4 or silhouettes.shape[2] != self.height or not silhouettes.is_floating_point():
            raise ValueError(
                f"silhouettes must be float (N, T, {self.height}, W) for this network, found "
                f"{silhouettes.dtype} {tuple(silhouettes.shape)}; choose height= or prepare the data at that size"
            )
        f, mask = self._parts(silhouettes, lengths)  # (P, N, T, C), (N, T)
        t = self.mste(f, mask)
        aggregated, importance = self.ata(t, mask)
        if isinstance(self.ssfl, ClassHead):
            features, logits, scores = [aggregated], self.ssfl(aggregated), None
        else:
            salient = self.ssfl(t, mask)
            features = [aggregated, *(at_least_float32(getattr(salient, feature)) for feature in self.salient)]
            logits, scores = salient.logits, salient.scores

        with torch.autocast(aggregated.device.type, enabled=False):
            embeddings = torch.bmm(torch.cat(features, dim=-1), self.embedding)  # (P, N, D)
        output = CSTLOutput(embeddings.transpose(0, 1), logits.transpose(0, 1))
        return output, Attention(
            at_least_float32(importance.permute(1, 2, 0, 3, 4)) if importance is not None else None,
            scores.permute(1, 2, 0) if scores is not None else None,
        )

    def _parts(self, silhouettes: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Encodes every valid frame → f (P, N, T, C), and the mask of valid frames (N, T) where there are others."""
        batch, time = silhouettes.shape[:2]
        if lengths is None:
            f = self.encoder(silhouettes.flatten(0, 1)).unflatten(0, (batch, time))  # (N, T, P, C)
            return f.permute(2, 0, 1, 3).contiguous(), None
        if lengths.shape != (batch,) or int(lengths.min()) < 1 or int(lengths.max()) > time:
            raise ValueError(f"lengths must be int ({batch},) with values from 1 to {time}, found {lengths.tolist()}")
        mask = torch.arange(time, device=silhouettes.device) < lengths[:, None].to(silhouettes.device)  # (N, T)
        valid = self.encoder(silhouettes[mask])  # padding is never encoded
        f = valid.new_zeros(batch, time, *valid.shape[1:]).masked_scatter(mask[:, :, None, None], valid)
        return f.permute(2, 0, 1, 3).contiguous(), mask


def _check_ablation(rows: int, scales: Collection[str], aggregation: str, ssfl: str, parts: int | None) -> None:
    if isinstance(scales, str) or not scales or not set(scales) <= set(SCALES):
        raise ValueError(f"scales is {scales!r}; choose one or more of them in brackets, [{','.join(SCALES)}]")
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation is {aggregation!r}; choose one of {', '.join(AGGREGATIONS)}")
    if ssfl not in SSFL:
        raise ValueError(f"ssfl is {ssfl!r}; choose one of {', '.join(SSFL)}")
    if parts is not None and (parts < 1 or rows % parts):
        choices = [str(n) for n in range(1, rows + 1) if rows % n == 0]
        raise ValueError(
            f"parts={parts} does not divide the {rows} rows of the map; choose one of {', '.join(choices)}"
        )
