"""Runs and checkpoints of 0.1, whose keys had other names, are evaluated, reported and compared."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from cstl.config import RENAMED, checked, decisive
from cstl.evaluate import evaluate
from cstl.reporting.comparison import compare
from cstl.reporting.folder import read_run
from cstl.running.typed import read
from cstl.train import train

RUNS = Path(__file__).parent / "golden" / "runs_of_0_1"
NAMES = {"plain": "CSTL", "ablated": "CSTL (ssfl: none)"}
AS_THEN = (
    "dataset=tiny", "trainer=cpu", "dataset.store=data/tiny-64", "model.network.embedding_dim=2",
    "model.network.channels=[1,1,4]", "trainer.max_steps=4", "model.network.reduction=4",
    "model.triplet.margin=0.3",
    "evaluate_every=null",
)  # fmt: skip


@pytest.fixture(autouse=True)
def at_home(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the runs lay: their store is found from there."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(store.path, tmp_path / "data" / "tiny-64")
    shutil.copytree(RUNS, tmp_path / "runs")


@pytest.mark.parametrize("run", NAMES)
def test_a_checkpoint_is_evaluated(run: str, configured: Callable[..., DictConfig], tmp_path: Path) -> None:
    found = evaluate(
        configured("evaluate", f"checkpoint=runs/{run}/checkpoints/step-0000004.ckpt", folder="again")
    )
    then = json.loads((RUNS / run / "results.json").read_text())
    for key in ("method", "rank1", "trained_subjects", "test_subjects", "measures"):
        assert found[key] == then[key]
    written = OmegaConf.load(tmp_path / "again" / "config.yaml")
    assert (written.model.triplet.margin, written.dataset.store) == (0.3, "data/tiny-64")
    assert not {"margin", "learning_rate"} & set(written.model)
    assert not {"recipe"} & set(written.dataset)
    assert not {"store", "protocol", "seed"} & set(written.data)


def test_a_checkpoint_that_names_a_class_is_refused(
    configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    content = torch.load("runs/plain/checkpoints/step-0000004.ckpt", weights_only=True)
    evil = copy.deepcopy(content)
    evil["config"]["model"]["network"]["_target_"] = "os.mkdir"
    torch.save(evil, tmp_path / "evil.ckpt")
    with pytest.raises(
        ValueError, match=r"model\.network is os\.mkdir, and what is called is not read from a file"
    ):
        evaluate(configured("evaluate", "checkpoint=evil.ckpt", folder="again"))


def test_a_folder_is_read(tmp_path: Path) -> None:
    for name, method in NAMES.items():
        run = read_run(tmp_path / "runs" / name)
        assert run.method == method
        assert run.config["data"]["frames"] == 4
        assert run.config["model"]["optimizer"]["lr"] == 1e-3


def test_runs_of_both_versions_are_compared(configured: Callable[..., DictConfig], tmp_path: Path) -> None:
    """The same settings are no difference; the numbers are the same, too."""
    now = train(configured("train", *AS_THEN, folder="now"))
    then = json.loads((RUNS / "plain" / "results.json").read_text())
    assert now["measures"] == then["measures"]
    settings = [
        checked(OmegaConf.to_container(OmegaConf.load(f"{folder}/config.yaml")))
        for folder in ("runs/plain", "now")
    ]
    assert decisive(settings[0]) == decisive(settings[1])
    (table,), _ = compare([tmp_path / "runs" / "plain", tmp_path / "now"])
    assert table.settings == []
    (table,), _ = compare([tmp_path / "runs" / "ablated", tmp_path / "now"])
    assert table.settings == ["method"]


@pytest.mark.parametrize("key", RENAMED)
def test_a_key_of_0_1_is_answered_with_its_name_now(key: str) -> None:
    answer = f"{key} is {RENAMED[key]} since 0.2: type {RENAMED[key]}=1"
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}$"):
        read("train", [f"{key}=1"])


def test_settings_of_this_version_stay_as_they_are() -> None:
    settings = {
        "model": {"triplet": None, "optimizer": {"lr": 1.0}},
        "dataset": {"name": "a"},
        "data": {"frames": 3},
    }
    assert checked(settings) is settings
