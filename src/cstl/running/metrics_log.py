"""Where scalars, tables and pictures go: a file, Weights & Biases, TensorBoard; each goes on with its run."""

import csv
import io
import os
import re
import secrets
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from cstl.files import check_inside, read_text, write_text
from cstl.reporting.tables import decimal, render
from cstl.run_folder import METRICS, read_metrics
from cstl.running.processes import is_multirun

Row = dict[str, float]
OFTEN = 20.0  # seconds between two writings of metrics.csv


class CSVLog(Logger):
    """Write `metrics.csv`: a row for each logged iteration, a column for each name, `step` the first.

    Lightning's own logger deletes the file when a run goes on, and a process killed while it rewrites the
    file leaves neither the old nor the new one. Here the file is replaced as a whole, with every checkpoint
    and every `OFTEN` seconds, and `resume` keeps what belongs to the steps before a checkpoint. A row that
    says nothing new of its step is left out: an evaluation that is repeated, since the process was killed
    after it, is logged once.

    Args:
        folder: where the file lies.
    """

    name = version = ""

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.file = Path(folder) / METRICS
        self.rows: list[Row] = []
        self.written = time.monotonic()

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the configuration is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step or 0, **metrics}
        of_the_step = takewhile(lambda known: known["step"] == row["step"], reversed(self.rows))
        if any(row.items() <= known.items() for known in of_the_step):
            return
        self.rows.append(row)
        if time.monotonic() - self.written > OFTEN:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        columns = ["step", *sorted({name for row in self.rows for name in row} - {"step"})]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"step": int(row["step"])} for row in self.rows)
        write_text(self.file, text.getvalue())
        self.written = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Keep the rows up to an iteration; those after it are about to come again."""
        self.rows = [row for row in read_metrics(self.file) if row["step"] <= step]
        self.save() if self.rows else self.file.unlink(missing_ok=True)


class WandbLog(WandbLogger):
    """Log to Weights & Biases through Lightning's logger: one run there for each run folder, never in
    training's way.

    A run that goes on continues its run there, see `wandb_id`. What comes after the checkpoint it goes on
    from is logged a second time, with the same values at the same iterations: better twice than lost with the
    process that was killed. Without a network each start has a folder `wandb/offline-run-…` of its own, and
    `wandb sync` sends those of one id one after the other.

    Where the service does not answer, or nobody is logged in, the run goes on offline and says so; the jobs
    of a sweep that follow do not wait again. Nothing about the machine is sent, for with it wandb would send
    SLURM's environment variables.

    Args:
        folder: of the run; wandb keeps its files in `FOLDER/wandb`.
        mode: online or offline.
        name: there. The jobs of a sweep share the group NAME and are called NAME-0, NAME-1, …
        timeout: seconds to wait for the service, for its first answer and for the last upload.
        kwargs: of `wandb.init`, such as project, entity, group, tags, notes.
    """

    def __init__(
        self,
        folder: str | Path,
        mode: Literal["online", "offline"] = "online",
        name: str | int | None = None,
        timeout: float = 60,
        **kwargs: Any,
    ) -> None:
        label = None if name is None else str(name)  # name=7 is a number to Hydra
        if HydraConfig.initialized() and is_multirun():
            kwargs.setdefault("group", label)
            label = f"{label}-{HydraConfig.get().job.num}"
        super().__init__(name=label, save_dir=str(folder), mode=mode, **kwargs)
        self.files, self.mode, self.timeout = Path(folder) / "wandb", mode, timeout

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the run of wandb, begun when first asked for."""
        if self._experiment is not None:
            return self._experiment
        import wandb

        self._wandb_init["id"] = wandb_id(self.files)
        if self.mode == "online":
            before = set(self.files.glob("run-*"))
            try:
                if not wandb.login(prompt=False, verify=False):
                    raise wandb.Error("nobody is logged in here, `wandb login` does so")
                run = self._begin("online", self.timeout)
                _say(f"W&B: {run.url}")
                return run
            except (wandb.Error, TimeoutError, OSError) as error:
                reason = " ".join(str(error).split())
                _say(f"W&B: {reason}. Training goes on, logged offline; later this sends it:\n  {self._sync}")
                os.environ["WANDB_MODE"] = "offline"  # for the jobs of a sweep that follow
                wandb.teardown()  # it still holds the id
                for left in set(self.files.glob("run-*")) - before:
                    shutil.rmtree(left, ignore_errors=True)  # of the run that did not begin
        return self._begin("offline")

    def _begin(self, mode: str, timeout: float = 0) -> Any:
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        self._wandb_init["mode"] = mode
        self._wandb_init["settings"] = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,  # of the folder that the run was started in, and with the remote's address
            x_disable_meta=True,
            init_timeout=timeout or 90,
            finish_timeout=timeout,  # 0: writing to the disk is waited for
            finish_timeout_raises=True,
        )
        return super().experiment

    @rank_zero_only
    def close(self, failed: bool) -> None:
        """End the run, so that the next job of a sweep begins its own."""
        if self._experiment is None:
            return
        try:
            self._experiment.finish(exit_code=int(failed))
        except TimeoutError:
            _say(
                f"W&B: not everything was sent within {self.timeout:g} s; the rest is sent with "
                f"`{self._sync}`"
            )
        self._experiment = None

    @property
    def _sync(self) -> str:
        return f"wandb sync {self.files}/*run-*"


