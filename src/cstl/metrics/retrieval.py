"""Distances between sequences, and how well the matches of a probe rank: functions over tensors.

On the CPU the work is cut into pieces that a matrix product fills, and each of several threads computes one
piece after the other by itself. Small operations that all threads share would wait for each other, thousands
of times, and ten times as long where another program keeps one core busy. The pieces follow from the shapes
alone, so that the number of threads changes no digit.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

DISTANCES = ("euclidean", "cosine")
_ROWS, _COLUMNS = 512, 2304  # of a block of distances, at most: 4.5 MB, which stay in a cache
RANKED = 128  # rows that are ranked at once, whose copies stay there too
_AT_ONCE = 8  # blocks come in multiples of so many, so that up to so many threads have equally much to do
_VALUES = 2**23  # embedding values that are laid out part by part at once
_MANY = 32  # matches of a probe from which on sorting the gallery is faster than a comparison for each

ForEach = Callable[[Callable[[Any], None], Iterable[Any]], None]


class Sequences(NamedTuple):
    """The embeddings of n sequences, as they lie in batches (B, P, D): nothing is copied."""

    batches: list[Tensor]
    batch: Tensor  # int64 (n,): which of them
    row: Tensor  # int64 (n,): which row of it

    @property
    def shape(self) -> tuple[int, int, int]:
        """Give n, the number of parts and the number of values."""
        return len(self.batch), *self.batches[0].shape[1:]

    def select(self, rows: slice) -> "Sequences":
        return Sequences(self.batches, self.batch[rows], self.row[rows])

    def write(self, part: int, out: Tensor) -> None:
        """Copy one part of all of them into `out`, (n, D) of any floating dtype."""
        for number, batch in enumerate(self.batches):
            places = (self.batch == number).nonzero().squeeze(1)
            rows = self.row[places].to(batch.device)
            out[places.to(batch.device)] = batch[:, part].index_select(0, rows).to(out.dtype)


def distances(probes: Tensor, gallery: Tensor, distance: str = "euclidean") -> Tensor:
    """Compute the distances that gait papers rank by: the mean over the parts of the distances part by part.

    Args:
        probes, gallery: float (n, P, D) and (G, P, D), any floating dtype.
        distance: "euclidean", or "cosine", 1 minus the cosine.

    Returns:
        (n, G), float32, or float64 where one of them is.

    Raises:
        ValueError: shapes that do not go together, or another distance.

    Example:
        >>> distances(torch.zeros(1, 2, 2), torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]))
        tensor([[3.]])
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}; choose one of {', '.join(DISTANCES)}")
    if probes.ndim != 3 or gallery.ndim != 3 or probes.shape[1:] != gallery.shape[1:]:
        raise ValueError(
            "expected embeddings (n, P, D) and (G, P, D) of the same parts and values, found "
            f"{tuple(probes.shape)} and {tuple(gallery.shape)}"
        )
    x, y = (
        Sequences([v.detach()], torch.zeros(len(v), dtype=torch.int64), torch.arange(len(v)))
        for v in (probes, gallery)
    )
    with own_threads(probes.device) as for_each:
        return total_distances(x, y, distance, for_each)


@contextmanager
def own_threads(device: torch.device) -> Iterator[ForEach]:
    """Give the function that calls another for every item, on the CPU in threads of their own."""

    def here(work: Callable[[Any], None], items: Iterable[Any]) -> None:
        for item in items:
            work(item)

    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield here
        return
    inference = torch.is_inference_mode_enabled()  # which threads do not inherit

    def work_as_here(work: Callable[[Any], None], item: Any) -> None:
        with torch.inference_mode(inference):
            work(item)

    torch.set_num_threads(1)  # each thread computes by itself
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:

            def for_each(work: Callable[[Any], None], items: Iterable[Any]) -> None:
                for _ in pool.map(partial(work_as_here, work), items):
                    pass

            yield for_each
    finally:
        torch.set_num_threads(threads)


