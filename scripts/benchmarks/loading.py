"""Batches of the training data loader, beside copying the same bytes out of a memory-mapped file."""

import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.harness import AT_MOST, Curve, Row, median_seconds, paired_ratio, wanted
from benchmarks.store import casiab, sequence_names, write_store
from cstl.data.alignment import frame_size
from cstl.data.batches import TrainBatches
from cstl.data.datamodule import GaitDataModule

SUBJECTS, SEQUENCES, FRAMES = 8, 8, 30  # of a batch, as in the paper


def rows(quick: bool) -> Iterator[Row]:
    """Both resolutions, gathered by the process itself, which is the default."""
    batches = 2 if quick else 50
    for res in (64, 128):
        height, width = frame_size(res)
        if wanted(name := f"batches {height}×{width}"):
            with tempfile.TemporaryDirectory() as folder:
                data = _data(Path(folder), res, quick)
                ours, floor = _batches(data, batches), _copies(data, batches)
                ratio, seconds, floor_seconds = paired_ratio(ours, floor, pairs=1 if quick else 15)
            size = SUBJECTS * SEQUENCES * FRAMES * height * width / 1e6
            detail = f"64 sequences × 30 frames, {size:.1f} MB uint8, the file in the page cache"
            yield Row(name, ratio, 1.5, AT_MOST, seconds / batches, floor_seconds / batches, detail)


def curves(quick: bool) -> Iterator[Curve]:
    """What handing batches over from other processes costs."""
    if wanted(name := "batches by workers, 64×44"):
        curve = Curve(name, "workers")
        batches = 4 if quick else 100
        with tempfile.TemporaryDirectory() as folder:
            for workers in (0, 1, 2):
                data = _data(Path(folder), 64, quick, workers)
                seconds = median_seconds(_batches(data, batches)) / batches
                curve.points.append({"workers": workers, "seconds a batch": seconds})
        yield curve


def _data(folder: Path, res: int, quick: bool, workers: int = 0) -> GaitDataModule:
    """Sequences of 30 to 120 frames: at 64×44 some 190 MB, which no cache of a processor holds."""
    store, number = folder / "store", 8 * 110
    if not store.exists():
        lengths = np.random.default_rng(0).integers(30, 33 if quick else 121, number)
        write_store(store, sequence_names(number), lengths, res)
    recipe = {"subjects": SUBJECTS, "sequences": SEQUENCES, "frames": FRAMES, "steps": 10**9, "seed": 1}
    return GaitDataModule(store, casiab(["001-008"], ["009"]), res, "casiab", **recipe, workers=workers)


def _batches(data: GaitDataModule, number: int) -> Callable[[], None]:
    loader = iter(data.train_dataloader())

    def load() -> None:
        for _ in islice(loader, number):
            pass

    return load


def _copies(data: GaitDataModule, number: int) -> Callable[[], None]:
    """The floor: the windows are known beforehand and every batch goes to the same place."""
    frames = np.asarray(data.store.frames)
    sampler = data.train_dataloader().sampler
    assert isinstance(sampler, TrainBatches)
    starts = [sampler.batch(10**6 + step).rows[:, 0].tolist() for step in range(number)]
    gathered = np.empty((SUBJECTS * SEQUENCES, FRAMES, *frames.shape[1:]), np.uint8)

    def copy() -> None:
        for batch in starts:
            for i, start in enumerate(batch):
                gathered[i] = frames[start : start + FRAMES]

    return copy
