"""A run's folder belongs to one run: what it may be called, what is refused there, and what a
name that is free is.
"""

import json
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from cstl.evaluate import evaluate
from cstl.files import write_json
from cstl.owner import InUseError, owner
from cstl.recognizer import GaitRecognizer
from cstl.reporting.entry import ShownRun
from cstl.reporting.page import report_run
from cstl.running import folder as folders
from cstl.running.command import command
from cstl.running.folder import check_name
from cstl.running.metrics_log import wandb_id
from cstl.running.sweep import ERROR, AlreadyFinishedError
from cstl.train import train

Configure = Callable[..., DictConfig]
TINY = (
    "dataset=tiny", "data.workers=0", "trainer=cpu", "trainer.log_every_n_steps=1", "trainer.max_steps=2",
    "baseline=false", "report=false",
)  # fmt: skip


@pytest.fixture
def typed(user_conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The function (command, *words) that does what `python -m cstl.COMMAND` does, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def start(name: str, *words: str) -> None:
        monkeypatch.setattr(sys, "argv", [name, f"--config-dir={user_conf}", *words])
        command(getattr(import_module(f"cstl.{name}"), name))()

    return start


def instead(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[DictConfig], object]) -> None:
    """Has a command do something else."""

    def acting(config: DictConfig) -> None:
        act(config)

    acting.__name__ = name
    monkeypatch.setattr(f"cstl.{name}.{name}", acting)


def never(*arguments: object, **named: object) -> None:
    raise AssertionError("this was to be refused before")


@pytest.mark.parametrize("name", [
    None, "", ".", "..", "../x", "a/b", "/tmp/x", "a\\b", "x.", "x ", " x", ".hidden", "a\nb", "a\x1b[2Jb",
    "a\u202eb",
    "a\u200bb", "a\udcffb", "con", "NUL.txt", "LPT1", "a:b", "a*", "a?", 'a"b', "a|b", "x" * 201, "é" * 101,
    True, 0.1,
    1e3, ["a"], {"a": 1},
], ids=repr)  # fmt: skip
def test_names_that_are_no_folder_in_runs(name: object) -> None:
    with pytest.raises(ValueError, match="Choose another name=") as refused:
        check_name(name)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "name",
    ["first", "a b", "casiab-64", "seed=1,model.triplet.margin=0.2", 7, "café", "it's", "console", "1e3"],
)
def test_names_that_can_be(name: object) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["null", "''", "../x", "a/b", "'x '"])
@pytest.mark.parametrize(
    "words", [("train",), ("train", "-m"), ("evaluate", "checkpoint=x.ckpt")], ids=" ".join
)
def test_a_command_refuses_such_a_name_and_makes_nothing(
    name: str,
    words: tuple[str, ...],
    typed: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="1"):
        typed(*words, f"name={name}")
    assert capsys.readouterr().err.startswith("error: name=")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [("train",), ("train", "-m", "seed=1"), ("evaluate", "checkpoint=x.ckpt")],
                         ids=" ".join)  # fmt: skip
