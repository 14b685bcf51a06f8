"""Sweeps: a failing job does not end them, a search is scored on held-out subjects, the end sums up."""

import atexit
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from cstl.files import shown, write_text
from cstl.owner import InUseError, is_in_use, owner
from cstl.run_folder import ERROR, Run
from cstl.running.folder import check_kind, make_folder, refuse, starts_first

# the sweep's folder, until its end; not in the callback, which is sent to the jobs' processes
_OWNED = ExitStack()
atexit.register(_OWNED.close)


class Sweep(Callback):
    """Check a sweep before its first job, and say after the last one which jobs failed; Hydra calls it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a search that is no sweep, where it is not one of a job's own processes."""
        if is_search(config.hydra) and "LOCAL_RANK" not in os.environ:
            refuse("a search is a sweep, add -m: python -m cstl.train -m hparams_search=optuna")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a search without held-out subjects; keep all jobs in one folder, whatever their names."""
        if is_search(config.hydra):
            # Optuna's storage, of which nothing is used
            logging.getLogger("alembic").setLevel(logging.WARNING)
            held_out = OmegaConf.select(config, "dataset.protocol.validation") or 0
            every, steps = config.evaluate_every, config.trainer.max_steps
            if held_out < 2:  # one alone is recognised whatever the settings
                none = "none" if held_out < 1 else "one"
                refuse(
                    "a search chooses settings by held-out training subjects, never by the test subjects, "
                    f"and dataset.protocol.validation={held_out} holds {none} out: leave it out, or set "
                    "dataset.protocol.validation=10"
                )
            if every is None or every > steps:
                refuse(
                    f"a search needs a look at the held-out subjects, and evaluate_every={every} has none "
                    f"in the {steps} iterations of a trial: leave it out, or set evaluate_every={steps}"
                )
        jobs = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        if isinstance(jobs, dict) and jobs["subdir"] != "${hydra.job.num}":
            lie = f"{config.runs}/NAME"
            refuse(f"hydra.sweep.subdir is not to be set: the jobs of a sweep lie in {lie}/0, {lie}/1, …")
        _OWNED.close()
        folder = Path(config.hydra.sweep.dir)
        if starts_first():
            try:
                folder = make_folder(config, "sweep")
                check_kind(folder, "sweep")
                _OWNED.enter_context(owner(folder))
            except (ValueError, OSError) as error:
                refuse(error)
        place = str(folder).replace("\\", r"\\").replace("'", r"\'")
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{place}'")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the jobs that failed, and end with exit code 1 where there are any."""
        _OWNED.close()
        folder = Path(config.hydra.sweep.dir)
        jobs = sorted(
            (path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name)
        )
        if os.environ.get("RANK", "0") != "0":
            return  # the first process says so
        busy = [job for job in jobs if is_in_use(job)]
        for job in busy:
            print(f"{job}: another process still trains it", file=sys.stderr)
        failed = [job.name for job in jobs if (job / ERROR).exists()]
        compare = f"python -m cstl.compare {folder}"
        if failed:
            print(f"{folder}: {len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}", file=sys.stderr)
            print(f"all of them, with the errors of these: {compare}", file=sys.stderr)
        if failed or busy:
            sys.exit(1)
        print(f"{folder}: all {len(jobs)} jobs are finished; to compare them: {compare}")


def job(train: Callable[[DictConfig], Any], config: DictConfig) -> float | None:
    """Train one job of a sweep; return its score in a search. An error goes to `error.txt` and no further."""
    from cstl.running.processes import is_first  # here: it needs PyTorch, which the start of a sweep does not

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    try:
        if not is_in_use(folder):
            (folder / ERROR).unlink(missing_ok=True)
        train(config)
    except (AlreadyFinishedError, InUseError) as passed:
        print(f"job {hydra.job.num}: {passed}")
    except Exception as error:
        if is_first():
            message = one_line(error)
            lines = "".join(traceback.format_exception(error))
            write_text(folder / ERROR, f"{lines.rstrip()}\n\n{message}\n")
            print(f"error: job {hydra.job.num}: {message}", file=sys.stderr)
        return 0.0 if is_search(hydra) else None
    return Run(folder).held_out if is_search(hydra) else None


class AlreadyFinishedError(ValueError):
    """A run of the same name and settings is finished: a sweep that is started again passes over it."""


def is_search(hydra: Any) -> bool:
    """Return whether a sweep is a search, which needs a score of each job."""
    return hydra.runtime.choices.get("hydra/sweeper") == "optuna"


def one_line(error: Exception) -> str:
    """Return an error's message in one line, with its kind unless it speaks to the user."""
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what went wrong, without Hydra's account of where
    message = shown(" ".join(str(error).split()), 5000)
    if isinstance(error, (ValueError, OSError, FloatingPointError)) and message:
        return message
    return f"{type(error).__name__}: {message}".rstrip(": ")
