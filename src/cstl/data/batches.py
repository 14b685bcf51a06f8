"""Which frames make a batch: in training a function of (seed, step), in tests by length."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class TrainIndex(NamedTuple):
    """One training batch by name.

    `rows` int64 (B, T), of a store's frames, −1 at the end of a clip that is shorter than others; `labels`
    int64 (B,), the sequences' classes; `lengths` int64 (B,), frames of each clip, None where all have T.
    """

    rows: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray | None = None


def consecutive(length: int, frames: int, spare: int, generator: np.random.Generator) -> np.ndarray:
    """Take consecutive frames from a random start, CSTL's rule.

    Where there are fewer but more than half, some drawn at random come twice; where there are half or less,
    the sequence is repeated.
    """
    if length >= frames:
        return generator.integers(length - frames + 1) + np.arange(frames)
    if 2 * length > frames:
        twice = generator.choice(length, frames - length, replace=False)
        return np.sort(np.concatenate([np.arange(length), twice]))
    return np.arange(frames) % length


def unordered(length: int, frames: int, spare: int, generator: np.random.Generator) -> np.ndarray:
    """Take different frames in random order; some come again only where the sequence is shorter."""
    return generator.choice(length, frames, replace=length < frames)


def with_repeats(length: int, frames: int, spare: int, generator: np.random.Generator) -> np.ndarray:
    """Draw every frame from all of the sequence, so that one may come again."""
    return generator.integers(length, size=frames)


def thinned(length: int, frames: int, spare: int, generator: np.random.Generator) -> np.ndarray:
    """Take a random window of `frames` + `spare` consecutive frames, and keep `frames` of them, in order.

    A sequence that is shorter is first repeated from end to end. With `spare` 0 it is a window of consecutive
    frames.
    """
    window = frames + spare
    start = generator.integers(
        -(-window // length) * length - window + 1 if length < window else length - window + 1
    )
    kept = np.sort(generator.choice(window, frames, replace=False)) if spare else np.arange(frames)
    return (start + kept) % length


# (length of the sequence, frames, spare, generator) → which frames to take of it, int64 (frames,)
CLIPS = {"consecutive": consecutive, "unordered": unordered, "with_repeats": with_repeats, "thinned": thinned}


class TrainBatches(Sampler[TrainIndex]):
    """Subjects × sequences × frames of steps `start` … `steps` − 1; its length stays `steps`, for resumption.

    The global batch is drawn, then sharded: each rank takes subjects / `processes` subjects of it, in order
    of rank.

    Args:
        labels: class of every sequence of the store, int64 (N,), −1 for those that are not trained on.
        starts: first frame of every sequence in the store, int64 (N,).
        lengths: frames of every sequence, int64 (N,).
        subjects: of a batch, drawn without replacement.
        sequences: of each subject, drawn with replacement; B = subjects × sequences.
        frames: T, of each sequence; or the least and the most, of which each clip draws its own number.
        clip: a name in `CLIPS`: which frames of a sequence make a clip.
        spare: further frames of the window that a thinned clip is taken from.
        repeat_sequences: False: a subject's sequences come again only where it has fewer than `sequences`.
        steps: number of batches of the run.
        seed: non-negative.
        start: the first step, where a run goes on.
        rank, processes: which share of each batch, of how many.

    Raises:
        ValueError: fewer subjects than a batch needs, or ones that cannot be split evenly.
    """

    def __init__(
        self,
        labels: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        *,
        subjects: int,
        sequences: int,
        frames: int | Sequence[int],
        steps: int,
        seed: int,
        clip: str = "consecutive",
        spare: int = 0,
        repeat_sequences: bool = True,
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
        check_divisible(subjects, processes)
        if clip not in CLIPS:
            raise ValueError(f"data.clip is {clip!r}; choose one of {', '.join(CLIPS)}")
        self.subjects, self.sequences = subjects, sequences
        self.shortest, self.frames = (frames, frames) if isinstance(frames, int) else frames
        if not 1 <= self.shortest <= self.frames:
            raise ValueError(f"data.frames is {frames}; expected a number of at least 1, or [LEAST, MOST]")
        self.clip, self.spare, self.repeat_sequences = clip, spare, repeat_sequences
        self.steps, self.seed, self.start = steps, seed, start
        share = subjects * sequences // processes
        self.share = slice(rank * share, (rank + 1) * share)

    def batch(self, step: int) -> TrainIndex:
        """Draw the global batch of one step: the sequences of a subject one after another."""
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        classes = generator.choice(len(self.counts), self.subjects, replace=False)[:, None]  # (subjects, 1)
        picks = self._pick(self.counts[classes], generator)  # (subjects, sequences)
        chosen = self.order[self.firsts[classes] + picks].ravel()  # (B,)
        labels = np.repeat(classes, self.sequences)
        room = self.lengths[chosen] - self.frames
        if self.clip == "consecutive" and self.shortest == self.frames and (room >= 0).all():
            # Drawn at once: five times faster.
            windows = generator.integers(room + 1)[:, None] + np.arange(self.frames)
            return TrainIndex(self.starts[chosen, None] + windows, labels)
        rows = np.full((len(chosen), self.frames), -1)
        lengths = np.full(len(chosen), self.frames)
        if self.shortest < self.frames:
            lengths = generator.integers(self.shortest, self.frames + 1, size=len(chosen))
        for row, start, available, frames in zip(
            rows, self.starts[chosen], self.lengths[chosen], lengths, strict=True
        ):
            row[:frames] = start + CLIPS[self.clip](int(available), int(frames), self.spare, generator)
        return TrainIndex(rows, labels, lengths if self.shortest < self.frames else None)

    def _pick(self, counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Draw sequences of each subject out of its `counts` (subjects, 1): int64 (subjects, sequences)."""
        if self.repeat_sequences:
            return generator.integers(counts, size=(self.subjects, self.sequences))
        size = self.sequences
        return np.stack(
            [generator.choice(count, size, replace=count < size) for count in counts[:, 0].tolist()]
        )

    def __iter__(self) -> Iterator[TrainIndex]:
        for step in range(self.start, self.steps):
            rows, labels, lengths = self.batch(step)
            share = self.share
            yield TrainIndex(rows[share], labels[share], None if lengths is None else lengths[share])

    def __len__(self) -> int:
        return self.steps


