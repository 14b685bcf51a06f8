"""Files of tensors: none runs code or asks for more memory than it holds."""

import errno
import io
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from cstl.files import shown

ZIP = b"PK\x03\x04"  # what a file of torch.save begins with; older ones are no zip
PICKLE = b"\x80\x02"  # what those begin with
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # what weights may be written as
_TENSORS = {  # how PyTorch makes tensors that are not loaded
    "tensor_v3": "of float8, uint16 or the like",
    "sparse_tensor": "sparse",
    "qtensor": "quantised",
    "meta_tensor_no_storage": "without numbers",
}
_NAMES = re.compile(
    r"torch\.(\w+Storage|float\w+|bfloat16|u?int\d+|bool)|torch\.storage\.(Un)?[tT]ypedStorage"
)


class DamagedError(ValueError):
    """A file is not what was written: cut short, or a bit of it has changed."""


def load_tensors(path: str | Path) -> Any:
    """Read a file of PyTorch's as tensors and plain containers only, on the CPU.

    Every record is compared with its checksum first: PyTorch itself does not look at them.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read, which says nothing of what is in it.
        DamagedError: it is not what was written.
        ValueError: it holds anything else, which is named and not executed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; those of a run lie in runs/NAME/checkpoints")
    with open(path, "rb") as file:
        try:
            _check_records(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        except MemoryError:
            raise  # says nothing of the file
        except Exception as error:  # torch raises many kinds
            if "can't allocate memory" in str(error):  # PyTorch's own
                raise MemoryError(str(error)) from None
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # invalid: a place before the file's beginning, from a damaged directory of the zip
            raise _not_loaded(path, error) from None


def _check_records(file: IO[bytes]) -> None:
    """Compare every record of a zip with its checksum, and go through its sizes and classes with `_Inert`."""
    size, begins = file.seek(0, os.SEEK_END), (file.seek(0), file.read(len(ZIP)))[1]
    if begins != ZIP:
        if not begins.startswith(PICKLE):
            raise pickle.UnpicklingError("neither a zip nor pickles")
        file.seek(0)
        for _ in range(5):  # magic number, version, system, content, keys of the storages
            _Inert(file, size).load()
        return
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise zipfile.BadZipFile("a record is compressed, which torch.save does not do")
        if sum(record.file_size for record in records) > size:
            raise zipfile.BadZipFile("its records are larger than the file")
        if (corrupt := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{corrupt} is not what was written")
        if len({record.filename.lower() for record in records}) < len(records):
            raise zipfile.BadZipFile("two records have one name")
        for record in records:
            if record.filename.lower().endswith("data.pkl"):
                _Inert(io.BytesIO(archive.read(record)), size).load()


class _Inert(pickle._Unpickler):
    """An unpickler of tensors and plain containers that makes none of them; anything else is refused.

    PyTorch's own reading of tensors only calls what a file names out of some fifty classes and functions:
    `bytearray(10**11)` is among them. It is the one written in Python, with the operations that PyTorch
    reads.

    Args:
        file: where the pickle begins.
        most: values in all storages together, at most: the file's bytes.
    """

    dispatch = {  # noqa: RUF012
        code[0]: pickle._Unpickler.dispatch[code[0]]
        for code in (
            pickle.PROTO, pickle.STOP, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID,
            pickle.MARK,
            pickle.NONE, pickle.NEWFALSE, pickle.NEWTRUE, pickle.BININT, pickle.BININT1, pickle.BININT2,
            pickle.LONG1,
            pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING, pickle.EMPTY_TUPLE, pickle.TUPLE,
            pickle.TUPLE1,
            pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT,
            pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT,
        )
    }  # fmt: skip

    def __init__(self, file: IO[bytes], most: int) -> None:
        super().__init__(file, encoding="latin1")
        self.most = most
        self.storages: dict[str, int] = {}  # key → values

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        known = {
            "collections.OrderedDict": _Mapping,
            "collections.Counter": _Mapping,
            "torch._utils._rebuild_tensor_v2": _within,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch.Size": lambda sizes: sizes,
            "builtins.set": lambda items: [_checked_key(item) for item in items],
            "_codecs.encode": _latin1,
        }
        if full not in known and not _NAMES.fullmatch(full):
            raise pickle.UnpicklingError(f"GLOBAL {full}")
        return known.get(full, full)

    def persistent_load(self, pid: Any) -> int:
        _, kind, key, _, count, *_ = pid
        if not isinstance(kind, str) or not isinstance(key, str) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("a storage that is none")
        self.storages[key] = max(count, self.storages.get(key, 0))
        if sum(self.storages.values()) > self.most:
            raise pickle.UnpicklingError("its tensors are larger than the file")
        return count

    def _set(self: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_checked_key(key)] = value

    def _set_several(self: Any) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_checked_key(key)] = value

    dispatch |= {pickle.SETITEM[0]: _set, pickle.SETITEMS[0]: _set_several}


class _Mapping(dict[Any, Any]):
    def __init__(self, content: Any = ()) -> None:
        if content != () and not isinstance(content, dict):  # counting a billion zeros takes minutes
            raise pickle.UnpicklingError("a mapping of something else")
        super().__init__(content)

    def __setstate__(self, state: Any) -> None:
        """Leave out the notes that modules attach to their state_dict."""


def _checked_key(key: Any) -> str | int | float | None:
    if not isinstance(key, str | int | float | None):  # a million tuples within each other end Python
        raise pickle.UnpicklingError("a key that is neither text nor a number")
    return key


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # how a pickle writes bytes
        raise pickle.UnpicklingError("bytes in another encoding")
    return text.encode("latin1")


def _within(count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> int:
    """Check that a tensor lies within its storage: an old file's storage would grow."""
    if any(type(number) is not int or number < 0 for number in (offset, *size, *stride)):
        raise pickle.UnpicklingError("a tensor whose sizes are none")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= count:
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    return count