def wandb_id(folder: Path) -> str:
    """Return the id in `FOLDER/id` by which Weights & Biases know a run; a new one where there is none.

    One that cannot be kept is no reason to stop.
    """
    file, new = folder / "id", secrets.token_hex(4)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError, ValueError):  # a damaged one is made again
            check_inside(file)
            identity = read_text(file, 100).strip()
            if re.fullmatch(r"[\w-]{1,64}", identity, re.ASCII):  # an empty one was cut short
                return identity
        write_text(file, new)
    except OSError as error:
        reason = error.strerror or error
        _say(
            f"W&B: {file} cannot be read or written ({reason}); when this run goes on, it is another one "
            "there"
        )
    return new


class TensorBoardLog(TensorBoardLogger):
    """Log to TensorBoard through Lightning's logger, in `FOLDER/tensorboard`; pictures and tables as in
    `WandbLogger`.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(save_dir=str(folder), name="", version="tensorboard", default_hp_metric=False)

    def resume(self, step: int) -> None:
        """Let TensorBoard forget what was logged after an iteration; it is about to come again."""
        self._kwargs["purge_step"] = step + 1

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        text = yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
        self.experiment.add_text("configuration", f"```yaml\n{text}```")

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[np.ndarray], step: int | None = None) -> None:
        """Log pictures, uint8 (H, W, 3), under one name."""
        for image in images:
            self.experiment.add_image(key, image, step, dataformats="HWC")

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        cells = [[value if isinstance(value, str) else decimal(value) for value in row] for row in data]
        self.experiment.add_text(key, render(columns, cells, "md"), step)

    @rank_zero_only
    def save(self) -> None:
        """Write what waits; Lightning would also write the configuration, which is in config.yaml."""
        self.experiment.flush()


Dashboard = WandbLog | TensorBoardLog


def loggers_of(config: DictConfig) -> list[DictConfig]:
    """Return the entries of the configuration's `logger` that are made, not one that `mode` disables."""
    nodes = [node for node in config.values() if isinstance(node, DictConfig)]
    return [node for node in nodes if node.get("mode") != "disabled"]


@contextmanager
def loggers_closed(loggers: Iterable[Logger]) -> Iterator[None]:
    """End runs of Weights & Biases with the block, as failed if it fails."""
    failed = True
    try:
        yield
        failed = False
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLog):
                logger.close(failed)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
