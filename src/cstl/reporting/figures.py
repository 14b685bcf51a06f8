"""Plots on paper, all in one style: `paper.mplstyle`; `save` writes one as PDF and PNG."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from cstl.reporting import charts
from cstl.reporting.charts import Chart, written
from cstl.reporting.pictures import Look, recombine, sources, strip, tinted
from cstl.reporting.style import COLOURS, STYLE, WIDTH, short

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
def draw(charts: Sequence[Chart]) -> Figure:
    """Draw plots of one kind side by side, three in a line; a legend or bar of colours once, if it can be."""
    columns, first = min(3, len(charts)), charts[0]
    rows = math.ceil(len(charts) / columns)
    names = {_short(chart, line.name) for chart in charts for line in chart.lines}
    longest = 5 + max(map(len, names), default=0)
    ncols = max(1, min(6, 150 // columns // longest) if first.plane else min(4, 100 // columns // longest))
    if first.cells is not None:
        side = max(WIDTH / max(2, columns), 0.0 if columns > 1 else min(WIDTH, 2.2 + 0.09 * len(first.cells)))
        size = side * columns + 0.6 * (columns < 3), (side + 0.3) * rows
    else:
        legend = 0 if first.names[0] else math.ceil(max(len(chart.lines) for chart in charts) / ncols)
        size = WIDTH / (1 if columns > 1 else 2), (2.4 + (0.1 if first.plane else 0.17) * legend) * rows
    figure = Figure(figsize=size)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=first.names[0] is not None).ravel()
    ends = [[end for chart in charts if (end := chart.limits[i]) is not None] for i in (0, 1)]
    limits = (min(ends[0], default=None), max(ends[1], default=None))
    for axes, chart in zip(panels, charts, strict=False):
        _panel(axes, replace(chart, limits=limits) if chart.cells is not None else chart)
        if chart.cells is None and chart.names[0] is None:  # below the axes, and not on the data
            look = {"fontsize": 5, "markerscale": 2, "handletextpad": 0} if chart.plane else {}
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1 if chart.plane else -0.22)}
            axes.legend(**place, ncols=ncols, columnspacing=0.6 if chart.plane else 1.0, **look)
    for axes in panels[len(charts) :]:
        axes.set_axis_off()
    if first.cells is not None:
        figure.colorbar(panels[0].images[0], ax=panels.tolist(), label=first.measure, shrink=0.8, pad=0.01)
    elif first.names[0]:
        lines = {line.name: line for chart in charts for line in chart.lines}
        one = {
            name: len({x.colour for c in charts for x in c.lines if x.name == name}) == 1 for name in lines
        }
        keys = [
            Line2D([], [], color=line.colour if one[name] else "0.3", linestyle=line.dash, marker=line.sign,  # type: ignore[arg-type]
                   label=short(name, 50))
            for name, line in lines.items()
        ]  # fmt: skip
        wide = any(len(name) > 20 for name in lines)
        figure.legend(handles=keys, loc="outside lower center", ncols=2 if wide else 6)
    return figure


def _short(chart: Chart, name: str) -> str:
    return short(name, 12 if chart.plane else 30)


def _panel(axes: Axes, chart: Chart) -> None:
    """Draw one plot into its axes."""
    for line in chart.lines:
        x: Any = range(len(line.x)) if chart.names[0] else line.x
        if line.dash is None:
            axes.scatter(x, line.y, s=4, color=line.colour, marker=line.sign, linewidths=0,
                         label=_short(chart, line.name))  # fmt: skip
        else:
            axes.plot(x, line.y, marker=line.sign, color=line.colour, linestyle=line.dash,
                      label=_short(chart, line.name))  # fmt: skip
    if (cells := chart.cells) is not None:
        axes.set_facecolor("0.85")
        low, high = chart.limits
        axes.imshow(cells, vmin=low, vmax=high, cmap="PuOr" if chart.signed else None)
        axes.set_aspect("equal" if chart.names[0] else "auto")
        axes.spines[:].set_visible(False)
        if chart.colour:
            look = {"color": chart.colour, "transform": axes.transAxes, "clip_on": False, "lw": 2}
            axes.plot([0, 1], [1.02, 1.02], "-", **look)  # type: ignore[arg-type]
        for i, j in np.argwhere(np.isfinite(cells)).tolist() if chart.written else []:
            most = high or 1
            dark = abs(cells[i, j]) > 0.6 * most if chart.signed else cells[i, j] < 0.55 * most
            look = {"fontsize": 4.5, "color": "white" if dark else "black"}
            axes.text(j, i, written(cells[i, j], chart.signed), ha="center", va="center", **look)  # type: ignore[arg-type]
    else:
        axes.set_ylim(*chart.limits)
        axes.grid(visible=not chart.plane)
    axes.set_xlabel(chart.labels[0])
    axes.set_ylabel(chart.labels[1])
    if chart.labels[1] != chart.title:
        axes.set_title(short(chart.title, 40))
    for axis, names, most in zip((axes.xaxis, axes.yaxis), chart.names, (6, 5), strict=True):
        if chart.plane:
            axis.set_ticks([])
        elif names:
            axis.set_ticks(range(len(names)), [short(name, 12) for name in names])
            axis.set_tick_params(labelsize=5 if len(names) > 20 else STYLE["xtick.labelsize"])
        elif axis is axes.xaxis or chart.cells is not None:
            axis.set_major_locator(
                MaxNLocator(most, integer=True, min_n_ticks=1)
            )  # none between whole numbers
    if chart.names[0]:
        axes.tick_params("x", rotation=90)


def rank1(result: CrossViewResult) -> Figure:
    """Return heat maps of rank-1 over probe view × gallery view, one for each set of probes."""
    return draw(
        charts.rank1(
            {probe: cells[:, :, 0].numpy() for probe, cells in result.accuracy.items()}, result.views
        )
    )


@styled
def attention(found: Look, title: str) -> Figure:
    """Draw ATA's importance of the scales, SSFL's scores over frames and parts, the recombined frame."""
    panels = charts.attention(found)
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
    for i, chart in enumerate(panels, start=1):
        axes = figure.add_subplot(grid[i, 0])
        _panel(axes, chart)
        axes.label_outer()
        figure.colorbar(axes.images[0], ax=axes, pad=0.01, aspect=8)
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
    """Draw sequences (T, H, W) as frames side by side, each under its title."""
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
