"""A prepared data set on disk: one array of frames, one table of sequences, one note on where they come from.

`frames.npy` is uint8 (F, H, W), the sequences one after another; `sequences.csv` has a line
`subject,condition,view,start,length` a sequence; `store.json` says what made them, how many there are and
what their checksums were. NumPy, a spreadsheet and an editor open them without this package.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cstl.data.alignment import frame_size
from cstl.files import check_npy, read_json, read_text, shown
from cstl.progress import steps

FORMAT = 1
_ABOUT = {"height": int, "width": int, "dataset": str, "checksums": dict, "notes": list, "examples": list}
COLUMNS = "subject,condition,view,start,length"
ROWS = 2**30  # bytes of a table of sequences, at most
NAME = 200  # characters of a name, at most
SAMPLE = 64  # frames that are looked at whenever a store is opened
BLOCK = 1 << 22  # bytes that are read at once to look at all of them


def partial_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder where a store is prepared before it is moved, complete, to its place."""
    path = Path(path)
    return path.with_name(path.name + ".partial")


class Store:
    """An opened store; everything is read when first asked for, and a pickled store is its path only.

    Make one with `open_store`, which checks it. `subjects`, `conditions`, `views` are str (N,), one entry a
    sequence; `starts` and `lengths` int64 (N,), in frames; `frames` uint8 (F, H, W), memory-mapped.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.path,)

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Read `store.json`."""
        about = read_json(self.path / "store.json")
        if not isinstance(about, dict):
            raise ValueError("no mapping")
        if mistyped := [key for key, kind in _ABOUT.items() if key in about and type(about[key]) is not kind]:
            raise ValueError(f"{', '.join(mistyped)} of another kind")
        return about

    @cached_property
    def checksums(self) -> dict[str, str]:
        """Return the checksums that preparation wrote; empty where an earlier version did."""
        return self.about.get("checksums", {})

    @cached_property
    def fingerprint(self) -> str:
        """Return 12 hexadecimal digits, the same for two stores of the same frames under the same names.

        Of a store without checksums, they tell the table and the number of frames only.
        """
        content = self.checksums or [table_checksum(self.path / "sequences.csv"), len(self.frames)]
        text = json.dumps([self.height, self.width, content], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @property
    def origin(self) -> str:
        """Say what it was made of and when, for messages."""
        raw, made = (shown(self.about.get(key, "unknown")) for key in ("raw", "made"))
        return f"prepared from {raw} on {made}"

    dataset = property(lambda self: self.about["dataset"], doc="Name of the data set.")
    height = property(lambda self: self.about["height"], doc="Height of a frame in pixels.")
    width = property(lambda self: self.about["width"], doc="Width of a frame in pixels.")

    @cached_property
    def frames(self) -> np.ndarray:
        """Return all frames, uint8 (F, H, W), memory-mapped."""
        check_npy(self.path / "frames.npy")
        return np.load(self.path / "frames.npy", mmap_mode="r")

    @cached_property
    def _table(self) -> list[np.ndarray]:
        return read_table(self.path / "sequences.csv")

    subjects = property(lambda self: self._table[0], doc="Subject of every sequence, str (N,).")
    conditions = property(lambda self: self._table[1], doc="Condition of every sequence, str (N,).")
    views = property(lambda self: self._table[2], doc="View of every sequence, str (N,).")
    starts = property(lambda self: self._table[3], doc="First frame of every sequence, int64 (N,).")
    lengths = property(lambda self: self._table[4], doc="Number of frames of every sequence, int64 (N,).")

    @property
    def names(self) -> list[tuple[str, str, str]]:
        """Return subject, condition and view of every sequence."""
        return list(zip(*(column.tolist() for column in self._table[:3]), strict=True))


def open_store(path: str | os.PathLike[str], dataset: str | None = None, res: int | None = None) -> Store:
    """Open a prepared store and check that it is complete and the one that was asked for.

    Args:
        path: its folder.
        dataset: name of the data set it must hold; any when None.
        res: resolution it must have, 64 (64x44) or 128 (128x88); any when None.

    Raises:
        FileNotFoundError: no store there, or one that is not finished; the message has the command that makes
            it.
        ValueError: a store of another data set or resolution, or a damaged one.
    """
    path = Path(path)
    command = f"python -m cstl.prepare dataset={dataset or 'NAME'} res={res or 'RES'} dataset.raw=PATH"
    if not path.is_dir():
        if partial_folder(path).is_dir():
            raise FileNotFoundError(
                f"the store {path} is not finished, its preparation was interrupted; it goes on with:\n  "
                f"{command}"
            )
        raise FileNotFoundError(
            f"no store at {path}; prepare it from the raw frames (PATH is their folder) with:\n  {command}"
        )
    again = f"delete the folder and prepare it again:\n  {command}"
    if missing := [
        name for name in ("store.json", "frames.npy", "sequences.csv") if not (path / name).is_file()
    ]:
        raise ValueError(f"{path} is no complete store, {', '.join(missing)} missing; {again}")
    store = Store(path)
    try:
        version, size, name = store.about["format"], (store.height, store.width), store.dataset
        known = dict(store.checksums)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged, store.json cannot be read ({shown(repr(error))}); {again}"
        ) from error
    if version != FORMAT:
        raise ValueError(f"{path} has store format {version!r}, this version of cstl reads {FORMAT}; {again}")
    other = "dataset.store=PATH for a store of {}, or prepare one with:\n  " + command
    if dataset not in (None, name):
        raise ValueError(
            (
                f"{path} holds the data set {shown(name)}, asked for was {dataset}: type "
                f"dataset={shown(name)}, or "
            )
            + other.format(dataset)
        )
    if res is not None and size != frame_size(res):
        (height, width), asked = size, "x".join(map(str, frame_size(res)))
        raise ValueError(
            f"{path} holds {height}x{width} frames, asked for was res={res} ({asked}): type res={height}, or "
            + other.format(asked)
        )
    try:
        fault = _array_fault(store) or _table_fault(store, known) or _frames_fault(store, known)
    except ValueError as error:
        raise ValueError(f"{path} is damaged, {error}; {again}") from error
    if fault:
        raise ValueError(f"{path} is damaged, {fault}; {again}")
    return store


