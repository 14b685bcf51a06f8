"""Batch normalisation of every part, by the statistics of a rank, of all ranks, or of a slice."""

from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from cstl.distributed import of_all_processes, world_size
from cstl.models.layers.gradients import moments
from cstl.models.layers.parts import at_least_float32

POPULATIONS = ("replica", "synchronised", "ghost")

Network = TypeVar("Network", bound=nn.Module)


class PartBatchNorm(nn.Module):
    """Batch normalisation with statistics of its own for every part and channel, over sequences and frames.

    Input (P, B, T, C), output the same; statistics are at least float32. `mask`, bool (B, T), leaves padded
    frames out of the statistics. As in PyTorch the running variance is the unbiased one.

    In training the batch of all ranks, in their order, is cut into equal consecutive slices of sequences, and
    each slice is normalised by its own statistics; the running statistics are those of the *first* slice, on
    all ranks. `set_batch_norm` chooses the slices:

    - replica: one for each rank.
    - synchronised: one for all ranks; on a single rank the same as replica.
    - ghost: `ghosts` of them, whatever the number of ranks. Two are what the authors trained with:
      DataParallel on two GPUs normalises each half of the batch by itself and keeps the first half's running
      statistics.

    In training all ranks must call it together. In evaluation it uses the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, parts: int, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.parts, self.eps, self.momentum = parts, eps, momentum
        self.population, self.ghosts = "replica", 2
        self.weight = nn.Parameter(torch.empty(parts * channels))
        self.bias = nn.Parameter(torch.zeros(parts * channels))
        nn.init.normal_(self.weight, 1.0, 0.02)
        self.register_buffer("running_mean", torch.zeros(parts * channels))
        self.register_buffer("running_var", torch.ones(parts * channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        dtype, x = x.dtype, at_least_float32(x)
        local_slices, ranks_per_slice = (
            slice_layout(self.population, self.ghosts, x.shape[1]) if self.training else (1, 1)
        )
        x = x.unflatten(1, (local_slices, -1))  # (P, S, B/S, T, C)
        if self.training:
            mean, variance = self._batch_statistics(x, mask, ranks_per_slice)  # (P, S, C)
        else:
            mean, variance = (r.view(self.parts, 1, -1) for r in (self.running_mean, self.running_var))
        scale = self.weight.view(self.parts, 1, -1) * torch.rsqrt(variance + self.eps)
        shift = self.bias.view(self.parts, 1, -1) - mean * scale
        normalised = torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])
        return normalised.flatten(1, 2).to(dtype)

    def _batch_statistics(
        self, x: Tensor, mask: Tensor | None, ranks_per_slice: int
    ) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance (P, S, C) of x (P, S, B/S, T, C); keep those of slice 0."""
        if mask is None:
            smallest = x.shape[2] * x.shape[3]
            count = x.new_full((x.shape[1], 1), smallest)  # (S, 1)
            mean, variance = moments(x)
        else:
            valid = mask.unflatten(0, x.shape[1:3])[None, ..., None].to(x.dtype)  # (1, S, B/S, T, 1)
            count = valid.sum((2, 3))[0]
            smallest = int(count.min())
            mean = (x * valid).sum((2, 3)) / count
            variance = ((x - mean[:, :, None, None]).square() * valid).sum((2, 3)) / count
        if ranks_per_slice > 1:
            count, mean, variance = _merge_moments(count, mean, variance, ranks_per_slice)
        elif smallest < 2:
            raise ValueError(
                "batch normalisation in training mode needs at least two values per part and channel, found "
                f"{smallest}: give it more sequences, or call .eval() first"
            )
        with torch.no_grad():
            unbiased = variance * (count / (count - 1))
            first = torch.stack([mean[:, 0].flatten(), unbiased[:, 0].flatten()])
            if world_size() > 1:
                distributed.broadcast(first, src=0)
            self.running_mean.lerp_(first[0], self.momentum)
            self.running_var.lerp_(first[1], self.momentum)
            self.num_batches_tracked.add_(1)
        return mean, variance


