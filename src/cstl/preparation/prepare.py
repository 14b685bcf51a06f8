"""Raw tree → store, in chunks of sequences that finish, and are redone, one by one.

    plan = plan_preparation(raw, out, …)      what belongs to which chunk: the same in every process
    prepare_chunk(plan.chunk(k))              for every k, in any order, process or machine that sees the disk
    join(plan, [outcomes])                    one store of all chunks, moved to its place as the last step

`prepare` does the three on one machine. `prepare_shard` does the middle one for its share of the chunks, in as many
jobs as there are shards, and `prepare` then joins. What is unfinished lies in `OUT.partial`. Nothing is locked, since
the file systems of clusters lock badly: every file appears whole and under a name that says what it is made of, so that
the worst that comes of two jobs with the same work is the work done twice.
"""

import csv
import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cstl.data.alignment import (
    ALIGNED,
    CUT,
    NO_PERSON,
    OFF_CENTRE,
    align_or_reason,
    clean_mask,
    cut_sides,
    fit_aligned,
    is_cut,
)
from cstl.data.protocol import Protocol, as_protocol
from cstl.data.store import (
    BLOCK,
    COLUMNS,
    FORMAT,
    Store,
    new_checksum,
    open_store,
    partial_folder,
    sample_checksum,
    table_checksum,
)
from cstl.files import read_json, read_rows, replacing, shown
from cstl.owner import InUseError
from cstl.preparation.frames import Files, list_files, read_frames
from cstl.preparation.inspection import EVERY, Seen, look_at_frame, look_at_names, merge, note, refuse_nonsense, remarks
from cstl.preparation.layouts import AUTO, LAYOUTS, RawSequence, spread
from cstl.preparation.plan import OPTIONS, Chunk, Plan, names, plan_preparation, relative, some, store_settings
from cstl.preparation.sources import FILE as SOURCES
from cstl.preparation.sources import Changes, Name, Source, find_changes, read_sources, source_of, write_sources
from cstl.progress import Steps
from cstl.workers import available_cores, worker_pool

SHORT = 15  # sequences of fewer usable frames are reported
AGAIN = 500  # sequences, at most, that are read again to see whether files that were copied are the same
SHARDS = 64  # jobs that share a preparation, unless told otherwise
ABANDONED = 3600  # seconds without a change after which a store that was being joined is taken for a killed job's

NATURAL = (NO_PERSON, OFF_CENTRE, CUT)  # frames dropped for any other reason are faulty
EMPTY = "empty"
FEW_FILES = "fewer than {} frame files"
FEW_USABLE = "fewer than {} usable frames"
OTHER_SIZE = "{}x{} among {}"
_NAMES = ("subjects", "conditions", "views")  # settings that say which sequences are kept, and not what becomes of them
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Outcome:
    """What became of a chunk's sequences. Paths are relative to the raw folder."""

    digest: str  # of settings and names, then of the raw files
    kept: list[tuple[str, str, str, int]] = field(default_factory=list)  # subject, condition, view, frames
    dropped: list[tuple[str, str, str]] = field(default_factory=list)  # "frame" or "sequence", reason, path
    short: list[tuple[str, str, str, int, int, str]] = field(default_factory=list)  # …, frames, usable, result
    sizes: list[str] = field(default_factory=list)  # kept sequences whose frames differ in size
    seen: Seen = field(default_factory=dict)  # what a sample of frames and names shows
    unused: int = 0  # usable frames of dropped sequences
    sources: list[Source] = field(default_factory=list)  # of every sequence

    @property
    def faulty(self) -> list[str]:
        """Files that could not be used, and why."""
        return [f"{path} ({why})" for what, why, path in self.dropped if what == "frame" and why not in NATURAL]


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


