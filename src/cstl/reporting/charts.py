"""Plots, each described once: by `Chart.figure` as Plotly's JSON for the page, by `figures.draw` on paper."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import plotly.graph_objects as go
from matplotlib.colors import to_hex

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
_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
_SYMBOLS = {"o": "circle", "^": "triangle-up", "s": "square"}


@dataclass(frozen=True)
class Line:
    """A line of a plot; without a dash its points alone."""

    name: str
    x: Sequence[Any]  # numbers, or names
    y: Sequence[float]  # NaN: a gap
    colour: str
    dash: str | None = "-"
    sign: str | None = None  # of its points
    texts: Sequence[str] | None = None  # what each point is


@dataclass(frozen=True)
class Chart:
    """One plot: a heat map of cells, or lines, or lines on a heat map.

    Attributes:
        text: the alternative: what a reader who does not see it should know.
        labels: of the axes; the title in place of the second, and the plot has no other.
        cells: (Y, X), from the top down; those without a value stay grey.
        names: of the places along each axis; None: whole numbers.
        limits: of the colours, or of y; None: as the values are.
        measure: what the colours are, for their bar on paper.
        hover: Plotly's template.
        digits: of the values, on the page.
        signed: the cells are differences.
        written: with their numbers in them.
        smooth: a slider of the page smooths the lines.
        plane: the axes are without numbers.
        tall: it needs room on the page.
        colour: of the set of probes that it is about.
    """

    title: str
    text: str
    labels: tuple[str, str]
    lines: Sequence[Line] = ()
    cells: np.ndarray | None = None
    names: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None)
    limits: tuple[float | None, float | None] = (None, None)
    measure: str = ""
    hover: str = ""
    digits: int = 4
    signed: bool = False
    written: bool = False
    smooth: bool = False
    plane: bool = False
    tall: bool = False
    colour: str | None = None

    @property
    def figure(self) -> dict[str, Any]:
        """Return Plotly's data and layout; the page sets the colours of text and grid to its theme."""
        figure, axes = go.Figure(), [{"title": {"text": label}} for label in self.labels]
        x: dict[str, Any] = axes[0]
        y: dict[str, Any] = axes[1] if self.labels[1] != self.title else {}
        if self.cells is not None:
            figure.add_trace(self._heat())
            figure.update_layout(plot_bgcolor=EMPTY)
            for axis, names, size in zip((x, y), self.names, self.cells.shape[::-1], strict=True):
                axis |= {"showgrid": False}
                axis |= {"type": "category"} if names else {"type": "linear", **_whole_numbers(0, size - 1)}
                if not names:
                    axis["range"] = [-0.5, size - 0.5] if axis is x else [size - 0.5, -0.5]
                elif axis is y:
                    axis["autorange"] = "reversed"
        else:
            y |= {} if self.limits[1] is None else {"range": list(self.limits)}
            y |= {"exponentformat": "power"} if self.smooth else {}
            if self.plane:
                x, y = (axis | {"showticklabels": False, "zeroline": False} for axis in (x, y))
            elif self.names[0]:
                x["type"] = "category"  # "000" is no number
            else:
                x |= _whole_numbers(
                    min(line.x[0] for line in self.lines), max(line.x[-1] for line in self.lines)
                )
            several = len(self.lines) > 1
            figure.update_layout(
                showlegend=several, hovermode="x" if several and not self.plane else "closest"
            )
        for line in self.lines:
            self._draw(line, figure)
        legend = {"itemsizing": "constant", "font": {"size": 10}} if self.plane else {}
        figure.update_layout(xaxis=x, yaxis=y, legend=legend)
        content = json.loads(figure.to_json(engine="json"))
        content["layout"].pop("template", None)  # the page has its own
        return {"data": _as_text(content["data"]), "layout": _as_text(content["layout"])}

    def _heat(self) -> go.Heatmap:
        assert self.cells is not None
        z = [
            [None if np.isnan(value) else round(float(value), self.digits) for value in row]
            for row in self.cells
        ]
        settings: dict[str, Any] = {"colorscale": "PuOr" if self.signed else "Cividis"}
        settings |= {
            key: end for key, end in zip(("zmin", "zmax"), self.limits, strict=True) if end is not None
        }
        if self.written:
            texts = [
                ["" if np.isnan(value) else written(value, self.signed) for value in row]
                for row in self.cells
            ]
            settings |= {
                "text": texts,
                "texttemplate": "%{text}",
                "textfont": {"size": 9},
                "xgap": 1,
                "ygap": 1,
            }
        return go.Heatmap(
            x=self.names[0], y=self.names[1], z=z, hovertemplate=f"{self.hover}<extra></extra>",
            colorbar={"thickness": 10, "outlinewidth": 0}, **settings,
        )  # fmt: skip

    def _draw(self, line: Line, figure: go.Figure) -> None:
        y = [None if value != value else float(f"{value:.{self.digits + 1}g}") for value in line.y]
        look: dict[str, Any] = {"color": line.colour}
        shared: dict[str, Any] = {"x": list(line.x), "y": y}
        if self.smooth:
            pale = {
                "line": look | {"dash": _DASHES[line.dash or "-"], "width": 1},
                "opacity": 0.3,
                "meta": "raw",
            }
            figure.add_scatter(**shared, mode="lines", showlegend=False, hoverinfo="skip", **pale)
        mark = look | {"symbol": _SYMBOLS[line.sign]} if line.sign else {}
        mark |= {"size": 4} if self.plane else {}
        if self.cells is not None:
            mark |= {"size": 5, "line": {"color": "black", "width": 1}}
        if line.dash:
            shared["line"] = look | {"dash": _DASHES[line.dash], "width": 2}
        hover = "%{text}<extra></extra>" if line.texts else f"{self.hover}<extra>%{{fullData.name}}</extra>"
        if self.cells is not None:
            hover = "part %{y} is taken from frame %{x}<extra></extra>"
        figure.add_scatter(
            **shared, name=line.name, meta="smooth" if self.smooth else None, text=line.texts,
            mode="+".join(["lines"] * bool(line.dash) + ["markers"] * bool(line.sign)),
            marker=mark or None, hovertemplate=hover, showlegend=False if self.cells is not None else None,
        )  # fmt: skip


