"""Figures for papers: what they show, their labels, and that they are written the same every time."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from cstl.reporting import charts, figures, style
from cstl.reporting.findings import Confusion, HardProbe, Map
from cstl.reporting.pictures import Look
from cstl.reporting.tables import Row, Table

VIEWS = ("000", "090", "180")
RNG = np.random.default_rng(0)
TABLE = Table(
    "Tiny", VIEWS, (Row("NM", "CSTL", (90.0, None, 80.0), 85.0), Row("BG", "CSTL", (70.0, 60.0, 50.0), 60.0))
)
CELLS = {"NM": RNG.uniform(0, 100, (3, 3)), "BG": np.full((3, 3), np.nan)}
MAP = Map(
    RNG.normal(size=(8, 2)), np.repeat(["001", "002"], 4), np.tile(["nm-01", "nm-02"], 4),
    np.tile(VIEWS[:2], 4),
    np.tile(["gallery", "NM"], 4), ["gallery", "NM"], 2, 2, (60.0, 20.0),
)  # fmt: skip
LOOK = Look(
    RNG.integers(0, 256, (5, 8, 6), dtype=np.uint8),
    {"frame level": RNG.random((5, 4)), "long term": RNG.random((5, 4))},
    RNG.random((5, 4)),
)
HARD = HardProbe("NM", "001", "nm-02", "000", "090", 2, 2, 0, 1, 2, 0.5, 0.7, "002 nm-01", "001 nm-01")


def drawn_curves(runs: dict[str, Any], probes: list[str]) -> Figure:
    return figures.draw(charts.main_curves(charts.curves(runs, probes)))


def drawn_lines(table: Table) -> Figure:
    """As the page of a run has them."""
    methods = list(dict.fromkeys(row.method for row in table.rows))
    own = style.condition_colours([group[0].probe for group in table.groups()])
    return figures.draw([
        charts.per_view(group[0].probe, [(row.method, row) for row in group], table.views, methods,
                        own[group[0].probe])
        for group in table.groups()
    ])  # fmt: skip


DRAWN: dict[str, Callable[[], Figure]] = {
    "curves": lambda: drawn_curves(
        {"": {"train/loss": ([1, 2], [3.0, 2.0]), "test/rank1/NM": ([2], [50.0])}}, ["NM"]
    ),
    "compared_curves": lambda: drawn_curves({"a": {"train/loss": ([1, 2], [3.0, 2.0])}, "b": {}}, []),
    "cross_view": lambda: figures.draw(charts.rank1(CELLS, VIEWS)),
    "difference": lambda: figures.draw([charts.cross_view("b, NM", CELLS["NM"] - 50, VIEWS, True)]),
    "per_view": lambda: drawn_lines(TABLE),
    "confusion": lambda: figures.draw(
        [charts.confusion(Confusion(["001", "002"], np.array([[90.0, 10.0], [0.0, 100.0]]), 2, []))]
    ),
    "embedding_map": lambda: figures.draw(charts.embedding_map(MAP)),
    "attention": lambda: figures.attention(LOOK, "NM: 001"),
    "attention_without_ssfl": lambda: figures.attention(Look(LOOK.silhouettes, LOOK.scales, None), "NM: 001"),
    "hardest": lambda: figures.strips([[(whose, LOOK.silhouettes) for _, whose, *_ in HARD.trio]]),
}
LABELS = {
    "curves": {"iteration", "loss", "rank-1 on the test subjects (%)"},
    "compared_curves": {"iteration", "loss"},
    "cross_view": {"gallery view (°)", "probe view (°)", "rank-1 (%)"},
    "difference": {"gallery view (°)", "probe view (°)", "difference (points)"},
    "per_view": {"probe view (°)", "rank-1 (%)"},
    "confusion": {"taken for subject", "subject of the probe", "comparisons (%)"},
    "embedding_map": {"PC 1 (60 % of the variance)", "PC 2 (20 % of the variance)"},
    "attention": {"frame", "part"},
    "attention_without_ssfl": {"frame", "part"},
    "hardest": set(),
}


@pytest.mark.parametrize("name", DRAWN)
def test_axes_say_what_and_in_which_unit(name: str) -> None:
    figure = DRAWN[name]()
    found = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel()) if label}
    assert found == LABELS[name]
    assert figure.get_size_inches()[0] <= 1.2 * style.WIDTH


EVIL = "<b>$" + 190 * "x"
LONG: dict[str, Callable[[], Figure]] = {
    "curves": lambda: drawn_curves(
        {"": {"train/loss": ([1, 2], [3.0, 2.0]), f"test/rank1/{EVIL}": ([2], [5.0])}}, [EVIL]
    ),
    "compared_curves": lambda: drawn_curves({EVIL: {"train/loss": ([1, 2], [3.0, 2.0])}, "b": {}}, []),
    "cross_view": lambda: figures.draw(
        charts.rank1({EVIL: CELLS["NM"], "b": CELLS["BG"]}, (EVIL, f"{EVIL}b", "c"))
    ),
    "per_view": lambda: drawn_lines(Table("T", (EVIL, f"{EVIL}b"), (Row(EVIL, EVIL, (1.0, 2.0), 1.5),))),
    "confusion": lambda: figures.draw([charts.confusion(Confusion([EVIL, "b"], np.eye(2), 2, []))]),
    "embedding_map": lambda: figures.draw(
        charts.embedding_map(replace(MAP, subject=np.repeat([EVIL, "b"], 4)))
    ),
    "attention": lambda: figures.attention(LOOK, EVIL),
    "strips": lambda: figures.strips([[(EVIL, LOOK.silhouettes)] * 3]),
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.filterwarnings("error")
def test_a_long_name_leaves_room_for_the_plot(name: str) -> None:
    figure = LONG[name]()
    figure.draw_without_rendering()
    assert all(axes.get_position().width > 0.01 for axes in figure.axes)


def test_legends_are_off_the_data() -> None:
    figure = DRAWN["curves"]()
    figure.draw_without_rendering()
    for axes in figure.axes:
        legend = axes.get_legend()
        assert legend is None or not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_the_style_is_the_files_and_not_the_users(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "savefig.dpi": 30}):
        mine = figures.save(DRAWN["per_view"](), tmp_path / "mine", "per_view")
    assert figures.save(DRAWN["per_view"](), tmp_path / "plain", "per_view") == mine
    for ending in ("pdf", "png"):
        assert len({(tmp_path / who / f"per_view.{ending}").read_bytes() for who in ("mine", "plain")}) == 1
    assert (tmp_path / "plain" / "per_view.pdf").read_bytes().startswith(b"%PDF")
    assert not list(tmp_path.glob("*/*.part"))


# What readers without red, green or blue cones see, in linear RGB
# (Machado, Oliveira and Fernandes, 2009, severity 1)
SEEN = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("reader", SEEN)
def test_colour_blind_readers_tell_the_colours_apart(reader: str) -> None:
    srgb = np.array([to_rgb(colour) for colour in style.COLOURS])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = linear @ np.array(SEEN[reader]).T
    apart = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert len(apart) == 28
    assert min(apart) > 0.05


def test_values_that_are_missing_leave_gaps() -> None:
    line = drawn_lines(TABLE).axes[0].get_lines()[0]
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False]
    axes = DRAWN["cross_view"]().axes[1]
    assert list(axes.texts) == []  # BG: nothing was counted
    assert "mean –" in axes.get_title()


PROBES = ["NM", "BG", "CL"]
CURVES = {
    f"test/rank1/{probe}": ([2, 4], [50.0, 60.0]) for probe in ["BG", "CL", "NM", "mean"]
}  # as metrics.csv has them
ROWS = [Row(probe, method, (90.0, 80.0, 70.0), 80.0) for probe in PROBES for method in ("CSTL", "GEI")]


def colour_of(line: Any) -> str:
    return to_hex(line.get_color()).upper()


def test_a_condition_has_one_colour_in_every_picture() -> None:
    """In curves, heat maps, tables' lines, maps and the comparison: of the page and for papers,
    whatever is missing.
    """
    own = style.condition_colours(PROBES)
    assert len(set(own.values())) == 5  # with the mean and the gallery
    found: dict[str, set[str]] = {name: set() for name in (*PROBES, "mean", "gallery")}
    held_out = {"validation/rank1/BG": ([2, 4], [50.0, 60.0]), "validation/rank1/CL": ([2, 4], [50.0, 60.0])}
    for curves in (CURVES, {key: curve for key, curve in CURVES.items() if "NM" not in key}, held_out):
        for axes in drawn_curves({"run": curves}, PROBES).axes:
            for line in axes.get_lines():
                found[str(line.get_label())].add(colour_of(line))
        for chart in charts.curves({"run": curves}, PROBES):
            for trace in chart.figure["data"]:
                found[trace["name"]].add(trace["line"]["color"])
    cells = {probe: np.full((3, 3), 50.0) for probe in PROBES}
    for some in (PROBES, PROBES[1:]):
        figure = figures.draw(charts.rank1({probe: cells[probe] for probe in some}, VIEWS, own))
        for axes, probe in zip(figure.axes, some, strict=False):
            found[probe].add(colour_of(axes.get_lines()[0]))
    table = Table("Tiny", VIEWS, tuple(ROWS))
    for axes, probe in zip(drawn_lines(table).axes, PROBES, strict=True):
        found[probe] |= {colour_of(line) for line in axes.get_lines()}
        rows = [(row.method, row) for row in ROWS if row.probe == probe]
        chart = charts.per_view(probe, rows, VIEWS, ["CSTL", "GEI"], own[probe])
        found[probe] |= {trace["line"]["color"] for trace in chart.figure["data"]} | {chart.colour}
    kinds = np.array(["gallery", *PROBES, "gallery", *PROBES])
    spread = replace(MAP, kind=kinds, kinds=["gallery", *PROBES])
    for points, kind in zip(
        figures.draw(charts.embedding_map(spread)).axes[2].collections, spread.kinds, strict=True
    ):
        found[kind].add(to_hex(points.get_facecolor()[0]).upper())
    for trace in charts.embedding_map(spread)[2].figure["data"]:
        found[trace["name"]].add(trace["marker"]["color"])
    assert {name: colours for name, colours in found.items() if colours != {own[name]}} == {}
    losses = drawn_curves({"": {"train/loss": ([1, 2], [3.0, 2.0])}}, PROBES).axes[0].get_lines()
    assert colour_of(losses[0]) not in {own[probe] for probe in PROBES}


def test_a_run_has_one_colour_in_every_picture_of_a_comparison() -> None:
    logged = {"train/loss": ([1, 2], [3.0, 2.0])}
    runs = {"a": logged, "b": {}, "c": logged | {"test/rank1/mean": ([2], [50.0])}}
    losses, rank1 = drawn_curves(runs, []).axes
    lines = charts.per_view("NM", [("c", ROWS[0])], VIEWS, list(runs))
    alone = figures.draw([lines]).axes[0].get_lines()[0]
    colours = {colour_of(line) for line in (losses.get_lines()[1], rank1.get_lines()[0], alone)}
    for chart in charts.curves(runs, []):
        colours |= {trace["line"]["color"] for trace in chart.figure["data"] if trace.get("name") == "c"}
    colours.add(lines.figure["data"][0]["line"]["color"])
    assert colours == {style.COLOURS[2]}


def test_methods_of_one_colour_differ_in_dash_and_sign() -> None:
    first, second = drawn_lines(Table("Tiny", VIEWS, tuple(ROWS))).axes[0].get_lines()
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_marker() != second.get_marker()


@pytest.mark.parametrize("runs", [1, 2])
def test_what_was_logged_once_shows(runs: int) -> None:
    once = {
        "train/loss": ([7], [3.0]),
        "train/learning_rate": ([7], [1e-4]),
        "test/rank1/mean": ([7], [50.0]),
    }
    several = {f"run {i}": once for i in range(runs)}
    for figure in (drawn_curves({"": once}, []), drawn_curves(several, [])):
        lines = [line for axes in figure.axes for line in axes.get_lines()]
        assert lines
        assert all(line.get_marker() == "o" for line in lines)
    shown = charts.curves(several, [])
    assert len(shown) == 3
    for chart in shown:
        assert all("markers" in trace["mode"] for trace in chart.figure["data"] if trace.get("meta") != "raw")
    rate = next(chart for chart in shown if chart.title == "learning rate").figure["layout"]["yaxis"]
    assert rate["range"] == [0, 2e-4]  # else from −1 to 1, as if it were 0
    assert "once" in shown[0].text


@pytest.mark.parametrize(
    "steps", [[1], [1, 2], [2, 4], [3, 6, 9], [1, 5], [50, 100, 150], [7, 17], [1000, 120_000]]
)
def test_iterations_are_ticked_at_whole_numbers(steps: list[int]) -> None:
    curve = {"train/loss": (steps, [1.0] * len(steps)), "test/rank1/mean": (steps, [1.0] * len(steps))}
    for figure in (drawn_curves({"": curve}, []), drawn_curves({"a": curve, "b": curve}, [])):
        figure.draw_without_rendering()
        for axes in figure.axes:
            low, high = axes.get_xlim()
            ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
            assert ticks
            assert all(tick == round(tick) for tick in ticks)
            assert len({label.get_text() for label in axes.get_xticklabels()}) == len(axes.get_xticklabels())
    for chart in charts.curves({"a": curve}, []):
        axis = chart.figure["layout"]["xaxis"]
        if steps[-1] - steps[0] < 10:
            assert (axis["tickmode"], axis["tick0"], axis["dtick"]) == ("linear", 0, 1)
            assert "range" not in axis or axis["range"] == [steps[0] - 1, steps[0] + 1]


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_frames_and_parts_are_ticked_at_whole_numbers(frames: int) -> None:
    look = Look(LOOK.silhouettes[:frames], {"frame level": LOOK.scales["frame level"][:frames, :2]}, None)
    figure = figures.attention(look, "NM: 001")
    figure.draw_without_rendering()
    axes = figure.axes[1]
    assert all(tick == round(tick) for tick in [*axes.get_xticks(), *axes.get_yticks()])
    layout = charts.attention(look)[0].figure["layout"]
    assert layout["xaxis"]["dtick"] == layout["yaxis"]["dtick"] == 1
