"""A run's folder is made, and refused where it is not this command's, before Hydra writes into it."""

import os
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from cstl.files import shown
from cstl.owner import owner
from cstl.run_folder import check_kind, check_name

_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")


class RunFolder(Callback):
    """What Hydra calls before it makes the folder of a single run.

    Args:
        kind: train or evaluate.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuses a folder that is not this command's; a name made of the time gets one of its own."""
        if not starts_first():
            return
        try:
            folder = make_folder(config, "run")
            check_kind(folder, self.kind)
            with owner(folder):
                pass  # nobody else writes there, and it can be written to
        except (ValueError, OSError) as error:
            refuse(error)


def starts_first() -> bool:
    """Whether this is the first of the processes that a launcher has started, as far as the environment says."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def make_folder(config: DictConfig, mode: str) -> Path:
    """Makes the folder that the configuration names, a new one where the name is made of the time.

    Args:
        config: with Hydra's own; its name gets a number where another command of the same second has it.
        mode: run or sweep.

    Raises:
        ValueError, OSError: the name cannot be a folder's, or the folder cannot be made.
    """
    unresolved: Any = OmegaConf.to_container(config, resolve=False)
    name, named = unresolved["name"], "${name}" in unresolved["hydra"][mode]["dir"]
    if named:
        check_name(config.name, config.get("runs", "runs"))
    alone = named and "${now:" in str(name)
    folder, number = Path(config.hydra[mode].dir), 1
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        while alone:
            try:
                folder.mkdir()
                break
            except FileExistsError:
                number += 1
                config.name = f"{name}-{number}"
                folder = Path(config.hydra[mode].dir)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"the folder {shown(folder)} cannot be made: {error.strerror}: {shown(error.filename)}"
        ) from error
    return folder


def refuse(error: object) -> None:
    """Ends the command with a message; Hydra only warns of exceptions in what it calls back."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