def curves(runs: Mapping[str, Mapping[str, Curve]], probes: Sequence[str]) -> list[Chart]:
    """Plot each quantity logged: losses and rank-1 first; with several runs, each in a colour of its own.

    Args:
        runs: name → the columns of its `metrics.csv`; one run is not named in the legend.
        probes: names of the probe sets, in the order of the tables.
    """
    names = list(dict.fromkeys(name for columns in runs.values() for name in columns))
    losses = {f"train/{name}": label for name, label in LOSSES.items() if f"train/{name}" in names}
    rank1 = {f"test/rank1/{probe}": probe for probe in [*probes, "mean"] if f"test/rank1/{probe}" in names}
    held_out = {f"validation/rank1/{probe}": probe for probe in [*probes, "mean"]}
    held_out = {name: label for name, label in held_out.items() if name in names}
    if len(runs) > 1:  # a line a run: the total loss and the mean
        losses = {name: label for name, label in losses.items() if name == "train/loss"}
        rank1 = {name: label for name, label in rank1.items() if label == "mean"} or rank1
        held_out = {name: label for name, label in held_out.items() if label == "mean"} or held_out
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
        lines = []
        for number, (run, found) in enumerate(runs.items()):
            for i, (name, label) in enumerate(columns.items()):
                if name in found:
                    colour, dash, _ = line_look(number)
                    if len(runs) == 1:
                        run, colour, dash = label, colours.get(label, LOSS_COLOURS[i % 3]), "-"
                    elif len(columns) > 1:
                        run = f"{run}: {label}"
                    lines.append(Line(run, *found[name], colour, dash))
        if lines:
            charts.append(_curves(title, lines, smooth="rank-1" not in title))
    return charts


def main_curves(charts: Sequence[Chart]) -> list[Chart]:
    """Return those of the loss and of rank-1, or all where neither was logged: for paper."""
    return [chart for chart in charts if chart.title == "loss" or "rank-1" in chart.title] or list(charts)


