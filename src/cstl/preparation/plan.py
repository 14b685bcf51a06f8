"""What is to be prepared, and which sequences of a raw tree go into which chunk of a store."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np

from cstl.data.alignment import ALIGNED, check_mask_options, frame_size
from cstl.data.frames import ARCHIVE, LOSSY, list_files, read_frames
from cstl.data.protocol import Protocol
from cstl.data.store import partial_folder
from cstl.files import shown
from cstl.preparation.layouts import (
    AUTO,
    LAYOUTS,
    Listing,
    RawSequence,
    describe,
    list_sequences,
    prevailing,
    spread,
)

CHUNK = 110  # sequences in a chunk: one subject of CASIA-B, a few seconds of work
LOOKED_INTO = 200  # sequences whose files' names are looked at, for remarks
SAMPLE = 16  # sequences that tell whether silhouettes are aligned already
_PARTS = ("subject", "condition", "view")
UNKNOWN = "{} the protocol does not know"


@dataclass(frozen=True)
class Preparation:
    """Which store is to be made of which raw tree, and how.

    Args:
        raw: folder of the raw tree.
        out: folder of the store. `OUT.partial` holds what is not finished; it needs the store's size twice.
        dataset: name of the data set.
        protocol: its subjects, conditions and views; sequences of others are left out.
        res: 64 (frames of 64x44) or 128 (128x88).
        layout: how the raw tree is laid out, see `cstl.preparation.layouts.LAYOUTS`; "auto": as its folders
            say.
        files: only files of such names are frames, as a shell matches them ("*-sils.pkl"); all when None.
        threshold, clean: as for `cstl.data.align_silhouette`.
        drop_cut: leave out frames whose body the picture's border cuts.
        aligned: whether silhouettes are aligned already; "auto": those are that have the size
            (64x64, 64x44, 128x128 or 128x88 in the whole tree). They are only brought to the store's size.
        upsample: allow 128x88 frames to be made of silhouettes that were aligned to 64 rows.
        strict: stop at the first file or folder that cannot be used, instead of leaving it out.
        subset: allow most sequences of the raw tree to be unknown to the protocol.
        typed: what the user types after `python -m cstl.prepare` to prepare this store, for messages.

    Raises:
        ValueError: an unknown resolution, threshold, or choice.
    """

    raw: str | os.PathLike[str] | None
    out: str | os.PathLike[str]
    dataset: str
    protocol: Protocol
    res: int
    layout: str = AUTO
    files: str | None = None
    threshold: int | None = None
    clean: str = "none"
    drop_cut: bool = False
    aligned: bool | str = AUTO
    upsample: bool = False
    strict: bool = False
    subset: bool = False
    typed: str | None = None

    def __post_init__(self) -> None:
        frame_size(self.res)
        check_mask_options(self.threshold, self.clean)
        for name, choices in {"drop_cut": (True, False), "aligned": (AUTO, True, False)}.items():
            value = getattr(self, name)
            if not any(value is choice or value == choice == AUTO for choice in choices):
                listed = ", ".join(str(choice).lower() for choice in choices)
                raise ValueError(f"unknown dataset.{name}={shown(value, 80)}; the choices are {listed}")

    @property
    def settings(self) -> dict[str, Any]:
        """Say what a store's content depends on beside the raw files; of the protocol all subjects."""
        height, width = frame_size(self.res)
        return {
            "dataset": self.dataset,
            "height": height,
            "width": width,
            "min_frames": self.protocol.min_frames,
            "views": sorted(self.protocol.views),
            "conditions": sorted(self.protocol.conditions),
            "subjects": sorted(self.protocol.known_subjects),
            **{name: getattr(self, name) for name in OPTIONS},
        }

    @property
    def command(self) -> str:
        """Say what to type after `python -m cstl.prepare`."""
        return self.typed or f"dataset={self.dataset} res={self.res} dataset.raw=PATH"


# Keys of a data set, beside its protocol, that decide which frames a store holds, with their values where
# nobody says.
OPTIONS: dict[str, Any] = {
    option.name: option.default
    for option in fields(Preparation)
    if option.name in ("files", "threshold", "clean", "drop_cut", "aligned")
}


