"""The silhouettes of a sequence out of a pickle, of which nothing is executed."""

import io
import math
import os
import pickle
from typing import Any

import numpy as np

from cstl.files import shown

# How a file is opened: a named pipe is not waited for.
PLAIN = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
MOST_BYTES = 2**30  # of a file
# NumPy's names
_SCALED = ("b1", "|b1", *(f"{order}f{size}" for order in ("", "<", ">") for size in (2, 4, 8)))


def read_pickle(path: str, scaled: bool = False) -> np.ndarray:
    """Read a sequence out of OpenGait's pickle, uint8 (T, H, W); nothing in the file is executed.

    Args:
        path: of the file.
        scaled: take arrays of true and false or of numbers with decimals too: 0 to 1, or up to 255, become 0
            to 255.

    Raises:
        ValueError: the file cannot be read, or holds anything else than one array of that type and shape.
    """
    try:
        with open(os.open(path, PLAIN), "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"unreadable pickle ({error.strerror})") from error
    if not data:
        raise ValueError("empty pickle (0 bytes)")
    if len(data) > MOST_BYTES:
        raise ValueError(f"pickle of more than {MOST_BYTES:,} bytes")
    try:
        content = _Unpickler(io.BytesIO(data)).load()
    except _RefusedError:
        raise
    except Exception as error:  # a damaged pickle raises any kind
        raise ValueError("unreadable pickle (damaged or cut short)") from error
    if not isinstance(content, _NumPy):
        raise ValueError(f"pickle of a {type(content).__name__}, not of one array")
    try:
        return _silhouettes(content, scaled)
    except (TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError("unreadable pickle (damaged, or not of one array)") from error


class _RefusedError(ValueError):
    pass


class _NumPy:
    """A stand-in for NumPy's names in a pickle: it keeps their arguments and state, and does nothing."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> "_NumPy":
        return _NumPy(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle._Unpickler):
    """An unpickler that calls nothing: the few names of an array become `_NumPy`, others are refused.

    It is the one written in Python: the other takes 64 GB for a memo that a file of ten bytes says it has.
    """

    def find_class(self, module: str, name: str) -> _NumPy:
        full = f"{module.replace('numpy._core', 'numpy.core')}.{name}"  # NumPy 2 renamed its inside
        if full not in _NAMES:
            refused = shown(f"{module}.{name}", 100)
            raise _RefusedError(f"pickle that wants {refused}, not an array: refused, nothing of it was run")
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
    code, sizes = str(dtype.arguments[0]), f"(T, {', '.join(map(str, shape[1:10]))})"
    scales = code in _SCALED and len(shape) == 3
    if not (scales and scaled) and (code not in ("u1", "|u1") or len(shape) != 3):
        type_name = shown(_type_name(code), 40)
        remedy = "; with dataset.threshold=128 these values are made black and white" if scales else ""
        raise ValueError(
            f"pickle of an array {type_name} {shown(sizes, 80)}, expected uint8 (T, H, W){remedy}"
        )
    kind = np.dtype(code)
    if (
        dtype.state is not None
        and type(dtype.state) is tuple
        and len(dtype.state) > 1
        and dtype.state[1] == ">"
    ):
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
    """Return true and false, or numbers from 0 to 1 or to 255, as uint8 from 0 to 255."""
    if values.dtype != bool and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255):
        raise ValueError(
            f"pickle of an array {values.dtype.name} with values that are not 0 to 1 or 0 to 255"
        )
    factor = 255 if values.dtype == bool or values.max() <= 1 else 1
    return np.rint(values.astype(np.float64) * factor).astype(np.uint8)


def _type_name(code: str) -> str:
    try:
        return np.dtype(code).name
    except TypeError:
        return code
