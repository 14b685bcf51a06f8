"""Weights & Biases and TensorBoard: what a run leaves there is read back from its files."""

import json
import os
import shutil
import struct
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
import yaml
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from cstl.losses import TripletLoss
from cstl.recognizer import GaitRecognizer
from cstl.run_folder import read_metrics as read_rows
from cstl.running import dashboards as dashboard
from cstl.running.dashboards import Speed, commit, dashboards
from cstl.running.metrics_log import TensorBoardLog, WandbLog
from cstl.running.settings import refuse_impossible
from cstl.running.trainer import make_trainer
from cstl.train import train

Configure = Callable[..., DictConfig]
TINY = (
    "dataset=tiny",
    "data.workers=0",
    "trainer=cpu",
    "trainer.log_every_n_steps=1",
    "baseline=false",
    "report=false",
)
BOTH = ("logger=[wandb,tensorboard]", "logger.mode=offline")
AXIS = "trainer/global_step"
SECRETS = {"WANDB_API_KEY": "5ec2e7" * 7, "SLURM_JWT": "5ec2e7-token", "MY_PASSWORD": "5ec2e7-word"}


@pytest.fixture(autouse=True)
def fresh_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """wandb reads the environment once, when it starts; nobody is logged in, and its folders
    are the test's.
    """
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere" / name))
    monkeypatch.setenv("WANDB_MODE", "")  # so that what a run sets is taken back
    monkeypatch.delenv("WANDB_MODE")
    wandb.teardown()
    yield
    wandb.teardown()


def records(folder: Path) -> list[Record]:
    """What a run's file holds: a header of 7 bytes, then blocks of 32 KiB with pieces of
    records (LevelDB's log).
    """
    (file,) = folder.glob("run-*.wandb")
    content, found, record, at = file.read_bytes(), [], b"", 7
    while at + 7 <= len(content):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last piece
            found.append(Record.FromString(record))
            record = b""
    return found


def values(items: Any) -> dict[str, Any]:
    """Name → value; of a picture or a table, a dict."""
    found: dict[str, Any] = {}
    for item in items:
        *path, last = item.nested_key or [item.key]
        node = found
        for name in path:
            node = node.setdefault(name, {})
        node[last] = json.loads(item.value_json)
    return found