@dataclass(frozen=True)
class Chunk:
    """Some sequences, and where what becomes of them is written."""

    number: int
    sequences: tuple[RawSequence, ...]
    settings: Mapping[str, Any]
    partial: Path
    raw: str
    strict: bool

    def frames_path(self, digest: str) -> Path:
        """Return where the frames lie, named by what they are made of: two jobs at once cannot mix theirs."""
        return self.partial / f"chunk-{self.number:05d}-{digest[:8]}{digest[-8:]}.frames"

    @property
    def outcome_path(self) -> Path:
        """Return where it is said what became of the sequences: written last, so who has it is finished."""
        return self.partial / f"chunk-{self.number:05d}.json"


@dataclass(frozen=True)
class Plan:
    """Which sequences go into which chunk of a store; `skipped` are those that are left out of it.

    `settings` are what a store is compared by, then the raw tree's layout and source: [height, width] of
    silhouettes that are aligned already, None for raw ones. `notes` are worth telling the user.
    """

    asked: Preparation
    settings: Mapping[str, Any]
    sequences: tuple[RawSequence, ...]
    skipped: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]

    @property
    def raw(self) -> str:
        """Return folder of the raw tree."""
        return os.fspath(self.asked.raw or "")

    @property
    def out(self) -> Path:
        return Path(self.asked.out)

    @property
    def partial(self) -> Path:
        """Return folder of what is not finished."""
        return partial_folder(self.asked.out)

    @property
    def chunks(self) -> list[Chunk]:
        return [
            Chunk(
                number,
                self.sequences[first : first + CHUNK],
                self.settings,
                self.partial,
                self.raw,
                self.asked.strict,
            )
            for number, first in enumerate(range(0, len(self.sequences), CHUNK))
        ]


def plan_preparation(asked: Preparation) -> Plan:
    """List the raw tree and say which sequences go into which chunk. Errors as for `prepare`."""
    settings = asked.settings
    listing = list_sequences(asked.raw, asked.layout, asked.files)
    raw = os.fspath(asked.raw or "")
    if listing.problems and asked.strict:
        folder, reason = listing.problems[0]
        raise ValueError(
            f"{folder}: {reason}; mend or remove it, or leave such folders out with strict=false"
        )
    skipped = [("frame", reason, relative(folder, raw)) for folder, reason in listing.problems]
    sequences, notes = _by_protocol(listing.sequences, asked.protocol, raw, skipped)
    if 2 * len(sequences) < len(listing.sequences) and not (asked.subset and sequences):
        raise ValueError(_mostly_unknown(listing, len(sequences), asked))
    source, res = _source(sequences, listing.layout, raw, settings), asked.res
    if source and source[0] < res and not asked.upsample:
        raise ValueError(
            f"{raw} holds silhouettes aligned to {source[0]}x{source[1]}; res={res} would scale them up, "
            f"which adds no detail: type res={source[0]}, or prepare from the raw silhouettes, or scale "
            "them up with upsample=true"
        )
    if source:
        scaled = "" if source[0] == res else f", scaled {'down' if source[0] > res else 'up'} to {res} rows"
        notes.append(
            f"the silhouettes were aligned to {source[0]}x{source[1]} already: not aligned again{scaled}"
        )
        if asked.drop_cut:
            notes.append(
                "dataset.drop_cut did nothing: silhouettes that are aligned do not show what was cut off"
            )
    notes += _remarks(sequences, listing, raw, asked.files)
    settings |= {"layout": listing.layout, "source": source}
    return Plan(asked, settings, tuple(sequences), tuple(skipped), tuple(notes))


