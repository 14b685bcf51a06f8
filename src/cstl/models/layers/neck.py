"""The batch-norm neck (BNNeck) of a part: cosines between normalised embeddings and class vectors."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.layers.batch_norm import PartBatchNorm
from cstl.models.layers.parts import at_least_float32, map_parts, part_matrix

NECK_NAMES = {"neck.norm": "BNNecks.bn1d", "neck.weight": "BNNecks.fc_bin"}  # in OpenGait's files


class BNNeck(nn.Module):
    """Normalise embeddings over the batch and to length 1, and compare them with every class's unit vector.

    Input (P, B, D), output logits (P, B, K): cosines, at least float32.
    """

    def __init__(self, parts: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = PartBatchNorm(parts, channels)
        self.weight = part_matrix(parts, channels, num_classes)

    def unit_vectors(self, x: Tensor) -> Tensor:
        """Return the unit vectors (P, B, D) that are compared with the classes'."""
        return F.normalize(self.norm(at_least_float32(x)[:, :, None]).squeeze(2), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return map_parts(self.unit_vectors(x), F.normalize(at_least_float32(self.weight), dim=1))


def parts_first(values: Tensor, parts: int) -> Tensor:
    """Put values of a flat embedding in our order, p·C + c, from one with the channels outside, c·P + p."""
    return values.unflatten(-1, (-1, parts)).transpose(-1, -2).flatten(-2)


def channels_first(values: Tensor, parts: int) -> Tensor:
    """Undo `parts_first`."""
    return values.unflatten(-1, (parts, -1)).transpose(-1, -2).flatten(-2)


def read_neck(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the vectors of the batch norm `neck.norm` in our order, from OpenGait's."""
    return _reordered(weights, parts_first)


def write_neck(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `read_neck`."""
    return _reordered(weights, channels_first)


def _reordered(weights: dict[str, Tensor], order: Callable[[Tensor, int], Tensor]) -> dict[str, Tensor]:
    parts = len(weights["neck.weight"])
    vectors = {k: order(v, parts) for k, v in weights.items() if k.startswith("neck.norm.") and v.ndim}
    return weights | vectors
