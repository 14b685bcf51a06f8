"""Where the configuration lies, and what of it decides a run."""

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cstl.files import plain_data, shown

_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?(\w+(?:\.\w+)*)(?:,\w+)?\}")
_PACKAGE = Path(__file__).resolve().parent
CONFIG_PATH = str(_PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf")

# What may change between two starts of one run: it does not change the result.
_FREE = (
    "name",
    "runs",
    "folder",
    "logger",
    "data.workers",
    "store_fingerprint",  # compared by `open_run`, with what to do
    "dataset.raw",
    "dataset.layout",
    # the fingerprint tells
    *(f"dataset.{key}" for key in ("files", "threshold", "clean", "drop_cut", "aligned")),
    "dataset.store",
    "callbacks",
    "label",
    "allow_seen",
    "dataset.people",  # names of what is the same
    "report",
    "keep_embeddings",
    "baseline",
    "baselines",
    "evaluate",  # a model that was only trained can be evaluated later
    "evaluated",  # the checkpoint, in the config.yaml of an evaluation
    "extend",  # trainer.max_steps says how long a run is
    "evaluate_every",
    "dataset.title",
    "dataset.published",
    "model.network.num_classes",  # as many as there are training subjects
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.num_sanity_val_steps",
    "trainer.enable_model_summary",
    "trainer.default_root_dir",
    "trainer.accelerator",
    "trainer.strategy",  # a batch is the same however many processes share it
    "trainer.devices",
    "trainer.num_nodes",
)

_BEST = "callbacks.checkpoints.best"  # which checkpoint is reported: then `evaluate_every` decides, too

Plain = dict[str, Any]

_KINDS: dict[str, tuple[type, ...]] = {  # of the settings that are used when they come from a file
    **dict.fromkeys(("dataset", "dataset.protocol", "data"), (dict,)),
    **dict.fromkeys(("model", "model.network", "trainer", "callbacks", "callbacks.checkpoints"), (dict,)),
    **dict.fromkeys(("dataset.name", "dataset.title", "dataset.store", "dataset.split_file"), (str,)),
    **dict.fromkeys(("model._target_", "model.network._target_"), (str,)),
    **dict.fromkeys(("store_fingerprint", "label", "init_from", "dataset.people"), (str,)),
    "dataset.synthesis": (dict,),
    **dict.fromkeys(("res", "seed", "max_frames", "trainer.max_steps"), (int,)),
    **dict.fromkeys(("data.subjects", "data.sequences", "data.eval_frames"), (int,)),
    "data.frames": (int, list),
    **dict.fromkeys(("dataset.split", "trainer.precision"), (str, int)),
}

# Keys of 0.1 and their names now. Those of the first table only repeated another key, or filled it in.
_REPEATED = {
    "dataset.recipe.subjects": "data.subjects",
    "dataset.recipe.sequences": "data.sequences",
    "dataset.recipe.frames": "data.frames",
    "dataset.recipe.iterations": "trainer.max_steps",
    "dataset.recipe.channels": "model.network.channels",
    "dataset.recipe.batch_norm": "model.batch_norm",
    "dataset.recipe.learning_rate": "model.optimizer.lr",
    "dataset.recipe.milestones": "model.scheduler.milestones",
    "dataset.recipe.evaluate_every": "evaluate_every",
    "dataset.recipe.checkpoint_every": "callbacks.checkpoints.every",
    "data.res": "res",
    "data.seed": "seed",
    "data.steps": "trainer.max_steps",
    "dataset.protocol.split": "dataset.split",
}
_MOVED = {
    "data.store": "dataset.store",
    "data.dataset": "dataset.name",
    "data.protocol": "dataset.protocol",
    "data.max_frames": "max_frames",
    "dataset.protocol.split_file": "dataset.split_file",
    "model.margin": "model.triplet.margin",
    "model.mining": "model.triplet.mining",
    "model.triplet_weight": "model.triplet.weight",
    "model.cross_entropy_weight": "model.cross_entropy.weight",
    "model.learning_rate": "model.optimizer.lr",
    "model.milestones": "model.scheduler.milestones",
    "model.gamma": "model.scheduler.gamma",
    "model.patience": "model.max_nonfinite_steps",
    "model.half_embeddings": "half_embeddings",
}
RENAMED = _REPEATED | _MOVED
_COMPONENTS: Plain = {  # of the model, which were in code
    "triplet": {"_target_": "cstl.losses.TripletLoss"},
    "cross_entropy": {"_target_": "cstl.losses.CrossEntropy", "scale": 1.0, "label_smoothing": 0.0},
    "losses": [],
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "fused": True},
    "scheduler": {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "_partial_": True},
}


