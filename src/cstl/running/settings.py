"""Which settings there are and which values can work: what is misspelt or impossible is refused
before a run starts.

Longer than 450 lines, since the rules of all keys stand together: a line or two each.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.utils import _locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from cstl.config import CONFIG_PATH, RENAMED, plain
from cstl.data.protocol import KEYS, protocol_of
from cstl.preparation.plan import OPTIONS

PATHS = (
    "checkpoint",
    "init_from",
    "store",
    "out",
    "runs",
    "dataset.raw",
    "dataset.store",
    "dataset.split_file",
)

_HYDRAS_OWN = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
# the user's
_NAMES = ("dataset.protocol.probes", "dataset.protocol.cross_view_probes", "dataset.protocol.splits")
_ELSEWHERE = {  # groups whose files say what goes elsewhere, and leave no key
    **dict.fromkeys(("experiment", "hparams_search", "recipe"), "_global_"),
    "ablation": "model.network",
}
_CHANNELS = "model.network.channels"
_OURS = {  # arguments of Lightning's trainer that cstl gives itself: what to type in their place
    "val_check_interval": "evaluate_every=N",
    "check_val_every_n_epoch": "evaluate_every=N",
    "limit_val_batches": "evaluate_every=null for no looks at the test subjects",
    "limit_test_batches": "dataset.protocol.test=[…] for fewer test subjects",
    "fast_dev_run": "trainer.max_steps=5",
    "logger": "logger=csv, or the logger group",
    "callbacks": "the callbacks group",
    "enable_checkpointing": "callbacks.checkpoints.every=N",
    "enable_progress_bar": "nothing: it is shown in a terminal",
    "default_root_dir": "name=NAME, runs=PATH; the folder is PATH/NAME",
    "plugins": "nothing: checkpoints are written by ours",
}


_COMPONENTS = {  # of the recogniser, and what is typed for one
    "network": "model.network._target_=mynet.Net",
    "triplet": "model.triplet.margin=0.1, or null for none",
    "cross_entropy": "model.cross_entropy.label_smoothing=0.1, or null for none",
    "losses": "'model.losses=[{loss: {_target_: mynet.spread, _partial_: true}, weight: 0.1}]'",
    "optimizer": "model.optimizer._target_=torch.optim.SGD +model.optimizer.momentum=0.9",
    "scheduler": "'model.scheduler={_target_: torch.optim.lr_scheduler.CosineAnnealingLR, _partial_: true, "
    "T_max: 1000}', or null for none",
    "augment": "'model.augment=[{_target_: cstl.data.augment.Flip, probability: 0.2}]'",
}


class Rule(NamedTuple):
    """What a value must be, in words and as a test."""

    expected: str
    fits: Callable[[Any], bool]

    def or_(self, value: int | None, meaning: str) -> "Rule":
        """Return the rule that lets one more value pass."""
        return Rule(
            f"{self.expected}, or {_shown(value)}: {meaning}",
            lambda found: found == value or self.fits(found),
        )


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice most likely meant: spelt alike, or with the same last part (`sed` → `seed`)."""
    choices = list(choices)
    plain = {re.sub(r"[\W_]", "", choice.lower()): choice for choice in choices}
    letters = re.sub(r"[\W_]", "", word.lower())
    if (same := plain.get(letters)) is not None:
        return same
    last = {choice.rpartition(".")[2]: choice for choice in reversed(choices) if "." in choice}
    if "." in word and (close := get_close_matches(word.rpartition(".")[2], last, n=1, cutoff=0.9)):
        return last[close[0]]
    if close := get_close_matches(word, choices, n=1, cutoff=0.6):
        return close[0]
    if close := get_close_matches(letters, plain, n=1, cutoff=0.75):
        return plain[close[0]]
    close = get_close_matches(word.rpartition(".")[2], last, n=1, cutoff=0.75)
    return last[close[0]] if close else None


def unknown(what: str, word: str, choices: Iterable[str], further: Iterable[str] = ()) -> ValueError:
    """Return the error for a word that there is not: with the nearest choice, or a further one, and all."""
    choices = sorted({choice for choice in choices if not choice.startswith("_")})
    further = [choice for choice in further if choice.rpartition(".")[0]]
    elsewhere = min(
        (choice for choice in further if choice.rpartition(".")[2] == word), key=len, default=None
    )
    likely = elsewhere or nearest(word, choices) or nearest(word, further)
    hint = f"; did you mean {likely}?" if likely else "."
    listed = f" There are: {', '.join(choices)}" if choices else ""
    return ValueError(f"{what}{hint}{listed}".rstrip("."))


