"""Which frames make batch i: a function of (seed, step) and of nothing else; and how test sequences share batches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class TrainIndex(NamedTuple):
    """One training batch by name: rows of a store's frames, int64 (B, T), and the sequences' classes, int64 (B,)."""

    rows: np.ndarray
    labels: np.ndarray


def frame_window(length: int, frames: int, generator: np.random.Generator) -> np.ndarray:
    """Which `frames` frames to take of a sequence of `length`, in order: int64 (frames,).

    Consecutive ones from a random start; where there are fewer but more than half, some drawn at random come twice;
    where there are half or less, the sequence is repeated.
    """
    if length >= frames:
        return generator.integers(length - frames + 1) + np.arange(frames)
    if 2 * length > frames:
        twice = generator.choice(length, frames - length, replace=False)
        return np.sort(np.concatenate([np.arange(length), twice]))
    return np.arange(frames) % length


class TrainBatches(Sampler[TrainIndex]):
    """P subjects × K sequences × T frames, for steps `start` … `steps` − 1; its length stays `steps`, for resumption.

    The whole batch is drawn, then dealt: each process takes P / `processes` subjects of it, in the order of the ranks.

    Args:
        labels: class of every sequence of the store, int64 (N,), −1 for those that are not trained on.
        starts: first frame of every sequence in the store, int64 (N,).
        lengths: frames of every sequence, int64 (N,).
        subjects: P, drawn without replacement.
        sequences: K, of each subject, drawn with replacement.
        frames: T, see `frame_window`.
        steps: number of batches of the whole run.
        seed: non-negative.
        start: the first step, where a run goes on.
        rank, processes: which share of each batch, of how many.

    Raises:
        ValueError: fewer subjects than a batch needs, or ones that cannot be dealt evenly.
    """

    def __init__(
        self,
        labels: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        *,
        subjects: int,
        sequences: int,
        frames: int,
        steps: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        chosen = np.flatnonzero(labels >= 0)
        self.order = chosen[np.argsort(labels[chosen], kind="stable")]  # sequences of class 0, of class 1, …
        self.counts = np.bincount(labels[chosen])  # (classes,)
        self.firsts = np.cumsum(self.counts) - self.counts
        self.starts, self.lengths = starts, lengths
        if len(self.counts) < subjects:
            raise ValueError(
                f"a batch needs {subjects} subjects, the store has training sequences of {len(self.counts)}; "
                f"ask for fewer (data.subjects={max(len(self.counts), 1)}) or prepare more"
            )
        check_deal(subjects, processes)
        self.subjects, self.sequences, self.frames = subjects, sequences, frames
        self.steps, self.seed, self.start = steps, seed, start
        share = subjects * sequences // processes
        self.share = slice(rank * share, (rank + 1) * share)

    def batch(self, step: int) -> TrainIndex:
        """The whole batch of one step: the sequences of a subject one after another."""
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        classes = generator.choice(len(self.counts), self.subjects, replace=False)[:, None]  # (P, 1)
        picks = generator.integers(self.counts[classes], size=(self.subjects, self.sequences))  # (P, K)
        chosen = self.order[self.firsts[classes] + picks].ravel()  # (B,)
        room = self.lengths[chosen] - self.frames
        if (room >= 0).all():  # the same numbers as below, drawn at once: five times faster
            windows = generator.integers(room + 1)[:, None] + np.arange(self.frames)
        else:
            windows = np.stack([frame_window(n, self.frames, generator) for n in self.lengths[chosen].tolist()])
        return TrainIndex(self.starts[chosen, None] + windows, np.repeat(classes, self.sequences))

    def __iter__(self) -> Iterator[TrainIndex]:
        for step in range(self.start, self.steps):
            rows, labels = self.batch(step)
            yield TrainIndex(rows[self.share], labels[self.share])

    def __len__(self) -> int:
        return self.steps


def check_deal(subjects: int, processes: int) -> None:
    """Refuses processes that a batch's subjects cannot be dealt to evenly: ValueError with what would work."""
    if subjects % processes:
        fitting = [str(n) for n in range(1, subjects + 1) if subjects % n == 0]
        below, above = subjects // processes * processes, -(-subjects // processes) * processes
        others = " or ".join(f"data.subjects={n}" for n in dict.fromkeys((below, above)) if n)
        raise ValueError(
            f"a batch of {subjects} subjects cannot be dealt evenly to {processes} processes: take "
            f"{', '.join(fitting)} of them (trainer.devices × trainer.num_nodes), or {others}"
        )


def length_buckets(lengths: Sequence[int] | np.ndarray, budget: int, padding: float = 0.1) -> list[np.ndarray]:
    """Deal sequences to batches by length, the longest first.

    Args:
        lengths: frames of every sequence, (N,).
        budget: most frames of a batch, padding included; a longer sequence has a batch of its own.
        padding: largest share of a batch that may be padding.

    Returns:
        Batches of positions in `lengths`, int64 (B,) each; every position is in one of them.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    batches, first, held = [], 0, 0
    for last, length in enumerate(lengths[order].tolist()):
        longest = int(lengths[order[first]])
        size = (last - first + 1) * longest
        if last > first and (size > budget or size - held - length > padding * size):
            batches.append(order[first:last])
            first, held = last, 0
        held += length
    return [*batches, order[first:]] if len(order) else []
