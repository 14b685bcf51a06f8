"""Batches of a prepared store, for Lightning."""

import signal
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from cstl.data.batches import TrainBatches, TrainIndex, length_buckets
from cstl.data.protocol import Protocol
from cstl.data.store import Store, open_store

EVAL_FRAMES = 2000  # of a test batch: 5.6 MB of silhouettes at 64×44


class TrainBatch(NamedTuple):
    """Silhouettes, uint8 (B, T, H, W), and the class of each sequence, int64 (B,).

    `lengths` int64 (B,), valid frames of each clip, where they differ; None: all T.
    """

    silhouettes: Tensor
    labels: Tensor
    lengths: Tensor | None = None


class TestBatch(NamedTuple):
    """Complete sequences, padded with zeros at the end, and their labels.

    `silhouettes` uint8 (B, T, H, W); `lengths` int64 (B,), valid frames; `subject`, `condition`, `view` int64
    (B,), positions in `GaitDataModule.test_subjects` and in the protocol's conditions and views; `sequence`
    int64 (B,), the line of the store's table.
    """

    silhouettes: Tensor
    lengths: Tensor
    subject: Tensor
    condition: Tensor
    view: Tensor
    sequence: Tensor


class TestIndex(NamedTuple):
    """A `TestBatch` by name: rows of the store's frames, int64 (B, T), −1 for padding."""

    rows: np.ndarray
    lengths: np.ndarray
    subject: np.ndarray
    condition: np.ndarray
    view: np.ndarray
    sequence: np.ndarray


