"""The authors' weights in and out: their `state_dict` keys beside ours, in the order of `cstl.models`."""

from collections.abc import Mapping

import torch
from torch import Tensor

_PREFIX = "module."  # the authors trained under DataParallel

_KEYS = {
    "conv2d_1.forward_block.conv2d.weight": "encoder.conv1.weight",
    "conv2d_2.forward_block.conv2d.weight": "encoder.conv2.weight",
    "conv2d_3.forward_block.conv2d.weight": "encoder.conv3.weight",
    "conv2d_4.forward_block.conv2d.weight": "encoder.conv4.weight",
    "multi_scale.short_term.0.0": "mste.short_conv1",
    "multi_scale.short_term.0.1": "mste.short_norm1",
    "multi_scale.short_term.1.0": "mste.short_conv2",
    "multi_scale.short_term.1.1": "mste.short_norm2",
    "multi_scale.score.0": "mste.long_in",
    "multi_scale.score.1": "mste.long_norm",
    "multi_scale.score.3": "mste.long_out",
    "adaptive_aggregation.in_conv": "ata.in_conv",
    "adaptive_aggregation.out_conv": "ata.out_conv",
    "salient_learning.part_score.0": "ssfl.score_in",
    "salient_learning.part_score.1": "ssfl.score_norm",
    "salient_learning.part_score.3": "ssfl.score_out",
    "salient_learning.decay_channel": "ssfl.decay",
    "salient_learning.fc": "ssfl.class_weight",
    "fc_bin": "embedding",
}
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_OFFICIAL_BN, _OUR_BN = "salient_learning.bn", "ssfl.class_norm"  # theirs: one batch norm a part


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' `state_dict`, with or without the `module.` prefix, as one for `CSTL.load_state_dict`.

    The network it fits has height 2P, K classes and so on as its shapes say.

    Raises:
        ValueError: for keys that the authors' network does not have, or lacks.
    """
    theirs = {key.removeprefix(_PREFIX): value for key, value in state_dict.items()}
    parts = len(theirs["fc_bin"]) if "fc_bin" in theirs else 0
    expected = _official_keys(parts)
    missing, unknown = sorted(expected - theirs.keys()), sorted(theirs.keys() - expected)
    if missing or unknown:
        raise ValueError(
            "this is not a state_dict of the authors' CSTL: "
            + "; ".join(f"{what} {_first(keys)}" for what, keys in (("lacks", missing), ("unknown", unknown)) if keys)
        )
    ours = {_renamed(key, _KEYS): value for key, value in theirs.items() if not key.startswith(_OFFICIAL_BN)}
    for name in _NORM:
        per_part = [theirs[f"{_OFFICIAL_BN}.{part}.{name}"] for part in range(parts)]
        ours[f"{_OUR_BN}.{name}"] = per_part[0] if name == "num_batches_tracked" else torch.cat(per_part)
    return ours


def to_official(state_dict: Mapping[str, Tensor], prefix: bool = False) -> dict[str, Tensor]:
    """The `state_dict` of a `CSTL` under the authors' keys; `prefix` puts `module.` before each, as their files have."""
    parts = len(state_dict["embedding"])
    names = {ours: theirs for theirs, ours in _KEYS.items()}
    theirs = {_renamed(key, names): value for key, value in state_dict.items() if not key.startswith(_OUR_BN)}
    for name in _NORM:
        value = state_dict[f"{_OUR_BN}.{name}"]
        per_part = [value] * parts if name == "num_batches_tracked" else value.chunk(parts)
        theirs |= {f"{_OFFICIAL_BN}.{part}.{name}": v.clone() for part, v in enumerate(per_part)}
    return {_PREFIX * prefix + key: value for key, value in theirs.items()}


def _renamed(key: str, names: Mapping[str, str]) -> str:
    if key in names:
        return names[key]
    layer, _, name = key.rpartition(".")
    return f"{names[layer]}.{name}"


def _official_keys(parts: int) -> set[str]:
    keys: set[str] = set()
    for theirs, ours in _KEYS.items():
        if theirs.endswith("weight") or ours in ("embedding", "ssfl.class_weight"):
            keys.add(theirs)
        else:
            keys |= {f"{theirs}.{name}" for name in (_NORM if "norm" in ours else ("weight",))}
    return keys | {f"{_OFFICIAL_BN}.{part}.{name}" for part in range(parts) for name in _NORM}


def _first(keys: list[str], count: int = 3) -> str:
    return ", ".join(keys[:count]) + (f" and {len(keys) - count} more" if len(keys) > count else "")
