"""Several processes of one run: who they are, how they are started, and what cannot work."""

import errno
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_only

from cstl.data.batches import check_divisible
from cstl.files import remove_parts
from cstl.owner import owner

_SET_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OF_THE_SWEEP = (
    "hydra/launcher=",
    "hydra.launcher.",
    "hydra/sweeper=",
    "hydra.sweeper.",
    "hydra.sweep.",
    "hydra.mode=",
)


class Stopped(BaseException):
    """A signal asked to stop: after `step` steps, with a checkpoint; None: at once.

    No error, as `KeyboardInterrupt` is none: whoever excuses errors, or says where they came from, lets it
    pass.
    """

    def __init__(self, number: int, step: int | None = None) -> None:
        self.signal = signal.Signals(number)
        what = (
            f"with a checkpoint after {step} steps"
            if step
            else "at once"
            if step is None
            else "before the first step"
        )
        super().__init__(f"stopped by {self.signal.name} {what}")


@contextmanager
def obeying_signals() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 raise `Stopped` in the block, where training has no better use of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    before = {number: signal.signal(number, stop_at_once()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_at_once() -> Callable[[int, FrameType | None], None]:
    """Return a handler of signals that raises `Stopped`; a process that is forked off later just ends."""
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Stopped(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    return stop


@contextmanager
def naming_what_was_lost() -> Iterator[None]:
    """Say in a sentence that a process of ours was killed, or that memory ran out, and what to type then.

    Raises:
        ChildProcessError: a process that gathers batches, or that prepares or draws frames, has ended.
        OSError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, BrokenExecutor):
            raise ChildProcessError(
                f"one of the processes that work on frames was killed ({reason}), perhaps since memory ran "
                "out: try workers=1. What is done is kept, the same command goes on"
            ) from error
        if worker := re.search(r"DataLoader worker \(pid.*", reason):
            raise ChildProcessError(
                f"a process that gathers batches was lost ({worker[0].rstrip(' .')}): killed, perhaps since "
                "memory ran out, or the store's frames can no longer be read (bus error). The same command "
                "goes on from the last checkpoint; with data.workers=0 no such process is needed"
            ) from error
        if "/gloo/" in reason and re.search(r"[Cc]onnection (reset|closed) by peer", reason):
            raise ChildProcessError(
                "another process of this run was lost: killed, perhaps since memory ran out, or ended by an "
                "error, which it says above. The same command goes on from the last checkpoint"
            ) from error
        cause = error.__context__  # Lightning's end of a fit that had not begun fails, too
        if "combined_loader" in reason and isinstance(cause, OSError) and cause.errno:
            files = cause.errno in (errno.EMFILE, errno.ENFILE)
            how = "): type ulimit -n 4096 before" if files else "; /dev/shm may be full): make room"
            raise OSError(
                cause.errno,
                f"the processes that gather batches could not be started ({os.strerror(cause.errno)}{how}, "
                "or take data.workers=0, which needs none",
            ) from error
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in reason:
            raise OSError(
                errno.ENOMEM,
                f"memory ran out ({reason or 'MemoryError'}). Smaller batches need less: data.eval_frames= "
                "where it evaluates; where it trains trainer.precision=bf16-mixed, or more devices "
                "(trainer=ddp)",
            ) from error
        raise


def is_first() -> bool:
    """Return whether this is rank 0, the process that prints and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Let nobody else write into a run's folder; the first process owns it for the others."""
    try:
        with owner(folder) if is_first() else nullcontext():
            if is_first():
                remove_parts(folder)
            yield
    except FileNotFoundError as error:
        if folder.is_dir():
            raise
        raise FileNotFoundError(f"{folder} was deleted or moved while this run wrote into it") from error


def started_elsewhere() -> bool:
    """Return whether torchrun, srun or Lightning has started this process beside others."""
    return "LOCAL_RANK" in os.environ or (
        int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in os.environ
    )


def check_processes(config: DictConfig, trainer: Trainer) -> None:
    """Raise ValueError for what several processes cannot do, with what would work."""
    processes = trainer.world_size
    if trainer.accumulate_grad_batches > 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches} would change the loss: "
            "triplets are mined within a batch. Take a larger batch on more devices (trainer=ddp), or fewer "
            "frames a sequence"
        )
    if "subjects" in config.data and trainer.max_steps > 0:  # it trains
        check_divisible(config.data.subjects, processes)
    if processes == 1:
        return
    unresolved: Any = OmegaConf.to_container(config, resolve=False)
    if started_elsewhere() and "${now:" in unresolved["name"]:
        raise ValueError(
            f"the {processes} processes that torchrun or srun started would each make a run of their own, "
            "named after the time: give the run a name with name=NAME, which also lets it go on after a stop"
        )
    if started_elsewhere():
        return
    if not HydraConfig.initialized():
        raise ValueError(
            f"from Python a run has one process, and trainer.devices={config.trainer.devices} asks for "
            f"{processes}: start it with the command, python -m cstl.train trainer=ddp, or take "
            "trainer.devices=1"
        )
    launcher = HydraConfig.get().launcher._target_.rsplit(".", 1)[-1]
    if is_multirun() and launcher != "BasicLauncher":
        raise ValueError(
            f"a sweep with {launcher} starts several jobs at once, and each of them would start {processes} "
            "processes of its own, which it cannot. Leave hydra/launcher= out (one job after the other), use "
            "hydra/launcher=slurm_gpus trainer=slurm, or take trainer.devices=1"
        )


def is_multirun() -> bool:
    """Return whether this is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def as_one_run(config: DictConfig, folder: Path, processes: int) -> Iterator[None]:
    """Let Lightning start the other ranks as this run: with this name, in this folder, also within a sweep.

    Lightning repeats the command line of this process for them. That of a sweep would start the whole sweep
    again, and a name made of the time would be another one.
    """
    if processes == 1 or not HydraConfig.initialized():
        yield
        return
    hydra: Any = HydraConfig.get()
    argv, environment, run_dir = sys.argv[:], os.environ.copy(), hydra.run.dir
    flags = [
        word
        for word in argv[1:]
        if word not in ("-m", "--multirun") and not re.match(r"[~+]*[\w./@]+=", word)
    ]
    overrides = [*hydra.overrides.task, *hydra.overrides.hydra]
    overrides = [override for override in overrides if not override.startswith(_OF_THE_SWEEP)]
    name = str(config.name).replace("\\", r"\\").replace("'", r"\'")
    sys.argv[1:] = [*flags, *overrides, f"name='{name}'"]
    with read_write(hydra):
        hydra.run.dir = str(folder)
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.argv[:] = argv
        for name in _SET_BY_LIGHTNING:
            os.environ.pop(name, None)
            if name in environment:
                os.environ[name] = environment[name]
        with read_write(hydra):
            hydra.run.dir = run_dir


def wait_for(path: Path) -> None:
    """Wait until rank 0 has made a file or folder; whoever started the processes ends this one, too."""
    while not path.exists():
        time.sleep(0.2)
