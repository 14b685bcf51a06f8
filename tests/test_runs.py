"""Lists of runs, and runs of version 0.1, which every command that reads runs still reads."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from cstl import compare, report, runs
from cstl.owner import owner
from cstl.run_folder import Run

OLD = Path(__file__).parent / "data" / "runs_0.1"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `runs` with two trainings and an evaluation as version 0.1 left them;
    checkpoints are not kept.
    """
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(OLD, tmp_path / "runs")


def test_runs_of_0_1_are_read(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(old / "old")
    assert run.results["rank1"]["NM"]["mean"] == 100
    assert "recipe" not in run.config["dataset"]
    assert (run.config["trainer"]["max_steps"], run.config["model"]["triplet"]["margin"]) == (6, 0.2)
    assert (run.probes is not None, set(run.curves) >= {"train/loss"}, run.problems) == (True, True, {})
    assert str(run.command).startswith("python -m cstl.train --config-dir=conf dataset=tiny")

    assert compare.main(["runs/old", "runs/old-margin", "--out", "out"]) == 0
    shown = capsys.readouterr().out
    for setting in (
        "model.triplet.margin",
        "trainer.max_steps",
    ):  # each change once
        assert shown.count(setting) == 1
    assert "data.steps" not in shown
    assert "0.0 [0.0, 0.0]" in shown
    assert compare.main(["runs/old", "runs/old-short", "--out", "out"]) == 0
    assert "max_frames" in capsys.readouterr().out

    report.main(["runs/old"])
    page = (old / "old" / "report.html").read_text()
    assert "CSTL on Tiny 64×44" in page


def test_each_run_has_a_line_with_its_state(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped = shutil.copytree(old / "old", old / "stopped")
    (stopped / "results.json").unlink()
    (stopped / "metrics.csv").write_text("step,train/loss\n4,1.5\n")
    shutil.copytree(stopped, old / "busy")
    (shutil.copytree(stopped, old / "failed") / "error.txt").write_text("Traceback\n\nno space left\n")
    (shutil.copytree(old / "old", old / "spoilt") / "results.json").write_text('{"rank1"')
    for job in ("0", "1", "10"):
        shutil.copytree(old / "old", old / "sweep" / job)
    (old / "sweep" / "1" / "results.json").unlink()
    (old / "notes").mkdir()
    (old / "\x1b[31mred").mkdir()
    shutil.copy(old / "old" / "config.yaml", old / "\x1b[31mred")
    with owner(old / "busy"):
        assert runs.main([]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.splitlines() if line.strip()}
    for name, told in {
        "old": "finished CSTL tiny 100.0 20",
        "old-short": "evaluation CSTL tiny 100.0 20",
        "stopped": "stopped at step 4 of 6 CSTL tiny – 20",
        "busy": "running at step 4 of 6 CSTL tiny –",
        "failed": "failed: no space left CSTL",
        "spoilt": "damaged: results.json CSTL tiny",
        "sweep/": "sweep: 2 finished, 1 stopped CSTL tiny 100.0",
        "\\x1b[31mred": "stopped at step 0 of 6 CSTL",
    }.items():
        assert lines[name].startswith(told), lines
    assert "notes" not in lines
    assert runs.main(["runs/sweep"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["0", "1", "10"]


def test_a_run_that_was_only_to_train_is_finished_after_its_last_step(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = shutil.copytree(old / "old", old / "trained")
    (trained / "results.json").unlink()
    settings = OmegaConf.load(trained / "config.yaml")
    settings.evaluate = False
    OmegaConf.save(settings, trained / "config.yaml")
    half = shutil.copytree(trained, old / "half", ignore=shutil.ignore_patterns("step-0000006.ckpt"))
    (half / "metrics.csv").write_text("step,train/loss\n4,1.5\n")
    (trained / "checkpoints").mkdir(exist_ok=True)
    (trained / "checkpoints" / "step-0000006.ckpt").touch()
    assert runs.main([]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "finished" in lines["trained"]
    assert "stopped at step 4 of 6" in lines["half"]
    assert compare.main(["runs/trained"]) == 1
    assert capsys.readouterr().err.startswith("error: no finished run in runs/trained: 1 trained")
    report.main(["runs/trained"])
    assert "trained and not evaluated" in (trained / "report.html").read_text()


def test_no_run_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.main([]) == 0
    assert capsys.readouterr().out == "no run in runs yet; python -m cstl.train experiment=demo makes one\n"
    assert runs.main(["nowhere"]) == 1
    assert capsys.readouterr().err.startswith("error: nowhere is no folder (from ")


def test_runs_lie_where_the_configuration_says(configured: Callable[..., DictConfig], tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    from cstl.config import CONFIG_PATH, digest, plain

    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        for command in ("train", "evaluate"):
            config = compose(command, overrides=["runs=/elsewhere", "name=one"], return_hydra_config=True)
            assert config.hydra.run.dir == "/elsewhere/one"
        assert (
            compose("train", overrides=["runs=x", "name=s"], return_hydra_config=True).hydra.sweep.dir
            == "x/s"
        )
    settings = [plain(configured("train", "dataset=tiny", f"runs={folder}")) for folder in ("a", "b")]
    assert digest(settings[0]) == digest(settings[1])  # where it lies does not change a run
