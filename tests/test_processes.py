"""One run on one, two, three or four processes is the same run; what cannot work is refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from cstl.running.checkpoints import checkpoints
from cstl.train import train

Configure = Callable[..., DictConfig]
TINY = (
    "dataset=tiny", "data.workers=0", "trainer=ddp", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1",
    "data.subjects=4", "model.batch_norm=synchronised", "trainer.max_steps=5",
    "model.optimizer.lr=1e-4", "baseline=false", "report=false",
)  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=4", "-m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def start(user_conf: Path, folder: Path) -> Callable[..., subprocess.Popen[str]]:
    def start(command: str, *arguments: str, launcher: tuple[str, ...] = ("-m",)) -> subprocess.Popen[str]:
        environment = {
            name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE")
        }
        return subprocess.Popen(
            [sys.executable, *launcher, f"cstl.{command}", f"--config-dir={user_conf}", *arguments],
            cwd=folder, env=environment | {"OMP_NUM_THREADS": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


@pytest.fixture(scope="module")
def runs(start: Callable[..., subprocess.Popen[str]], folder: Path) -> Path:
    """Finished runs: 64-1, 64-2 and 64-4 in float64, 32-1 and 32-2 in float32; 64-4 was started
    by torchrun.
    """

    def train(precision: int, processes: int) -> subprocess.Popen[str]:
        several = (f"trainer.devices={processes}", f"trainer.precision={precision}-true")
        name = f"name={precision}-{processes}"
        return start("train", *TINY, *several, name, launcher=TORCHRUN if processes == 4 else ("-m",))

    for together in ([(64, 1), (64, 2)], [(64, 4), (32, 1), (32, 2)]):
        for process in [train(*which) for which in together]:
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output
    return folder / "runs"


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoints(folder / "checkpoints")[-1], weights_only=True)["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_parameters_are_those_of_one_process(runs: Path, processes: int) -> None:
    one, several = weights(runs / "64-1"), weights(runs / f"64-{processes}")
    assert one.keys() == several.keys()
    assert {value.dtype for value in one.values()} == {torch.float64, torch.int64}
    difference, norm = (
        torch.cat([tensor.double().flatten() for tensor in tensors]).norm()
        for tensors in ([value - several[name] for name, value in one.items()], one.values())
    )
    assert difference <= 1e-8 * norm
    for a, b in zip(rows(runs / "64-1"), rows(runs / f"64-{processes}"), strict=True):
        assert a == pytest.approx(b, rel=1e-7)


@pytest.mark.slow
def test_what_the_network_drops_is_that_of_one_process(
    start: Callable[..., subprocess.Popen[str]], folder: Path
) -> None:
    sizes = [f"model.network.{key}=4" for key in ("lateral_dim", "embedding_dim", "compact_dim")]
    gln = ("model=gln_phase2", "model.network.channels=[2,2,4]", *sizes, "model.network.dropout=0.5")
    for processes in (1, 2):
        several = (f"trainer.devices={processes}", "trainer.precision=64-true", f"name=gln-{processes}")
        output, _ = start("train", *TINY, *gln, *several, "evaluate=false").communicate(timeout=240)
        assert "trained for 5 steps" in output
    one, two = (weights(folder / "runs" / f"gln-{processes}") for processes in (1, 2))
    for name, value in one.items():
        assert (two[name] - value).double().norm() <= 1e-8 * value.double().norm(), name


@pytest.mark.slow
def test_losses_in_float32_are_those_of_one_process(runs: Path) -> None:
    one, two = rows(runs / "32-1"), rows(runs / "32-2")
    assert [row["step"] for row in one if "train/loss" in row] == [1, 2, 3, 4, 5]
    for a, b in zip(one, two, strict=True):
        for name in ("train/loss", "train/triplet", "train/cross_entropy"):
            assert a.get(name, 0) == pytest.approx(b.get(name, 0), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_an_evaluation_is_that_of_one_process(
    runs: Path, start: Callable[..., subprocess.Popen[str]], processes: int
) -> None:
    """Twelve sequences in two batches: the third process has nothing to do."""
    checkpoint = "checkpoint=runs/32-1/checkpoints/step-0000005.ckpt"
    several = (
        "trainer=ddp",
        "trainer.accelerator=cpu",
        f"trainer.devices={processes}",
        f"name=evaluated-{processes}",
    )
    process = start("evaluate", checkpoint, "data.workers=0", "baseline=false", "report=false", *several)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    one, several_ = (
        json.loads((runs / name / "results.json").read_text()) for name in ("32-1", f"evaluated-{processes}")
    )
    for what in ("rank1", "rank1_matched", "measures", "gallery_sequences", "probe_sequences"):
        assert one[what] == several_[what]
    found, there = (np.load(runs / name / "probes.npz") for name in ("32-1", f"evaluated-{processes}"))
    for name in found.files:
        np.testing.assert_array_equal(found[name], there[name])


@pytest.mark.slow
def test_a_sweep_of_runs_with_two_processes_each(
    start: Callable[..., subprocess.Popen[str]], runs: Path
) -> None:
    process = start(
        "train", "-m", *TINY, "trainer.devices=2", "trainer.precision=64-true", "seed=1,2", "name=sweep"
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    for job in ("0", "1"):
        assert (runs / "sweep" / job / "results.json").is_file()
    assert sorted(path.name for path in (runs / "sweep").iterdir() if path.is_dir()) == ["0", "1"]
    first, second = weights(runs / "sweep" / "0"), weights(runs / "sweep" / "1")
    alone = weights(runs / "64-2")
    assert all(torch.equal(value, first[name]) for name, value in alone.items())
    assert not torch.equal(first["network.embedding"], second["network.embedding"])


@pytest.mark.slow
def test_a_cluster_takes_the_machines_back_and_gives_fewer(
    start: Callable[..., subprocess.Popen[str]], folder: Path
) -> None:
    """SIGTERM to two processes, then the same command on one: the batches go on."""
    long = (*TINY, "trainer.max_steps=60", "callbacks.checkpoints.every=5", "evaluate_every=null",
            "trainer.precision=64-true")  # fmt: skip
    whole = start("train", *long, "trainer.devices=1", "name=whole")
    assert whole.wait(240) == 0
    process = start("train", *long, "trainer.devices=2", "name=moved")
    while not checkpoints(folder / "runs" / "moved" / "checkpoints") and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "stopped by SIGTERM with a checkpoint after" in output
    process = start("train", *long, "trainer.devices=1", "name=moved")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    one, moved = rows(folder / "runs" / "whole"), rows(folder / "runs" / "moved")
    assert len(one) == len(moved) == 61
    for a, b in zip(one, moved, strict=True):
        assert a.get("train/loss", 0) == pytest.approx(b.get("train/loss", 0), rel=1e-4)


def refusal(configured: Configure, *overrides: str, **hydra: Any) -> str:
    config = configured("train", *TINY, *overrides)
    settings: Any = HydraConfig.get()
    with read_write(settings), open_dict(settings):
        settings.update(hydra)
    with pytest.raises(ValueError, match=r"\w") as refused:
        train(config)
    assert not (Path(settings.runtime.output_dir) / "config.yaml").exists()
    return str(refused.value)


def test_splits_that_do_not_come_out_even(configured: Configure) -> None:
    message = refusal(configured, "trainer.devices=3")
    assert "4 subjects cannot be split evenly across 3 processes: take 1, 2, 4 of them" in message
    assert "data.subjects=3 or data.subjects=6" in message


def test_accumulated_gradients(configured: Configure) -> None:
    assert "triplets are mined within a batch" in refusal(configured, "+trainer.accumulate_grad_batches=2")


def test_names_that_every_process_would_make_anew(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    name = "name='run-${now:%Y}'"
    assert "give the run a name with name=NAME" in refusal(configured, "trainer.devices=2", name)


def test_launchers_that_start_several_jobs_at_once(configured: Configure) -> None:
    launcher = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"}
    message = refusal(configured, "trainer.devices=2", mode="MULTIRUN", launcher=launcher)
    assert "JoblibLauncher" in message
    assert "hydra/launcher=slurm_gpus" in message
