"""The frames of one sequence, from the files in its folder: PNG, BMP or JPEG pictures, or one pickled array."""

import io
import math
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import cv2
import numpy as np

from cstl.files import shown

_NUMBER = re.compile(r"(\d+)")
_POINT = re.compile(r"(?<!\d)(?<!\d\.)(\d+)\.(\d+)(?!\d|\.\d)")  # 0.04, but not 2020.01.02
_PLAIN = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a named pipe is not waited for
MOST_PIXELS = 2**26  # of a picture: 8192 × 8192
MOST_BYTES = 2**30  # of a file

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


_SCALED = ("b1", "|b1", *(f"{order}f{size}" for order in ("", "<", ">") for size in (2, 4, 8)))  # NumPy's names


class Files(NamedTuple):
    """What a sequence's folder holds; paths, frames in order, and paths with what is wrong with them."""

    pictures: list[str]
    pickles: list[str]
    faults: list[tuple[str, str]]

    def of(self, suffix: str) -> list[str]:
        """The pictures (".png") or the pickles (".pkl")."""
        return self.pictures if suffix == ".png" else self.pickles


def list_files(folder: str, pattern: str | None = None) -> Files:
    """The files of a sequence, its frames in the order of the numbers in their names: 1, 2, … 10 as 01, 02, … 10.

    Args:
        folder: of the sequence.
        pattern: only files of such names are looked at, as a shell matches them ("*-sils.pkl"); all when None.
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
    """One example of each way in which the pictures are named: what is in a name beside its numbers."""
    examples: dict[tuple[str, ...], str] = {}
    for name in map(os.path.basename, pictures):
        examples.setdefault(tuple(_NUMBER.split(name.lower())[::2]), name)
    return list(examples.values())


def reading_of_points(pictures: Sequence[str]) -> str | None:
    """How points between digits were read where that decides the order: "decimals", "counters", or None."""
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
    """The names with as many decimals each, so that 0.04 comes before 0.1."""
    width = max((len(match[2]) for stem in stems for match in _POINT.finditer(stem)), default=0)
    return [_POINT.sub(lambda match: f"{match[1]}.{match[2].ljust(width, '0')}", stem) for stem in stems]


def _are_decimals(stems: Sequence[str]) -> bool:
    """Whether 0.04, 0.1, 0.12 are numbers with decimals, and not counters as in 1.9, 1.10.

    They are counters where two would be equal as decimals (1.1, 1.10), or follow one another without a gap (1.1, 1.2,
    … 1.12); of equal length they are in the same order either way.
    """
    after: dict[str, list[str]] = {}
    for match in filter(None, map(_POINT.search, stems)):
        after.setdefault(match.string[: match.start(2)], []).append(match[2])
    digits = [one for several in after.values() for one in several]
    if len({len(one) for one in digits}) < 2:
        return False
    if any(one[0] == "0" and len(one) > 1 for one in digits):
        return True
    for several in after.values():
        counters = sorted(map(int, several))
        if len({one.rstrip("0") for one in several}) < len(several):
            return False
        if len(counters) > 9 and counters[-1] - counters[0] + 1 == len(counters):
            return False
    return True


def read_frames(folder: str, files: Files, suffix: str, scaled: bool = False) -> Iterator[tuple[str, np.ndarray | str]]:
    """Every frame's path with its picture, uint8 (H, W), or with the reason why there is none.

    `scaled`: as for `read_pickle`.
    """
    yield from files.faults
    wanted, other = files.of(suffix), files.of(".pkl" if suffix == ".png" else ".png")
    if other or (suffix == ".pkl" and len(wanted) > 1):  # which of the two is the sequence?
        yield folder, (BOTH if wanted else MISPLACED[suffix]) if other else SEVERAL
    elif suffix == ".png":
        for path in wanted:
            yield path, read_grey(path)
    else:
        for path in wanted:
            try:
                yield from ((f"{path}[{i}]", frame) for i, frame in enumerate(read_pickle(path, scaled)))
            except ValueError as error:
                yield path, str(error)


def read_grey(path: str) -> np.ndarray | str:
    """A picture as uint8 (H, W), or why there is none. Colour whose channels are all equal is grey.

    A JPEG file's grey values near black and white are noise: 128 and more become 255, the others 0.
    Large pictures are decoded whole: OpenCV's reduced decoding is hardly faster for PNG files and changes frames.
    """
    try:
        file = os.open(path, _PLAIN)  # a file object would take twice as long
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
    """How many pixels a PNG, BMP or JPEG says it has, before memory is asked for them; None of anything else."""
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


def read_pickle(path: str, scaled: bool = False) -> np.ndarray:
    """The silhouettes of a sequence out of OpenGait's pickle, uint8 (T, H, W); nothing in the file is run.

    Args:
        path: of the file.
        scaled: take arrays of true and false or of numbers with decimals too: 0 to 1, or up to 255, become 0 to 255.

    Raises:
        ValueError: the file cannot be read, or holds anything else than one array of that type and shape.
    """
    try:
        with open(os.open(path, _PLAIN), "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"unreadable pickle ({error.strerror})") from error
    if not data:
        raise ValueError("empty pickle (0 bytes)")
    if len(data) > MOST_BYTES:
        raise ValueError(f"pickle of more than {MOST_BYTES:,} bytes")
    try:
        found = _Unpickler(io.BytesIO(data)).load()
    except _RefusedError:
        raise
    except Exception as error:  # a damaged pickle raises any kind
        raise ValueError("unreadable pickle (damaged or cut short)") from error
    if not isinstance(found, _NumPy):
        raise ValueError(f"pickle of a {type(found).__name__}, not of one array")
    try:
        return _silhouettes(found, scaled)
    except (TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError("unreadable pickle (damaged, or not of one array)") from error


class _RefusedError(ValueError):
    pass


class _NumPy:
    """Stands for what a pickle wants of NumPy: keeps the arguments and the state it gives, and does nothing."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> "_NumPy":
        return _NumPy(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle._Unpickler):
    """Imports and calls nothing: the few names that make up an array become `_NumPy`, any other is refused.

    It is the one written in Python: the other takes 64 GB for a memo that a file of ten bytes says it has.
    """

    def find_class(self, module: str, name: str) -> _NumPy:
        full = f"{module.replace('numpy._core', 'numpy.core')}.{name}"  # NumPy 2 renamed its inside
        if full not in _NAMES:
            wanted = shown(f"{module}.{name}", 100)
            raise _RefusedError(f"pickle that wants {wanted}, not an array: refused, nothing of it was run")
        return _NumPy(full)


