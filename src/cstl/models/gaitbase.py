"""GaitBase: a residual network of frames, pooled over the sequence (Fan et al., OpenGait, CVPR 2023)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cstl.models import Output
from cstl.models.layers.frames import largest_over_time, valid_frames
from cstl.models.layers.neck import NECK_NAMES, BNNeck, read_neck, write_neck
from cstl.models.layers.parts import map_parts, part_matrix
from cstl.models.layers.pooling import pool_strips
from cstl.models.layers.residual import RESIDUAL_NAMES, ResidualEncoder
from cstl.models.published import OPENGAIT, Form, PublishedNetwork

PARTS = 16


class GaitBase(PublishedNetwork):
    """Embed a set of silhouettes, whatever its order, by a ResNet-9: P = 16 parts, cosines as logits.

    Every frame goes through the encoder alone; the largest values over the frames are pooled strip by strip,
    and every strip has a matrix of its own, whose result is the embedding. Behind it a batch-norm neck
    compares with the classes.

    Args:
        num_classes: training subjects K.
        channels: widths of the encoder's stages.
        embedding_dim: values D of an embedding a part.
        test_neck: compare, in evaluation, the neck's unit vectors in place of the embeddings before it.

    Source: the "Baseline" of OpenGait with its ResNet-9, whose weights it equals.

    Example:
        >>> net = GaitBase(num_classes=5, channels=(4, 4, 8, 8), embedding_dim=8).eval()
        >>> out = net(torch.rand(2, 5, 64, 44))
        >>> out.embeddings.shape, out.logits.shape
        (torch.Size([2, 16, 8]), torch.Size([2, 16, 5]))
    """

    def __init__(
        self,
        num_classes: int,
        channels: Sequence[int] = (64, 128, 256, 512),
        embedding_dim: int = 256,
        test_neck: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = ResidualEncoder(channels)
        self.embedding = part_matrix(PARTS, channels[-1], embedding_dim)
        self.neck = BNNeck(PARTS, embedding_dim, num_classes)
        self.test_neck = test_neck

    def forward(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Output:
        """Embed sequences.

        Args:
            silhouettes: float (B, T, H, W) in [0, 1]; H is a multiple of 64, W of 4.
            lengths: int (B,), valid frames of each sequence; None: all T.

        Returns:
            embeddings (B, 16, D) and cosines (B, 16, K), at least float32, the topmost strip first.
        """
        frames, counts = valid_frames(silhouettes, lengths)
        x = largest_over_time(self.encoder(frames, counts), counts)  # (B, C, H/4, W/4)
        v = pool_strips(x, PARTS)  # (B, P, C)
        e = map_parts(v.transpose(0, 1), self.embedding)  # (P, B, D)
        logits = self.neck(e)
        if self.test_neck and not self.training:
            e = self.neck.unit_vectors(e)
        return Output(e.transpose(0, 1), logits.transpose(0, 1))

    @staticmethod
    def arguments_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read the arguments off the shapes of a state dict."""
        return {
            "num_classes": weights["neck.weight"].shape[2],
            "channels": [len(weights[f"encoder.stages.{stage}.0.conv1.weight"]) for stage in range(4)],
            "embedding_dim": weights["embedding"].shape[2],
        }


_BACKBONE = "Backbone.forward_block"
GaitBase.forms = {
    "opengait": Form(
        OPENGAIT,
        {
            "encoder.conv": f"{_BACKBONE}.conv1.conv",
            "encoder.norm": f"{_BACKBONE}.bn1",
            **{
                f"encoder.stages.{stage}.0.{own}": f"{_BACKBONE}.layer{stage + 1}.0.{theirs}"
                for stage in range(4)
                for own, theirs in RESIDUAL_NAMES.items()
            },
            "embedding": "FCs.fc_bin",
            **NECK_NAMES,
        },
        read_neck,
        write_neck,
    )
}
