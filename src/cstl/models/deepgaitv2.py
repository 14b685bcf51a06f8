"""DeepGaitV2: a deeper residual network of frames or of time, too (Fan et al., arXiv 2303.03301)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from cstl.models.gaitbase import GaitBase
from cstl.models.layers.neck import NECK_NAMES, read_neck, write_neck
from cstl.models.layers.residual import (
    RESIDUAL_NAMES,
    ResidualBlock,
    ResidualBlock3D,
    ResidualBlockP3D,
    ResidualEncoder,
)
from cstl.models.published import OPENGAIT, Form, StateDict

_BLOCKS = {"2d": ResidualBlock, "3d": ResidualBlock3D, "p3d": ResidualBlockP3D}


class DeepGaitV2(GaitBase):
    """Embed sequences of silhouettes as `GaitBase` does, by an encoder that is deeper or sees time.

    Args:
        num_classes, channels, embedding_dim, test_neck: those of `GaitBase`.
        kind: what the blocks of the last three stages see: each frame alone ("2d", with one block a stage
            GaitBase), three neighbours in each convolution ("3d"), or three neighbours between the two
            convolutions of frames ("p3d").
        blocks: of each stage; 1, 4, 4, 1 on Gait3D and GREW.

    Source: as OpenGait has it, whose weights it equals.

    Example:
        >>> net = DeepGaitV2(num_classes=5, channels=(4, 4, 8, 8), embedding_dim=8).eval()
        >>> out = net(torch.rand(2, 5, 64, 44))
        >>> out.embeddings.shape, out.logits.shape
        (torch.Size([2, 16, 8]), torch.Size([2, 16, 5]))
    """

    def __init__(
        self,
        num_classes: int,
        kind: Literal["p3d", "3d", "2d"] = "p3d",
        blocks: Sequence[int] = (1, 1, 1, 1),
        channels: Sequence[int] = (64, 128, 256, 512),
        embedding_dim: int = 256,
        test_neck: bool = False,
    ) -> None:
        if kind not in _BLOCKS:
            raise ValueError(f"kind is {kind!r}; choose one of {', '.join(_BLOCKS)}")
        super().__init__(num_classes, channels, embedding_dim, test_neck)
        self.kind = kind
        self.encoder = ResidualEncoder(channels, blocks, (ResidualBlock, *[_BLOCKS[kind]] * 3))

    @staticmethod
    def arguments_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Read the arguments off the shapes of a state dict."""
        stages = [
            {key.split(".")[3] for key in weights if key.startswith(f"encoder.stages.{stage}.")}
            for stage in range(4)
        ]
        in_time = weights["encoder.stages.1.0.conv1.weight"].ndim == 5
        in_between = "encoder.stages.1.0.time.weight" in weights
        return {
            **GaitBase.arguments_of(weights),
            "kind": "3d" if in_time else "p3d" if in_between else "2d",
            "blocks": [len(blocks) for blocks in stages],
        }


def _read(weights: StateDict) -> StateDict:
    """Take the shortcuts' dimension of time away, where the file has one."""
    return read_neck({k: v.squeeze(2) if "shortcut" in k and v.ndim == 5 else v for k, v in weights.items()})


def _write_in_time(weights: StateDict) -> StateDict:
    """Give the shortcuts a dimension of time."""
    return write_neck(
        {k: v.unsqueeze(2) if "shortcut" in k and v.ndim == 4 else v for k, v in weights.items()}
    )


_FIRST = {"encoder.conv": "layer0.forward_block.0", "encoder.norm": "layer0.forward_block.1"}
_LAST = {"embedding": "FCs.fc_bin", **NECK_NAMES}
_P3D_NAMES = {
    "conv1": "conv1.forward_block.0",
    "norm1": "conv1.forward_block.1",
    "time": "shortcut3d",
    "time_norm": "sbn",
    "conv2": "conv2.forward_block.0",
    "norm2": "conv2.forward_block.1",
    "shortcut": "downsample",
}


def _stage(number: int, module: str, names: Mapping[str, str]) -> dict[str, str]:
    return {
        f"encoder.stages.{number - 1}.{{}}.{own}": f"layer{number}.{module}{{}}.{theirs}"
        for own, theirs in names.items()
    }


def _form(kind: str, module: str, names: Mapping[str, str], write: Callable[[StateDict], StateDict]) -> Form:
    stages = _stage(1, "forward_block.", RESIDUAL_NAMES)
    for number in (2, 3, 4):
        stages |= _stage(number, module, names)
    return Form(OPENGAIT, _FIRST | stages | _LAST, _read, write, {"kind": kind})


DeepGaitV2.forms = {
    "opengait": _form("p3d", "", _P3D_NAMES, _write_in_time),
    "opengait_3d": _form("3d", "", RESIDUAL_NAMES, _write_in_time),
    "opengait_2d": _form("2d", "forward_block.", RESIDUAL_NAMES, write_neck),
}
