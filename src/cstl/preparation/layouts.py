"""Raw trees as users have them: a layout is where the folders of sequences are, and what lies in one."""

import errno
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path
from sys import intern
from typing import NamedTuple, TypeVar

from cstl.data.frames import ARCHIVE, ARCHIVES, PICKLES, PICTURES, UNREADABLE_FOLDER, list_files
from cstl.files import shown

AUTO = "auto"
LOOP = "symbolic-link loop"
SAMPLE = 64  # sequences that are looked into to tell the layout

Problems = list[tuple[str, str]]  # a folder, what is wrong with it
Kind = TypeVar("Kind")
Item = TypeVar("Item")
# of operating systems
_JUNK = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
_VIEW_FOLDER = re.compile(r"Silhouette_([^-]+)-([^-]+)")


class RawSequence(NamedTuple):
    """One walk of one subject, as it lies on disk; `folder` holds its frames and is not looked into yet."""

    subject: str
    condition: str
    view: str
    folder: str

    @property
    def name(self) -> tuple[str, str, str]:
        """Return subject, condition and view."""
        return self[:3]


class Layout(NamedTuple):
    """How to find the folders of sequences, what the files in them end in, and what a path looks like."""

    find: Callable[[str, Problems], Iterator[RawSequence]]
    suffix: str
    looks: str


@dataclass(frozen=True)
class Listing:
    """A raw tree: its layout, its sequences by subject, condition and view, and folders left out."""

    layout: str
    sequences: list[RawSequence]
    problems: Problems


def by_subject(raw: str, problems: Problems) -> Iterator[RawSequence]:
    """Find sequences in `subject/condition/view`, or `subject/subject/condition/view` of unpacking."""
    for subject, subject_folder in _folders(raw, problems):
        if _VIEW_FOLDER.fullmatch(subject):
            continue  # the other layout: every subject's folder in it would be listed for nothing
        for condition, condition_folder in _folders(subject_folder, problems):
            for view, folder in _folders(condition_folder, problems):
                inner = _folders(folder, problems) if condition == subject else []
                for deeper, deeper_folder in inner:  # 001/001/nm-01/000
                    yield RawSequence(subject, view, deeper, deeper_folder)
                if not inner:
                    yield RawSequence(subject, condition, view, folder)


def by_view(raw: str, problems: Problems) -> Iterator[RawSequence]:
    """Find sequences in `Silhouette_VIEW-CONDITION/subject`."""
    for name, outer in _folders(raw, problems):
        if match := _VIEW_FOLDER.fullmatch(name):
            view, condition = match.groups()
            for subject, folder in _folders(outer, problems):
                yield RawSequence(subject, condition, view, folder)


LAYOUTS = {
    "casiab": Layout(by_subject, ".png", "001/nm-01/000/*.png (subject/condition/view/frames)"),
    "oumvlp": Layout(
        by_view, ".png", "Silhouette_000-00/00001/*.png (Silhouette_VIEW-CONDITION/subject/frames)"
    ),
    "opengait": Layout(
        by_subject, ".pkl", "001/nm-01/000/000.pkl (subject/condition/view/one pickled array)"
    ),
}


