"""Raw tree → store, in chunks of sequences that finish, and are redone, one by one.

    plan = plan_preparation(raw, out, …)      what belongs to which chunk: the same in every process
    prepare_chunk(plan.chunk(k))              for every k, in any order, process or machine that sees the disk
    join(plan, [outcomes])                    one store of all chunks, moved to its place as the last step

`prepare` does the three on one machine. Everything unfinished lies in `OUT.partial`.
"""

import csv
import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from multiprocessing import connection
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cstl.data.alignment import align_or_reason, cut_sides, frame_size
from cstl.data.layouts import RawSequence, describe, list_sequences
from cstl.data.protocol import Protocol, as_protocol
from cstl.data.store import COLUMNS, FORMAT, Store, open_store, partial_folder

CHUNK = 110  # sequences in a chunk: one subject of CASIA-B, a few seconds of work
SHORT = 15  # sequences of fewer usable frames are reported

UNREADABLE = "unreadable"
NOT_GREY = "not 8-bit grey"
UNUSABLE = (UNREADABLE, NOT_GREY)
EMPTY = "empty"
FEW_FILES = "fewer than {} frame files"
FEW_USABLE = "fewer than {} usable frames"
UNKNOWN = "{} the protocol does not know"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Chunk:
    """Some sequences, and where what becomes of them is written."""

    number: int
    sequences: tuple[RawSequence, ...]
    settings: Mapping[str, Any]
    partial: Path
    raw: str
    strict: bool

    @property
    def frames_path(self) -> Path:
        """The aligned frames, without a header."""
        return self.partial / f"chunk-{self.number:05d}.frames"

    @property
    def outcome_path(self) -> Path:
        """What became of the sequences; it is written last, so a chunk that has it is finished."""
        return self.partial / f"chunk-{self.number:05d}.json"


@dataclass
class Outcome:
    """What became of a chunk's sequences. Paths are relative to the raw folder."""

    digest: str  # of settings and names, then of the raw files
    kept: list[tuple[str, str, str, int]] = field(default_factory=list)  # subject, condition, view, frames
    dropped: list[tuple[str, str, str]] = field(default_factory=list)  # "frame" or "sequence", reason, path
    short: list[tuple[str, str, str, int, int, str]] = field(
        default_factory=list
    )  # …, files, usable, what became of it
    unused: int = 0  # usable frames of dropped sequences

    @property
    def unusable(self) -> list[str]:
        """Paths of the pictures that could not be read or are not grey."""
        return [path for what, reason, path in self.dropped if what == "frame" and reason in UNUSABLE]


@dataclass(frozen=True)
class Plan:
    """Which sequences go into which chunk of a store; `skipped` are those that the protocol does not know."""

    raw: str
    out: Path
    settings: Mapping[str, Any]
    sequences: tuple[RawSequence, ...]
    skipped: tuple[tuple[str, str, str], ...]
    strict: bool

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-len(self.sequences) // CHUNK)

    def chunk(self, number: int) -> Chunk:
        """Chunk 0, 1, … of `chunks`."""
        sequences = self.sequences[number * CHUNK : (number + 1) * CHUNK]
        return Chunk(number, sequences, self.settings, partial_folder(self.out), self.raw, self.strict)


@dataclass(frozen=True)
class Summary:
    """What is in a store and what was left out of it, and why (reason → count)."""

    store: Path
    sequences: int
    frames: int
    dropped_frames: dict[str, int]
    dropped_sequences: dict[str, int]
    short: int
    examples: list[str]  # the first frames that could not be used as pictures
    already: bool = False

    def __str__(self) -> str:
        """For the terminal."""
        done = "already prepared" if self.already else "prepared"
        lines = [f"{self.store}: {done}, {self.sequences:,} sequences, {self.frames:,} frames"]
        for what, dropped in (("frames", self.dropped_frames), ("sequences", self.dropped_sequences)):
            if dropped:
                reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()))
                lines.append(f"  {what} dropped: {reasons}")
        if self.examples:
            lines.append(f"  skipped pictures: {', '.join(self.examples)}{', …' if len(self.examples) == 5 else ''}")
        if self.short:
            lines.append(f"  {self.short:,} sequences have fewer than {SHORT} usable frames: short_sequences.csv")
        if self.dropped_frames or self.dropped_sequences:
            lines.append("  every one is named in dropped.csv")
        return "\n".join(lines)


