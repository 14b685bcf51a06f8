"""Layers with weights of their own for every body part, computed for all parts at once.

Inside the network a feature map is laid out as (P, N, T, C): parts, sequences, frames, channels. A map per part is then
one batched matrix product. Weights are kept in the shape of the authors' grouped convolutions, part p in rows
p·out … (p+1)·out−1, so that Xavier initialisation sees their fans and their checkpoints fit.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision values as float32, others as they are: for sums over time, batch statistics and scores."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class PartConv(nn.Module):
    """A convolution over time without bias, of its own for every part.

    Input (P, N, T, in), output (P, N, T, out). Frames outside the sequence count as zeros; `kernel` is odd.
    """

    def __init__(self, parts: int, in_channels: int, out_channels: int, kernel: int = 1) -> None:
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.empty(parts * out_channels, in_channels, kernel))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        _, sequences, frames, channels = x.shape
        kernel = self.weight.shape[-1]
        if kernel > 1:
            padded = F.pad(x, (0, 0, kernel // 2, kernel // 2))
            x = torch.cat([padded[:, :, k : k + frames] for k in range(kernel)], dim=-1)  # (P, N, T, kernel·in)
        weight = self.weight.view(self.parts, -1, channels, kernel)  # (P, out, in, kernel)
        weight = weight.permute(0, 3, 2, 1).flatten(1, 2)  # (P, kernel·in, out)
        return torch.bmm(x.flatten(1, 2), weight).unflatten(1, (sequences, frames))
