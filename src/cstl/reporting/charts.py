"""The report's interactive plots, as Plotly's JSON; the page sets the colours of text and grid
to its theme.
"""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from cstl.reporting.findings import Confusion, Map
from cstl.reporting.pictures import Look
from cstl.reporting.style import (
    LOSS_COLOURS,
    LOSSES,
    condition_colours,
    groups,
    line_look,
    mean_excluding_identical,
    numbers,
    percent,
    unit,
)
from cstl.reporting.tables import Row
from cstl.run_folder import Curve

POINTS = 1000  # of a curve, at most
FEW = 10  # whole numbers with a tick each; among more Plotly finds whole ticks by itself
EMPTY = "rgba(127,127,127,0.35)"  # behind a heat map: cells without a value
BAR = {"thickness": 10, "outlinewidth": 0}  # of colours; the title of the chart says of what
_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
_SYMBOLS = {"o": "circle", "^": "triangle-up", "s": "square"}


@dataclass(frozen=True)
class Chart:
    """One plot of the page: a heading, what to say instead of it, Plotly's data and layout."""

    title: str
    text: str  # the alternative: what a reader who does not see it should know
    figure: dict[str, Any]
    tall: bool = False
    colour: str | None = None  # of the set of probes that it is about


def curves(runs: Mapping[str, Mapping[str, Curve]], probes: Sequence[str]) -> list[Chart]:
    """Draw a plot for each quantity logged: losses and rank-1 first; with several runs, each in a colour of
    its own.

    Args:
        runs: name → the columns of its `metrics.csv`; one run is not named in the legend.
        probes: names of the probe sets, in the order of the tables.
    """
    names = list(dict.fromkeys(name for columns in runs.values() for name in columns))
    losses = {f"train/{name}": label for name, label in LOSSES.items() if f"train/{name}" in names}
    rank1 = {f"test/rank1/{probe}": probe for probe in [*probes, "mean"] if f"test/rank1/{probe}" in names}
    if len(runs) > 1:  # a line a run: the total loss and the mean
        losses = {name: label for name, label in losses.items() if name == "train/loss"}
        rank1 = {name: label for name, label in rank1.items() if label == "mean"} or rank1
    held_out = {f"validation/{name.removeprefix('test/')}": label for name, label in rank1.items()}
    held_out = {name: label for name, label in held_out.items() if name in names}
    panels = {
        "loss": losses,
        "rank-1 on the test subjects (%)": rank1,
        "rank-1 on held-out subjects (%)": held_out,
    }
    shown = {name for panel in panels.values() for name in panel} | {f"train/{name}" for name in LOSSES}
    for name in sorted(set(names) - shown, key=lambda name: (name.startswith("speed/"), name)):
        if name.startswith(("train/", "speed/")):
            label = name.removeprefix("train/").replace("/", ": ").replace("_", " ")
            panels[label] = {name: label}
    colours, charts = condition_colours(probes), []
    for title, columns in panels.items():
        lines: list[tuple[str, Curve, str, str]] = []  # with colour and dash
        for number, (run, found) in enumerate(runs.items()):
            for i, (name, label) in enumerate(columns.items()):
                if name in found:
                    colour, dash, _ = line_look(number)
                    if len(runs) == 1:
                        run, colour, dash = label, colours.get(label, LOSS_COLOURS[i % 3]), "-"
                    elif len(columns) > 1:
                        run = f"{run}: {label}"
                    lines.append((run, found[name], colour, dash))
        if lines:
            charts.append(_curves(title, lines, smooth="rank-1" not in title))
    return charts