def prepare(
    raw: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    dataset: str,
    protocol: Protocol | Mapping[str, Any],
    res: int,
    layout: str = "casiab",
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Summary:
    """Align every frame of a raw tree and write a store; interrupted and called again, it goes on.

    Args:
        raw: folder of the raw tree.
        out: folder of the store. `OUT.partial` holds what is not finished; it needs the store's size twice.
        dataset: name of the data set.
        protocol: its subjects, conditions and views; sequences of others are left out.
        res: 64 (frames of 64x44) or 128 (128x88).
        layout: how the raw tree is laid out, see `cstl.data.layouts.LAYOUTS`.
        workers: processes; all cores when None, none but this one when 0 or 1.
        strict: stop at the first picture that cannot be read or is not 8-bit grey, instead of leaving it out.
        progress: show a progress bar, where standard error is a terminal.

    Returns:
        What was kept and dropped. `dropped.csv` in the store names every dropped frame and sequence,
        `short_sequences.csv` every sequence with fewer than 15 usable frames.

    Raises:
        FileNotFoundError, NotADirectoryError: no raw folder there.
        ValueError: a raw tree that is empty or of another layout, or of which the protocol knows nothing; an unknown
            resolution; a damaged store at `out`; with `strict`, a picture that cannot be used.
        FileExistsError: a store that was made with other settings, or a folder that is no store, lies at `out`.
        OSError: the disk is full; the finished chunks stay, and the next call goes on.
    """
    out = Path(out)
    settings = _settings(dataset, as_protocol(protocol), res, layout)
    if out.exists():
        summary = _already(out, settings, strict)
        shutil.rmtree(partial_folder(out), ignore_errors=True)  # a kill after the move leaves it
        return summary
    plan = plan_preparation(raw, out, dataset=dataset, protocol=protocol, res=res, layout=layout, strict=strict)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with _progress_bar(progress) as bar:
            task = bar.add_task(f"preparing {dataset} {res}", total=len(plan.sequences))
            for chunk in _run(plan, min(workers, plan.chunks)):
                bar.advance(task, len(chunk.sequences))
        return join(plan)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OSError(error.errno, _disk_full(plan, error)) from error


def plan_preparation(
    raw: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    dataset: str,
    protocol: Protocol | Mapping[str, Any],
    res: int,
    layout: str = "casiab",
    strict: bool = False,
) -> Plan:
    """List the raw tree and say which sequences go into which chunk. Arguments and errors as for `prepare`."""
    protocol = as_protocol(protocol)
    settings = _settings(dataset, protocol, res, layout)
    known = {"subject": protocol.known_subjects, "condition": set(protocol.conditions), "view": set(protocol.views)}
    sequences, skipped = [], []
    listed = list_sequences(raw, layout)
    raw = os.fspath(raw or "")
    for sequence in listed:
        strange = [what for what, names in known.items() if getattr(sequence, what) not in names]
        if strange:
            skipped.append(("sequence", UNKNOWN.format(strange[0]), os.path.relpath(sequence.folder, raw)))
        else:
            sequences.append(sequence)
    if not sequences:
        first = listed[0]
        raise ValueError(
            f"{raw}: the protocol of {dataset} knows none of the {len(listed)} sequences found; the first one has "
            f"subject {first.subject}, condition {first.condition}, view {first.view} (found {describe(raw)}); "
            f"expected subjects like {min(known['subject'], default='none')}, conditions like {protocol.conditions[0]} "
            f"and views like {protocol.views[0]}"
        )
    return Plan(raw, Path(out), settings, tuple(sequences), tuple(skipped), strict)


def prepare_chunk(chunk: Chunk) -> None:
    """Align a chunk's frames and write them; a chunk that is finished and whose raw files are the same is left alone.

    Raises:
        ValueError: with `strict`, a picture that cannot be used.
        OSError: the disk is full, or a folder cannot be read.
    """
    listed = [sequence.frames for sequence in chunk.sequences]
    outcome = Outcome(_identity(chunk) + _state(listed))
    if (earlier := finished(chunk)) and earlier.digest == outcome.digest and not (chunk.strict and earlier.unusable):
        return
    chunk.outcome_path.unlink(missing_ok=True)
    chunk.partial.mkdir(parents=True, exist_ok=True)
    with _replacing(chunk.frames_path) as file:
        for sequence, paths in zip(chunk.sequences, listed, strict=True):
            file.writelines(_prepare_sequence(sequence, paths, chunk, outcome))
    with _replacing(chunk.outcome_path) as file:
        file.write(json.dumps(asdict(outcome)).encode())


def finished(chunk: Chunk) -> Outcome | None:
    """What became of a chunk that was finished with these settings and sequences, else None."""
    try:
        outcome = Outcome(**json.loads(chunk.outcome_path.read_text(encoding="utf-8")))
        size = chunk.frames_path.stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    height, width = chunk.settings["height"], chunk.settings["width"]
    whole = size == sum(kept[3] for kept in outcome.kept) * height * width
    return outcome if whole and outcome.digest.startswith(_identity(chunk)) else None


def join(plan: Plan) -> Summary:
    """Make one store of all chunks and move it to its place, which is the last step.

    Raises:
        FileNotFoundError: some chunks are not finished.
        ValueError: nothing is left, every sequence was dropped.
        OSError: the disk is full.
    """
    chunks = [plan.chunk(number) for number in range(plan.chunks)]
    outcomes = []
    for chunk in chunks:
        if (outcome := finished(chunk)) is None:
            raise FileNotFoundError(f"{chunk.outcome_path}: this chunk is not finished; prepare it, then join")
        outcomes.append(outcome)
    kept = [row for outcome in outcomes for row in outcome.kept]
    dropped = [*plan.skipped, *(row for outcome in outcomes for row in outcome.dropped)]
    short = [row for outcome in outcomes for row in outcome.short]
    frames = sum(length for *_, length in kept)
    count = {what: dict(Counter(reason for w, reason, _ in dropped if w == what)) for what in ("frame", "sequence")}
    if unused := sum(outcome.unused for outcome in outcomes):
        count["frame"]["in dropped sequences"] = unused
    if not kept:
        raise ValueError(f"{plan.raw}: no sequence is left to store; dropped were {_counts(count)}")
    unusable = [path for outcome in outcomes for path in outcome.unusable]
    about = {
        "format": FORMAT,
        **plan.settings,
        "frames": frames,
        "sequences": len(kept),
        "dropped_frames": count["frame"],
        "dropped_sequences": count["sequence"],
        "short": len(short),
        "examples": unusable[:5],
        "raw": os.path.abspath(plan.raw),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"cstl": version("cstl"), "numpy": np.__version__, "opencv": cv2.__version__},
    }
    folder = partial_folder(plan.out) / "store"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        starts = np.cumsum([0] + [length for *_, length in kept])
        _write_csv(
            folder / "sequences.csv",
            COLUMNS,
            ((*row[:3], start, row[3]) for row, start in zip(kept, starts, strict=False)),
        )
        _write_csv(folder / "dropped.csv", "what,reason,path", dropped)
        _write_csv(folder / "short_sequences.csv", "subject,condition,view,files,usable,result", short)
        with _replacing(folder / "frames.npy") as file:
            shape = (frames, plan.settings["height"], plan.settings["width"])
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for chunk in chunks:
                with open(chunk.frames_path, "rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)
        with _replacing(folder / "store.json") as file:
            file.write(json.dumps(about, indent=1).encode())
        os.rename(folder, plan.out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(partial_folder(plan.out), ignore_errors=True)
    return _summary(Store(plan.out))


def _prepare_sequence(sequence: RawSequence, paths: list[str], chunk: Chunk, outcome: Outcome) -> list[bytes]:
    """The bytes of the frames to keep, uint8 (H, W) each; none where the sequence is dropped."""
    frames = []
    for path in paths:
        image = _read_grey(path)
        aligned = image if isinstance(image, str) else align_or_reason(image, chunk.settings["height"])
        if not isinstance(aligned, str):
            frames.append(cut_sides(aligned).tobytes())
            continue
        if chunk.strict and aligned in UNUSABLE:
            raise ValueError(f"{path}: {aligned}; mend or remove it, or leave such pictures out with strict=false")
        outcome.dropped.append(("frame", aligned, os.path.relpath(path, chunk.raw)))

    least = chunk.settings["min_frames"]
    result = "kept"
    if not paths:
        result = EMPTY
    elif len(paths) < least:
        result = FEW_FILES.format(least)
    elif len(frames) < least:
        result = FEW_USABLE.format(least)
    names = (sequence.subject, sequence.condition, sequence.view)
    if len(frames) < SHORT:
        outcome.short.append((*names, len(paths), len(frames), result))
    if result != "kept":
        outcome.dropped.append(("sequence", result, os.path.relpath(sequence.folder, chunk.raw)))
        outcome.unused += len(frames)
        return []
    outcome.kept.append((*names, len(frames)))
    return frames


def _read_grey(path: str) -> np.ndarray | str:
    """A picture as uint8 (H, W), or why there is none. Colour whose channels are all equal is grey."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except (OSError, cv2.error):
        image = None
    if image is None:
        return UNREADABLE
    if image.dtype != np.uint8:
        return NOT_GREY
    if image.ndim == 3:
        grey, colours, alpha = image[..., :1], image[..., :3], image[..., 3:]
        if (colours != grey).any() or (alpha != 255).any():
            return NOT_GREY
        image = grey[..., 0]
    return image


def _settings(dataset: str, protocol: Protocol, res: int, layout: str) -> dict[str, Any]:
    """What a store's content depends on, besides the raw files. The split is not part of it, the set of subjects is."""
    height, width = frame_size(res)
    return {
        "dataset": dataset,
        "height": height,
        "width": width,
        "layout": layout,
        "min_frames": protocol.min_frames,
        "views": sorted(protocol.views),
        "conditions": sorted(protocol.conditions),
        "subjects": sorted(protocol.known_subjects),
    }


def _identity(chunk: Chunk) -> str:
    """A digest of the settings and of what the chunk's sequences are called."""
    settings = [chunk.settings[name] for name in ("dataset", "layout", "height", "width", "min_frames")]
    names = [(sequence.subject, sequence.condition, sequence.view) for sequence in chunk.sequences]
    return hashlib.sha256(json.dumps([FORMAT, cv2.__version__, settings, names]).encode()).hexdigest()


def _state(listed: list[list[str]]) -> str:
    """A digest of the raw files' names, sizes and times of change."""
    digest = hashlib.sha256()
    for paths in listed:
        for path in paths:
            with suppress(OSError):  # a link to nothing is an unreadable frame
                stat = os.stat(path)
                digest.update(f"{stat.st_size}/{stat.st_mtime_ns}/".encode())
            digest.update(f"{os.path.basename(path)}\n".encode(errors="surrogateescape"))
        digest.update(b"\n")
    return digest.hexdigest()


def _run(plan: Plan, workers: int) -> Iterator[Chunk]:
    """Prepare all chunks, yield each as it is finished."""
    chunks = (plan.chunk(number) for number in range(plan.chunks))
    if workers <= 1:
        for chunk in chunks:
            prepare_chunk(chunk)
            yield chunk
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        futures = {pool.submit(prepare_chunk, chunk): chunk for chunk in chunks}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """One thread a process; interrupts are the parent's; and none outlives it."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: connection.wait([parent.sentinel]) and os._exit(1), daemon=True).start()


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name when it is whole and on the disk, or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def _write_csv(path: Path, header: str, rows: Iterable[Iterable[object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)


def _already(out: Path, settings: dict[str, Any], strict: bool) -> Summary:
    """The summary of a store that is there; FileExistsError if it was made with other settings."""
    if not (out / "store.json").is_file():
        raise FileExistsError(f"{out} exists and is no store; move it away or give dataset.store=PATH")
    store = open_store(out)
    about = store.about
    differs = [name for name in settings if about.get(name) != settings[name]]
    if differs:
        there = {name: _brief(about.get(name)) for name in differs}
        details = "; ".join(f"{name}: {there[name]} there, {_brief(settings[name])} now" for name in differs)
        raise FileExistsError(
            f"{out} was prepared with other settings ({details}); delete the folder to prepare it again, "
            f"or give another one with dataset.store=PATH"
        )
    if strict and about["examples"]:
        raise FileExistsError(
            f"{out} was prepared without strict=true and leaves pictures out that cannot be used, "
            f"{about['examples'][0]} the first of them (dropped.csv names all); delete the folder to prepare it again"
        )
    return _summary(store, already=True)


def _brief(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return f"{len(value)} ({', '.join(value[:2])}, …, {value[-1]})" if len(value) > 3 else ", ".join(value)


def _summary(store: Store, already: bool = False) -> Summary:
    names = ("sequences", "frames", "dropped_frames", "dropped_sequences", "short", "examples")
    return Summary(store.path, **{name: store.about[name] for name in names}, already=already)


def _counts(count: Mapping[str, Mapping[str, int]]) -> str:
    return "; ".join(f"{what}s: {', '.join(f'{n:,} {r}' for r, n in counts.items())}" for what, counts in count.items())


def _disk_full(plan: Plan, error: OSError) -> str:
    sample = plan.sequences[:: max(1, len(plan.sequences) // 200)]
    files = sum(len(sequence.frames) for sequence in sample) / len(sample) * len(plan.sequences)
    size = files * plan.settings["height"] * plan.settings["width"]
    return (
        f"the disk of {plan.out.parent} is full ({error.strerror}): the store needs about {_size(2 * size)} "
        f"there while it is made and half of that afterwards; make room or give dataset.store=PATH. What is finished "
        f"stays in {partial_folder(plan.out)}, and the same command goes on from it"
    )


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _progress_bar(wanted: bool) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("sequences"))
    return Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (wanted and console.is_terminal),
    )
