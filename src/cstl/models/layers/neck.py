"""The batch-norm neck (BNNeck) of a part: cosines between normalised embeddings and class vectors."""

from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models.layers.batch_norm import PartBatchNorm
from cstl.models.layers.parts import at_least_float32, map_parts, part_matrix


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
