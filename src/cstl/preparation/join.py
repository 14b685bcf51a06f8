"""All chunks of a preparation → one store, moved to its place as the last step."""

import csv
import json
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from cstl.data.store import (
    BLOCK,
    COLUMNS,
    FORMAT,
    Store,
    new_checksum,
    partial_folder,
    sample_checksum,
    table_checksum,
)
from cstl.files import replacing
from cstl.owner import InUseError
from cstl.preparation.chunks import SHORT, Outcome, finished
from cstl.preparation.inspection import merge, remarks
from cstl.preparation.plan import Plan, some
from cstl.preparation.sources import FILE as SOURCES
from cstl.preparation.sources import Source, write_sources

ABANDONED = 3600  # seconds without a change after which a store that was being joined is taken for a killed job's


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
        """For the terminal."""
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
            lines.append(f"  {self.short:,} sequences have fewer than {SHORT} usable frames: short_sequences.csv")
        if self.dropped_frames or self.dropped_sequences:
            lines.append(f"  every one {'will be' if self.part else 'is'} named in dropped.csv")
        lines += (f"  {note}" for note in self.notes)
        return "\n".join(lines)


def summary_of(store: Store, notes: Sequence[str] | None = None) -> Summary:
    """What a store says of itself; with `notes` first, where it was there already."""
    fields = ("sequences", "frames", "dropped_frames", "dropped_sequences", "short", "examples")
    about = {name: store.about[name] for name in fields}
    said = [*(notes or ()), *store.about.get("notes", [])]
    return Summary(store.path, **about, notes=said, already=notes is not None)


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
    chunks = [plan.chunk(number) for number in range(plan.chunks)]
    outcomes = []
    for chunk in chunks:
        outcome = finished(chunk)
        replaced = digests is not None and (outcome is None or outcome.digest != digests[chunk.number])
        if replaced and not plan.out.exists():  # else the other one has joined the same chunks
            raise InUseError(
                f"another process prepares {plan.out} of other files or with other options at this moment; wait for it "
                "or stop it, then type the command again, or give another store with dataset.store=PATH"
            )
        if outcome is None:
            raise FileNotFoundError(f"{chunk.outcome_path}: this chunk is not finished; prepare it, then join")
        outcomes.append(outcome)
    kept = [row for outcome in outcomes for row in outcome.kept]
    dropped = [*plan.skipped, *(row for outcome in outcomes for row in outcome.dropped)]
    short = [row for outcome in outcomes for row in outcome.short]
    frames = sum(length for *_, length in kept)
    count = count_dropped(dropped, outcomes)
    if not kept:
        told = "".join(f"\n{note}" for note in plan.notes)
        raise ValueError(f"{plan.raw}: no sequence is left to store; dropped were {_counts(count)}{told}")
    seen = merge(outcome.seen for outcome in outcomes)
    faulty = [f"{path} ({why})" for what, why, path in plan.skipped if what == "frame"]
    faulty += [path for outcome in outcomes for path in outcome.faulty]
    about = {
        "format": FORMAT,
        **plan.settings,
        "frames": frames,
        "sequences": len(kept),
        "stored_subjects": len({subject for subject, *_ in kept}),
        "dropped_frames": count["frame"],
        "dropped_sequences": count["sequence"],
        "short": len(short),
        "examples": faulty[:5],
        "inspection": seen,
        "notes": [
            *plan.notes,
            *remarks(seen),
            *_notes(plan, kept, [path for outcome in outcomes for path in outcome.sizes]),
        ],
        "raw": os.path.abspath(plan.raw),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"cstl": version("cstl"), "numpy": np.__version__, "opencv": cv2.__version__},
    }
    clear_abandoned(partial_folder(plan.out))
    folder = partial_folder(plan.out) / f"store-{secrets.token_hex(8)}"
    try:
        folder.mkdir()
        starts = np.cumsum([0] + [length for *_, length in kept])
        write_csv(
            folder / "sequences.csv",
            COLUMNS,
            ((*row[:3], start, row[3]) for row, start in zip(kept, starts, strict=False)),
        )
        write_sources(folder / SOURCES, (Source(*source) for outcome in outcomes for source in outcome.sources))
        write_csv(folder / "dropped.csv", "what,reason,path", dropped)
        write_csv(folder / "short_sequences.csv", "subject,condition,view,files,usable,result", short)
        checksum = new_checksum()
        with replacing(folder / "frames.npy") as file:
            shape = (frames, plan.settings["height"], plan.settings["width"])
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for chunk, outcome in zip(chunks, outcomes, strict=True):
                with open(chunk.frames_path(outcome.digest), "rb") as part:
                    for block in iter(lambda: part.read(BLOCK), b""):
                        checksum.update(block)
                        file.write(block)
        about["checksums"] = {
            "sequences.csv": table_checksum(folder / "sequences.csv"),
            "frames": checksum.hexdigest(),
            "sample": sample_checksum(np.load(folder / "frames.npy", mmap_mode="r")),
        }
        with replacing(folder / "store.json") as file:
            file.write(json.dumps(about, indent=1).encode())
        os.rename(folder, plan.out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(partial_folder(plan.out), ignore_errors=True)
    return summary_of(Store(plan.out))


def clear_abandoned(partial: Path) -> None:
    """Remove what killed joins left; another process may be joining at this moment, so only what nobody writes to."""
    for folder in partial.glob("store-*"):
        with suppress(OSError):
            changed = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - changed > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


def count_dropped(dropped: Iterable[tuple[str, str, str]], outcomes: list[Outcome]) -> dict[str, dict[str, int]]:
    """ "frame" and "sequence" → reason → how many were dropped."""
    counts = {"frame": Counter[str](), "sequence": Counter[str]()}
    for what, reason, _ in dropped:
        counts[what][reason] += 1
    if unused := sum(outcome.unused for outcome in outcomes):
        counts["frame"]["in dropped sequences"] = unused
    return {what: dict(count) for what, count in counts.items()}


def _notes(plan: Plan, kept: list[tuple[str, str, str, int]], sizes: list[str]) -> Iterator[str]:
    """What of the protocol is not in the store, and what looks odd."""
    settings = plan.settings
    expected = len(settings["subjects"]) * len(settings["conditions"]) * len(settings["views"])
    if expected > len(kept):
        check = f"python -m cstl.check dataset={settings['dataset']} res={settings['height']}"
        missing = f"{expected - len(kept):,} of the protocol's {expected:,} sequences"
        yield f"{missing} are not in the store; `{check}` lists them"
    if absent := sorted(set(settings["subjects"]) - {subject for subject, *_ in kept}):
        yield f"{len(absent):,} of the protocol's subjects have no sequence: {some(absent, 5)}"
    if sizes:
        yield f"{len(sizes):,} sequences have frames of different sizes, each aligned on its own: {some(sizes, 5)}"


def write_csv(path: Path, header: str, rows: Iterable[Iterable[object]]) -> None:
    """Write a table, a header such as `what,reason,path` above its rows."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)


def _counts(count: Mapping[str, Mapping[str, int]]) -> str:
    return "; ".join(f"{what}s: {', '.join(f'{n:,} {r}' for r, n in counts.items())}" for what, counts in count.items())