class _DividedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """PyTorch's batch norm, input (N, C, …), with the statistics that `PartBatchNorm` describes, over axis 0.

    Weights, buffers, their names and evaluation are PyTorch's own. Without running statistics
    (`track_running_stats=False`) an evaluation normalises each batch of a rank by itself, as PyTorch does.
    """

    population: str
    ghosts: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        local_slices, ranks_per_slice = slice_layout(self.population, self.ghosts, len(x))
        mean = variance = None
        momentum = 0.0
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            mean, variance = self.running_mean, self.running_var
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        if ranks_per_slice > 1:
            y = self._normalise_shared_slice(x, ranks_per_slice, momentum)
        else:  # the running statistics are those of the first slice
            running = [(mean, variance), *[(None, None)] * (local_slices - 1)]
            slices = [
                F.batch_norm(part, *statistics, self.weight, self.bias, True, momentum, self.eps)
                for part, statistics in zip(x.chunk(local_slices), running, strict=True)
            ]
            y = torch.cat(slices) if len(slices) > 1 else slices[0]
        if mean is not None and variance is not None and world_size() > 1:
            for statistic in (mean, variance):
                distributed.broadcast(statistic, src=0)
        return y

    def _normalise_shared_slice(self, x: Tensor, ranks_per_slice: int, momentum: float) -> Tensor:
        """Normalise by the statistics of a slice that this rank shares with others."""
        dtype, x = x.dtype, at_least_float32(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(x, axes, correction=0)  # (C,)
        count = x.new_full((1, 1), x.numel() // x.shape[1])
        count, mean, variance = _merge_moments(count, mean[None, None], variance[None, None], ranks_per_slice)
        mean, variance = mean.flatten(), variance.flatten()
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                unbiased = variance * (count / (count - 1)).squeeze()
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shape = (-1, *[1] * (x.ndim - 2))
        y = (x - mean.view(shape)) * scale.view(shape)
        return (y if self.bias is None else y + self.bias.view(shape)).to(dtype)


class DividedBatchNorm1d(_DividedBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` whose statistics `set_batch_norm` chooses."""


class DividedBatchNorm2d(_DividedBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics `set_batch_norm` chooses."""


class DividedBatchNorm3d(_DividedBatchNorm, nn.BatchNorm3d):
    """`nn.BatchNorm3d` whose statistics `set_batch_norm` chooses."""


_DIVIDED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: DividedBatchNorm1d,
    nn.BatchNorm2d: DividedBatchNorm2d,
    nn.BatchNorm3d: DividedBatchNorm3d,
}


def set_batch_norm(network: Network, population: str, ghosts: int = 2) -> Network:
    """Choose the statistics of every batch norm of a network, see `PartBatchNorm` → the network.

    PyTorch's `nn.BatchNorm1d`, `2d` and `3d` are changed in place into our subclasses of them: parameters,
    buffers, hooks and the keys of the state dict stay. Slices are consecutive and equal parts of their axis
    0, which may be sequences or, with the sequences as the *leading* factor, sequences × frames: (B, T, …)
    folded into (B·T, …).

    Args:
        network: weights and running statistics stay as they are.
        population: replica, synchronised or ghost.
        ghosts: slices of the batch, for ghost.

    Raises:
        ValueError: another population, no slice, or a batch norm of another kind, whose statistics cannot be
            chosen. With replica these may stay: they take those of their rank in any case.
    """
    if population not in POPULATIONS:
        raise ValueError(f"batch_norm is {population!r}; choose one of {', '.join(POPULATIONS)}")
    if ghosts < 1:
        raise ValueError(f"ghosts must be at least 1 (slices of a batch; the authors had 2), found {ghosts}")
    others = {
        name or "itself": type(module).__name__
        for name, module in network.named_modules()
        if _is_unknown(module)
    }
    if (others and population != "replica") or "SyncBatchNorm" in others.values():
        found = ", ".join(f"{name} ({kind})" for name, kind in list(others.items())[:5])
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise ValueError(
            f"batch_norm={population} cannot choose the statistics of {found}{more}: expected "
            "nn.BatchNorm1d, 2d or 3d themselves, already initialised; build the network with them, or "
            "leave the choice to it with model.batch_norm=null"
        )
    for module in network.modules():
        if type(module) in _DIVIDED:
            module.__class__ = _DIVIDED[type(module)]
        if isinstance(module, PartBatchNorm | _DividedBatchNorm):
            module.population, module.ghosts = population, ghosts
    return network


def slice_layout(population: str, ghosts: int, sequences: int) -> tuple[int, int]:
    """Return (local_slices, ranks_per_slice): a rank's batch has several slices, or ranks share one.

    Raises:
        ValueError: the slices do not come out even.
    """
    ranks = world_size()
    slices = {"replica": ranks, "synchronised": 1, "ghost": ghosts}[population]  # of all ranks
    if slices % ranks and ranks % slices:
        raise ValueError(
            f"batch_norm=ghost cannot cut the batch of {ranks} processes into ghosts={slices} slices: one of "
            f"the two numbers must divide the other; choose ghosts={ranks} or another number of processes"
        )
    local_slices = max(slices // ranks, 1)
    if sequences % local_slices:
        fitting = [n * ranks for n in range(1, sequences // 2 + 1) if sequences % n == 0]
        raise ValueError(
            f"batch_norm=ghost with ghosts={slices} cuts the {sequences} sequences of this process into "
            f"{local_slices} equal slices, which does not come out even; choose ghosts from "
            f"{fitting or [ranks]}, or a number of sequences that {local_slices} divides"
        )
    return local_slices, max(ranks // slices, 1)


def _is_unknown(module: nn.Module) -> bool:
    """Say whether a module is a batch norm of a kind whose statistics cannot be chosen."""
    known = PartBatchNorm | _DividedBatchNorm | nn.modules.instancenorm._InstanceNorm
    if type(module) in _DIVIDED or isinstance(module, known):
        return False
    buffers = dict(module.named_buffers(recurse=False))  # a compiled one has them too
    return "num_batches_tracked" in buffers or isinstance(module, nn.modules.batchnorm._BatchNorm)


def _merge_moments(
    count: Tensor, mean: Tensor, variance: Tensor, ranks: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return count (1, 1), mean and variance (P, 1, C) of a slice from those of this rank's share of it.

    Chan, Golub and LeVeque's formula; sums of squares would lose what the variance is about.
    """
    first = distributed.get_rank() // ranks * ranks
    share = torch.stack([count.expand_as(mean), mean, variance])  # (3, P, 1, C)
    shares = of_all_processes(share[None])[first : first + ranks]  # (ranks, 3, P, 1, C)
    counts, means, variances = shares.unbind(1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean).square())).sum(0) / total
    return total[0, :, :1], mean, variance
