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


class PartBatchNorm(nn.Module):
    """Batch normalisation with statistics of its own for every part and channel, over sequences and frames.

    Input (P, N, T, C), output the same; statistics are at least float32. `mask`, bool
    (N, T), leaves padded frames out of the statistics. As in PyTorch the running variance is the unbiased one.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, parts: int, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.parts, self.eps, self.momentum = parts, eps, momentum
        self.weight = nn.Parameter(torch.empty(parts * channels))
        self.bias = nn.Parameter(torch.zeros(parts * channels))
        nn.init.normal_(self.weight, 1.0, 0.02)
        self.register_buffer("running_mean", torch.zeros(parts * channels))
        self.register_buffer("running_var", torch.ones(parts * channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        dtype, x = x.dtype, at_least_float32(x)
        if self.training:
            mean, variance = self._batch_statistics(x, mask)
        else:
            mean, variance = self.running_mean.view(self.parts, -1), self.running_var.view(self.parts, -1)
        scale = self.weight.view(self.parts, -1) * torch.rsqrt(variance + self.eps)
        shift = self.bias.view(self.parts, -1) - mean * scale  # (P, C)
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None]).to(dtype)

    def _batch_statistics(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if mask is None:
            count = x.shape[1] * x.shape[2]
            variance, mean = torch.var_mean(x, dim=(1, 2), correction=0)  # (P, C)
        else:
            count = int(mask.sum())
            valid = mask[None, :, :, None].to(x.dtype)
            mean = (x * valid).sum((1, 2)) / count
            variance = ((x - mean[:, None, None]).square() * valid).sum((1, 2)) / count
        if count < 2:
            raise ValueError(
                "batch normalisation in training mode needs at least two values per part and channel, found "
                f"{count}: give it more sequences, or call .eval() first"
            )
        with torch.no_grad():
            self.running_mean.lerp_(mean.flatten(), self.momentum)
            self.running_var.lerp_(variance.flatten() * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)
        return mean, variance