def _by_protocol(
    listed: list[RawSequence], protocol: Protocol, raw: str, skipped: list[tuple[str, str, str]]
) -> tuple[list[RawSequence], list[str]]:
    """Choose the sequences that the protocol knows, under its names, with remarks on them; others are
    skipped.

    Raises:
        ValueError: two folders hold the same sequence.
    """
    known = {
        "subject": protocol.known_subjects,
        "condition": set(protocol.conditions),
        "view": set(protocol.views),
    }
    alike = {what: _unique(names) for what, names in known.items()}
    sequences, renamed = [], set()
    unknown: dict[str, set[str]] = {what: set() for what in known}
    for sequence in listed:
        name, first = list(sequence.name), None  # the first part of it that is unknown
        for i, (what, names) in enumerate(known.items()):
            if name[i] not in names and (meant := alike[what].get(_key(name[i]))):
                renamed.add(f"{what} {name[i]} as {meant}")
                name[i] = meant
            elif name[i] not in names and first is None:
                first = what
                unknown[what].add(_printable(name[i]))
                skipped.append(("sequence", UNKNOWN.format(what), relative(sequence.folder, raw)))
        if first is None:
            sequences.append(RawSequence(name[0], name[1], name[2], sequence.folder))
    sequences.sort()
    twice = [
        (
            f"{' '.join(one.name)} is in {os.path.relpath(one.folder, raw)} and "
            f"{os.path.relpath(two.folder, raw)}"
        )
        for one, two in pairwise(sequences)
        if one.name == two.name
    ]
    if twice:
        raise ValueError(
            f"{raw} holds {len(twice)} sequence(s) twice: {some(twice, 3)}. Keep one of the two and move "
            "the other away; leading zeros and capital letters make no difference"
        )
    notes = {f"{what}s left out, which the protocol does not know": names for what, names in unknown.items()}
    notes["names read as the protocol's"] = renamed
    return sequences, [f"{what}: {some(sorted(names), 5)}" for what, names in notes.items() if names]


def _mostly_unknown(listing: Listing, known: int, asked: Preparation) -> str:
    """Say what was found beside what the protocol knows, and what to type."""
    first, protocol, raw = listing.sequences[0], asked.protocol, os.fspath(asked.raw or "")
    count = f"{known:,}" if known else "none"
    message = (
        f"{raw}: the protocol of {asked.dataset} knows {count} of the {len(listing.sequences):,} sequences "
        f"found; the first one has {_called(first.name)} (found {describe(raw)}); expected subjects like "
        f"{min(protocol.known_subjects, default='none')}, conditions like {protocol.conditions[0]} and "
        f"views like {protocol.views[0]}"
    )
    layouts = ".\nThe layouts that are known:"
    if listing.layout != "oumvlp" and (order := _other_order(listing.sequences, protocol)):
        layouts = (
            f".\nThe folders seem to be {'/'.join(order)}, such as {_printable('/'.join(first.name))}; a "
            "layout with that order is not known. Rename them to one that is:"
        )
    message += layouts + "".join(f"\n  {name:10}{layout.looks}" for name, layout in LAYOUTS.items())
    message += (
        f"\nRead as {listing.layout}; name another with dataset.layout=, or another data set with dataset="
    )
    if known:
        message += ". Where the others are meant to be left out, type subset=true"
    return message


def _called(name: Sequence[str]) -> str:
    return ", ".join(f"{what} {_printable(value)}" for what, value in zip(_PARTS, name, strict=True))


def _other_order(sequences: Sequence[RawSequence], protocol: Protocol) -> tuple[str, ...] | None:
    """Say what the three folders are of most sequences, where they come in another order."""
    known = (protocol.known_subjects, protocol.conditions, protocol.views)
    keys = [{_key(name) for name in every} for every in known]
    sample = [[_key(name) for name in sequence.name] for sequence in spread(sequences, 200)]
    fits = {
        order: sum(all(name[i] in keys[part] for i, part in enumerate(order)) for name in sample)
        for order in permutations(range(3))
    }
    best = max(fits, key=fits.__getitem__)
    return (
        tuple(_PARTS[part] for part in best) if 2 * fits[best] > len(sample) and best != (0, 1, 2) else None
    )


def _unique(names: Iterable[str]) -> dict[str, str]:
    """Return key → the name that alone has it."""
    keys = Counter(map(_key, names))
    return {key: name for name in names if keys[key := _key(name)] == 1}


