"""Checkpoints: when they are written, how a file is intact or not there, and which one a run goes on from."""

import errno
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from cstl.distributed import of_all_processes
from cstl.files import DAMAGED, PART, replacing
from cstl.run_folder import BEST
from cstl.running.processes import Stopped, stop_at_once
from cstl.tensor_files import DamagedError, load_tensors

PATIENCE = 5.0  # seconds; schedulers send the same signal twice at once
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class AtomicCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its target and rename it: a file under its own name is always intact."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write it, or raise OSError, for example on a full disk, and leave nothing behind.

        `storage_options={"keep": 2}` takes older checkpoints of steps away as soon as the new one is on the
        disk and before it has its name: there are never more, whenever the process is killed.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(target) as file:
                torch.save(checkpoint, file)
                if storage_options:
                    file.flush()
                    os.fsync(file.fileno())
                    older = [other for other in checkpoints(target.parent) if other != target]
                    for old in older[: len(older) - storage_options["keep"] + 1]:
                        old.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:  # PyTorch's writer says RuntimeError where a write failed
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            last = next(reversed(checkpoints(target.parent)), None)
            kept = (
                f"{last} is whole, and the same command goes on from it"
                if last
                else "there is none before it"
            )
            reason = os.strerror(cause.errno or errno.EIO)
            raise OSError(
                cause.errno, f"the checkpoint {target} could not be written ({reason}); {kept}"
            ) from error


