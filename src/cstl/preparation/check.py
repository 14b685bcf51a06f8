"""Is a store what it should be? Its sequences counted by condition and view, odd ones named, and shown."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from cstl.data.protocol import Protocol
from cstl.data.store import Store
from cstl.files import write_table
from cstl.preparation.sources import Name
from cstl.progress import steps

FEW_PIXELS, MANY_PIXELS = 0.05, 0.85  # a body fills 15 to 50 % of a frame
OFF_CENTRE = 1 / 8  # of the width, half of the mass from the middle
LOW = 7 / 8  # of the height, the rows from head to feet

_NAME = ("subject", "condition", "view")


class Count(NamedTuple):
    """A number of subjects or sequences beside what there should be, as tables show it."""

    what: str
    found: int
    expected: str  # 124, at most 288,596, or 13,500 to 13,640
    source: str  # of what is expected: "protocol" or "published"
    verdict: str  # as expected, 3 fewer, or 3 more


def count(what: str, found: int, least: int, most: int, source: str) -> Count:
    """Compare a number with the least and the most that it should be."""
    expected = f"{least:,} to {most:,}" if least else f"at most {most:,}"
    verdict = "as expected" if least <= found <= most else f"{found - most:,} more"
    if found < least:
        verdict = f"{least - found:,} fewer"
    return Count(what.replace("_", " "), found, f"{most:,}" if least == most else expected, source, verdict)


@dataclass(frozen=True)
class StoreCheck:
    """What `check_store` found.

    `sequences`, `least`, `median`, `most`: (C, V), the number of sequences of each of `conditions` and
    `views` and the length of the shortest, middle and longest, in frames. `missing` are sequences that the
    protocol names and the store lacks; `suspicious` are sequences, and why.
    """

    title: str
    conditions: tuple[str, ...]
    views: tuple[str, ...]
    sequences: np.ndarray
    least: np.ndarray
    median: np.ndarray
    most: np.ndarray
    counts: list[Count]
    missing: list[Name]
    suspicious: list[tuple[str, str, str, str]]

    def tables(self) -> dict[str, tuple[list[str], list[list[str]]]]:
        """Return what the terminal shows: title → columns and rows."""
        numbers = [[what, f"{found:,}", *rest] for what, found, *rest in self.counts]
        return {
            f"{self.title}: sequences": self._by_view(self.sequences, "all", map(str, self.sequences.sum(0))),
            f"{self.title}: median frames of a sequence": self._by_view(self.median, "range", self._ranges()),
            f"{self.title}: counts": (["", "found", "expected", "by", "verdict"], numbers),
        }

    def findings(self) -> list[str]:
        """Return in sentences what is missing and what is suspicious."""
        reasons = Counter(reason.split(":")[0] for *_, reason in self.suspicious)
        few = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items()))
        return [
            f"{len(self.missing):,} of the protocol's sequences are missing",
            f"{len(self.suspicious):,} sequences are suspicious" + (f": {few}" if few else ""),
        ]

    def _by_view(
        self, values: np.ndarray, last: str, totals: Iterable[str]
    ) -> tuple[list[str], list[list[str]]]:
        """Return a column for each condition, a row for each view."""
        rows = zip(self.views, values.T, totals, strict=True)
        cells = [
            [view, *(f"{value:.0f}" if value else "–" for value in row), total] for view, row, total in rows
        ]
        return ["view", *self.conditions, last], cells

    def _ranges(self) -> list[str]:
        """Return frames of the shortest and the longest sequence of each view."""
        views = zip(self.sequences.T, self.least.T, self.most.T, strict=True)
        return [f"{low[n > 0].min()}–{high.max()}" if n.any() else "–" for n, low, high in views]


def check_store(
    store: Store, protocol: Protocol, published: Mapping[str, Any] | None = None, *, progress: bool = False
) -> StoreCheck:
    """Count the sequences of a store and look at every frame.

    A sequence is suspicious when its frames show too few or too many pixels
    (half of them under 5 % or over 85 % of the frame), are not centred
    (half of the mass lies an eighth of the width from the middle, or the body is lower than seven eighths of
    the frame), are constant, or are those of another sequence.

    Args:
        store: an opened store.
        protocol: what it should hold.
        published: counts to compare it with, each a number or [least, most]: subjects, train_subjects,
            test_subjects, sequences, train_sequences, test_sequences.
        progress: show a progress bar.

    Raises:
        ValueError: a published count of another name.
    """
    shape = len(protocol.conditions), len(protocol.views)
    sequences, least, most = (np.zeros(shape, np.int64) for _ in range(3))
    median = np.zeros(shape)
    for i, condition in enumerate(protocol.conditions):
        of_condition = store.conditions == condition
        for j, view in enumerate(protocol.views):
            lengths = store.lengths[of_condition & (store.views == view)]
            if len(lengths):
                sequences[i, j], median[i, j] = len(lengths), np.median(lengths)
                least[i, j], most[i, j] = lengths.min(), lengths.max()
    present = set(store.names)
    expected = product(sorted(protocol.known_subjects), protocol.conditions, protocol.views)
    return StoreCheck(
        f"{store.dataset} {store.height}×{store.width}",
        protocol.conditions,
        protocol.views,
        sequences,
        least,
        median,
        most,
        _counts(store, protocol, published or {}),
        [sequence for sequence in expected if sequence not in present],
        _suspicious(store, progress),
    )


def contact_sheet(store: Store, sequences: int = 24, seed: int = 1, frames: int = 12) -> np.ndarray:
    """Return random sequences, one a row with its name and evenly spread frames: uint8 (rows, columns)."""
    chosen = np.random.default_rng(seed).permutation(len(store))[:sequences]
    sheet = []
    for i in sorted(chosen.tolist()):
        name = f"{store.subjects[i]} {store.conditions[i]} {store.views[i]} ({store.lengths[i]})"
        label = np.zeros((store.height, 200), np.uint8)
        cv2.putText(label, name, (4, store.height // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA)
        at = store.starts[i] + np.arange(frames) * store.lengths[i] // frames
        row = np.pad(store.frames[at], ((0, 0), (1, 1), (1, 1)), constant_values=96)  # (frames, H + 2, W + 2)
        sheet.append(np.hstack([np.pad(label, ((1, 1), (0, 0)), constant_values=96), *row]))
    return np.vstack(sheet)


def write_check(check: StoreCheck, sheet: np.ndarray, folder: Path) -> None:
    """Write `counts.csv`, `missing.csv`, `suspicious.csv` and `contact_sheet.png` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = (
        (condition, view, check.sequences[i, j], check.least[i, j], check.median[i, j], check.most[i, j])
        for i, condition in enumerate(check.conditions)
        for j, view in enumerate(check.views)
    )
    columns = ("condition", "view", "sequences", "least_frames", "median_frames", "most_frames")
    write_table(folder / "counts.csv", columns, counts)
    write_table(folder / "missing.csv", _NAME, check.missing)
    write_table(folder / "suspicious.csv", (*_NAME, "why"), check.suspicious)
    (folder / "contact_sheet.png").write_bytes(cv2.imencode(".png", sheet)[1].tobytes())


