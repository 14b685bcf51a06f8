"""The report: what it says of a run, what it does where something is missing, and how it
behaves in a browser.
"""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from cstl import report
from cstl.compare import main as compare_main
from cstl.config import CONFIG_PATH
from cstl.data import Protocol, Store
from cstl.metrics.probes import mean_over_galleries
from cstl.models import AblatedCSTL
from cstl.preparation.plan import Preparation
from cstl.preparation.prepare import prepare
from cstl.reporting import figures, findings, pictures
from cstl.reporting.entry import ShownRun, rank1
from cstl.reporting.folder import read_run
from cstl.reporting.page import report_run
from cstl.run_folder import Embeddings, Probes
from cstl.train import train

TINY = (
    "dataset=tiny",
    "data.workers=0",
    "trainer=cpu",
    "trainer.log_every_n_steps=1",
    "evaluate_every=3",
    "keep_embeddings=true",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, user_conf: Path) -> Path:
    """The folder of a finished run. Read only: copy it to spoil it."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    folder.mkdir()
    fixed = [f"hydra.searchpath=[file://{user_conf}]", f"hydra.runtime.output_dir={folder}", "name=first"]
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = compose("train", overrides=[*fixed, *TINY], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    train(config)
    HydraConfig.instance().cfg = None
    (folder / ".hydra").mkdir()
    OmegaConf.save(
        ["dataset=tiny", "name=first", "logger=csv"], folder / ".hydra" / "overrides.yaml"
    )  # the last start's
    command = "python -m cstl.train dataset=tiny name=first model.triplet.margin=0.2\n"
    (folder / "command.txt").write_text(command, encoding="utf-8")
    hydra = {"hydra": {"job": {"name": "train"}, "runtime": {"cwd": str(folder.parent)}}}
    OmegaConf.save(hydra, folder / ".hydra" / "hydra.yaml")
    return folder


@pytest.fixture(scope="module")
def mistaken(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which the first probes of each set are taken for another; on blobs the network
    may make no mistake.
    """
    folder = tmp_path_factory.mktemp("mistaken") / "first"
    shutil.copytree(finished, folder)
    with np.load(folder / "probes.npz") as file:
        arrays = dict(file)
    other = arrays["nearest"][arrays["subject"] == 1, 1][0]
    for condition in np.unique(arrays["condition"]):
        rows = (arrays["subject"] == 0) & (arrays["view"] == 0) & (arrays["condition"] == condition)
        arrays["wrong"][rows, 1], arrays["nearest"][rows, 1] = 1, other
    np.savez_compressed(folder / "probes.npz", **arrays)
    told = json.loads((folder / "results.json").read_text())["rank1"]
    run = ShownRun(folder)
    run.results = {}  # which has other numbers, until they are written
    for probe, mean in rank1(run.tallies).items():
        told[probe]["mean"] = float(mean)
    # the checkpoint as typed, from elsewhere; remarks are looked at in test_remarks.py
    checkpoint = "runs/first/checkpoints/step-0000006.ckpt"
    change(folder / "results.json", checkpoint=checkpoint, remarks=[], rank1=told)
    return folder


@pytest.fixture(scope="module")
def page(mistaken: Path) -> Path:
    """Its report, with figures."""
    return report_run(mistaken)