def refuse_unknown(config: DictConfig, command: str) -> None:
    """Raise ValueError for keys that nothing reads, wherever they come from, with the nearest and all."""
    read_elsewhere = _references(config)
    every = [key for key, _ in leaves(config)]

    def check(key: str, known: Iterable[str], found: Iterable[Any]) -> None:
        known = list(known)
        for name in map(str, found):
            full = f"{key}.{name}" if key else name
            if moved := renamed(full):
                raise ValueError(moved)
            if name in known or any(f".{full}".endswith(f".{reference}") for reference in read_elsewhere):
                continue
            where = f"{key} has no key {name}" if key else f"there is no key {name}"
            others = [other for other in every if not f"{other}.".startswith(f"{full}.")]
            raise unknown(f"{where}: nothing reads it, and it would change nothing", name, known, others)

    check("", _root_keys(command), config)
    for key in _root_keys(command):
        if key in _ELSEWHERE and key in config:
            raise ValueError(
                f"{key} would change nothing: its file lacks the first line '# @package {_ELSEWHERE[key]}'"
            )
        if not (key in config or OmegaConf.is_missing(config, key) or key in _dispensable(command)):
            raise ValueError(f"{key} is needed, and was left out")
    for key, node in _nodes(config):
        group = key.partition(".")[0]
        if "_target_" in node:
            parameters = arguments(key, node)
            if parameters is not None:
                check(key, [*parameters, *_HYDRAS_OWN], node)
            if key == "trainer" and (ours := [name for name in _OURS if name in node]):
                raise ValueError(f"trainer.{ours[0]} would not be heeded; in its place type {_OURS[ours[0]]}")
        elif group == "dataset" and not any(f"{key}.".startswith(f"{names}.") for names in _NAMES):
            known = KEYS if key == "dataset.protocol" else _shipped(key)
            known = (*known, *OPTIONS) if key == "dataset" else known
            if known:
                check(key, known, node)
        elif key in ("logger", "callbacks"):
            for name, child in node.items_ex(resolve=False):
                if child is None or (isinstance(child, DictConfig) and child._is_none()):
                    raise ValueError("{0}=null: to leave it out type ~{0}".format(f"{key}." + str(name)))
                if not _is_part(child):
                    check(key, [str(k) for k, v in node.items_ex(resolve=False) if _is_part(v)], [name])
        elif key == "data":
            check(key, _own_keys(command, key), node)
        elif re.fullmatch(r"model\.losses\[\d+\]", key):
            check(key, ("loss", "weight"), node)
        elif key in ("model", "trainer"):
            raise ValueError(
                f"{key} is needed, and was left out, or has no _target_, the class that it makes; see "
                f"conf/{key}"
            )


def refuse_impossible(config: DictConfig, command: str) -> None:
    """Raise ValueError for values that cannot work, with what was expected and what was found."""
    for key in ("dataset", "dataset.protocol", "data"):
        found = OmegaConf.select(config, key, throw_on_missing=False)
        if not isinstance(found, DictConfig) and key.rpartition(".")[2] in (
            (config.get("dataset") or ()) if "." in key else config
        ):
            example = "data.frames=30" if key == "data" else "in conf/dataset/casiab.yaml"
            raise ValueError(f"{key}={_shown(found)}: expected keys with values, as {example}")
    rules = [
        (key, rule) for keys, rule in _RULES.items() for name in keys.split() for key in _each(config, name)
    ]
    # what others take comes first
    for key, rule in sorted(rules, key=lambda rule: not rule[0].startswith("dataset.")):
        node, last = key.rpartition(".")[::2]
        parent = OmegaConf.select(config, node, throw_on_missing=False) if node else config
        if not isinstance(parent, DictConfig) or last not in parent or OmegaConf.is_missing(parent, last):
            continue
        try:
            value = parent[last]
        except InterpolationResolutionError as error:
            if OmegaConf.select(config, "dataset") is None:
                continue  # an evaluation takes the checkpoint's
            found = dict(parent.items_ex(resolve=False))[last]
            absent = re.search(r"[Kk]ey '([^']*)'", str(error))
            if absent is None:
                raise
            key_read, every = absent[1], [name for name, _ in leaves(config)]
            if key_read.startswith("dataset.") and key_read in _references(config):
                remedy = f": add it to the YAML file of the data set, or type {key}=VALUE"
            else:
                remedy = (
                    f"; did you mean {meant}?"
                    if (meant := nearest(key_read, every))
                    else f": type {key}=VALUE"
                )
            raise ValueError(f"{key} is {found}, but {key_read} is not there{remedy}") from None
        if isinstance(value, ListConfig):
            value = OmegaConf.to_container(value, resolve=True)
        if not rule.fits(value):
            raise ValueError(f"{key}={_shown(value)}: expected {rule.expected}")
    if command in ("train", "evaluate") and config.get("dataset") is not None:
        _refuse_impossible_benchmark(config, command)
    if command == "train":
        _refuse_impossible_training(config)


