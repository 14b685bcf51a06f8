"""The page of a comparison: what differs, results with intervals, views, curves; a section for each table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cstl.files import write_text
from cstl.reporting import charts, figures, leaderboard, pictures, tables
from cstl.reporting.comparison import Row, Table, typed_value
from cstl.reporting.entry import ShownRun, per_view
from cstl.reporting.page import render
from cstl.reporting.style import condition_colours

# rows with lines and curves, and with heat maps of the difference to the baseline, at most
DRAWN, AGAINST = 5, 2
WIDTH = 150  # of an interval's picture, in pixels


class Line(NamedTuple):
    """A row of the leaderboard: its cells, and where its interval lies between 0 and `WIDTH`."""

    name: str
    settings: list[str]
    numbers: list[str]
    runs: int
    message: str
    interval: tuple[float, float, float, float] | None  # low, difference, high, and no difference


def write_page(found: Sequence[Table], remarks: Sequence[str], path: Path) -> None:
    """Write the page of a comparison, one file that needs no network, whole or not at all."""
    runs = [run for table in found for row in table.rows for run in row.runs]
    kinds = list(dict.fromkeys(table.title.partition(":")[0] for table in found))
    ids = [f"results-{i}" for i in range(1, len(found) + 1)]
    page = {
        "title": f"{len(runs)} runs compared" if len(runs) > 1 else f"{runs[0].title}, and nothing beside it",
        "subtitle": " · ".join(kinds),
        "notes": remarks,
        "groups": [_group(table) for table in found],
        "runs": [(run.title, run.method, leaderboard.state(run), run.command) for run in runs],
        "sections": [*zip(ids, kinds if len(kinds) == len(ids) else ids, strict=True), ("how", "The runs")],
        "width": WIDTH,
    }
    write_text(path, render("compare.html.j2", **page))


def _group(table: Table) -> dict[str, Any]:
    """Return what the template needs of one table."""
    pair, names = leaderboard.is_pair(table), _names(table)
    columns, numbers = leaderboard.numbers(table)
    keys = leaderboard.short(table.settings)
    place = _places(table)
    lines = [
        Line(
            names[i], [leaderboard.setting(row, key) for key in table.settings], cells, len(row.runs),
            "" if row.finished else row.runs[0].message, place(row),
        )
        for i, (row, cells) in enumerate(zip(table.rows, numbers, strict=True))
    ]  # fmt: skip
    drawn = {names[i]: row for i, row in enumerate(table.rows) if row.finished}
    base = None if table.baseline is None else names[table.baseline]
    shown = dict([*drawn.items()][:DRAWN]) | ({base: drawn[base]} if base in drawn else {})
    curves = {name: row.runs[0].curves for name, row in {**shown, **_unfinished(table, names)}.items()}
    curve_charts = [replace(chart, tall=len(curves) > 3) for chart in charts.curves(curves, table.probes)]
    differences = _differences(table, drawn, base)
    runs = [run for row in drawn.values() for run in row.runs]
    views = next((run.probes.views for run in runs if run.tallies and run.probes), [])
    colours = condition_colours(table.probes)
    panels = _per_view(table, shown, views)
    line_charts = [charts.per_view(probe, rows, views, list(shown)) for probe, views, rows in panels]
    difference_charts = [
        charts.cross_view(title, cells, views, True, colours[title.rpartition(", ")[2]])
        for title, cells in differences.items()
    ]
    return {
        "title": table.title.partition(":")[0],
        "rule": table.title.partition(": ")[2],
        "pair": pair,
        "names": names,
        "differing": leaderboard.differing(table) if pair else [],
        "keys": {} if pair else keys,
        "columns": columns,
        "lines": lines,
        "several": any(len(row.runs) > 1 for row in table.rows),
        "published": {name: list(map(tables.decimal, row)) for name, row in table.published.items()},
        "baseline": base,
        "notes": table.notes,
        "same": [(key, typed_value(value)) for key, value in table.same.items()],
        "costs": pictures.inlined(figures.to_png(leaderboard.draw_costs(table)))
        if leaderboard.costs_differ(table)
        else None,
        "line_charts": [replace(chart, tall=len(shown) > 3) for chart in line_charts],  # room for the legend
        "still_lines": _still(line_charts),
        "differences": difference_charts,
        "still_differences": _still(difference_charts),
        "curves": curve_charts,
        "still_curves": _still(charts.main_curves(curve_charts)),
        "left_out": len(drawn) - len(shown),
    }


def _still(drawn: Sequence[charts.Chart]) -> str | None:
    return pictures.inlined(figures.to_png(figures.draw(drawn))) if drawn else None


def _names(table: Table) -> list[str]:
    """Return what each row is called in legends: of two runs their folders, else what differs."""
    if leaderboard.is_pair(table):
        return leaderboard.titles(table)
    keys = leaderboard.short(table.settings)
    names = []
    for i, row in enumerate(table.rows, 1):
        told = [(part, leaderboard.setting(row, key)) for key, part in keys.items()]
        name = " ".join(value if part == "method" else f"{part}={value}" for part, value in told)
        names.append(f"#{i} {name or row.runs[0].title}" if row.finished else row.runs[0].title)
    return names


def _unfinished(table: Table, names: Sequence[str]) -> dict[str, Row]:
    """Return the first rows without a result: their curves show how far they got."""
    return dict(
        [(name, row) for name, row in zip(names, table.rows, strict=True) if not row.finished][:AGAINST]
    )


def _places(table: Table) -> Callable[[Row], tuple[float, float, float, float] | None]:
    """Return the function that gives where the interval of a row lies, all rows of a table on one scale."""
    ends = [end for row in table.rows for end in row.interval.get("mean", ())]
    low, high = min([0.0, *ends]), max([0.0, *ends])

    def at(value: float) -> float:
        return round(6 + (WIDTH - 12) * (value - low) / (high - low), 1)

    def place(row: Row) -> tuple[float, float, float, float] | None:
        if "mean" not in row.interval or high == low:
            return None
        least, most = row.interval["mean"]
        return at(least), at(row.difference["mean"]), at(most), at(0.0)

    return place


def _mean_of(row: Row, values: Callable[[ShownRun], np.ndarray]) -> np.ndarray | None:
    """Return the mean over a row's runs of what is known of them; None where one has no probes."""
    return (
        np.mean([values(run) for run in row.runs], axis=0) if all(run.tallies for run in row.runs) else None
    )