def verify_store(store: Store, *, progress: bool = False) -> str:
    """Read every frame of an opened store and compare it with what was prepared → a sentence on the outcome.

    Raises:
        ValueError: a frame that shows nobody at all, which no preparation writes, or another checksum.
    """
    again = "delete the folder and prepare it again"
    digest = new_checksum()
    size = store.height * store.width
    at_once = max(BLOCK // size, 1)
    for first in steps(range(0, len(store.frames), at_once), "verifying", "blocks of frames", progress):
        block = np.ascontiguousarray(store.frames[first : first + at_once])
        if (empty := np.flatnonzero(~block.reshape(len(block), size).any(1))).size:
            raise ValueError(f"{store.path} is damaged, {_empty(store, first + int(empty[0]))}; {again}")
        digest.update(block)
    if "frames" not in store.checksums:
        return (
            f"{store.path}: every frame shows something; an earlier version prepared it, without checksums, "
            f"so that nothing tells whether a frame changed. Fingerprint {store.fingerprint}"
        )
    if digest.hexdigest() != store.checksums["frames"]:
        raise ValueError(
            f"{store.path} is damaged, frames.npy is not what was prepared (another checksum); {again}"
        )
    return (
        f"{store.path}: {store.origin}; all is as it was then, by its checksums. Fingerprint "
        f"{store.fingerprint}"
    )


def new_checksum() -> Any:
    """Return a checksum of bytes that are still to come, as `hashlib` makes them."""
    return hashlib.blake2b(digest_size=16)


def table_checksum(path: Path) -> str:
    """Return the checksum of a `sequences.csv`, whichever line ends an editor has left in it."""
    text = read_text(path, ROWS).replace("\r\n", "\n").rstrip("\n") + "\n"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def sample_checksum(frames: np.ndarray) -> str:
    """Return the checksum of a few frames out of all, which tells another store's `frames.npy` at once."""
    return hashlib.blake2b(frames[_sample(len(frames))].tobytes(), digest_size=16).hexdigest()


def _sample(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, SAMPLE).astype(np.int64))


def _array_fault(store: Store) -> str | None:
    """Say what is wrong with the array of frames as its header has it."""
    try:
        frames = store.frames
    except (ValueError, EOFError) as error:
        return f"frames.npy cannot be read ({shown(error)})"
    if frames.dtype == np.uint8 and frames.shape[1:] == (store.height, store.width):
        return None
    return (
        f"frames.npy: expected uint8 (F, {store.height}, {store.width}), found {frames.dtype} {frames.shape}"
    )


