"""The benchmarks run and say what they should; no figure of theirs is judged here."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.profilers import SimpleProfiler

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))  # as for `python scripts/benchmark.py`

from benchmark_gpu import Clock  # noqa: E402
from benchmarks import harness  # noqa: E402
from benchmarks.harness import Row, paired_ratio, peak_memory  # noqa: E402


class FakeTime:
    """A clock that only `spend` moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def spend(self, name: str, seconds: Callable[[int], float]) -> Callable[[], None]:
        def function() -> None:
            self.now += seconds(self.calls.count(name))
            self.calls.append(name)

        return function


def test_a_ratio_is_the_median_over_pairs() -> None:
    time = FakeTime()
    ours = time.spend("ours", [100.0, 3.0, 8.0, 30.0].__getitem__)  # the first is the warm-up
    floor = time.spend("floor", [100.0, 2.0, 4.0, 20.0].__getitem__)
    # of 1.5, 2, 1.5; 3, 8, 30; 2, 4, 20
    assert paired_ratio(ours, floor, pairs=3, clock=time) == (1.5, 8.0, 4.0)
    assert time.calls == ["floor", "ours", "ours", "floor"] * 2  # which comes first alternates


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    time = FakeTime()
    ours, floor = time.spend("ours", lambda n: 3.0 * 2**n), time.spend("floor", lambda n: 2.0 * 2**n)
    assert paired_ratio(ours, floor, pairs=7, warmup=0, clock=time)[0] == 1.5


def test_rows_are_judged_by_their_direction() -> None:
    figures = {"ask": 1.5, "seconds": 1.0, "floor_seconds": 1.0}
    assert [Row("", ratio, direction="at most", **figures).met for ratio in (1.4, 1.5, 1.6)] == [
        True,
        True,
        False,
    ]
    assert [Row("", ratio, direction="at least", **figures).met for ratio in (1.4, 1.5, 1.6)] == [
        False,
        True,
        True,
    ]
    with pytest.raises(ValueError, match="direction is 'below', expected 'at most' or 'at least'"):
        Row("", 1.0, direction="below", **figures)


def test_peak_memory_is_what_the_function_takes() -> None:
    assert peak_memory(np.full, 10**8, 1, np.uint8) == pytest.approx(10**8, rel=0.1)


def test_markers_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nb\n")
    harness.replace_marked(
        page, "benchmark", harness.markdown_table(["what", "takes"], [["it", harness.duration(0.0125)]])
    )
    table = "| what | takes |\n| --- | ---: |\n| it | 12.5 ms |"
    assert page.read_text() == f"a\n<!-- benchmark -->\n{table}\n<!-- /benchmark -->\nb\n"
    with pytest.raises(ValueError, match="expected a line <!-- benchmark-gpu -->"):
        harness.replace_marked(page, "benchmark-gpu", "")


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command(tmp_path: Path) -> None:
    out, page = tmp_path / "benchmark.json", tmp_path / "page.md"
    page.write_text("<!-- benchmark -->\n<!-- /benchmark -->\n")
    only = [
        "--only",
        "batches 64×44",
        "evaluation time",
        "evaluation memory",
        "preparation 64",
        "set, float32",
        "opening",
    ]
    only += ["step, bf16 mixed, over its four"]
    done = run("benchmark.py", "--quick", "--out", str(out), "--markdown", str(page), *only)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    found = json.loads(out.read_text())
    assert found["quick"]
    assert "these figures mean nothing" in done.stdout
    assert found["machine"]["cores"] >= 1
    assert {"torch", "python"} <= found["versions"].keys()
    rows = {row["name"]: row for row in found["rows"]}
    assert {
        "batches 64×44",
        "embedding a test set, float32",
        "evaluation time",
        "evaluation memory",
        "preparation 64×44",
        "training step, bf16 mixed, over its four convolutions",
    } <= rows.keys()
    assert not {"batches 128×88", "preparation 128×88", "embedding a test set, bf16"} & rows.keys()
    for name, row in rows.items():
        assert math.isfinite(row["ratio"]), name
        assert row["ratio"] > 0, name
        assert row["met"] == (
            row["ratio"] <= row["ask"] if row["direction"] == "at most" else row["ratio"] >= row["ask"]
        )
        assert f"| {name} |" in page.read_text()
    curves = {curve["name"]: curve for curve in found["curves"]}
    assert "evaluation over sequences" not in curves
    assert [point["sequences"] for point in curves["opening a store"]["points"]] == [100, 1000]


def test_waits_are_those_between_the_looks_at_the_clock() -> None:
    profiler = SimpleProfiler()
    clock = Clock(2, 4, profiler)
    waits = profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]
    module = SimpleNamespace(device=torch.device("cpu"))
    waits += [9.0]  # fetched ahead, before the first step
    for step in (1, 2, 3, 4, 5):
        waits += [7.0 if step in (1, 2, 5) else 0.25]
        clock.on_train_batch_end(SimpleNamespace(global_step=step), module)  # type: ignore[arg-type]
    assert clock.between()[1] == pytest.approx(0.5)


def test_the_gpu_script_at_tiny_size_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = run(
        "benchmark_gpu.py",
        "--device",
        "cpu",
        "--quick",
        "--compile",
        "off",
        "--steps",
        "4",
        "--out",
        str(out),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    (row,) = found["rows"]
    assert (found["device"], found["batch"]) == (
        "CPU",
        {"subjects": 2, "sequences": 2, "frames": 4, "height": 64},
    )
    assert row["sequences_per_second"] == pytest.approx(4 / row["step_seconds"])
    assert row["hours"] == pytest.approx(150_000 * row["step_seconds"] / 3600)
    rate = row["operations_per_step"] / row["step_seconds"]
    assert row["share_of_matrix_rate"] == pytest.approx(rate / found["matrix_operations_per_second"])
    assert 0 < row["share_waiting_for_data"] < 1
    # forward and backward of the four convolutions, but for the first one's input
    pixels, frames = 64 * 44, 4 * 4
    convolutions = 2 * 9 * frames * pixels * (2 * 1 * 4 + 3 * 4 * 8 + 3 * (8 * 16 + 16 * 16) / 4)
    assert convolutions < row["operations_per_step"] < 2 * convolutions
