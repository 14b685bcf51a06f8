"""Files: written atomically, and read as plain data, whose size is looked at before memory is asked for."""

import csv
import errno
import io
import json
import lzma
import math
import os
import re
import secrets
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

PART = ".part"  # the ending of a file that is still being written
DAMAGED = ".damaged"  # and of one that was set aside
DEPTH = 32  # lists and mappings within each other, at most
VALUES = 1_000_000  # values in a JSON or YAML file, at most
WHOLE = 2**63  # whole numbers are smaller
NUMBER = 40  # characters of a number in YAML, at most: 1:1:1:… is one, in base 60
DAMAGED_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(NotImplementedError, RuntimeError, OverflowError),
)
MEMBERS = 1000  # arrays in a .npz file, at most


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name once it is complete and on the disk, or not at all."""
    # A random name: processes of several machines may write here.
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PART}")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            # A full disk names no file, other errors the part.
            error.filename, error.filename2 = os.fspath(path), None
        raise


def remove_parts(folder: Path) -> None:
    """Delete a killed process' unfinished files, in a folder that nobody else writes to."""
    for part in folder.rglob(f"*.{16 * '[0-9a-f]'}{PART}"):
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # names that are not UTF-8 do not lose the rest


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a `.npz` file atomically."""
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file atomically."""
    with replacing(path) as file:
        # Names that are not UTF-8 come back.
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        text.detach()