def test_commands_of_the_same_second_have_folders_of_their_own(
    words: tuple[str, ...], typed: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []

    def look(config: DictConfig) -> None:
        folders.append(Path(config.folder))

    instead(monkeypatch, words[0], look)
    for _ in range(3):
        typed(*words, "name='x-${now:%Y}'")  # the same second for a year
    assert len(set(folders)) == 3
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names[1:] == [f"{names[0]}-2", f"{names[0]}-3"]
    assert {folder.relative_to(tmp_path / "runs").parts[0] for folder in folders} == set(names)


def test_runs_evaluations_and_sweeps_keep_apart(
    typed: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def leave(name: str, **settings: object) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        OmegaConf.save(settings, folder / "config.yaml")
        (folder / "results.json").write_text("{}")
        return folder

    leave("run", trainer={"max_steps": 1})
    leave("evaluation", evaluated="a.ckpt")
    leave("sweep/0", trainer={"max_steps": 1})
    with owner(leave("busy", trainer={"max_steps": 1})):
        for kind in ("train", "evaluate"):
            instead(monkeypatch, kind, never)
        before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        for words, message in {
            ("evaluate", "checkpoint=x.ckpt", "name=run"): "runs/run is the folder of a training run",
            ("evaluate", "checkpoint=x.ckpt", "name=sweep"): "runs/sweep is the folder of a sweep",
            ("train", "name=evaluation"): "runs/evaluation is the folder of an evaluation",
            ("train", "name=sweep"): "runs/sweep is the folder of a sweep",
            ("train", "-m", "seed=1,2", "name=run"): "runs/run is the folder of a training run",
            ("train", "-m", "seed=1,2", "name=evaluation"): "runs/evaluation is the folder of an evaluation",
            ("train", "name=busy"): "runs/busy is in use: process",
        }.items():
            with pytest.raises(SystemExit, match="1"):
                typed(*words)
            said = capsys.readouterr().err
            assert said.startswith(f"error: {message}")
            assert "another name=" in said or "another folder" in said
        assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before  # .hydra neither


def test_a_sweep_that_is_started_twice_at_once(
    typed: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "runs" / "twice").mkdir(parents=True)
    instead(monkeypatch, "train", never)
    with owner(tmp_path / "runs" / "twice"), pytest.raises(SystemExit, match="1"):
        typed("train", "-m", "name=twice", "seed=1,2")
    assert "runs/twice is in use" in capsys.readouterr().err
    assert list((tmp_path / "runs" / "twice").iterdir()) == []

    job = tmp_path / "runs" / "twice" / "1"
    job.mkdir()
    instead(monkeypatch, "train", lambda config: owner(Path(config.folder)).__enter__())
    with owner(job), pytest.raises(SystemExit, match="1"):  # a job of an earlier start that still runs
        typed("train", "-m", "name=twice", "seed=1,2")
    said = capsys.readouterr()
    assert "job 1: " in said.out
    assert "runs/twice/1: another process still trains it" in said.err
    assert not (job / ERROR).exists()


@pytest.mark.parametrize("place", ["file", "dangling"])
def test_folders_that_cannot_be_made(
    place: str, typed: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if place == "file":
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "x").write_text("mine")
    else:
        (tmp_path / "runs").symlink_to(tmp_path / "nowhere")
    for words in (
        ["train", "name=x"],
        ["train", "-m", "name=x"],
        ["evaluate", "checkpoint=x.ckpt", "name=x"],
    ):
        with pytest.raises(SystemExit, match="1"):
            typed(*words)
        assert capsys.readouterr().err.startswith(
            "error: the folder runs/x cannot be made: File exists: runs"
        )
    if place == "dangling":
        with pytest.raises(SystemExit, match="1"):
            typed("train")  # named after the time
        assert "cannot be made" in capsys.readouterr().err


def test_a_read_only_folder(
    typed: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise PermissionError(13, "Permission denied", "runs")

    with monkeypatch.context() as patch:  # the tests may run as root, who may write anywhere
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(SystemExit, match="1"):
            typed("train", "name=x")
    assert capsys.readouterr().err == "error: the folder runs/x cannot be made: Permission denied: runs\n"
    with monkeypatch.context() as patch:
        patch.setattr("cstl.owner._write_new", refuse)
        with pytest.raises(SystemExit, match="1"):
            typed("train", "name=x")
    assert "error: runs/x cannot be written to: permission denied" in capsys.readouterr().err


def test_a_start_that_came_to_nothing_leaves_its_name_free(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("cstl.train.seed_everything", never)
        with pytest.raises(AssertionError):
            train(configured("train", *TINY))
    folder = tmp_path / "run"
    assert (folder / "config.yaml").exists()
    (folder / "wandb").mkdir()
    (folder / "wandb" / "id").write_text("another")
    with pytest.raises(ValueError, match=r"extend=9: .* has no run to go on with"):
        train(configured("train", *TINY, "extend=9"))
    (folder / "config.yaml").write_text("cut sho: [")  # also where that start's own notes are damaged
    train(configured("train", *TINY, "model.triplet.margin=0.3"))
    assert (folder / "results.json").exists()
    assert OmegaConf.load(folder / "config.yaml").model.triplet.margin == 0.3
    assert not (folder / "owner.json").exists()


def test_a_run_that_was_begun_is_not_written_over(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its configuration and its results are damaged; another evaluation, more or fewer
    iterations are asked for.
    """
    train(configured("train", *TINY))
    folder = tmp_path / "run"
    with pytest.raises(AlreadyFinishedError, match=r"finished.*extend=N with more than 2"):
        train(configured("train", *TINY, "evaluate_every=1", "trainer.log_every_n_steps=5", "baseline=true"))
    with pytest.raises(ValueError, match="type extend=4 to have it go on to 4 iterations"):
        train(configured("train", *TINY, "trainer.max_steps=4"))
    with pytest.raises(ValueError, match=r"extend=1: .* 2 iterations in all, and cannot be shortened"):
        train(configured("train", *TINY, "extend=1"))
    with pytest.raises(ValueError, match="expected the number of iterations in all"):
        train(configured("train", *TINY, "extend=1.5"))
    checkpoint = f"checkpoint='{folder / 'checkpoints' / 'step-0000002.ckpt'}'"
    with pytest.raises(ValueError, match="is the folder of a training run"):
        evaluate(configured("evaluate", checkpoint, "trainer=cpu"))

    (folder / "results.json").write_text('{"rank1"')
    train(configured("train", *TINY))
    said = " ".join(capsys.readouterr().out.split())
    assert "results.json is damaged" in said
    assert (folder / "results.json.damaged").read_text() == '{"rank1"'
    assert ShownRun(folder).state == "finished"

    config = (folder / "config.yaml").read_text()
    for damage in ("", "a: [", "- 1", "a: ${b}\n"):
        (folder / "config.yaml").write_text(damage)
        with pytest.raises(ValueError, match=r"config\.yaml is damaged"):
            train(configured("train", *TINY))
        assert (folder / "config.yaml").read_text() == damage
    (folder / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"config\.yaml is not there"):
        train(configured("train", *TINY))
    (folder / "config.yaml").write_text(config)

    # a copy from another machine, where its process may still run
    (folder / "owner.json").write_text(
        json.dumps({"host": "node7", "process": 7, "since": "now", "machine": "x"})
    )
    assert ShownRun(folder).state == "finished"
    assert report_run(folder).exists()
    again = configured("evaluate", checkpoint, "trainer=cpu", "baseline=false", folder="again")
    evaluate(again)
    results = (tmp_path / "again" / "results.json").read_bytes()
    with pytest.raises(ValueError, match="holds a finished evaluation; choose another name="):
        evaluate(again)
    with pytest.raises(ValueError, match="is the folder of an evaluation"):
        train(configured("train", *TINY, folder="again"))
    assert (tmp_path / "again" / "results.json").read_bytes() == results


def test_another_process_is_not_disturbed(configured: Configure, tmp_path: Path) -> None:
    config = configured("train", *TINY)
    with owner(tmp_path / "run"), pytest.raises(InUseError, match="is in use"):
        train(config)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_folder_that_goes_away_under_a_run(
    how: str, configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not come back with half of a run in it."""
    step, folder = GaitRecognizer.training_step, tmp_path / "run"

    def away(self: GaitRecognizer, *arguments: object) -> object:
        if self.global_step == 1:
            shutil.rmtree(folder) if how == "deleted" else folder.rename(tmp_path / "elsewhere")
        return step(self, *arguments)

    monkeypatch.setattr(GaitRecognizer, "training_step", away)
    with pytest.raises(FileNotFoundError, match="run was deleted or moved while this run wrote into it"):
        train(configured("train", *TINY))
    assert not folder.exists()


def test_putting_aside_can_be_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped when the results were there already, and where there are no links."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-0000002.ckpt").write_text("weights")
    (tmp_path / "config.yaml").write_text("a: 1")
    (tmp_path / "table.md").write_text("table")
    (tmp_path / "figures").mkdir()
    (tmp_path / "results.json").write_text('{"rank1": {}, "checkpoint": "elsewhere/step-0000002.ckpt"}')
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", never)
        patch.setattr(folders.os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "no links")))
        with pytest.raises(AssertionError):
            folders.put_aside(tmp_path, 2)
    aside = folders.put_aside(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after-0000002", "checkpoints", "config.yaml"]
    assert (aside / "checkpoints" / "step-0000002.ckpt").read_text() == "weights"
    assert json.loads((aside / "results.json").read_text())["checkpoint"] == str(
        aside / "checkpoints" / "step-0000002.ckpt"
    )
    assert {path.name for path in aside.iterdir()} == {
        "checkpoints", "config.yaml", "figures", "results.json", "table.md",
    }  # fmt: skip


@pytest.mark.parametrize("trouble", ["unwritable", "folder", "damaged", "empty"])
def test_an_identity_that_cannot_be_kept_does_not_stop_training(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights & Biases are never in the way of training."""
    file = tmp_path / "wandb" / "id"
    if trouble == "unwritable":
        (tmp_path / "wandb").write_text("a file in its place")
    elif trouble == "folder":
        file.mkdir(parents=True)
    else:
        file.parent.mkdir()
        file.write_bytes(b"" if trouble == "empty" else b"\xff\x00" * 100)
    first = wandb_id(tmp_path / "wandb")
    assert first.isalnum()
    said = capsys.readouterr().err
    if trouble in ("unwritable", "folder"):
        assert f"W&B: {file} cannot be" in said
    else:
        assert wandb_id(tmp_path / "wandb") == first == file.read_text()


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results.json").write_text("the ones before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cstl.files.os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*results\.json'"):
        write_json(tmp_path / "results.json", {})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the ones before"]
