"""GLN: a lateral network over silhouettes and sets (Hou et al., ECCV 2020)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models import Output
from cstl.models.layers.convolutions import conv2d, leaky_convolutions
from cstl.models.layers.dropout import Dropout
from cstl.models.layers.frames import largest_over_time, valid_frames
from cstl.models.layers.neck import channels_first, parts_first
from cstl.models.layers.parts import at_least_float32, map_parts, part_matrix
from cstl.models.layers.pooling import PYRAMID, pool_pyramid
from cstl.models.published import OPENGAIT, Form, PublishedNetwork, StateDict

PARTS = 3 * sum(PYRAMID)  # of three maps


class GLN(PublishedNetwork):
    """Embed a set of silhouettes by features of three resolutions: P = 93 parts.

    Frames go through three stages, each alone; set stages beside them start from the largest values over the
    frames. Lateral convolutions merge both from the coarsest to the finest map, and every merged map is
    smoothed and pooled as a pyramid. It is trained in two phases: first without classes; then, from these
    weights (`init_from`), with the compact block, whose logits are a further signal of training.

    Args:
        num_classes: training subjects K, the second phase; None: the first, which has no logits.
        channels: widths of the three stages.
        lateral_dim: width of the merged maps.
        embedding_dim: values D of an embedding a part.
        compact_dim: values that the compact block makes of an embedding.
        dropout: share of an embedding's values that the compact block does not see.

    Source: as OpenGait has it, which thanks the first author. What is compared is the embedding in both
    phases, as there; the paper's own best numbers are of the compact block's values.

    Example:
        >>> net = GLN(channels=(2, 4, 8), lateral_dim=4, embedding_dim=8).eval()
        >>> net(torch.rand(2, 5, 64, 44)).embeddings.shape
        torch.Size([2, 93, 8])
    """

    def __init__(
        self,
        num_classes: int | None = None,
        channels: Sequence[int] = (32, 64, 128),
        lateral_dim: int = 256,
        embedding_dim: int = 256,
        compact_dim: int = 256,
        dropout: float = 0.9,
    ) -> None:
        super().__init__()
        c0, c1, c2 = channels
        self.s0 = leaky_convolutions(1, c0, c0, first_kernel=5)
        self.s1 = leaky_convolutions(c0, c1, c1)
        self.s2 = leaky_convolutions(c1, c2, c2)
        self.g1 = leaky_convolutions(c0, c1, c1)
        self.g2 = leaky_convolutions(c1, c2, c2)
        # From the finest to the coarsest map.
        self.lateral = nn.ModuleList(conv2d(2 * width, lateral_dim, kernel=1) for width in channels)
        self.smooth = nn.ModuleList(conv2d(lateral_dim, lateral_dim) for _ in channels)
        self.embedding = part_matrix(PARTS, lateral_dim, embedding_dim)
        self.compact = (
            None
            if num_classes is None
            else CompactBlock(PARTS * embedding_dim, compact_dim, num_classes, dropout)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Output:
        """Embed sequences.

        Args:
            silhouettes: float (B, T, H, W) in [0, 1]; H is a multiple of 64, W of 4.
            lengths: int (B,), valid frames of each sequence; None: all T.

        Returns:
            embeddings (B, 93, D), at least float32: 31 parts of the finest map, from the 16 topmost strips to
            the whole, then those of the middle and of the coarsest one. Logits (B, 1, K) in the second phase.
        """
        frames, counts = valid_frames(silhouettes, lengths)
        x = self.s0(frames)
        p0 = largest_over_time(x, counts)
        x = self.s1(F.max_pool2d(x, 2))
        p1 = largest_over_time(x, counts)
        p2 = largest_over_time(self.s2(F.max_pool2d(x, 2)), counts)
        u1 = self.g1(F.max_pool2d(p0, 2)) + p1  # maxima over pixels and over frames change places
        u2 = self.g2(F.max_pool2d(u1, 2)) + p2
        l1, l2, l3 = self.lateral
        y3 = l3(torch.cat([p2, u2], dim=1))
        y2 = l2(torch.cat([p1, u1], dim=1)) + F.interpolate(y3, scale_factor=2.0)
        y1 = l1(torch.cat([p0, p0], dim=1)) + F.interpolate(y2, scale_factor=2.0)
        maps = [smooth(y) for smooth, y in zip(self.smooth, (y1, y2, y3), strict=True)]
        f = torch.cat([pool_pyramid(m) for m in maps], dim=1)  # (B, P, C)
        embeddings = map_parts(f.transpose(0, 1), self.embedding).transpose(0, 1)
        return Output(embeddings, None if self.compact is None else self.compact(embeddings))

    @staticmethod
    def arguments_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read the arguments off the shapes of a state dict."""
        arguments = {
            "channels": [len(weights[f"s{i}.0.weight"]) for i in range(3)],
            "lateral_dim": weights["embedding"].shape[1],
            "embedding_dim": weights["embedding"].shape[2],
        }
        if any(key.startswith("compact.") for key in weights):
            classes, compact = weights["compact.classes.weight"].shape
            arguments |= {"num_classes": classes, "compact_dim": compact}
        return arguments


class CompactBlock(nn.Module):
    """Make few values of an embedding, and logits of these: (B, P, D) → (B, 1, K).

    The batch norms' biases stay 0.
    """

    def __init__(self, values: int, compact: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(values)
        self.dropout = Dropout(dropout)
        self.reduce = nn.Linear(values, compact, bias=False)
        self.compact_norm = nn.BatchNorm1d(compact)
        self.classes = nn.Linear(compact, num_classes, bias=False)
        for norm in (self.norm, self.compact_norm):
            nn.init.normal_(norm.weight, 1.0, 0.02)
            norm.bias.requires_grad_(False)
        for linear in (self.reduce, self.classes):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, embeddings: Tensor) -> Tensor:
        v = self.dropout(self.norm(embeddings.flatten(1))).relu()
        return at_least_float32(self.classes(self.compact_norm(self.reduce(v))))[:, None]


_FLAT = [f"compact.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
_FLAT += ["compact.reduce.weight"]  # what goes over the flat embedding, ours p·D + c


def _read(weights: StateDict) -> StateDict:
    flat = {key: parts_first(weights[key], PARTS) for key in _FLAT if key in weights}
    return weights | flat


def _write(weights: StateDict) -> StateDict:
    flat = {key: channels_first(weights[key], PARTS) for key in _FLAT if key in weights}
    return weights | flat


_NAMES = {
    **{f"s{i}.{{}}": f"sil_stage_{i}.forward_block.{{}}.conv" for i in range(3)},
    **{f"g{i}.{{}}": f"set_stage_{i}.{{}}.conv" for i in (1, 2)},
    **{f"lateral.{i}": f"lateral_layer{i + 1}" for i in range(3)},
    **{f"smooth.{i}": f"smooth_layer{i + 1}" for i in range(3)},
    "embedding": "Head.fc_bin",
    "compact.norm": "encoder_bn",
    "compact.reduce": "reduce_fc",
    "compact.compact_norm": "reduce_bn",
    "compact.classes": "reduce_cls",
}
GLN.forms = {
    "opengait": Form(OPENGAIT, _NAMES, _read, _write),
    # Only its name tells: keys and shapes are the same, the flat embedding is in our order.
    "opengait_1_1": Form("OpenGait's weights of before 28 June 2022", _NAMES),
}
