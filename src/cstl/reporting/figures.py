"""Figures for papers, all in one style: `paper.mplstyle`. Each function draws one; `save`
writes it as PDF and PNG.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cstl.files import replacing
from cstl.metrics import CrossViewResult
from cstl.reporting.findings import Confusion, HardProbe, Map
from cstl.reporting.pictures import Look, recombine, sources, strip, tinted
from cstl.reporting.style import (
    COLOURS,
    LOSS_COLOURS,
    LOSSES,
    STYLE,
    WIDTH,
    condition_colours,
    groups,
    line_look,
    mean_excluding_identical,
    numbers,
    percent,
    short,
    unit,
)
from cstl.reporting.tables import Row, Table
from cstl.run_folder import Curve

Panel = tuple[str, Sequence[str], Sequence[tuple[str, Row]]]
P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the style of `paper.mplstyle`, whatever the user's own is."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return inside


def save(figure: Figure, folder: Path, name: str) -> bytes:
    """Write NAME.pdf and NAME.png; return the PNG's content."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):  # ticks that are made on the way have its sizes
        figure.draw_without_rendering()  # laid out once, and not for each format again
    figure.set_layout_engine("none")
    contents = {"pdf": _printed(figure, "pdf", {"CreationDate": None}), "png": to_png(figure)}
    for ending, content in contents.items():
        with replacing(folder / f"{name}.{ending}") as file:
            file.write(content)
    return contents["png"]


def to_png(figure: Figure) -> bytes:
    """Return a PNG file's content."""
    return _printed(figure, "png", {"Software": None})


def to_array(figure: Figure) -> np.ndarray:
    """Return a figure as a picture, uint8 (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _printed(figure: Figure, ending: str, metadata: dict[str, None]) -> bytes:
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(content, format=ending, metadata=metadata)
    return content.getvalue()


@styled
def curves(found: Mapping[str, Curve], probes: Sequence[str]) -> Figure:
    """Draw the losses and the rank-1 curves over the iterations, from the columns of a run's
    `metrics.csv`.
    """
    losses = [
        (label, found[f"train/{name}"], colour, "-")
        for (name, label), colour in zip(LOSSES.items(), LOSS_COLOURS, strict=True)
        if f"train/{name}" in found
    ]
    colours = condition_colours(probes)
    rank1 = [
        (f"{prefix}{probe}", found[f"{split}/rank1/{probe}"], colours[probe], dash)
        for split, prefix, dash in (("test", "", "-"), ("validation", "held out, ", "--"))
        for probe in dict.fromkeys([*probes, "mean"])
        if f"{split}/rank1/{probe}" in found
    ]
    return _curves({"loss": losses, "rank-1 (%)": rank1})


@styled
def compared_curves(runs: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Draw the loss and the mean rank-1 of several runs over the iterations, by the columns of
    their `metrics.csv`.
    """
    looks = [line_look(i)[:2] for i in range(len(runs))]

    def of(column: str) -> list[tuple[str, Curve, str, str]]:
        both = zip(runs.items(), looks, strict=True)
        return [(name, found[column], *look) for (name, found), look in both if column in found]

    return _curves({"loss": of("train/loss"), "mean rank-1 (%)": of("test/rank1/mean")})