def _table_fault(store: Store, checksums: dict[str, str]) -> str | None:
    """Say what is wrong with the table of sequences, beside the frames and what `store.json` says."""
    frames, about = len(store.frames), store.about
    ends = store.starts + store.lengths
    # The parts too: their sum may overflow.
    highest = max(int(column.max(initial=0)) for column in (store.starts, store.lengths, ends))
    if len(ends) == 0 or store.starts.min() < 0 or store.lengths.min() < 1 or highest > frames:
        listed = f"{highest} frames in {len(ends)} sequences"
        return f"sequences.csv lists {listed}, frames.npy holds {frames}"
    counts = {"sequences": len(store), "frames": frames, "stored_subjects": len(set(store.subjects.tolist()))}
    for what, count in counts.items():
        if about.get(what, count) != count:
            file = "frames.npy" if what == "frames" else "sequences.csv"
            return f"{file}: {count} {what.replace('_', ' ')} there, {about[what]} by store.json"
    first: dict[tuple[str, ...], int] = {}
    for line, row in enumerate(store.names, start=2):
        if (earlier := first.setdefault(row, line)) != line:
            return f"sequences.csv has {shown(' '.join(row))} twice, in lines {earlier} and {line}"
    expected = np.concatenate([[0], ends[:-1]])
    if (off := np.flatnonzero(store.starts != expected)).size:
        line = int(off[0])
        return (
            f"sequences.csv, line {line + 2}: a sequence begins at frame {store.starts[line]}, the one "
            f"before ends at {expected[line]}"
        )
    if ends[-1] != frames:
        return f"sequences.csv lists {ends[-1]} frames, frames.npy holds {frames}"
    if checksums and checksums.get("sequences.csv") != table_checksum(store.path / "sequences.csv"):
        return "sequences.csv is not what was prepared (another checksum)"
    return None


def _frames_fault(store: Store, checksums: dict[str, str]) -> str | None:
    """Say what is wrong with the frames, as far as a file's size, its holes and a few frames tell."""
    frames = store.frames
    path = store.path / "frames.npy"
    assert isinstance(frames, np.memmap)
    if (size := path.stat().st_size) != (expected := frames.offset + frames.nbytes):
        return f"frames.npy has {size:,} bytes, expected {expected:,}"
    for number in _missing_frames(path, frames.offset, store.height * store.width):
        return _empty(store, number)
    sample = _sample(len(frames))
    if (empty := sample[~frames[sample].reshape(len(sample), -1).any(1)]).size:
        return _empty(store, int(empty[0]))
    if checksums and checksums.get("sample") != sample_checksum(frames):
        return "frames.npy is not what was prepared (other frames)"
    return None


def _missing_frames(path: Path, offset: int, size: int) -> Iterator[int]:
    """Find the first frame of each hole in a file, where zeros are read: it was copied in part."""
    if not hasattr(os, "SEEK_HOLE"):
        return
    file = os.open(path, os.O_RDONLY)
    try:
        end, data = os.fstat(file).st_size, 0
        while (hole := os.lseek(file, data, os.SEEK_HOLE)) < end:
            try:
                data = os.lseek(file, hole, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # a hole up to the end
                    return
                data = end
            number = max(-(-(hole - offset) // size), 0)
            if offset + (number + 1) * size <= data:
                yield number
            if data >= end:
                return
    except OSError:
        return  # a file system that knows nothing of holes
    finally:
        os.close(file)


def _empty(store: Store, number: int) -> str:
    """Return a frame without a single pixel, which preparation leaves out."""
    line = int(np.searchsorted(store.starts, number, side="right")) - 1
    name = f"{store.subjects[line]} {store.conditions[line]} {store.views[line]}"
    return (
        f"frames.npy: frame {number - store.starts[line]} of {name} is empty, as if the file was copied in "
        "part"
    )


def read_table(path: Path) -> list[np.ndarray]:
    """Read a `sequences.csv`, a million lines a second: three columns of str (N,), two of int64 (N,)."""
    header, _, body = read_text(path, ROWS).replace("\r\n", "\n").partition("\n")
    if header != COLUMNS:
        raise ValueError(f"{path.name}: expected the columns {COLUMNS}, found {header!r:.100}")
    rows = body.count("\n") + (not body.endswith("\n") and bool(body))
    cells = body.rstrip("\n").replace("\n", ",").split(",") if rows else []
    width = COLUMNS.count(",") + 1
    if len(cells) != rows * width:
        raise ValueError(
            f"{path.name}: expected {width} columns in each of {rows} lines, found {len(cells)} cells"
        )
    if not "".join(cells).isprintable():
        raise ValueError(f"{path.name}: a name with a control character in it")
    for column in range(3):
        if (longest := max(map(len, cells[column::width]), default=0)) > NAME:
            raise ValueError(f"{path.name}: a name of {longest:,} characters, expected {NAME} at most")
    names = [np.array(cells[column::width], dtype=np.str_) for column in range(3)]
    try:
        return names + [
            np.fromiter(map(int, cells[column::width]), np.int64, rows) for column in range(3, width)
        ]
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path.name}: {shown(error, 100)}") from None
