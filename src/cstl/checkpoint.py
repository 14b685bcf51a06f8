"""Weights in and out: files read as tensors only, the authors' keys, starting from other weights."""

from collections.abc import Collection, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cstl.config import checked
from cstl.files import shown
from cstl.models import CSTL, AblatedCSTL
from cstl.models.cstl.official import CLASSES, PREFIX, from_official, network_settings, to_official
from cstl.tensor_files import different_tensors, first_of, is_intact, load_tensors

__all__ = [
    "Transfer",
    "Weights",
    "build_network",
    "from_official",
    "load_network",
    "load_weights",
    "network_settings",
    "to_official",
    "transfer",
]

N = TypeVar("N", bound=nn.Module)
_NETWORK = "network."  # where a recogniser's state_dict has its network


# The classes that are made from a checkpoint, by our own code: a file does not choose what is called.
OURS = {
    "model": ("cstl.recognizer.GaitRecognizer",),
    "model.network": ("cstl.models.CSTL", "cstl.models.AblatedCSTL"),
}
MOST = {"height": 4096, "num_classes": 10**7, "channels": 2**16, "embedding_dim": 2**16, "reduction": 2**16}


class Weights(NamedTuple):
    """A file's weights of a network.

    Attributes:
        state_dict: under the keys of `CSTL`.
        config: the settings of the run that wrote the file, plain containers; None for a file of the authors,
            whose network is `CSTL(**network_settings(state_dict))`.
        origin: whose weights a file without settings holds, for tables: nobody knows of ours who was trained
            on.
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
        new, unused = (first_of(names) or "none" for names in (self.new, self.unused))
        total = len(self.loaded) + len(self.new)
        return f"loaded {len(self.loaded)} of {total} tensors; new: {new}; not used: {unused}"


def load_weights(path: str | Path) -> Weights:
    """Read the weights in a checkpoint of `cstl.train`, or in one of the authors' `*-encoder.ptm`.

    Nothing but tensors and plain containers is read, so that no file can run code; all tensors are on the
    CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged file, or one that holds anything else; the message says what.
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
    if any(key.removeprefix(PREFIX) in ("fc_bin", "conv2d_1.forward_block.conv2d.weight") for key in content):
        try:
            return Weights(from_official(content), None)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    # A file of torch.save(network.state_dict(), …), any network's.
    return Weights(own, None, "weights without a configuration")


def load_network(path: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Return the network of a checkpoint, on the CPU and in evaluation mode, without Hydra and Lightning.

    A file does not choose what is called: it makes `CSTL` or an ablation of it, and any other network is made
    by its user and filled here.

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
        ValueError: a network of another class, settings that are not its, or weights that do not fit it or
            are no finite numbers.
    """
    settings = network_settings(weights.state_dict) if weights.config is None else _settings(weights.config)
    kind = AblatedCSTL if settings.keys() - signature(CSTL).parameters else CSTL
    try:
        with torch.device("meta"):  # shapes without numbers
            shapes = kind(**settings).state_dict()
    except (TypeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"the network of its configuration cannot be made ({shown(error, 200)})") from None
    if wrong := different_tensors(weights.state_dict, shapes):
        raise ValueError(f"its weights do not fit the network of its own configuration: {first_of(wrong)}")
    return fill(kind(**settings), weights.state_dict)


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
            f"file: only {' and '.join(OURS[place])} are made from one. For a network of your own say "
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


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's arguments for `CSTL`, all of them plain and of a possible size."""
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
        raise ValueError(
            f"model.network.channels is {shown(settings['channels'], 60)}, expected three numbers"
        )
    return settings


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
