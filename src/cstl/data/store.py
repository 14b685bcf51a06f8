"""A prepared data set on disk: one array of frames, one table of sequences, one note on where they come from.

`frames.npy` is uint8 (F, H, W), the sequences one after another; `sequences.csv` has a line
`subject,condition,view,start,length` a sequence; `store.json` says what made them. NumPy, a spreadsheet and an editor
open them without this package.
"""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cstl.data.alignment import frame_size

FORMAT = 1
COLUMNS = "subject,condition,view,start,length"


def partial_folder(path: str | os.PathLike[str]) -> Path:
    """Where a store is prepared before it is moved, whole, to its place."""
    path = Path(path)
    return path.with_name(path.name + ".partial")


class Store:
    """An opened store; everything is read when first asked for, and a pickled store is its path only.

    Make one with `open_store`, which checks it. `subjects`, `conditions`, `views` are str (N,), one entry a sequence;
    `starts` and `lengths` int64 (N,), in frames; `frames` uint8 (F, H, W), memory-mapped.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.path,)

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What `store.json` says."""
        return json.loads((self.path / "store.json").read_text(encoding="utf-8"))

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.about["dataset"]

    @property
    def height(self) -> int:
        """Height of a frame in pixels."""
        return self.about["height"]

    @property
    def width(self) -> int:
        """Width of a frame in pixels."""
        return self.about["width"]

    @cached_property
    def frames(self) -> np.ndarray:
        """All frames, uint8 (F, H, W), memory-mapped."""
        return np.load(self.path / "frames.npy", mmap_mode="r")

    @cached_property
    def _table(self) -> list[np.ndarray]:
        return read_table(self.path / "sequences.csv")

    @property
    def subjects(self) -> np.ndarray:
        """Subject of every sequence, str (N,)."""
        return self._table[0]

    @property
    def conditions(self) -> np.ndarray:
        """Condition of every sequence, str (N,)."""
        return self._table[1]

    @property
    def views(self) -> np.ndarray:
        """View of every sequence, str (N,)."""
        return self._table[2]

    @property
    def starts(self) -> np.ndarray:
        """First frame of every sequence, int64 (N,)."""
        return self._table[3]

    @property
    def lengths(self) -> np.ndarray:
        """Number of frames of every sequence, int64 (N,)."""
        return self._table[4]


def open_store(path: str | os.PathLike[str], dataset: str | None = None, res: int | None = None) -> Store:
    """Open a prepared store and check that it is whole and the one that was asked for.

    Args:
        path: its folder.
        dataset: name of the data set it must hold; any when None.
        res: resolution it must have, 64 (64x44) or 128 (128x88); any when None.

    Raises:
        FileNotFoundError: no store there, or one that is not finished; the message has the command that makes it.
        ValueError: a store of another data set or resolution, or a damaged one.
    """
    path = Path(path)
    command = f"python -m cstl.prepare dataset={dataset or 'NAME'} res={res or 'RES'} dataset.raw=PATH"
    if not path.is_dir():
        if partial_folder(path).is_dir():
            raise FileNotFoundError(
                f"the store {path} is not finished, its preparation was interrupted; it goes on with:\n  {command}"
            )
        raise FileNotFoundError(
            f"no store at {path}; prepare it from the raw frames (PATH is their folder) with:\n  {command}"
        )
    again = f"delete the folder and prepare it again:\n  {command}"
    if missing := [name for name in ("store.json", "frames.npy", "sequences.csv") if not (path / name).is_file()]:
        raise ValueError(f"{path} is no whole store, {', '.join(missing)} missing; {again}")
    store = Store(path)
    try:
        version, height, width, name = (store.about[key] for key in ("format", "height", "width", "dataset"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, store.json cannot be read ({error!r}); {again}") from error
    if version != FORMAT:
        raise ValueError(f"{path} has store format {version!r}, this version of cstl reads {FORMAT}; {again}")
    if dataset is not None and name != dataset:
        raise ValueError(
            f"{path} holds the data set {name}, asked for was {dataset}: "
            f"type dataset={name}, or dataset.store=PATH for a store of {dataset}, or prepare one with:\n  {command}"
        )
    if res is not None and (height, width) != frame_size(res):
        asked = "x".join(map(str, frame_size(res)))
        raise ValueError(
            f"{path} holds {height}x{width} frames, asked for was res={res} ({asked}): "
            f"type res={height}, or dataset.store=PATH for a store of {asked}, or prepare one with:\n  {command}"
        )
    try:
        frames = store.frames
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged, frames.npy cannot be read ({error}); {again}") from error
    if frames.dtype != np.uint8 or frames.shape[1:] != (height, width):
        found = f"{frames.dtype} {frames.shape}"
        raise ValueError(
            f"{path} is damaged, frames.npy: expected uint8 (F, {height}, {width}), found {found}; {again}"
        )
    try:
        ends = store.starts + store.lengths
    except ValueError as error:
        raise ValueError(f"{path} is damaged, {error}; {again}") from error
    if len(ends) == 0 or store.starts.min() < 0 or store.lengths.min() < 1 or ends.max() > len(frames):
        listed = f"{int(ends.max(initial=0))} frames in {len(ends)} sequences"
        raise ValueError(f"{path} is damaged, sequences.csv lists {listed}, frames.npy holds {len(frames)}; {again}")
    return store


def read_table(path: Path) -> list[np.ndarray]:
    """The columns of a `sequences.csv`: three of str (N,) and two of int64 (N,); a million lines in about a second."""
    header, _, body = path.read_text(encoding="utf-8").partition("\n")
    if header != COLUMNS:
        raise ValueError(f"{path.name}: expected the columns {COLUMNS}, found {header!r}")
    rows = body.count("\n") + (not body.endswith("\n") and bool(body))
    cells = body.rstrip("\n").replace("\n", ",").split(",") if rows else []
    width = COLUMNS.count(",") + 1
    if len(cells) != rows * width:
        raise ValueError(f"{path.name}: expected {width} columns in each of {rows} lines, found {len(cells)} cells")
    names = [np.array(cells[column::width], dtype=np.str_) for column in range(3)]
    return names + [np.fromiter(map(int, cells[column::width]), np.int64, rows) for column in range(3, width)]
