"""A chunk of sequences: its frames aligned and written, and what became of each."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np

from cstl.data.alignment import ALIGNED, CUT, NO_PERSON, OFF_CENTRE, clean_mask, fit_frame, is_cut
from cstl.data.frames import Files, list_files, read_frames
from cstl.data.store import FORMAT
from cstl.files import read_json, replacing
from cstl.preparation.inspection import EVERY, Seen, look_at_frame, look_at_names, note
from cstl.preparation.layouts import LAYOUTS, RawSequence
from cstl.preparation.plan import Chunk, relative
from cstl.preparation.sources import Source, source_of

SHORT = 15  # sequences of fewer usable frames are reported
NATURAL = (NO_PERSON, OFF_CENTRE, CUT)  # frames dropped for any other reason are faulty
EMPTY = "empty"
FEW_FILES = "fewer than {} frame files"
FEW_USABLE = "fewer than {} usable frames"
OTHER_SIZE = "{}x{} among {}"
# settings that say which sequences are kept, and not what becomes of them
_NAMES = ("subjects", "conditions", "views")


@dataclass
class Outcome:
    """What became of a chunk's sequences. Paths are relative to the raw folder."""

    digest: str  # of settings and names, then of the raw files
    kept: list[tuple[str, str, str, int]] = field(default_factory=list)  # subject, condition, view, frames
    dropped: list[tuple[str, str, str]] = field(default_factory=list)  # "frame" or "sequence", reason, path
    # …, frames, usable, result
    short: list[tuple[str, str, str, int, int, str]] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)  # kept sequences whose frames differ in size
    seen: Seen = field(default_factory=dict)  # what a sample of frames and names shows
    unused: int = 0  # usable frames of dropped sequences
    sources: list[Source] = field(default_factory=list)  # of every sequence


def faulty(dropped: Iterable[tuple[str, str, str]]) -> list[str]:
    """Give the files among what was dropped that could not be used, and why."""
    return [f"{path} ({why})" for what, why, path in dropped if what == "frame" and why not in NATURAL]


def prepare_chunk(chunk: Chunk) -> str:
    """Align a chunk's frames and write them; a chunk that is finished and whose raw files are the same is
    left alone.

    Returns:
        The digest of what it is made of.

    Raises:
        ValueError: with `strict`, a file that cannot be used.
        OSError: the disk is full.
    """
    listed = list_chunk(chunk)
    sources = [source_of(*pair) for pair in listed]
    outcome = Outcome(
        _identity(chunk) + hashlib.sha256(json.dumps(sources).encode()).hexdigest(), sources=sources
    )
    if (earlier := finished(chunk)) and earlier.digest == outcome.digest:
        return outcome.digest
    if (earlier := _outcome(chunk)) and earlier.digest != outcome.digest:  # of other files or settings
        chunk.outcome_path.unlink(missing_ok=True)
        chunk.frames_path(earlier.digest).unlink(missing_ok=True)
    chunk.partial.mkdir(parents=True, exist_ok=True)
    with replacing(chunk.frames_path(outcome.digest)) as file:
        subjects: set[str] = set()
        for number, (sequence, files) in enumerate(listed):
            looked_at = number % EVERY == 0 or sequence.subject not in subjects
            subjects.add(sequence.subject)
            file.writelines(prepare_sequence(sequence, files, chunk, outcome, looked_at))
    with replacing(chunk.outcome_path) as file:
        file.write(json.dumps(asdict(outcome)).encode())
    return outcome.digest


def finished(chunk: Chunk) -> Outcome | None:
    """Say what became of a chunk that was finished with these settings and sequences, else None.

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
    return outcome if whole and not (chunk.strict and faulty(outcome.dropped)) else None


def _outcome(chunk: Chunk) -> Outcome | None:
    """Say what was written last of a chunk, with whatever settings; None where nothing can be read."""
    try:
        return Outcome(**read_json(chunk.outcome_path))
    except (OSError, ValueError, TypeError):
        return None


def prepare_sequence(
    sequence: RawSequence, files: Files, chunk: Chunk, outcome: Outcome, looked_at: bool = False
) -> list[bytes]:
    """Return the bytes of the frames to keep, uint8 (H, W) each; none where the sequence is dropped."""
    suffix = LAYOUTS[chunk.settings["layout"]].suffix
    frames, count, sizes = [], 0, set()
    if looked_at:
        look_at_names(
            outcome.seen, files.pictures, relative("".join(files.pictures[:1]) or chunk.raw, chunk.raw)
        )
    chosen = {*files.pictures[:1], *files.pictures[-1:], *files.pictures[len(files.pictures) // 2 :][:1]}
    for path, image in read_frames(sequence.folder, files, suffix, bool(chunk.settings["threshold"])):
        count += 1
        frame = image if isinstance(image, str) else _to_frame(image, chunk.settings)
        if (
            looked_at
            and not isinstance(image, str)
            and (path in chosen or (suffix == ".pkl" and count % 25 == 1))
        ):
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

    least, result = chunk.settings["min_frames"], "kept"
    if len(frames) < least:
        few = FEW_FILES if len(files.pictures) == count < least else FEW_USABLE
        result = few.format(least) if count else EMPTY
    folder = relative(sequence.folder, chunk.raw)
    if len(frames) < SHORT:
        outcome.short.append((*sequence.name, count, len(frames), result))
    if result != "kept":
        outcome.dropped.append(("sequence", result, folder))
        outcome.unused += len(frames)
        return []
    if len(sizes) > 1:
        outcome.sizes.append(folder)
    outcome.kept.append((*sequence.name, len(frames)))
    return frames


def _to_frame(image: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray | str:
    """Return a store's frame, uint8 (height, width), of a raw or aligned silhouette; or why there is none."""
    source, height = settings["source"], settings["height"]
    if source is not None and image.shape != tuple(source):
        return OTHER_SIZE.format(*image.shape, f"silhouettes aligned to {source[0]}x{source[1]}")
    if source is None and image.shape in ALIGNED and settings["aligned"] is not False:
        return OTHER_SIZE.format(*image.shape, "raw silhouettes")
    image = clean_mask(image, settings["threshold"], settings["clean"])
    if source is None and settings["drop_cut"] and is_cut(image):
        return CUT
    return fit_frame(image, height, source is not None)


def _identity(chunk: Chunk) -> str:
    """Return a digest of the settings and of what the chunk's sequences are called."""
    settings = {name: value for name, value in chunk.settings.items() if name not in _NAMES}
    sequences = [sequence.name for sequence in chunk.sequences]
    return hashlib.sha256(json.dumps([FORMAT, cv2.__version__, settings, sequences]).encode()).hexdigest()


def list_chunk(chunk: Chunk) -> list[tuple[RawSequence, Files]]:
    """List the files of each of a chunk's sequences."""
    return [(sequence, list_files(sequence.folder, chunk.settings["files"])) for sequence in chunk.sequences]
