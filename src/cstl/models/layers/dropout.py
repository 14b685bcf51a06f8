"""Dropout that is the same on however many processes."""

import torch
from torch import Tensor, distributed, nn

from cstl.distributed import world_size


class Dropout(nn.Module):
    """Set values to zero in training and make up for them, as `nn.Dropout`, input (B, …).

    What is kept is drawn for the sequences of all processes, of which each takes its own: where all have the
    same seed, as within a step of `cstl.recognizer`, three processes drop what one drops.

    Args:
        probability: share of the values that become zero.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"dropout is {probability}; expected a share of at least 0 and below 1")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        ranks = world_size()
        rank = distributed.get_rank() if ranks > 1 else 0
        drawn = torch.rand(ranks * len(x), *x.shape[1:], device=x.device)[rank * len(x) : (rank + 1) * len(x)]
        return torch.where(drawn < self.probability, 0, x / (1 - self.probability))

    def extra_repr(self) -> str:
        """Show the probability in the printed module."""
        return f"{self.probability}"