def histories(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Name → (iteration, value) in the order they were logged."""
    found = defaultdict(list)
    for record in records(folder):
        if record.WhichOneof("record_type") == "history":
            row = values(record.history.item)
            for name in row.keys() - {AXIS}:
                found[name].append((row[AXIS], row[name]))
    return dict(found)


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records(folder):
        found |= values(record.summary.update)
    return found


def starts(folder: Path) -> list[Path]:
    """The folders that the starts of a run have left, oldest first."""
    wandb.teardown()  # wandb's service may still be writing when a run has been finished; this waits for it
    return sorted((folder / "wandb").glob("*run-2*"))


def power_cut(patch: pytest.MonkeyPatch) -> None:
    """In the sixth step, of which the last checkpoint is that of the fourth."""
    step = GaitRecognizer.training_step

    def training_step(self: GaitRecognizer, *arguments: Any) -> torch.Tensor:
        if self.global_step == 5:
            raise RuntimeError("power cut")
        return step(self, *arguments)

    patch.setattr(GaitRecognizer, "training_step", training_step)


def test_a_run_read_back(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One run, cut short and gone on with, on both dashboards, with secrets in the environment."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    with monkeypatch.context() as patch:
        power_cut(patch)
        with pytest.raises(RuntimeError, match="power cut"):
            train(configured("train", *TINY, *BOTH))
    assert wandb.run is None
    report = train(configured("train", *TINY, *BOTH))
    folder = tmp_path / "run"
    said = capfd.readouterr()
    assert said.err == ""
    assert "wandb" not in said.out

    first, second = starts(folder)
    begun = [record.run for start in (first, second) for record in records(start) if record.HasField("run")]
    assert {record.run_id for record in begun} == {(folder / "wandb" / "id").read_text()}
    assert {(record.project, record.display_name, record.run_group) for record in begun} == {
        ("cstl", "run", "")
    }

    # names and the axis, in both starts
    for start in (first, second):
        axes = {
            r.metric.glob_name or r.metric.name: r.metric.step_metric
            for r in records(start)
            if r.HasField("metric")
        }
        assert axes["*"] == AXIS
    before, after = histories(first), histories(second)
    losses = {
        "loss",
        "triplet",
        "cross_entropy",
        "active_triplets",
        "mean_distance",
        "gradient_norm",
        "learning_rate",
    }
    for name in (f"train/{name}" for name in losses):
        assert [step for step, _ in before[name]] == [1, 2, 3, 4, 5], name
        assert [step for step, _ in after[name]] == [5, 6], name
        assert before[name][-1] == after[name][0], name  # what comes twice is the same
    assert all(0 <= share <= 1 for _, share in before["train/active_triplets"])
    assert [step for step, _ in before["test/rank1/mean"]] == [3]
    assert [step for step, _ in after["test/rank1/mean"]] == [6]
    for probe in ("NM", "BG"):
        assert after[f"test/rank1/{probe}"][-1][1] == pytest.approx(report["rank1"][probe]["mean"])
        for view, rank1 in report["rank1"][probe]["per_view"].items():
            assert after[f"test/rank1/{probe}/{view}"][-1] == (6, pytest.approx(rank1))
    assert [step for step, _ in before["speed/sequences_per_second"]] == [1, 2, 3, 4, 5]
    assert all(0 <= share <= 1 for _, share in before["speed/waiting_for_data"])
    assert all(gib > 0 for _, gib in before["speed/memory"])

    # tables and pictures, whose files are there
    media = {
        name: row[-1]
        for name, row in (after | {"pictures/silhouettes": before["pictures/silhouettes"]}).items()
    }
    for name in ("heat_maps", "salient_frames", "silhouettes"):
        step, picture = media[f"pictures/{name}"]
        assert (step, picture["_type"]) == (0 if name == "silhouettes" else 6, "images/separated")
        start = first if name == "silhouettes" else second
        assert all((start / "files" / file).stat().st_size > 1000 for file in picture["filenames"])
    table = json.loads((second / "files" / media["tables/rank1"][1]["path"]).read_text())
    assert table["columns"] == ["probe", "method", "000", "090", "mean"]
    assert [row[:2] for row in table["data"]] == [["NM", "CSTL"], ["BG", "CSTL"]]
    assert [row[4] for row in table["data"]] == [report["rank1"][probe]["mean"] for probe in ("NM", "BG")]
    table = json.loads((second / "files" / media["tables/NM"][1]["path"]).read_text())
    assert table["columns"] == ["probe view", "000", "090"]
    assert [row[0] for row in table["data"]] == ["000", "090"]

    # settings and summary
    config: dict[str, Any] = {}
    for record in records(first):
        config |= values(record.config.update)
    assert (config["seed"], config["model"]["triplet"]["margin"], config["dataset"]["name"]) == (
        1,
        0.2,
        "tiny",
    )
    assert config["versions"]["cstl"]
    assert config["commit"] == commit()
    final = summary(second)
    assert final["test/rank1/mean"] == after["test/rank1/mean"][-1][1]
    assert [r.exit.exit_code for start in (first, second) for r in records(start) if r.HasField("exit")] == [
        1,
        0,
    ]

    # TensorBoard has the same, and what came twice only once
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = {name: [event.step for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert all(scalars[f"train/{name}"] == [1, 2, 3, 4, 5, 6] for name in losses)
    assert scalars["test/rank1/NM/090"] == scalars["test/rank1/mean"] == [3, 6]
    assert scalars["speed/waiting_for_data"] == [1, 2, 3, 4, 5, 6]
    assert set(events.Tags()["images"]) == {
        f"pictures/{name}" for name in ("heat_maps", "salient_frames", "silhouettes")
    }
    text = {name.removesuffix("/text_summary"): events.Tensors(name)[-1] for name in events.Tags()["tensors"]}
    assert text.keys() == {"configuration", "tables/rank1", "tables/NM", "tables/BG"}
    assert b"margin: 0.2" in text["configuration"].tensor_proto.string_val[0]

    # metrics.csv is that of a run that was never cut short and has no dashboard
    train(configured("train", *TINY, folder="plain"))
    assert (folder / "metrics.csv").read_bytes() == (tmp_path / "plain" / "metrics.csv").read_bytes()
    assert not any(name.startswith("speed/") for row in read_rows(folder / "metrics.csv") for name in row)

    leaks = [path for path in folder.rglob("*") if path.is_file() and b"5ec2e7" in path.read_bytes()]
    assert leaks == []


def test_training_goes_on_where_the_service_does_not_answer(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A port that refuses; the second job of the sweep neither waits nor says it again."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", SECRETS["WANDB_API_KEY"])
    online = ("logger=wandb", "logger.wandb.timeout=1", "trainer.max_steps=1", "hydra.mode=MULTIRUN")
    assert train(configured("train", *TINY, *online, "hydra.job.num=0", folder="0"))["rank1"]
    said = capfd.readouterr().err
    assert said.count("Training goes on, logged offline") == 1
    assert "127.0.0.1:9" in said
    assert f"wandb sync {tmp_path / '0' / 'wandb'}/*run-*" in said
    assert "5ec2e7" not in said
    assert train(configured("train", *TINY, *online, "hydra.job.num=1", "name=0", folder="1"))["rank1"]
    assert capfd.readouterr().err == ""
    for number in (0, 1):
        (start,) = starts(tmp_path / str(number))  # nothing of the run that could not begin is left
        (begun,) = [record.run for record in records(start) if record.HasField("run")]
        assert (begun.display_name, begun.run_group) == (f"0-{number}", "0")
        assert summary(start)["test/rank1/mean"] >= 0


def test_without_a_key_it_says_so_and_asks_nothing(
    configured: Configure, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    online = ("logger=wandb", "logger.mode=online", "+logger.wandb.tags=[a,b]", "~callbacks.pictures")
    train(configured("train", *TINY, *online, "trainer.max_steps=1"))
    said = capfd.readouterr().err
    assert (
        said.count("nobody is logged in here, `wandb login` does so. Training goes on, logged offline") == 1
    )
    (start,) = starts(tmp_path / "run")
    assert start.name.startswith("offline-run-")
    assert [list(record.run.tags) for record in records(start) if record.HasField("run")] == [["a", "b"]]
    assert not (start / "files" / "media").exists()  # no silhouettes, as asked


def test_disabled_is_nothing_and_other_modes_are_refused(configured: Configure, tmp_path: Path) -> None:
    trainer = make_trainer(configured("train", *TINY, "logger=wandb", "logger.mode=disabled"), tmp_path)
    assert [type(logger).__name__ for logger in trainer.loggers] == ["CSVLog"]
    with pytest.raises(ValueError, match=r"logger\.mode=on: expected one of online, offline, disabled"):
        refuse_impossible(configured("train", *TINY, "logger=wandb", "logger.mode='on'"), "train")


def test_the_environment_chooses_the_mode_unless_the_command_line_does(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configured("train", *TINY, "logger=wandb").logger.wandb.mode == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert configured("train", *TINY, "logger=wandb").logger.wandb.mode == "offline"
    assert configured("train", *TINY, "logger=wandb", "logger.mode=online").logger.wandb.mode == "online"


def test_only_the_first_process_logs(tmp_path: Path) -> None:
    loggers = [TensorBoardLog(tmp_path), WandbLog(tmp_path)]
    assert dashboards(SimpleNamespace(loggers=loggers, is_global_zero=True)) == loggers
    assert dashboards(SimpleNamespace(loggers=loggers, is_global_zero=False)) == []


def test_speed_counts_waiting_and_leaves_evaluations_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a clock of the test: each step waits 1 s and computes 3 s, an evaluation in between takes 100 s."""
    now, rows = [0.0], []
    monkeypatch.setattr(dashboard.time, "perf_counter", lambda: now[0])
    logger = TensorBoardLog(tmp_path)
    monkeypatch.setattr(logger, "log_metrics", lambda metrics, step: rows.append((step, metrics)))
    trainer = SimpleNamespace(
        loggers=[logger], is_global_zero=True, world_size=2, log_every_n_steps=2, global_step=0
    )
    module, batch = SimpleNamespace(device=torch.device("cpu")), SimpleNamespace(labels=torch.zeros(6))
    speed: Any = Speed()
    speed.on_train_start(trainer, module)
    for step in range(1, 5):
        now[0] += 1
        speed.on_train_batch_start(trainer, module, batch, step - 1)
        now[0] += 3
        trainer.global_step = step
        speed.on_train_batch_end(trainer, module, None, batch, step - 1)
        if step == 3:
            speed.on_validation_start(trainer, module)
            now[0] += 100
            speed.on_validation_end(trainer, module)
    assert [step for step, _ in rows] == [2, 4]
    for _, metrics in rows:
        assert metrics["speed/waiting_for_data"] == pytest.approx(1 / 4)
        assert metrics["speed/sequences_per_second"] == pytest.approx(2 * 6 / 4)  # of both processes


@pytest.mark.parametrize("mining", ["all", "hard"])
def test_the_share_of_active_triplets_counts_all_there_are(mining: Any) -> None:
    labels = torch.tensor([3, 3, 3, 8, 8, 5])
    triplets = [(a, p, n) for a in labels for p in labels for n in labels if a == p and a != n]
    loss = TripletLoss(margin=1e6, mining=mining)  # so that every one is active
    terms = loss.num_terms(labels)
    assert int(terms) == (len(triplets) if mining == "all" else 6)
    assert loss(torch.randn(6, 4, 8), labels).active.tolist() == [int(terms)] * 4


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_code_or_none(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ("git", "-C", tmp_path, *who, *words), capture_output=True, text=True, check=True
        ).stdout

    git("init", "-q")
    (tmp_path / "dashboards.py").write_text("")
    assert commit(tmp_path) is None  # somebody else's repository around ours
    git("add", ".")
    git("commit", "-qm", "first")
    assert commit(tmp_path) == git("rev-parse", "HEAD").strip()
    (tmp_path / "dashboards.py").write_text("changed")
    assert commit(tmp_path) == git("rev-parse", "HEAD").strip() + "-dirty"
    shutil.rmtree(tmp_path / ".git")
    assert commit(tmp_path) is None


def test_the_sweep_file_makes_commands_that_compose(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an agent makes them, from what the service would send it."""
    monkeypatch.setenv("WANDB_RUN_ID", "ab12cd34")
    sweep = yaml.safe_load((Path(__file__).parents[1] / "scripts" / "wandb_sweep.yaml").read_text())
    assert sweep.keys() == {"name", "project", "program", "method", "metric", "parameters", "command"}
    assert sweep["method"] == "grid"
    assert sweep["metric"]["name"].startswith("validation/")
    grid = [(margin, seed) for margin in (0.1, 0.2, 0.3) for seed in (1, 2, 3)]
    assert [sweep["parameters"][name]["values"] for name in ("model.triplet.margin", "seed")] == [
        [0.1, 0.2, 0.3],
        [1, 2, 3],
    ]
    for margin, seed in grid:
        chosen = {"model.triplet.margin": {"value": margin}, "seed": {"value": seed}}
        macros = create_sweep_command_args({"args": chosen})
        command = create_sweep_command(list(sweep["command"]))
        words = [
            word
            for part in command
            for word in (macros["args_no_hyphens"] if part == "${args_no_hyphens}" else [part])
        ]
        assert words[:4] == ["${env}", "${interpreter}", "-m", "${program}"]
        assert sweep["program"] == "cstl.train"
        config = configured(
            "train", *[word for word in words[4:] if not word.startswith("name=")], words[8], folder="x"
        )
        assert (config.model.triplet.margin, config.seed, config.name) == (
            margin,
            seed,
            "margin-seed-ab12cd34",
        )
        assert config.logger.wandb.project == sweep["project"]
        assert config.dataset.protocol.validation == 8