def read_text(path: str | os.PathLike[str], most: int = 2**24, errors: str = "strict") -> str:
    """Read a text file of at most so many bytes, with or without a byte order mark.

    Args:
        errors: what becomes of bytes that are not UTF-8, as `bytes.decode` has it.

    Raises:
        FileNotFoundError, OSError: no such file, or one that cannot be read.
        ValueError: no file but a folder, a device, …; a larger one, or one that is not UTF-8.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # a named pipe would be waited for, /dev/zero never ends
        raise ValueError(f"{shown(path)} is no plain file")
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(
            f"{shown(path)} has {max(found.st_size, len(data)):,} bytes, expected at most {most:,}"
        )
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(path)} is not UTF-8 text (byte {error.start})") from None


def check_inside(path: str | os.PathLike[str]) -> None:
    """Refuse a link out of its folder, ValueError: somebody else's may lead to anything of the reader's."""
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    if os.path.dirname(os.path.realpath(path)) != folder:
        raise ValueError(f"{shown(path)} is a link to a file elsewhere; put the file itself there")


def read_json(path: str | os.PathLike[str], most: int = 2**23) -> Any:
    """Read a JSON file: mappings, lists, text, finite numbers, true, false, null.

    Raises:
        FileNotFoundError, OSError: as `read_text`.
        ValueError: no JSON, a key that comes twice, or too large or deep; the message has the path.
    """
    text = read_text(path, most)
    try:
        return plain_data(json.loads(text, object_pairs_hook=_mapping, parse_constant=_refuse_constant))
    except RecursionError:
        raise ValueError(f"{shown(path)} is no JSON file: nested more than {DEPTH} deep") from None
    except ValueError as error:
        raise ValueError(f"{shown(path)} is no JSON file: {shown(error)}") from None


def read_yaml(path: str | os.PathLike[str], most: int = 2**20) -> Any:
    """Read a YAML file: mappings with text as keys, lists, text, numbers, true, false, null.

    What looks like an interpolation, `${…}`, stays the text that it is. Tags, anchors and aliases are
    refused.

    Raises:
        FileNotFoundError, OSError: as `read_text`.
        ValueError: no YAML, a key that comes twice, or too large or deep; the message has the path.
    """
    text = read_text(path, most)
    try:
        _look_through(text)
        return plain_data(yaml.load(text, Loader=_PlainLoader), finite=False)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{shown(path)} is no plain YAML file: {shown(error)}") from None


def plain_data(content: Any, finite: bool = True) -> Any:
    """Return the content itself once all of it is known to be plain and of bounded depth, number and size.

    Raises:
        ValueError: something else than dict with text as keys, list, str, int, float, bool, None; and what is
            too much.
    """
    waiting, count = [(content, 1)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        kind = type(value)
        if kind in (dict, list):
            if depth > DEPTH:
                raise ValueError(f"nested more than {DEPTH} deep")
            if kind is dict:
                for key in value:
                    if type(key) is not str:
                        raise ValueError(f"the key {shown(repr(key), 40)} is no text")
                    key.encode()
            waiting += [(child, depth + 1) for child in (value.values() if kind is dict else value)]
            if count + len(waiting) > VALUES:
                raise ValueError(f"more than {VALUES:,} values")
        elif kind is int:
            if not -WHOLE <= value < WHOLE:
                raise ValueError("a whole number of more than 64 bits")
        elif kind is float:
            if finite and not math.isfinite(value):
                raise ValueError(f"{value} is no finite number")
        elif kind is str:
            value.encode()  # half of a surrogate pair is no text
        elif kind not in (bool, type(None)):
            raise ValueError(f"a {kind.__name__}, expected mappings, lists, text and numbers")
    return content


def read_rows(
    path: str | os.PathLike[str], most: int = 2**28, whole_lines: bool = False
) -> Iterator[dict[str, str]]:
    """Read the rows of a CSV file by its first line: column → cell, of the columns that a row has.

    Args:
        most: bytes, at most.
        whole_lines: a last line without an end is still being written, and left out.

    Raises:
        FileNotFoundError, OSError: as `read_text`.
        ValueError: no CSV file, or one with too large a cell or too many columns.
    """
    text = read_text(path, most)
    lines = (text[: text.rfind("\n") + 1] if whole_lines else text).splitlines()
    reader = csv.DictReader(lines)
    try:
        if len(reader.fieldnames or ()) > 1000:
            raise ValueError(
                f"{shown(path)} has {len(reader.fieldnames or ()):,} columns, expected at most 1,000"
            )
        for row in reader:
            yield {name: cell for name, cell in row.items() if name is not None and cell is not None}
    except csv.Error as error:
        raise ValueError(f"{shown(path)} is no CSV file: {shown(error)}") from None


def read_npz(
    path: str | os.PathLike[str], expected: Mapping[str, tuple[str, int]], most: int = 2**29
) -> dict[str, np.ndarray]:
    """Read the expected arrays of a `.npz` file; the others in it are not looked at.

    What the file says of itself is compared with its size and the bound before any array is read.

    Args:
        expected: name → the letters of the kinds it may be of, as `numpy.dtype.kind` has them, and its
            dimensions: {"subject": ("iu", 1)}.
        most: bytes of all of them, at most.

    Raises:
        FileNotFoundError, OSError: no such file, or one that cannot be read.
        ValueError: an array is missing or another one than expected, too large, or damaged; the message has
            the path.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a named pipe would wait
        raise ValueError(f"{shown(path)} is no plain file")
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _arrays(archive, expected, most)
        except OSError as error:
            # EINVAL is a place before the file's beginning: the zip's directory is damaged.
            if error.errno != errno.EINVAL:
                raise
            raise ValueError(f"{shown(path)} is no complete .npz file: it is damaged") from None
        except (*DAMAGED_ZIP, ValueError, EOFError) as error:
            raise ValueError(
                f"{shown(path)} is no complete .npz file of the expected arrays: {shown(error)}"
            ) from None


