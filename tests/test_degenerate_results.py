"""Results with next to nothing in them are counted, drawn and compared without a RuntimeWarning."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from cstl.files import write_json, write_text
from cstl.metrics import CrossViewAccuracy
from cstl.reporting import comparison, figures, leaderboard, pictures, tables
from cstl.reporting.page import report_run
from cstl.reporting.remarks import remarks
from cstl.run_folder import write_embeddings, write_probes

CONDITIONS, PROBES = ["nm-01", "nm-02", "bg-01"], {"NM": ["nm-02"], "BG": ["bg-01"]}
Keep = Callable[[Tensor, Tensor, Tensor], Tensor]  # of subject, condition, view


def everything(subject: Tensor, condition: Tensor, view: Tensor) -> Tensor:
    return subject >= 0


CASES: dict[str, tuple[int, int, Keep, float]] = {  # subjects, views, sequences, scale of the embeddings
    "one subject": (1, 3, everything, 1),
    "one view": (4, 1, everything, 1),
    "no match": (4, 2, lambda s, c, v: (c == 0) == (s < 2), 1),
    "an empty gallery view": (4, 3, lambda s, c, v: (c > 0) | (v != 1), 1),
    "no gallery": (4, 2, lambda s, c, v: c > 0, 1),
    "no probe of a set": (4, 2, lambda s, c, v: c < 2, 1),
    "identical views only": (4, 2, lambda s, c, v: v == 0, 1),
    "one probe": (2, 2, lambda s, c, v: (c == 0) | ((s == 0) & (v == 0) & (c == 1)), 1),
    "constant embeddings": (4, 2, everything, 0),
    "huge embeddings": (4, 2, everything, 1e7),
}


def write_run(folder: Path, name: str) -> None:
    subjects, views, keep, scale = CASES[name]
    torch.manual_seed(0)
    grid = torch.cartesian_prod(torch.arange(subjects), torch.arange(3), torch.arange(views)).unbind(1)
    subject, condition, view = (labels[keep(*grid)] for labels in grid)
    names = [f"{30 * i:03d}" for i in range(views)]
    metric = CrossViewAccuracy(CONDITIONS, names, ["nm-01"], PROBES)
    metric.update(1 + scale * torch.randn(len(subject), 2, 4), subject, condition, view)
    result, (embeddings, labels) = metric.compute(), metric.mean_embeddings()
    folder.mkdir()
    found = {
        "subjects": [f"{i:03d}" for i in range(subjects)],
        "conditions": CONDITIONS,
        "views": result.views,
    }
    write_probes(folder / "probes.npz", result.arrays(), **found)
    write_embeddings(folder / "embeddings.npz", embeddings.numpy(), labels.numpy())
    figures.rank1(result).draw_without_rendering()
    table = tables.paper_table({"CSTL": result}, "Tiny", (64, 44))
    for ending in tables.TEXT_FORMATS:
        write_text(folder / f"table.{ending}", tables.to_text(table, ending))
    write_text(folder / "metrics.csv", "step,train/loss,test/rank1/NM\n1,nan,\n2,1.0,\n2,,50\n")
    protocol = {"views": names, "conditions": CONDITIONS, "gallery": ["nm-01"], "probes": PROBES}
    protocol |= {"train": ["100-103"], "test": [f"000-{subjects - 1:03d}"]}
    config = {"dataset": {"name": "tiny", "title": "Tiny", "protocol": protocol}, "res": 64, "seed": 1}
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    content = {"dataset": "tiny", "trained_on": "tiny", "resolution": [64, 44], "test_subjects": subjects}
    said = remarks(result, embeddings, labels, gallery=[0], margin=0.2, baseline=result)
    more = {"rank1": result.rows(), "measures": {"CSTL": result.measures()}, "remarks": said}
    write_json(folder / "results.json", content | more)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", CASES)
def test_no_warning_amid_results(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dot = pictures.cv2.imencode(".png", torch.zeros(1, 1, dtype=torch.uint8).numpy())[1].tobytes()
    monkeypatch.setattr(figures, "save", lambda figure, *_: (figure.draw_without_rendering(), dot)[1])
    write_run(tmp_path / "run", name)
    page = report_run(tmp_path / "run").read_text(encoding="utf-8")
    assert not re.search(
        r"\bnan\b", page.partition("<main")[2].partition("<footer")[0].replace('"nan"', ""), re.I
    )
    found, _ = comparison.compare([tmp_path / "run"])
    leaderboard.to_terminal(found[0])
    leaderboard.draw(found)
