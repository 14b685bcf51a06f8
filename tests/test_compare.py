"""Comparisons of runs: rows, intervals, baselines, and folders in every state."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from cstl.compare import main
from cstl.data import Protocol
from cstl.evaluate import evaluate
from cstl.files import write_json
from cstl.recognizer import cross_view_accuracy
from cstl.reporting.comparison import Table, compare
from cstl.reporting.entry import ShownRun, rank1
from cstl.run_folder import find_runs, write_probes
from cstl.train import train

PROTOCOL = Protocol(
    views=("000", "045", "090"),
    conditions=("nm-01", "nm-02", "nm-03", "bg-01"),
    gallery=("nm-01",),
    probes={"NM": ("nm-02", "nm-03"), "BG": ("bg-01",)},
    train=("001-004",),
    test=("005-012",),
)

WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteRun:
    """The function (name, noise, **settings) that writes what a finished run leaves, of random embeddings."""
    monkeypatch.chdir(tmp_path)

    def write(
        name: str, noise: float = 1.0, *, protocol: Protocol = PROTOCOL, res: int = 64, **settings: Any
    ) -> Path:
        model = {
            "margin": 0.2,
            "mining": "all",
            "learning_rate": 1e-3,
            "network": {"scales": ["frame", "short"]},
        }
        config = {
            "res": res, "seed": 1, "name": name, "model": model, "trainer": {"max_steps": 10}, "logger": {},
            "dataset": {"name": "tiny", "title": "Tiny", "protocol": asdict(protocol)}, "data": {"steps": 10},
        }  # fmt: skip
        config = OmegaConf.create(config)
        for key, value in settings.items():
            OmegaConf.update(config, key.replace("__", "."), value)
        plain: Any = OmegaConf.to_container(config)
        subjects = protocol.test_subjects
        shape = len(subjects), len(protocol.conditions), len(protocol.views)
        labels = torch.cartesian_prod(*(torch.arange(length) for length in shape))
        labels = labels[torch.arange(len(labels)) % 11 != 3]  # some sequences are missing, as in life
        generator = torch.Generator().manual_seed(plain["seed"] + int(1000 * plain["model"]["margin"]))
        places = 3 * torch.randn(len(subjects), 2, generator=torch.Generator().manual_seed(9))
        embeddings = places[labels[:, 0]] + noise * torch.randn(len(labels), 2, generator=generator)
        metric = cross_view_accuracy(protocol)
        metric.update(embeddings[:, None], *labels.T)
        result = metric.compute()

        folder = tmp_path / name
        folder.mkdir(parents=True)
        OmegaConf.save(config, folder / "config.yaml")
        found = {"subjects": subjects, "conditions": protocol.conditions, "views": result.views}
        write_probes(folder / "probes.npz", result.arrays(), **found)
        told = {
            "dataset": plain["dataset"]["name"], "trained_on": plain["dataset"]["name"],
            "rank1": result.rows(),
            "resolution": [res, res * 11 // 16], "test_subjects": len(subjects),
        }  # fmt: skip
        write_json(folder / "results.json", told)
        return folder

    return write


def table_of(*folders: Path, **options: Any) -> Table:
    (table,), _ = compare(folders, **options)
    return table


def of_run(folder: Path, weights: np.ndarray) -> dict[str, np.ndarray]:
    run = ShownRun(folder)
    assert run.tallies, run.problems
    return rank1(run.tallies, weights)


def slow_rank1(folder: Path, counts: np.ndarray, probe: str) -> float:
    """The published number over test subjects that count several times, straight from its definition."""
    with np.load(folder / "probes.npz") as file:
        probes = {name: file[name] for name in file.files}
    of_view = []
    for v in range(len(probes["views"])):
        of_gallery = []
        for g in range(len(probes["views"])):
            cells = []
            for i in range(len(probes["sequence"])):
                if (
                    probes["view"][i] == v
                    and probes["conditions"][probes["condition"][i]] in PROTOCOL.probes[probe]
                ):
                    cells += [probes["wrong"][i, g] == 0] * counts[probes["subject"][i]]
            if g != v and cells:
                of_gallery.append(100 * np.mean(cells))
        if of_gallery:
            of_view.append(np.mean(of_gallery))
    return float(np.mean(of_view))


def test_probes_give_the_numbers_of_the_results(write_run: WriteRun) -> None:
    folder = write_run("one", 2.0)
    told = json.loads((folder / "results.json").read_text())["rank1"]
    found = of_run(folder, np.ones((1, 8)))
    for probe in PROTOCOL.probes:
        assert found[probe][0] == pytest.approx(told[probe]["mean"], abs=1e-9)
        assert slow_rank1(folder, np.ones(8, int), probe) == pytest.approx(told[probe]["mean"], abs=1e-9)
    assert 20 < told["NM"]["mean"] < 90  # neither trivially


def test_a_run_and_its_evaluation(configured: Callable[..., DictConfig], tmp_path: Path) -> None:
    few = ("data.workers=0", "trainer=cpu", "baseline=false")
    report = train(configured("train", "dataset=tiny", *few, "trainer.max_steps=1"))
    checkpoint = f"checkpoint='{report['checkpoint']}'"
    evaluate(configured("evaluate", checkpoint, *few, "max_frames=2", folder="short"))
    evaluate(configured("evaluate", checkpoint, *few, folder="again"))
    for name in ("run", "short", "again"):
        found = ShownRun(tmp_path / name)
        assert found.tallies, found.problems
        assert found.probes is not None
        assert found.probes.subjects == ["005", "006"]
    table = table_of(tmp_path / "run", tmp_path / "short", tmp_path / "again")
    rows = {tuple(run.folder.name for run in row.runs): row.settings.get("max_frames") for row in table.rows}
    assert rows == {("run", "again"): None, ("short",): 2}
    assert table.settings == ["max_frames"]
    assert table.rows[table.baseline or 0].runs[0].folder.name == "run"


def test_resampled_subjects_count_as_often_as_they_were_drawn(write_run: WriteRun) -> None:
    folder = write_run("one", 2.0)
    counts = np.random.default_rng(3).multinomial(8, np.full(8, 1 / 8), 5)
    for probe, scores in of_run(folder, counts.astype(float)).items():
        assert scores == pytest.approx([slow_rank1(folder, some, probe) for some in counts], abs=1e-9)
    nobody = of_run(folder, np.zeros((1, 8)))
    assert all(math.isnan(score[0]) for score in nobody.values())


def test_a_single_view_is_compared_with_itself(write_run: WriteRun) -> None:
    protocol = Protocol(**(asdict(PROTOCOL) | {"views": ("000",)}))
    folder = write_run("one", 1.5, protocol=protocol)
    run = ShownRun(folder)
    assert run.tallies
    assert run.means.keys() == {"NM", "BG"}


def test_seeds_are_one_row_best_first_and_only_what_differs_is_shown(write_run: WriteRun) -> None:
    for seed in (1, 2, 3):
        write_run(f"sweep/{seed}", 2.0, seed=seed)
        steps = {"trainer__max_steps": 20, "data__steps": 20}
        write_run(f"sweep/{seed + 3}", 1.2, seed=seed, model__margin=0.3, model__mining="hard", **steps)
    table = table_of(Path("sweep"))
    assert [[run.folder.name for run in row.runs] for row in table.rows] == [["4", "5", "6"], ["1", "2", "3"]]
    assert table.settings == ["model.triplet.margin", "model.triplet.mining", "trainer.max_steps"]
    best, paper = table.rows
    told = [json.loads(Path(f"sweep/{i}/results.json").read_text())["rank1"]["NM"]["mean"] for i in (4, 5, 6)]
    assert best.means["NM"] == told
    assert table.baseline == 1  # the paper's margin and mining, though it is not the best
    assert paper.difference == {}
    means = [[sum(row.means[p][i] for p in ("NM", "BG")) / 2 for i in range(3)] for row in table.rows]
    assert best.difference["mean"] == pytest.approx(np.mean(means[0]) - np.mean(means[1]))
    assert best.interval["mean"][0] < best.difference["mean"] < best.interval["mean"][1]


def test_the_interval_resamples_the_same_subjects_for_both(write_run: WriteRun) -> None:
    worse, better = write_run("worse", 2.0), write_run("better", 1.5, model__margin=0.3)
    table = table_of(worse, better, baseline=[str(worse)], resamples=40, seed=5)
    counts = np.random.default_rng(5).multinomial(8, np.full(8, 1 / 8), 40)
    drawn = [slow_rank1(better, some, "NM") - slow_rank1(worse, some, "NM") for some in counts]
    row = next(row for row in table.rows if row.difference)
    assert row.interval["NM"] == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))), abs=1e-9)
    assert any("8 subjects are few" in note for note in table.notes)
    again = table_of(worse, better, baseline=[str(worse)], resamples=40, seed=5)
    assert again.rows[0].interval == table.rows[0].interval


def test_a_run_is_not_different_from_its_copy(write_run: WriteRun) -> None:
    write_run("a", 2.0), write_run("b", 2.0, model__mining="hard")
    row = next(row for row in table_of(Path("a"), Path("b")).rows if row.difference)
    assert set(row.difference.values()) == {0.0}
    assert set(row.interval.values()) == {(0.0, 0.0)}


def test_baselines(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    for i, margin in enumerate((0.1, 0.3)):
        write_run(f"sweep/{2 * i}", 1.0, model__margin=margin)
        write_run(f"sweep/{2 * i + 1}", 1.0, model__margin=margin, model__mining="hard")
    sweep = Path("sweep")

    def of(*baseline: str) -> str:
        table = table_of(sweep, baseline=baseline)
        assert table.baseline is not None
        return table.rows[table.baseline].runs[0].folder.name

    assert of() == "0"  # none has the paper's margin: the first
    assert (
        of("model.triplet.margin=0.3 model.triplet.mining=hard")
        == of("model.triplet.margin=0.3", "model.triplet.mining=hard")
        == "3"
    )
    assert of("sweep/2") == "2"
    outside = write_run("outside", 0.5, model__margin=0.25)
    table = table_of(sweep, baseline=[str(outside)])
    assert len(table.rows) == 5
    assert table.baseline == 0
    for baseline, message in {
        "model.triplet.margin=0.3": "2 rows are that, name one: model.triplet.margin=0.3 model.trip",
        "model.triplet.margin=0.7": "no finished run is that; the settings that differ are model.trip",
        "sweep/9": "expected a run's folder that is there, or settings",
    }.items():
        assert main(["sweep", "--baseline", baseline]) == 1
        assert message in capsys.readouterr().err


def test_runs_in_every_state(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Failed, unfinished, from an older version, damaged: each is shown for what it is, in 80 columns."""
    long = "x" * 30
    write_run("sweep/0", 2.0, seed=1)
    write_run("sweep/1", 1.8, seed=2)
    (write_run("sweep/2", 0.5, model__margin=0.3) / "probes.npz").unlink()
    for number, text in ((3, None), (4, f"Traceback\n  …\n\nCUDA out of memory, {long}\n"), (5, "")):
        folder = write_run(f"sweep/{number}", model__margin=0.4, seed=number)
        (folder / "results.json").unlink()
        if text:
            (folder / "error.txt").write_text(text)
    (folder / "metrics.csv").write_text("step,train/loss\n1,3.0\n7,2.0\n")
    (write_run("sweep/6", model__margin=0.5) / "results.json").write_text('{"rank1"')
    not_begun = Path("sweep/7/.hydra")
    not_begun.mkdir(parents=True)
    OmegaConf.save({"res": 65, "name": "${now:%Y}", "model": {"margin": 0.6}}, not_begun / "config.yaml")
    Path("sweep/7/error.txt").write_text("unknown resolution res=65\n")
    Path("notes").mkdir()

    assert main(["sweep", "notes"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    flat = " ".join(shown.split())
    for part in (
        "1 64 0.3 1 ", "2 64 0.2 2 ", "± ", "– 64 0.4 failed", "– 64 0.4 stopped", "– 65 0.6 failed",
        "failed: sweep/4 (res=64 model.triplet.margin=0.4 seed=4): CUDA out of memory",
        "stopped: sweep/5 (res=64 model.triplet.margin=0.4 seed=5): at step 7 of 10",
        "stopped: sweep/3 (res=64 model.triplet.margin=0.4 seed=3): at step 0 of 10",
        "damaged: sweep/6 (res=64 model.triplet.margin=0.5 seed=1): results.json is damaged or from",
        "failed: sweep/7 (res=65 model.triplet.margin=0.6): unknown resolution res=65",
        "sweep/2: without an interval: probes.npz is not there (from an older version",
        "notes is left out: no run is in it",
    ):  # fmt: skip
        assert part in flat, part
    table = table_of(Path("sweep"))
    assert table.rows[0].interval == {}
    assert table.rows[0].difference["mean"] > 0

    with open("comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["finished"] * 2 + [
        "stopped",
        "failed",
        "stopped",
        "damaged",
        "failed",
    ]
    assert rows[1]["seeds"] == "1 2"
    assert rows[1]["baseline"] == "yes"
    means = [json.loads(Path(f"sweep/{i}/results.json").read_text())["rank1"]["BG"]["mean"] for i in (0, 1)]
    assert float(rows[1]["BG deviation"]) == pytest.approx(stdev(means), abs=1e-4)
    assert rows[3]["message"].startswith("CUDA out of memory")
    text = Path("comparison.md").read_text()
    assert text.count("\n| ") == 2 + 7
    assert "seed=4): CUDA out of memory" in text
    assert Path("comparison.png").read_bytes().startswith(b"\x89PNG")
    assert Path("comparison.pdf").read_bytes().startswith(b"%PDF")


def test_a_sweep_with_no_finished_run_shows_what_there_is(
    write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        (write_run(f"sweep/{number}", seed=number) / "results.json").unlink()
    Path("sweep/0/error.txt").write_text("no space left\n")
    assert main(["sweep"]) == 1
    shown = capsys.readouterr()
    assert "failed: sweep/0 (seed=0): no space left" in shown.out
    assert "Tiny: no finished run" in shown.out
    assert shown.err == "error: no finished run in sweep: 1 failed, 1 stopped; nothing to compare yet\n"
    assert not Path("sweep/comparison.csv").exists()


def test_other_test_subjects_are_another_table(
    write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = Protocol(**(asdict(PROTOCOL) | {"test": ("006-012",)}))
    write_run("a", 2.0), write_run("b", 1.0, model__margin=0.3), write_run("c", 1.0, protocol=fewer)
    write_run("d", 1.0, protocol=fewer, model__margin=0.3, seed=2)
    assert main(["a", "b", "c", "d", "--out", "out"]) == 0
    flat = " ".join(capsys.readouterr().out.split())
    assert "Tiny 64×44, 8 test subjects (005 to 012)" in flat
    assert "Tiny 64×44, 7 test subjects (006 to 012)" in flat
    assert "2 tables, since test subjects differ: a difference across them would mean nothing" in flat
    tables, remarks = compare([Path(name) for name in "abcd"], baseline=["a"])
    assert [table.baseline is not None for table in tables] == [True, False]
    assert "no differences: --baseline a is in another table" in tables[1].notes

    write_run("e", res=128)
    write_run("f", dataset__name="other")
    tables, remarks = compare([Path(name) for name in "aef"])
    assert len(tables) == 3
    assert "data sets and resolutions differ" in remarks[0]


def test_probes_that_a_run_lacks_are_left_out_of_every_mean(write_run: WriteRun) -> None:
    first, second = write_run("first", 2.0), write_run("second", 1.5, model__margin=0.3)
    told = json.loads((second / "results.json").read_text())
    told["rank1"]["BG"]["mean"] = None
    (second / "results.json").write_text(json.dumps(told))
    table = table_of(first, second)
    assert table.probes == ["NM"]
    assert "BG left out: no such probes in second" in table.notes
    assert all(row.means["mean"] == row.means["NM"] for row in table.rows)
    reasons = [note for note in table.notes if note.startswith("second: without an interval")]
    assert "another result than results.json" in reasons[0]


def test_many_settings_still_fit(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    write_run("a", 2.0)
    others = {
        "model__network__scales": ["frame", "short", "long"],
        "model__learning_rate": 0.5,
        "trainer__max_steps": 7,
    }
    write_run("b", 1.5, model__margin=0.3, model__mining="hard", **others)
    write_run("c", 1.5, model__margin=0.4)
    assert main(["a", "b", "c", "--out", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:1] == ["mining=hard"] for line in lines)


def test_networks_are_compared_with_what_they_cost(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = {"small": (1_000_000, 2_000_000), "large": (5_000_000, 40_000_000)}
    for name, (parameters, flops) in costs.items():
        for seed in (1, 2):
            target = {
                "model__network": {"_target_": f"nets.{name.title()}"},
                "data__clip": name,
                "seed": seed,
            }
            results = write_run(f"{name}{seed}", 1.5, **target) / "results.json"
            network = {
                "parameters": parameters,
                "flops": flops,
                "frames": 2,
                "seconds_a_sequence": 0.01 * seed,
            }
            write_json(results, json.loads(results.read_text()) | {"network": network})
    assert main(["small1", "small2", "large1", "large2", "--out", "out"]) == 0
    told = capsys.readouterr().out
    costs_of_small = ["Small", "1", "1", "15"]  # million parameters and operations a frame, milliseconds
    assert any(line.split()[1:] == costs_of_small for line in told.splitlines())
    assert "beside itself: data.clip" in " ".join(told.split())
    assert (tmp_path / "out" / "accuracy_cost.png").stat().st_size > 10_000
    assert "Accuracy against cost" in (tmp_path / "out" / "comparison.html").read_text()


def test_held_out_scores_are_shown_to_choose_by(
    write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, margin, noise, score in (("a", 0.2, 2.0, 80.0), ("b", 0.3, 1.0, 70.0)):
        folder = write_run(name, noise, model__margin=margin)
        (folder / "metrics.csv").write_text(f"step,validation/rank1/mean\n5,90\n10,{score}\n")
    (write_run("c", model__margin=0.4) / "results.json").unlink()
    assert main(["a", "b", "c"]) == 0
    flat = " ".join(capsys.readouterr().out.split())
    assert "BG mean held-out difference" in flat
    assert "– 0.4 stopped stopped: c" in flat
    assert "held-out: rank-1 on held-out training subjects, highest for #2. Choose settings by it" in flat
    (Path("a") / "checkpoints").mkdir()
    (Path("a") / "checkpoints" / "best.ckpt").touch()
    assert [ShownRun(Path(name)).held_out for name in "ab"] == [90.0, 70.0]


def test_what_cannot_be_compared_is_one_line(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    write_run("run")
    Path("empty").mkdir()
    for arguments, message in {
        ("nowhere",): "nowhere does not exist",
        ("empty",): "no run in empty; expected folders that `python -m cstl.train` made",
        ("run", "--resamples", "0"): "--resamples: expected 1 or more, found 0",
        (
            "run",
            "--baseline",
            "run",
            "--baseline",
            "model.triplet.margin=0.2",
        ): "give one run folder, or settings, not both",
    }.items():
        assert main(arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
    with pytest.raises(SystemExit, match="1"):
        main([])
    assert capsys.readouterr().err.startswith("error: the following arguments are required: runs")


def test_find_runs_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("sweep/10", "sweep/9", "sweep/.submitit", "deep/sweep/0"):
        (tmp_path / name).mkdir(parents=True)
        if not name.endswith("submitit"):
            (tmp_path / name / "config.yaml").touch()
    assert [path.name for path in find_runs(tmp_path / "sweep")] == ["9", "10"]
    assert find_runs(tmp_path / "deep") == [tmp_path / "deep" / "sweep" / "0"]
    assert find_runs(tmp_path / "sweep" / "9") == [tmp_path / "sweep" / "9"]


def test_two_runs_say_first_what_differs(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Each change once, networks by name, the first run is the baseline; what is the same is counted."""
    write_run("a", 2.0)
    network = {"_target_": "mine.Net", "width": 3}
    write_run(
        "b", 1.2, model__margin=0.3, seed=2, data__steps=20, trainer__max_steps=20, model__network=network
    )
    assert main(["a", "b", "--out", "out"]) == 0
    shown = capsys.readouterr().out
    first, second = shown.split("\nrun ")
    lines = [
        line.split(maxsplit=1) for line in first.partition("what differs")[2].splitlines()[2:] if line.strip()
    ]
    assert [key for key, _ in lines] == ["method", "seed", "model.triplet.margin", "trainer.max_steps"]
    assert lines[0][1].split() == ["CSTL", "(scales:", "frame,", "short)", "Net"]
    assert "_target_" not in shown
    assert [line.split()[0] for line in second.splitlines()[2:4]] == ["a", "b"]
    assert "baseline" in second.splitlines()[2]
    assert "points more than a; in brackets 95 %" in " ".join(shown.split())
    assert "the same in both: " in shown
    page = Path("out/comparison.html").read_text(encoding="utf-8")
    assert page.count('<svg class="forest"') == 1
    assert page.index("What differs") < page.index("95 % interval")
    assert "data set" not in first
    write_run("c", 2.0)
    assert main(["a", "c", "--out", "out"]) == 0
    assert "no setting differs" in capsys.readouterr().out
