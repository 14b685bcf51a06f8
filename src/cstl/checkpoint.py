"""Weights in and out: files read as tensors only, others' keys, starting from other weights."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cstl.config import checked
from cstl.files import shown
from cstl.models import CSTL, NETWORKS, AblatedCSTL
from cstl.models.cstl.official import CLASSES, PREFIX, from_official, to_official
from cstl.models.published import PublishedNetwork, recognise
from cstl.tensor_files import different_tensors, first_of, is_intact, load_tensors

__all__ = [
    "Transfer",
    "Weights",
    "build_network",
    "from_official",
    "load_network",
    "load_weights",
    "to_official",
    "transfer",
]

N = TypeVar("N", bound=nn.Module)
_NETWORK = "network."  # where a recogniser's state_dict has its network


# The classes that are made from a checkpoint, by our own code: a file does not choose what is called.
OURS = {
    "model": ("cstl.recognizer.GaitRecognizer",),
    "model.network": tuple(f"cstl.models.{network.__name__}" for network in NETWORKS.values()),
}
MOST = {"height": 4096, "num_classes": 10**7}  # other arguments of a network: 65,536


class Weights(NamedTuple):
    """A file's weights of a network.

    Attributes:
        state_dict: under the keys of our network, where it is one.
        config: the settings of the run that wrote the file, plain containers; None for a file of others.
        origin: whose weights a file without settings holds, for tables: nobody knows of ours who was trained
            on.
        kept: what the file says of the training subjects, for `cstl.trained.training_of`; not looked at yet.
        network, arguments: the class that a file of others is of, and what it is made with.
    """

    state_dict: dict[str, Tensor]
    config: dict[str, Any] | None
    origin: str = "the authors' weights"  # of a file without settings
    kept: dict[str, Any] = {}  # noqa: RUF012
    network: type[PublishedNetwork] | None = None
    arguments: dict[str, Any] = {}  # noqa: RUF012


class Transfer(NamedTuple):
    """What `transfer` did, by the names of the tensors; as text, one sentence to print."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]  # the network's, as they were initialised
    unused: tuple[str, ...]  # the weights', without a place in the network or of other classes

    def __str__(self) -> str:
        new, unused = (first_of(names) or "none" for names in (self.new, self.unused))
        total = len(self.loaded) + len(self.new)
        return f"loaded {len(self.loaded)} of {total} tensors; new: {new}; not used: {unused}"


def load_weights(
    path: str | Path, networks: Iterable[type[PublishedNetwork]] | None = None, form: str | None = None
) -> Weights:
    """Read the weights in a checkpoint of `cstl.train`, or in a file that others share.

    Nothing but tensors and plain containers is read, so that no file can run code; all tensors are on the
    CPU.

    Args:
        path: of the file; others' is a state dict, or a dictionary with one under `model` or `state_dict`.
        networks: classes of `cstl.models` of which others' file may be; None: any.
        form: the name of one of their forms, where sizes cannot tell it; None: the first that fits.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged file, one that holds anything else, or others' that fits none of `networks`; the
            message says what.
    """
    content = load_tensors(path)
    if (
        isinstance(content, dict)
        and isinstance(content.get("config"), dict)
        and _is_weights(content.get("state_dict"))
    ):
        state_dict = content["state_dict"]
        ours = {key.removeprefix(_NETWORK): state_dict[key] for key in state_dict if key.startswith(_NETWORK)}
        if ours:
            kept = {key: content[key] for key in ("trained_subjects", "provenance") if key in content}
            try:
                return Weights(ours, checked(content["config"]), kept=kept)
            except ValueError as error:
                raise ValueError(f"{path} is refused: its configuration is no plain data: {error}") from None
    if isinstance(content, dict) and "config" not in content:  # as other tools save weights
        content = next(
            (content[key] for key in ("state_dict", "model") if _is_weights(content.get(key))), content
        )
    if not _is_weights(content):
        raise ValueError(
            f"{path} holds {_described(content)}; expected a checkpoint of cstl.train, which has config and "
            "state_dict, or the authors' …-encoder.ptm, which has tensors alone"
        )
    own: dict[str, Tensor] = {}
    for key, value in content.items():
        name = key.removeprefix(PREFIX).removeprefix(_NETWORK)
        if name in own:
            raise ValueError(
                f"{path} is refused: it holds {shown(name, 100)} twice, with and without the prefix "
                f"{PREFIX} or {_NETWORK}; expected one state_dict"
            )
        own[name] = value
    try:
        found = recognise(own, NETWORKS.values() if networks is None else networks, form)
    except ValueError as error:
        if networks is not None or form is not None:
            with suppress(ValueError):
                other = recognise(own, NETWORKS.values()).network.__name__
                error = ValueError(f"{error}. It is a file of {other}: model={other.lower()}")
            raise ValueError(f"{path} is refused: {error}") from None
        # A file of torch.save(network.state_dict(), …), any network's, ours among them.
        bare = Weights(own, None, "weights without a configuration")
        for network in (network for network in NETWORKS.values() if network.forms):
            with suppress(KeyError, ValueError, ArithmeticError, IndexError, TypeError, RuntimeError):
                return bare._replace(network=network, arguments=network.arguments_of(own))
        return bare
    return Weights(found.weights, None, found.origin, {}, found.network, found.arguments)


