"""What a run shows in the terminal: its progress and its closing words."""

import shlex
import textwrap
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from cstl.config import CONFIG_PATH
from cstl.progress import EVERY, say
from cstl.reporting.tables import MISSING, Table
from cstl.running.processes import is_multirun

# What a run may leave, in the order it is shown: file names, and what they are.
_FILES = (
    (("report.html",), "the report, for a browser"),
    (("results.json",), "every number, versions"),
    (("table.md", "table.tex", "table.csv"), "the table, for a paper"),
    (("figures",), "pictures"),
    (("metrics.csv",), "what was logged"),
    (("profile",), "the time of each operator, a trace for https://ui.perfetto.dev"),
    (("probes.npz", "embeddings.npz"), "what every probe found"),
)


class RunProgress(RichProgressBar):
    """Show Lightning's bar as one line: steps a second, time left, loss and rank-1 so far; another while it
    evaluates.

    The loss is read at the steps that are logged, so that a GPU is not waited for at the others.
    """

    validation_description = test_description = "evaluate"

    def __init__(self) -> None:
        super().__init__(refresh_rate=4)
        self.metrics: dict[str, str] = {}

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        one_line = Column(no_wrap=True)
        return [
            TextColumn("{task.description}"),
            BarColumn(None),
            MofNCompleteColumn(table_column=one_line),
            _Metrics(self.metrics, one_line),
            _Speed(one_line),
            _TimeLeft(one_line),
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar; a step may take many seconds, and is counted all the same."""
        super().on_train_start(trainer, pl_module)
        if self.progress is not None:
            self.progress.speed_estimate_period = 120

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Note what the bar shows; Lightning's own column, a second line, gets nothing."""
        metrics = trainer.callback_metrics
        if trainer.global_step % trainer.log_every_n_steps == 0 and "train/loss" in metrics:  # type: ignore[attr-defined]
            self.metrics["loss"] = f"{float(metrics['train/loss']):.3f}"
        if "test/rank1/mean" in metrics:
            self.metrics["rank-1"] = f"{float(metrics['test/rank1/mean']):.1f}"
        return {}

    def _get_train_description(self, current_epoch: int) -> str:
        return "train"


class Lines(Callback):
    """Say in plain lines how far a run is: at its start, every half minute, at every evaluation and when it
    ends.

    They go to the run's log, and to the output where that is no terminal. The loss is read only when a line
    is due, so that a GPU need not be waited for.

    Args:
        file: the log, which is added to.
        printed: whether they are printed, too.
    """

    def __init__(self, file: Path, printed: bool) -> None:
        self.file, self.printed = file, printed
        # when the last line was, and since when steps are counted
        self.last_line = self.since = time.monotonic()
        self.step = self.batches = 0  # what it was then; batches evaluated so far

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        device, several = trainer.strategy.root_device, trainer.world_size
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        self._say(
            f"{self.file.parent.name}: {data.dataset}, {data.num_classes} training and "
            f"{len(data.test_subjects)} test subjects; {several} process{'es' * (several > 1)} on {name}; "
            f"step {trainer.global_step:,} of {trainer.max_steps:,}"
        )
        self._count(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if time.monotonic() - self.last_line < EVERY:
            return
        step, seconds = trainer.global_step, time.monotonic() - self.since
        speed = (step - self.step) / seconds
        loss = trainer.callback_metrics.get("train/loss")
        self._say(
            f"step {step:,} of {trainer.max_steps:,}"
            + ("" if loss is None else f", loss {float(loss):.3f}")
            + f", {speed:.3g} steps/s, {_clock((trainer.max_steps - step) / speed)} left"
        )
        self._count(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batches, self.began = 0, time.monotonic()

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.batches += 1
        if time.monotonic() - self.last_line >= EVERY:
            total = sum(trainer.num_test_batches if trainer.testing else trainer.num_val_batches)
            self._say(f"evaluating: {self.batches:,} of {total:,} batches")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rank1_of: dict[str, list[str]] = {}
        for name, value in trainer.callback_metrics.items():
            split, _, probe = name.partition("/rank1/")
            if probe and (split == "test" or not trainer.testing):
                rank1_of.setdefault(split, []).append(f"{probe} {float(value):.1f}")
        rank1 = "; ".join(
            f"{'held-out ' * (split != 'test')}rank-1 {', '.join(of)} %" for split, of in rank1_of.items()
        )
        after = f" after step {trainer.global_step:,}" if trainer.global_step else ""
        self._say(
            f"evaluation{after}: {rank1 or 'nothing to compare'} ({_clock(time.monotonic() - self.began)})"
        )
        self._count(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._say(f"trained for {trainer.global_step:,} steps")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # the command prints it
        write_line(self.file, f"{type(exception).__name__}: {exception}".rstrip(": "))

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_end = on_validation_end

    def _count(self, trainer: Trainer) -> None:
        self.since, self.step = time.monotonic(), trainer.global_step

    def _say(self, line: str) -> None:
        self.last_line = time.monotonic()
        write_line(self.file, line)
        if self.printed:
            say(line)


def log_file(folder: Path) -> Path:
    """Return where a run says how far it is: the log of its command."""
    job = HydraConfig.get().job.name if HydraConfig.initialized() else "train"
    return folder / f"{job}.log"


def write_line(log: Path, text: str) -> None:
    """Add text to a run's log; a disk that is full is no reason to stop."""
    with suppress(OSError), log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n")


class _Metrics(ProgressColumn):
    def __init__(self, metrics: Mapping[str, str], column: Column) -> None:
        super().__init__(column)
        self.metrics = metrics

    def render(self, task: Task) -> Text:
        return Text(
            " ".join(f"{name} {value}" for name, value in self.metrics.items() if task.description == "train")
        )


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = "steps/s" if task.description == "train" else "batches/s"
        return Text("" if not speed else f"{speed:.0f} {unit}" if speed >= 100 else f"{speed:.3g} {unit}")


class _TimeLeft(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(f"in {_clock(task.finished_time or 0)}")
        return Text("" if task.time_remaining is None else f"{_clock(task.time_remaining)} left")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def closing(
    folder: Path,
    table: Table,
    test_subjects: int,
    seconds: Mapping[str, float],
    checkpoint: Path,
    remarks: Sequence[str] = (),
    method: str = "CSTL",
) -> str:
    """Return the summary at the end of a run: its result and the paper's, where everything lies, what to type
    next.

    Args:
        folder: what the run leaves lies there.
        table: the run's own row and, where there is one, the published row of each probe.
        test_subjects: how many there are.
        seconds: what was done → how long it took.
        checkpoint: the one that was evaluated.
        remarks: what is to be known of the result, see `cstl.reporting.remarks`.
        method: the run's own rows in the table.
    """
    probes = {row.probe: row.mean for row in table.rows if row.method == method}
    lines = [f"rank-1 {_means(probes)} % on {test_subjects} test subjects"]
    if pairs := table.compared():
        theirs, differences = ({probe: pair[i].mean for probe, pair in pairs.items()} for i in (0, 1))
        name = next(iter(pairs.values()))[0].method
        lines.append(f"{name} {_means(theirs)} %; difference {_means(differences, sign='+')}")
    lines += [textwrap.fill(f"note: {remark}", 80, subsequent_indent="      ") for remark in remarks]
    lines += [", ".join(f"{what} {_clock(took)}" for what, took in seconds.items()), ""]
    return "\n".join(lines) + "\n" + leftovers(folder, checkpoint)


def leftovers(folder: Path, checkpoint: Path) -> str:
    """Return a list of what lies in a run's folder now, and what to type next."""
    lines = [f"{near(folder)}/"]
    files = [
        (" ".join(name for name in names if (folder / name).exists()), meaning) for names, meaning in _FILES
    ]
    inside = folder in checkpoint.parents
    files.append((str(checkpoint.relative_to(folder) if inside else near(checkpoint)), "the model"))
    files = [(names, meaning) for names, meaning in files if names]
    width = max(len(names) for names, _ in files)
    lines += [f"  {names:<{width}}  {meaning}" for names, meaning in files]
    if following := _worth_typing(folder, checkpoint):
        lines += ["", f"next: {following}"]
    return "\n".join(lines)


def near(path: Path) -> Path:
    """Return a path as one would type it here."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if here in path.parents else path


def _means(means: Mapping[str, float | None], sign: str = "") -> str:
    numbers = {
        probe: MISSING if mean is None else f"{mean:{sign}.1f}".replace("-", "−")
        for probe, mean in means.items()
    }
    return ", ".join(f"{probe} {mean}" for probe, mean in numbers.items())


def _worth_typing(folder: Path, checkpoint: Path) -> str | None:
    if is_multirun():
        return None  # the end of the sweep says it
    if (page := folder / "report.html").exists():
        return f"python -m webbrowser {page.absolute().as_uri()}"
    if folder in checkpoint.parents:
        words = [*_own_model(), f"checkpoint={near(checkpoint)}"]
        return f"python -m cstl.evaluate {shlex.join(words)}"
    return None


def _own_model() -> list[str]:
    """Return what names a network of the user's own: a checkpoint does not choose what is called."""
    if not HydraConfig.initialized():
        return []
    runtime = HydraConfig.get().runtime
    model = runtime.choices.get("model")
    if not model or Path(CONFIG_PATH, "model", f"{model}.yaml").exists():
        return []
    folders = [source.path for source in runtime.config_sources if source.provider == "command-line"]
    return [*(f"--config-dir={near(Path(folder))}" for folder in folders), f"model={model}"]