def check_npy(path: str | os.PathLike[str]) -> tuple[tuple[int, ...], np.dtype]:
    """Read shape and type of the array in a `.npy` file, once the file is known to be just as long as that.

    Raises:
        FileNotFoundError, OSError: no such file, or one that cannot be read.
        ValueError: no `.npy` file, or one that is longer or shorter than it says.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no plain file")
    with open(path, "rb") as file:
        try:
            shape, dtype, size = _header(file)
        except EOFError as error:
            raise ValueError(str(error)) from None
        if found.st_size != file.tell() + size:
            length = file.tell() + size
            raise ValueError(
                f"it has {found.st_size:,} bytes, expected {length:,} for {dtype} {shown(shape, 80)}"
            )
    return shape, dtype


def shown(text: object, most: int = 300) -> str:
    r"""Return text as one line that does nothing to a terminal: control characters as \x1b or \u202e.

    Longer text is cut.
    """
    line = str(text)
    cut = line[:most] + "…" if len(line) > most else line
    if cut.isprintable():
        return cut
    return "".join(
        sign
        if sign.isprintable() or sign in " \u00a0\u202f\u2009"
        else sign.encode("unicode_escape").decode()
        for sign in cut
    )


def shown_data(content: Any) -> Any:
    """Return plain data with every text in it, keys too, as `shown` has it."""
    if isinstance(content, dict):
        return {shown(key): shown_data(value) for key, value in content.items()}
    if isinstance(content, list):
        return [shown_data(value) for value in content]
    return shown(content, 4096) if isinstance(content, str) else content


def shown_lines(text: object, most: int = 10_000) -> str:
    """Do the same to a message of several lines."""
    return "\n".join(shown(line, most) for line in str(text)[:most].split("\n"))


class _PlainLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A loader of OmegaConf's YAML: 1e-3 is a number, a date is text, every key is text and comes once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        if any(not isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise ValueError("a key that is no text")
        return _mapping([(key.value, self.construct_object(value, deep=True)) for key, value in node.value])

    def construct_number(self, node: Any) -> int | float:
        if len(node.value) > NUMBER:
            raise ValueError(f"a number of {len(node.value):,} characters")
        return self.construct_yaml_int(node) if node.tag.endswith(":int") else self.construct_yaml_float(node)


_NUMBER = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*([eE][-+][0-9]+)?"
    r"|[0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]*|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
)
_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789."))
_PlainLoader.yaml_implicit_resolvers = {
    sign: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
    for sign, resolvers in _PlainLoader.yaml_implicit_resolvers.items()
}
for _kind in ("int", "float"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _PlainLoader.construct_number)


def _look_through(text: str) -> None:
    """Refuse what would take long or much to build: ValueError."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"an alias, *{event.anchor}; expected plain values")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"a tag, {event.tag}; expected plain values")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise ValueError(f"nested more than {DEPTH} deep")


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice, 40)} comes twice")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no finite number")


def _arrays(
    archive: zipfile.ZipFile, expected: Mapping[str, tuple[str, int]], most: int
) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise ValueError(f"{len(members):,} arrays, expected at most {MEMBERS:,}")
    named = {member.filename: member for member in members}
    if missing := [name for name in expected if f"{name}.npy" not in named]:
        raise ValueError(f"{', '.join(missing)} missing")
    chosen = {name: named[f"{name}.npy"] for name in expected}
    if (size := sum(member.file_size for member in chosen.values())) > most:
        raise ValueError(f"arrays of {size:,} bytes, expected at most {most:,}")
    for name, (kinds, dimensions) in expected.items():
        with archive.open(chosen[name]) as file:
            shape, dtype, size = _header(file)
            if file.tell() + size != chosen[name].file_size:
                raise ValueError(f"{name} is not as long as its header says")
        if dtype.kind not in kinds or len(shape) != dimensions:
            raise ValueError(
                f"{name} is {dtype} {shown(shape, 80)}, expected kind {kinds}, {dimensions} dimension(s)"
            )
    arrays = {}
    for name, member in chosen.items():
        with archive.open(member) as file:
            arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
            file.read(1)  # the end, where the checksum is looked at
        if arrays[name].dtype.kind == "U":
            _check_text(name, arrays[name])
    return arrays


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype, int]:
    """Read shape, type and bytes of the array whose header a file begins with; no objects or fields."""
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except OSError:
        raise
    except Exception as error:  # what is not a header at all fails in many ways
        raise ValueError(f"no array ({type(error).__name__}: {shown(error, 100)})") from None
    if dtype.kind not in "biufU":
        raise ValueError(f"an array of {shown(dtype, 40)}, expected numbers or text")
    if any(length < 0 for length in shape) or math.prod(max(length, 1) for length in shape) > WHOLE:
        raise ValueError(f"an array of shape {shown(shape, 80)}")
    size = math.prod(shape) * dtype.itemsize
    if math.prod(max(length, 1) for length in shape) > max(size, VALUES):  # (10¹², 0): no byte, and hours
        raise ValueError(f"an array of shape {shown(shape, 80)} without values")
    return shape, dtype, size


def _check_text(name: str, array: np.ndarray) -> None:
    signs = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    if ((signs > 0x10FFFF) | ((signs >= 0xD800) & (signs < 0xE000))).any():
        raise ValueError(f"{name} is no text")
