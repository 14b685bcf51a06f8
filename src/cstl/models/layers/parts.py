"""Layers with weights of their own for every body part, computed for all parts at once.

Inside the network a feature map is laid out as (P, B, T, C): parts, sequences, frames, channels. A map per
part is then one batched matrix product. Weights are kept in the shape of the authors' grouped convolutions,
part p in rows p·out … (p+1)·out−1, so that Xavier initialisation sees their fans and their checkpoints fit.
"""

import torch
from torch import Tensor, nn

from cstl.models.layers.gradients import windows


def at_least_float32(x: Tensor) -> Tensor:
    """Turn half precision into float32: for sums over time, batch statistics and scores."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class PartConv(nn.Module):
    """Convolve over time without bias, every part with weights of its own.

    Input (P, B, T, in), output (P, B, T, out). Frames outside the sequence count as zeros; `kernel` is odd.
    With kernel 1 several inputs stand for their concatenation along the channels, which is then never made;
    one of a single frame, (P, B, 1, channels), is the same in all frames and multiplied once.
    """

    def __init__(self, parts: int, in_channels: int, out_channels: int, kernel: int = 1) -> None:
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.empty(parts * out_channels, in_channels, kernel))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, *inputs: Tensor) -> Tensor:
        _, channels, kernel = self.weight.shape
        weight = self.weight.view(self.parts, -1, channels, kernel)  # (P, out, in, kernel)
        weight = weight.permute(0, 3, 2, 1).flatten(1, 2)  # (P, kernel·in, out)
        if kernel > 1:
            inputs = (windows(inputs[0], kernel),)
        weights = weight.split([x.shape[-1] for x in inputs], dim=1)
        outputs = [
            torch.bmm(x.flatten(1, 2), w).unflatten(1, x.shape[1:3])
            for x, w in zip(inputs, weights, strict=True)
        ]
        return sum(outputs[1:], outputs[0])


def part_matrix(parts: int, in_channels: int, out_channels: int) -> nn.Parameter:
    """Make a matrix for each part, (P, in, out), initialised as the one tensor that it is."""
    weight = nn.Parameter(torch.empty(parts, in_channels, out_channels))
    nn.init.xavier_uniform_(weight)
    return weight


def map_parts(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply each part with its own matrix, at least in float32: (P, B, in), (P, in, out) → (P, B, out)."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.bmm(at_least_float32(x), at_least_float32(weight))
