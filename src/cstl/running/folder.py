"""A run's folder is made before Hydra writes into it; another command's or a finished one is refused."""

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from cstl.files import DAMAGED, read_json, replacing, shown, write_json
from cstl.owner import owner
from cstl.run_folder import CHECKPOINTS, CONFIG, EMBEDDINGS, EVALUATED, METRICS, PROBES, REPORT, RESULTS, Run

_OUTPUTS = (
    *("table.md", "table.csv", "table.tex", PROBES, EMBEDDINGS, REPORT, "figures"),
    *("cross_view.png", "curves.png"),  # of 0.1
)
_KINDS = {
    "train": "a training run",
    "evaluate": "an evaluation",
    "sweep": "a sweep, whose jobs are the folders in it",
}
# Windows
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")


class RunFolder(Callback):
    """Is called by Hydra before it makes the folder of a single run.

    Args:
        kind: train or evaluate.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a folder that is not this command's; a name made of the time gets one of its own."""
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
    """Tell whether this is the first process of a launcher, as far as the environment says."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def make_folder(config: DictConfig, mode: str) -> Path:
    """Make the folder that the configuration names, a new one where the name is made of the time.

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
    """End the command with a message; Hydra only warns of exceptions in what it calls back."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def check_name(name: object, runs: str = "runs") -> None:
    """Refuse what cannot be the name of one folder in the runs', everywhere: ValueError with the reason."""
    text = str(name)
    if name is None or text == "":
        reason = "is empty, and a run needs a folder of its own; leave it out to have it named after the time"
    elif not isinstance(name, str | int) or isinstance(name, bool):
        reason = (
            f"""was read as {name!r}, a {type(name).__name__}, and not as text; quote it: 'name="{text}"'"""
        )
    elif not text.isprintable():
        reason = "has control characters or others that cannot be seen"
    elif found := sorted(set(text) & set('/\\<>:"|?*')):
        which = f"has {' '.join(found)} in it; a run is one folder in {shown(runs)}/"
        reason = f"{which}, and not every disk could hold that name"
    elif text[0] in ". " or text[-1] in ". ":
        reason = "begins or ends with a dot or a space"
    elif text.partition(".")[0].upper() in _RESERVED:
        reason = "is the name of a device on Windows"
    elif len(os.fsencode(text)) > 200:
        reason = f"has {len(os.fsencode(text))} bytes, expected at most 200"
    else:
        return
    raise ValueError(f"name={shown(text, 60)} {reason}. Choose another name=")


def check_kind(folder: Path, kind: str) -> None:
    """Raise ValueError where a folder holds something else than this kind makes: train, evaluate or sweep."""
    found = None
    if is_begun(folder):
        found = "evaluate" if EVALUATED in Run(folder).config else "train"  # a damaged one is for `open_run`
    elif any(child.name.isdecimal() and child.is_dir() for child in folder.iterdir()):
        found = "sweep"
    if found not in (None, kind):
        raise ValueError(f"{shown(folder)} is the folder of {_KINDS[str(found)]}; choose another name=")


def is_begun(folder: Path) -> bool:
    """Tell whether there is something to lose: a checkpoint or results. Else its name is free."""
    checkpoints = folder / CHECKPOINTS
    return (
        (folder / RESULTS).exists()
        or any(checkpoints.glob("*.ckpt"))
        or any(checkpoints.glob(f"*.ckpt{DAMAGED}"))
    )


def is_finished(folder: Path, say: Callable[[str], None]) -> bool:
    """Tell whether there are results; damaged ones are renamed, and come again."""
    file = folder / RESULTS
    try:
        if isinstance(read_json(file).get("rank1"), dict):
            return True
        reason = "no results in it"
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError) as error:
        reason = str(error)
    file.replace(file.with_name(file.name + DAMAGED))
    say(f"{shown(file)} is damaged ({reason}); it is now called {file.name}{DAMAGED}, and is made again")
    return False


def begin_anew(folder: Path) -> None:
    """Forget a start that came to nothing: its run in Weights & Biases was another one."""
    (folder / "wandb" / "id").unlink(missing_ok=True)


def put_aside(folder: Path, steps: int) -> Path:
    """Move the results after so many steps to a run folder within the run's, with their checkpoint.

    Stopped in between, it can be done again, or the run can go on.
    """
    aside = folder / f"after-{steps:07d}"
    (aside / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    results = read_json(folder / RESULTS)
    for name in (CONFIG, METRICS):
        with suppress(FileNotFoundError):
            shutil.copyfile(folder / name, aside / name)
    reported = folder / CHECKPOINTS / Path(str(results.get("checkpoint"))).name
    kept = aside / CHECKPOINTS / reported.name
    if reported.is_file() and not kept.exists():
        try:
            os.link(reported, kept)
        except OSError:  # a file system without links
            with replacing(kept) as file:
                file.write(reported.read_bytes())
    if kept.exists():
        results["checkpoint"] = str(kept)
    write_json(aside / RESULTS, results)
    (folder / RESULTS).unlink()
    for name in _OUTPUTS:
        if (folder / name).exists():
            if (aside / name).is_dir():
                shutil.rmtree(aside / name)
            (folder / name).replace(aside / name)
    return aside