def load_network(
    path: str | Path,
    network: nn.Module | None = None,
    *,
    model: str | None = None,
    form: str | None = None,
    **arguments: Any,
) -> nn.Module:
    """Return the network of a checkpoint, on the CPU and in evaluation mode, without Hydra and Lightning.

    A file does not choose what is called: it makes a network of `cstl.models`, and any other one is made by
    its user and filled here.

    Args:
        path: of a checkpoint of `cstl.train`, or of a file that others share: the toolbox's, the authors'.
        network: of a class of one's own, with the arguments it was trained with; its tensors are replaced.
        model: which network it is, such as "gaitbase"; its variant, widths and classes are read off the
            file. None: which, too.
        form: in which form it is shared, where sizes cannot tell: a name in the class's `forms`.
        arguments: of the class, in place of the file's, that leave its shapes as they are, such as
            test_neck=True or strips=(2, 4, 8).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged file, weights that are not this network's, or a class that is not ours.

    Example:
        >>> network = load_network("runs/demo/checkpoints/step-0001000.ckpt")  # doctest: +SKIP
        >>> network(silhouettes).embeddings  # float (B, P, D) for silhouettes (B, T, H, W)  # doctest: +SKIP
        >>> network = load_network("GaitBase-60000.pt", model="gaitbase")  # doctest: +SKIP
    """
    weights = load_weights(path, None if model is None else [network_named(model)], form)
    try:
        made = build_network(weights, **arguments) if network is None else fill(network, weights.state_dict)
        if model is not None and type(made) is not network_named(model):
            raise ValueError(f"it holds a {type(made).__name__}, not model={model}")
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    return made.eval()


def network_named(model: str) -> type[PublishedNetwork]:
    """Return a network of `cstl.models` by its name in `conf/model`; ValueError: there is none."""
    if model not in NETWORKS:
        raise ValueError(f"model={shown(model, 60)} is no network of cstl: {', '.join(NETWORKS)}")
    return NETWORKS[model]


def network_of(target: str) -> type[PublishedNetwork] | None:
    """Return the network of `cstl.models` that a `_target_` names; None: it is another class."""
    return NETWORKS[target.rpartition(".")[2].lower()] if target in OURS["model.network"] else None