class Checkpoints(Callback):
    """Write `step-0001000.ckpt` every so many steps, at the end and when a signal comes, and keep the last
    ones.

    SIGTERM, SIGUSR1 (clusters send them before they take a machine back) and a first Ctrl-C raise `Stopped`
    once the step, or the evaluation, that is under way is over, the last one too. A second Ctrl-C ends the
    run at once, another signal that comes again after `PATIENCE` seconds likewise: then the step waits for
    something that does not come.

    A checkpoint is written when the next batch begins: what belongs to the steps before it, an evaluation
    too, is over and logged by then.

    Args:
        folder: where they lie.
        every: steps between two of them.
        keep: how many stay.
        best: also keep `best.ckpt`, of the highest mean rank-1 on held-out training subjects so far; never of
            the test subjects. Needs `dataset.protocol.validation` of 1 or more.
    """

    def __init__(self, folder: str | Path, every: int, keep: int = 2, best: bool = False) -> None:
        self.folder, self.every, self.keep, self.best = Path(folder), every, keep, best
        self.best_score = -1.0
        self.saved_step = 0
        self.signal, self.since = 0, 0.0  # the number of the one that came, and when

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, whose broadcast can hang; it restores them."""
        self.saved_step = trainer.global_step
        if trainer.is_global_zero:
            remove_leftovers(self.folder, self.keep)
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a signal end the final evaluation at once: nothing is to be saved, and it can be repeated."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number != signal.SIGINT:  # of several processes each would wait for the others
                    signal.signal(number, stop_at_once() if trainer.world_size == 1 else signal.SIG_DFL)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint where one is due or a signal has come to one of the processes."""
        number = self._stopped(trainer, pl_module)
        if trainer.global_step and (number or trainer.global_step % self.every == 0):
            self._save(trainer)
        if number:
            raise Stopped(number, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last checkpoint, the one that is reported unless `best` is asked for."""
        self._save(trainer)
        if number := self._stopped(trainer, pl_module):  # in the last step, or in the evaluation after it
            raise Stopped(number, trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the best so far on held-out training subjects."""
        if not self.best:
            return
        score = trainer.callback_metrics.get("validation/rank1/mean")
        if score is None:
            raise ValueError(
                "callbacks=best: nothing could be counted on the held-out training subjects, so that no "
                "checkpoint is the best: hold more of them out with dataset.protocol.validation=10, or leave "
                "callbacks=best out"
            )
        if float(score) > self.best_score:
            self.best_score = float(score)
            trainer.save_checkpoint(self.folder / BEST)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, so that a resumed run goes on comparing with it."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score over, unless its checkpoint was taken away."""
        if (self.folder / BEST).exists():
            self.best_score = state_dict["best_score"]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take a run that had come to its end for one in the middle, where it is to go on."""
        loop = checkpoint["loops"]["fit_loop"]
        if trainer.max_steps > checkpoint["global_step"] and loop["epoch_progress"]["current"]["processed"]:
            for progress in (loop["epoch_progress"]["total"], loop["epoch_progress"]["current"]):
                progress |= {"processed": 0, "completed": 0}
            batches = loop["epoch_loop.batch_progress"]
            batches["is_last_batch"] = False
            for progress in (batches["total"], batches["current"]):
                progress["ready"] = progress["completed"] + 1

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self.signal == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C: at once
        if number == self.signal and time.monotonic() - self.since > PATIENCE:
            raise Stopped(number)
        if number == signal.SIGINT and sys.stderr.isatty():
            with suppress(RuntimeError):  # the signal came in the middle of another print
                print(
                    "stopping after this step, with a checkpoint; Ctrl-C again: at once, without",
                    file=sys.stderr,
                )
        if not self.signal:
            self.since = time.monotonic()
        self.signal = number

    def _stopped(self, trainer: Trainer, pl_module: LightningModule) -> int:
        """Return the number of the signal that came to one of the processes, 0 for none."""
        if trainer.world_size == 1:
            return self.signal
        return int(of_all_processes(torch.tensor([self.signal], device=pl_module.device)).max())

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == self.saved_step:
            return  # resumed from it
        self.saved_step = trainer.global_step
        for logger in trainer.loggers:
            logger.save()  # the log never lags behind a checkpoint
        trainer.save_checkpoint(
            self.folder / f"step-{trainer.global_step:07d}.ckpt", storage_options={"keep": self.keep}
        )


def check_best(held_out: Sequence[str], every: int | None, steps: int) -> None:
    """Refuse to look for the best checkpoint where nothing would tell which one that is.

    Args:
        held_out: the held-out training subjects that the store has.
        every: steps between evaluations, None for none.
        steps: of the whole training.

    Raises:
        ValueError: fewer than two subjects, of which one alone is recognised whatever the network, or no
            evaluation.
    """
    if every is None or every > steps:
        shown = "null" if every is None else every
        raise ValueError(
            f"callbacks=best chooses among evaluations while training, and with evaluate_every={shown} the "
            f"{steps} iterations have none: set evaluate_every={max(steps // 10, 1)}, or leave "
            "callbacks=best out"
        )
    if len(held_out) < 2:
        raise ValueError(
            "callbacks=best chooses by at least two held-out training subjects, never by the test subjects; "
            f"{len(held_out)} of dataset.protocol.validation are in the store: set "
            "dataset.protocol.validation=10, or leave callbacks=best out"
        )


def checkpoints(folder: Path) -> list[Path]:
    """Return the intact checkpoints of a run's steps, oldest first."""
    return sorted(folder.glob("step-*.ckpt"))


def remove_leftovers(folder: Path, keep: int) -> None:
    """Take away what a killed process left: half a checkpoint, and more of them than are kept."""
    for path in [*folder.glob(f"*{PART}"), *checkpoints(folder)[:-keep]]:
        path.unlink(missing_ok=True)


def last_intact_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that can be loaded, None where there is none, and a line on each newer
    corrupt one.

    A corrupt one is renamed, so that it is looked at no more, once an older one is known to be intact.

    Raises:
        OSError: one cannot be read, which is no damage. Nothing is changed.
        ValueError: all are damaged, or the best one is. Nothing is changed: the user takes them away.
    """
    corrupt: list[tuple[Path, str]] = []
    intact = None
    for path in reversed(checkpoints(folder)):
        if reason := _damage(path):
            corrupt.append((path, reason))
        else:
            intact = path
            break
    if corrupt and intact is None:
        raise ValueError(
            f"no checkpoint in {folder} can be loaded; they stay as they are:\n"
            + "".join(f"  {reason}\n" for _, reason in corrupt)
            + "Put a copy there, or begin anew, which loses the training:\n  rm -r "
            f"{shlex.quote(str(folder))}\n"
            "and then the same command"
        )
    if (best := folder / BEST).exists() and (reason := _damage(best)):
        raise ValueError(
            f"the best checkpoint so far is damaged, and stays as it is: {reason}\n"
            "Put a copy there, or take it away; then the same command goes on and reports the best from "
            f"here on, else the last:\n  rm {shlex.quote(str(best))}"
        )
    problems = []
    for path, reason in corrupt:
        renamed = path.with_name(path.name + DAMAGED)
        path.replace(renamed)
        problems.append(
            f"{path} is damaged ({reason}); it is now called {renamed.name}, the one before it is used"
        )
    return intact, problems


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, None where it loads; OSError: it cannot be read at all."""
    try:
        load_tensors(path)
    except DamagedError as error:
        return str(error)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise type(error)(
            error.errno,
            f"{path} cannot be read ({reason}); nothing was changed. Mend that, and the same command goes on",
        ) from error
    return None