def prepare(
    raw: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    dataset: str,
    protocol: Protocol | Mapping[str, Any],
    res: int,
    layout: str = AUTO,
    upsample: bool = False,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
    typed: str | None = None,
    options: Mapping[str, Any] | None = None,
    subset: bool = False,
) -> Summary:
    """Align every frame of a raw tree and write a store; interrupted and called again, it goes on.

    Silhouettes that are aligned already (64x64, 64x44, 128x128 or 128x88 in the whole tree) are only brought to the
    store's size. Where `prepare_shard` has been at work, nothing is aligned here: the shards are joined, or those that
    are missing are named.

    Args:
        raw: folder of the raw tree.
        out: folder of the store. `OUT.partial` holds what is not finished; it needs the store's size twice.
        dataset: name of the data set.
        protocol: its subjects, conditions and views; sequences of others are left out.
        res: 64 (frames of 64x44) or 128 (128x88).
        layout: how the raw tree is laid out, see `cstl.preparation.layouts.LAYOUTS`; "auto": as its folders say.
        upsample: allow 128x88 frames to be made of silhouettes that were aligned to 64 rows.
        workers: processes; all cores when None, none but this one when 0 or 1.
        strict: stop at the first file or folder that cannot be used, instead of leaving it out.
        progress: show a progress bar, where standard error is a terminal.
        typed: what the user types after `python -m cstl.prepare` to prepare this store, for messages.
        options: more that decides which frames are kept, see `cstl.preparation.plan.OPTIONS`.
        subset: allow most sequences of the raw tree to be unknown to the protocol.

    Returns:
        What was kept and dropped. `dropped.csv` in the store names every dropped frame and sequence,
        `short_sequences.csv` every sequence with fewer than 15 usable frames. A store that is there already is compared
        with the raw tree.

    Raises:
        FileNotFoundError, NotADirectoryError: no raw folder there; shards that are missing.
        ValueError: a raw tree that is empty or of another layout, that mixes raw and aligned silhouettes, has a
            sequence twice, or of which the protocol knows nothing; an unknown resolution, or one that needs
            `upsample`; a damaged store at `out`; with `strict`, a file that cannot be used.
        FileExistsError: a store that was made with other settings or of other files, or a folder that is no store, lies
            at `out`.
        OSError: the disk is full; the finished chunks stay, and the next call goes on.
    """
    settings = store_settings(dataset, as_protocol(protocol), res, options)
    arguments: dict[str, Any] = {"dataset": dataset, "protocol": protocol, "res": res, "layout": layout}
    arguments["upsample"] = upsample
    arguments |= {"strict": strict, "options": options, "subset": subset}
    if there := _existing(Path(out), settings, strict):
        return _compared(there, raw, arguments, progress=progress)
    plan = plan_preparation(raw, out, **arguments)
    refuse_nonsense(plan.raw, plan.sequences, plan.settings)
    try:
        if (shards := _sharding(plan)) is None:
            return join(plan, _run(plan, range(plan.chunks), workers, progress))
        for find, what in ((unfinished, "not finished"), (_outdated, "made of files that changed since")):
            if missing := sorted({number % shards for number in find(plan)}):
                raise FileNotFoundError(_missing_shards(plan, missing, shards, typed or _typed(plan), what))
        return join(plan)
    except OSError as error:
        if there := _existing(plan.out, settings, strict):
            # another process joined meanwhile, and took OUT.partial away
            return _compared(there, raw, arguments, progress=progress)
        if error.errno not in _FULL:
            raise
        raise OSError(error.errno, _disk_full(plan, error)) from error


