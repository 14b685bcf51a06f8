"""The authors' keys beside ours, and what a `state_dict` says of its network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cstl.models.cstl.network import CSTL
from cstl.tensor_files import different_tensors, first_of

PREFIX = "module."  # the authors trained under DataParallel
CLASSES = "ssfl.class_weight"  # one column a training subject
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


def network_settings(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the arguments of the paper's `CSTL`, without ablation, off the shapes of its weights.

    Raises:
        ValueError: an ablated network, or weights of something else.
    """
    not_the_papers = "these weights are not those of the paper's network: "
    try:
        parts, _, embedding_dim = state_dict["embedding"].shape
        channels = [len(state_dict[f"encoder.conv{i}.weight"]) for i in (1, 2, 4)]
        settings: dict[str, Any] = {
            "height": 2 * parts,
            "num_classes": state_dict[CLASSES].shape[-1],
            "channels": channels,
            "embedding_dim": embedding_dim,
            "reduction": parts * channels[-1] // len(state_dict["mste.long_in.weight"]),
        }
        with torch.device("meta"):  # shapes without numbers
            network = CSTL(**settings)
    except KeyError as error:
        raise ValueError(f"{not_the_papers}{error.args[0]} is absent") from None
    except (ValueError, ArithmeticError, IndexError, TypeError, RuntimeError):
        raise ValueError(f"{not_the_papers}their sizes do not belong together") from None
    if differences := different_tensors(state_dict, network.state_dict()):
        raise ValueError(not_the_papers + first_of(differences))
    return settings


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the authors' `state_dict`, with or without `module.` before its keys, into one for `CSTL`.

    The network it fits is `CSTL(**network_settings(…))` of the result.

    Raises:
        ValueError: for keys that the authors' network does not have, or lacks, and for shapes that do not
            belong together.
    """
    theirs = {key.removeprefix(PREFIX): value for key, value in state_dict.items()}
    parts = len(theirs["fc_bin"]) if "fc_bin" in theirs else 0
    expected = _official_keys(parts)
    missing, unknown = sorted(expected - theirs.keys()), sorted(theirs.keys() - expected)
    if missing or unknown:
        raise ValueError(
            "this is not a state_dict of the authors' CSTL: "
            + "; ".join(
                f"{what} {first_of(keys)}"
                for what, keys in (("lacks", missing), ("unknown", unknown))
                if keys
            )
        )
    ours = {_renamed(key, _KEYS): value for key, value in theirs.items() if not key.startswith(_OFFICIAL_BN)}
    for name in _NORM:
        per_part = [theirs[f"{_OFFICIAL_BN}.{part}.{name}"] for part in range(parts)]
        ours[f"{_OUR_BN}.{name}"] = per_part[0] if name == "num_batches_tracked" else torch.cat(per_part)
    network_settings(ours)
    return ours


def to_official(state_dict: Mapping[str, Tensor], prefix: bool = False) -> dict[str, Tensor]:
    """Turn a `CSTL`'s `state_dict` into the authors'; `prefix` puts `module.` before each key, as they do.

    Raises:
        ValueError: an ablated network, which the authors' code has no place for.
    """
    try:
        network_settings(state_dict)
    except ValueError as error:
        raise ValueError(
            f"only the paper's network can be written for the authors' code (model=cstl): {error}"
        ) from None
    parts = len(state_dict["embedding"])
    names = {ours: theirs for theirs, ours in _KEYS.items()}
    theirs = {_renamed(key, names): value for key, value in state_dict.items() if not key.startswith(_OUR_BN)}
    for name in _NORM:
        value = state_dict[f"{_OUR_BN}.{name}"]
        per_part = [value] * parts if name == "num_batches_tracked" else value.chunk(parts)
        theirs |= {f"{_OFFICIAL_BN}.{part}.{name}": v.clone() for part, v in enumerate(per_part)}
    return {PREFIX * prefix + key: value for key, value in theirs.items()}


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
