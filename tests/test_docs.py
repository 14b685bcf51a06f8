"""The documentation: tutorials are run command by command, links lead somewhere, the reference is up to date.

A tutorial's commands are the lines of its blocks marked `sh`. They are run here as they stand, one after the
other in an empty folder, with the overrides of `SMALL` added that make data, network and training small.
"""

import importlib
import importlib.util
import logging
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from cstl.config import CONFIG_PATH
from cstl.running.help import commands, keys_of
from cstl.walkers.synthesis import synthesize

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONF = Path(CONFIG_PATH)

FEW = (
    "data.subjects=2",
    "data.sequences=2",
    "data.frames=4",
    "trainer.max_steps=2",
    "data.workers=0",
    "trainer=cpu",
)
BATCH = (*FEW, "model.network.channels=[2,4,16]")
WALKERS = (
    "dataset.protocol.train=[001-003]", "dataset.protocol.test=[033-034]",
    "dataset.protocol.views=['000','090']",
    "dataset.synthesis.frames=6",
)  # fmt: skip
NO_REPORT = ("report=false",)  # it takes seconds
EVALUATE = ("data.workers=0", "trainer=cpu", *NO_REPORT)
SMALL = {
    "first_run.md": {"train": (*BATCH, *WALKERS, *NO_REPORT), "evaluate": EVALUATE},
    "reading_the_report.md": {"train": (*BATCH, *WALKERS)},
    "ablation.md": {"train": (*BATCH, *WALKERS, *NO_REPORT)},
    "your_own_network.md": {"train": (*FEW, *WALKERS, *NO_REPORT), "evaluate": EVALUATE},
    "casiab.md": {"prepare": ("workers=1",), "train": (*BATCH, *NO_REPORT), "evaluate": EVALUATE},
    "your_own_data.md": {"prepare": ("workers=1",), "train": (*BATCH, *NO_REPORT), "evaluate": EVALUATE},
}

Run = Callable[[str], None]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S
    )


def commands_of(page: str) -> list[list[str]]:
    """The words of each command, without comments."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def run_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """The function that runs a page's commands in `tmp_path`, in this process as if each were a new one."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]

    def run(page: str) -> None:
        for python, dash_m, module, *arguments in commands_of(page):
            assert (python, dash_m) == ("python", "-m")
            command = module.removeprefix("cstl.")
            small = SMALL[page].get(command, ())
            words = [re.sub(r"step-\d+", "step-0000002", word) for word in arguments]
            monkeypatch.setattr(sys, "argv", [command, *words, *small])
            try:
                code = importlib.import_module(module).main()
            except SystemExit as end:
                code = end.code
            assert not code, f"{module} {words}\n{capsys.readouterr().err}"

    yield run
    HydraConfig.instance().cfg = None
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="module")
def walkers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder data/ with the walkers of `WALKERS`, as the first run of all makes it."""
    folder = tmp_path_factory.mktemp("walkers")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in ("synthesize", "prepare"):
            patch.setattr(sys, "argv", [command, *WALKERS, "workers=1"])
            importlib.import_module(f"cstl.{command}").main()
    HydraConfig.instance().cfg = None
    return folder / "data"


@pytest.mark.parametrize("page", ["first_run.md", "ablation.md", "reading_the_report.md"])
def test_tutorials_on_walkers(
    page: str, run_page: Run, walkers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(walkers, tmp_path / "data")
    run_page(page)
    expected = {
        "first_run.md": ["first/results.json", "again/results.json", "narrower/results.json"],
        "ablation.md": [*(f"ablation/{job}/results.json" for job in range(4)), "ablation/comparison.csv"],
        "reading_the_report.md": ["first/report.html"],
    }
    assert "INFO" not in capsys.readouterr().out  # libraries that talk to themselves
    assert [name for name in expected[page] if not (tmp_path / "runs" / name).is_file()] == []


def test_casiab(run_page: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fake of the real folder: five subjects on both sides of the split, all sequences, two views."""
    raw = tmp_path / "GaitDatasetB-silh"
    conditions = [*(f"nm-0{i}" for i in range(1, 7)), "bg-01", "bg-02", "cl-01", "cl-02"]
    subjects = ["001", "002", "003", "075", "076"]
    synthesize(
        raw,
        subjects=subjects,
        views=["000", "090"],
        conditions=conditions,
        frames=6,
        workers=1,
        progress=False,
    )
    (raw / "walkers.json").unlink()
    assert (raw / "001/nm-01/000/001-nm-01-000-001.png").is_file()
    run_page("casiab.md")
    shown = capsys.readouterr().out
    told = " ".join(shown.split())
    assert "CSTL (paper)" not in shown  # of five subjects nothing was published
    assert "the published rows are left out: the network has channels [" in told
    assert "2 of 50 test subjects" in told
    assert "trained on the authors' weights" in shown
    assert (tmp_path / "runs" / "as-theirs" / "results.json").is_file()