def prepare_shard(
    raw: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    shard: int,
    shards: int = SHARDS,
    dataset: str,
    protocol: Protocol | Mapping[str, Any],
    res: int,
    layout: str = AUTO,
    upsample: bool = False,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
    typed: str | None = None,
    options: Mapping[str, Any] | None = None,
    subset: bool = False,
) -> Summary:
    """Align the frames of one share of a raw tree, in one of `shards` jobs; `prepare` joins them when all are done.

    Shard k has the chunks k, k + shards, k + 2·shards, …; a shard that was interrupted goes on when it is called again.

    Args:
        shard: 0 … shards − 1.
        shards: into how many jobs the preparation is cut; the same in all of them.
        raw, out, dataset, protocol, res, layout, upsample, workers, strict, progress, typed, options, subset: as for
            `prepare`.

    Returns:
        What was kept and dropped of this share; of the whole store, where that is there already.

    Raises:
        ValueError: a shard that is not among the shards.
        FileNotFoundError, NotADirectoryError, ValueError, FileExistsError, OSError: as for `prepare`.
    """
    if not (isinstance(shard, int) and isinstance(shards, int) and 0 <= shard < shards):
        many = max(shard + 1, 1) if isinstance(shard, int) else SHARDS
        raise ValueError(
            f"shard={shard} of shards={shards}: expected 0 … shards − 1. Give the number of jobs in both keys, "
            f"for {many} of them: shards={many} shard='range(0,{many})'"
        )
    settings = store_settings(dataset, as_protocol(protocol), res, options)
    arguments: dict[str, Any] = {"dataset": dataset, "protocol": protocol, "res": res, "layout": layout}
    arguments["upsample"] = upsample
    arguments |= {"strict": strict, "options": options, "subset": subset}
    if there := _existing(Path(out), settings, strict):
        return _compared(there, raw, arguments, shard, shards, progress=progress)
    plan = plan_preparation(raw, out, **arguments)
    refuse_nonsense(plan.raw, plan.sequences, plan.settings)
    numbers = range(shard, plan.chunks, shards)
    try:
        partial_folder(plan.out).mkdir(parents=True, exist_ok=True)
        with replacing(_sharding_path(plan)) as file:
            file.write(json.dumps({"shards": shards}).encode())
        _run(plan, numbers, workers, progress)
        outcomes = [finished(plan.chunk(number)) for number in numbers]
    except OSError as error:
        if there := _existing(plan.out, settings, strict):
            return _compared(there, raw, arguments, shard, shards, progress=progress)
        if error.errno not in _FULL:
            raise
        raise OSError(error.errno, _disk_full(plan, error)) from error
    if there := _existing(plan.out, settings, strict):
        return _compared(there, raw, arguments, shard, shards, progress=progress)  # all was there, and joined meanwhile
    done = [outcome for outcome in outcomes if outcome is not None]
    count = _count([row for outcome in done for row in outcome.dropped], done)
    return Summary(
        store=partial_folder(plan.out),
        sequences=sum(len(outcome.kept) for outcome in done),
        frames=sum(length for outcome in done for *_, length in outcome.kept),
        dropped_frames=count["frame"],
        dropped_sequences=count["sequence"],
        short=sum(len(outcome.short) for outcome in done),
        examples=[path for outcome in done for path in outcome.faulty][:5],
        notes=[
            *remarks(merge(outcome.seen for outcome in done)),
            f"{len(numbers):,} of the {plan.chunks:,} chunks; when all shards are done, join them with:",
            f"  python -m cstl.prepare {typed or _typed(plan)}",
        ],
        part=f"shard {shard} (0 … {shards - 1})",
    )


def prepare_chunk(chunk: Chunk) -> str:
    """Align a chunk's frames and write them; a chunk that is finished and whose raw files are the same is left alone.

    Returns:
        The digest of what it is made of.

    Raises:
        ValueError: with `strict`, a file that cannot be used.
        OSError: the disk is full.
    """
    listed = _listed(chunk)
    sources = [source_of(*pair) for pair in zip(chunk.sequences, listed, strict=True)]
    outcome = Outcome(_identity(chunk) + hashlib.sha256(json.dumps(sources).encode()).hexdigest(), sources=sources)
    if (earlier := finished(chunk)) and earlier.digest == outcome.digest:
        return outcome.digest
    if (earlier := _outcome(chunk)) and earlier.digest != outcome.digest:  # of other files or settings
        chunk.outcome_path.unlink(missing_ok=True)
        chunk.frames_path(earlier.digest).unlink(missing_ok=True)
    chunk.partial.mkdir(parents=True, exist_ok=True)
    with replacing(chunk.frames_path(outcome.digest)) as file:
        subjects: set[str] = set()
        for number, (sequence, files) in enumerate(zip(chunk.sequences, listed, strict=True)):
            looked_at = number % EVERY == 0 or sequence.subject not in subjects
            subjects.add(sequence.subject)
            file.writelines(_prepare_sequence(sequence, files, chunk, outcome, looked_at))
    with replacing(chunk.outcome_path) as file:
        file.write(json.dumps(asdict(outcome)).encode())
    return outcome.digest


