"""All chunks of a preparation → one store, moved to its place as the last step; and what is said of it."""

import json
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cstl.data.store import COLUMNS, FORMAT, Store, new_checksum, sample_checksum, table_checksum
from cstl.files import replacing, write_table
from cstl.owner import InUseError
from cstl.preparation.chunks import SHORT, Outcome, faulty, finished
from cstl.preparation.inspection import merge, remarks
from cstl.preparation.plan import Plan, some
from cstl.preparation.sources import FILE as SOURCES
from cstl.preparation.sources import Source

AT_ONCE = 1 << 18  # bytes that are copied at once, which stay in a cache
# seconds without a change after which a store that was being joined is taken for a killed job's
ABANDONED = 3600
_COUNTED = ("sequences", "frames", "dropped_frames", "dropped_sequences", "short", "examples")


@dataclass(frozen=True)
class Summary:
    """What is in a store and what was left out of it, and why (reason → count)."""

    store: Path
    sequences: int
    frames: int
    dropped_frames: dict[str, int]
    dropped_sequences: dict[str, int]
    short: int
    examples: list[str]  # the first files that could not be used, and why
    notes: list[str]
    already: bool = False
    part: str = ""  # which part of the store this is, where it is a shard

    def __str__(self) -> str:
        done = "already prepared" if self.already else "prepared"
        part = f"{self.part} " if self.part else ""
        lines = [f"{self.store}: {part}{done}, {self.sequences:,} sequences, {self.frames:,} frames"]
        for what, dropped in (("frames", self.dropped_frames), ("sequences", self.dropped_sequences)):
            if dropped:
                lines.append(f"  {what} dropped:")
                lines += (f"    {count:,} {reason}" for reason, count in sorted(dropped.items()))
        if self.examples:
            lines.append("  faulty files, the first of them:")
            lines += (f"    {example}" for example in self.examples)
        if self.short:
            lines.append(
                f"  {self.short:,} sequences have fewer than {SHORT} usable frames: short_sequences.csv"
            )
        if self.dropped_frames or self.dropped_sequences:
            lines.append(f"  every one {'will be' if self.part else 'is'} named in dropped.csv")
        lines += (f"  {note}" for note in self.notes)
        return "\n".join(lines)


def summary_of(store: Store, notes: Sequence[str] | None = None) -> Summary:
    """Say what a store says of itself; with `notes` first, where it was there already."""
    about = {name: store.about[name] for name in _COUNTED}
    notes_of_all = [*(notes or ()), *store.about.get("notes", [])]
    return Summary(store.path, **about, notes=notes_of_all, already=notes is not None)


def count(outcomes: Sequence[Outcome], skipped: Sequence[tuple[str, str, str]] = ()) -> dict[str, Any]:
    """Count what became of chunks: the numbers of a `Summary`."""
    dropped = [*skipped, *(row for outcome in outcomes for row in outcome.dropped)]
    reasons = {
        kind: dict(Counter(reason for what, reason, _ in dropped if what == kind))
        for kind in ("frame", "sequence")
    }
    if unused := sum(outcome.unused for outcome in outcomes):
        reasons["frame"]["in dropped sequences"] = unused
    frames = [length for outcome in outcomes for *_, length in outcome.kept]
    short = sum(len(outcome.short) for outcome in outcomes)
    counted = (len(frames), sum(frames), reasons["frame"], reasons["sequence"], short, faulty(dropped)[:5])
    return dict(zip(_COUNTED, counted, strict=True))


