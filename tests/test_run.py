"""Runs from configuration to table: what they leave, how they go on, and how they refuse."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from cstl.data import Protocol, open_store
from cstl.evaluate import evaluate
from cstl.export import export
from cstl.models import GaitSet
from cstl.owner import InUseError
from cstl.preparation.plan import Preparation
from cstl.preparation.prepare import prepare
from cstl.prepare import prepare as prepare_command
from cstl.recognizer import GaitRecognizer
from cstl.running.checkpoints import AtomicCheckpoints, checkpoints
from cstl.running.trainer import precision_of
from cstl.synthesize import make_missing_walkers
from cstl.train import train

Configure = Callable[..., DictConfig]
TINY = ("dataset=tiny", "data.workers=0", "trainer=cpu", "trainer.log_every_n_steps=1")


@pytest.fixture(scope="module")
def tiny_cli(user_conf: Path) -> list[str]:
    return [f"--config-dir={user_conf}", *TINY]


def cstl(command: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "100", "HYDRA_FULL_ERROR": "0"}
    return subprocess.run(
        [sys.executable, "-m", f"cstl.{command}", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_run_leaves_what_it_promises(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = train(configured("train", *TINY, "report=true"))
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.yaml",
        "metrics.csv",
        "checkpoints",
        "results.json",
    }
    assert names >= {"table.md", "table.tex", "table.csv", "probes.npz", "report.html", "figures"}
    assert "embeddings.npz" not in names  # templates, which only keep_embeddings=true writes
    assert [path.name for path in checkpoints(folder / "checkpoints")] == [
        "step-0000004.ckpt",
        "step-0000006.ckpt",
    ]
    assert report == json.loads((folder / "results.json").read_text())
    assert (report["dataset"], report["resolution"]) == ("tiny", [64, 44])
    assert (report["train_subjects"], report["test_subjects"]) == (4, 2)
    assert report["store"] == torch.load(folder / report["checkpoint"])["config"]["store_fingerprint"]
    assert report["gallery_sequences"] == 4
    assert report["probe_sequences"] == {"NM": 4, "BG": 4}
    assert report["rank1"].keys() == report["rank1_matched"].keys() == {"NM", "BG"}
    assert report["measures"].keys() == {"CSTL", "GEI"}
    assert report["rank1"]["NM"].keys() == {"mean", "per_view"}
    assert report["versions"]["torch"] == torch.__version__

    shown = capsys.readouterr().out
    assert "Tiny 64×44" in shown
    assert [line.split()[:2] for line in shown.splitlines() if " CSTL " in line] == [
        ["NM", "CSTL"],
        ["BG", "CSTL"],
    ]
    assert str(folder) in shown.replace("\n", "")

    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    trained = [row for row in rows if row["train/loss"]]
    assert [int(row["step"]) for row in trained] == [1, 2, 3, 4, 5, 6]
    assert [float(row["train/learning_rate"]) for row in trained] == pytest.approx([1e-3] * 4 + [1e-4] * 2)
    assert [int(row["step"]) for row in rows if row["test/rank1/NM"]] == [3, 6]

    again = evaluate(
        configured("evaluate", f"checkpoint='{folder / report['checkpoint']}'", "trainer=cpu", folder="again")
    )
    for what in ("rank1", "rank1_matched", "measures", "configuration", "dataset"):
        assert again[what] == report[what]


def test_a_report_that_fails_does_not_undo_the_run(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: Path) -> None:
        raise RuntimeError("no room for pictures")

    monkeypatch.setattr("cstl.reporting.page.report_run", fail)
    train(configured("train", *TINY, "trainer.max_steps=1", "report=true"))
    assert (tmp_path / "run" / "results.json").exists()
    assert "report of" in caplog.text
    assert "RuntimeError: no room for pictures" in caplog.text


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(configured("train", *TINY, folder="whole"))

    step = GaitRecognizer.training_step
    with monkeypatch.context() as patch:

        def power_cut(self: GaitRecognizer, batch: object, batch_idx: int) -> torch.Tensor:
            if self.global_step == 5:
                raise RuntimeError("power cut")
            return step(self, batch, batch_idx)

        patch.setattr(GaitRecognizer, "training_step", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            train(configured("train", *TINY, folder="cut"))
    train(configured("train", *TINY, folder="cut"))

    whole, cut = (
        torch.load(tmp_path / name / "checkpoints" / "step-0000006.ckpt") for name in ("whole", "cut")
    )
    assert whole["state_dict"].keys() == cut["state_dict"].keys()
    assert all(torch.equal(value, cut["state_dict"][key]) for key, value in whole["state_dict"].items())
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "cut" / "metrics.csv").read_text()


def test_a_run_does_not_go_on_with_another_store(
    configured: Configure,
    raw_tree: Path,
    protocol: Protocol,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw, store = Path(shutil.copytree(raw_tree, tmp_path / "raw")), tmp_path / "store"
    typed = (*TINY, f"dataset.store={store}")
    prepare(Preparation(raw, store, "tiny", protocol, 64), workers=1)
    train(configured("train", *typed))
    (tmp_path / "run/results.json").unlink()  # killed while the results were written
    (raw / "001/nm-01/000/003.png").unlink()
    prepare(Preparation(raw, tmp_path / "other", "tiny", protocol, 64), workers=1)
    shutil.move(store, tmp_path / "first")
    shutil.move(tmp_path / "other", store)
    before = (tmp_path / "run/metrics.csv").read_text()
    with pytest.raises(
        ValueError, match=r"run was trained on a store with the fingerprint .*dataset\.store=PATH"
    ):
        train(configured("train", *typed))
    assert (tmp_path / "run/metrics.csv").read_text() == before
    result = train(configured("train", *TINY, f"dataset.store={tmp_path / 'first'}"))
    assert result["store"] == open_store(tmp_path / "first").fingerprint
    capsys.readouterr()
    checkpoint = f"checkpoint='{tmp_path / 'run' / result['checkpoint']}'"
    for other, said in ((store, True), (tmp_path / "first", False)):
        again = evaluate(
            configured("evaluate", checkpoint, "trainer=cpu", f"store={other}", folder=f"on-{other.name}")
        )
        assert again["store"] == open_store(other).fingerprint
        assert ("is not the store that" in capsys.readouterr().out) == said


def test_walkers_that_another_run_makes_at_this_moment_are_waited_for(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured("train", "dataset=synthetic", f"dataset.store={tmp_path / 'store'}")
    calls = []

    def synthesize(config: DictConfig) -> None:
        calls.append("synthesize")
        if len(calls) < 3:
            raise InUseError("raw/.part is in use: process 7 on here since noon writes there")

    monkeypatch.setattr("cstl.synthesize.synthesize", synthesize)
    monkeypatch.setattr("cstl.synthesize.prepare", lambda config: Path(config.dataset.store).mkdir())
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    make_missing_walkers(config)
    assert calls == ["synthesize"] * 3
    assert (
        capsys.readouterr().out == "waiting: raw/.part is in use: process 7 on here since noon writes there\n"
    )


def test_a_name_is_taken_once(configured: Configure) -> None:
    train(configured("train", *TINY, "trainer.max_steps=2"))
    with pytest.raises(ValueError, match=r"finished.*results\.json.*choose another name="):
        train(configured("train", *TINY, "trainer.max_steps=2", "logger=csv"))
    with pytest.raises(
        ValueError, match=r"(?s)other settings.*model\.triplet\.margin: 0\.2 before, 0\.3 now"
    ):
        train(configured("train", *TINY, "trainer.max_steps=2", "model.triplet.margin=0.3"))


@pytest.mark.parametrize("overrides", [
    ("experiment=demo", "dataset=tiny", "data.subjects=2"),
    ("logger=wandb", "logger.mode=offline"),
    ("trainer=auto", "trainer.precision=bf16-mixed"),
    ("model.triplet.mining=hard", "data.workers=1"),
], ids=lambda overrides: overrides[0])  # fmt: skip
def test_every_choice_trains(overrides: tuple[str, ...], configured: Configure) -> None:
    overrides = (*overrides, "trainer.max_steps=2", "model.network.channels=[2,4,16]")
    report = train(configured("train", *TINY, *overrides))
    assert report["rank1"]["NM"]["mean"] is not None


def test_walkers_are_made_on_first_use(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = (
        "dataset.protocol.train=[001-002]", "dataset.protocol.test=[003-004]", "dataset.synthesis.frames=5",
        "dataset.protocol.views=['000','090']", "trainer.max_steps=2", "data.frames=4", "data.workers=0",
        "data.subjects=2", "data.sequences=2", "model.network.channels=[2,4,16]",
    )  # fmt: skip
    report = train(configured("train", *few))
    assert (report["train_subjects"], report["test_subjects"]) == (2, 2)
    assert (tmp_path / "data" / "synthetic-64" / "store.json").is_file()


def test_gradients_that_stay_infinite_stop_the_run(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, weights = GaitRecognizer.training_step, []

    def overflow(self: GaitRecognizer, batch: object, batch_idx: int) -> torch.Tensor:
        weights.append(self.network.embedding.detach().clone())
        return step(self, batch, batch_idx) * (float("inf") if self.global_step >= 2 else 1)

    monkeypatch.setattr(GaitRecognizer, "training_step", overflow)
    with pytest.raises(FloatingPointError, match=r"3 steps in a row, first at step 3"):
        train(configured("train", *TINY, "model.max_nonfinite_steps=3"))
    assert not torch.equal(weights[1], weights[2])
    assert torch.equal(weights[2], weights[4])  # a step that is not finite changes nothing


def test_missing_stores_say_how_to_prepare_them(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"python -m cstl\.prepare dataset=casiab res=128 dataset\.raw=PATH"
    ):
        train(configured("train", "dataset=casiab", "res=128"))
    with pytest.raises(
        ValueError, match=r"(?s)where are the raw frames.*dataset=oumvlp res=64 dataset\.raw=PATH"
    ):
        prepare_command(configured("prepare", "dataset=oumvlp"))


@pytest.mark.parametrize(("overrides", "message"), [
    (("res=65",), r"res=65.*64 \(64x44\), 128 \(128x88\)"),
    (("res=128",), r"64x44 frames, asked for was res=128"),
    (("dataset.name=other",), r"holds the data set tiny, asked for was other"),
    (("data.subjects=9",), r"a batch needs 9 subjects, the store has .* 4"),
    (("model.triplet.mining=semi",), r"model\.triplet\.mining=semi: expected one of all, hard"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(
    overrides: tuple[str, ...], message: str, configured: Configure
) -> None:
    with pytest.raises(Exception, match=message):
        train(configured("train", *TINY, *overrides))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(configured: Configure) -> None:
    with pytest.raises(ValueError, match=r"sees no GPU.*trainer=cpu"):
        train(configured("train", "dataset=tiny", "trainer=gpu"))


def test_checkpoints_that_do_not_fit_are_refused(configured: Configure, tmp_path: Path) -> None:
    train(configured("train", *TINY, "trainer.max_steps=2"))
    last = tmp_path / "run" / "checkpoints" / "step-0000002.ckpt"

    def tested(path: Path, *overrides: str) -> None:
        evaluate(configured("evaluate", f"checkpoint='{path}'", "trainer=cpu", *overrides, folder="again"))

    with pytest.raises(ValueError, match=r"trained at res=64.*leave res= out"):
        tested(last, "res=128")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        tested(tmp_path / "none.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        tested(tmp_path / "cut.ckpt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt is refused: it is no file of CSTL.*has weights"):
        tested(tmp_path / "other.ckpt")
    checkpoint = torch.load(last)
    checkpoint["config"]["model"]["network"]["num_classes"] += 1
    torch.save(checkpoint, tmp_path / "classes.ckpt")
    with pytest.raises(ValueError, match=r"(?s)do not fit.*class_weight"):
        tested(tmp_path / "classes.ckpt")


def test_the_authors_weights_go_in_and_out(configured: Configure, tmp_path: Path) -> None:
    """Our checkpoint written for the authors, evaluated from their file: the same numbers."""
    trained = train(configured("train", *TINY, "trainer.max_steps=2"))
    export(configured("export", f"checkpoint='{trained['checkpoint']}'", f"out={tmp_path}/a.ptm"))
    theirs = torch.load(tmp_path / "a.ptm", weights_only=True)
    assert all(key.startswith("module.") for key in theirs)
    with pytest.raises(FileExistsError, match="there already"):
        export(configured("export", f"checkpoint={tmp_path}/a.ptm", f"out={tmp_path}/a.ptm"))

    def tested(*overrides: str) -> dict:
        return evaluate(
            configured("evaluate", f"checkpoint={tmp_path}/a.ptm", "trainer=cpu", *overrides, folder="b")
        )

    with pytest.raises(ValueError, match="does not say which data set"):
        tested()
    again = tested("dataset=tiny", "res=64")
    assert again["trained_on"] == "the authors' weights"
    assert again["measures"] == trained["measures"]


def test_weights_of_the_toolbox_go_in_and_out(configured: Configure, tmp_path: Path) -> None:
    """A file as the toolbox saves it, evaluated under its network's name, and written as the authors do."""
    network = GaitSet((4, 8, 16), 8)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    network(torch.rand(1, 2, 64, 44)).embeddings.sum().backward()
    optimizer.step()
    content = {"model": network.to_published(), "optimizer": optimizer.state_dict()}
    torch.save(content | {"scheduler": schedule.state_dict(), "iteration": 3}, tmp_path / "GaitSet-3.pt")
    export(configured("export", f"checkpoint={tmp_path}/GaitSet-3.pt", "to=authors", f"out={tmp_path}/a.ptm"))

    def tested(file: str, *overrides: str) -> dict:
        settings = (f"checkpoint={tmp_path}/{file}", "trainer=cpu", "dataset=tiny", *overrides)
        return evaluate(configured("evaluate", *settings, folder=file + "-".join(overrides).replace("=", "")))

    with pytest.raises(ValueError, match=r"GaitSet-3\.pt does not say at which resolution.*res=64"):
        tested("GaitSet-3.pt", "model=gaitset")
    with pytest.raises(ValueError, match=r"GaitSet-3\.pt is refused: it is no file of CSTL"):
        tested("GaitSet-3.pt", "model=cstl", "res=64")
    found = [tested(file, "model=gaitset", "res=64") for file in ("GaitSet-3.pt", "a.ptm")]
    assert found[0]["rank1"] == found[1]["rank1"]
    assert found[0]["method"] == "GaitSet"