def finished(chunk: Chunk) -> Outcome | None:
    """What became of a chunk that was finished with these settings and sequences, else None.

    With `strict`, a chunk that leaves out files that cannot be used is not finished.
    """
    if (outcome := _outcome(chunk)) is None or not outcome.digest.startswith(_identity(chunk)):
        return None
    try:
        size = chunk.frames_path(outcome.digest).stat().st_size
    except OSError:
        return None
    height, width = chunk.settings["height"], chunk.settings["width"]
    whole = size == sum(kept[3] for kept in outcome.kept) * height * width
    return outcome if whole and not (chunk.strict and outcome.faulty) else None


def unfinished(plan: Plan) -> list[int]:
    """The numbers of the chunks that are not finished."""
    return [number for number in range(plan.chunks) if finished(plan.chunk(number)) is None]


def _outcome(chunk: Chunk) -> Outcome | None:
    """What was written last of a chunk, with whatever settings; None where nothing can be read."""
    try:
        return Outcome(**read_json(chunk.outcome_path))
    except (OSError, ValueError, TypeError):
        return None


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
    count = _count(dropped, outcomes)
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
    _clear_abandoned(partial_folder(plan.out))
    folder = partial_folder(plan.out) / f"store-{secrets.token_hex(8)}"
    try:
        folder.mkdir()
        starts = np.cumsum([0] + [length for *_, length in kept])
        _write_csv(
            folder / "sequences.csv",
            COLUMNS,
            ((*row[:3], start, row[3]) for row, start in zip(kept, starts, strict=False)),
        )
        write_sources(folder / SOURCES, (Source(*source) for outcome in outcomes for source in outcome.sources))
        _write_csv(folder / "dropped.csv", "what,reason,path", dropped)
        _write_csv(folder / "short_sequences.csv", "subject,condition,view,files,usable,result", short)
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
    return _summary(Store(plan.out))


def _clear_abandoned(partial: Path) -> None:
    """Remove what killed joins left; another process may be joining at this moment, so only what nobody writes to."""
    for folder in partial.glob("store-*"):
        with suppress(OSError):
            changed = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - changed > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


def _count(dropped: Iterable[tuple[str, str, str]], outcomes: list[Outcome]) -> dict[str, dict[str, int]]:
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