def _curves(title: str, lines: Sequence[Line], smooth: bool) -> Chart:
    texts, drawn = [], []
    for line in lines:
        (first, *_, last), size = (line.y if len(line.y) > 1 else (*line.y, *line.y)), len(line.x)
        some = np.unique(np.linspace(0, size - 1, min(size, POINTS)).round().astype(int))
        x, y = ([values[k] for k in some] for values in (line.x, line.y))
        # a line of one point shows nothing
        drawn.append(Line(line.name, x, y, line.colour, line.dash, None if smooth and size > 1 else "o"))
        texts.append(
            f"{line.name} from {first:.3g} to {last:.3g}" if size > 1 else f"{line.name} {first:.3g}, once"
        )
    every = {value for line in lines for value in line.y}
    limits: tuple[float | None, float | None] = (None, None) if smooth else (0, 102)
    # round it Plotly would draw an axis from −1 to 1
    if smooth and len(every) == 1 and (only := every.pop()):
        limits = (min(0, 2 * only), max(0, 2 * only))
    steps = max(line.x[-1] for line in lines)
    return Chart(
        title, f"Curve of {title} over {steps:,} iterations: {'; '.join(texts)}.", ("iteration", title),
        drawn, limits=limits, smooth=smooth, hover="iteration %{x}: %{y:.4~g}",
    )  # fmt: skip


def rank1(
    cells: Mapping[str, np.ndarray], views: Sequence[str], colours: Mapping[str, str] | None = None
) -> list[Chart]:
    """Plot rank-1 over probe view × gallery view for each set of probes, titled with its mean.

    Args:
        cells: probe set → (V, V) in percent.
        views: their names.
        colours: of the sets; None: by their places.
    """
    colours = condition_colours(list(cells)) if colours is None else colours
    return [
        cross_view(f"{probe}: rank-1 (%), mean {percent(mean_excluding_identical(found))}", found, views,
                   colour=colours.get(probe))
        for probe, found in cells.items()
    ]  # fmt: skip


def cross_view(
    title: str, cells: np.ndarray, views: Sequence[str], difference: bool = False, colour: str | None = None
) -> Chart:
    """Plot over probe view × gallery view: rank-1, (V, V) in percent, or a difference of it in points."""
    most = max(1.0, float(np.nanmax(np.abs(cells), initial=0)))
    other = np.where(np.eye(len(views), dtype=bool), np.nan, cells) if len(views) > 1 else cells
    text = "nothing could be counted"
    if np.isfinite(other).any():
        ends = {"lowest": np.nanargmin(other), "highest": np.nanargmax(other)}
        text = f"mean {_signed(mean_excluding_identical(cells), difference)}" + "".join(
            f"; {what} {_signed(float(cells.flat[at]), difference)} at probe view "
            f"{views[int(at) // len(views)]}, gallery view {views[int(at) % len(views)]}"
            for what, at in ends.items()
        )
    return Chart(
        title, f"Heat map of {title}, over probe view and gallery view: {text}.",
        (f"gallery view{unit(views)}", f"probe view{unit(views)}"), cells=cells, names=(views, views),
        limits=(-most, most) if difference else (0, 100), signed=difference, written=True, digits=1,
        measure="difference (points)" if difference else "rank-1 (%)", colour=colour,
        hover=f"probe view %{{y}}, gallery view %{{x}}: %{{z:.1f}} {'points' if difference else '%'}",
    )  # fmt: skip


def per_view(
    title: str,
    rows: Sequence[tuple[str, Row]],
    views: Sequence[str],
    names: Sequence[str],
    colour: str | None = None,
) -> Chart:
    """Plot rank-1 over the probe views, a line for each (name, row).

    Args:
        names: of the lines of all such charts: a name looks the same in each.
        colour: of all lines, which then differ in dash and sign.
    """
    lines = []
    for name, row in rows:
        own, dash, sign = line_look(list(names).index(name), many=colour is None)
        lines.append(Line(name, list(views), numbers(row), colour or own, dash, sign))
    means = "; ".join(f"{name} mean {percent(row.mean)}" for name, row in rows)
    return Chart(
        title, f"Lines of rank-1 over the probe views, {title}: {means}.",
        (f"probe view{unit(views)}", "rank-1 (%)"), lines, names=(views, None), limits=(0, 102),
        colour=colour, hover="view %{x}: %{y:.1f} %",
    )  # fmt: skip


