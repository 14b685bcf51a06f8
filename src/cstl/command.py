"""What all commands share: Hydra composes, `cstl.run` acts, and a mistake reaches the user as one message."""

import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from cstl import sweep
from cstl.config import CONFIG_PATH

_EXPECTED = (ValueError, OSError, FloatingPointError)  # what a user can mend


def command(name: str) -> Callable[[], Any]:
    """The entry point of `python -m cstl.NAME`: composes `conf/NAME.yaml` and calls `cstl.run.NAME` with it."""

    @hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=name)
    def main(config: DictConfig) -> float | None:
        from cstl import run  # here: processes that prepare frames import the command, but need no PyTorch
        from cstl.processes import Stopped, is_first

        try:
            if name == "train" and HydraConfig.get().mode == RunMode.MULTIRUN:
                return sweep.job(run.train, config)
            getattr(run, name)(config)
        except Stopped as stopped:  # the first process alone says so: Lightning takes another's number for a crash
            if is_first():
                print(stopped, file=sys.stderr)
            sys.exit(128 + stopped.signal if is_first() else 0)
        except _EXPECTED as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        return None

    return main
