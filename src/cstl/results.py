"""What a run leaves beside its tables: results.json and the pictures."""

import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from cstl.metrics import CrossViewResult
from cstl.tables import MISSING, rows


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    names = ("cstl", "torch", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy", "opencv-python-headless")
    return {name: version(name) for name in names}


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_probes(result: CrossViewResult, subjects: Sequence[str], conditions: Sequence[str], path: Path) -> None:
    """Writes what every probe sequence found to `probes.npz`: enough to resample subjects and to look at mistakes.

    The arrays are those of `cstl.metrics.Neighbours`; `subject`, `condition` and `view` are positions in the names
    `subjects`, `conditions`, `views`, and every sequence number is the line of the store's table. `gallery_sequences`
    int64 (V,) counts the gallery of each view.
    """
    arrays = {name: tensor.numpy() for name, tensor in result.neighbours._asdict().items()}
    names = {"subjects": subjects, "conditions": conditions, "views": result.views}
    arrays |= {name: np.array(list(values), dtype=np.str_) for name, values in names.items()}
    _write_npz(path, arrays | {"gallery_sequences": result.gallery_sequences.numpy()})


def write_embeddings(embedding: torch.Tensor, labels: torch.Tensor, path: Path) -> None:
    """Writes `CrossViewAccuracy.mean_embeddings` to `embeddings.npz`: a vector a sequence, for maps."""
    columns = dict(zip(("subject", "condition", "view", "sequence"), labels.numpy().T, strict=True))
    _write_npz(path, {"embedding": embedding.numpy(), **columns})


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    os.replace(part, path)


def draw_cross_view(result: CrossViewResult, path: Path) -> None:
    """Writes `cross_view` as a picture."""
    cross_view(result).savefig(path, dpi=120)


def cross_view(result: CrossViewResult) -> Figure:
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
        mean = rows(result)[probe]["mean"]
        axes.set_title(f"{probe}: rank-1, mean {MISSING if mean is None else f'{mean:.1f}'} %")
        for i, j in ((i, j) for i in range(len(views)) for j in range(len(views)) if math.isfinite(rank1[i, j])):
            colour = "white" if rank1[i, j] < 60 else "black"
            axes.text(j, i, f"{rank1[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=figure.axes, label="rank-1 (%)", shrink=0.8)
    return figure


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
