"""Tensors of all ranks of a run in one, on any device and with gradient."""

from typing import Any

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """Return how many processes train together."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def of_all_processes(x: Tensor) -> Tensor:
    """Concatenate the tensors of all ranks, in their order: (B, …) on each → (ranks · B, …).

    The gradient of a rank's own share is the sum of the gradients that all ranks have for it. All ranks must
    call this together, with one shape.
    """
    if world_size() == 1:
        return x
    table = x.new_zeros(world_size(), *x.shape)
    table[distributed.get_rank()] = x
    return _Sum.apply(table).flatten(0, 1)


class _Sum(torch.autograd.Function):
    """The sum over all ranks, whose gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total