def _per_view(
    table: Table, shown: Mapping[str, Row], views: Sequence[str]
) -> list[tuple[str, Sequence[str], list[tuple[str, tables.Row]]]]:
    """Return a panel for each probe set: its rank-1 in each probe view, a line for each row."""
    panels: list[tuple[str, Sequence[str], list[tuple[str, tables.Row]]]] = []
    for probe in table.probes:
        lines = []
        for name, row in shown.items():
            values = _mean_of(row, lambda run: per_view(run.tallies[probe]))  # noqa: B023
            if values is not None:
                numbers = tuple(None if np.isnan(value) else float(value) for value in values)
                lines.append((name, tables.Row(probe, name, numbers, float(np.mean(row.means[probe])))))
        if lines:
            panels.append((probe, views, lines))
    return panels


def _differences(table: Table, drawn: Mapping[str, Row], base: str | None) -> dict[str, np.ndarray]:
    """Return "row, probe" → points more than the baseline in each pair of views, of the first rows."""
    differences: dict[str, np.ndarray] = {}
    others = [name for name in drawn if name != base][:AGAINST] if base in drawn else []
    for name in others:
        for probe in table.probes:
            cells = [
                _mean_of(drawn[which], lambda run: run.tallies[probe].percent())  # noqa: B023
                for which in (name, str(base))
            ]
            if cells[0] is not None and cells[1] is not None:
                differences[f"{name}, {probe}"] = cells[0] - cells[1]
    return differences