def test_your_own_data(
    run_page: Run,
    tmp_path: Path,
    draw_blob: Callable[..., np.ndarray],
    write_sequence: Callable[[Path, list[np.ndarray]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for i, subject in enumerate(("p01", "p02", "p03", "p04", "p05", "p06")):
        for j, condition in enumerate(("plain-1", "plain-2", "coat-1")):
            for k, view in enumerate(("left", "right")):
                frames = [draw_blob(i, time + j, k) for time in range(7 + i)]
                write_sequence(tmp_path / "walks" / subject / condition / view, frames)
    for content in blocks("your_own_data.md", "yaml"):
        file = tmp_path / next(line for line in content.splitlines() if line.endswith(".yaml")).removeprefix(
            "# "
        )
        file.parent.mkdir(parents=True)
        file.write_text(content, encoding="utf-8")
    run_page("your_own_data.md")
    assert "My walkers 64×44" in capsys.readouterr().out
    assert (tmp_path / "runs" / "mine" / "results.json").is_file()


def test_your_own_network(
    run_page: Run,
    walkers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(walkers, tmp_path / "data")
    for language in ("python", "yaml"):
        for content in blocks("your_own_network.md", language):
            file = tmp_path / content.partition("\n")[0].removeprefix("# ")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` has it
    run_page("your_own_network.md")
    assert "NM Net" in capsys.readouterr().out
    assert (tmp_path / "runs" / "mine" / "results.json").is_file()


def composed(command: str, overrides: list[str]) -> None:
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        compose(command, overrides=overrides)


def test_commands_for_clusters_compose() -> None:
    words = commands_of("cluster.md")
    assert {line[0] for line in words} == {"python", "torchrun"}
    for line in words:
        assert "cstl.train" in line
        composed("train", line[line.index("cstl.train") + 1 :])


def test_every_example_composes() -> None:
    """The commands listed in README and by `python -m cstl`."""
    listed = re.findall(r"^python -m cstl\.(\w+) +(\S.*)$", PAGES[0].read_text(encoding="utf-8"), re.M)
    examples = [*listed, *((name, line) for name, (_, lines) in commands().items() for line in lines)]
    tried = 0
    for name, line in examples:
        # then comes what it is
        words = list(takewhile(lambda word: "=" in word or word[0] == "-", line.split()))
        if (CONF / f"{name}.yaml").exists() and not {"-m", "--config-dir=my"} & {
            *words
        }:  # a sweep is no single configuration
            composed(name, words)
            tried += 1
    assert tried > 10


def test_the_library_example_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGES[0].read_text(encoding="utf-8"), re.M | re.S)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["embeddings"].shape == (4, 32, 256)
    assert names["logits"].shape == (4, 32, 73)
    assert float(names["loss"].detach()) > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)]
    assert [link for link, _, _ in links if link and not (page.parent / link).exists()] == []
    for link, _, anchor in links:
        if anchor:
            lines = (page.parent / link if link else page).read_text(encoding="utf-8").splitlines()
            headings = [
                re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()) for line in lines if line[:1] == "#"
            ]
            assert anchor in [heading.replace(" ", "-") for heading in headings]
    assert [file for file in re.findall(r"\bscripts/[\w/]+\.\w+", text) if not (ROOT / file).is_file()] == []


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    file = ROOT / "scripts" / "configuration_reference.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_up_to_date(reference: ModuleType) -> None:
    """If not: python scripts/configuration_reference.py"""
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page()


def test_every_key_has_a_meaning() -> None:
    """In one of the files that have it: the others need not repeat it."""
    keys = [key for file in [*CONF.glob("*.yaml"), *CONF.glob("[!h]*/*.yaml")] for key in keys_of(file)]
    explained = {key.name for key in keys if key.meaning}
    assert sorted({key.name for key in keys} - explained) == []


def test_the_reference_reads_comments_and_values(reference: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "x.yaml"
    file.write_text(
        "# What it is\ndefaults: [y]\n_target_: z\na: 1  # one\nb:    # two\n  c: [1, '#']  # three,\n"
        "               # and more\n  d: {e: null}\nf: ''\n"
    )
    keys = [(key.name, key.value, key.meaning) for key in keys_of(file, tmp_path)]
    assert keys == [
        ("model.a", "1", "one"), ("model.b", "", "two"), ("model.b.c", "[1, #]", "three, and more"),
        ("model.b.d.e", "null", ""), ("model.f", '""', ""),
    ]  # fmt: skip
    assert reference.about(file) == "What it is"
