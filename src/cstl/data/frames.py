"""The frames of one sequence, from its folder: PNG, BMP or JPEG pictures, or one pickled array."""

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import cv2
import numpy as np

from cstl.data.pickles import MOST_BYTES, PLAIN, read_pickle

_NUMBER = re.compile(r"(\d+)")
_DIGITS = str.maketrans("123456789", "000000000")
_POINT = re.compile(r"(?<!\d)(?<!\d\.)(\d+)\.(\d+)(?!\d|\.\d)")  # 0.04, but not 2020.01.02
MOST_PIXELS = 2**26  # of a picture: 8192 × 8192

PICTURES = (".png", ".bmp", ".jpg", ".jpeg")
LOSSY = (".jpg", ".jpeg")  # no mask is black and white any more once it was one of these
PICKLES = (".pkl", ".pickle")
ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst")

UNREADABLE = "unreadable"
ARCHIVE = "an archive that is not unpacked"
NOT_GREY = "not 8-bit grey"
TOO_LARGE = f"more than {MOST_PIXELS:,} pixels"
NO_NUMBER = "no number in its name"  # gei.png, background.png, … are not frames
SAME_NUMBER = "same number as another"  # 1.png beside 001.png, or 001.jpg
UNREADABLE_FOLDER = "unreadable folder"
BOTH = "pictures and a pickle in one folder"
SEVERAL = "several pickles in one folder"
MISPLACED = {".png": "a pickle where pictures are expected", ".pkl": "pictures where a pickle is expected"}


class Files(NamedTuple):
    """The content of a sequence's folder: paths, frames in order, and paths with what is wrong with them."""

    pictures: list[str]
    pickles: list[str]
    faults: list[tuple[str, str]]

    def of(self, suffix: str) -> list[str]:
        """Return the pictures (".png") or the pickles (".pkl")."""
        return self.pictures if suffix == ".png" else self.pickles


def list_files(folder: str, pattern: str | None = None) -> Files:
    """List a sequence's files, frames in the order of the numbers in their names: 1, 2, … 10 as 01, … 10.

    Args:
        folder: of the sequence.
        pattern: only files of such names are looked at, as a shell matches them ("*-sils.pkl"); all when
            None.
    """
    files = Files([], [], [])
    try:
        with os.scandir(folder) as entries:  # macOS leaves ._001.png beside 001.png
            names = sorted(entry.name for entry in entries if entry.name[0] != ".")
    except OSError as error:
        files.faults.append((folder, f"{UNREADABLE_FOLDER} ({error.strerror})"))
        return files
    if pattern is not None:
        names = [name for name in names if fnmatchcase(name, pattern)]
    named: dict[str, str] = {}  # path → name without its ending
    for name in names:
        path, lower = f"{folder}{os.sep}{name}", name.lower()
        if lower.endswith(PICKLES):
            files.pickles.append(path)
        elif lower.endswith(ARCHIVES):
            files.faults.append((path, ARCHIVE))
        elif lower.endswith(PICTURES):
            named[path] = lower.rpartition(".")[0]
    stems = list(named.values())
    if any("." in stem for stem in stems) and _are_decimals(stems):
        stems = _padded(stems)
    alike = {stem.translate(_DIGITS) for stem in stems}
    # 001, 002, …: as text, and quicker
    if len(alike) == 1 and "0" in min(alike) and len(set(stems)) == len(stems):
        files.pictures.extend(path for _, path in sorted(zip(stems, named, strict=True)))
        return files
    numbered: dict[tuple[str | int, ...], str] = {}
    for path, stem in zip(named, stems, strict=True):
        order = _order(stem)
        if len(order) == 1 or order in numbered:
            files.faults.append((path, NO_NUMBER if len(order) == 1 else SAME_NUMBER))
        else:
            numbered[order] = path
    files.pictures.extend(numbered[order] for order in sorted(numbered))
    return files


def name_patterns(pictures: Sequence[str]) -> list[str]:
    """Return one example of each way of naming pictures: what is in a name beside its numbers."""
    examples: dict[tuple[str, ...], str] = {}
    for name in map(os.path.basename, pictures):
        examples.setdefault(tuple(_NUMBER.split(name.lower())[::2]), name)
    return list(examples.values())


