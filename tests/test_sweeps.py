"""Sweeps and searches: a job that fails, a sweep that goes on, and a score of held-out subjects."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from cstl import compare
from cstl.reporting import comparison
from cstl.reporting.entry import ShownRun
from cstl.running import sweep
from cstl.running.command import command
from cstl.running.processes import Stopped
from cstl.train import train as train_one

Configure = Callable[..., DictConfig]
TINY = (
    "dataset=tiny", "data.workers=0", "trainer=cpu", "trainer.log_every_n_steps=1", "trainer.max_steps=2",
    "baseline=false", "report=false",
)  # fmt: skip
SEARCH = ("hparams_search=optuna", "dataset.protocol.validation=2")


@pytest.fixture
def train(user_conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The function (*overrides) that does what `python -m cstl.train -m` does, in this process."""
    monkeypatch.chdir(tmp_path)

    def start(*overrides: str) -> None:
        monkeypatch.setattr(sys, "argv", ["train", "-m", f"--config-dir={user_conf}", *TINY, *overrides])
        command(train_one)()

    return start


def test_a_job_that_fails_does_not_end_the_sweep(
    user_conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (f"--config-dir={user_conf}", *TINY, "name=sweep", "data.subjects=2,9,3")
    done = subprocess.run(
        [sys.executable, "-m", "cstl.train", "-m", *arguments], cwd=tmp_path,
         env=os.environ | {"COLUMNS": "100"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    message = (
        "a batch needs 9 subjects, the store has training sequences of 4; ask for fewer (data.subjects=4) "
    )
    message += "or prepare more"
    assert done.stderr.splitlines() == [
        f"error: job 1: {message}",
        "runs/sweep: 1 of 3 jobs failed: 1",
        "all of them, with the errors of these: python -m cstl.compare runs/sweep",
    ]
    jobs = [tmp_path / "runs" / "sweep" / number for number in "012"]
    assert [(job / "results.json").exists() for job in jobs] == [True, False, True]
    lines = (jobs[1] / "error.txt").read_text().splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == message

    monkeypatch.chdir(tmp_path)
    assert compare.main(["runs/sweep"]) == 0
    flat = " ".join(capsys.readouterr().out.split())
    assert "– 9 failed" in flat
    assert f"failed: runs/sweep/1 (data.subjects=9 seed=1): {message}" in flat
    for name in ("comparison.csv", "comparison.md", "comparison.png", "comparison.pdf"):
        assert (tmp_path / "runs" / "sweep" / name).stat().st_size > 100
    (table,), _ = comparison.compare([Path("runs/sweep")])
    assert list(table.settings) == ["data.subjects"]
    assert [row.interval.keys() for row in table.rows] == [set(), {"NM", "BG", "mean"}, set()]


def test_jobs_side_by_side_in_one_folder(
    train: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    with pytest.raises(SystemExit, match="1"):
        train(
            "name='side-${init_from}'",
            "init_from=null,nowhere.ckpt",
            "hydra/launcher=joblib",
            "hydra.launcher.n_jobs=2",
        )
    # whatever a job's own name is
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["side-None"]
    assert (tmp_path / "runs" / "side-None" / "0" / "results.json").exists()
    assert (tmp_path / "runs" / "side-None" / "1" / "error.txt").exists()
    assert "runs/side-None: 1 of 2 jobs failed: 1" in capfd.readouterr().err


def test_a_sweep_that_is_started_again_does_what_is_left(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = configured("train", *TINY, "hydra.job.num=3", "init_from=nowhere.ckpt")
    assert sweep.job(train_one, broken) is None
    error = tmp_path / "run" / "error.txt"
    assert "no checkpoint at nowhere.ckpt" in error.read_text().splitlines()[-1]
    whole = configured("train", *TINY, "hydra.job.num=3")
    assert sweep.job(train_one, whole) is None
    assert not error.exists()
    before = (tmp_path / "run" / "results.json").stat().st_mtime_ns
    assert sweep.job(train_one, whole) is None
    assert "job 3: " in capsys.readouterr().out
    assert (tmp_path / "run" / "results.json").stat().st_mtime_ns == before
    assert not error.exists()
    other = configured("train", *TINY, "hydra.job.num=3", "model.triplet.margin=0.3")
    assert sweep.job(train_one, other) is None
    assert "model.triplet.margin: 0.2 before, 0.3 now" in error.read_text().splitlines()[-1]
    assert ShownRun(tmp_path / "run").state == "finished"


def test_a_search_chooses_by_held_out_training_subjects(train: Callable[..., None], tmp_path: Path) -> None:
    train(
        *SEARCH,
        "name=search",
        "hydra.sweeper.n_trials=2",
        "model.triplet.mining=hard",
        "model.triplet.margin=interval(0.1,0.3)",
    )
    found = OmegaConf.load(tmp_path / "runs" / "search" / "optimization_results.yaml")
    assert found.best_params.keys() == {"model.triplet.margin", "model.optimizer.lr"}
    assert 0.1 <= found.best_params["model.triplet.margin"] <= 0.3
    scores = []
    for job in "01":
        folder = tmp_path / "runs" / "search" / job
        assert OmegaConf.load(folder / "config.yaml").model.triplet.mining == "hard"
        with (folder / "metrics.csv").open() as file:
            scores += [
                float(row["validation/rank1/mean"])
                for row in csv.DictReader(file)
                if row["validation/rank1/mean"]
            ]
    assert len(scores) == 2  # once a trial, at its end
    assert found.best_value == max(scores)


def test_a_trial_that_fails_scores_nothing(configured: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured("train", *TINY, *SEARCH, "hydra.job.num=0")
    assert config.evaluate_every == 2
    assert config.dataset.protocol.validation == 2

    def diverge(config: DictConfig) -> None:
        raise FloatingPointError("the gradient was not finite")

    assert sweep.job(diverge, config) == 0.0


def test_a_stop_ends_the_whole_sweep(configured: Configure, tmp_path: Path) -> None:
    def stop(config: DictConfig) -> None:
        raise Stopped(signal.SIGTERM, 3)

    with pytest.raises(Stopped):
        sweep.job(stop, configured("train", *TINY, "hydra.job.num=0"))
    assert not (tmp_path / "run" / "error.txt").exists()


@pytest.mark.parametrize(("override", "message"), [
    ("dataset.protocol.validation=0",
     "never by the test subjects, and dataset.protocol.validation=0 holds none out"),
    ("dataset.protocol.validation=1", "dataset.protocol.validation=1 holds one out"),
    ("evaluate_every=null",
     "evaluate_every=None has none in the 2 iterations of a trial: leave it out, or set"),
    ("evaluate_every=3", "evaluate_every=3 has none in the 2 iterations"),
])  # fmt: skip
def test_a_search_without_held_out_subjects_is_refused(
    override: str,
    message: str,
    train: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="1"):
        train(*SEARCH, override)
    assert message in capsys.readouterr().err
    sys.argv.remove("-m")
    with pytest.raises(SystemExit, match="1"):
        command(train_one)()
    assert "a search is a sweep, add -m" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_jobs_that_would_share_a_folder_are_refused(
    train: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        train("seed=1,2", "hydra.sweep.subdir=same")
    assert "hydra.sweep.subdir is not to be set: the jobs of a sweep lie in" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("error", "line"), [
    (ValueError("two\n  lines"), "two lines"),
    (RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory"),
    (KeyError("views"), "KeyError: 'views'"),
    (ValueError(), "ValueError"),
])  # fmt: skip
def test_an_error_is_one_line(error: Exception, line: str) -> None:
    assert sweep.one_line(error) == line
