"""Networks in plain PyTorch, and what every one of them promises.

A network is any `nn.Module` with

    forward(silhouettes: float (B, T, H, W) in [0, 1], lengths: int (B,) | None) -> Output

where `lengths` counts the valid frames of each sequence, and what follows them is not looked at; None: all T.
Its class may take `num_classes`, the number of training subjects K, and may have
`attention(silhouettes, lengths)` for pictures and a classmethod `from_published(state_dict)` that makes it
with the weights that others share. `cstl.models.reference` tells the CSTL paper in one sitting,
`cstl.models.cstl.network` is the same network as it is trained; its peers have a file each.
"""

from typing import NamedTuple

from torch import Tensor

from cstl.models.published import PublishedNetwork


class Output(NamedTuple):
    """A network's output for B sequences: P parts, D embedding values, K classes.

    Attributes:
        embeddings: (B, P, D), at least float32: what is compared, part by part; in training what the triplet
            loss sees.
        logits: (B, P, K), what cross-entropy trains; None: the network trains by triplets alone.
    """

    embeddings: Tensor
    logits: Tensor | None


from cstl.models.cstl.ablations import AblatedCSTL  # noqa: E402  (they need Output)
from cstl.models.cstl.network import CSTL, Attention  # noqa: E402
from cstl.models.deepgaitv2 import DeepGaitV2  # noqa: E402
from cstl.models.gaitbase import GaitBase  # noqa: E402
from cstl.models.gaitgl import GaitGL  # noqa: E402
from cstl.models.gaitpart import GaitPart  # noqa: E402
from cstl.models.gaitset import GaitSet  # noqa: E402
from cstl.models.gln import GLN  # noqa: E402
from cstl.models.layers.batch_norm import set_batch_norm  # noqa: E402
from cstl.models.mt3d import MT3D  # noqa: E402

__all__ = [
    "CSTL",
    "GLN",
    "MT3D",
    "NETWORKS",
    "AblatedCSTL",
    "Attention",
    "DeepGaitV2",
    "GaitBase",
    "GaitGL",
    "GaitPart",
    "GaitSet",
    "Output",
    "set_batch_norm",
]

# Every network here, by the name of its file in conf/model.
NETWORKS: dict[str, type[PublishedNetwork]] = {
    name.lower(): network
    for name, network in list(vars().items())
    if isinstance(network, type) and issubclass(network, PublishedNetwork) and name in __all__
}
