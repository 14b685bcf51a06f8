"""Figures for papers: what they show, their labels, and that they are written the same every time."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from cstl import figures
from cstl.reporting.findings import Confusion, HardProbe, Map
from cstl.reporting.pictures import Look
from cstl.tables import Row, Table

VIEWS = ("000", "090", "180")
RNG = np.random.default_rng(0)
TABLE = Table("Tiny", VIEWS, (Row("NM", "CSTL", (90.0, None, 80.0), 85.0), Row("BG", "CSTL", (70.0, 60.0, 50.0), 60.0)))
CELLS = {"NM": RNG.uniform(0, 100, (3, 3)), "BG": np.full((3, 3), np.nan)}
MAP = Map(
    RNG.normal(size=(8, 2)), np.repeat(["001", "002"], 4), np.tile(["nm-01", "nm-02"], 4), np.tile(VIEWS[:2], 4),
    np.tile(["gallery", "NM"], 4), ["gallery", "NM"], 2, 2,
)  # fmt: skip
LOOK = Look(
    RNG.integers(0, 256, (5, 8, 6), dtype=np.uint8),
    {"frame level": RNG.random((5, 4)), "long term": RNG.random((5, 4))},
    RNG.random((5, 4)),
)
HARD = HardProbe("NM", "001", "nm-02", "000", "090", 2, 2, 0, 1, 2, 0.5, 0.7, "002 nm-01", "001 nm-01")
DRAWN: dict[str, Callable[[], Figure]] = {
    "curves": lambda: figures.curves({"train/loss": ([1, 2], [3.0, 2.0]), "test/rank1/NM": ([2], [50.0])}, ["NM"]),
    "compared_curves": lambda: figures.compared_curves({"a": {"train/loss": ([1, 2], [3.0, 2.0])}, "b": {}}),
    "cross_view": lambda: figures.cross_view(CELLS, VIEWS),
    "difference": lambda: figures.cross_view({"b, NM": CELLS["NM"] - 50}, VIEWS, difference=True),
    "per_view": lambda: figures.per_view(TABLE),
    "confusion": lambda: figures.confusion(Confusion(["001", "002"], np.array([[90.0, 10.0], [0.0, 100.0]]), 2, [])),
    "embedding_map": lambda: figures.embedding_map(MAP),
    "attention": lambda: figures.attention(LOOK, "NM: 001"),
    "attention_without_ssfl": lambda: figures.attention(Look(LOOK.silhouettes, LOOK.scales, None), "NM: 001"),
    "hardest": lambda: figures.hardest([(HARD, [LOOK.silhouettes] * 3)]),
}
LABELS = {
    "curves": {"iteration", "loss", "rank-1 (%)"},
    "compared_curves": {"iteration", "loss", "mean rank-1 (%)"},
    "cross_view": {"gallery view (°)", "probe view (°)", "rank-1 (%)"},
    "difference": {"gallery view (°)", "probe view (°)", "difference (points)"},
    "per_view": {"probe view (°)", "rank-1 (%)"},
    "confusion": {"taken for subject", "subject of the probe", "comparisons (%)"},
    "embedding_map": {"t-SNE 1 (no unit)", "t-SNE 2 (no unit)"},
    "attention": {"frame", "part"},
    "attention_without_ssfl": {"frame", "part"},
    "hardest": set(),
}


@pytest.mark.parametrize("name", DRAWN)
def test_axes_say_what_and_in_which_unit(name: str) -> None:
    figure = DRAWN[name]()
    found = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel()) if label}
    assert found == LABELS[name]
    assert figure.get_size_inches()[0] <= 1.2 * figures.WIDTH


def test_the_style_is_the_files_and_not_the_users(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "savefig.dpi": 30}):
        mine = figures.save(DRAWN["per_view"](), tmp_path / "mine", "per_view")
    assert figures.save(DRAWN["per_view"](), tmp_path / "plain", "per_view") == mine
    for ending in ("pdf", "png"):
        assert len({(tmp_path / who / f"per_view.{ending}").read_bytes() for who in ("mine", "plain")}) == 1
    assert (tmp_path / "plain" / "per_view.pdf").read_bytes().startswith(b"%PDF")
    assert not list(tmp_path.glob("*/*.part"))


# What readers without red, green or blue cones see, in linear RGB (Machado, Oliveira and Fernandes, 2009, severity 1)
SEEN = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("reader", SEEN)
def test_colour_blind_readers_tell_the_colours_apart(reader: str) -> None:
    srgb = np.array([to_rgb(colour) for colour in figures.COLOURS])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = linear @ np.array(SEEN[reader]).T
    apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert len(apart) == 28
    assert min(apart) > 0.05


def test_values_that_are_missing_leave_gaps() -> None:
    line = figures.per_view(TABLE).axes[0].get_lines()[0]
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False]
    texts = [text.get_text() for text in figures.cross_view(CELLS, VIEWS).axes[1].texts]
    assert texts == []  # BG: nothing was counted
    assert "mean –" in figures.cross_view(CELLS, VIEWS).axes[1].get_title()
