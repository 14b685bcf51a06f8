"""GaitGL: global and local convolutions over space and time (Lin, Zhang, Yu, ICCV 2021)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models import Output
from cstl.models.layers.convolutions import Convolution3D, merge_thirds
from cstl.models.layers.frames import largest_over_time, lengthened, valid_frames
from cstl.models.layers.neck import NECK_NAMES, BNNeck, read_neck, write_neck
from cstl.models.layers.parts import at_least_float32, map_parts, part_matrix
from cstl.models.layers.pooling import strips
from cstl.models.published import OPENGAIT, Form, PublishedNetwork, StateDict

PARTS = 64  # 32 of the global map, then 32 of the strips


class _Variant(NamedTuple):
    strips: int  # that the local convolutions see
    first: int  # convolutions of step 1
    layers: tuple[int, int, int]  # global-local ones of steps 3, 5 and 6
    shortest: int  # clips that are shorter are made longer


_VARIANTS = {
    "casiab": _Variant(8, 1, (1, 1, 1), 3),
    "oumvlp": _Variant(2, 2, (2, 2, 2), 3),
    "authors": _Variant(2, 1, (1, 2, 2), 4),
}


class GaitGL(PublishedNetwork):
    """Embed sequences of silhouettes by 3-D convolutions of the whole and of strips: P = 64 parts.

    Beside each convolution of the whole map stands one that sees every strip alone; their results are added,
    those of the last layer put one below the other. Between the first two layers three frames become one.

    Args:
        num_classes: training subjects K; None: for the authors' own network, which has no classifier.
        variant: the layers: "casiab", with three widths, and with four "oumvlp" or "authors", their own
            network for OU-MVLP, whose embeddings are what the matrices give.
        channels: widths, of which "casiab" takes three.
        head: behind the matrices of the parts: a batch norm over sequences and parts, whose result is the
            embedding, and a linear classifier ("bn"); or a batch-norm neck with cosines ("bnneck", GREW's
            second recipe).

    Source: as OpenGait and, for "authors", their own repository have it, whose weights it equals.

    Example:
        >>> net = GaitGL(num_classes=5, channels=(2, 4, 8)).eval()
        >>> out = net(torch.rand(2, 5, 64, 44))
        >>> out.embeddings.shape, out.logits.shape
        (torch.Size([2, 64, 8]), torch.Size([2, 64, 5]))
    """

    def __init__(
        self,
        num_classes: int | None,
        variant: Literal["casiab", "oumvlp", "authors"] = "casiab",
        channels: Sequence[int] = (32, 64, 128, 256),
        head: Literal["bn", "bnneck"] = "bn",
    ) -> None:
        super().__init__()
        if variant not in _VARIANTS or head not in ("bn", "bnneck"):
            raise ValueError(
                f"variant is {variant!r} and head {head!r}; choose one of {', '.join(_VARIANTS)} and one of "
                "bn, bnneck"
            )
        widths = 3 if variant == "casiab" else 4
        c = tuple(channels)[:widths]
        if len(c) < widths:
            raise ValueError(f"variant={variant} has {widths} widths, found channels={list(c)}")
        self.variant, self.head = variant, "none" if variant == "authors" else head
        shape = _VARIANTS[variant]
        self.first = nn.ModuleList([Convolution3D(1, c[0]), Convolution3D(c[0], c[0])][: shape.first])
        self.time = nn.Parameter(torch.empty(c[0], c[0], 3, 1, 1))
        nn.init.xavier_uniform_(self.time)
        inputs = c[0]
        self.layers = nn.ModuleList()
        for number, outputs in zip(shape.layers, (c[1], c[2], c[-1]), strict=True):
            each = [GlobalLocal(inputs, outputs, shape.strips)]
            each += [GlobalLocal(outputs, outputs, shape.strips) for _ in range(number - 1)]
            self.layers.append(nn.ModuleList(each))
            inputs = outputs
        self.exponent = nn.Parameter(torch.full((1,), 6.5))
        self.embedding = part_matrix(PARTS, inputs, inputs)
        if self.head != "none":
            if num_classes is None:
                raise ValueError(f"head={head} needs num_classes, the number of training subjects")
            if head == "bnneck":
                self.neck = BNNeck(PARTS, inputs, num_classes)
            else:
                self.norm = nn.BatchNorm1d(inputs)
                nn.init.normal_(self.norm.weight, 1.0, 0.02)
                self.classes = part_matrix(PARTS, inputs, num_classes)

    def forward(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Output:
        """Embed sequences.

        Args:
            silhouettes: float (B, T, H, W) in [0, 1]; H is a multiple of 64, W of 2.
            lengths: int (B,), valid frames of each sequence; None: all T.

        Returns:
            embeddings (B, 64, C) and logits (B, 64, K), at least float32, the global map's topmost strip
            first; no logits with variant "authors".
        """
        x, frames = lengthened(
            *valid_frames(silhouettes, lengths, columns=2), _VARIANTS[self.variant].shortest
        )
        for convolution in self.first:
            x = F.leaky_relu(convolution(x, frames), inplace=True)
        x, frames = merge_thirds(x, frames, self.time)
        x = F.leaky_relu(x, inplace=True)
        first, second, last = self.layers
        for layer in first:  # type: ignore[attr-defined]
            x = layer(x, frames)
        x = F.max_pool2d(x, 2)
        for layer in [*second, *last[:-1]]:  # type: ignore[misc, index]
            x = layer(x, frames)
        x = largest_over_time(last[-1](x, frames, stacked=True), frames)  # type: ignore[index]  # (B, C, H, W/2)
        g = map_parts(self._pooled(x).transpose(0, 1), self.embedding)  # (P, B, C)
        if self.head == "none":
            return Output(g.transpose(0, 1), None)
        if self.head == "bnneck":
            return Output(g.transpose(0, 1), self.neck(g).transpose(0, 1))
        f = self.norm(g.permute(1, 2, 0))  # (B, C, P): statistics over sequences and parts
        return Output(f.transpose(1, 2), map_parts(f.permute(2, 0, 1), self.classes).transpose(0, 1))

    def _pooled(self, x: Tensor) -> Tensor:
        """Take the generalised mean of every strip, in float32, where half precision overflows."""
        with torch.autocast(x.device.type, enabled=False):
            pixels = at_least_float32(strips(x, PARTS)).clamp(min=1e-6)  # (B, P, pixels, C)
            return pixels.pow(self.exponent).mean(2).pow(1 / self.exponent)

    @staticmethod
    def arguments_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read the arguments off the shapes of a state dict."""
        second = "layers.1.1.whole.weight" in weights
        variant = "oumvlp" if "first.1.weight" in weights else "authors" if second else "casiab"
        widths = [len(weights[f"layers.{step}.0.whole.weight"]) for step in range(3)]
        channels = [len(weights["time"]), *widths[: 2 if variant == "casiab" else 3]]
        head = "bnneck" if "neck.weight" in weights else "bn"
        classes = None if variant == "authors" else "neck.weight" if head == "bnneck" else "classes"
        return {
            "num_classes": weights[classes].shape[2] if classes else None,
            "variant": variant,
            "channels": channels,
            "head": head,
        }