def _counts(store: Store, protocol: Protocol, published: Mapping[str, Any]) -> list[Count]:
    """Return the counts of a store beside those of its protocol, then beside the published ones."""
    learnt = (*protocol.train_subjects, *protocol.validation_subjects)
    every = {"": sorted(protocol.known_subjects), "train_": learnt, "test_": protocol.test_subjects}
    of = {name: np.isin(store.subjects, list(subjects)) for name, subjects in every.items()}
    counted = {f"{name}subjects": len(np.unique(store.subjects[rows])) for name, rows in of.items()}
    counted |= {f"{name}sequences": int(rows.sum()) for name, rows in of.items()}
    a_subject = len(protocol.conditions) * len(protocol.views)
    counts = [
        count(
            f"{name}{what}",
            counted[f"{name}{what}"],
            len(subjects) * factor,
            len(subjects) * factor,
            "protocol",
        )
        for what, factor in (("subjects", 1), ("sequences", a_subject))
        for name, subjects in every.items()
    ]
    if unknown := [name for name in published if name not in counted]:
        raise ValueError(
            f"dataset.published: unknown count {', '.join(unknown)}; the choices are {', '.join(counted)}"
        )
    for name, limits in published.items():
        least, most = (limits, limits) if isinstance(limits, int) else limits
        counts.append(count(name, counted[name], least, most, "published"))
    return counts


def _suspicious(store: Store, progress: bool) -> list[tuple[str, str, str, str]]:
    odd = []
    rows = store.names
    first: dict[bytes, int] = {}  # digest of the frames → the first sequence that has them
    for i in steps(range(len(store)), "looking at every frame", "sequences", progress):
        frames = store.frames[store.starts[i] : store.starts[i] + store.lengths[i]]
        if why := suspicion(frames):
            odd.append((*rows[i], why))
        earlier = first.setdefault(hashlib.blake2b(frames.data, digest_size=16).digest(), i)
        if earlier != i:
            odd.append((*rows[i], f"the same frames as another sequence: {' '.join(rows[earlier])}"))
    return odd


def suspicion(frames: np.ndarray) -> str | None:
    """Say what is odd about the frames of a sequence, uint8 (T, H, W), if anything."""
    _, height, width = frames.shape
    columns = frames.sum(1, dtype=np.int64)  # (T, W)
    fill = columns.sum(1) / (255 * height * width)  # (T,)
    if np.median(fill) < FEW_PIXELS:
        return "too few pixels"
    if np.median(fill) > MANY_PIXELS:
        return "too many pixels"
    mass = columns.cumsum(1)
    middle = np.count_nonzero(
        mass <= mass[:, -1:] / 2, axis=1
    )  # (T,), the first column past half of the mass, as in alignment
    rows = np.asarray(frames.any(2))  # (T, H)
    tall = height - rows.argmax(1) - rows[:, ::-1].argmax(1)
    if np.median(abs(middle - width / 2)) > width * OFF_CENTRE or np.median(tall) < height * LOW:
        return "not centred"
    if len(frames) > 1 and (frames[1:] == frames[0]).all():
        return "constant"
    return None
