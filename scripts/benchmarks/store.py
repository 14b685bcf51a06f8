"""Stores of random frames for the other benchmarks, and how long a store takes to open."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.harness import Curve, Row, median_seconds, wanted
from cstl.data import Protocol, open_store
from cstl.data.alignment import frame_size
from cstl.data.store import COLUMNS, FORMAT

VIEWS = tuple(f"{angle:03d}" for angle in range(0, 181, 18))
NORMAL = tuple(f"nm-{number:02d}" for number in range(1, 7))
CONDITIONS = (*NORMAL, "bg-01", "bg-02", "cl-01", "cl-02")


def casiab(train: Sequence[str], test: Sequence[str]) -> Protocol:
    """CASIA-B's protocol, both kinds of gallery, for other subjects."""
    return Protocol(
        views=VIEWS,
        conditions=CONDITIONS,
        gallery=NORMAL[:4],
        probes={"NM": NORMAL[4:], "BG": ("bg-01", "bg-02"), "CL": ("cl-01", "cl-02")},
        train=tuple(train),
        test=tuple(test),
        cross_view_gallery=("nm-02", "bg-02", "cl-02"),
        cross_view_probes={"NM": ("nm-01",), "BG": ("bg-01",), "CL": ("cl-01",)},
    )


def sequence_names(number: int) -> list[tuple[str, str, str]]:
    """Subject, condition and view of the first sequences of subjects "001", "002", … of 110
    sequences each.
    """
    subjects = [f"{subject:03d}" for subject in range(1, number // 110 + 2)]
    return list(product(subjects, CONDITIONS, VIEWS))[:number]


def write_store(folder: Path, names: Sequence[tuple[str, str, str]], lengths: np.ndarray, res: int) -> Path:
    """A store, data set casiab, of black and white noise."""
    height, width = frame_size(res)
    starts = np.cumsum(lengths) - lengths
    folder.mkdir(parents=True)
    rows = (
        f"{','.join(name)},{start},{length}\n"
        for name, start, length in zip(names, starts, lengths, strict=True)
    )
    (folder / "sequences.csv").write_text(f"{COLUMNS}\n{''.join(rows)}", encoding="utf-8")
    about = {"format": FORMAT, "dataset": "casiab", "height": height, "width": width}
    (folder / "store.json").write_text(json.dumps(about), encoding="utf-8")
    shape = (int(lengths.sum()), height, width)
    frames = np.lib.format.open_memmap(folder / "frames.npy", "w+", np.uint8, shape)
    generator = np.random.default_rng(0)
    for start, length in zip(starts, lengths, strict=True):
        frames[start : start + length] = generator.integers(0, 2, (length, height, width), np.uint8) * 255
    return folder


def rows(quick: bool) -> Iterator[Row]:
    """Opening is compared with nothing."""
    return iter(())


def curves(quick: bool) -> Iterator[Curve]:
    """Opening a store, its table read and checked."""
    if wanted(name := "opening a store"):
        curve = Curve(name, "sequences")
        for number in (100, 1000) if quick else (1000, 10_000, 100_000, 300_000):
            with tempfile.TemporaryDirectory() as folder:
                lengths = np.ones(number, np.int64)  # the disk need not hold more
                path = write_store(Path(folder) / "store", sequence_names(number), lengths, 64)
                seconds = median_seconds(lambda path=path: open_store(path))
            curve.points.append({"sequences": number, "seconds": seconds})
        yield curve