def described(weights: Weights) -> tuple[type[PublishedNetwork], dict[str, Any]]:
    """Return the network of a file and its arguments, as its configuration or its shapes tell.

    Raises:
        ValueError: a network of another class, or settings that are not its.
    """
    if weights.config is not None:
        return _settings(weights.config)
    if weights.network is not None:
        return weights.network, weights.arguments
    found = recognise(weights.state_dict, NETWORKS.values())
    return found.network, found.arguments


def build_network(weights: Weights, **typed: Any) -> PublishedNetwork:
    """Make the network of a file, with its weights in it; no more memory is asked for than these take.

    Args:
        typed: arguments in place of the file's that leave its shapes as they are, such as test_neck=True.

    Raises:
        ValueError: a network of another class, settings that are not its, or weights that do not fit it or
            are no finite numbers.
    """
    kind, arguments = described(weights)
    known_keys(typed, kind, "arguments")
    try:
        with torch.device("meta"):  # shapes without numbers
            shapes = kind(**arguments | typed).state_dict()
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"the network of its configuration cannot be made ({shown(error, 200)})") from None
    if wrong := different_tensors(weights.state_dict, shapes):
        asked = f" with {', '.join(f'{k}={shown(v, 40)}' for k, v in typed.items())}" if typed else ""
        raise ValueError(
            f"its weights do not fit the network of its own configuration{asked}: {first_of(wrong)}"
        )
    return fill(kind(**arguments | typed), weights.state_dict)


def fill(network: N, state_dict: Mapping[str, Tensor], name: str | None = None) -> N:
    """Put weights into a network and return it; ValueError where they are not its, or no finite numbers.

    Args:
        name: what the message calls the network; None: its class.
    """
    if wrong := different_tensors(state_dict, network.state_dict()):
        raise ValueError(f"its weights are not those of {name or type(network).__name__}: {first_of(wrong)}")
    check_numbers(state_dict)
    network.load_state_dict(state_dict)
    return network


def check_numbers(weights: Mapping[str, Tensor]) -> None:
    """Refuse weights of which no network gives a number: NaN, infinite ones, variances below 0.

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
            f"its weights are not all finite numbers: {first_of(wrong)}. A diverged training or a damaged "
            "file writes such; take an earlier checkpoint"
        )


def own_class(config: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return the arguments that a file's configuration has for one of `OURS`, such as model.network.

    Raises:
        ValueError: it is for another class, which is named.
    """
    for key in place.split("."):
        config = config.get(key, {})
    if place != "model":  # of whose parts the network alone is made
        plain_keys(config, place)
    if (target := config.get("_target_")) not in OURS[place]:
        raise ValueError(
            f"its {place} is {shown(target or 'not named', 100)}, and what is called is not read from a "
            f"file: only {', '.join(OURS[place])} are made from one. For a network of your own say "
            "model=NAME, its own file: the class is then yours, and the weights are the checkpoint's"
        )
    return {key: value for key, value in config.items() if key != "_target_"}


def plain_keys(content: Any, place: str) -> None:
    """Refuse keys such as _target_ that call something, but for one that names one of `OURS`."""
    for key, value in content.items() if isinstance(content, Mapping) else enumerate(content):
        if isinstance(key, str) and key.startswith("_") and not (key == "_target_" and place in OURS):
            raise ValueError(
                f"its {shown(place, 100)}.{shown(key, 60)} is {shown(value, 100)}, and what is called is "
                "not read from a file"
            )
        if isinstance(value, Mapping | list):
            plain_keys(value, f"{place}.{key}")


def known_keys(arguments: Mapping[str, Any], cls: type, place: str) -> None:
    """Refuse arguments that a class does not have: ValueError."""
    if unknown := sorted(arguments.keys() - signature(cls).parameters.keys()):
        raise ValueError(f"its {place} has the unknown key {first_of(unknown)}")