@pytest.fixture
def spoilt(mistaken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, whose figures are not drawn."""
    dot = pictures.cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes()
    monkeypatch.setattr(figures, "save", lambda *_: dot)
    monkeypatch.setattr(figures, "to_png", lambda *_: dot)
    folder = tmp_path / "first"
    shutil.copytree(mistaken, folder, ignore=shutil.ignore_patterns("figures", "report.html"))
    return folder


class Page(HTMLParser):
    """The pictures, the addresses and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.words.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_one_file_says_everything(page: Path) -> None:
    content = read_page(page)
    assert page.stat().st_size < 8e6
    assert all(address.startswith(("data:", "#")) for address in content.addresses)
    assert len(content.images) > 20
    assert all(image["alt"] for image in content.images)
    for heading in (
        "Results", "Curves", "Views", "Who is taken for whom", "Hardest probes", "What the network looks at",
        "Map of the embeddings", "How it was made",
    ):  # fmt: skip
        assert heading in content.text
    assert "What to know " not in content.text
    results = json.loads((page.parent / "results.json").read_text())
    for probe, row in results["rank1"].items():
        assert f"{probe} rank-1 {row['mean']:.1f} %" in content.text
        assert f"{probe}: rank-1 (%), rows: probe view" in content.text
    assert "python -m cstl.train dataset=tiny name=first-again model.triplet.margin=0.2" in content.text
    assert f"torch {results['versions']['torch']}" in content.text
    assert "margin: 0.2" in content.text


def test_the_verdict_comes_first(page: Path, spoilt: Path) -> None:
    """The result, an interval, what guessing and GEI give, what the network costs, and whether
    something is wrong.
    """
    results = json.loads((page.parent / "results.json").read_text())
    text = read_page(page).text.partition("How it was made ")[2].partition(" Results ")[0]
    mean = np.mean([row["mean"] for row in results["rank1"].values()])
    assert text.startswith(f"Verdict {mean:.1f} % rank-1, the mean of NM, BG interval over subjects")
    for fact in (
        "guessing 50.0 %",
        "of so few it is too narrow",
        "baseline ",
        "parameters ",
        "FLOP ",
        "Nothing looks w",
    ):
        assert fact in text
    cost = results["network"]
    assert (cost["frames"], cost["flops"] > 1e5, cost["seconds_a_sequence"] > 0) == (4, True, True)
    change(
        spoilt / "results.json", remarks=["It cannot be told from guessing."], network={"parameters": 12345}
    )
    text = read_page(report_run(spoilt)).text
    assert "What looks wrong It cannot be told from guessing." in text
    assert "Nothing looks wrong" not in text
    assert "12.3 k" in text


def test_figures_for_papers(page: Path) -> None:
    names = {path.name for path in (page.parent / "figures").iterdir()}
    looked = {"attention_NM", "attention_BG"}
    stems = {"curves", "cross_view", "per_view", "confusion", "embeddings", "hardest"} | looked
    assert names == {f"{stem}.{ending}" for stem in stems for ending in ("pdf", "png")}


def test_heat_maps_and_table_agree(finished: Path) -> None:
    found = read_run(finished)
    for probe, row in found.results["rank1"].items():
        rank1 = findings.cross_view(found, probe)
        expected = [np.nan if value is None else value for value in row["per_view"].values()]
        np.testing.assert_allclose(mean_over_galleries(rank1), expected)


def hand_made() -> ShownRun:
    """Three probes of three subjects in two gallery views; lines 10, 11, 12 are the gallery's
    of subjects 0, 1, 2.
    """
    view = np.array([0, 0, 0])
    nearest = np.array([[10, 11], [11, 10], [12, 12]])
    probes = Probes(
        sequence=np.array([0, 1, 2]), subject=np.array([0, 1, 2]), condition=np.array([1, 1, 1]), view=view,
        wrong=np.array([[0, 2], [0, 1], [0, np.nan]], np.float32), nearest=nearest,
        nearest_distance=np.array([[1, 1], [1, 3], [1, 1]], np.float32),
        match=np.array([[10, 10], [11, 11], [12, -1]]),
        match_distance=np.array([[1, 2], [1, 9], [1, np.inf]], np.float32),
        subjects=["a", "b", "c"], conditions=["nm-01", "nm-02"], views=["000", "090"],
        gallery_sequences=np.array([3, 3]),
    )  # fmt: skip
    lines = np.array([0, 1, 2, 10, 11, 12])
    embeddings = Embeddings(
        np.zeros((6, 2), np.float16),
        lines,
        np.array([0, 1, 2, 0, 1, 2]),
        np.array([1, 1, 1, 0, 0, 0]),
        np.zeros(6, int),
    )
    run = ShownRun("hand")
    run.probes, run.embeddings = probes, embeddings
    return run


def test_an_interval_is_that_of_a_slow_loop_over_drawn_subjects() -> None:
    """Nobody of three is recognised in the other view, then one; a subject counts as often as it is drawn."""
    found = findings.intervals(hand_made())["mean"]
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    run = hand_made()
    run.probes.wrong[1, 1] = 0  # b is recognised
    hits = np.array([0, 1, 0])
    draws = np.random.default_rng(0).multinomial(3, np.full(3, 1 / 3), 1000)
    again = [100 * (draw * hits).sum() / 3 for draw in draws]
    found = findings.intervals(run)["mean"]
    assert found == pytest.approx((100 / 3, *np.percentile(again, (2.5, 97.5))))


def test_who_is_taken_for_whom() -> None:
    """Only the other view counts: a is taken for b, b for a; c, nearest to itself and no match,
    is left out.
    """
    found = findings.confusion(hand_made())
    assert found is not None
    assert found.subjects == ["a", "b"]
    assert found.percent.tolist() == [[0, 100], [100, 0]]
    assert found.pairs == [("a", "b", 100.0), ("b", "a", 100.0)]


def test_the_hardest_come_first() -> None:
    first, second = findings.hardest(hand_made(), "nm-02", 5)
    # by 6, not by 1
    assert (first.subject, first.gallery_view, first.nearest, first.match) == ("b", "090", 10, 11)
    assert (first.taken_for, first.right, first.missed, first.compared) == ("a nm-01", "b nm-01", 1, 1)
    assert second.subject == "a"


def test_many_subjects_show_the_most_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "CONFUSED", 1)
    found = findings.confusion(hand_made())
    assert found is not None
    assert (found.subjects, found.of) == (["a"], 2)


