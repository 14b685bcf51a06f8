"""Everything from Python: composed, trained, evaluated, shown in a notebook."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from nbclient import NotebookClient
from omegaconf import DictConfig

from cstl.api import Run, compose, evaluate, load_network, train

ROOT = Path(__file__).parents[1]
TINY = (
    "dataset=tiny",
    "trainer=cpu",
    "data.workers=0",
    "trainer.max_steps=2",
    "baseline=false",
    "trainer.log_every_n_steps=1",
)
SMALL = (
    *("dataset.protocol.train=[001-003]", "dataset.protocol.test=[004-006]", "dataset.synthesis.frames=8"),
    *("data.subjects=2", "data.sequences=2", "data.frames=3", "dataset.raw=raw", "dataset.store=store"),
)


@pytest.fixture
def composed(user_conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """The function (*overrides) → a configuration of the tiny data set, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: compose(*TINY, *overrides, config_dir=user_conf)


def test_a_run_from_python_is_the_command_s(
    composed: Callable[..., DictConfig], configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    run = train(composed("name=here", "report=false"))
    assert not HydraConfig.initialized()
    assert not GlobalHydra.instance().is_initialized()
    assert run.folder == Path("runs/here")
    assert {path.name for path in run.folder.iterdir()} >= {
        "config.yaml",
        "results.json",
        "metrics.csv",
        "checkpoints",
    }

    from cstl.train import train as command

    typed = command(configured("train", *TINY, folder="there"))
    assert run.results["measures"] == typed["measures"]
    assert run.results["configuration"] == typed["configuration"]
    here, there = (
        torch.load(path, weights_only=True)["state_dict"] for path in (run.checkpoint, typed["checkpoint"])
    )
    assert all(torch.equal(here[key], there[key]) for key in there)

    again = evaluate(run.checkpoint, "name=again", "trainer=cpu", "baseline=false", "report=false")
    asked = compose(
        f"checkpoint='{run.checkpoint}'", "max_frames=2", "name=short", "trainer=cpu", "baseline=false"
    )
    assert evaluate(asked).results["resolution"] == [64, 44]
    assert again.results["rank1"] == run.results["rank1"]
    network = load_network(run.checkpoint)
    assert not network.training
    with pytest.raises(ValueError, match="is finished"):
        train(composed("name=here", "report=false"))


def test_a_run_shows_itself(composed: Callable[..., DictConfig]) -> None:
    run = train(composed("name=shown", "report=false"))
    assert "| NM | CSTL |" in run.table._repr_markdown_()
    curves = run.curves()
    assert curves["train/loss"][0] == [1, 2]
    assert curves._repr_png_().startswith(b"\x89PNG")
    page = run.report()
    assert page.path.exists()
    assert page._repr_html_().startswith("<iframe")
    assert repr(Run(run.folder)) == "Run('runs/shown')"


def test_names_of_the_time_are_taken_once(composed: Callable[..., DictConfig]) -> None:
    few = ("evaluate=false", "trainer.max_steps=1", "name='x-${now:%Y}'")  # the same second for a year
    folders = [train(composed(*few)).folder.name for _ in range(2)]
    assert folders[1] == f"{folders[0]}-2"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("trainer.max_stepz=1",), "did you mean max_steps"),
        (
            ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"),
            "from Python a run has one process",
        ),
        (("name=a/b",), "Choose another name="),
        (("folder=elsewhere",), "folder="),
    ],
)
def test_what_cannot_be_is_said(
    overrides: tuple[str, ...], message: str, composed: Callable[..., DictConfig], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(composed(*overrides))


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """In a real kernel, word for word but for smaller walkers."""
    notebook = nbformat.read(ROOT / "docs" / "from_python.ipynb", as_version=4)
    smaller = ", ".join(f'"{word}"' for word in ("experiment=demo", *SMALL))
    for cell in notebook.cells:
        cell.source = cell.source.replace('"experiment=demo"', smaller)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", ())
    }
    assert {"text/markdown", "image/png", "text/html"} <= shown