def test_a_checkpoint_is_evaluated_on_another_data_set(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(configured("train", *TINY, "trainer.max_steps=2", "model.network.channels=[2,4,16]"))
    evaluate(
        configured(
            "evaluate",
            f"checkpoint='{trained['checkpoint']}'",
            "dataset=tiny",
            "dataset.title=Other",
            "trainer=cpu",
            "dataset.protocol.gallery=[nm-02]",
            "dataset.protocol.probes.NM=[nm-01]",
            "max_frames=5",
            folder="other",
        )
    )
    assert "Other 64×44" in capsys.readouterr().out

    checkpoint = torch.load(trained["checkpoint"])
    checkpoint["config"]["dataset"]["name"] = "elsewhere"
    torch.save(checkpoint, tmp_path / "elsewhere.ckpt")
    path = tmp_path / "elsewhere.ckpt"
    report = evaluate(
        configured("evaluate", f"checkpoint={path}", "dataset=tiny", "trainer=cpu", folder="labelled")
    )
    assert (report["dataset"], report["trained_on"]) == ("tiny", "elsewhere")
    assert "trained on elsewhere" in (tmp_path / "labelled" / "table.md").read_text()


def test_training_starts_from_other_weights(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(configured("train", *TINY, "trainer.max_steps=2"))
    before = torch.load(first["checkpoint"])["state_dict"]
    capsys.readouterr()
    starts = []
    step = GaitRecognizer.training_step

    def look(self: GaitRecognizer, batch: object, batch_idx: int) -> torch.Tensor:
        starts.append({key: value.clone() for key, value in self.state_dict().items()})
        return step(self, batch, batch_idx)

    monkeypatch.setattr(GaitRecognizer, "training_step", look)
    few = ("dataset.protocol.train=[001-003]", f"init_from='{first['checkpoint']}'", "trainer.max_steps=1")
    train(configured("train", *TINY, *few, folder="second"))
    assert "new: ssfl.class_weight" in capsys.readouterr().out.replace("\n", " ")
    assert torch.equal(starts[0]["network.embedding"], before["network.embedding"])
    assert starts[0]["network.ssfl.class_weight"].shape[-1] == 3
    starts.clear()
    capsys.readouterr()
    train(configured("train", *TINY, *few, "model.network.channels=[2,4,32]", folder="third"))
    assert "of another size, and new: " in capsys.readouterr().out.replace("\n", " ")
    for name, tensor in starts[0].items():
        fits = before.get(name) is not None and before[name].shape == tensor.shape
        assert not fits or "class_weight" in name or torch.equal(tensor, before[name]), name


def test_a_checkpoint_is_selected_on_held_out_training_subjects(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = ("callbacks=best", "dataset.protocol.validation=2", "trainer.max_steps=6")
    report = train(configured("train", *TINY, *held_out))
    assert report["checkpoint"].endswith("best.ckpt")
    assert (report["train_subjects"], report["test_subjects"]) == (2, 2)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        scores = [
            float(row["validation/rank1/mean"])
            for row in csv.DictReader(file)
            if row["validation/rank1/mean"]
        ]
    best = torch.load(report["checkpoint"], weights_only=True)
    assert best["callbacks"]["Checkpoints"]["best_score"] == pytest.approx(max(scores))


@pytest.mark.parametrize(("override", "message"), [
    ("dataset.protocol.validation=0", r"two held-out training subjects.*; 0 of .*protocol\.validation=10"),
    # right whatever the network
    ("dataset.protocol.validation=1", r"two held-out training subjects.*; 1 of "),
    ("evaluate_every=null", r"evaluate_every=null the 6 iterations have none: set evaluate_every=1"),
    ("evaluate_every=7", r"evaluate_every=7 the 6 iterations have none"),
])  # fmt: skip
def test_a_best_checkpoint_that_nothing_chooses_is_refused_at_the_start(
    override: str, message: str, configured: Configure, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(configured("train", *TINY, "callbacks=best", "dataset.protocol.validation=2", override))
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("where", ["model", "data"])
def test_a_checkpoint_cannot_choose_what_is_called(where: str, configured: Configure, tmp_path: Path) -> None:
    report = train(configured("train", *TINY, "trainer.max_steps=1"))
    checkpoint = torch.load(report["checkpoint"])
    checkpoint["config"][where]["extra"] = {
        "_target_": "pathlib.Path.touch",
        "self": str(tmp_path / "touched"),
    }
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    with pytest.raises(
        ValueError, match=r"evil\.ckpt is refused: its (model has the unknown key |data\.)extra"
    ):
        evaluate(configured("evaluate", f"checkpoint={tmp_path}/evil.ckpt", "trainer=cpu", folder="again"))
    assert not (tmp_path / "touched").exists()


def test_a_split_file_becomes_part_of_the_checkpoint(configured: Configure, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"TRAIN_SET": ["001", "002", "005"], "TEST_SET": ["003", "006"]}))
    key = (f"+dataset.split_file={split}",)
    report = train(configured("train", *TINY, *key, "trainer.max_steps=1"))
    assert (report["train_subjects"], report["test_subjects"]) == (3, 2)
    split.unlink()
    again = evaluate(
        configured("evaluate", f"checkpoint='{report['checkpoint']}'", "trainer=cpu", folder="again")
    )
    assert again["measures"] == report["measures"]


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(checkpoint: object, file: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    (tmp_path / "step-0000001.ckpt").write_bytes(b"the one before")
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpoints().save_checkpoint({}, tmp_path / "step-0000001.ckpt")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the one before"]


def test_the_commands_speak_to_people(tiny_cli: list[str], raw_tree: Path, tmp_path: Path) -> None:
    """Real processes: prepare, train, evaluate, and a mistake that is one message and no trace."""
    prepared = cstl("prepare", *tiny_cli[:2], f"dataset.raw={raw_tree}", "dataset.store=mine", cwd=tmp_path)
    assert prepared.returncode == 0, prepared.stderr
    assert "36 sequences" in prepared.stdout
    trained = cstl("train", *tiny_cli, "dataset.store=mine", "name=first", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "NM" in trained.stdout
    assert trained.stderr == ""
    path = "runs/first/checkpoints/step-0000006.ckpt"
    evaluated = cstl("evaluate", f"checkpoint={path}", "trainer=cpu", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    table = [line for line in trained.stdout.splitlines() if "CSTL" in line or "GEI" in line]
    assert table == [line for line in evaluated.stdout.splitlines() if "CSTL" in line or "GEI" in line]

    refused = cstl("train", *tiny_cli, "dataset.store=none", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: no store at none")
    assert "Traceback" not in refused.stderr


def test_precision_is_that_of_the_device(configured: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = configured("train", "experiment=demo", "trainer.accelerator=cpu").trainer
    for capabilities, precision in (({"avx512_bf16": True}, "bf16-mixed"), ({"avx2": True}, "32-true")):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda of=capabilities: of)
        assert precision_of(trainer) == precision
    assert precision_of(OmegaConf.create({"precision": "16-mixed"})) == "16-mixed"
