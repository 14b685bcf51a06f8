"""Measures training on one GPU at the paper's size: 8 × 8 sequences × 30 frames of 128×88, bf16 mixed
precision.

    python scripts/benchmark_gpu.py --out gpu.json
    python scripts/benchmark_gpu.py --out gpu.json --markdown docs/benchmarks.md
    python scripts/benchmark_gpu.py --out gaitbase.json --model gaitbase           a peer, at 64×44
    python scripts/benchmark_gpu.py --out cpu.json --device cpu --quick        the same code at tiny size

The configuration is that of
`python -m cstl.train dataset=casiab res=128 trainer=gpu trainer.precision=bf16-mixed`; the store holds noise
and is made in a temporary folder. Needs no data set and a few minutes.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from benchmarks import harness
from benchmarks.store import sequence_names, write_store
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import SimpleProfiler
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from cstl.config import CONFIG_PATH
from cstl.data.datamodule import TrainBatch
from cstl.running.trainer import make_data, quiet_lightning

CLASSES, ITERATIONS = 73, 150_000  # CASIA-B's training subjects, and the authors' iterations
FIGURE_TO_BEAT = 2.0  # hours for them on one H200
PAPER = ["dataset=casiab", "trainer.precision=bf16-mixed"]
QUICK = [
    *PAPER,
    *("data.subjects=2", "data.sequences=2", "data.frames=4"),
]
COLUMNS = ("torch.compile", "step", "sequences/s", "of the matrix rate", "memory", "waiting", "150,000 steps")


@dataclass(frozen=True)
class Measured:
    """Training with or without torch.compile; memory is None where there is no GPU."""

    compiled: bool
    step_seconds: float
    sequences_per_second: float
    operations_per_step: float  # of the matrix products and convolutions, forward and backward
    share_of_matrix_rate: float
    memory_bytes: int | None
    share_waiting_for_data: float  # of the process's time; the device may have work left meanwhile
    hours: float  # for 150,000 iterations, without evaluations

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of `COLUMNS`."""
        memory = "–" if self.memory_bytes is None else f"{self.memory_bytes / 1e9:.1f} GB"
        return (
            "on" if self.compiled else "off",
            harness.duration(self.step_seconds),
            f"{self.sequences_per_second:,.0f}",
            f"{100 * self.share_of_matrix_rate:.1f} %",
            memory,
            f"{100 * self.share_waiting_for_data:.2f} %",
            f"{self.hours:.2f} h",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument(
        "--compile", nargs="+", choices=("off", "on"), default=["off", "on"], help="torch.compile"
    )
    parser.add_argument("--model", default="cstl", help="a file of conf/model, under its recipe for CASIA-B")
    parser.add_argument("--res", type=int, choices=(64, 128), help="of CSTL 128, else 64; --quick: 64")
    parser.add_argument(
        "--steps", type=int, default=200, help="that are measured, after as many as a quarter of them"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny size: shows that it runs, the figures mean nothing"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="PAGE", help="also put the table between the page's markers"
    )
    options = parser.parse_args(arguments)
    if options.device == "gpu" and not torch.cuda.is_available():
        parser.error(
            f"PyTorch {torch.__version__} sees no GPU here: check that `nvidia-smi` lists one and that "
            "PyTorch was installed with CUDA (https://pytorch.org/get-started), or see the code run with "
            "--device cpu --quick"
        )
    if not options.out.parent.is_dir():
        parser.error(f"--out {options.out}: no folder {options.out.parent}")
    quiet_lightning()
    device = torch.device("cuda" if options.device == "gpu" else "cpu")
    rate = matrix_rate(device, 256 if options.quick else 8192)
    with tempfile.TemporaryDirectory() as folder:
        res = options.res or (128 if options.model == "cstl" and not options.quick else 64)
        store = make_store(Path(folder) / "store", res, options.quick)
        fixed = [f"trainer={options.device}", f"dataset.store={store}", "name=benchmark"]
        fixed += [f"model={options.model}", f"res={res}"]
        if options.quick and options.model == "cstl":
            fixed.append("model.network.channels=[4,8,16]")
        with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
            config = compose("train", [*(QUICK if options.quick else PAPER), *fixed])
        rows = [measure(config, device, rate, options.steps, way == "on") for way in options.compile]

    found = {
        "quick": options.quick,
        "device": device_name(device),
        "versions": {
            "python": platform.python_version(),
            "cstl": version("cstl"),
            "torch": torch.__version__,
        },
        "batch": {key: config.data[key] for key in ("subjects", "sequences", "frames")}
        | {"height": config.res},
        "matrix_operations_per_second": rate,
        "figure_to_beat_hours": FIGURE_TO_BEAT,
        "rows": [asdict(row) for row in rows],
    }
    options.out.write_text(json.dumps(found, indent=1, allow_nan=False), encoding="utf-8")
    text = markdown(found, rows)
    Console(width=100).print(text, highlight=False, markup=False)
    if options.markdown:
        harness.replace_marked(options.markdown, "benchmark-gpu", text)


def make_store(path: Path, res: int, quick: bool) -> Path:
    """Sequences of the first training subjects, of 60 to 120 frames of noise."""
    number, longest = (220, 8) if quick else (8 * 110, 120)
    lengths = np.random.default_rng(0).integers(longest // 2, longest + 1, number)
    return write_store(path, sequence_names(number), lengths, res)


def matrix_rate(device: torch.device, size: int, repeats: int = 20) -> float:
    """Operations a second in a large bf16 matrix product, the median of some: what the device
    reaches at best.
    """
    x, y = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    taken = []
    for _ in range(repeats):
        synchronise(device)
        started = time.perf_counter()
        x @ y
        synchronise(device)
        taken.append(time.perf_counter() - started)
    return 2 * size**3 / median(taken)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Clock(Callback):
    """Looks at the clock at the end of step `first` and of step `last`, both waited for."""

    def __init__(self, first: int, last: int, profiler: SimpleProfiler) -> None:
        self.steps, self.profiler = (first, last), profiler
        self.looks: list[tuple[float, float]] = []  # the time and the seconds spent waiting for data so far

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step in self.steps:
            synchronise(module.device)
            self.looks.append((time.monotonic(), self.waited()))  # the profiler's clock

    def waited(self) -> float:
        """Sum the waits that have ended; batches are fetched ahead, so their number is not the steps'."""
        recorded = self.profiler.recorded_durations.items()
        return sum(sum(times) for action, times in recorded if action.endswith("dataloader_next"))

    def between(self) -> tuple[float, float]:
        """Give the seconds between the two looks, and those of them spent waiting for data."""
        (started, before), (ended, after) = self.looks
        return ended - started, after - before


def measure(config: DictConfig, device: torch.device, rate: float, steps: int, compiled: bool) -> Measured:
    """Train for some steps as the configuration says."""
    warmup = max(2, steps // 4)
    if OmegaConf.is_missing(config.model.network, "num_classes"):
        config.model.network.num_classes = CLASSES
    config.trainer.max_steps = warmup + steps
    data = make_data(config, check=False)
    recognizer = instantiate(config.model, _convert_="all")
    operations = count_operations(recognizer, data, device)
    if compiled:
        recognizer.network.compile()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    profiler = SimpleProfiler()
    clock = Clock(warmup, warmup + steps, profiler)
    trainer = instantiate(
        config.trainer,
        limit_val_batches=0,
        callbacks=[clock],
        profiler=profiler,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        _convert_="all",
    )
    trainer.fit(recognizer, datamodule=data)
    seconds, waiting = clock.between()
    step_seconds = seconds / steps
    return Measured(
        compiled=compiled,
        step_seconds=step_seconds,
        sequences_per_second=config.data.subjects * config.data.sequences / step_seconds,
        operations_per_step=operations,
        share_of_matrix_rate=operations / step_seconds / rate,
        memory_bytes=torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        share_waiting_for_data=waiting / seconds,
        hours=step_seconds * ITERATIONS / 3600,
    )


def count_operations(recognizer: Any, data: Any, device: torch.device) -> float:
    """Of a step's matrix products and convolutions, forward and backward; a multiply-add counts as two."""
    batch: TrainBatch = next(iter(data.train_dataloader()))
    network = recognizer.to(device).network
    silhouettes = batch.silhouettes.to(device).float() / 255
    with FlopCounterMode(display=False) as counter:
        output = network(silhouettes)
        sum(of.sum() for of in output if of is not None).backward()
    recognizer.zero_grad()
    return float(counter.get_total_flops())


def device_name(device: torch.device) -> str:
    """The card's name, or "CPU"."""
    return torch.cuda.get_device_name() if device.type == "cuda" else "CPU"


def markdown(found: dict[str, Any], rows: Sequence[Measured]) -> str:
    """The table as it stands in the docs."""
    batch = "{subjects} × {sequences} sequences × {frames} frames, {height} rows".format(**found["batch"])
    rate = found["matrix_operations_per_second"] / 1e12
    lines = [
        (
            f"{found['device']}, {batch}, PyTorch {found['versions']['torch']}; bf16 matrix rate {rate:.3g} "
            "TFLOP/s."
        )
    ]
    if found["quick"]:
        lines.append("\n**Tiny size (`--quick`): these figures mean nothing.**")
    return "\n".join([*lines, "", harness.markdown_table(COLUMNS, [row.cells() for row in rows])])


if __name__ == "__main__":
    main()