_NAMES = {
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",  # pickle protocols 0 to 4
    "numpy.core.numeric._frombuffer",  # protocol 5
    "_codecs.encode",  # bytes in protocols 0 to 2
}


def _silhouettes(array: _NumPy, scaled: bool) -> np.ndarray:
    if array.name.endswith("_reconstruct"):
        _, shape, dtype, fortran, data = array.state
    elif array.name.endswith("_frombuffer"):
        data, dtype, shape, order = array.arguments
        fortran = order == "F"
    else:
        raise ValueError(f"pickle of {array.name}, not of one array")
    if type(shape) is not tuple or any(type(length) is not int or length < 0 for length in shape[:10]):
        raise ValueError("unreadable pickle (damaged: its shape is none)")
    code, seen = str(dtype.arguments[0]), f"(T, {', '.join(map(str, shape[1:10]))})"
    scales = code in _SCALED and len(shape) == 3
    if not (scales and scaled) and (code not in ("u1", "|u1") or len(shape) != 3):
        found_type = shown(_type_name(code), 40)
        remedy = "; with dataset.threshold=128 these values are made black and white" if scales else ""
        raise ValueError(f"pickle of an array {found_type} {shown(seen, 80)}, expected uint8 (T, H, W){remedy}")
    kind = np.dtype(code)
    if dtype.state is not None and type(dtype.state) is tuple and len(dtype.state) > 1 and dtype.state[1] == ">":
        kind = kind.newbyteorder(">")
    if isinstance(data, _NumPy):
        data = data.arguments[0].encode("latin1")
    if (
        not shape[1] or not shape[2] or math.prod(shape) * kind.itemsize != len(data)
    ):  # (10¹², 0, 64) takes no byte, and hours
        raise ValueError("unreadable pickle (damaged: its values do not fill its shape)")
    try:
        silhouettes = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
    except ValueError as error:
        raise ValueError("unreadable pickle (damaged: its values do not fill its shape)") from error
    return silhouettes if kind == np.uint8 else _scaled(silhouettes)


def _scaled(values: np.ndarray) -> np.ndarray:
    """True and false, or numbers from 0 to 1 or to 255, as uint8 from 0 to 255."""
    if values.dtype != bool and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255):
        raise ValueError(f"pickle of an array {values.dtype.name} with values that are not 0 to 1 or 0 to 255")
    factor = 255 if values.dtype == bool or values.max() <= 1 else 1
    return np.rint(values.astype(np.float64) * factor).astype(np.uint8)


def _type_name(code: str) -> str:
    try:
        return np.dtype(code).name
    except TypeError:
        return code
