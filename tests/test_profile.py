"""experiment=profile: a trace to open and a table to read."""

import json
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from cstl.train import train


def test_a_profile_can_be_opened(configured: Callable[..., DictConfig], tmp_path: Path) -> None:
    left = train(configured("train", "experiment=profile", "dataset=tiny", "trainer=cpu"))
    assert Path(left["trace"]).parent == Path(left["operators"]).parent == tmp_path / "run"
    names = {event["name"] for event in json.loads(Path(left["trace"]).read_text())["traceEvents"]}
    assert {"aten::convolution_backward", "aten::bmm"} <= names
    table = Path(left["operators"]).read_text()
    assert "aten::convolution_backward" in table
    assert "Self CPU" in table
