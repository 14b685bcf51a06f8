"""A recogniser and its data out of a checkpoint, whose settings are trusted with nothing."""

from collections.abc import Mapping
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cstl.checkpoint import (
    Weights,
    build_network,
    described,
    fill,
    known_keys,
    load_weights,
    network_of,
    own_class,
    plain_keys,
    transfer,
)
from cstl.config import Plain
from cstl.data.protocol import protocol_of
from cstl.files import shown
from cstl.models import CSTL, AblatedCSTL
from cstl.recognizer import GaitRecognizer
from cstl.running.console import say
from cstl.running.settings import arguments
from cstl.tensor_files import different_tensors, first_of
from cstl.trained import training_of

# What Lightning can compute in; a file from elsewhere may name nothing else.
PRECISIONS = (
    *("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"),
    *("32", "bf16", "16", "64"),
)


def load_recognizer(
    path: Path, model: DictConfig | None = None, half_embeddings: bool = False, form: str | None = None
) -> tuple[GaitRecognizer, Plain]:
    """Load a recogniser from its checkpoint alone, and the settings it was trained with; only tensors are
    loaded.

    Of the authors' files, which say nothing of their training, the settings are only what the weights tell.

    Args:
        path: of the checkpoint.
        model: the user's own, as composed: its network is made of these settings, and takes the file's
            weights. Of one of ours the file says the arguments, but for those typed that leave its shapes as
            they are.
        form: in which form they are shared, where sizes cannot tell.

    Raises:
        FileNotFoundError, ValueError: no such file, a damaged one, or one that holds something else.
    """
    ours = network_of(str(model.network.get("_target_"))) if model is not None else None
    weights, typed = load_weights(path, [ours] if ours else None, form), Plain()
    try:
        if model is not None and ours:
            typed = _typed(model, ours, described(weights))
        if model is not None and not ours:
            network = own_network(model, weights)
        else:
            network = build_network(weights, **typed)
        if weights.config is not None:
            known_keys(own_class(weights.config, "model"), GaitRecognizer, "model")
            plain_keys(weights.config.get("data", {}), "data")
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    settings: Plain
    if weights.config is None:
        made = {"_target_": f"cstl.models.{type(network).__name__}", **weights.arguments, **typed}
        settings = {"model": {"network": made}, "trainer": {"precision": "32-true"}, "origin": weights.origin}
    else:
        settings = weights.config
        precision = settings.get("trainer", {}).get("precision", "32-true")
        if str(precision) not in PRECISIONS:
            raise ValueError(
                f"{path} is refused: its trainer.precision is {shown(precision, 60)}, expected one of "
                f"{', '.join(PRECISIONS[:6])}"
            )
        if "dataset" in settings and not settings["dataset"].get("name"):
            raise ValueError(f"{path} is refused: its data set has no name")
        settings["model"]["network"].update(typed)
    height = getattr(network, "height", None)  # where the network is made for one
    if settings.setdefault("res", height) != height and height is not None and model is None:
        raise ValueError(f"{path} is refused: its res is {settings['res']}, its network's {height}")
    recognizer = GaitRecognizer(network, half_embeddings=half_embeddings)
    recognizer.config, recognizer.trained = (
        settings,
        training_of(weights.config, weights.kept, str(path), weights.origin),
    )
    return recognizer, settings


def _typed(
    model: DictConfig, network: type[nn.Module], found: tuple[type[nn.Module], Mapping[str, Any]]
) -> Plain:
    """Return the arguments of one of our networks that were typed: what neither its class nor the file says.

    Raises:
        ValueError: the file is of another network.
    """
    kind, arguments = found
    if kind is not network and not {kind, network} <= {CSTL, AblatedCSTL}:
        raise ValueError(f"it holds a {kind.__name__}, the model is a {network.__name__}")
    composed: Any = OmegaConf.to_container(model.network, resolve=True)
    usual = {key: parameter.default for key, parameter in signature(network).parameters.items()}
    return {
        key: value
        for key, value in composed.items()
        if key in usual
        and value not in ("???", None, arguments.get(key), _as_list(arguments.get(key)))
        and value != _as_list(usual[key])
    }