def _settings(config: Mapping[str, Any]) -> tuple[type[PublishedNetwork], dict[str, Any]]:
    """Return a file's network and its arguments, all of them plain and of a possible size."""
    own_class(config, "model")
    arguments = own_class(config, "model.network")
    network = network_of(config["model"]["network"]["_target_"])
    assert network is not None  # as `own_class` saw
    widest = AblatedCSTL if network is CSTL else network  # which 0.1 wrote as CSTL
    known_keys(arguments, widest, "model.network")
    for key, value in arguments.items():
        default = signature(widest).parameters[key].default
        if not _is_plain(value, default, MOST.get(key, 2**16)):
            expected = _expected(default, MOST.get(key, 2**16))
            raise ValueError(f"model.network.{key} is {shown(value, 60)}, expected {expected}")
    if widest is AblatedCSTL:
        ablation = {
            key: parameter.default
            for key, parameter in signature(AblatedCSTL).parameters.items()
            if parameter.kind is Parameter.KEYWORD_ONLY
        }
        if all(_as_list(arguments.get(key, paper)) == _as_list(paper) for key, paper in ablation.items()):
            return CSTL, {key: value for key, value in arguments.items() if key not in ablation}
    return widest, arguments


def _is_plain(value: Any, default: Any, most: int) -> bool:
    """Say whether a file's argument is of the kind of the class's default."""
    if isinstance(default, tuple):
        kind = default[0]
        return type(value) is list and 1 <= len(value) <= 16 and all(_is_plain(v, kind, most) for v in value)
    if default is Parameter.empty:  # has to be said, as the number of classes has
        default = 1
    if default is None:
        return value is None or _is_plain(value, 1, most)
    if isinstance(default, float):
        return type(value) in (int, float) and abs(value) <= most
    return type(value) is type(default) and (type(value) is not int or 1 <= value <= most)


def _expected(default: Any, most: int) -> str:
    kind = default[0] if isinstance(default, tuple) else default
    one = {str: "a word", bool: "true or false", float: "a number"}.get(type(kind), "")
    return ("a list of at most 16, each " if kind is not default else "") + (
        one or f"a whole number from 1 to {most:,}"
    )


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def transfer(
    network: nn.Module, state_dict: Mapping[str, Tensor], fresh: Collection[str] = (CLASSES,)
) -> Transfer:
    """Start a network from other weights: all that have a place in it are loaded, except the classes'.

    The class matrix is always left as it was initialised, since class k is another subject elsewhere.

    Args:
        network: changed in place; may be an ablation, whose other tensors stay new.
        state_dict: weights, as `load_weights` gives them.
        fresh: the tensors of the classes, which are left as they are.

    Raises:
        ValueError: a tensor of the same name has another shape, kind or no finite numbers, or no name is the
            same; nothing is loaded then.
    """
    before = network.state_dict()
    shared = [key for key in before if key in state_dict and key not in fresh]
    wrong = different_tensors({key: state_dict[key] for key in shared}, {key: before[key] for key in shared})
    if wrong or not shared:
        raise ValueError(
            f"these weights do not fit the network: {first_of(wrong) or 'no tensor has the same name'}. "
            "They must agree in res and the sizes under model.network; the number of classes may differ"
        )
    # But for those like a mask of −∞.
    check_numbers({key: state_dict[key] for key in shared if before[key].isfinite().all()})
    network.load_state_dict({key: state_dict[key] for key in shared}, strict=False)
    new = tuple(key for key in before if key not in shared)
    return Transfer(tuple(shared), new, tuple(key for key in state_dict if key not in shared))


def _is_weights(content: object) -> bool:
    """Say whether it is names with tensors that are all in the file: a stretched one takes no place."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) and is_intact(value) for key, value in content.items())
    )


def _described(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    inside = content.get("state_dict", content)
    for key, value in inside.items() if isinstance(inside, Mapping) else ():
        if isinstance(value, Tensor) and not is_intact(value):
            return f"a tensor that is not dense, real and all in the file, {shown(key, 100)}"
    return f"a dictionary with {first_of(map(str, content), count=5) or 'nothing in it'}"
