"""From a map to parts: horizontal strips, alone or as a pyramid."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cstl.models.layers.gradients import pool_parts

PYRAMID = (16, 8, 4, 2, 1)  # strips of each level, in the order of the parts


def strips(x: Tensor, parts: int) -> Tensor:
    """Cut maps (n, C, H, W) into equal horizontal strips, the topmost first → (n, P, pixels, C)."""
    return x.permute(0, 2, 3, 1).unflatten(1, (parts, -1)).flatten(2, 3)


def pool_strips(x: Tensor, parts: int) -> Tensor:
    """Add maximum and mean of each strip of maps (n, C, H, W) → (n, P, C)."""
    return pool_parts(strips(x, parts))


def pool_pyramid(x: Tensor, levels: Sequence[int] = PYRAMID) -> Tensor:
    """Pool maps (n, C, H, W) strip by strip at several levels → (n, P, C), P the sum of the levels."""
    return torch.cat([pool_strips(x, level) for level in levels], dim=1)