def join(plan: Plan, digests: Mapping[int, str] | None = None) -> Summary:
    """Make one store of all chunks and move it to its place, which is the last step.

    Args:
        plan: of the store.
        digests: what each chunk must be made of, as `prepare_chunk` says; whatever it is made of when None.

    Raises:
        FileNotFoundError: some chunks are not finished.
        InUseError: another process has made some of them of other files meanwhile.
        ValueError: nothing is left, every sequence was dropped.
        OSError: the disk is full.
    """
    outcomes = []
    for chunk in plan.chunks:
        outcome = finished(chunk)
        replaced = digests is not None and (outcome is None or outcome.digest != digests[chunk.number])
        if replaced and not plan.out.exists():  # else the other one has joined the same chunks
            raise InUseError(
                f"another process prepares {plan.out} of other files or with other options at this moment; "
                "wait for it or stop it, then type the command again, or give another store with "
                "dataset.store=PATH"
            )
        if outcome is None:
            raise FileNotFoundError(
                f"{chunk.outcome_path}: this chunk is not finished; prepare it, then join"
            )
        outcomes.append(outcome)
    kept = [row for outcome in outcomes for row in outcome.kept]
    counted, seen = count(outcomes, plan.skipped), merge(outcome.seen for outcome in outcomes)
    if not kept:
        left_out = "; ".join(
            f"{what}: {', '.join(f'{n:,} {reason}' for reason, n in counted[f'dropped_{what}'].items())}"
            for what in ("frames", "sequences")
        )
        notes = "".join(f"\n{note}" for note in plan.notes)
        raise ValueError(f"{plan.raw}: no sequence is left to store; dropped were {left_out}{notes}")
    about = {
        "format": FORMAT,
        **plan.settings,
        **counted,
        "stored_subjects": len({subject for subject, *_ in kept}),
        "inspection": seen,
        "notes": [*plan.notes, *remarks(seen), *_notes(plan, outcomes)],
        "raw": os.path.abspath(plan.raw),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"cstl": version("cstl"), "numpy": np.__version__, "opencv": cv2.__version__},
    }
    clear_abandoned(plan.partial)
    folder = plan.partial / f"store-{secrets.token_hex(8)}"
    try:
        folder.mkdir()
        write_store(folder, plan, outcomes, about)
        os.rename(folder, plan.out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(plan.partial, ignore_errors=True)
    return summary_of(Store(plan.out))


def write_store(folder: Path, plan: Plan, outcomes: Sequence[Outcome], about: dict[str, Any]) -> None:
    """Write the files of a store; `about` without the checksums."""
    kept = [row for outcome in outcomes for row in outcome.kept]
    starts = np.cumsum([0] + [length for *_, length in kept])
    rows = ((*row[:3], start, row[3]) for row, start in zip(kept, starts, strict=False))
    write_table(folder / "sequences.csv", COLUMNS.split(","), rows)
    write_table(
        folder / SOURCES, Source._fields, (source for outcome in outcomes for source in outcome.sources)
    )
    dropped = (*plan.skipped, *(row for outcome in outcomes for row in outcome.dropped))
    write_table(folder / "dropped.csv", ("what", "reason", "path"), dropped)
    short = (row for outcome in outcomes for row in outcome.short)
    columns = ("subject", "condition", "view", "files", "usable", "result")
    write_table(folder / "short_sequences.csv", columns, short)
    checksum, block = new_checksum(), memoryview(bytearray(AT_ONCE))
    with replacing(folder / "frames.npy") as file:
        shape = (about["frames"], about["height"], about["width"])
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for chunk, outcome in zip(plan.chunks, outcomes, strict=True):
            with open(chunk.frames_path(outcome.digest), "rb", buffering=0) as part:
                while size := part.readinto(block):
                    checksum.update(block[:size])
                    file.write(block[:size])
    checksums = {
        "sequences.csv": table_checksum(folder / "sequences.csv"),
        "frames": checksum.hexdigest(),
        "sample": sample_checksum(np.load(folder / "frames.npy", mmap_mode="r")),
    }
    with replacing(folder / "store.json") as file:
        file.write(json.dumps(about | {"checksums": checksums}, indent=1).encode())


def clear_abandoned(partial: Path) -> None:
    """Remove what killed joins left, of that only what nobody writes to: another process may be joining."""
    for folder in partial.glob("store-*"):
        with suppress(OSError):
            changed = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - changed > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


def _notes(plan: Plan, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Say what of the protocol is not in the store, and what looks odd."""
    settings, stored = plan.settings, [row for outcome in outcomes for row in outcome.kept]
    expected = len(settings["subjects"]) * len(settings["conditions"]) * len(settings["views"])
    if expected > len(stored):
        check = f"python -m cstl.check dataset={settings['dataset']} res={settings['height']}"
        missing = f"{expected - len(stored):,} of the protocol's {expected:,} sequences"
        yield f"{missing} are not in the store; `{check}` lists them"
    if absent := sorted(set(settings["subjects"]) - {subject for subject, *_ in stored}):
        yield f"{len(absent):,} of the protocol's subjects have no sequence: {some(absent, 5)}"
    if sizes := [path for outcome in outcomes for path in outcome.sizes]:
        yield (
            f"{len(sizes):,} sequences have frames of different sizes, each aligned on its own: "
            f"{some(sizes, 5)}"
        )
