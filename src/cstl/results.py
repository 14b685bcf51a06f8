"""What a run leaves: the paper's table, results.json and the pictures."""

import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from cstl.metrics import CrossViewResult

Row = dict[str, Any]  # {"mean": percent or None, "per_view": {view: percent or None}}


def rows(result: CrossViewResult, rank: int = 1, matched: bool = False) -> dict[str, Row]:
    """Probe → its row of the paper's table: accuracy in percent of each probe view, and their mean.

    Identical views are left out, except where there is one view only. None stands where nothing could be counted.
    """
    identical = len(result.views) == 1
    table = {}
    for probe in result.accuracy:
        per_view = result.per_view(probe, rank, matched, identical)
        mean = result.per_view(probe, rank, matched, identical).nanmean().item()
        views = {view: _number(value) for view, value in zip(result.views, per_view.tolist(), strict=True)}
        table[probe] = {"mean": _number(mean), "per_view": views}
    return table


def paper_table(methods: Mapping[str, Mapping[str, Row]]) -> Table:
    """The table as papers print it: a line per probe and method, a column per probe view, and the mean."""
    first = next(iter(methods.values()))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("probe")
    table.add_column("method")
    for view in next(iter(first.values()))["per_view"]:
        table.add_column(view, justify="right")
    table.add_column("mean", justify="right", style="bold")
    for probe in first:
        for method, by_probe in methods.items():
            row = by_probe[probe]
            table.add_row(probe, method, *map(_shown, row["per_view"].values()), _shown(row["mean"]))
        table.add_section()
    return table


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    names = ("cstl", "torch", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy", "opencv-python-headless")
    return {name: version(name) for name in names}


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def draw_cross_view(result: CrossViewResult, path: Path) -> None:
    """A heat map of rank-1 over probe view × gallery view for each probe; cells without a probe stay grey."""
    count, views = len(result.accuracy), result.views
    figure = Figure(figsize=(1.2 + 5.2 * count, 5.4), layout="constrained")
    for axes, (probe, accuracy) in zip(
        figure.subplots(1, count, squeeze=False)[0], result.accuracy.items(), strict=True
    ):
        rank1 = accuracy[:, :, 0].numpy()
        axes.set_facecolor("0.85")
        image = axes.imshow(rank1, vmin=0, vmax=100, cmap="viridis")
        axes.set_xticks(range(len(views)), views, rotation=90)
        axes.set_yticks(range(len(views)), views)
        axes.set_xlabel("gallery view (°)")
        axes.set_ylabel("probe view (°)")
        axes.set_title(f"{probe}: rank-1, mean {_shown(rows(result)[probe]['mean'])} %")
        for i, j in ((i, j) for i in range(len(views)) for j in range(len(views)) if math.isfinite(rank1[i, j])):
            colour = "white" if rank1[i, j] < 60 else "black"
            axes.text(j, i, f"{rank1[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=figure.axes, label="rank-1 (%)", shrink=0.8)
    figure.savefig(path, dpi=120)


def draw_curves(metrics: Path, path: Path) -> None:
    """The losses and the rank-1 curves over the iterations, read from a run's `metrics.csv`."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with metrics.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name.startswith(("train/", "test/")) and value:
                    curves[name].append((int(row["step"]), float(value)))
    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, rank1 = figure.subplots(1, 2)
    for name in ("train/loss", "train/triplet", "train/cross_entropy"):
        losses.plot(*zip(*curves[name], strict=True) if curves[name] else ([], []), label=name.removeprefix("train/"))
    for name in (name for name in curves if name.startswith("test/rank1/")):
        rank1.plot(*zip(*curves[name], strict=True), marker="o", label=name.removeprefix("test/rank1/"))
    losses.set_ylabel("loss")
    rank1.set_ylabel("rank-1, identical views excluded (%)")
    rank1.set_ylim(0, 100)
    for axes in (losses, rank1):
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(path, dpi=120)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(value: float | None) -> str:
    return "–" if value is None else "100" if value >= 99.95 else f"{value:.1f}"
