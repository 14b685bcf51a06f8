"""Where the configuration lies, and what of it decides a run."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

_PACKAGE = Path(__file__).resolve().parent
CONFIG_PATH = str(_PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf")

# What may change between two starts of one run: it does not change the result.
_FREE = (
    "name",
    "logger",
    "data.workers",
    "data.store",
    "store_fingerprint",  # compared by `cstl.run.open_run`, with what to do
    "dataset.raw",
    "dataset.layout",
    "dataset.files",  # what they change, the fingerprint tells
    "dataset.store",
    "callbacks",
    "report",
    "baseline",
    "evaluated",  # the checkpoint, in the config.yaml of an evaluation
    "extend",  # trainer.max_steps says how long a run is
    "evaluate_every",
    "dataset.title",
    "dataset.published",
    "dataset.recipe.evaluate_every",
    "dataset.recipe.checkpoint_every",
    "trainer.log_every_n_steps",
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


def plain(config: DictConfig) -> Plain:
    """The resolved configuration in plain Python containers, as checkpoints and files hold it."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def decisive(config: Plain) -> dict[str, Any]:
    """The settings that decide a result: dotted key → value, such as `model.margin` → 0.2."""
    every = dict(_leaves(config))
    chosen = (_BEST, "evaluate_every") if every.get(_BEST) else ()
    return {key: value for key, value in every.items() if key in chosen or not _is_free(key)}


def digest(config: Plain) -> str:
    """12 hexadecimal digits that are the same for two runs that must give the same result."""
    return hashlib.sha256(json.dumps(sorted(decisive(config).items())).encode()).hexdigest()[:12]


def differences(before: Plain, now: Plain) -> list[str]:
    """One line for each key that decides the result and differs, such as `seed: 1 before, 2 now`."""
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