def reading_of_points(pictures: Sequence[str]) -> str | None:
    """Say how points between digits decided the order: as "decimals", "counters", or None: not at all."""
    stems = [os.path.basename(path).lower().rpartition(".")[0] for path in pictures]
    if not any("." in stem for stem in stems):
        return None
    padded = dict(zip(stems, _padded(stems), strict=True))
    if sorted(stems, key=_order) == sorted(stems, key=lambda stem: _order(padded[stem])):
        return None
    return "decimals" if _are_decimals(stems) else "counters"


def _order(stem: str) -> tuple[str | int, ...]:
    parts: list[str | int] = [*_NUMBER.split(stem)]  # text, number, text, …
    parts[1::2] = map(int, parts[1::2])
    return tuple(parts)


def _padded(stems: Sequence[str]) -> list[str]:
    """Return the names with as many decimals each, so that 0.04 comes before 0.1."""
    width = max((len(match[2]) for stem in stems for match in _POINT.finditer(stem)), default=0)
    return [_POINT.sub(lambda match: f"{match[1]}.{match[2].ljust(width, '0')}", stem) for stem in stems]


def _are_decimals(stems: Sequence[str]) -> bool:
    """Say whether 0.04, 0.1, 0.12 are numbers with decimals, and not counters as in 1.9, 1.10.

    They are counters where two would be equal as decimals (1.1, 1.10), or follow one another without a gap
    (1.1, 1.2, … 1.12); of equal length they are in the same order either way.
    """
    after: dict[str, list[str]] = {}
    for match in filter(None, map(_POINT.search, stems)):
        after.setdefault(match.string[: match.start(2)], []).append(match[2])
    numbers = [number for group in after.values() for number in group]
    if len({len(number) for number in numbers}) < 2:
        return False
    if any(number[0] == "0" and len(number) > 1 for number in numbers):
        return True
    for group in after.values():
        counters = sorted(map(int, group))
        if len({number.rstrip("0") for number in group}) < len(group):
            return False
        if len(counters) > 9 and counters[-1] - counters[0] + 1 == len(counters):
            return False
    return True


def read_frames(
    folder: str, files: Files, suffix: str, scaled: bool = False
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Return every frame's path with its picture, uint8 (H, W), or with the reason why there is none.

    `scaled`: as for `read_pickle`.
    """
    yield from files.faults
    paths, other = files.of(suffix), files.of(".pkl" if suffix == ".png" else ".png")
    if other or (suffix == ".pkl" and len(paths) > 1):  # which of the two is the sequence?
        yield folder, (BOTH if paths else MISPLACED[suffix]) if other else SEVERAL
    elif suffix == ".png":
        for path in paths:
            yield path, read_grey(path)
    else:
        for path in paths:
            try:
                yield from ((f"{path}[{i}]", frame) for i, frame in enumerate(read_pickle(path, scaled)))
            except ValueError as error:
                yield path, str(error)


def read_grey(path: str) -> np.ndarray | str:
    """Return a picture as uint8 (H, W), or why there is none. Colour whose channels are all equal is grey.

    A JPEG file's grey values near black and white are noise: 128 and more become 255, the others 0. Large
    pictures are decoded at full size: OpenCV's reduced decoding is hardly faster for PNG files and changes
    frames.
    """
    try:
        file = os.open(path, PLAIN)  # a file object would take twice as long
        try:
            if (size := os.fstat(file).st_size) > MOST_BYTES:
                return TOO_LARGE
            data = os.read(file, size)
        finally:
            os.close(file)
        if (pixels := _pixels(data)) is None:
            return UNREADABLE
        if pixels > MOST_PIXELS:
            return TOO_LARGE
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
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
    return np.where(image >= 128, 255, 0).astype(np.uint8) if path.lower().endswith(LOSSY) else image


def _pixels(data: bytes) -> int | None:
    """Read how many pixels a PNG, BMP or JPEG has before memory is asked for them; else None."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return int.from_bytes(data[16:20]) * int.from_bytes(data[20:24])
    if data[:2] == b"BM":
        width, height = (int.from_bytes(data[i : i + 4], "little", signed=True) for i in (18, 22))
        return abs(width * height)
    place = 2  # JPEG: segments, each with its length, up to the one with the size
    while data[:2] == b"\xff\xd8" and place + 9 < len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[place + 5 : place + 7]) * int.from_bytes(data[place + 7 : place + 9])
        place += 1 if kind == 0xFF else 2 + max(int.from_bytes(data[place + 2 : place + 4]), 2)
    return None
