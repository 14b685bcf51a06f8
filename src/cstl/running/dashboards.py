"""What Weights & Biases and TensorBoard show beside the scalars of `metrics.csv`: speed, tables, pictures,
settings.

`metrics.csv` is a function of the run alone, the same after any stop; how fast a machine was is not.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from cstl.data.alignment import frame_size
from cstl.data.datamodule import GaitDataModule, TrainBatch
from cstl.metrics import CrossViewResult
from cstl.recognizer import GaitRecognizer
from cstl.reporting import figures, pictures, tables
from cstl.reporting.published import method_name, published
from cstl.run_folder import versions
from cstl.running.metrics_log import Dashboard

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SHOWN = 20  # frames of a sequence in a picture
Samples = dict[str, np.ndarray]


def dashboards(trainer: Trainer) -> list[Dashboard]:
    """Return the loggers that show more than scalars, of rank 0."""
    return (
        [logger for logger in trainer.loggers if isinstance(logger, Dashboard)]
        if trainer.is_global_zero
        else []
    )


class Speed(Callback):
    """Log how fast training is: `speed/…`, every `log_every_n_steps` iterations, of those since the last
    time.

    - `sequences_per_second`: of all processes together; evaluations do not count.
    - `waiting_for_data`: the share of that time, 0 … 1, in which this process waited for its next batch;
      Lightning's `ThroughputMonitor` does not tell it.
    - `memory`: the most so far in GiB, of the GPU where the network is on one, else of this process.

    A GPU is waited for only when there is something to log, which Lightning does then in any case.
    """

    since = idle_since = paused = waited = 0.0  # seconds
    sequences = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.waited += time.perf_counter() - self.idle_since

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TrainBatch, batch_idx: int
    ) -> None:
        self.sequences += len(batch.labels) * trainer.world_size
        self.idle_since = time.perf_counter()
        if trainer.global_step % trainer.log_every_n_steps or not (loggers := dashboards(trainer)):  # type: ignore[attr-defined]
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        seconds = time.perf_counter() - self.since
        measured = {
            "sequences_per_second": self.sequences / seconds,
            "waiting_for_data": self.waited / seconds,
        }
        measured |= memory(pl_module.device)
        for logger in loggers:
            logger.log_metrics(
                {f"speed/{name}": value for name, value in measured.items()}, trainer.global_step
            )
        self._begin()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        evaluating = time.perf_counter() - self.paused
        self.since += evaluating
        self.idle_since += evaluating

    def _begin(self) -> None:
        self.since = self.idle_since = time.perf_counter()
        self.waited, self.sequences = 0.0, 0


def memory(device: torch.device) -> dict[str, float]:
    """Return {"memory": GiB}, the most so far on a GPU or else of this process; {}: it cannot be told."""
    if device.type == "cuda":
        return {"memory": torch.cuda.max_memory_allocated(device) / 2**30}
    if resource is None:
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory": peak / (2**30 if sys.platform == "darwin" else 2**20)}  # bytes there, KiB elsewhere


class Pictures(Callback):
    """Log what is more than a scalar of a step.

    - The whole configuration, the versions of the packages and the code's commit.
    - At each evaluation of the test subjects `test/rank1/PROBE/VIEW`; as `tables/rank1` the paper's table
      with its row beside ours and as `tables/PROBE` probe view × gallery view; `pictures/heat_maps` of the
      same; and, where the network says what it looks at, `pictures/salient_frames` of a sequence of each kind
      of probe.
    - Once, `pictures/silhouettes` of these sequences.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in (loggers := dashboards(trainer)):
            logger.log_hyperparams({**pl_module.config, "versions": versions(), "commit": commit()})  # type: ignore[dict-item]
        if loggers and trainer.global_step == 0 and (sequences := samples(trainer.datamodule)):  # type: ignore[attr-defined]
            image = figures.to_array(figures.strips([[one] for one in sequences.items()], frames=SHOWN))
            for logger in loggers:
                logger.log_image("pictures/silhouettes", [image], step=0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (loggers := dashboards(trainer)):
            return
        assert isinstance(pl_module, GaitRecognizer)
        data: GaitDataModule = trainer.datamodule  # type: ignore[attr-defined]
        result, step = pl_module.result, trainer.global_step
        assert result is not None
        scalars = {
            f"test/rank1/{probe}/{view}": value
            for probe, rank1 in result.rows().items()
            for view, value in rank1["per_view"].items()
            if value is not None
        }
        sheets = {"rank1": paper_sheet(result, pl_module, data)}
        sheets |= {probe: view_sheet(result, probe) for probe in result.accuracy}
        images = {"heat_maps": figures.to_array(figures.rank1(result))}
        if (attention := draw_attention(pl_module.network, samples(data))) is not None:
            images["salient_frames"] = attention
        for logger in loggers:
            logger.log_metrics(scalars, step)
            for name, (columns, rows) in sheets.items():
                logger.log_table(f"tables/{name}", columns=columns, data=rows, step=step)
            for name, picture in images.items():
                logger.log_image(f"pictures/{name}", [picture], step=step)

    on_test_end = on_validation_end


def commit(package: Path = Path(__file__).parent) -> str | None:
    """Return the commit that this code is, with `-dirty` where it differs; None: git does not know."""

    def git(*words: str) -> str:
        command = ("git", "-C", str(package), *words)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # not some other repository, around an installation
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def paper_sheet(
    result: CrossViewResult, recognizer: GaitRecognizer, data: GaitDataModule
) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of the paper's table: ours, the published one where it may stand, points."""
    config = recognizer.config or {}
    dataset, methods = config["dataset"], {method_name(config): result}
    paper = published(data, config, recognizer.trained, dataset, config.get("baselines", ()))
    size = frame_size(config["res"])
    table = tables.paper_table(methods, dataset["title"], size, published=paper.rows, compared=paper.compared)
    return ["probe", "method", *table.views, "mean"], [
        [row.probe, row.method, *row.numbers] for row in table.rows
    ]


def view_sheet(result: CrossViewResult, probe: str) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of rank-1 in percent, a row for each probe view, a column for each gallery."""
    cells = result.accuracy[probe][:, :, 0]
    rows = [[None if value != value else value for value in row] for row in cells.tolist()]
    return ["probe view", *result.views], [[view, *row] for view, row in zip(result.views, rows, strict=True)]


def samples(data: GaitDataModule) -> Samples:
    """Return silhouettes uint8 (T, H, W) of a sequence of each kind of probe, by what it is."""
    store, protocol = data.store, data.protocol
    chosen = pictures.examples(store, protocol.probes, protocol.views, data.test_subjects)
    return {whose: pictures.frames_of(store, line, pictures.LOOKED_AT) for whose, line in chosen.items()}


def draw_attention(network: nn.Module, sequences: Samples) -> np.ndarray | None:
    """Draw what a network looks at in each sequence, as the report does; None where it does not say.

    Returns:
        uint8 (H, W, 3).
    """
    found = {whose: pictures.look(network, frames) for whose, frames in sequences.items()}
    drawn = [
        figures.to_array(figures.attention(one, whose)) for whose, one in found.items() if one is not None
    ]
    return np.concatenate(drawn) if drawn else None