def _prepare_sequence(
    sequence: RawSequence, files: Files, chunk: Chunk, outcome: Outcome, looked_at: bool = False
) -> list[bytes]:
    """The bytes of the frames to keep, uint8 (H, W) each; none where the sequence is dropped."""
    suffix = LAYOUTS[chunk.settings["layout"]].suffix
    to_frame = partial(_to_frame, settings=chunk.settings)
    frames, count, sizes = [], 0, set()
    if looked_at:
        look_at_names(outcome.seen, [relative(path, chunk.raw) for path in files.pictures])
    chosen = {*files.pictures[:1], *files.pictures[-1:], *files.pictures[len(files.pictures) // 2 :][:1]}
    for path, image in read_frames(sequence.folder, files, suffix, bool(chunk.settings["threshold"])):
        count += 1
        frame = image if isinstance(image, str) else to_frame(image)
        if looked_at and not isinstance(image, str) and (path in chosen or (suffix == ".pkl" and count % 25 == 1)):
            look_at_frame(outcome.seen, relative(path, chunk.raw), image, chunk.settings)
        if not isinstance(frame, str):
            frames.append(frame.tobytes())
            if len(frames) > 1 and frames[-1] == frames[-2]:
                note(outcome.seen, "repeated", relative(path, chunk.raw))
            sizes.add(image.shape)  # type: ignore[union-attr]
            continue
        if chunk.strict and frame not in NATURAL:
            raise ValueError(f"{path}: {frame}; mend or remove it, or leave such files out with strict=false")
        outcome.dropped.append(("frame", frame, relative(path, chunk.raw)))

    least = chunk.settings["min_frames"]
    result = "kept"
    if not count:
        result = EMPTY
    elif len(files.pictures) == count < least:
        result = FEW_FILES.format(least)
    elif len(frames) < least:
        result = FEW_USABLE.format(least)
    folder = relative(sequence.folder, chunk.raw)
    if len(frames) < SHORT:
        outcome.short.append((*names(sequence), count, len(frames), result))
    if result != "kept":
        outcome.dropped.append(("sequence", result, folder))
        outcome.unused += len(frames)
        return []
    if len(sizes) > 1:
        outcome.sizes.append(folder)
    outcome.kept.append((*names(sequence), len(frames)))
    return frames


def _to_frame(image: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray | str:
    """A store's frame, uint8 (height, width), of a raw or already aligned silhouette; or why there is none."""
    source, height = settings["source"], settings["height"]
    if source is not None and image.shape != tuple(source):
        return OTHER_SIZE.format(*image.shape, f"silhouettes aligned to {source[0]}x{source[1]}")
    if source is None and image.shape in ALIGNED and settings["aligned"] is not False:
        return OTHER_SIZE.format(*image.shape, "raw silhouettes")
    image = clean_mask(image, settings["threshold"], settings["clean"])
    if source is None:
        if settings["drop_cut"] and is_cut(image):
            return CUT
        square = align_or_reason(image, height)
        return square if isinstance(square, str) else cut_sides(square)
    frame = fit_aligned(image, height)
    return frame if isinstance(frame, str) or frame.any() else OFF_CENTRE  # all of it was at the sides


def _identity(chunk: Chunk) -> str:
    """A digest of the settings and of what the chunk's sequences are called."""
    settings = {name: value for name, value in chunk.settings.items() if name not in _NAMES}
    sequences = [names(sequence) for sequence in chunk.sequences]
    return hashlib.sha256(json.dumps([FORMAT, cv2.__version__, settings, sequences]).encode()).hexdigest()


def _listed(chunk: Chunk) -> list[Files]:
    """The files of each of a chunk's sequences."""
    return [list_files(sequence.folder, chunk.settings["files"]) for sequence in chunk.sequences]


def _outdated(plan: Plan) -> list[int]:
    """The numbers of the finished chunks whose raw files have changed since."""
    changed = []
    for chunk in map(plan.chunk, range(plan.chunks)):
        now = [source_of(*pair) for pair in zip(chunk.sequences, _listed(chunk), strict=True)]
        if (outcome := finished(chunk)) is None or [Source(*source) for source in outcome.sources] != now:
            changed.append(chunk.number)
    return changed


def _sharding_path(plan: Plan) -> Path:
    return partial_folder(plan.out) / "shards.json"


def _sharding(plan: Plan) -> int | None:
    """Into how many jobs the preparation was cut; None where it was not."""
    try:
        return int(read_json(_sharding_path(plan))["shards"])
    except FileNotFoundError:
        return None


def _missing_shards(plan: Plan, missing: list[int], shards: int, typed: str, what: str) -> str:
    """Which shards are missing, and what to type."""
    first, last = missing[0], missing[-1]
    several = len(missing) > 1 and len(missing) == last - first + 1
    chosen = f"'range({first},{last + 1})'" if several else ",".join(map(str, missing))
    command = "python -m cstl.prepare"
    return (
        f"{plan.out} is prepared in {shards} shards, of which {len(missing)} are {what}: "
        f"{some([str(shard) for shard in missing], 20)}. Prepare what is missing with\n"
        f"  {command} -m {typed} hydra/launcher=submitit_slurm shards={shards} shard={chosen}\n"
        f"or here, in one job, with\n  {command} {typed} shards=1 shard=0\nand join then with\n  {command} {typed}"
    )


def _typed(plan: Plan) -> str:
    return f"dataset={plan.settings['dataset']} res={plan.settings['height']} dataset.raw=PATH"


def _run(plan: Plan, numbers: Sequence[int], workers: int | None, progress: bool) -> dict[int, str]:
    """Prepare the chunks of these numbers, in `workers` processes → what each is made of."""
    digests = {}
    workers = available_cores() if workers is None else workers
    chunks = [plan.chunk(number) for number in numbers]
    with Steps("sequences", progress) as bar:
        about = f"preparing {plan.settings['dataset']} {plan.settings['height']}"
        task = bar.add_task(about, total=sum(len(chunk.sequences) for chunk in chunks))
        for chunk, digest in _prepared(chunks, min(workers, len(chunks))):
            digests[chunk.number] = digest
            bar.advance(task, len(chunk.sequences))
    return digests


def _prepared(chunks: list[Chunk], workers: int) -> Iterator[tuple[Chunk, str]]:
    """Prepare chunks, yield each with its digest as it is finished."""
    if workers <= 1:
        for chunk in chunks:
            yield chunk, prepare_chunk(chunk)
        return
    with worker_pool(workers) as pool:
        futures = {pool.submit(prepare_chunk, chunk): chunk for chunk in chunks}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _write_csv(path: Path, header: str, rows: Iterable[Iterable[object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)


def _existing(out: Path, settings: Mapping[str, Any], strict: bool) -> Store | None:
    """The store that is there, None where there is none; FileExistsError if it was made otherwise."""
    if not out.exists():
        return None
    if not (out / "store.json").is_file():
        raise FileExistsError(f"{out} exists and is no store; move it away or give dataset.store=PATH")
    store = open_store(out)
    about = OPTIONS | store.about  # an earlier version did not have every option
    differs = [name for name in settings if about.get(name) != settings[name]]
    if "subjects" in differs and set(settings["subjects"]) <= set(about.get("subjects", ())):
        differs.remove("subjects")  # more subjects than are asked for do no harm
    if differs:
        there = {name: _brief(about.get(name)) for name in differs}
        details = "; ".join(f"{name}: {there[name]} there, {_brief(settings[name])} now" for name in differs)
        raise FileExistsError(
            f"{out} was prepared with other settings ({details}); delete the folder to prepare it again, "
            "or give another one with dataset.store=PATH"
        )
    if strict and about["examples"]:
        raise FileExistsError(
            f"{out} was prepared without strict=true and leaves files out that cannot be used, "
            f"{about['examples'][0]} the first of them (dropped.csv names all); delete the folder to prepare it again"
        )
    shutil.rmtree(partial_folder(out), ignore_errors=True)  # a kill after the move leaves it, or a shard that came late
    return store


def _compared(
    store: Store,
    raw: str | os.PathLike[str] | None,
    arguments: Mapping[str, Any],
    shard: int = 0,
    shards: int = 1,
    *,
    progress: bool,
) -> Summary:
    """The summary of a store that is there, after a look at what it was made of; only at a shard's share of the files.

    Raises:
        FileExistsError: the raw tree is not what the store was made of.
    """
    if raw is not None and not os.path.exists(raw) and os.path.abspath(raw) == store.about.get("raw"):
        return _summary(store, [f"{store.origin}; that folder is gone, so it could not be compared"])
    try:
        plan = plan_preparation(raw, store.path, **arguments)
    except (ValueError, OSError) as error:
        raise FileExistsError(f"{store.path} is there already, {store.origin}. Now {error}") from error
    now = json.loads(json.dumps(plan.settings))
    if differs := [f"{name}: {store.about.get(name)} then, {now[name]} now" for name in ("layout", "source")
                   if store.about.get(name) != now[name]]:  # fmt: skip
        raise FileExistsError(_not_the_same(store, plan.raw, "; ".join(differs)))
    there, asked = read_sources(store), set(plan.settings["subjects"])
    if there is None:
        return _compared_by_names(store, plan, asked)
    there = {name: source for name, source in there.items() if name[0] in asked}
    present = [names(sequence) for sequence in plan.sequences]
    changes = find_changes(there, [], present)  # before any file is looked at
    if not str(changes):
        looked: dict[Name, tuple[RawSequence, Files]] = {}
        with Steps("sequences", progress) as bar:
            chunks = [plan.chunk(number) for number in range(shard, plan.chunks, shards)]
            task = bar.add_task("comparing", total=sum(len(chunk.sequences) for chunk in chunks))
            for chunk in chunks:
                looked |= {names(pair[0]): pair for pair in zip(chunk.sequences, _listed(chunk), strict=True)}
                bar.advance(task, len(chunk.sequences))
        now = {name: source_of(*pair) for name, pair in looked.items()}
        changes = find_changes(there, list(now.values()), present)
        again = spread(changes.touched, AGAIN)
        rewritten = [name for name in again if _frames_now(plan, *looked[name]) != _frames_then(store, name)]
        changes.changed.extend((there[name], now[name]) for name in rewritten)
    if found := str(changes):
        raise FileExistsError(_not_the_same(store, plan.raw, found))
    notes = [store.origin]
    if os.path.abspath(plan.raw) != store.about.get("raw"):
        notes = [f"{store.origin}; {shown(plan.raw)} holds the same files"]
    if changes.touched:
        several = f"{len(changes.touched):,} sequences were copied or written again since"
        notes.append(f"{several}; {len(again):,} of them were read, and give the same frames")
    return _summary(store, notes)


def _compared_by_names(store: Store, plan: Plan, asked: set[str]) -> Summary:
    """As `_compared`, of a store that an earlier version made: it does not say which files there were."""
    rows = zip(store.subjects.tolist(), store.conditions.tolist(), store.views.tolist(), strict=True)
    kept = {name for name in rows if name[0] in asked}
    rows_of_it = read_rows(store.path / "dropped.csv")
    dropped = {row.get("path") for row in rows_of_it if row.get("what") == "sequence"}
    now = {names(sequence): relative(sequence.folder, plan.raw) for sequence in plan.sequences}
    gone = sorted(kept - now.keys())
    new = sorted(name for name, folder in now.items() if name not in kept and folder not in dropped)
    if found := str(Changes(gone, new, [], [])):
        raise FileExistsError(_not_the_same(store, plan.raw, found))
    return _summary(store, [f"{store.origin} by an earlier version: only the sequences' names could be compared"])


def _frames_now(plan: Plan, sequence: RawSequence, files: Files) -> bytes:
    """What a store would hold of these files."""
    chunk = Chunk(0, (sequence,), plan.settings, partial_folder(plan.out), plan.raw, strict=False)
    return b"".join(_prepare_sequence(sequence, files, chunk, Outcome("")))


def _frames_then(store: Store, name: Name) -> bytes:
    """What a store holds of a sequence, nothing where it was dropped."""
    rows = (store.subjects == name[0]) & (store.conditions == name[1]) & (store.views == name[2])
    return b"".join(
        store.frames[start : start + length].tobytes()
        for start, length in zip(store.starts[rows], store.lengths[rows], strict=True)
    )


def _not_the_same(store: Store, raw: str, what: str) -> str:
    return (
        f"{store.path} was {store.origin}, and {shown(raw)} is not the same: {what}. Delete {store.path} to prepare it "
        "again, or give another one with dataset.store=PATH; to use it as it is, there is nothing to prepare"
    )


def _brief(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return f"{len(value)} ({', '.join(value[:2])}, …, {value[-1]})" if len(value) > 3 else ", ".join(value)


def _summary(store: Store, notes: Sequence[str] | None = None) -> Summary:
    """What a store says of itself; with `notes` first, where it was there already."""
    fields = ("sequences", "frames", "dropped_frames", "dropped_sequences", "short", "examples")
    about = {name: store.about[name] for name in fields}
    said = [*(notes or ()), *store.about.get("notes", [])]
    return Summary(store.path, **about, notes=said, already=notes is not None)


def _counts(count: Mapping[str, Mapping[str, int]]) -> str:
    return "; ".join(f"{what}s: {', '.join(f'{n:,} {r}' for r, n in counts.items())}" for what, counts in count.items())


def _disk_full(plan: Plan, error: OSError) -> str:
    sample = spread(plan.sequences, 200)
    listed = (list_files(sequence.folder, plan.settings["files"]) for sequence in sample)
    count = sum(_count_frames(files, plan.settings) for files in listed)
    size = count / len(sample) * len(plan.sequences) * plan.settings["height"] * plan.settings["width"]
    return (
        f"the disk of {plan.out.parent} is full ({error.strerror}): the store needs about {_size(2 * size)} "
        f"there while it is made and half of that afterwards; make room or give dataset.store=PATH. What is finished "
        f"stays in {partial_folder(plan.out)}, and the same command goes on from it"
    )


def _count_frames(files: Files, settings: Mapping[str, Any]) -> float:
    """Frames of a sequence, without reading them."""
    if not files.pickles:
        return len(files.pictures)
    height, width = settings["source"]
    return os.path.getsize(files.pickles[0]) / (height * width)


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
