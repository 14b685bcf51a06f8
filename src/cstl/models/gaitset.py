"""GaitSet: gait as a set of silhouettes (Chao et al., AAAI 2019 / TPAMI 2021)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cstl.models import Output
from cstl.models.layers.convolutions import leaky_convolutions
from cstl.models.layers.frames import largest_over_time, valid_frames
from cstl.models.layers.parts import map_parts, part_matrix
from cstl.models.layers.pooling import PYRAMID, pool_pyramid
from cstl.models.published import OPENGAIT, Form, PublishedNetwork, StateDict

MAP_PARTS = sum(PYRAMID)  # 31 of a map
PARTS = 2 * MAP_PARTS


class GaitSet(PublishedNetwork):
    """Embed a set of silhouettes, whatever its order: P = 62 parts, no logits.

    Frames go through three blocks of convolutions, each alone; the set branch beside them starts from the
    largest values over the frames after the first block, and takes up those after the next ones. Both maps
    are pooled strip by strip, as a pyramid, and every part has a matrix of its own.

    Args:
        channels: widths of the blocks; (64, 128, 256) on OU-MVLP.
        embedding_dim: values D of an embedding a part.
        authors_oumvlp: as the authors' own network for OU-MVLP has it: silhouettes are divided by 255 once
            more, which makes embeddings and distances 255 times smaller and so the margin another one, and
            the matrices of the two maps are initialised as two tensors.

    Source: as OpenGait has it, whose weights the field shares; with the authors' weights it equals theirs.

    Example:
        >>> net = GaitSet(channels=(4, 8, 16), embedding_dim=8).eval()
        >>> net(torch.rand(2, 5, 64, 44)).embeddings.shape
        torch.Size([2, 62, 8])
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128),
        embedding_dim: int = 256,
        authors_oumvlp: bool = False,
    ) -> None:
        super().__init__()
        c1, c2, c3 = channels
        self.a1 = leaky_convolutions(1, c1, c1, first_kernel=5, pool=True)
        self.a2 = leaky_convolutions(c1, c2, c2, pool=True)
        self.a3 = leaky_convolutions(c2, c3, c3)
        self.b2 = leaky_convolutions(c1, c2, c2, pool=True)
        self.b3 = leaky_convolutions(c2, c3, c3)
        self.embedding = part_matrix(PARTS, c3, embedding_dim)
        self.scale = 1 / 255 if authors_oumvlp else 1.0
        if authors_oumvlp:
            for half in self.embedding.data.chunk(2):
                nn.init.xavier_uniform_(half)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Output:
        """Embed sequences.

        Args:
            silhouettes: float (B, T, H, W) in [0, 1]; H is a multiple of 64, W of 4.
            lengths: int (B,), valid frames of each sequence; None: all T.

        Returns:
            embeddings (B, 62, D), at least float32: the frames' map from the 16 topmost strips to the whole,
            then the set's.
        """
        frames, counts = valid_frames(silhouettes, lengths)
        x = self.a1(frames * self.scale if self.scale != 1 else frames)
        g = self.b2(largest_over_time(x, counts))
        x = self.a2(x)
        g = self.b3(g + largest_over_time(x, counts))
        s = largest_over_time(self.a3(x), counts)
        g = g + s
        f = torch.cat([pool_pyramid(s), pool_pyramid(g)], dim=1)  # (B, P, C)
        return Output(map_parts(f.transpose(0, 1), self.embedding).transpose(0, 1), None)

    @staticmethod
    def arguments_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read the arguments off the shapes of a state dict."""
        channels = [len(weights[f"{block}.0.weight"]) for block in ("a1", "a2", "a3")]
        return {"channels": channels, "embedding_dim": weights["embedding"].shape[2]}


def _rows(weights: Tensor, order: list[int]) -> Tensor:
    """Put row r of weights, (P, …), where `order` says."""
    return torch.empty_like(weights).index_copy_(0, torch.tensor(order, device=weights.device), weights)


_LEVELS = [(strips, MAP_PARTS + 1 - 2 * strips) for strips in reversed(PYRAMID)]  # and its first part
_MAP_ORDER = [first + i for strips, first in _LEVELS for i in range(strips)]  # our part of each row
_ORDER = [  # at each level the frames' strips, then the set's
    which + first + i for strips, first in _LEVELS for which in (0, MAP_PARTS) for i in range(strips)
]


def _read_authors(weights: StateDict) -> StateDict:
    return weights | {"embedding": _rows(weights["embedding"], _ORDER)}


def _write_authors(weights: StateDict) -> StateDict:
    return weights | {"embedding": weights["embedding"][_ORDER]}


def _read_authors_oumvlp(weights: StateDict) -> StateDict:
    halves = [_rows(weights.pop(name), _MAP_ORDER) for name in ("frames", "set")]
    return weights | {"embedding": torch.cat(halves)}


def _write_authors_oumvlp(weights: StateDict) -> StateDict:
    halves = weights.pop("embedding").chunk(2)
    return weights | {name: half[_MAP_ORDER] for name, half in zip(("frames", "set"), halves, strict=True)}


_AUTHORS = {
    **{f"a{i}.0": f"set_layer{2 * i - 1}.forward_block.conv" for i in (1, 2, 3)},
    **{f"a{i}.2": f"set_layer{2 * i}.forward_block.conv" for i in (1, 2, 3)},
    **{
        "b2.0": "gl_layer1.conv",
        "b2.2": "gl_layer2.conv",
        "b3.0": "gl_layer3.conv",
        "b3.2": "gl_layer4.conv",
    },
}
GaitSet.forms = {
    "opengait": Form(
        OPENGAIT,
        {
            **{f"a{i}.{{}}": f"set_block{i}.forward_block.{{}}.conv" for i in (1, 2, 3)},
            **{f"b{i}.{{}}": f"gl_block{i}.{{}}.conv" for i in (2, 3)},
            "embedding": "Head.fc_bin",
        },
    ),
    "authors": Form(
        "the authors' weights", _AUTHORS | {"embedding": "fc_bin.0"}, _read_authors, _write_authors
    ),
    "authors_oumvlp": Form(
        "the authors' weights for OU-MVLP",
        _AUTHORS | {"frames": "x_hpm.fc_bin.0", "set": "gl_hpm.fc_bin.0"},
        _read_authors_oumvlp,
        _write_authors_oumvlp,
        {"authors_oumvlp": True},
    ),
}