def _key(name: str) -> str:
    """Return the same for 1 and 001, NM-01 and nm-01, and é written as one sign or as two."""
    return re.sub(r"\d+", lambda digits: str(int(digits[0])), unicodedata.normalize("NFC", name).casefold())


def _remarks(sequences: list[RawSequence], listing: Listing, raw: str, pattern: str | None) -> Iterator[str]:
    """Say what a user should know of the files, by a sample of the tree."""
    if archives := [relative(path, raw) for path, why in listing.problems if why == ARCHIVE]:
        yield (
            f"{len(archives):,} archive(s) are not unpacked, and what is in them is left out: "
            f"{some(archives, 5)}. Unpack them there, delete the store and prepare it again"
        )
    sample = [list_files(sequence.folder, pattern) for sequence in spread(sequences, LOOKED_INTO)]
    if lossy := [path for files in sample for path in files.pictures[:1] if path.lower().endswith(LOSSY)]:
        yield (
            "masks are JPEG files, whose values near black and white are noise "
            f"({relative(lossy[0], raw)}): 128 and more were made white, the rest black"
        )
    if several := [files.pickles for files in sample if len(files.pickles) > 1]:
        examples = ", ".join(_printable(os.path.basename(path)) for path in several[0][:3])
        ending = re.sub(r"^\d+", "*", os.path.basename(several[0][-1]))
        yield (
            f"folders hold several pickles ({examples} in {relative(os.path.dirname(several[0][0]), raw)}), "
            "and are left out; choose one in each with dataset.files=PATTERN, such as "
            f"dataset.files='{_printable(ending)}'"
        )


def _source(
    sequences: list[RawSequence], layout: str, raw: str, settings: Mapping[str, Any]
) -> tuple[int, int] | None:
    """Return height and width of silhouettes that are aligned already, by a sample of the tree; None for raw
    ones.

    Where the user says that they are aligned, or that they are not, only their size is looked for.

    Raises:
        ValueError: raw and aligned ones, or ones of several sizes; pickles of another size than aligned ones
            have.
    """
    if settings["aligned"] is False:
        return None
    suffix = LAYOUTS[layout].suffix
    seen: dict[tuple[int, int] | None, list[str]] = {}  # aligned size → examples
    for sequence in spread(sequences, SAMPLE):
        frames = read_frames(
            sequence.folder,
            list_files(sequence.folder, settings["files"]),
            suffix,
            bool(settings["threshold"]),
        )
        shape = next((image.shape for _, image in frames if isinstance(image, np.ndarray)), None)
        if shape is None:
            continue
        height, width = shape
        # The field's other tools write pickles of aligned silhouettes only, at any size.
        is_aligned = shape in ALIGNED or (suffix == ".pkl" and width in (height, height * 11 / 16))
        if not is_aligned and (suffix == ".pkl" or settings["aligned"] is True):
            raise ValueError(
                f"{sequence.folder}: {'a pickle of ' if suffix == '.pkl' else ''}{height}x{width} frames; "
                "expected aligned silhouettes, 64x64, 64x44, 128x128 or 128x88. Prepare from the PNG frames "
                "that it was made of, or have them aligned here: type dataset.aligned=false"
            )
        example = f"{height}x{width} in {os.path.relpath(sequence.folder, raw)}"
        seen.setdefault((height, width) if is_aligned else None, []).append(example)
    kinds = prevailing(seen)
    if len(kinds) > 1:
        examples = " and ".join(seen[kind][0] for kind in kinds)
        raise ValueError(
            f"{raw} mixes silhouettes that are prepared in different ways: frames are {examples}; move them "
            "apart and prepare from one kind"
        )
    return kinds[0] if kinds else None


def some(names: Sequence[str], most: int) -> str:
    """Return the first of the names, for a message."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def relative(path: str, raw: str) -> str:
    """Return a path under the raw folder for tables and messages."""
    return _printable(os.path.relpath(path, raw))


def _printable(name: str) -> str:
    """Return a name, with backslashes where it is not UTF-8 or would do something to a terminal."""
    return shown(name, 4096)
