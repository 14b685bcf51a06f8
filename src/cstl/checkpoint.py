"""Weights in and out: files read as tensors only, the authors' keys beside ours, and starting from other weights."""

import errno
import io
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from inspect import signature
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cstl.config import checked
from cstl.files import shown
from cstl.models import CSTL, AblatedCSTL

N = TypeVar("N", bound=nn.Module)
_CLASSES = "ssfl.class_weight"  # one column a training subject: of no use to other subjects
_NETWORK = "network."  # where a recogniser's state_dict has its network
_PREFIX = "module."  # the authors trained under DataParallel

_KEYS = {
    "conv2d_1.forward_block.conv2d.weight": "encoder.conv1.weight",
    "conv2d_2.forward_block.conv2d.weight": "encoder.conv2.weight",
    "conv2d_3.forward_block.conv2d.weight": "encoder.conv3.weight",
    "conv2d_4.forward_block.conv2d.weight": "encoder.conv4.weight",
    "multi_scale.short_term.0.0": "mste.short_conv1",
    "multi_scale.short_term.0.1": "mste.short_norm1",
    "multi_scale.short_term.1.0": "mste.short_conv2",
    "multi_scale.short_term.1.1": "mste.short_norm2",
    "multi_scale.score.0": "mste.long_in",
    "multi_scale.score.1": "mste.long_norm",
    "multi_scale.score.3": "mste.long_out",
    "adaptive_aggregation.in_conv": "ata.in_conv",
    "adaptive_aggregation.out_conv": "ata.out_conv",
    "salient_learning.part_score.0": "ssfl.score_in",
    "salient_learning.part_score.1": "ssfl.score_norm",
    "salient_learning.part_score.3": "ssfl.score_out",
    "salient_learning.decay_channel": "ssfl.decay",
    "salient_learning.fc": "ssfl.class_weight",
    "fc_bin": "embedding",
}
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_OFFICIAL_BN, _OUR_BN = "salient_learning.bn", "ssfl.class_norm"  # theirs: one batch norm a part


# The classes that are made from a checkpoint, by our own code: a file does not choose what is called.
OURS = {
    "model": ("cstl.recognizer.GaitRecognizer",),
    "model.network": ("cstl.models.CSTL", "cstl.models.AblatedCSTL"),
    "data": ("cstl.data.datamodule.GaitDataModule",),
    "model.augment[…]": tuple(f"cstl.data.augment.{name}" for name in ("Erase", "Flip", "Perspective", "Rotate")),
}
MOST = {"height": 4096, "num_classes": 10**7, "channels": 2**16, "embedding_dim": 2**16, "reduction": 2**16}
ZIP = b"PK\x03\x04"  # what a file of torch.save begins with; older ones are no zip
PICKLE = b"\x80\x02"  # what those begin with
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # what weights may be written as
_TENSORS = {  # how PyTorch makes tensors that are not loaded
    "tensor_v3": "of float8, uint16 or the like",
    "sparse_tensor": "sparse",
    "qtensor": "quantised",
    "meta_tensor_no_storage": "without numbers",
}
_NAMES = re.compile(r"torch\.(\w+Storage|float\w+|bfloat16|u?int\d+|bool)|torch\.storage\.(Un)?[tT]ypedStorage")


class DamagedError(ValueError):
    """A file is not what was written: cut short, or a bit of it has changed."""


class Weights(NamedTuple):
    """The network's weights that a file holds.

    Attributes:
        state_dict: under the keys of `CSTL`.
        config: the settings of the run that wrote the file, plain containers; None for a file of the authors, whose
            network is `CSTL(**network_settings(state_dict))`.
        origin: whose weights a file without settings holds, for tables: nobody knows of ours who was trained on.
        kept: what the file says of the training subjects, for `cstl.trained.training_of`; not looked at yet.
    """

    state_dict: dict[str, Tensor]
    config: dict[str, Any] | None
    origin: str = "the authors' weights"  # of a file without settings
    kept: dict[str, Any] = {}  # noqa: RUF012