def check_divisible(subjects: int, processes: int) -> None:
    """Refuse subjects that cannot be split evenly across the processes: ValueError with what would work."""
    if subjects % processes:
        fitting = [str(n) for n in range(1, subjects + 1) if subjects % n == 0]
        below, above = subjects // processes * processes, -(-subjects // processes) * processes
        others = " or ".join(f"data.subjects={n}" for n in dict.fromkeys((below, above)) if n)
        raise ValueError(
            f"a batch of {subjects} subjects cannot be split evenly across {processes} processes: take "
            f"{', '.join(fitting)} of them (trainer.devices × trainer.num_nodes), or {others}"
        )


def length_buckets(
    lengths: Sequence[int] | np.ndarray, budget: int, padding: float = 0.1
) -> list[np.ndarray]:
    """Group sequences into batches by length, the longest first.

    Args:
        lengths: frames of every sequence, (N,).
        budget: most frames of a batch, padding included; a longer sequence has a batch of its own.
        padding: largest share of a batch that may be padding.

    Returns:
        Batches of positions in `lengths`, int64 (B,) each; every position is in one of them.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    batches, first, frames = [], 0, 0
    for last, length in enumerate(lengths[order].tolist()):
        longest = int(lengths[order[first]])
        size = (last - first + 1) * longest
        if last > first and (size > budget or size - frames - length > padding * size):
            batches.append(order[first:last])
            first, frames = last, 0
        frames += length
    return [*batches, order[first:]] if len(order) else []
