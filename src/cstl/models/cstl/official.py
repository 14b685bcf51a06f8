"""The weights of CSTL as the authors' code has them."""

from collections.abc import Mapping

from torch import Tensor

from cstl.models.cstl.network import CSTL
from cstl.models.published import Form, StateDict, published, recognise, stacked, unstacked

PREFIX = "module."  # the authors trained under DataParallel
CLASSES = "ssfl.class_weight"  # one column a training subject
_CLASS_NORM = "ssfl.class_norm"  # theirs: one batch norm a part

AUTHORS = Form(
    "the authors' weights",
    {
        **{f"encoder.conv{i}": f"conv2d_{i}.forward_block.conv2d" for i in (1, 2, 3, 4)},
        "mste.short_conv1": "multi_scale.short_term.0.0",
        "mste.short_norm1": "multi_scale.short_term.0.1",
        "mste.short_conv2": "multi_scale.short_term.1.0",
        "mste.short_norm2": "multi_scale.short_term.1.1",
        "mste.long_in": "multi_scale.score.0",
        "mste.long_norm": "multi_scale.score.1",
        "mste.long_out": "multi_scale.score.3",
        "ata.in_conv": "adaptive_aggregation.in_conv",
        "ata.out_conv": "adaptive_aggregation.out_conv",
        "ssfl.score_in": "salient_learning.part_score.0",
        "ssfl.score_norm": "salient_learning.part_score.1",
        "ssfl.score_out": "salient_learning.part_score.3",
        "ssfl.decay": "salient_learning.decay_channel",
        _CLASS_NORM + ".{}": "salient_learning.bn.{}",
        CLASSES: "salient_learning.fc",
        "embedding": "fc_bin",
    },
    read=lambda weights: stacked(weights, _CLASS_NORM),
    write=lambda weights: unstacked(weights, _CLASS_NORM, len(weights["embedding"])),
)
CSTL.forms = {"authors": AUTHORS}


def from_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Turn the authors' `state_dict`, with or without `module.` before its keys, into one for `CSTL`.

    Raises:
        ValueError: for keys that the authors' network does not have, or lacks, and for shapes that do not
            belong together.
    """
    return recognise({key.removeprefix(PREFIX): state_dict[key] for key in state_dict}, [CSTL]).weights


def to_official(state_dict: Mapping[str, Tensor], prefix: bool = False) -> StateDict:
    """Turn a `CSTL`'s `state_dict` into the authors'; `prefix` puts `module.` before each key, as they do.

    Raises:
        ValueError: an ablated network, which the authors' code has no place for.
    """
    theirs = published(AUTHORS, state_dict)
    recognise(theirs, [CSTL])
    return {PREFIX * prefix + key: value for key, value in theirs.items()}