class StoreFrames(Dataset):
    """Batches gathered out of a store's memory-mapped frames, each by a `TrainIndex` or `TestIndex`.

    An index says everything about its batch, so a worker reads no table and its memory does not grow with the
    store.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def __getitem__(self, index: TrainIndex | TestIndex) -> TrainBatch | TestBatch:
        silhouettes = torch.from_numpy(_gather(np.asarray(self.store.frames), index.rows))  # (B, T, H, W)
        others = (None if column is None else torch.from_numpy(column) for column in index[1:])
        return (TrainBatch if isinstance(index, TrainIndex) else TestBatch)(silhouettes, *others)  # type: ignore[arg-type]


class TestBatches(Sampler[TestIndex]):
    """All sequences that are gallery or probe, complete, those of similar length together.

    The batches are the same for any number of `processes`, which take them in turns. One without any gets an
    empty batch: Lightning leaves an evaluation out on a rank without batches, and the others would wait for
    it.
    """

    def __init__(
        self,
        store: Store,
        protocol: Protocol,
        subjects: list[str],
        eval_frames: int,
        max_frames: int | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        probes = [*protocol.probes.values(), *protocol.cross_view_probes.values()]
        tested = sorted(set().union(protocol.gallery, protocol.cross_view_gallery, *probes))
        self.store, self.protocol, self.subjects = store, protocol, subjects
        self.sequences = np.flatnonzero(
            np.isin(store.subjects, subjects)
            & np.isin(store.conditions, tested)
            & np.isin(store.views, protocol.views)
        )
        self.lengths = np.minimum(store.lengths, max_frames or store.lengths.max(initial=1))
        buckets = length_buckets(self.lengths[self.sequences], eval_frames)
        self.buckets = [self.sequences[bucket] for bucket in buckets[rank::processes]] or [self.sequences[:0]]

    def __len__(self) -> int:
        return len(self.buckets)

    def __iter__(self) -> Iterator[TestIndex]:
        for chosen in self.buckets:
            lengths = self.lengths[chosen]
            window = np.arange(lengths.max(initial=1))
            rows = np.where(window < lengths[:, None], self.store.starts[chosen, None] + window, -1)
            yield TestIndex(
                rows,
                lengths,
                _positions(self.store.subjects[chosen], self.subjects),
                _positions(self.store.conditions[chosen], self.protocol.conditions),
                _positions(self.store.views[chosen], self.protocol.views),
                chosen,
            )


class GaitDataModule(LightningDataModule):
    """Training batches of subjects × sequences × frames, and test batches of complete sequences.

    Args:
        store: folder of a prepared store.
        protocol: who is trained on and tested, and by what.
        res: 64 (64x44) or 128 (128x88), what the store must hold.
        dataset: name of the data set, what the store must hold.
        subjects, sequences: subjects of a training batch, and sequences of each: B = subjects × sequences.
        frames: T, frames of each sequence; or [LEAST, MOST], of which each clip draws its own number.
        steps: training batches of the run; a resumed run begins at the trainer's `global_step`.
        seed: a training batch follows from it and the step alone.
        clip, spare, repeat_sequences: how a clip is taken of a sequence, see `TrainBatches`.
        workers: processes that gather batches; 0 gathers them in this one, with the same result.
        eval_frames: most frames of a test batch, padding included; a longer sequence has a batch of its own.
        max_frames: of a test sequence, only the first so many frames are looked at; None: all, as the authors
            do.

    Raises:
        FileNotFoundError, ValueError: when the store is first needed, see `open_store`; a store without
            training or test sequences, or with fewer training subjects than a batch needs.
    """

    def __init__(
        self,
        store: str | PathLike[str],
        protocol: Protocol,
        res: int,
        dataset: str,
        *,
        subjects: int = 8,
        sequences: int = 8,
        frames: int | Sequence[int] = 30,
        steps: int = 1,
        seed: int = 0,
        clip: str = "consecutive",
        spare: int = 0,
        repeat_sequences: bool = True,
        workers: int = 0,
        eval_frames: int = EVAL_FRAMES,
        max_frames: int | None = None,
    ) -> None:
        super().__init__()
        self.path = store
        self.protocol = protocol
        self.res, self.dataset = res, dataset
        self.frames, self.seed = frames, seed
        clips = {"frames": frames, "clip": clip, "spare": spare, "repeat_sequences": repeat_sequences}
        self.drawing = {"subjects": subjects, "sequences": sequences, "steps": steps, "seed": seed} | clips
        self.workers, self.eval_frames, self.max_frames = workers, eval_frames, max_frames

    @cached_property
    def store(self) -> Store:
        return open_store(self.path, self.dataset, self.res)

    @cached_property
    def train_subjects(self) -> list[str]:
        """List the training subjects that the store has, sorted; class k is the k-th."""
        return self._present(self.protocol.train_subjects)

    @cached_property
    def test_subjects(self) -> list[str]:
        """List the test subjects that the store has, sorted; `TestBatch.subject` is a position in it."""
        return self._present(self.protocol.test_subjects)

    @cached_property
    def validation_subjects(self) -> list[str]:
        """List the held-out training subjects that the store has, sorted."""
        return self._present(self.protocol.validation_subjects)

    @property
    def num_classes(self) -> int:
        """Count the training subjects that the store has, K."""
        return len(self.train_subjects)

    def train_dataloader(self) -> DataLoader:
        """Load `TrainBatch`es from the trainer's `global_step` on."""
        store, subjects = self.store, self.train_subjects
        labels = np.full(len(store), -1)
        train = np.isin(store.subjects, subjects)
        labels[train] = _positions(store.subjects[train], subjects)
        batches = TrainBatches(
            labels,
            store.starts,
            store.lengths,
            **self.drawing,  # type: ignore[arg-type]
            start=self.trainer.global_step if self.trainer is not None else 0,
            rank=self.rank,
            processes=self.processes,
        )
        return self._loader(batches)

    def test_dataloader(self, sharded: bool = True) -> DataLoader:
        """Load `TestBatch`es of every gallery and probe sequence of the test subjects, each once.

        Args:
            sharded: this rank's share only; False: all of them.
        """
        return self._test_loader(self.test_subjects, "test subjects", sharded)

    def val_dataloader(self) -> list[DataLoader]:
        """Load the test batches, for a curve only, and those of held-out subjects, to select by."""
        loaders = [self.test_dataloader()]
        if self.protocol.validation:
            loaders.append(self._test_loader(self.validation_subjects, "held-out training subjects"))
        return loaders

    def check_tested(self) -> None:
        """Refuse a store with nobody to test on, before hours of training: ValueError with what is absent."""
        protocol, store = self.protocol, self.store
        tested = np.isin(store.subjects, self.test_subjects) & np.isin(store.views, protocol.views)
        expected, present = len(protocol.test_subjects), len(self.test_subjects)
        probes = sorted(set().union(*protocol.probes.values()))
        for what, conditions in {"gallery": list(protocol.gallery), "probe": probes}.items():
            if not (tested & np.isin(store.conditions, conditions)).any():
                raise ValueError(
                    f"{self.path} has no {what} sequence of the protocol's test subjects: of {expected} it "
                    f"has {present}. Prepare them, or name those that are there with "
                    "dataset.protocol.test=[…]"
                )

    @property
    def rank(self) -> int:
        """Return this process's rank among the trainer's."""
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def processes(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def _test_loader(self, subjects: list[str], whose: str, sharded: bool = True) -> DataLoader:
        share = (self.rank, self.processes) if sharded else (0, 1)
        batches = TestBatches(self.store, self.protocol, subjects, self.eval_frames, self.max_frames, *share)
        if not len(batches.sequences):
            raise ValueError(f"{self.path} has no gallery or probe sequence of the protocol's {whose}")
        return self._loader(batches)

    def _present(self, subjects: Iterable[str]) -> list[str]:
        return sorted(set(subjects).intersection(np.unique(self.store.subjects).tolist()))

    def _loader(self, batches: TrainBatches | TestBatches) -> DataLoader:
        return DataLoader(
            StoreFrames(self.store),
            sampler=batches,
            batch_size=None,  # an index names a batch
            collate_fn=_through_the_pipe,
            num_workers=self.workers,
            worker_init_fn=_leave_signals_to_the_run,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def _leave_signals_to_the_run(worker: int) -> None:
    """Ignore Ctrl-C and a cluster's signals, which reach every process: a worker's end takes the run along.

    A second SIGTERM ends it: the run's own, to a worker that does not stop by itself.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _gather(frames: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Gather frames by their rows (B, T), −1 at the end for padding → uint8 (B, T, H, W), padding zero.

    Consecutive frames are copied at once, which takes half the time of copying one by one. The memory is
    NumPy's: it comes in huge pages, PyTorch's does not.
    """
    lengths, window = (rows >= 0).sum(1), np.arange(rows.shape[1])
    consecutive = np.where(window < lengths[:, None], rows[:, :1] + window, -1)
    runs = (rows == consecutive).all(1)  # (B,)
    gathered = np.empty((*rows.shape, *frames.shape[1:]), frames.dtype)
    for i, (first, length, run) in enumerate(
        zip(rows[:, 0].tolist(), lengths.tolist(), runs.tolist(), strict=True)
    ):
        gathered[i, :length] = frames[first : first + length] if run else frames[rows[i, :length]]
    if (lengths < rows.shape[1]).any():
        gathered[rows < 0] = 0
    return gathered


def _positions(names: np.ndarray, among: Sequence[str]) -> np.ndarray:
    """Return each name's position in a list that has it, int64 (N,)."""
    position = {name: i for i, name in enumerate(among)}
    return np.array([position[name] for name in names.tolist()], dtype=np.int64)


def _through_the_pipe(batch: Any) -> Any:
    """Let a worker send a batch through its pipe.

    PyTorch would pass tensors on in /dev/shm. Where that is full, as it soon is in a container, a batch never
    comes.
    """
    if get_worker_info() is None:
        return batch
    return type(batch)(*(None if column is None else _Piped(column) for column in batch))


class _Piped:
    """An array when it is sent, a tensor when it arrives."""

    def __init__(self, tensor: Tensor) -> None:
        self.array = tensor.numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.from_numpy, (self.array,)
