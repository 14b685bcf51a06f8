"""What all commands share: Hydra composes, the command acts, a mistake reaches the user as one message."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cstl import __version__
from cstl.config import CONFIG_PATH
from cstl.files import shown_lines, write_text
from cstl.run_folder import COMMAND
from cstl.running import sweep, typed
from cstl.running.processes import Stopped, is_first, is_multirun, obeying_signals, started_elsewhere
from cstl.running.refusals import expected
from cstl.running.streams import never_fail

_PASSED_ON = r"(dataset|res|store)=|dataset\.(?!raw=)|--config-(dir|path)=|-c[dp]="


def command(function: Callable[[DictConfig], Any], then: str | None = None) -> Callable[[], Any]:
    """Return the entry point of `python -m cstl.NAME`: compose `conf/NAME.yaml` and call the function NAME
    with it.

    Args:
        function: what the command does; in a sweep, whose jobs return their score, it is called for each job.
        then: the command that comes next, which is said in the end.
    """
    name = function.__name__

    def main() -> None:
        never_fail()
        if "--version" in sys.argv[1:]:
            print(f"cstl {__version__}")
            return
        try:
            if {"-h", "--help"} & set(sys.argv[1:]):
                print(typed.help_asked(name, sys.argv[1:]))
                return
            sys.argv[1:] = typed.read(name, sys.argv[1:])
        except ValueError as error:
            print(f"error: {shown_lines(error)}", file=sys.stderr)
            sys.exit(1)
        composed()

    @hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=name)
    def composed(config: DictConfig) -> float | None:
        typed.expand_home(config)

        def leave(message: object, code: int) -> None:
            """Print on rank 0 alone, and end with its exit code: Lightning takes another's for a crash."""
            if is_first():
                how = (
                    "the same command goes on"
                    if started_elsewhere()
                    else f"go on with:\n  {go_on(name, config)}"
                )
                print(f"{message}; {how}", file=sys.stderr)
            sys.exit(code if is_first() else 0)

        try:
            with obeying_signals():
                if is_multirun() and "sweep" in HydraConfig.get().callbacks:
                    return sweep.job(function, config)
                function(config)
        except Stopped as stopped:
            leave(stopped, 128 + stopped.signal)
        except (KeyboardInterrupt, SystemExit) as ended:  # Lightning makes the second of the first
            if not isinstance(ended, KeyboardInterrupt) and not isinstance(
                ended.__context__, KeyboardInterrupt
            ):
                raise
            leave("interrupted", 130)
        except Exception as error:
            message = expected(error)
            if message is None or is_multirun():
                raise
            print(f"error: {shown_lines(message)}", file=sys.stderr)
            sys.exit(1)
        if then and not is_multirun():
            print(f"next: {_typed(then, [word for word in sys.argv[1:] if re.match(_PASSED_ON, word)])}")
        return None

    return main


def typed_again(leave_out: str | None = None) -> str:
    """Return what was typed after a command, to type it again: of a sweep the job's, but for a pattern."""
    hydra = HydraConfig.get()
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    overrides = [
        override for override in hydra.overrides.task if not (leave_out and re.match(leave_out, override))
    ]
    return shlex.join([*(f"--config-dir={folder}" for folder in folders), *overrides])


def write_command(folder: Path, name: str) -> None:
    """Write what was typed to a run's folder; a run that Python started has only its settings there."""
    if HydraConfig.initialized():
        write_text(folder / COMMAND, f"python -m cstl.{name} {typed_again()}\n")


def asked_checkpoint(config: DictConfig, command: str) -> Path:
    """Return the checkpoint that was asked for; ValueError with the newest where none or a folder was."""
    runs = config.get("runs", "runs")
    path = None if OmegaConf.is_missing(config, "checkpoint") else config.checkpoint
    if path and not Path(path).is_dir():
        return Path(path)
    if path:
        inside = sorted({*Path(path).glob("*.ckpt"), *Path(path).glob("checkpoints/*.ckpt")})
        if not inside:
            raise ValueError(
                f"{path} is a folder without a checkpoint; those of a run lie in {runs}/NAME/checkpoints"
            )
        newest = shlex.quote(f"checkpoint={inside[-1]}")
        raise ValueError(
            f"{path} is a folder; name a file in it, such as\n  python -m cstl.{command} {newest}"
        )
    there = sorted(Path(runs).glob("*/checkpoints/*.ckpt"), key=lambda path: path.stat().st_mtime)
    newest = shlex.quote(f"checkpoint={there[-1] if there else f'{runs}/NAME/checkpoints/step-0001000.ckpt'}")
    raise ValueError(f"which checkpoint? Name its file, such as\n  python -m cstl.{command} {newest}")


def go_on(name: str, config: DictConfig) -> str:
    """Return the command line as it was typed and, where the run is named after the time, with that name."""
    unresolved: Any = OmegaConf.to_container(config, resolve=False)
    words = sys.argv[1:]
    if name == "train" and "${now:" in unresolved["name"]:  # an evaluation begins again in any case
        folder = HydraConfig.get().sweep.dir if is_multirun() else config.name
        words = [*words, f"name={Path(folder).name}"]
    return _typed(name, words)


def _typed(name: str, words: list[str]) -> str:
    return shlex.join(["python", "-m", f"cstl.{name}", *words])
