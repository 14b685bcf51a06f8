"""CSTL: context-sensitive temporal feature learning for gait recognition (Huang et al., ICCV 2021)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cstl.models import Output
from cstl.models.cstl.ata import AdaptiveTemporalAggregation
from cstl.models.cstl.encoder import Encoder
from cstl.models.cstl.mste import MultiScaleTemporalExtraction, TemporalScales
from cstl.models.cstl.ssfl import SalientSpatialFeatureLearning
from cstl.models.layers.batch_norm import set_batch_norm
from cstl.models.layers.frames import check_silhouettes, parts_in_time, valid_mask
from cstl.models.layers.parts import at_least_float32, map_parts, part_matrix
from cstl.models.published import PublishedNetwork


class Attention(NamedTuple):
    """Where the network looks, in (0, 1): ATA's importance of each scale and SSFL's score of each frame.

    None where an ablation has no ATA or no SSFL.
    """

    scales: Tensor | None  # (B, T, P, S, C), S the scales in use: frame level, short term, long term
    frames: Tensor | None  # (B, T, P)


class CSTL(PublishedNetwork):
    """Embed silhouettes by encoder, MSTE, ATA and SSFL; P parts, each with temporal weights of its own.

    Args:
        height: rows of a silhouette, a multiple of 2 (64 for 64×44, 128 for 128×88); the width is free. Every
            row of the encoder's map is a part, P = height / 2.
        num_classes: training subjects K.
        channels: widths of the encoder; the last is the C of the paper.
        embedding_dim: values D of an embedding a part.
        reduction: how much narrower the hidden layers of the scores are; it divides C.
        batch_norm, ghosts: replica, synchronised or ghost: over which sequences training takes batch
            statistics, see `PartBatchNorm`. Weights and evaluation do not depend on it.

    Raises:
        ValueError: an argument that is not one of these.

    `AblatedCSTL` is the same network with parts of it changed or left out.

    Example:
        >>> net = CSTL(height=64, num_classes=10, channels=(4, 8, 16), embedding_dim=8).eval()
        >>> out = net(torch.rand(2, 5, 64, 44), lengths=torch.tensor([5, 3]))
        >>> out.embeddings.shape, out.logits.shape
        (torch.Size([2, 32, 8]), torch.Size([2, 32, 10]))
    """

    scales: tuple[str, ...] = TemporalScales._fields  # names of the S scales that ATA aggregates

    def __init__(
        self,
        height: int = 64,
        num_classes: int = 73,
        channels: Sequence[int] = (32, 64, 128),
        embedding_dim: int = 256,
        reduction: int = 16,
        batch_norm: str = "replica",
        ghosts: int = 2,
    ) -> None:
        super().__init__()
        self.height, self.num_classes, self.embedding_dim = height, num_classes, embedding_dim
        self.parts = self.part_count()
        first, second, last = channels
        if last % reduction:
            raise ValueError(f"reduction={reduction} does not divide the last of channels, {last}")
        self.encoder = Encoder((first, second, last), self.parts)  # Section 3.1
        features = self.add_temporal_modules(last, reduction)
        self.embedding = part_matrix(self.parts, features, embedding_dim)
        set_batch_norm(self, batch_norm, ghosts)

    def part_count(self) -> int:
        """Count the parts: one for each row of the encoder's map."""
        if self.height < 2 or self.height % 2:
            raise ValueError(
                f"height must be a positive multiple of 2 (two rows make a part), found {self.height}"
            )
        return self.height // 2

    def add_temporal_modules(self, channels: int, reduction: int) -> int:
        """Make the modules of Sections 3.2 to 3.4 → the width of the features that are embedded."""
        self.mste = MultiScaleTemporalExtraction(self.parts, channels, reduction)
        self.ata = AdaptiveTemporalAggregation(self.parts, channels, reduction)
        self.ssfl = SalientSpatialFeatureLearning(self.parts, channels, self.num_classes, reduction)
        return 3 * channels

    def forward(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Output:
        """Embed sequences of silhouettes.

        Args:
            silhouettes: float (B, T, H, W) in [0, 1].
            lengths: int (B,), valid frames of each sequence, 1 … T; what follows them is not looked at, so
                that sequences of different length give the same result in one batch as one at a time. None:
                all T.

        Returns:
            embeddings (B, P, D) and logits (B, P, K), at least float32 also under autocast.
        """
        features, logits, _ = self.look(*self.encode(silhouettes, lengths))
        embeddings = map_parts(torch.cat(features, dim=-1), self.embedding)  # (P, B, D)
        return Output(embeddings.transpose(0, 1), logits.transpose(0, 1))

    @staticmethod
    def arguments_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read the arguments, without ablation, off the shapes of a state dict."""
        parts, _, embedding_dim = weights["embedding"].shape
        channels = [len(weights[f"encoder.conv{i}.weight"]) for i in (1, 2, 4)]
        return {
            "height": 2 * parts,
            "num_classes": weights["ssfl.class_weight"].shape[-1],
            "channels": channels,
            "embedding_dim": embedding_dim,
            "reduction": parts * channels[-1] // len(weights["mste.long_in.weight"]),
        }

    def attention(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Attention:
        """Score the same input, for pictures; zero for ATA beyond a sequence's length."""
        return self.look(*self.encode(silhouettes, lengths))[2]

    def look(self, f: Tensor, mask: Tensor | None) -> tuple[list[Tensor], Tensor, Attention]:
        """Run MSTE, ATA and SSFL: f (P, B, T, C) → features, each (P, B, C), logits (P, B, K), attention."""
        t = self.mste(f, mask)
        aggregated, importance = self.ata(t, mask)
        salient = self.ssfl(t, mask)
        features = [aggregated, *map(at_least_float32, (salient.weighted, salient.selected))]
        return features, salient.logits, attention_of(importance, salient.scores)

    def encode(self, silhouettes: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Encode every valid frame → f (P, B, T, C), and where others are, the mask (B, T) of valid ones."""
        check_silhouettes(silhouettes, lengths, height=self.height)
        mask = None if lengths is None else valid_mask(silhouettes, lengths)
        frames = silhouettes.flatten(0, 1) if mask is None else silhouettes[mask]  # padding is never encoded
        return parts_in_time(self.encoder(frames), len(silhouettes), mask), mask


def attention_of(importance: Tensor | None, scores: Tensor | None) -> Attention:
    """Lay ATA's importances (P, B, T, S, C) and SSFL's scores (P, B, T) out sequence by sequence."""
    return Attention(
        None if importance is None else at_least_float32(importance.permute(1, 2, 0, 3, 4)),
        None if scores is None else scores.permute(1, 2, 0),
    )