def list_sequences(
    raw: str | os.PathLike[str] | None, layout: str = AUTO, pattern: str | None = None
) -> Listing:
    """List all sequences of a raw tree. Frames are not listed yet, but for a sample that tells the layout.

    Args:
        raw: folder of the tree.
        layout: a name in `LAYOUTS`, or "auto" for the one that the tree has.
        pattern: of the names of the files that are frames, see `cstl.data.frames.list_files`.

    Raises:
        ValueError: an unknown layout, no folder given, an empty one, a tree of another layout, of none or of
            two; the message shows what was found beside what was expected.
        FileNotFoundError: no such folder.
        NotADirectoryError: a file, not a folder.
        OSError: the folder cannot be read.
    """
    if layout not in (AUTO, *LAYOUTS):
        raise ValueError(f"unknown dataset.layout={layout!r}; the choices are {', '.join((AUTO, *LAYOUTS))}")
    layouts = LAYOUTS if layout == AUTO else {layout: LAYOUTS[layout]}
    looks = " or ".join(choice.looks for choice in layouts.values())
    if raw is None:
        raise ValueError(
            f"where are the raw frames? Give their folder with dataset.raw=PATH; expected {looks} in it"
        )
    if not os.path.exists(raw):
        raise FileNotFoundError(
            f"no raw frames at {raw}: no such folder; expected {looks} in it, give dataset.raw=PATH"
        )
    if not os.path.isdir(raw):
        raise NotADirectoryError(
            f"no raw frames at {raw}: a file; expected a folder with {looks} (unpack archives)"
        )
    raw = os.fspath(raw)
    os.listdir(raw)  # raises where the folder itself cannot be read

    problems: Problems = []
    listed = {find: list(find(raw, problems)) for find in {choice.find for choice in layouts.values()}}
    for count in (SAMPLE, None):  # all are looked into only where a sample holds nothing
        seen = {
            name: folders
            for name, choice in layouts.items()
            if (folders := _with(choice.suffix, spread(listed[choice.find], count), pattern))
        }
        if seen:
            break
    else:
        only = f"\nOnly files named {pattern} were looked for (dataset.files)" if pattern else ""
        raise ValueError(_fits_none(raw, layout, problems) + only)
    name, *others = prevailing(seen)
    if others:
        both = " and ".join(f"{kind} (in {os.path.relpath(seen[kind][0], raw)})" for kind in (name, *others))
        raise ValueError(
            f"{raw} holds two layouts, {both}: name the one to read with dataset.layout={name}, or move "
            "them apart"
        )
    return Listing(name, sorted(listed[LAYOUTS[name].find]), sorted(set(problems)))


def describe(raw: str | os.PathLike[str]) -> str:
    """Return a few words on what a folder holds: its first entries and one path down to a file."""
    names = sorted(entry.name for entry in os.scandir(raw))
    if not names:
        return "an empty folder (synthetic walkers are made by python -m cstl.synthesize)"
    shown = ", ".join(names[:5]) + (f", … ({len(names)} entries)" if len(names) > 5 else "")
    for folder, _, files in islice(os.walk(raw), 1000):
        if files:
            return f"{shown}; for example {Path(folder, min(files)).relative_to(raw).as_posix()}"
    return f"{shown}; no file in them"


