"""Where scalars, tables and pictures go: a file, Weights & Biases, TensorBoard; a run that goes on continues each."""

import csv
import io
import os
import re
import secrets
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from cstl import files
from cstl.files import check_inside, read_text, write_text
from cstl.running.processes import is_multirun

Row = dict[str, float]
AXIS = "iteration"  # the horizontal axis of every chart in Weights & Biases
MODES = ("online", "offline", "disabled")  # of Weights & Biases


class CSVLog(Logger):
    """Writes `metrics.csv`: a row for each logged iteration, a column for each name, `step` the first.

    Lightning's own logger deletes the file when a run goes on, and a process killed while it rewrites the file leaves
    neither the old nor the new one. Here a new column replaces the file as a whole, and `resume` keeps what belongs to
    the steps before it. A row that says nothing new of its step is left out: an evaluation that is repeated, since the
    process was killed after it, is logged once.

    Args:
        folder: where the file lies.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.file = Path(folder) / "metrics.csv"
        self.columns: list[str] = []  # of the file as it is
        self.waiting: list[Row] = []
        self.latest: list[Row] = []  # rows of the last step

    @property
    def name(self) -> str:  # noqa: D102
        return ""

    @property
    def version(self) -> str:  # noqa: D102
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # noqa: D102
        row = {"step": float(step or 0), **metrics}
        if any(row.items() <= known.items() for known in self.latest):
            return
        self.latest = [known for known in self.latest if known["step"] == row["step"]] + [row]
        self.waiting.append(row)
        if len(self.waiting) >= 100:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Writes what waits."""
        new = {name for row in self.waiting for name in row} - set(self.columns)
        if new:
            self._replace(read_rows(self.file) + self.waiting)
        elif self.waiting:
            with self.file.open("a", newline="", encoding="utf-8") as file:
                self._write(file, self.waiting)
        self.waiting = []

    @rank_zero_only
    def finalize(self, status: str) -> None:  # noqa: D102
        self.save()

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Keeps the rows up to an iteration; those after it are about to come again."""
        self.columns = []
        if rows := [row for row in read_rows(self.file) if row["step"] <= step]:
            self.latest = [row for row in rows if row["step"] == rows[-1]["step"]]
            self._replace(rows)
        else:
            self.file.unlink(missing_ok=True)

    def _replace(self, rows: list[Row]) -> None:
        self.columns = ["step", *sorted({name for row in rows for name in row} - {"step"})]
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerow(self.columns)
        self._write(text, rows)
        write_text(self.file, text.getvalue())

    def _write(self, file: Any, rows: list[Row]) -> None:
        writer = csv.DictWriter(file, self.columns, lineterminator="\n")
        writer.writerows(row | {"step": int(row["step"])} for row in rows)


def read_rows(file: Path) -> list[Row]:
    """The rows of a `metrics.csv`, each with the values it has; a last line that was cut short is left out."""
    if not file.exists():
        return []
    rows = files.read_rows(file, whole_lines=True)
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


class WandbLog(WandbLogger):
    """Weights & Biases: one run there for each run folder, by iteration, and never in the way of training.

    The id is kept in `FOLDER/wandb/id`, so that a run that goes on continues its run there. What comes after the
    checkpoint it goes on from is logged a second time, with the same values at the same iterations: better twice than
    lost with the process that was killed. Without a network each start has a folder `wandb/offline-run-…` of its own,
    and `wandb sync` sends those of one id one after the other.

    Where the service does not answer, or nobody is logged in, the run goes on offline and says so once; the jobs of a
    sweep that follow do not wait again. Nothing about the machine is sent, for with it wandb would send SLURM's
    environment variables.

    Args:
        folder: of the run; wandb keeps its files in `FOLDER/wandb`.
        mode: online or offline.
        project, name: there. The jobs of a sweep share the group NAME and are called NAME-0, NAME-1, …
        timeout: seconds to wait for the service, for its first answer and for the last upload.
        kwargs: of `wandb.init`, such as entity, group, tags, notes.
    """

    unreachable: ClassVar[bool] = False

    def __init__(
        self,
        folder: str | Path,
        mode: Literal["online", "offline"] = "online",
        project: str = "cstl",
        name: str | int | None = None,
        timeout: float = 60,
        **kwargs: Any,
    ) -> None:
        label = None if name is None else str(name)  # name=7 is a number to Hydra
        if HydraConfig.initialized() and is_multirun():
            kwargs.setdefault("group", label)
            label = f"{label}-{HydraConfig.get().job.num}"
        super().__init__(name=label, save_dir=str(folder), project=project, **kwargs)
        self.folder, self.mode, self.timeout = Path(folder), mode, timeout

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of wandb, begun when first asked for."""
        if self._experiment is None:
            self._experiment = self._begin()
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Logs scalars, tables or pictures of an iteration."""
        self.experiment.log({**metrics, AXIS: step or 0})

    @rank_zero_only
    def close(self, failed: bool) -> None:
        """Ends the run, so that the next job of a sweep begins its own."""
        if self._experiment is None:
            return
        try:
            self._experiment.finish(exit_code=int(failed))
        except TimeoutError:
            _say(f"W&B: not everything was sent within {self.timeout:g} s; the rest is sent with {self._sync}")
        self._experiment = None

    @property
    def _sync(self) -> str:
        return f"`wandb sync {self.folder / 'wandb'}/*run-*`"

    def _begin(self) -> Any:
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        run = None
        if self.mode == "online" and not WandbLog.unreachable:
            files = set(self._files())
            try:
                if not wandb.login(prompt=False, verify=False):
                    raise wandb.Error("nobody is logged in here, `wandb login` does so")
                run = self._init("online")
                _say(f"W&B: {run.url}")
            except (wandb.Error, TimeoutError, OSError) as error:
                WandbLog.unreachable = True
                reason = " ".join(str(error).split())
                _say(f"W&B: {reason}. Training goes on, logged offline; later this sends it:\n  {self._sync[1:-1]}")
                wandb.teardown()  # it still holds the id
                wandb.setup(wandb.Settings(silent=True))
                for left in set(self._files()) - files:
                    shutil.rmtree(left, ignore_errors=True)  # of the run that did not begin
        run = run or self._init("offline")
        run.define_metric(AXIS)
        run.define_metric("*", step_metric=AXIS)
        for name, summary in (("sequences_per_second", "mean"), ("waiting_for_data", "mean"), ("memory", "max")):
            run.define_metric(f"speed/{name}", step_metric=AXIS, summary=summary)
        return run

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,  # of the folder that the run was started in, and with the remote's address
            x_disable_meta=True,
        )
        if mode == "online":  # writing to the disk is waited for in any case
            settings.init_timeout = settings.finish_timeout = self.timeout
            settings.finish_timeout_raises = True
        return wandb.init(**{**self._wandb_init, **self._identity()}, mode=mode, settings=settings)

    def _identity(self) -> dict[str, str | None]:
        """The id of the run, a new one where there is none; an agent of `wandb sweep` has one of its own."""
        if "WANDB_SWEEP_ID" in os.environ:
            return {"id": None, "project": None}
        file = self.folder / "wandb" / "id"
        new = secrets.token_hex(4)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            known = ""
            with suppress(FileNotFoundError, ValueError):  # a damaged one is made again
                check_inside(file)
                known = read_text(file, 100).strip()
            if not re.fullmatch(r"[\w-]{1,64}", known, re.ASCII):  # an empty one was cut short
                write_text(file, known := new)
            return {"id": known}
        except OSError as error:
            reason = error.strerror or error
            _say(f"W&B: {file} cannot be read or written ({reason}); when this run goes on, it is another one there")
            return {"id": new}

    def _files(self) -> Iterable[Path]:
        return (self.folder / "wandb").glob("run-*")


class TensorBoardLog(TensorBoardLogger):
    """TensorBoard's files in `FOLDER/tensorboard`: what `WandbLog` logs, by the same names and iterations.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(save_dir=str(folder), name="", version="tensorboard", default_hp_metric=False)

    def resume(self, step: int) -> None:
        """Lets TensorBoard forget what was logged after an iteration; it is about to come again."""
        self._kwargs["purge_step"] = step + 1

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Shows the configuration as text."""
        text = yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
        self.experiment.add_text("configuration", f"```yaml\n{text}```")

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[np.ndarray], step: int | None = None) -> None:
        """Logs pictures, uint8 (H, W, 3), under one name; as `WandbLogger.log_image`."""
        for image in images:
            self.experiment.add_image(key, image, step, dataformats="HWC")

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        """Logs a table, as `WandbLogger.log_table`, as text."""
        lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in data)]
        self.experiment.add_text(key, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)

    @rank_zero_only
    def save(self) -> None:
        """Writes what waits; Lightning would also write the configuration, which is in config.yaml."""
        self.experiment.flush()


Dashboard = WandbLog | TensorBoardLog


def wanted(config: DictConfig) -> list[DictConfig]:
    """The entries of the configuration's `logger` that are to be made: those that its `mode` does not disable.

    Raises:
        ValueError: another mode.
    """
    if (mode := config.get("mode", MODES[0])) not in MODES:
        raise ValueError(f"logger.mode is {mode!r}; choose one of {', '.join(MODES)}")
    nodes = [node for node in config.values() if isinstance(node, DictConfig)]
    return [node for node in nodes if node.get("mode") != "disabled"]


@contextmanager
def closing(loggers: Iterable[Logger]) -> Iterator[None]:
    """Ends runs of Weights & Biases with the block, as failed if it fails."""
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


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
