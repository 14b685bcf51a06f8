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
    "trainer.accelerator",
    "trainer.strategy",  # a batch is the same however many processes share it
    "trainer.devices",
    "trainer.num_nodes",
)

Plain = dict[str, Any]


def plain(config: DictConfig) -> Plain:
    """The resolved configuration in plain Python containers, as checkpoints and files hold it."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def decisive(config: Plain) -> dict[str, Any]:
    """The settings that decide a result: dotted key → value, such as `model.margin` → 0.2."""
    return {key: value for key, value in _leaves(config) if not _is_free(key)}


def digest(config: Plain) -> str:
    """12 hexadecimal digits that are the same for two runs that must give the same result."""
    return hashlib.sha256(json.dumps(sorted(decisive(config).items())).encode()).hexdigest()[:12]


def differences(before: Plain, now: Plain) -> list[str]:
    """One line for each key that decides the result and differs, such as `seed: 1 before, 2 now`."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    keys = [key for key in old | new if not _is_free(key) and old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'absent')} before, {new.get(key, 'absent')} now" for key in keys]


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in _FREE)


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