class Transfer(NamedTuple):
    """What `transfer` did, by the names of the tensors; as text, one sentence to print."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]  # the network's, as they were initialised
    unused: tuple[str, ...]  # the weights', without a place in the network or of other classes

    def __str__(self) -> str:
        new, unused = (_first(names) or "none" for names in (self.new, self.unused))
        total = len(self.loaded) + len(self.new)
        return f"loaded {len(self.loaded)} of {total} tensors; new: {new}; not used: {unused}"


def load_weights(path: str | Path) -> Weights:
    """The network's weights in a checkpoint of `cstl.train`, or in one of the authors' `*-encoder.ptm`.

    Nothing but tensors and plain containers is read, so that no file can run code; all tensors are on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged file, or one that holds anything else; the message says what.
    """
    content = load_tensors(path)
    if isinstance(content, dict) and isinstance(content.get("config"), dict) and _is_weights(content.get("state_dict")):
        state_dict = content["state_dict"]
        ours = {key.removeprefix(_NETWORK): state_dict[key] for key in state_dict if key.startswith(_NETWORK)}
        if ours:
            kept = {key: content[key] for key in ("trained_subjects", "provenance") if key in content}
            try:
                return Weights(ours, checked(content["config"]), kept=kept)
            except ValueError as error:
                raise ValueError(f"{path} is refused: its configuration is no plain data: {error}") from None
    if not _is_weights(content):
        raise ValueError(
            f"{path} holds {_described(content)}; expected a checkpoint of cstl.train, which has config and "
            "state_dict, or the authors' …-encoder.ptm, which has tensors alone"
        )
    own: dict[str, Tensor] = {}
    for key, value in content.items():
        name = key.removeprefix(_PREFIX).removeprefix(_NETWORK)
        if name in own:
            raise ValueError(
                f"{path} is refused: it holds {shown(name, 100)} twice, with and without the prefix {_PREFIX} or "
                f"{_NETWORK}; expected one state_dict"
            )
        own[name] = value
    if "encoder.conv1.weight" in own:  # torch.save(network.state_dict(), …)
        return Weights(own, None, "weights without a configuration")
    try:
        return Weights(from_official(content), None)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_tensors(path: str | Path) -> Any:
    """What a file of PyTorch's holds, read as tensors and plain containers only, on the CPU.

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
    """Compares every record of a zip with its checksum, and what the file says of sizes and classes with `_Inert`."""
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
        if (wrong := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{wrong} is not what was written")
        if len({record.filename.lower() for record in records}) < len(records):
            raise zipfile.BadZipFile("two records have one name")
        for record in records:
            if record.filename.lower().endswith("data.pkl"):
                _Inert(io.BytesIO(archive.read(record)), size).load()


class _Inert(pickle._Unpickler):
    """Goes through a pickle of tensors and plain containers and makes none of them; anything else is refused.

    PyTorch's own reading of tensors only calls what a file names out of some fifty classes and functions:
    `bytearray(10**11)` is among them. It is the one written in Python, with the operations that PyTorch reads.

    Args:
        file: where the pickle begins.
        most: values in all storages together, at most: the file's bytes.
    """

    dispatch = {  # noqa: RUF012
        code[0]: pickle._Unpickler.dispatch[code[0]]
        for code in (
            pickle.PROTO, pickle.STOP, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID, pickle.MARK,
            pickle.NONE, pickle.NEWFALSE, pickle.NEWTRUE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1,
            pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1,
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
        """Leaves out the notes that modules attach to their state_dict."""


def _checked_key(key: Any) -> str | int | float | None:
    if not isinstance(key, str | int | float | None):  # a million tuples within each other end Python
        raise pickle.UnpicklingError("a key that is neither text nor a number")
    return key


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # how a pickle writes bytes
        raise pickle.UnpicklingError("bytes in another encoding")
    return text.encode("latin1")


def _within(count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> int:
    """A tensor that lies within its storage: an old file's storage would grow."""
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
            f"{_TENSORS.get(found[1], shown(found[1], 60))}; expected plain ones of {_first(map(str, FLOATS), 4)}"
        )
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return ValueError(
            f"{path} is refused: besides tensors it holds {shown(found[1], 100)}, and loading that could run code; "
            "expected tensors and plain containers only, as torch.save(network.state_dict(), …) writes"
        )
    reason = shown(re.split(r"\. |\n", str(error))[0])  # the rest advises to load it without looking
    return DamagedError(
        f"{path} cannot be read: it is damaged, cut short, or no file of tensors "
        f"({type(error).__name__}: {reason}); copy it again, or take the checkpoint before it"
    )


def load_network(path: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Return the network of a checkpoint, on the CPU and in evaluation mode, without Hydra and Lightning.

    A file does not choose what is called: it makes `CSTL` or an ablation of it, and any other network is made by its
    user and filled here.

    Args:
        path: of a checkpoint of `cstl.train`, or of a file of the authors.
        network: of a class of one's own, with the arguments it was trained with; its tensors are replaced.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged file, weights that are not this network's, or a class that is not ours.

    Example:
        >>> network = load_network("runs/demo/checkpoints/step-0001000.ckpt")  # doctest: +SKIP
        >>> network(silhouettes).embeddings  # float (B, P, D) for silhouettes (B, T, H, W)  # doctest: +SKIP
    """
    weights = load_weights(path)
    try:
        return (build_network(weights) if network is None else fill(network, weights.state_dict)).eval()
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from None


def build_network(weights: Weights) -> CSTL:
    """Make the network of a file, with its weights in it; no more memory is asked for than these take.

    Raises:
        ValueError: a network of another class, settings that are not its, or weights that do not fit it or are no
            finite numbers.
    """
    settings = network_settings(weights.state_dict) if weights.config is None else _settings(weights.config)
    kind = AblatedCSTL if settings.keys() - signature(CSTL).parameters else CSTL
    try:
        with torch.device("meta"):  # shapes without numbers
            shapes = kind(**settings).state_dict()
    except (TypeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"the network of its configuration cannot be made ({shown(error, 200)})") from None
    if wrong := different_tensors(weights.state_dict, shapes):
        raise ValueError(f"its weights do not fit the network of its own configuration: {_first(wrong)}")
    return fill(kind(**settings), weights.state_dict)


def fill(network: N, state_dict: Mapping[str, Tensor]) -> N:
    """Put weights into a network and return it; ValueError where they are not its, or no finite numbers."""
    if wrong := different_tensors(state_dict, network.state_dict()):
        raise ValueError(f"its weights are not those of {type(network).__name__}: {_first(wrong)}")
    check_numbers(state_dict)
    network.load_state_dict(state_dict)
    return network


def check_numbers(weights: Mapping[str, Tensor]) -> None:
    """Refuses weights of which no network gives a number: NaN, infinite ones, variances below 0.

    Raises:
        ValueError: there are such, which are named.
    """
    wrong = []
    for key, value in weights.items():
        value = value.float()  # as the network has them: 1e300 is infinite there
        if not value.isfinite().all():
            wrong.append(f"{key} has {int((~value.isfinite()).sum()):,} of {value.numel():,}")
        elif key.endswith("running_var") and (value < 0).any():
            wrong.append(f"{key}, a variance, has {value.min():.3g}")
    if wrong:
        raise ValueError(
            f"its weights are not all finite numbers: {_first(wrong)}. A diverged training or a damaged file writes "
            "such; take an earlier checkpoint"
        )


def own_class(config: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The arguments that a file's configuration has for one of `OURS`, such as model.network.

    Raises:
        ValueError: it is for another class, which is named.
    """
    for key in place.split("."):
        config = config.get(key, {})
    plain_keys(config, place)
    if (target := config.get("_target_")) not in OURS[place]:
        raise ValueError(
            f"its {place} is {shown(target or 'not named', 100)}, and what is called is not read from a file: only "
            f"{' and '.join(OURS[place])} are made from one. For a network of your own say model=NAME, its own "
            "file: the class is then yours, and the weights are the checkpoint's"
        )
    return {key: value for key, value in config.items() if key != "_target_"}


def plain_keys(content: Any, place: str) -> None:
    """Refuses keys such as _target_ that would call something, but for those that name one of `OURS`: ValueError."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            ours = key == "_target_" and place in OURS and (not place.endswith("[…]") or value in OURS[place])
            if key.startswith("_") and not ours:
                raise ValueError(
                    f"its {shown(place, 100)}.{shown(key, 60)} is {shown(value, 100)}, and what is called is not read "
                    "from a file"
                )
            plain_keys(value, f"{place}.{key}")
    elif isinstance(content, list):
        for value in content:
            plain_keys(value, place + "[…]")


def known_keys(arguments: Mapping[str, Any], cls: type, place: str) -> None:
    """Refuses arguments that a class does not have: ValueError."""
    if unknown := sorted(arguments.keys() - signature(cls).parameters.keys()):
        raise ValueError(f"its {place} has the unknown key {_first(unknown)}")


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for `CSTL` in a file's configuration, all of them plain and of a possible size."""
    own_class(config, "model")
    settings = own_class(config, "model.network")
    paper = {"scales": ["frame", "short", "long"], "aggregation": "ata", "ssfl": "both", "parts": None}
    ablation = {key: settings[key] for key in paper if settings.get(key, paper[key]) != paper[key]}
    settings = {key: value for key, value in settings.items() if key not in paper} | ablation
    known_keys(settings, AblatedCSTL if ablation else CSTL, "model.network")
    for key, most in MOST.items():
        values = settings.get(key, 1)
        for value in values if key == "channels" and isinstance(values, list) else [values]:
            if type(value) is not int or not 1 <= value <= most:
                expected = f"a whole number from 1 to {most:,}"
                raise ValueError(f"model.network.{key} is {shown(values, 60)}, expected {expected}")
    if "channels" in settings and (type(settings["channels"]) is not list or len(settings["channels"]) != 3):
        raise ValueError(f"model.network.channels is {shown(settings['channels'], 60)}, expected three numbers")
    return settings


def network_settings(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of the paper's `CSTL`, without ablation, that these weights fit: read off their shapes.

    Raises:
        ValueError: an ablated network, or weights of something else.
    """
    not_the_papers = "these weights are not those of the paper's network: "
    try:
        parts, _, embedding_dim = state_dict["embedding"].shape
        channels = [len(state_dict[f"encoder.conv{i}.weight"]) for i in (1, 2, 4)]
        settings: dict[str, Any] = {
            "height": 2 * parts,
            "num_classes": state_dict[_CLASSES].shape[-1],
            "channels": channels,
            "embedding_dim": embedding_dim,
            "reduction": parts * channels[-1] // len(state_dict["mste.long_in.weight"]),
        }
        with torch.device("meta"):  # shapes without numbers
            network = CSTL(**settings)
    except KeyError as error:
        raise ValueError(f"{not_the_papers}{error.args[0]} is absent") from None
    except (ValueError, ArithmeticError, IndexError, TypeError, RuntimeError):
        raise ValueError(f"{not_the_papers}their sizes do not belong together") from None
    if wrong := different_tensors(state_dict, network.state_dict()):
        raise ValueError(not_the_papers + _first(wrong))
    return settings


def transfer(network: nn.Module, state_dict: Mapping[str, Tensor]) -> Transfer:
    """Starts a network from other weights: all that have a place in it are loaded, except the classes'.

    The class matrix is always left as it was initialised, since class k is another subject elsewhere.

    Args:
        network: changed in place; may be an ablation, whose other tensors stay new.
        state_dict: weights of a `CSTL`, as `load_weights` gives them.

    Raises:
        ValueError: a tensor of the same name has another shape, kind or no finite numbers, or no name is the same;
            nothing is loaded then.
    """
    before = network.state_dict()
    shared = [key for key in before if key in state_dict and key != _CLASSES]
    wrong = different_tensors({key: state_dict[key] for key in shared}, {key: before[key] for key in shared})
    if wrong or not shared:
        raise ValueError(
            f"these weights do not fit the network: {_first(wrong) or 'no tensor has the same name'}. They must agree "
            "in res, dataset.recipe.channels and the sizes under model.network; the number of classes may differ"
        )
    check_numbers({key: state_dict[key] for key in shared if before[key].isfinite().all()})  # not a mask of −∞
    network.load_state_dict({key: state_dict[key] for key in shared}, strict=False)
    new = tuple(key for key in before if key not in shared)
    return Transfer(tuple(shared), new, tuple(key for key in state_dict if key not in shared))


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' `state_dict`, with or without the `module.` prefix, as one for `CSTL.load_state_dict`.

    The network it fits is `CSTL(**network_settings(…))` of the result.

    Raises:
        ValueError: for keys that the authors' network does not have, or lacks, and for shapes that do not belong
            together.
    """
    theirs = {key.removeprefix(_PREFIX): value for key, value in state_dict.items()}
    parts = len(theirs["fc_bin"]) if "fc_bin" in theirs else 0
    expected = _official_keys(parts)
    missing, unknown = sorted(expected - theirs.keys()), sorted(theirs.keys() - expected)
    if missing or unknown:
        raise ValueError(
            "this is not a state_dict of the authors' CSTL: "
            + "; ".join(f"{what} {_first(keys)}" for what, keys in (("lacks", missing), ("unknown", unknown)) if keys)
        )
    ours = {_renamed(key, _KEYS): value for key, value in theirs.items() if not key.startswith(_OFFICIAL_BN)}
    for name in _NORM:
        per_part = [theirs[f"{_OFFICIAL_BN}.{part}.{name}"] for part in range(parts)]
        ours[f"{_OUR_BN}.{name}"] = per_part[0] if name == "num_batches_tracked" else torch.cat(per_part)
    network_settings(ours)
    return ours


def to_official(state_dict: Mapping[str, Tensor], prefix: bool = False) -> dict[str, Tensor]:
    """The `state_dict` of a `CSTL` under the authors' keys; `prefix` puts `module.` before each, as their files have.

    Raises:
        ValueError: an ablated network, which the authors' code has no place for.
    """
    try:
        network_settings(state_dict)
    except ValueError as error:
        raise ValueError(
            f"only the paper's network can be written for the authors' code (model=cstl): {error}"
        ) from None
    parts = len(state_dict["embedding"])
    names = {ours: theirs for theirs, ours in _KEYS.items()}
    theirs = {_renamed(key, names): value for key, value in state_dict.items() if not key.startswith(_OUR_BN)}
    for name in _NORM:
        value = state_dict[f"{_OUR_BN}.{name}"]
        per_part = [value] * parts if name == "num_batches_tracked" else value.chunk(parts)
        theirs |= {f"{_OFFICIAL_BN}.{part}.{name}": v.clone() for part, v in enumerate(per_part)}
    return {_PREFIX * prefix + key: value for key, value in theirs.items()}


def _renamed(key: str, names: Mapping[str, str]) -> str:
    if key in names:
        return names[key]
    layer, _, name = key.rpartition(".")
    return f"{names[layer]}.{name}"


def _official_keys(parts: int) -> set[str]:
    keys: set[str] = set()
    for theirs, ours in _KEYS.items():
        if theirs.endswith("weight") or ours in ("embedding", "ssfl.class_weight"):
            keys.add(theirs)
        else:
            keys |= {f"{theirs}.{name}" for name in (_NORM if "norm" in ours else ("weight",))}
    return keys | {f"{_OFFICIAL_BN}.{part}.{name}" for part in range(parts) for name in _NORM}


def _first(names: Iterable[str], count: int = 3) -> str:
    names = list(names)
    return ", ".join(shown(name, 100) for name in names[:count]) + (
        f" and {len(names) - count} more" if len(names) > count else ""
    )


def different_tensors(weights: Mapping[str, Tensor], network: Mapping[str, Tensor]) -> list[str]:
    """One line for each tensor that is on one side alone or has another shape: `embedding is (8, 2), not (8, 3)`.

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


def _is_weights(content: object) -> bool:
    """Names with tensors whose numbers are all in the file: a stretched one has any shape and takes no place."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) and _is_whole(value) for key, value in content.items())
    )


def _is_whole(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _described(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    inside = content.get("state_dict", content)
    for key, value in inside.items() if isinstance(inside, Mapping) else ():
        if isinstance(value, Tensor) and not _is_whole(value):
            return f"a tensor that is not dense, real and all in the file, {shown(key, 100)}"
    return f"a dictionary with {_first(map(str, content), count=5) or 'nothing in it'}"