def leaves(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key of a configuration with its unresolved value, the keys of nodes too."""
    for name, child in config.items_ex(resolve=False):
        key = prefix + str(name)
        yield key, child
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from leaves(child, f"{key}.")


def _refuse_impossible_benchmark(config: DictConfig, command: str) -> None:
    dataset = config.dataset
    for key in ("name", "title"):
        value = dataset.get(key)
        if not isinstance(value, str) or not value.strip():
            found = "nothing" if value in (None, "") else repr(value)
            raise ValueError(f"dataset.{key}: expected a text, found {found}; tables and folders show it")
    protocol = protocol_of(plain(dataset))
    if not protocol.test_subjects:
        raise ValueError(
            "dataset.protocol.test: expected at least one test subject, found none; a run ends with a test"
        )
    if command == "train" and not protocol.train_subjects:
        where = dataset.get("split_file") or "dataset.protocol.train"
        raise ValueError(
            f"{where} names no training subject, only {len(protocol.test_subjects)} to test on: nothing can "
            f"be trained. To evaluate on them: python -m cstl.evaluate checkpoint=PATH dataset={dataset.name}"
        )


def _refuse_impossible_training(config: DictConfig) -> None:
    select = OmegaConf.select
    if (steps := select(config, "trainer.max_steps")) is not None and steps < 1:
        raise ValueError(f"trainer.max_steps={steps}: expected at least 1 iteration to train")
    _refuse_names_for_components(config.model)
    if select(config, "model.network._target_") in ("cstl.models.CSTL", "cstl.models.AblatedCSTL"):
        rule, channels = (
            _list("three widths of the encoder, such as [32,64,128]", count=3),
            select(config, _CHANNELS),
        )
        if not isinstance(channels, ListConfig) or not rule.fits(list(channels)):
            raise ValueError(f"{_CHANNELS}={_shown(channels)}: expected {rule.expected}")
    weights = {
        loss: select(config, f"model.{loss}.weight", default=1) for loss in ("triplet", "cross_entropy")
    }
    weights = {loss: weight if select(config, f"model.{loss}") else 0 for loss, weight in weights.items()}
    if weights["triplet"]:
        for key, what in {"data.subjects": "subject", "data.sequences": "sequence of a subject"}.items():
            if select(config, key) == 1:
                raise ValueError(
                    f"{key}=1: a batch of one {what} has no triplets, and the triplet loss would train "
                    "nothing; expected at least 2, or model.triplet=null"
                )
    if not any(weights.values()) and not select(config, "model.losses"):
        raise ValueError(
            "model.triplet, model.cross_entropy and model.losses leave no loss: one must have a weight"
        )


def _refuse_names_for_components(model: DictConfig) -> None:
    """Raise ValueError where a component of the recogniser is a word, such as model.optimizer=sgd."""
    for key, example in _COMPONENTS.items():
        if key not in model or OmegaConf.is_missing(model, key):
            continue
        found, listed = model[key], key in ("losses", "augment")
        parts = list(found) if listed and isinstance(found, ListConfig) else [found]
        if not listed and found is None and key not in ("network", "optimizer"):
            continue
        inside = [
            part.get("loss") if key == "losses" and isinstance(part, DictConfig) else part for part in parts
        ]
        if (listed and not isinstance(found, ListConfig)) or not all(map(_is_part, inside)):
            raise ValueError(f"model.{key}={_shown(found)}: expected settings and no name, such as {example}")


def renamed(key: str, value: str = "VALUE") -> str | None:
    """Return what is said of a key of 0.1 that has another name; None of any other key."""
    if key == "dataset.recipe":
        return (
            "dataset.recipe is a file of its own since 0.2, recipe/MODEL_DATASET.yaml: see "
            "docs/your_own_data.md"
        )
    return f"{key} is {RENAMED[key]} since 0.2: type {RENAMED[key]}={value}" if key in RENAMED else None


def _references(config: DictConfig) -> set[str]:
    """Return the keys that interpolations read, without leading dots."""
    text = OmegaConf.to_yaml(config, resolve=False)
    return set(re.findall(r"\$\{\.*([\w.]+)\}", text)) | set(re.findall(r"oc\.select:\s*\.*([\w.]+)", text))


@cache
def choices(command: str) -> dict[str, str | None]:
    """Return group → name of the file that a command takes unless another is named."""
    root: Any = OmegaConf.to_container(_root(command), resolve=False)
    pairs = [pair for entry in root["defaults"] if isinstance(entry, dict) for pair in entry.items()]
    return {str(group).rpartition(" ")[2]: name for group, name in pairs if "hydra/" not in str(group)}


def _own_keys(command: str, node: str) -> list[str]:
    """Return the keys that a command's own file has at a node."""
    return list(map(str, _root(command)[node]))


@cache
def _root(command: str) -> Any:
    return OmegaConf.load(Path(CONFIG_PATH, f"{command}.yaml"))


def _root_keys(command: str) -> list[str]:
    keys = [*choices(command), *map(str, _root(command))]
    return [key for key in keys if key not in ("defaults", "hydra")]


def _dispensable(command: str) -> list[str]:
    """Return the groups that a run can do without: those of no file by default, and what only tells of it."""
    absent = [group for group, name in choices(command).items() if name is None or "$" in name]
    return ["logger", "callbacks", *absent]


@cache
def _shipped(key: str) -> tuple[str, ...]:
    """Return the keys that our own data sets have at a place."""
    found: dict[str, None] = {}
    for file in sorted(Path(CONFIG_PATH, "dataset").glob("*.yaml")):
        node: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        for name in key.split(".")[1:]:
            node = node.get(name) if isinstance(node, Mapping) else None
        found |= dict.fromkeys(map(str, node)) if isinstance(node, Mapping) else {}
    return tuple(found)


def _nodes(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yield every node with its key, those in lists too, such as model.augment[0]."""
    for key, node in leaves(config):
        listed = isinstance(node, ListConfig) and not node._is_none() and not node._is_interpolation()
        for name, part in ((f"{key}[{i}]", part) for i, part in enumerate(node)) if listed else [(key, node)]:
            if isinstance(part, DictConfig) and not part._is_none() and not part._is_interpolation():
                yield name, part
                if listed:
                    yield from ((f"{name}.{inside}", deeper) for inside, deeper in _nodes(part))


def _each(config: DictConfig, key: str) -> list[str]:
    """Return a key, or those of every entry of a list for one with [] in it: model.augment[].probability."""
    of, brackets, inside = key.partition("[]")
    found = OmegaConf.select(config, of, throw_on_missing=False) if brackets else None
    return [f"{of}[{i}]{inside}" for i in range(len(found))] if isinstance(found, ListConfig) else [key]


def _is_part(node: Any) -> bool:
    return isinstance(node, DictConfig) and not node._is_none() and "_target_" in node


def arguments(key: str, node: DictConfig) -> list[str] | None:
    """Return the arguments that the class or function of a node takes; None: any."""
    try:
        target = _locate(node._target_)
    except Exception as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{key}._target_={node._target_} cannot be imported: {cause}") from None
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _is_whole(value: Any, least: float = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _whole(least: int = 1, most: float = math.inf) -> Rule:
    words = (
        f"a whole number of at least {least}"
        if most == math.inf
        else f"a whole number from {least} to {most:.0f}"
    )
    return Rule(words, lambda value: _is_whole(value, least) and value <= most)


def _number(least: float = 0, above: bool = False, most: float = math.inf) -> Rule:
    words = f"a number {'above' if above else 'of at least'} {least:g}" + f" and at most {most:g}" * (
        most < math.inf
    )

    def fits(value: Any) -> bool:
        number = isinstance(value, float) or _is_whole(value, -math.inf)
        return number and math.isfinite(value) and least <= value <= most and not (above and value == least)

    return Rule(words, fits)


def _choice(*choices: str) -> Rule:
    return Rule(f"one of {', '.join(choices)}", lambda value: value is not None and str(value) in choices)


def _list(words: str, least: int = 1, count: int | None = None) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, list) and len(value) in (count, count or len(value)) and all(
            _is_whole(number, least) for number in value
        )  # fmt: skip

    return Rule(words, fits)


def _are_frames(value: Any) -> bool:
    return _is_whole(value) or (_pair.fits(value) and value[0] <= value[1])


def _are_words(value: Any) -> bool:
    words = [value] if isinstance(value, str) else value
    return isinstance(words, list) and all(isinstance(word, str) and word.strip() for word in words)


def _are_devices(value: Any) -> bool:
    named = isinstance(value, str) and re.fullmatch(r"auto|\d+(,\d+)*,?", value)
    return bool(named) or _is_whole(value) or value == -1 or (bool(value) and _list("", 0).fits(value))


_pair = _list("", count=2)
_batch_norm = _choice("replica", "synchronised", "ghost")
_precision = ("32-true", "bf16-mixed", "16-mixed", "64-true", "32", "64", "bf16", "16")
_RULES = {  # keys → what their values must be
    "name": Rule("a name, which is the run's folder", lambda value: value is not None),
    "res": Rule("one of 64 (64x44), 128 (128x88)", lambda value: value in (None, 64, 128)),
    "seed dataset.synthesis.seed": _whole(0, 2**32 - 1),
    "dataset.synthesis.frames data.subjects data.sequences callbacks.checkpoints.every": _whole(),
    "callbacks.checkpoints.keep shards sequences": _whole(),
    "trainer.log_every_n_steps trainer.num_nodes model.ghosts model.max_nonfinite_steps": _whole(),
    "data.eval_frames": _whole().or_(None, "as in training"),
    "model.network.embedding_dim model.network.reduction": _whole(),
    "model.network.parts": _whole().or_(None, "every row of the encoder's map"),
    "evaluate_every": _whole().or_(None, "only at the end"),
    "max_frames": _whole().or_(None, "all"),
    "trainer.max_steps": _whole().or_(-1, "no training"),
    "trainer.max_epochs": _whole().or_(-1, "no limit"),
    "trainer.num_sanity_val_steps": _whole(0).or_(-1, "all"),
    "data.workers data.spare": _whole(0),
    "workers": _whole().or_(None, "all cores"),
    "shard": _whole(0).or_(None, "all"),
    "model.scheduler.milestones": _list("a list of iterations, such as [150000], or []"),
    "model.optimizer.lr model.cross_entropy.scale logger.wandb.timeout": _number(above=True),
    "model.triplet.margin model.triplet.weight model.cross_entropy.weight": _number(),
    "model.losses[].weight": _number(),
    "model.cross_entropy.label_smoothing model.augment[].probability": _number(most=1),
    "model.scheduler.gamma": _number(above=True, most=1),
    "model.batch_norm": _batch_norm.or_(None, "as the network was made"),
    "model.triplet.mining": _choice("all", "hard"),
    "data.clip": _choice("consecutive", "unordered", "with_repeats", "thinned"),
    "data.frames": Rule("a whole number of at least 1, or [LEAST, MOST]", _are_frames),
    "trainer.devices": Rule("how many, a list such as [0,1], or auto", _are_devices),
    "trainer.deterministic": Rule(
        "true, false or warn", lambda value: isinstance(value, bool) or value == "warn"
    ),
    "trainer.accelerator": _choice("auto", "cpu", "gpu", "cuda", "mps", "tpu", "hpu"),
    "trainer.precision": _choice(*_precision, "auto").or_(None, "as in training"),
    "logger.mode": _choice("online", "offline", "disabled"),
    "baselines": Rule(
        "names of published methods or tables, such as [GaitSet,GaitPart] or [table1]", _are_words
    ),
    "evaluate baseline report strict upsample half_embeddings": (
        _true := Rule("true or false", lambda value: isinstance(value, bool))
    ),
    (
        "model.augment_together data.repeat_sequences callbacks.checkpoints.best trainer.enable_model_summary"
    ): _true,
    " ".join(PATHS): Rule(
        "a path", lambda value: value is None or (isinstance(value, str) and bool(value.strip()))
    ),
}
