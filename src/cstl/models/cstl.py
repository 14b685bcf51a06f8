"""CSTL: context-sensitive temporal feature learning for gait recognition (Huang et al., ICCV 2021)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cstl.models.ata import AdaptiveTemporalAggregation
from cstl.models.encoder import Encoder
from cstl.models.mste import MultiScaleTemporalExtraction
from cstl.models.parts import at_least_float32
from cstl.models.ssfl import SalientSpatialFeatureLearning


class CSTLOutput(NamedTuple):
    """What the network says of N sequences: `embeddings` (N, P, D) to compare, `logits` (N, P, K) to train with."""

    embeddings: Tensor
    logits: Tensor


class Attention(NamedTuple):
    """Where the network looks: ATA's importance of each scale and SSFL's score of each frame, both in (0, 1)."""

    scales: Tensor  # (N, T, P, 3, C): frame level, short term, long term
    frames: Tensor  # (N, T, P)


class CSTL(nn.Module):
    """The network: encoder, MSTE, ATA and SSFL; P = height / 2 parts, each with temporal weights of its own.

    Args:
        height: rows of a silhouette, a multiple of 2 (64 for 64×44, 128 for 128×88); the width is free.
        num_classes: training subjects K.
        channels: widths of the encoder; the last is the C of the paper.
        embedding_dim: values D of an embedding a part.
        reduction: how much narrower the hidden layers of the scores are; it divides C.

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
    ) -> None:
        super().__init__()
        first, second, last = channels
        if height < 2 or height % 2:
            raise ValueError(f"height must be a positive multiple of 2 (two rows make a part), found {height}")
        if last % reduction:
            raise ValueError(f"reduction={reduction} does not divide the last of channels, {last}")
        self.height, self.num_classes, self.embedding_dim = height, num_classes, embedding_dim
        self.parts = parts = height // 2
        self.encoder = Encoder((first, second, last))
        self.mste = MultiScaleTemporalExtraction(parts, last, reduction)
        self.ata = AdaptiveTemporalAggregation(parts, last, reduction)
        self.ssfl = SalientSpatialFeatureLearning(parts, last, num_classes, reduction)
        self.embedding = nn.Parameter(torch.empty(parts, 3 * last, embedding_dim))
        nn.init.xavier_uniform_(self.embedding)

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
        salient = self.ssfl(t, mask)

        features = torch.cat([aggregated, salient.weighted, at_least_float32(salient.selected)], dim=-1)  # (P, N, 3C)
        with torch.autocast(features.device.type, enabled=False):
            embeddings = torch.bmm(features, self.embedding)  # (P, N, D)
        output = CSTLOutput(embeddings.transpose(0, 1), salient.logits.transpose(0, 1))
        return output, Attention(importance.permute(1, 2, 0, 3, 4), salient.scores.permute(1, 2, 0))

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
