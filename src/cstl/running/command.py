"""What all commands share: Hydra composes, `cstl.run` acts, and a mistake reaches the user as one message."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cstl import __version__
from cstl.config import CONFIG_PATH
from cstl.files import shown_lines
from cstl.running import sweep, typed
from cstl.running.memory import keep_freed_memory
from cstl.running.streams import never_fail

_NEXT = {"synthesize": "prepare", "prepare": "check", "check": "train"}
_PASSED_ON = r"(dataset|res|store)=|dataset\.(?!raw=)|--config-(dir|path)=|-c[dp]="


def command(name: str) -> Callable[[], Any]:
    """The entry point of `python -m cstl.NAME`: composes `conf/NAME.yaml` and calls `cstl.run.NAME` with it."""

    def main() -> None:
        never_fail()
        if "--version" in sys.argv[1:]:
            print(f"cstl {__version__}")
            return
        try:
            sys.argv[1:] = typed.read(name, sys.argv[1:])
        except ValueError as error:
            print(f"error: {shown_lines(error)}", file=sys.stderr)
            sys.exit(1)
        composed()

    @hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=name)
    def composed(config: DictConfig) -> float | None:
        typed.expand_home(config)
        if name in ("train", "evaluate"):
            keep_freed_memory()
        from cstl import run  # here: processes that prepare frames import the command, but need no PyTorch
        from cstl.running.processes import Stopped, is_first, obeying_signals, started_elsewhere

        def leave(message: object, code: int) -> None:
            """The first process alone speaks: Lightning takes another's number for a crash."""
            if is_first():
                how = "the same command goes on" if started_elsewhere() else f"go on with:\n  {go_on(name, config)}"
                print(f"{message}; {how}", file=sys.stderr)
            sys.exit(code if is_first() else 0)

        try:
            with obeying_signals():
                if name == "train" and HydraConfig.get().mode == RunMode.MULTIRUN:
                    return sweep.job(run.train, config)
                getattr(run, name)(config)
        except Stopped as stopped:
            leave(stopped, 128 + stopped.signal)
        except (KeyboardInterrupt, SystemExit) as ended:  # Lightning makes the second of the first
            if not isinstance(ended, KeyboardInterrupt) and not isinstance(ended.__context__, KeyboardInterrupt):
                raise
            leave("interrupted", 130)
        except Exception as error:
            message = typed.expected(error)
            if message is None or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            print(f"error: {shown_lines(message)}", file=sys.stderr)
            sys.exit(1)
        if name in _NEXT and HydraConfig.get().mode == RunMode.RUN:
            print(f"next: {_typed(_NEXT[name], [word for word in sys.argv[1:] if re.match(_PASSED_ON, word)])}")
        return None

    return main


def go_on(name: str, config: DictConfig) -> str:
    """The command line as it was typed and, where the run is named after the time, with that name."""
    unresolved: Any = OmegaConf.to_container(config, resolve=False)
    words = sys.argv[1:]
    if name == "train" and "${now:" in unresolved["name"]:  # an evaluation begins again in any case
        folder = HydraConfig.get().sweep.dir if HydraConfig.get().mode == RunMode.MULTIRUN else config.name
        words = [*words, f"name={Path(folder).name}"]
    return _typed(name, words)


def _typed(name: str, words: list[str]) -> str:
    return shlex.join(["python", "-m", f"cstl.{name}", *words])