def _not_loaded(path: str | Path, error: Exception) -> ValueError:
    if found := re.search(r"GLOBAL torch\._utils\._rebuild_(\w+)", str(error)):
        return ValueError(
            f"{path} is refused: it holds a tensor of a kind that no network of ours has: "
            f"{_TENSORS.get(found[1], shown(found[1], 60))}; expected plain ones of "
            f"{first_of(map(str, FLOATS), 4)}"
        )
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return ValueError(
            f"{path} is refused: besides tensors it holds {shown(found[1], 100)}, and loading that could "
            "run code; expected tensors and plain containers only, as torch.save(network.state_dict(), …) "
            "writes"
        )
    reason = shown(re.split(r"\. |\n", str(error))[0])  # the rest advises to load it without looking
    return DamagedError(
        f"{path} cannot be read: it is damaged, cut short, or no file of tensors "
        f"({type(error).__name__}: {reason}); copy it again, or take the checkpoint before it"
    )


def different_tensors(weights: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> list[str]:
    """Describe each tensor that is on one side alone or has another shape: `embedding is (8, 2), not (8, 3)`.

    And for those of whole numbers in place of others: `embedding is torch.bool, not torch.float32`.
    """
    lines = []
    for key in dict(network) | dict(weights):
        found, expected = (tuple(side[key].shape) if key in side else "absent" for side in (weights, network))
        if found != expected:
            lines.append(f"{key} is {found}, not {expected}")
        elif (kind := weights[key].dtype) not in (FLOATS if (own := network[key].dtype) in FLOATS else [own]):
            lines.append(f"{key} is {kind}, not {own}")
    return lines


def is_intact(value: object) -> bool:
    """Say whether it is a dense, real tensor all of whose numbers are in the file."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def first_of(names: Iterable[str], count: int = 3) -> str:
    """Return the first names as text, and how many more there are."""
    names = list(names)
    return ", ".join(shown(name, 100) for name in names[:count]) + (
        f" and {len(names) - count} more" if len(names) > count else ""
    )