@pytest.mark.parametrize(
    "settings", [{}, {"ssfl": "none"}, {"aggregation": "mean"}, {"parts": 8, "scales": ["frame"]}]
)
def test_what_the_network_looks_at(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = AblatedCSTL(num_classes=2, channels=(2, 4, 16), embedding_dim=4, **settings).eval()
    silhouettes = np.random.default_rng(0).integers(0, 256, (6, 64, 44), dtype=np.uint8)
    found = pictures.look(network, silhouettes)
    attention = network.attention(torch.from_numpy(silhouettes)[None] / 255)
    assert len(found.scales) == (0 if "aggregation" in settings else len(settings.get("scales", "fsl")))
    for i, weights in enumerate(found.scales.values()):
        assert weights.shape == (6, network.parts)
        np.testing.assert_allclose(weights, attention.scales[0, :, :, i].mean(-1).detach(), rtol=1e-5)
    if settings.get("ssfl") == "none":
        assert found.source is None
        return
    assert found.source is not None
    recombined, rows = pictures.recombine(found), 64 // network.parts
    for part, frame in enumerate(attention.frames[0].argmax(0).tolist()):
        own = slice(part * rows, (part + 1) * rows)
        np.testing.assert_array_equal(recombined[own], silhouettes[frame, own])
    taken = pictures.sources(found)
    assert sum(count for _, count in taken) == network.parts
    frame = taken[0][0]
    tinted = pictures.tinted(found, frame, ["#ff0000"] * 8)
    coloured = (tinted[..., 0] != tinted[..., 1]).any(1).reshape(network.parts, rows).any(1)
    np.testing.assert_array_equal(coloured, found.source == frame)


NOTHING: dict[str, Any] = {"mean": None, "per_view": {}}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(("spoil", "note", "gone"), [
    (lambda f: (f / "results.json").unlink(), "not finished: 6 of 6 iterations are logged", "Other means"),
    (lambda f: cut(f / "results.json"), "results.json cannot be read", "NM rank-1"),
    (lambda f: (f / "probes.npz").unlink(), "probes.npz is not there, as in runs of older versions",
     "Hardest probes"),
    (lambda f: cut(f / "probes.npz"), "probes.npz cannot be read .*no complete .npz file",
     "Who is taken for whom"),
    (lambda f: (f / "embeddings.npz").unlink(), "", "Map of the embeddings"),
    (lambda f: shutil.rmtree(f / "checkpoints"), "the checkpoint .* is not there any more",
     "What the network looks"),
    (lambda f: cut(f / "checkpoints" / "step-0000006.ckpt"), "step-0000006.ckpt cannot be read",
     "What the network"),
    (lambda f: (f / "config.yaml").write_text("a: [b"), "config.yaml cannot be read", "not recorded"),
    (lambda f: (f / "metrics.csv").unlink(), "", "Smoothing"),
    (lambda f: change(f / "results.json", rank1={"NM": NOTHING}), "NM has no result", "BG rank-1"),
    (lambda f: change(f / "results.json", rank1={"NM": {"mean": 12.5, "per_view": {}}}),
     "Intervals are left out: probes.npz is of another result than results.json", "interval over subjects"),
])  # fmt: skip
def test_what_is_missing_is_said(spoil: Any, note: str, gone: str, spoilt: Path) -> None:
    spoil(spoilt)
    content = report_run(spoilt).read_text(encoding="utf-8")
    notes, _, rest = content.partition("<main")[2].rpartition("</aside>")
    assert bool(notes) == bool(note)
    assert re.search(note, Page(notes).text)
    assert gone not in Page(rest).text
    assert "Who is taken for whom" in rest or "Confusions" not in content.partition("<main")[0]


def test_a_run_that_is_being_written(spoilt: Path) -> None:
    for name in ("results.json", "probes.npz", "embeddings.npz", "table.csv"):
        (spoilt / name).unlink()
    rows = (spoilt / "metrics.csv").read_text().splitlines(keepends=True)
    (spoilt / "metrics.csv").write_text("".join(rows[:3]) + rows[3][:4])  # the last line is on its way
    found = read_run(spoilt)
    assert found.curves["train/loss"][0] == [1, 2]
    text = read_page(report_run(spoilt)).text
    assert "not finished: 2 of 6 iterations are logged" in text
    assert "Curves" in text


def test_a_job_that_failed(spoilt: Path, tmp_path: Path) -> None:
    (spoilt / "results.json").unlink()
    early = tmp_path / "early"
    early.mkdir()
    for folder in (spoilt, early):
        (folder / "error.txt").write_text("Traceback …\n\nValueError: margin is −1\n", encoding="utf-8")
    assert "It failed: ValueError: margin is −1" in read_page(report_run(spoilt)).text
    report.main([str(spoilt), str(early), "--out", str(tmp_path / "all.html")])
    assert "early: ValueError: margin is −1" in read_page(tmp_path / "all.html").text
    assert "It failed: ValueError" in read_page(report_run(early)).text


def test_the_store_is_gone_or_another(
    spoilt: Path, store: Store, raw_tree: Path, protocol: Protocol, tmp_path: Path
) -> None:
    config = OmegaConf.load(spoilt / "config.yaml")
    config.dataset.store = str(tmp_path / "nowhere")
    OmegaConf.save(config, spoilt / "config.yaml")
    text = read_page(report_run(spoilt)).text
    assert f"Silhouettes are left out: no store at {tmp_path / 'nowhere'}" in text
    assert "Who is taken for whom" in text
    assert "Hardest probes" not in text

    shutil.copytree(store.path, tmp_path / "nowhere")
    frames = np.load(tmp_path / "nowhere" / "frames.npy")
    np.save(tmp_path / "nowhere" / "frames.npy", frames[..., ::-1])
    assert "Silhouettes are left out: " in (text := read_page(report_run(spoilt)).text)
    assert "frames.npy is not what was prepared" in text

    shutil.rmtree(tmp_path / "nowhere")
    names = [path.relative_to(raw_tree) for path in raw_tree.glob("*/*/*")]
    for name, other in zip(names, reversed(names), strict=True):
        shutil.copytree(raw_tree / name, tmp_path / "raw" / other)
    prepare(Preparation(tmp_path / "raw", tmp_path / "nowhere", "tiny", protocol, 64), workers=1)
    assert "is not the one that the run was tested on" in read_page(report_run(spoilt)).text


def test_the_store_is_found_from_anywhere(spoilt: Path, store: Store) -> None:
    """Its path is relative to where the run was started, and the run may be looked at from elsewhere."""
    config = OmegaConf.load(spoilt / "config.yaml")
    config.dataset.store = "data/here"
    OmegaConf.save(config, spoilt / "config.yaml")
    (spoilt.parent / "data").mkdir()
    shutil.copytree(store.path, spoilt.parent / "data" / "here")
    found = read_run(spoilt)
    assert found.store is not None
    assert found.store.path.name == "here"


def test_several_runs(spoilt: Path, finished: Path, tmp_path: Path) -> None:
    """One is better, one of another data set, one unfinished, one is no run."""
    better, other, cut_off = (tmp_path / name for name in ("better", "other", "cut_off"))
    for folder in (better, other, cut_off):
        shutil.copytree(spoilt, folder)
    before = json.loads((finished / "results.json").read_text())["rank1"]
    after = {probe: row | {"mean": row["mean"] / 2 + 50} for probe, row in before.items()}
    change(better / "results.json", rank1=after)
    config = OmegaConf.load(better / "config.yaml")
    config.model.triplet.margin = 0.4
    OmegaConf.save(config, better / "config.yaml")
    change(other / "results.json", dataset="casiab")
    config.dataset.title = "CASIA-B"
    OmegaConf.save(config, other / "config.yaml")
    (cut_off / "results.json").unlink()

    report.main([*map(str, (spoilt, better, other, cut_off)), "--out", str(tmp_path / "all.html")])
    page = (tmp_path / "all.html").read_text(encoding="utf-8")
    text = read_page(tmp_path / "all.html").text
    assert "2 tables, since data sets differ" in text
    assert page.count('<section id="results-') == 2  # the unfinished one is among its like
    assert "stopped at step 6 of 6" in text
    old, new = (sum(row[probe]["mean"] for probe in ("NM", "BG")) / 2 for row in (before, after))
    gained = f"{new - old:+.1f}"
    assert gained.replace("-", "−").replace("+0.0", "0.0") in text
    assert re.search(r"# margin NM BG mean difference .* 1 0.[24] ", text)
    assert f"{after['NM']['mean']:.1f}" in text


def test_the_page_of_two_runs_says_what_differs_first(finished: Path, tmp_path: Path) -> None:
    second = shutil.copytree(finished, tmp_path / "second")
    config = OmegaConf.load(second / "config.yaml")
    config.model.triplet.margin, config.seed = 0.4, 2
    OmegaConf.save(config, second / "config.yaml")
    assert compare_main([str(finished), str(second), "--out", str(tmp_path / "out")]) == 0
    text = read_page(tmp_path / "out" / "comparison.html").text
    assert "What differs setting first second seed 1 2 model.triplet.margin 0.2 0.4 Results" in text
    assert "By probe view" in text
    assert "Where they differ from first" in text
    assert "The same in all: " in text


def test_the_command(
    spoilt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report.main(["first", "--out", "page.html"])
    assert capsys.readouterr().out == "report: page.html\n"
    assert (tmp_path / "page.html").is_file()

    sweep = tmp_path / "sweep"
    for job in ("0", "1"):
        shutil.copytree(spoilt, sweep / job)
    report.main(["sweep"])
    assert "2 runs compared" in (tmp_path / "report.html").read_text()

    for arguments, message in (
        (["nowhere"], r"error: no run folder at nowhere; runs lie in runs/NAME .*\n"),
        (["neither", "nowhere"], r"error: neither does not exist .*\n"),
        (
            [str(tmp_path / "sweep" / "0" / "checkpoints")],
            r"error: .* is no run folder: .*name the folder that python -m cstl\.train .*\n",
        ),
    ):
        with pytest.raises(SystemExit) as exit_:
            report.main(arguments)
        assert exit_.value.code == 1
        assert re.fullmatch(message, capsys.readouterr().err)


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install -e '.[dev]')"
    )
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium here to open the report in (Debian: apt-get install chromium)")
    quiet = (
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    )
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=[f"--{flag}" for flag in quiet])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def compared(finished: Path, page: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    again = shutil.copytree(finished, tmp_path_factory.mktemp("again") / "again")
    out = tmp_path_factory.mktemp("compared") / "report.html"
    report.main([str(finished), str(again), "--out", str(out)])
    return out


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """The function (path, **context) → the page, ready; no message of the console, no request
    but for the file.
    """
    contexts, said = [], []

    def open_page(path: Path, **settings: Any) -> Any:
        context = browser.new_context(**settings)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on(
            "request",
            lambda it: said.append(it.url) if not it.url.startswith(("file:", "data:", "blob:")) else None,
        )
        tab.goto(path.as_uri())
        if settings.get("java_script_enabled", True):
            tab.wait_for_selector("html[data-ready]", timeout=120_000)
        return tab

    yield open_page
    assert said == []
    for context in contexts:
        context.close()


def until(tab: Any, condition: str) -> None:
    """Waits for a condition in JavaScript; the page's own policy forbids the browser's way of doing it."""
    for _ in range(200):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(f"{condition} did not come true; {tab.evaluate(condition.partition(' ')[0])}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_width_and_every_picture(opened: Any, page: Path, compared: Path, scheme: str) -> None:
    for path in (page, compared)[: 2 if scheme == "light" else 1]:
        tab = opened(path, viewport={"width": 1440, "height": 900}, color_scheme=scheme)
        for width in (1440, 768, 360):
            tab.set_viewport_size({"width": width, "height": 800})
            until(tab, "document.documentElement.scrollWidth === innerWidth")
        pictures_of_it = tab.evaluate(
            "[...document.images].map((i) => [i.alt, i.complete && i.naturalWidth])"
        )
        assert pictures_of_it
        assert all(alt and width > 0 for alt, width in pictures_of_it)
        plots = tab.evaluate(
            "[...document.querySelectorAll('.plot')].map((p) => [p.ariaLabel, !!p.querySelector('svg')])"
        )
        assert plots
        assert all(label and drawn for label, drawn in plots)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screen_readers(opened: Any, page: Path, compared: Path, scheme: str) -> None:
    """What axe-core, the usual checker of accessibility, finds: names, roles, contrast, order of headings."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for path in (page, compared)[: 2 if scheme == "light" else 1]:
        tab = opened(path, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
        # what is in a plot is one picture with a text
        found = axe.run(tab, context={"exclude": [[".plot > *"]]})
        assert [(it["id"], it["nodes"][0]["html"][:200]) for it in found.response["violations"]] == []


def test_controls(opened: Any, page: Path) -> None:
    tab = opened(page, color_scheme="light", viewport={"width": 1200, "height": 900})
    frame = "document.querySelector('.probe [data-frames]').style.transform"

    button = tab.locator("#hardest [data-play]")
    before = tab.evaluate(frame)
    until(tab, f"{frame} !== {json.dumps(before)}")
    button.click()
    assert button.inner_text() == "Play"
    still = tab.evaluate(frame)
    tab.wait_for_timeout(300)
    assert tab.evaluate(frame) == still
    shown = tab.locator("#hardest [data-frame]")
    another = "2" if shown.inner_text() == "3" else "3"
    tab.locator("#frame-hardest").fill(another)
    assert shown.inner_text() == another
    assert tab.evaluate(frame) != still
    button.click()
    assert button.inner_text() == "Pause"

    values = "JSON.stringify(document.getElementById('curve-1').data.find((t) => t.meta === 'smooth').y)"
    raw = json.loads(tab.evaluate(values))
    tab.locator("#smoothing").fill("0.6")
    smooth, mean, weight = json.loads(tab.evaluate(values)), 0.0, 0.0
    for value, got in zip(raw, smooth, strict=True):
        mean, weight = 0.6 * mean + 0.4 * value, 0.6 * weight + 0.4
        assert got == pytest.approx(mean / weight)
    tab.locator("#smoothing").fill("0")
    assert json.loads(tab.evaluate(values)) == pytest.approx(raw)

    span = "document.getElementById('curve-1').layout.xaxis.range"
    whole, box = tab.evaluate(span), tab.locator("#curve-1 .nsewdrag").first
    box.scroll_into_view_if_needed()
    area = box.bounding_box()
    tab.mouse.move(area["x"] + area["width"] * 0.3, area["y"] + area["height"] * 0.5)
    tab.mouse.down()
    tab.mouse.move(area["x"] + area["width"] * 0.7, area["y"] + area["height"] * 0.5, steps=5)
    tab.mouse.up()
    until(tab, f"{span}[1] - {span}[0] < {0.6 * (whole[1] - whole[0])}")
    tab.locator("#curves [data-reset]").click()
    until(tab, f"Math.abs({span}[1] - {whole[1]}) < 1e-6")
    zoom = tab.locator("#curves [data-zoom]")
    zoom.click()
    assert zoom.get_attribute("aria-pressed") == "false"
    assert tab.evaluate("document.getElementById('curve-1').layout.dragmode") is False

    colour = (
        "[getComputedStyle(document.body).backgroundColor, "
        "document.getElementById('curve-1').layout.font.color]"
    )
    light = tab.evaluate(colour)
    tab.locator("[data-theme-button]").click()
    dark = tab.evaluate(colour)
    assert all(a != b for a, b in zip(light, dark, strict=True))
    tab.locator("[data-theme-button]").click()
    assert tab.evaluate(colour) == light


def test_fingers_scroll_and_rest_is_respected(opened: Any, page: Path) -> None:
    tab = opened(
        page, has_touch=True, is_mobile=True, viewport={"width": 360, "height": 700}, reduced_motion="reduce"
    )
    assert tab.locator("#curves [data-zoom]").get_attribute("aria-pressed") == "false"
    assert tab.locator("#hardest [data-play]").inner_text() == "Play"


def test_without_scripts_and_in_print(opened: Any, page: Path, tmp_path: Path) -> None:
    shown = "[...document.querySelectorAll('.still')].map((i) => i.offsetWidth)"
    plain = opened(page, java_script_enabled=False)
    assert plain.locator("img.still").first.is_visible()
    assert not plain.locator("[data-play]").first.is_visible()

    tab = opened(page, color_scheme="dark")
    assert set(tab.evaluate(shown)) == {0}
    tab.emulate_media(media="print", color_scheme="dark")
    assert min(tab.evaluate(shown)) > 0
    assert not tab.locator("nav").is_visible()
    assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    printed = tab.pdf(format="A4")
    assert printed.startswith(b"%PDF")
