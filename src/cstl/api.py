"""Everything from Python and in a notebook:
`run = train(compose("experiment=demo", "trainer.max_steps=20"))`.

No global state of Hydra is needed or left; a run has one process. What comes back shows itself in a notebook.
"""

import html
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path

from omegaconf import DictConfig, open_dict

import cstl.evaluate
import cstl.train
from cstl.checkpoint import load_network
from cstl.config import Plain
from cstl.files import read_json, read_text
from cstl.reporting import charts, figures
from cstl.reporting.page import report_run
from cstl.run_folder import METRICS, REPORT, RESULTS, curves_of, read_metrics
from cstl.running import typed
from cstl.running.folder import make_folder

__all__ = ["Run", "compose", "evaluate", "load_network", "train"]


def compose(
    *overrides: str, command: str | None = None, config_dir: str | PathLike[str] | None = None
) -> DictConfig:
    """Compose a command's configuration as its command line does.

    Args:
        overrides: what would be typed, such as `experiment=demo` and `trainer.max_steps=20`.
        command: train or evaluate; None: evaluate where a `checkpoint=` is named, else train.
        config_dir: a folder with groups of your own, such as `my` with `my/model/mine.yaml`.

    Raises:
        ValueError: a word, key, choice or value that cannot be meant; the message says what can be.
    """
    if command is None:
        command = "evaluate" if any(word.startswith("checkpoint=") for word in overrides) else "train"
    words = [*overrides, *([] if config_dir is None else [f"--config-dir={fspath(config_dir)}"])]
    return typed.composed(command, typed.read(command, words))


def train(config: DictConfig) -> "Run":
    """Train a composed run, or go on with it, and evaluate its last model.

    Raises:
        ValueError, OSError: what the command would say: a run of other settings, no store, no memory, …
    """
    config = _placed(config)
    cstl.train.train(config)
    return Run(config.folder)


def evaluate(config: DictConfig | str | PathLike[str], *overrides: str) -> "Run":
    """Evaluate a checkpoint.

    Args:
        config: composed with `command="evaluate"`, or the path of a checkpoint.
        overrides: with a path, what would be typed beside it, such as `dataset=casiab`.

    Raises:
        ValueError, OSError: what the command would say.
    """
    if not isinstance(config, DictConfig):
        path = fspath(config).replace("\\", "\\\\").replace("'", "\\'")
        config = compose(f"checkpoint='{path}'", *overrides, command="evaluate")
    config = _placed(config)
    cstl.evaluate.evaluate(config)
    return Run(config.folder)


def _placed(config: DictConfig) -> DictConfig:
    """Return a copy of the configuration with its name settled and its folder made, as the command has it."""
    config = config.copy()
    with open_dict(config):
        config.hydra = {"run": {"dir": "${runs}/${name}"}}
        config.folder = str(make_folder(config, "run"))
        del config.hydra
    config.name = config.name
    return config


class Run:
    """What a training run or an evaluation left in its folder."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def results(self) -> Plain:
        """Read `results.json`."""
        return read_json(self.folder / RESULTS)

    @property
    def table(self) -> "Table":
        """Return the paper's table."""
        return Table(read_text(self.folder / "table.md"))

    @property
    def checkpoint(self) -> Path:
        """Return the checkpoint that was evaluated."""
        return Path(self.results["checkpoint"])

    def curves(self) -> "Curves":
        """Return what was logged: column of `metrics.csv` → iterations and values."""
        return Curves(curves_of(read_metrics(self.folder / METRICS)), list(self.results["rank1"]))

    def report(self) -> "Page":
        """Return the report's page, which is written where it is absent."""
        page = self.folder / REPORT
        return Page(page if page.exists() else report_run(self.folder))

    def _repr_markdown_(self) -> str:
        return self.table


class Table(str):
    """A table in Markdown."""

    def _repr_markdown_(self) -> str:
        return self


class Curves(dict[str, tuple[list[int], list[float]]]):
    """Column of `metrics.csv` → iterations and values; drawn in a notebook."""

    def __init__(self, columns: dict[str, tuple[list[int], list[float]]], probes: list[str]) -> None:
        super().__init__(columns)
        self.probes = probes

    def _repr_png_(self) -> bytes | None:
        drawn = charts.main_curves(charts.curves({"": self}, self.probes))
        return figures.to_png(figures.draw(drawn)) if drawn else None


class Page:
    """A page of HTML on disk; shown within a notebook."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        page = html.escape(read_text(self.path), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 80vh; border: 0"></iframe>'
