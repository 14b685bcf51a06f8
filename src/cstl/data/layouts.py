"""Raw trees as users have them on disk: one function a layout."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RawSequence:
    """One walk of one subject, as it lies on disk; `folder` holds one PNG file a frame."""

    subject: str
    condition: str
    view: str
    folder: str

    @property
    def frames(self) -> list[str]:
        """Paths of the frames in order (1, 2, … 10 as 01, 02, … 10), read from the disk at every call."""
        names = [entry.name for entry in os.scandir(self.folder) if _is_frame(entry.name)]
        return [os.path.join(self.folder, name) for name in sorted(names, key=lambda name: (len(name), name))]


def casiab(raw: str) -> Iterator[RawSequence]:
    """CASIA-B's own tree, `001/nm-01/000/001-nm-01-000-001.png`."""
    for subject, subject_folder in _folders(raw):
        for condition, condition_folder in _folders(subject_folder):
            for view, folder in _folders(condition_folder):
                yield RawSequence(subject, condition, view, folder)


def oumvlp(raw: str) -> Iterator[RawSequence]:
    """OU-MVLP's own tree, `Silhouette_000-00/00001/0001.png` (view and sequence, subject, frame)."""
    for name, outer in _folders(raw):
        if match := re.fullmatch(r"Silhouette_(\w+)-(\w+)", name):
            for subject, folder in _folders(outer):
                yield RawSequence(subject, condition=match[2], view=match[1], folder=folder)


LAYOUTS: dict[str, tuple[Callable[[str], Iterator[RawSequence]], str]] = {  # name → (function, what a path looks like)
    "casiab": (casiab, "001/nm-01/000/*.png (subject/condition/view/frames)"),
    "oumvlp": (oumvlp, "Silhouette_000-00/00001/*.png (Silhouette_VIEW-CONDITION/subject/frames)"),
}


def list_sequences(raw: str | os.PathLike[str] | None, layout: str) -> list[RawSequence]:
    """All sequences of a raw tree, sorted by subject, condition and view. Frames are not listed yet.

    Raises:
        ValueError: an unknown layout, no folder given, an empty one, or a tree of another layout; the message shows
            what was found.
        FileNotFoundError: no such folder.
        NotADirectoryError: a file, not a folder.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; the choices are {', '.join(LAYOUTS)}")
    find, looks = LAYOUTS[layout]
    if raw is None:
        raise ValueError(f"where are the raw frames? Give their folder with dataset.raw=PATH; expected {looks} in it")
    if not os.path.exists(raw):
        raise FileNotFoundError(
            f"no raw frames at {raw}: no such folder; expected {looks} in it, give dataset.raw=PATH"
        )
    if not os.path.isdir(raw):
        raise NotADirectoryError(f"no raw frames at {raw}: a file; expected a folder with {looks} (unpack archives)")
    sequences = sorted(find(os.fspath(raw)), key=lambda s: (s.subject, s.condition, s.view))
    if not any(sequence.frames for sequence in sequences):
        raise ValueError(f"{raw} is not laid out as {layout}: expected {looks}, found {describe(raw)}")
    return sequences


def describe(raw: str | os.PathLike[str]) -> str:
    """A few words on what a folder holds: its first entries and one path down to a file."""
    names = sorted(entry.name for entry in os.scandir(raw))
    if not names:
        return "an empty folder"
    shown = ", ".join(names[:5]) + (f", … ({len(names)} entries)" if len(names) > 5 else "")
    for folder, _, files in islice(os.walk(raw), 1000):
        if files:
            return f"{shown}; for example {Path(folder, min(files)).relative_to(raw).as_posix()}"
    return f"{shown}; no file in them"


def _folders(parent: str) -> list[tuple[str, str]]:
    return sorted((entry.name, entry.path) for entry in os.scandir(parent) if entry.is_dir() and entry.name[0] != ".")


def _is_frame(name: str) -> bool:
    return name.lower().endswith(".png") and not name.startswith(".")  # macOS leaves ._001.png beside 001.png