class GlobalLocal(nn.Module):
    """LReLU(3-D convolution of the map) + LReLU(3-D convolution of every strip alone): (n, C, H, W).

    With `stacked` the two stand one below the other, (n, out, 2·H, W).
    """

    def __init__(self, inputs: int, outputs: int, strips: int) -> None:
        super().__init__()
        self.whole, self.local = Convolution3D(inputs, outputs), Convolution3D(inputs, outputs)
        self.strips = strips

    def forward(self, x: Tensor, lengths: list[int], stacked: bool = False) -> Tensor:
        """Take frames, those of each sequence one after another, and how many each sequence has."""
        whole = F.leaky_relu(self.whole(x, lengths), inplace=True)
        local = F.leaky_relu(self.local(x, lengths, self.strips), inplace=True)
        return torch.cat([whole, local], dim=2) if stacked else whole + local


def _names(first: Mapping[str, str], layers: Mapping[str, str], whole: str, local: str) -> dict[str, str]:
    own = {"whole": whole, "local": local}
    return {
        **first,
        **{f"{ours}.{kind}": theirs + own[kind] for ours, theirs in layers.items() for kind in own},
    }


_OPENGAIT = {
    "time": "LTA.0.conv3d.weight",
    "exponent": "HPP.p",
    "embedding": "Head0.fc_bin",
    "norm": "Bn",
    "classes": "Head1.fc_bin",
    **NECK_NAMES,
}
_STEPS = ("GLConvA0", "GLConvA1", "GLConvB2")
_CONVOLUTIONS = (".global_conv3d.conv3d", ".local_conv3d.conv3d")


def _read(weights: StateDict) -> StateDict:
    return read_neck(weights) if "neck.weight" in weights else weights


def _write(weights: StateDict) -> StateDict:
    return write_neck(weights) if "neck.weight" in weights else weights


_OUMVLP = _names(
    {"first.0": "conv3d.0.conv3d", "first.1": "conv3d.2.conv3d", **_OPENGAIT},
    {f"layers.{i}.{{}}": f"{step}.{{}}" for i, step in enumerate(_STEPS)},
    *_CONVOLUTIONS,
)
GaitGL.forms = {
    "opengait": Form(
        OPENGAIT,
        _names(
            {"first.0": "conv3d.0.conv3d", **_OPENGAIT},
            {f"layers.{i}.0": step for i, step in enumerate(_STEPS)},
            *_CONVOLUTIONS,
        ),
        _read,
        _write,
        {"variant": "casiab"},
    ),
    "opengait_oumvlp": Form(
        OPENGAIT,
        _OUMVLP,
        _read,
        _write,
        {"variant": "oumvlp"},
    ),
    # Only its name tells: keys and shapes are the same, the neck's flat embedding is in our order.
    "opengait_1_1": Form(
        "OpenGait's weights of before 28 June 2022",
        _OUMVLP,
        arguments={"variant": "oumvlp"},
    ),
    "authors": Form(
        "the authors' weights for OU-MVLP",
        _names(
            {
                "first.0": "conv2dlayer1a.conv1",
                "time": "pool2d1.conv1.weight",
                "exponent": "Gem.p",
                "embedding": "fc_bin.0",
            },
            {
                "layers.0.0": "conv2dlayer2a",
                "layers.1.0": "conv2dlayer25a_3d",
                "layers.1.1": "conv2dlayer25b_3d",
                "layers.2.0": "conv2dlayer3a_3d",
                "layers.2.1": "conv2dlayer3b_3d",
            },
            ".convdg",
            ".convdl",
        ),
        arguments={"variant": "authors"},
    ),
}