def confusion(found: Confusion) -> Chart:
    """Plot who is taken for whom: the diagonal, who is recognised, is left out of the colours."""
    wrong = np.where(np.eye(len(found.subjects), dtype=bool), np.nan, found.percent)
    often = (
        "; ".join(f"{who} for {other} in {share:.1f} %" for who, other, share in found.pairs[:3]) or "nobody"
    )
    return Chart(
        "% of a subject's comparisons",
        f"Matrix of who is taken for whom among {len(found.subjects)} subjects. Most often: {often}.",
        ("taken for subject", "subject of the probe"), cells=wrong, names=(found.subjects, found.subjects),
        limits=(0, None), digits=1, measure="comparisons (%)", tall=True,
        hover="%{y} taken for %{x}: %{z:.1f} % of comparisons",
    )  # fmt: skip


def embedding_map(found: Map) -> list[Chart]:
    """Plot the map three times: coloured by subject, by view and by condition."""
    names = np.array(
        [" ".join(names) for names in zip(found.subject, found.condition, found.view, strict=True)]
    )
    of = groups(found)
    views = sorted(set(found.view.tolist()))
    shades = map(to_hex, matplotlib.colormaps["cividis"](np.linspace(0, 1, len(views))))
    by_view = [(view, found.view == view, shade, "o") for view, shade in zip(views, shades, strict=True)]
    kinds = {"subject": of["subject"], f"view{unit(views)}": by_view, "condition": of["condition"]}
    return [
        Chart(
            f"Coloured by {kind}",
            f"Map of {len(names):,} sequences of {found.shown} subjects, coloured by {kind}: near is alike.",
            (found.axes[0], found.axes[1]),
            [
                Line(name, x, y, colour, None, sign, names[some].tolist())
                for name, some, colour, sign in points
                for x, y in [found.places[some].T.tolist()]
            ],
            digits=3, plane=True, tall=True,
        )
        for kind, points in kinds.items()
    ]  # fmt: skip


def attention(found: Look) -> list[Chart]:
    """Plot ATA's importance of each scale over frames and parts, and SSFL's scores with the frames chosen."""
    charts = []
    total = sum(weights.mean() for weights in found.scales.values())
    labels, hover = ("frame", "part"), "frame %{x}, part %{y}: "
    for name, weights in found.scales.items():
        frame, part = np.unravel_index(weights.argmax(), weights.shape)
        text = (
            f"Heat map of ATA's importance of the {name} scale over {weights.shape[0]} frames and "
            f"{weights.shape[1]} parts: mean {weights.mean():.2f}, {100 * weights.mean() / total:.0f} % of "
            f"all scales; highest at frame {frame}, part {part}."
        )
        charts.append(Chart(f"ATA: importance, {name}", text, labels, cells=weights.T, limits=found.range,
                            hover=f"{hover}importance %{{z:.3f}}"))  # fmt: skip
    if found.scores is not None and found.source is not None:
        source = found.source.tolist()
        taken = ", ".join(f"part {part} from frame {frame}" for part, frame in enumerate(source))
        points = Line("", source, list(range(len(source))), "white", None, "o")
        text = f"Heat map of SSFL's scores. It takes {taken}."
        charts.append(Chart("SSFL: scores, parts taken", text, labels, [points], found.scores.T,
                            hover=f"{hover}score %{{z:.3f}}"))  # fmt: skip
    return charts


def written(value: float, signed: bool) -> str:
    """Return the number within a cell."""
    return f"{value:+.0f}" if signed else f"{value:.0f}"


def _whole_numbers(first: float, last: float) -> dict[str, Any]:
    """Leave out ticks between two whole numbers; the page keeps that when zooming."""
    axis: dict[str, Any] = {"tickmode": "linear", "tick0": 0, "dtick": 1} if last - first < FEW else {}
    return axis | ({"range": [first - 1, last + 1]} if first == last else {})


def _signed(value: float | None, difference: bool) -> str:
    return percent(value) if value is None or not difference else f"{value:+.1f} points"


def _as_text(content: Any) -> Any:
    """Escape every text that Plotly is given: it would show <b>, <br> and <a href> of a name as markup.

    Its templates stay; they are ours and hold no name.
    """
    if isinstance(content, dict):
        return {key: value if key.endswith("template") else _as_text(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_as_text(value) for value in content]
    return html.escape(content, quote=False) if isinstance(content, str) else content