def _as_list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def own_network(model: DictConfig, weights: Weights) -> nn.Module:
    """Load the network that the user's model names, with a checkpoint's weights.

    The class is the user's; what numbers it was trained with, the file says: how many classes, which widths.

    Raises:
        ValueError: the checkpoint is of no run of ours, or its weights are those of another network.
    """
    if weights.config is None:
        raise ValueError("it does not say how it was trained; model= is for checkpoints of cstl.train")
    trained = weights.config.get("model", {}).get("network", {})
    OmegaConf.update(model._get_root(), "res", weights.config["res"])
    settings: Any = OmegaConf.to_container(model.network, resolve=True)
    filled = {key: trained.get(key) for key, value in settings.items() if value == "???"}
    if unknown := [str(key) for key, value in filled.items() if type(value) is not int]:
        raise ValueError(f"it does not say what {', '.join(unknown)} of its network is")
    name = f"model.network={settings['_target_']}"
    if trained.get("_target_") == settings["_target_"]:
        taken = arguments("model.network", model.network)
        filled |= {
            key: value
            for key, value in trained.items()
            if _is_numbers(value) and (key in settings if taken is None else key in taken)
        }
        if changed := [
            f"{key}={filled[key]}" for key in filled if settings.get(key) not in ("???", filled[key])
        ]:
            say(f"{name} is made with {', '.join(changed)}, as it was trained")
        shapes = None
        with suppress(Exception), torch.device("meta"):  # without memory, of which a number may ask for any
            shapes = instantiate(settings | filled).state_dict()
        if shapes is not None and (wrong := different_tensors(weights.state_dict, shapes)):
            raise ValueError(f"its weights are not those of {name}: {first_of(wrong)}")
    network: nn.Module = instantiate(settings | filled)
    return fill(network, weights.state_dict, name)


def _is_numbers(value: object) -> bool:
    """Tell a plain number, or a list of some."""
    return isinstance(value, (int, float)) or (isinstance(value, list) and all(map(_is_numbers, value)))


def start_from(weights: Weights, path: str, network: nn.Module, settings: Plain) -> str:
    """Start a network from those of other weights that fit, but for its classes; return what was loaded, in a
    sentence.

    Raises:
        ValueError: none fits; the message names their file.
    """
    fresh, own = class_tensors(settings, network), network.state_dict()
    shared = [key for key in own if key in weights.state_dict and key not in fresh]
    other = {
        key: weights.state_dict[key] for key in shared if weights.state_dict[key].shape != own[key].shape
    }
    if len(other) == len(shared):  # nothing fits, and the message says what would have to agree
        other = {}
    try:
        fitting = {key: value for key, value in weights.state_dict.items() if key not in other}
        done = f"{path}: {transfer(network, fitting, fresh)}"
    except ValueError as error:
        raise ValueError(f"init_from={path}: {error}") from None
    sizes = different_tensors(other, {key: own[key] for key in other})
    return done + (f"; of another size, and new: {first_of(sizes)}" if sizes else "")


def class_tensors(settings: Plain, network: nn.Module) -> set[str]:
    """Return the names of a network's tensors that belong to its classes: those that one more class would
    enlarge.

    Args:
        settings: its `_target_` and arguments.
        network: as it was made of them.
    """
    if "num_classes" not in settings:
        return set()
    with torch.random.fork_rng(devices=[]):
        larger = instantiate(
            settings | {"num_classes": settings["num_classes"] + 1}, _convert_="all"
        ).state_dict()
    return {
        key
        for key, value in network.state_dict().items()
        if key in larger and larger[key].shape != value.shape
    }


def trained_dataset(path: Path, trained: Plain) -> Plain:
    """Return the data set that a checkpoint was trained on; nothing in it names a file to read.

    Raises:
        ValueError: it is not known, or not what it must be.
    """
    if not (dataset := trained.get("dataset")):
        raise ValueError(
            f"{path} does not say which data set to evaluate on: add dataset=casiab or dataset=oumvlp"
        )
    try:
        plain_keys(dataset, "dataset")
        if absent := [
            f"dataset.{key}" for key in ("name", "title", "store", "protocol") if not dataset.get(key)
        ]:
            raise ValueError(f"it lacks {', '.join(absent)}")
        if dataset.get("split_file") is not None:
            raise ValueError("its data set names a split file to read, not the subjects that are in it")
        protocol_of(dataset)
        if dataset["store"].replace("\\", "/").startswith("//"):
            raise ValueError(
                f"its store {shown(dataset['store'], 100)} is on another machine; give store=PATH"
            )
    except ValueError as error:
        raise ValueError(
            f"{path} is refused: {error}; evaluate it on a data set of yours with dataset=NAME"
        ) from None
    return dataset