def plain(config: DictConfig) -> Plain:
    """Return the resolved configuration in plain Python containers, as checkpoints and files hold it."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def checked(content: Any, resolved: bool = True) -> Plain:
    """Return settings that were read from a file, all of them plain data and those that are used of their
    kind.

    Those of a file of 0.1 have the names of this version.

    Args:
        content: what the file holds.
        resolved: refuse interpolations and values that are to come; else `${…}` is left as the text that it
            is.

    Raises:
        ValueError: anything else; the message says where.
    """
    plain_data(content, finite=False)
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}, expected settings")
    content = translated(content)
    for place, kinds in _KINDS.items():
        *above, last = place.split(".")
        inside: Any = content
        for key in above:
            inside = inside.get(key) if isinstance(inside, dict) else None
        if not isinstance(inside, dict) or last not in inside or (inside[last] is None and kinds != (dict,)):
            continue
        value = inside[last]
        if type(value) not in kinds and (resolved or not _is_open(value)):
            raise ValueError(
                f"{place} is {shown(repr(value), 60)}, expected {' or '.join(k.__name__ for k in kinds)}"
            )
    if resolved and (found := next(_open(content), None)):
        raise ValueError(
            f"{shown(found[0], 100)} is {shown(found[1], 60)}, expected values and no interpolation"
        )
    return content


def translated(settings: Plain) -> Plain:
    """Return settings under the names of this version: those of a file of 0.1 are renamed, others are as they
    were.

    Raises:
        ValueError: keys of both versions that do not go together.
    """
    if not (old := [key for key in RENAMED if _parent(settings, key) is not None]):
        return settings
    new: Plain = copy.deepcopy(followed(settings) if next(_open(settings), None) else settings)
    if any(key.startswith("model.") for key in old):
        new["model"] = copy.deepcopy(_COMPONENTS) | new["model"]
    for key in old:
        value = (_parent(new, key) or {}).pop(key.rpartition(".")[2], None)  # a key above may have moved
        if key in _MOVED and value is not None:
            *place, last = _MOVED[key].split(".")
            node = new
            for part in place:
                node = node.setdefault(part, {})
                if not isinstance(node, dict):
                    raise ValueError(f"it has {key} and {'.'.join(place)}, which are of different versions")
            node[last] = value
    protocol = (_parent(settings, "data.protocol") or {}).get("protocol")
    if (
        isinstance(protocol, dict)
        and protocol.get("split_file") is None
        and _parent(new, "dataset.split_file")
    ):
        new["dataset"]["split_file"] = None  # its subjects were written in its place
    for key in ("dataset.recipe", "data._target_"):
        if (parent := _parent(new, key)) is not None:
            parent.pop(key.rpartition(".")[2])
    return new


def _parent(settings: Plain, key: str) -> Any:
    """Return the mapping that has a dotted key; None where there is no such key."""
    *place, last = key.split(".")
    node: Any = settings
    for part in place:
        node = node.get(part) if isinstance(node, dict) else None
    return node if isinstance(node, dict) and last in node else None


def followed(config: Plain) -> Plain:
    """Return a composed configuration with the values that `${key.of.another}` stands for; whatever else is
    in `${…}` stays.

    Of Hydra's and OmegaConf's resolvers, which read the environment or make what they are told, none is
    called.
    """
    left = 10_000  # places to look at: a few lines can stand for ever more of each other

    def value_of(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > 16:
            raise ValueError("its interpolations stand for too much")
        if isinstance(value, dict):
            return {key: value_of(child, depth + 1) for key, child in value.items()}
        if isinstance(value, list):
            return [value_of(child, depth + 1) for child in value]
        if isinstance(value, str) and (match := _REFERENCE.fullmatch(value)):
            parent = _parent(config, match[1])
            return value if parent is None else value_of(parent[match[1].rpartition(".")[2]], depth + 1)
        return value

    return {key: value_of(value, 0) for key, value in config.items()}


def _is_open(value: Any) -> bool:
    return isinstance(value, str) and ("${" in value or value == "???")


def _open(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Return the interpolations and missing values in settings: where, and what."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        here = f"{place}.{key}" if place else str(key)
        if isinstance(value, dict | list):
            yield from _open(value, here)
        for text in (key, value):
            if _is_open(text):
                yield here, text


def decisive(config: Plain) -> dict[str, Any]:
    """Return the settings that decide a result: dotted key → value, such as `model.triplet.margin` → 0.2."""
    every = dict(_leaves(config))
    if every.get("model.network.height") == every.get("res"):
        every.pop("model.network.height", None)  # it follows from the resolution
    chosen = (_BEST, "evaluate_every") if every.get(_BEST) else ()
    return {key: value for key, value in every.items() if key in chosen or not _is_free(key)}


def digest(config: Plain) -> str:
    """Return 12 hexadecimal digits that are the same for two runs that must give the same result."""
    return hashlib.sha256(json.dumps(sorted(decisive(config).items())).encode()).hexdigest()[:12]


def differences(before: Plain, now: Plain) -> list[str]:
    """Write one line for each key that decides the result and differs, such as `seed: 1 before, 2 now`."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    keys = [key for key in decisive(before) | decisive(now) if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'absent')} before, {new.get(key, 'absent')} now" for key in keys]


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in _FREE)


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
