"""What a run leaves beside its tables: results.json and the pictures."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from cstl.files import write_npz
from cstl.metrics import CrossViewResult
from cstl.metrics.probes import to_arrays
from cstl.reporting import figures
from cstl.reporting.folder import read_curves


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    names = ("cstl", "torch", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy", "opencv-python-headless")
    return {name: version(name) for name in names}


def write_probes(result: CrossViewResult, subjects: Sequence[str], conditions: Sequence[str], path: Path) -> None:
    """Writes what every probe sequence found to `probes.npz`: enough to resample subjects and to look at mistakes.

    The arrays are those of `cstl.metrics.probes.to_arrays`; `subject`, `condition` and `view` are positions in the
    names `subjects`, `conditions`, `views`, and every sequence number is the line of the store's table.
    `gallery_sequences` int64 (V,) counts the gallery of each view.
    """
    arrays = to_arrays(result.table, len(result.views))
    names = {"subjects": subjects, "conditions": conditions, "views": result.views}
    arrays |= {name: np.array(list(values), dtype=np.str_) for name, values in names.items()}
    write_npz(path, arrays | {"gallery_sequences": result.gallery_sequences.numpy()})


def write_embeddings(embedding: torch.Tensor, labels: torch.Tensor, path: Path) -> None:
    """Writes `CrossViewAccuracy.mean_embeddings` to `embeddings.npz`: a vector a sequence, for maps."""
    columns = dict(zip(("subject", "condition", "view", "sequence"), labels.numpy().T, strict=True))
    write_npz(path, {"embedding": embedding.numpy(), **columns})


def draw_cross_view(result: CrossViewResult, path: Path) -> None:
    """Writes `cross_view` as a picture."""
    cross_view(result).savefig(path)


def cross_view(result: CrossViewResult) -> Figure:
    """A heat map of rank-1 over probe view × gallery view for each probe; cells without a probe stay grey."""
    rank1 = {probe: accuracy[:, :, 0].numpy() for probe, accuracy in result.accuracy.items()}
    return figures.cross_view(rank1, result.views)


def draw_curves(metrics: Path, probes: Sequence[str], path: Path) -> None:
    """The losses and the rank-1 curves of the sets of probes over the iterations, read from a run's `metrics.csv`."""
    figures.curves(read_curves(metrics), probes).savefig(path)