def _curves(panels: Mapping[str, Sequence[tuple[str, Curve, str, str]]]) -> Figure:
    """Draw two panels of lines: label of the axis → name, curve, colour and dash of each."""
    names = {short(name) for lines in panels.values() for name, *_ in lines}
    columns = max(1, min(4, 50 // (5 + max(map(len, names), default=0))))  # of the legends below
    figure = Figure(figsize=(WIDTH, 2.6 + 0.17 * max(0, math.ceil(len(names) / columns) - 1)))
    for axes, (label, lines) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, curve, colour, dash in lines:
            marker = "o" if "%" in label or len(curve[0]) == 1 else None  # a line of one point shows nothing
            axes.plot(*curve, marker=marker, color=colour, linestyle=dash, label=short(name))
        axes.set_ylabel(label)
        axes.set_ylim(0, 102 if "%" in label else None)
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(whole_numbers(6))
        axes.grid()
        if lines:
            _legend_below(axes, ncols=columns)
        else:
            axes.text(0.5, 0.5, "nothing logged yet", transform=axes.transAxes, ha="center")
    return figure


def _legend_below(axes: Axes, **settings: Any) -> None:
    """Say below the axes, and not on the data, what is what."""
    settings = {
        "loc": "upper center",
        "bbox_to_anchor": (0.5, -0.22),
        "ncols": 4,
        "columnspacing": 1.0,
        **settings,
    }
    axes.legend(**settings)


def whole_numbers(ticks: int) -> MaxNLocator:
    """Place so many ticks at most, none between two whole numbers: of iterations, frames and parts."""
    return MaxNLocator(ticks, integer=True, min_n_ticks=1)


def rank1(result: CrossViewResult) -> Figure:
    """Return heat maps of rank-1 over probe view × gallery view, one for each set of probes."""
    return cross_view(
        {probe: cells[:, :, 0].numpy() for probe, cells in result.accuracy.items()}, result.views
    )


@styled
def cross_view(
    cells: Mapping[str, np.ndarray],
    views: Sequence[str],
    difference: bool = False,
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a heat map over probe view × gallery view for each entry, float (V, V); NaN stays grey.

    Args:
        cells: title → rank-1 in percent, or `difference`: one rank-1 minus another, in points.
        views: their V names.
        colours: title → colour of a bar below it; None: those of the sets of probes, which the titles then
            are.
    """
    colours = condition_colours(list(cells)) if colours is None else colours
    low, high = 0.0, 100.0
    if difference:
        high = max(1.0, *(float(np.nanmax(np.abs(values), initial=0)) for values in cells.values()))
        low = -high
    columns = min(3, len(cells))
    height = math.ceil(len(cells) / columns)
    side = WIDTH / 3 if columns > 1 else WIDTH / 2
    figure = Figure(figsize=(side * columns + 0.6 * (columns < 3), (side + 0.3) * height))
    panels = figure.subplots(height, columns, squeeze=False).ravel()
    names = [short(view, 12) for view in views]
    for axes, (probe, rank1) in zip(panels, cells.items(), strict=False):
        axes.set_facecolor("0.85")
        image = axes.imshow(rank1, vmin=low, vmax=high, cmap="PuOr" if difference else None)
        axes.set_xticks(range(len(views)), names, rotation=90)
        axes.set_yticks(range(len(views)), names)
        axes.set_xlabel(f"gallery view{unit(views)}")
        axes.set_ylabel(f"probe view{unit(views)}")
        axes.spines[:].set_visible(False)
        mean = f"{short(probe, 24)}: rank-1, mean {percent(mean_excluding_identical(rank1))}"
        axes.set_title(short(probe, 40) if difference else mean)
        if probe in colours:
            axes.plot(
                [0, 1], [1.02, 1.02], "-", color=colours[probe], transform=axes.transAxes, clip_on=False, lw=2
            )
        for i, j in (
            (i, j) for i in range(len(views)) for j in range(len(views)) if math.isfinite(rank1[i, j])
        ):
            dark = abs(rank1[i, j]) > 0.6 * high if difference else rank1[i, j] < 55
            text, colour = f"{rank1[i, j]:{'+' if difference else ''}.0f}", "white" if dark else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=4.5, color=colour)
    for axes in panels[len(cells) :]:
        axes.set_axis_off()
    label = "difference (points)" if difference else "rank-1 (%)"
    figure.colorbar(image, ax=panels.tolist(), label=label, shrink=0.8, pad=0.01)
    return figure


def per_view(table: Table) -> Figure:
    """Draw rank-1 over the probe views: a panel for each probe, a line for each method, as in
    the paper's table.
    """
    panels = [
        (group[0].probe, table.views, [(row.method, row) for row in group if row.has_views])
        for group in table.groups()
    ]
    return lines(panels, condition_colours([title for title, _, _ in panels]))


@styled
def lines(
    panels: Sequence[Panel], colours: Mapping[str, str] | None = None, names: Sequence[str] = ()
) -> Figure:
    """Draw rank-1 over the probe views: a panel for each (title, views, lines), a line for each (name, row)
    of it.

    A name has one colour, dash and sign in all panels, by its place in `names` where it is there.

    Args:
        panels: what is drawn.
        colours: title → colour of all lines of a panel, which then differ in dash and sign.
        names: of lines, whether they are drawn or not.
    """
    columns = min(3, len(panels))
    height = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else WIDTH / 2, 2.4 * height))
    grid = figure.subplots(height, columns, squeeze=False, sharey=True).ravel()
    drawn = list(dict.fromkeys(name for _, _, rows in panels for name, _ in rows))
    looks = {
        name: line_look(i, many=colours is None) for i, name in enumerate(dict.fromkeys([*names, *drawn]))
    }
    for axes, (title, views, rows) in zip(grid, panels, strict=False):
        for name, row in rows:
            colour, dash, sign = looks[name]
            colour = colours[title] if colours else colour
            axes.plot(numbers(row), marker=sign, linestyle=dash, color=colour)
        axes.set_xticks(range(len(views)), [short(view, 12) for view in views])
        axes.set_title(short(title, 40))
        axes.set_xlabel(f"probe view{unit(views)}")
        axes.tick_params("x", rotation=90)
        axes.set_ylim(0, 102)
        axes.grid()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    grid[0].set_ylabel("rank-1 (%)")
    keys = [
        Line2D([], [], color="0.3" if colours else colour, linestyle=dash, marker=sign, label=short(name, 50))  # type: ignore[arg-type]
        for name, (colour, dash, sign) in looks.items()
        if name in drawn
    ]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=2 if any(len(name) > 20 for name in drawn) else 6
    )
    return figure


@styled
def confusion(found: Confusion) -> Figure:
    """Draw the percent of a subject's comparisons in which it was taken for another; the
    diagonal stays grey.
    """
    side = min(WIDTH, 2.2 + 0.09 * len(found.subjects))
    figure = Figure(figsize=(side + 0.8, side))
    axes = figure.subplots()
    wrong = found.percent.copy()
    np.fill_diagonal(wrong, np.nan)
    axes.set_facecolor("0.85")
    image = axes.imshow(wrong, vmin=0)
    names = [short(subject, 16) for subject in found.subjects]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=5)
    axes.set_yticks(range(len(names)), names, fontsize=5)
    axes.set_xlabel("taken for subject")
    axes.set_ylabel("subject of the probe")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="comparisons (%)", shrink=0.8)
    return figure


@styled
def embedding_map(found: Map) -> Figure:
    """Draw the map of the embeddings three times: coloured by subject, by view and by condition."""
    figure = Figure(figsize=(WIDTH, 3.1))
    by_subject, by_view, by_kind = figure.subplots(1, 3)
    x, y = found.places.T
    for axes, of in ((by_subject, groups(found)["subject"]), (by_kind, groups(found)["condition"])):
        for name, some, colour, sign in of:
            axes.scatter(
                x[some], y[some], s=4, color=colour, marker=sign, linewidths=0, label=short(name, 12)
            )
    views = sorted(set(found.view.tolist()))
    for view, colour in zip(
        views, matplotlib.colormaps["cividis"](np.linspace(0, 1, len(views))), strict=True
    ):
        some = found.view == view
        by_view.scatter(x[some], y[some], s=4, color=colour, linewidths=0, label=short(view, 12))
    for axes, title in ((by_subject, "subject"), (by_view, f"view{unit(views)}"), (by_kind, "condition")):
        axes.set_title(f"by {title}")
        axes.set_xlabel(found.axes[0])
        axes.set_xticks([])
        axes.set_yticks([])
        long = any(len(label) > 6 for label in axes.get_legend_handles_labels()[1])
        columns = {"ncols": 2 if long else 6, "columnspacing": 0.6}
        _legend_below(axes, bbox_to_anchor=(0.5, -0.1), markerscale=2, fontsize=5, handletextpad=0, **columns)
    by_subject.set_ylabel(found.axes[1])
    return figure


@styled
def attention(found: Look, title: str) -> Figure:
    """Draw ATA's importance of the scales and SSFL's scores over frames and parts, and the
    recombined frame.
    """
    panels = found.scales | ({"SSFL score": found.scores} if found.scores is not None else {})
    figure = Figure(figsize=(WIDTH, 1.0 + 0.95 * len(panels)))
    grid = figure.add_gridspec(
        1 + len(panels), 2, width_ratios=[5, 1], height_ratios=[0.7, *[1] * len(panels)]
    )
    frames = len(found.silhouettes)
    top = figure.add_subplot(grid[0, 0])
    some = np.linspace(0, frames - 1, min(frames, 16)).round().astype(int)
    top.imshow(strip(found.silhouettes[some]), cmap="gray", aspect="auto", extent=(-0.5, frames - 0.5, 1, 0))
    top.set_title(f"{short(title, 60)}; part 0 is the head")
    top.set_axis_off()
    low, high = found.range
    for i, (name, weights) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(grid[i, 0])
        own = (None, None) if name == "SSFL score" else (low, high)
        image = axes.imshow(weights.T, aspect="auto", vmin=own[0], vmax=own[1])
        if name == "SSFL score":
            assert found.source is not None
            axes.plot(found.source, range(len(found.source)), ".", color="white", markersize=2.5)
        axes.set_ylabel("part")
        axes.xaxis.set_major_locator(whole_numbers(10))
        axes.yaxis.set_major_locator(whole_numbers(5))
        axes.set_title(
            "SSFL score; dots: the frame that a part is taken from"
            if name == "SSFL score"
            else f"importance, {short(name)}"
        )
        axes.label_outer()
        figure.colorbar(image, ax=axes, pad=0.01, aspect=8)
    axes.set_xlabel("frame")
    if found.scores is not None:
        right = grid[:, 1].subgridspec(2, 1)
        for panel, picture, name in (
            (right[0], recombine(found), "recombined"),
            (right[1], tinted(found, None, COLOURS), f"out of {len(sources(found))} frames"),
        ):
            axes = figure.add_subplot(panel)
            axes.imshow(picture, cmap="gray")
            axes.set_title(name)
            axes.set_axis_off()
    return figure


@styled
def strips(lines: Sequence[Sequence[tuple[str, np.ndarray]]], frames: int = 8) -> Figure:
    """Draw sequences (T, H, W) as frames side by side, each under its title; so many lines of
    so many sequences.
    """
    figure = Figure(figsize=(WIDTH, 0.85 * len(lines)))
    panels = figure.subplots(len(lines), max(map(len, lines)), squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for line, sequences in zip(panels, lines, strict=True):
        for axes, (title, silhouettes) in zip(line, sequences, strict=False):
            some = np.linspace(0, len(silhouettes) - 1, frames).round().astype(int)
            axes.imshow(strip(silhouettes[some]), cmap="gray")
            axes.set_title(short(title, 70), fontsize=5.5)
    return figure


def captions(probe: HardProbe) -> tuple[str, str, str]:
    """Say what the three sequences of a hard probe are."""
    return (
        (
            f"probe {probe.subject} {probe.condition} {probe.view}, missed in {probe.missed} of "
            f"{probe.compared} views"
        ),
        f"taken for {probe.taken_for} {probe.gallery_view}, distance {probe.nearest_distance:.2f}",
        f"right: {probe.right} {probe.gallery_view}, distance {probe.match_distance:.2f}",
    )