def _curves(title: str, lines: Sequence[tuple[str, Curve, str, str]], smooth: bool) -> Chart:
    figure, texts = go.Figure(), []
    for label, (steps, values), colour, dash in lines:
        some = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), POINTS)).round().astype(int))
        line = {"color": colour, "dash": _DASHES[dash], "width": 2}
        shared = {"x": [steps[k] for k in some], "y": [_digits(values[k], 5) for k in some]}
        if smooth:
            pale = {
                "line": line | {"width": 1},
                "opacity": 0.3,
                "showlegend": False,
                "hoverinfo": "skip",
                "meta": "raw",
            }
            figure.add_scatter(**shared, mode="lines", **pale)
        figure.add_scatter(
            **shared, name=label, line=line, meta="smooth" if smooth else None,
            # a line of one point shows nothing
            mode="lines" if smooth and len(steps) > 1 else "lines+markers",
            hovertemplate="iteration %{x}: %{y:.4~g}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
        once = f"{label} {values[0]:.3g}, once"
        texts.append(f"{label} from {values[0]:.3g} to {values[-1]:.3g}" if len(values) > 1 else once)
    first, last = min(steps[0] for _, (steps, _), *_ in lines), max(steps[-1] for _, (steps, _), *_ in lines)
    every = {value for _, (_, values), *_ in lines for value in values}
    # its title is the chart's
    y: dict[str, Any] = {"exponentformat": "power"} if smooth else {"range": [0, 102]}
    # round it Plotly would draw an axis from −1 to 1
    if smooth and len(every) == 1 and (only := every.pop()):
        y["range"] = sorted((0, 2 * only))
    x = {"title": {"text": "iteration"}, **_whole_numbers(first, last)}
    hover = "x" if len(lines) > 1 else "closest"
    figure.update_layout(xaxis=x, yaxis=y, showlegend=len(lines) > 1, hovermode=hover)
    return Chart(title, f"Curve of {title} over {last:,} iterations: {'; '.join(texts)}.", _plain(figure))


def cross_view(
    title: str, cells: np.ndarray, views: Sequence[str], difference: bool = False, colour: str | None = None
) -> Chart:
    """Draw a heat map over probe view × gallery view: rank-1, (V, V) in percent, or a
    difference of it in points.
    """
    most = max(1.0, float(np.nanmax(np.abs(cells), initial=0)))
    scale = {"colorscale": "PuOr", "zmin": -most, "zmax": most} if difference else {"zmin": 0, "zmax": 100}
    sign, measure = ("%+.0f", "points") if difference else ("%.0f", "%")
    texts = [["" if np.isnan(value) else sign % value for value in line] for line in cells]
    figure = _heat(
        cells, views, views, (f"gallery view{unit(views)}", f"probe view{unit(views)}"),
        f"probe view %{{y}}, gallery view %{{x}}: %{{z:.1f}} {measure}",
        text=texts, texttemplate="%{text}", textfont={"size": 9}, xgap=1, ygap=1, **scale,
    )  # fmt: skip
    other = np.where(np.eye(len(views), dtype=bool), np.nan, cells) if len(views) > 1 else cells
    text = "nothing could be counted"
    if np.isfinite(other).any():
        ends = {"lowest": np.nanargmin(other), "highest": np.nanargmax(other)}
        text = f"mean {_signed(mean_excluding_identical(cells), difference)}" + "".join(
            f"; {what} {_signed(float(cells.flat[at]), difference)} at probe view "
            f"{views[int(at) // len(views)]}, gallery view {views[int(at) % len(views)]}"
            for what, at in ends.items()
        )
    text = f"Heat map of {title}, over probe view and gallery view: {text}."
    return Chart(title, text, _plain(figure), colour=colour)


def per_view(
    title: str,
    rows: Sequence[tuple[str, Row]],
    views: Sequence[str],
    names: Sequence[str],
    colour: str | None = None,
) -> Chart:
    """Draw rank-1 over the probe views, a line for each (name, row).

    Args:
        names: of the lines of all such charts: a name looks the same in each.
        colour: of all lines, which then differ in dash and sign.
    """
    figure = go.Figure()
    for name, row in rows:
        own, dash, sign = line_look(list(names).index(name), many=colour is None)
        figure.add_scatter(
            x=list(views), y=[_digits(value, 4) for value in numbers(row)], name=name, mode="lines+markers",
            line={"color": colour or own, "dash": _DASHES[dash], "width": 2},
            marker={"symbol": _SYMBOLS[sign]},
            hovertemplate="view %{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    x = {"title": {"text": f"probe view{unit(views)}"}, "type": "category"}  # "000" is no number
    figure.update_layout(xaxis=x, yaxis={"title": {"text": "rank-1 (%)"}, "range": [0, 102]}, hovermode="x")
    means = "; ".join(f"{name} mean {percent(row.mean)}" for name, row in rows)
    return Chart(
        title, f"Lines of rank-1 over the probe views, {title}: {means}.", _plain(figure), colour=colour
    )


def confusion(found: Confusion) -> Chart:
    """Draw who is taken for whom: the diagonal, who is recognised, is left out of the colours."""
    wrong = np.where(np.eye(len(found.subjects), dtype=bool), np.nan, found.percent)
    figure = _heat(
        wrong, found.subjects, found.subjects, ("taken for subject", "subject of the probe"),
        "%{y} taken for %{x}: %{z:.1f} % of comparisons", zmin=0,
    )  # fmt: skip
    often = (
        "; ".join(f"{who} for {other} in {share:.1f} %" for who, other, share in found.pairs[:3]) or "nobody"
    )
    text = f"Matrix of who is taken for whom among {len(found.subjects)} subjects. Most often: {often}."
    return Chart("% of a subject's comparisons", text, _plain(figure), tall=True)


def embedding_map(found: Map) -> list[Chart]:
    """Draw the map three times: coloured by subject, by view and by condition."""
    names = np.array(
        [" ".join(names) for names in zip(found.subject, found.condition, found.view, strict=True)]
    )
    x, y = (np.array([_digits(value, 4) for value in axis]) for axis in found.places.T.tolist())

    def points(figure: go.Figure, some: np.ndarray, **settings: Any) -> None:
        figure.add_scatter(
            x=x[some].tolist(), y=y[some].tolist(), text=names[some].tolist(), mode="markers",
            hovertemplate="%{text}<extra></extra>", **settings,
        )  # fmt: skip

    views = sorted(set(found.view.tolist()))
    bar = BAR | {"tickvals": list(range(len(views))), "ticktext": views}
    marker = {
        "size": 4,
        "color": np.searchsorted(views, found.view).tolist(),
        "colorscale": "Cividis",
        "colorbar": bar,
    }
    figures = {"by subject": go.Figure(), f"by view{unit(views)}": go.Figure(), "by condition": go.Figure()}
    by_subject, by_view, by_condition = figures.values()
    points(by_view, np.ones(len(x), bool), showlegend=False, marker=marker)
    for figure, of in ((by_subject, groups(found)["subject"]), (by_condition, groups(found)["condition"])):
        for name, some, colour, sign in of:
            points(figure, some, name=name, marker={"size": 4, "color": colour, "symbol": _SYMBOLS[sign]})
    charts = []
    for title, figure in figures.items():
        axes = [
            {"title": {"text": label}, "showticklabels": False, "zeroline": False} for label in found.axes
        ]
        legend = {"itemsizing": "constant", "font": {"size": 10}}
        figure.update_layout(xaxis=axes[0], yaxis=axes[1], hovermode="closest", legend=legend)
        text = (
            f"Map of {len(names):,} sequences of {found.shown} subjects, coloured {title}: near means alike."
        )
        charts.append(Chart(f"Coloured {title}", text, _plain(figure), tall=True))
    return charts


def attention(found: Look) -> list[Chart]:
    """Draw ATA's importance of each scale over frames and parts, and SSFL's scores with the
    frame chosen for each.
    """
    charts, (low, high) = [], found.range
    total = sum(weights.mean() for weights in found.scales.values())
    for name, weights in found.scales.items():
        frame, part = np.unravel_index(weights.argmax(), weights.shape)
        text = (
            f"Heat map of ATA's importance of the {name} scale over {weights.shape[0]} frames and "
            f"{weights.shape[1]} parts: mean {weights.mean():.2f}, {100 * weights.mean() / total:.0f} % of "
            f"all scales; highest at frame {frame}, part {part}."
        )
        figure = _frames_by_parts(weights, "importance", zmin=low, zmax=high)
        charts.append(Chart(f"ATA: importance, {name}", text, _plain(figure)))
    if found.scores is not None and found.source is not None:
        figure = _frames_by_parts(found.scores, "score")
        figure.add_scatter(
            x=found.source.tolist(), y=list(range(len(found.source))), mode="markers", showlegend=False,
            marker={"color": "white", "size": 5, "line": {"color": "black", "width": 1}},
            hovertemplate="part %{y} is taken from frame %{x}<extra></extra>",
        )  # fmt: skip
        taken = ", ".join(
            f"part {part} from frame {frame}" for part, frame in enumerate(found.source.tolist())
        )
        text = f"Heat map of SSFL's scores. It takes {taken}."
        charts.append(Chart("SSFL: scores, parts taken", text, _plain(figure)))
    return charts


def _frames_by_parts(weights: np.ndarray, what: str, **scale: Any) -> go.Figure:
    hover = f"frame %{{x}}, part %{{y}}: {what} %{{z:.3f}}"
    figure = _heat(weights.T, None, None, ("frame", "part"), hover, digits=4, **scale)
    frames, parts = weights.shape
    for axis, ends in (("xaxis", [-0.5, frames - 0.5]), ("yaxis", [parts - 0.5, -0.5])):
        whole = _whole_numbers(0, round(max(ends) - 0.5)) | {
            "range": ends,
            "type": "linear",
            "autorange": None,
        }
        figure.update_layout({axis: whole})
    return figure


def _heat(
    cells: np.ndarray,
    x: Sequence[str] | None,
    y: Sequence[str] | None,
    titles: tuple[str, str],
    hover: str,
    digits: int = 1,
    **settings: Any,
) -> go.Figure:
    """Draw cells (Y, X) from the top down; those without a value stay grey."""
    z = [[None if np.isnan(value) else round(float(value), digits) for value in line] for line in cells]
    settings = {
        "colorscale": "Cividis",
        "colorbar": BAR,
        "hovertemplate": f"{hover}<extra></extra>",
        **settings,
    }
    figure = go.Figure(go.Heatmap(x=x, y=y, z=z, **settings))
    axes = [{"title": {"text": title}, "type": "category", "showgrid": False} for title in titles]
    figure.update_layout(xaxis=axes[0], yaxis=axes[1] | {"autorange": "reversed"}, plot_bgcolor=EMPTY)
    return figure


def _whole_numbers(first: int, last: int) -> dict[str, Any]:
    """Leave out ticks between two whole numbers; the page keeps that when zooming."""
    axis: dict[str, Any] = {"tickmode": "linear", "tick0": 0, "dtick": 1} if last - first < FEW else {}
    return axis | ({"range": [first - 1, last + 1]} if first == last else {})


def _digits(value: float, digits: int) -> float | None:
    return None if value != value else float(f"{value:.{digits}g}")


def _signed(value: float | None, difference: bool) -> str:
    return percent(value) if value is None or not difference else f"{value:+.1f} points"


def _plain(figure: go.Figure) -> dict[str, Any]:
    """Return data and layout in plain containers, without Plotly's default template: the page has its own."""
    content = json.loads(figure.to_json(engine="json"))
    content["layout"].pop("template", None)
    return {"data": _as_text(content["data"]), "layout": _as_text(content["layout"])}


def _as_text(content: Any) -> Any:
    """Escape every text that Plotly is given: it would show <b>, <br> and <a href> of a name as markup.

    Its templates stay; they are ours and hold no name.
    """
    if isinstance(content, dict):
        return {key: value if key.endswith("template") else _as_text(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_as_text(value) for value in content]
    return html.escape(content, quote=False) if isinstance(content, str) else content