def blocks(count: int, most: int, multiple: int = 1) -> list[slice]:
    """Cut rows into blocks of equal size, at most `most`; their number is a multiple of `multiple`."""
    number = -(-count // (most * multiple)) * multiple
    size = max(-(-count // max(number, 1)), 1)
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def total_distances(probes: Sequences, gallery: Sequences, distance: str, for_each: ForEach) -> Tensor:
    """Compute `distances` of embeddings that need not lie in one tensor, some parts at a time."""
    (n, parts, values), count = probes.shape, gallery.shape[0]
    device = probes.batches[0].device
    dtype = torch.promote_types(probes.batches[0].dtype, gallery.batches[0].dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    at_once = min(max(_VALUES // max((n + count) * (values + 2), 1), 1), parts)
    total = torch.zeros(n, count, dtype=dtype, device=device)
    x, y = (torch.empty(at_once, rows, values + 2, dtype=dtype, device=device) for rows in (n, count))
    on_cpu = device.type == "cpu"
    row_blocks = blocks(n, _ROWS, _AT_ONCE) if on_cpu else blocks(n, 2**13)
    column_blocks = blocks(count, _COLUMNS) if on_cpu else [slice(0, count)]

    def lay_out(job: tuple[Sequences, int, Tensor, bool]) -> None:
        sequences, part, place, last = job
        sequences.write(part, place[:, :-2])
        _lift(place, distance, last)

    for first in range(0, parts, at_once):
        numbers = range(first, min(first + at_once, parts))
        jobs = [(probes, part, x[i], False) for i, part in enumerate(numbers)]
        for_each(lay_out, jobs + [(gallery, part, y[i], True) for i, part in enumerate(numbers)])

        def add(rows: slice, count: int = len(numbers)) -> None:
            for columns in column_blocks:
                place = total[rows, columns]
                out = torch.empty_like(place, memory_format=torch.contiguous_format)
                with torch.autocast(device.type, enabled=False):
                    for a, b in zip(x[:count, rows], y[:count, columns], strict=True):
                        torch.addmm(out, a, b.T, beta=0, alpha=-2 if distance == "euclidean" else -1, out=out)
                        place += out.relu_().sqrt_() if distance == "euclidean" else out

        for_each(add, row_blocks)
    return total.div_(max(parts, 1))


def _lift(x: Tensor, distance: str, last: bool) -> None:
    """Fill the last two of D + 2 values, so that −2xy is |x − y|², and −xy 1 minus the cosine."""
    vectors = x[:, :-2]
    norm = torch.linalg.vector_norm(vectors, dim=1)
    if distance == "cosine":
        vectors /= norm[:, None].clamp_min(1e-12)
        norm = torch.ones_like(norm)
    half = norm.square() / -2
    x[:, -2], x[:, -1] = (1, half) if last else (half, 1)


class Ranked(NamedTuple):
    """How well the matches of n probes rank in a gallery.

    Attributes:
        impostors_ahead: (n,), gallery sequences of other subjects that are at most as far as the nearest
            match; NaN without a match. The probe is recognised at rank k where this is below k.
        average_precision: (n,), the mean, over the probe's matches, of the precision at the match; NaN
            without one.
        inverse_negative_penalty: (n,), matches divided by the rank of the hardest (Ye et al., TPAMI 2021).
        nearest, match: int64 (n,), column of the nearest sequence, and of the nearest match; −1 where there
            is none.
        nearest_distance, match_distance: (n,), theirs; infinite where there is none.
    """

    impostors_ahead: Tensor
    average_precision: Tensor
    inverse_negative_penalty: Tensor
    nearest: Tensor
    nearest_distance: Tensor
    match: Tensor
    match_distance: Tensor


def rank(near: Tensor, own: Tensor) -> Ranked:
    """Rank the gallery for each probe; of sequences equally near, those of other subjects come first.

    Args:
        near: distances (n, G); infinite where a sequence is hidden from the probe.
        own: bool (n, G), where probe and gallery sequence have the same subject.
    """
    own = own & ~near.isinf()
    matches = own.sum(1)  # (n,)
    most = max(1, int(matches.max())) if len(matches) else 1
    matching = near.masked_fill(~own, torch.inf)
    others = near.masked_fill(own, torch.inf)
    of_match = matching.topk(
        most, 1, largest=False
    ).values  # (n, most), sorted, infinite beyond the probe's matches
    if most > _MANY:
        ahead = torch.searchsorted(others.sort(1).values, of_match, right=True).double()
    else:
        flags = torch.empty_like(others)  # 0 or 1; six times faster to sum than booleans
        ahead = torch.stack(
            [torch.le(others, of_match[:, k : k + 1], out=flags).sum(1) for k in range(most)], 1
        ).double()
    order = torch.arange(1, most + 1, device=near.device)
    beyond = order > matches[:, None]
    ahead = ahead.masked_fill(beyond, 0)
    precision = (order / (order + ahead)).masked_fill(beyond, 0).sum(1) / matches
    penalty = matches / (matches + ahead.amax(1))
    first = ahead[:, 0].masked_fill(matches == 0, torch.nan)
    return Ranked(first, precision, penalty, *_nearest(near), *_nearest(matching))


def _nearest(near: Tensor) -> tuple[Tensor, Tensor]:
    """Find the column of the nearest, −1 where all are infinite, and its distance."""
    distance, column = near.min(1)
    return column.masked_fill(distance.isinf(), -1), distance.double()