def spread(sequences: Sequence[Item], count: int | None) -> Sequence[Item]:
    """Return at most `count` of the sequences, evenly spread; all where it is None."""
    if count is None or len(sequences) <= count:
        return sequences
    return [sequences[i * len(sequences) // count] for i in range(count)]


def prevailing(seen: Mapping[Kind, Sequence[str]]) -> list[Kind]:
    """Return the kinds seen, that of most examples first, without strays: less than a fifth of that."""
    kinds = sorted(seen, key=lambda kind: -len(seen[kind]))
    return [kind for kind in kinds if 5 * len(seen[kind]) >= len(seen[kinds[0]])]


def _with(suffix: str, sequences: Iterable[RawSequence], pattern: str | None) -> list[str]:
    """Return the folders that hold files of that kind."""
    return [sequence.folder for sequence in sequences if list_files(sequence.folder, pattern).of(suffix)]


def _fits_none(raw: str, layout: str, problems: Problems) -> str:
    content = describe(raw)
    if archives := sorted({os.path.relpath(path, raw) for path, why in problems if why == ARCHIVE}):
        first = shown(", ".join(archives[:3]) + (", …" if len(archives) > 3 else ""))
        return (
            f"{raw} holds {len(archives)} archive(s) that are not unpacked and no silhouettes beside them: "
            f"found {content}.\nUnpack them there and type the command again, {first} and the like with\n  "
            f"cd {shlex.quote(raw)} && {_unpacking(archives[0])}"
        )
    if problems:
        folder, reason = problems[0]
        content += f"; {len(problems)} folder(s) left out, {os.path.relpath(folder, raw)}: {reason}"
    if layout != AUTO:
        return (
            f"{raw} is not laid out as {layout}: expected {LAYOUTS[layout].looks}, found {content}; "
            "with dataset.layout=auto all layouts are tried"
        )
    choices = "".join(f"\n  {name:10}{choice.looks}" for name, choice in LAYOUTS.items())
    return (
        f"{raw} has none of the layouts that are known.\nFound: {content}\nExpected one of:{choices}\n"
        "Give the folder whose entries are the first part of such a path with dataset.raw=PATH"
        + _perhaps(raw)
    )


def _unpacking(archive: str) -> str:
    """Say what to type to unpack archives such as this one, one after another."""
    ending = next(e for e in (".tar.gz", ".tar.bz2", ".tar.xz", *ARCHIVES) if archive.lower().endswith(e))
    tools = {".zip": "unzip -q", ".rar": "unrar x -idq", ".7z": "7z x -bd"}
    return f'for archive in *{ending}; do {tools.get(ending, "tar xf")} "$archive"; done'


def _perhaps(raw: str) -> str:
    """Return the folder above or below that fits, where the given one is one too deep or too high."""
    top = Path(raw).resolve()
    file = _first_frame(top)
    if file is None:
        return ""
    alone = [top]  # the folders below, as long as there is one in each
    while len(alone) < 4 and len(inner := _folders(str(alone[-1]), [])) == 1:
        alone.append(Path(inner[0][1]))
    for root in (*alone[1:], *list(top.parents)[:3]):
        parts = file.relative_to(root).parts if file.is_relative_to(root) else ()
        viewed = [bool(_VIEW_FOLDER.fullmatch(part)) for part in parts]
        if viewed in ([False] * 4, [True, False, False]):
            return f"\nPerhaps dataset.raw={shown(root)}, which has {shown('/'.join(parts))}"
    return ""


def _first_frame(top: Path) -> Path | None:
    """Return a picture or pickle somewhere in a folder, the first by the folders' names, if there is one."""
    for folder, folders, files in islice(os.walk(top), 1000):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in _JUNK)
        for name in sorted(files):
            if name[0] != "." and name.lower().endswith((*PICTURES, *PICKLES)):
                return Path(folder, name)
    return None


def _folders(parent: str, problems: Problems) -> list[tuple[str, str]]:
    """List names and paths of a folder's folders; what cannot be read, or leads back, is noted."""
    folders = []
    try:
        with os.scandir(parent) as listed:
            entries = sorted(listed, key=attrgetter("name"))
    except OSError as error:
        problems.append((parent, f"{UNREADABLE_FOLDER} ({error.strerror})"))
        return []
    for entry in entries:
        if entry.name[0] == "." or entry.name in _JUNK:
            continue
        if entry.name.lower().endswith(ARCHIVES) and entry.is_file():
            stem = re.sub(r"(\.tar)?\.\w+$", "", entry.name, flags=re.IGNORECASE)
            if not os.path.isdir(os.path.join(parent, stem)):  # else it was unpacked
                problems.append((entry.path, ARCHIVE))
            continue
        if entry.is_symlink() and (wrong := _wrong_link(entry.path)):
            problems.append((entry.path, wrong))
        elif entry.is_dir():
            folders.append((intern(entry.name), entry.path))
    return folders


def _wrong_link(link: str) -> str | None:
    """Say what is wrong with a link: it ends in itself, in a folder it lies in, or where none may look."""
    try:
        target = os.path.realpath(link, strict=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        return LOOP if error.errno == errno.ELOOP else f"{UNREADABLE_FOLDER} ({error.strerror})"
    return LOOP if Path(os.path.realpath(os.path.dirname(link))).is_relative_to(target) else None
