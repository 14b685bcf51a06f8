"""The report's interactive plots, as Plotly's JSON; the page sets the colours of text and grid to its theme."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from cstl.reporting.figures import (
    COLOURS,
    LOSS_COLOURS,
    LOSSES,
    SIGNS,
    condition_colours,
    line_look,
    mean_excluding_identical,
    numbers,
    percent,
    unit,
)
from cstl.reporting.findings import Confusion, Map
from cstl.reporting.pictures import Look
from cstl.reporting.tables import Row
from cstl.run_folder import Curve

POINTS = 1000  # of a curve, at most
FEW = 10  # whole numbers with a tick each; among more Plotly finds whole ticks by itself
_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
_SYMBOLS = {"o": "circle", "^": "triangle-up", "s": "square"}
EMPTY = "rgba(127,127,127,0.35)"  # behind a heat map: cells without a value


_Line = tuple[str, Curve, tuple[str, str, str]]  # with colour, dash and sign


@dataclass(frozen=True)
class Chart:
    """One plot of the page: a heading, what to say instead of it, Plotly's data and layout."""

    title: str
    text: str  # the alternative: what a reader who does not see it should know
    figure: dict[str, Any]
    tall: bool = False
    colour: str | None = None  # of the set of probes that it is about


def curves(runs: Mapping[str, Mapping[str, Curve]], probes: Sequence[str]) -> list[Chart]:
    """A plot for each quantity logged: losses and rank-1 first; with several runs, each in a colour of its own.

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
    panels = {"loss": losses, "rank-1 on the test subjects (%)": rank1, "rank-1 on held-out subjects (%)": held_out}
    shown = {name for panel in panels.values() for name in panel} | {f"train/{name}" for name in LOSSES}
    for name in sorted(set(names) - shown, key=lambda name: (name.startswith("speed/"), name)):
        if name.startswith(("train/", "speed/")):
            label = name.removeprefix("train/").replace("/", ": ").replace("_", " ")
            panels[label] = {name: label}
    looks = {run: line_look(i) for i, run in enumerate(runs)}
    colours, charts = condition_colours(probes), []
    for title, columns in panels.items():
        lines: list[_Line] = []
        for run, found in runs.items():
            for i, (name, label) in enumerate(columns.items()):
                look = looks[run] if len(runs) > 1 else (colours.get(label, LOSS_COLOURS[i % 3]), "-", "o")
                if name in found:
                    full = label if len(runs) == 1 else f"{run}: {label}" if len(columns) > 1 else run
                    lines.append((full, found[name], look))
        if lines:
            charts.append(_curve_chart(title, lines, smooth="rank-1" not in title))
    return charts


def _curve_chart(title: str, lines: Sequence[_Line], smooth: bool) -> Chart:
    figure = go.Figure()
    said = []
    for label, (steps, values), (colour, dash, _) in lines:
        some = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), POINTS)).round().astype(int))
        x, y = [steps[k] for k in some], [_short(values[k], 5) for k in some]
        line = {"color": colour, "dash": _DASHES[dash], "width": 2}
        mode = "lines" if smooth and len(steps) > 1 else "lines+markers"  # a line of one point shows nothing
        if smooth:
            figure.add_scatter(
                x=x, y=y, mode="lines", line=line | {"width": 1}, opacity=0.3, showlegend=False, hoverinfo="skip",
                meta="raw",
            )  # fmt: skip
        figure.add_scatter(
            x=x, y=y, name=label, line=line, mode=mode,
            meta="smooth" if smooth else None, hovertemplate="iteration %{x}: %{y:.4~g}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
        said.append(
            f"{label} from {values[0]:.3g} to {values[-1]:.3g}" if len(values) > 1 else f"{label} {values[0]:.3g}, once"
        )
    first, last = min(steps[0] for _, (steps, _), _ in lines), max(steps[-1] for _, (steps, _), _ in lines)
    every = {value for _, (_, values), _ in lines for value in values}
    only = every.pop() if smooth and len(every) == 1 else 0.0  # round it Plotly would draw an axis from −1 to 1
    figure.update_layout(
        xaxis={"title": {"text": "iteration"}, **_whole_numbers(first, last)},
        yaxis={"exponentformat": "power", **({} if smooth else {"range": [0, 102]})}  # its title is the chart's
        | ({"range": sorted((0, 2 * only))} if only else {}),
        showlegend=len(lines) > 1,
        hovermode="x" if len(lines) > 1 else "closest",
    )
    return Chart(title, f"Curve of {title} over {last:,} iterations: {'; '.join(said)}.", _plain(figure))


def _whole_numbers(first: int, last: int) -> dict[str, Any]:
    """An axis from one whole number to another without ticks between two of them; the page keeps that when zooming."""
    axis: dict[str, Any] = {"tickmode": "linear", "tick0": 0, "dtick": 1} if last - first < FEW else {}
    return axis | ({"range": [first - 1, last + 1]} if first == last else {})


def cross_view(
    title: str, cells: np.ndarray, views: Sequence[str], difference: bool = False, colour: str | None = None
) -> Chart:
    """A heat map over probe view × gallery view: rank-1, (V, V) in percent, or a difference of it in points."""
    if difference:
        most = max(1.0, float(np.nanmax(np.abs(cells), initial=0)))
        scale: dict[str, Any] = {"colorscale": "PuOr", "zmin": -most, "zmax": most}
    else:
        scale = {"colorscale": "Cividis", "zmin": 0, "zmax": 100}
    sign = "%+.0f" if difference else "%.0f"
    texts = [["" if np.isnan(value) else sign % value for value in line] for line in cells]
    measure = "points" if difference else "%"
    figure = go.Figure(
        go.Heatmap(
            x=list(views),
            y=list(views),
            z=_cells(cells),
            text=texts,
            texttemplate="%{text}",
            textfont={"size": 9},
            **scale,
            xgap=1,
            ygap=1,
            colorbar=BAR,
            hovertemplate=f"probe view %{{y}}, gallery view %{{x}}: %{{z:.1f}} {measure}<extra></extra>",
        )
    )
    figure.update_layout(
        xaxis=_names_axis(f"gallery view{unit(views)}"),
        yaxis=_names_axis(f"probe view{unit(views)}") | {"autorange": "reversed"},
        plot_bgcolor=EMPTY,
    )
    other = cells.copy()
    if len(views) > 1:
        np.fill_diagonal(other, np.nan)
    if np.isfinite(other).any():
        low, high = (divmod(int(f(other)), len(views)) for f in (np.nanargmin, np.nanargmax))
        mean = mean_excluding_identical(cells)
        said = f"mean {_signed(mean, difference)}; " + "; ".join(
            f"{what} {_signed(float(cells[at]), difference)} at probe view {views[at[0]]}, gallery view {views[at[1]]}"
            for what, at in (("lowest", low), ("highest", high))
        )
    else:
        said = "nothing could be counted"
    text = f"Heat map of {title}, over probe view and gallery view: {said}."
    return Chart(title, text, _plain(figure), colour=colour)


def per_view(
    title: str, rows: Sequence[tuple[str, Row]], views: Sequence[str], names: Sequence[str], colour: str | None = None
) -> Chart:
    """Rank-1 over the probe views, a line for each (name, row).

    Args:
        names: of the lines of all such charts: a name looks the same in each.
        colour: of all lines, which then differ in dash and sign.
    """
    figure, said = go.Figure(), []
    for name, row in rows:
        values = numbers(row)
        own, dash, sign = line_look(list(names).index(name), many=colour is None)
        figure.add_scatter(
            x=list(views), y=[_short(value, 4) for value in values], name=name, mode="lines+markers",
            line={"color": colour or own, "dash": _DASHES[dash], "width": 2}, marker={"symbol": _SYMBOLS[sign]},
            hovertemplate="view %{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        )  # fmt: skip
        said.append(f"{name} mean {percent(row.mean)}")
    figure.update_layout(
        xaxis=_names_axis(f"probe view{unit(views)}", grid=True),
        yaxis={"title": {"text": "rank-1 (%)"}, "range": [0, 102]},
        hovermode="x",
    )
    text = f"Lines of rank-1 over the probe views, {title}: {'; '.join(said)}."
    return Chart(title, text, _plain(figure), colour=colour)


def confusion(found: Confusion) -> Chart:
    """Who is taken for whom: the diagonal, who is recognised, is left out of the colours."""
    wrong = found.percent.copy()
    np.fill_diagonal(wrong, np.nan)
    figure = go.Figure(
        go.Heatmap(
            x=found.subjects,
            y=found.subjects,
            z=_cells(wrong),
            colorscale="Cividis",
            zmin=0,
            colorbar=BAR,
            hovertemplate="%{y} taken for %{x}: %{z:.1f} % of comparisons<extra></extra>",
        )
    )
    figure.update_layout(
        xaxis=_names_axis("taken for subject"),
        yaxis=_names_axis("subject of the probe") | {"autorange": "reversed"},
        plot_bgcolor=EMPTY,
    )
    said = "; ".join(f"{who} for {other} in {share:.1f} %" for who, other, share in found.pairs[:3]) or "nobody"
    text = f"Matrix of who is taken for whom among {len(found.subjects)} subjects. Most often: {said}."
    return Chart("% of a subject's comparisons", text, _plain(figure), tall=True)


def embedding_map(found: Map) -> list[Chart]:
    """The map three times: coloured by subject, by view and by condition."""
    names = np.array([" ".join(names) for names in zip(found.subject, found.condition, found.view, strict=True)])
    x, y = (np.array([_short(value, 4) for value in axis]) for axis in found.places.T.tolist())
    by_subject, by_view, by_kind = go.Figure(), go.Figure(), go.Figure()
    for i, subject in enumerate(np.unique(found.subject)):
        sign = _SYMBOLS[SIGNS[i // len(COLOURS) % len(SIGNS)]]
        _points(by_subject, x, y, names, found.subject == subject, str(subject), COLOURS[i % len(COLOURS)], sign)
    colours = condition_colours(found.kinds[1:])
    for i, kind in enumerate(found.kinds):
        sign = _SYMBOLS[SIGNS[i % len(SIGNS)]]
        _points(by_kind, x, y, names, found.kind == kind, kind, colours[kind], sign)
    views = sorted(set(found.view.tolist()))
    position = {view: i for i, view in enumerate(views)}
    bar = BAR | {"tickvals": list(range(len(views))), "ticktext": views}
    by_view.add_scatter(
        x=x.tolist(), y=y.tolist(), text=names.tolist(), mode="markers", showlegend=False,
        hovertemplate="%{text}<extra></extra>",
        marker={
            "size": 4, "color": [position[view] for view in found.view.tolist()], "colorscale": "Cividis",
            "colorbar": bar,
        },
    )  # fmt: skip
    charts = []
    for title, figure in (("by subject", by_subject), (f"by view{unit(views)}", by_view), ("by condition", by_kind)):
        figure.update_layout(
            xaxis={"title": {"text": found.axes[0]}, "showticklabels": False, "zeroline": False},
            yaxis={"title": {"text": found.axes[1]}, "showticklabels": False, "zeroline": False},
            hovermode="closest",
            legend={"itemsizing": "constant", "font": {"size": 10}},
        )
        text = f"Map of {len(names):,} sequences of {found.shown} subjects, coloured {title}: near means alike."
        charts.append(Chart(f"Coloured {title}", text, _plain(figure), tall=True))
    return charts


def _points(
    figure: go.Figure,
    x: np.ndarray,
    y: np.ndarray,
    names: np.ndarray,
    some: np.ndarray,
    name: str,
    colour: str,
    sign: str,
) -> None:
    figure.add_scatter(
        x=x[some].tolist(), y=y[some].tolist(), text=names[some].tolist(), name=name, mode="markers",
        marker={"size": 4, "color": colour, "symbol": sign}, hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def attention(found: Look) -> list[Chart]:
    """ATA's importance of each scale over frames and parts, and SSFL's scores with the frame chosen for each part."""
    charts = []
    low = min((float(w.min()) for w in found.scales.values()), default=0)
    high = max((float(w.max()) for w in found.scales.values()), default=1)
    for name, weights in found.scales.items():
        share = weights.mean() / sum(w.mean() for w in found.scales.values())
        at = np.unravel_index(weights.argmax(), weights.shape)
        text = (
            f"Heat map of ATA's importance of the {name} scale over {weights.shape[0]} frames and {weights.shape[1]} "
            f"parts: mean {weights.mean():.2f}, {100 * share:.0f} % of all scales; highest at frame {at[0]}, "
            f"part {at[1]}."
        )
        charts.append(
            Chart(f"ATA: importance, {name}", text, _plain(_frames_by_parts(weights, low, high, "importance")))
        )
    if found.scores is not None and found.source is not None:
        figure = _frames_by_parts(found.scores, float(found.scores.min()), float(found.scores.max()), "score")
        figure.add_scatter(
            x=found.source.tolist(), y=list(range(len(found.source))), mode="markers", showlegend=False,
            marker={"color": "white", "size": 5, "line": {"color": "black", "width": 1}},
            hovertemplate="part %{y} is taken from frame %{x}<extra></extra>",
        )  # fmt: skip
        runs = ", ".join(f"part {part} from frame {frame}" for part, frame in enumerate(found.source.tolist()))
        charts.append(
            Chart(
                "SSFL: scores, parts taken",
                f"Heat map of SSFL's scores. It takes {runs}.",
                _plain(figure),
            )
        )
    return charts


def _frames_by_parts(weights: np.ndarray, low: float, high: float, what: str) -> go.Figure:
    figure = go.Figure(
        go.Heatmap(
            z=_cells(weights.T, 4),
            colorscale="Cividis",
            zmin=low,
            zmax=high,
            colorbar=BAR,
            hovertemplate=f"frame %{{x}}, part %{{y}}: {what} %{{z:.3f}}<extra></extra>",
        )
    )
    figure.update_layout(
        xaxis=_frames_axis("frame", [-0.5, len(weights) - 0.5]),
        yaxis=_frames_axis("part", [weights.shape[1] - 0.5, -0.5]),
    )
    return figure


def _frames_axis(title: str, ends: list[float]) -> dict[str, Any]:
    """From one end to the other: frames or parts, counted from 0."""
    whole = _whole_numbers(0, round(max(ends) - 0.5))
    return whole | {"title": {"text": title}, "range": ends, "showgrid": False}


def _names_axis(title: str, grid: bool = False) -> dict[str, Any]:
    """An axis of names: "000" is no number."""
    return {"title": {"text": title}, "type": "category", "showgrid": grid}


BAR = {"thickness": 10, "outlinewidth": 0}  # of colours; the title of the chart says of what


def _cells(values: np.ndarray, digits: int = 1) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), digits) for value in line] for line in values]


def _short(value: float, digits: int) -> float | None:
    return None if value != value else float(f"{value:.{digits}g}")


def _signed(value: float | None, difference: bool) -> str:
    if value is None or not difference:
        return percent(value)
    return f"{value:+.1f} points"


def _plain(figure: go.Figure) -> dict[str, Any]:
    """Data and layout in plain containers, without Plotly's default template: the page has its own."""
    content = json.loads(figure.to_json(engine="json"))
    content["layout"].pop("template", None)
    return {"data": _as_text(content["data"]), "layout": _as_text(content["layout"])}


def _as_text(content: Any) -> Any:
    """What Plotly is given, with every text escaped: it would show <b>, <br> and <a href> of a name as markup.

    Its templates stay; they are ours and hold no name.
    """
    if isinstance(content, dict):
        return {key: value if key.endswith("template") else _as_text(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_as_text(value) for value in content]
    return html.escape(content, quote=False) if isinstance(content, str) else content
