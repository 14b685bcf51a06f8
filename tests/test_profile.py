"""experiment=profile: a trace to open and a table to read, in the run's folder; nothing is evaluated."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from cstl.train import train


def test_a_profile_can_be_opened(
    configured: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(configured("train", "experiment=profile", "dataset=tiny", "trainer=cpu", "name=run"))
    (trace,) = (tmp_path / "run" / "profile").glob("trace.*.json")
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::convolution_backward", "aten::bmm"} <= names
    (table,) = (tmp_path / "run" / "profile").glob("*operators*.txt")
    assert "aten::convolution_backward" in table.read_text()
    assert "Self CPU" in table.read_text()
    assert not (tmp_path / "run" / "results.json").exists()
    shown = capsys.readouterr().out
    assert "  profile " in shown
    assert shown.rstrip().endswith(
        "cstl.evaluate checkpoint=" + str(tmp_path / "run/checkpoints/step-0000005.ckpt")
    )
    again = ("dataset=tiny", "trainer=cpu", "name=run", "trainer.max_steps=5", "evaluate_every=null")
    assert train(configured("train", *again))["rank1"]  # what was only trained is evaluated later
