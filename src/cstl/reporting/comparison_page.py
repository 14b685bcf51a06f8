"""The page that compares runs, one section for each data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cstl.config import differences
from cstl.files import write_text
from cstl.reporting import charts, figures, findings, pictures
from cstl.reporting.folder import ShownRun as Run
from cstl.reporting.folder import read_run
from cstl.reporting.page import render, signed, state_of
from cstl.reporting.tables import MISSING, Row


def compare_runs(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Writes one page that compares runs, the first of each data set being what the others are compared with.

    Folders that cannot be read are named on the page.

    Raises:
        FileNotFoundError: none of them is a run's.
        OSError: the page cannot be written.
    """
    runs, notes = [], []
    for folder in folders:
        try:
            runs.append(read_run(Path(folder)))
        except FileNotFoundError as error:
            notes.append(f"Left out: {error}.")
    if not runs:
        raise FileNotFoundError("there is no run to compare: " + " ".join(notes))
    write_text(Path(out), render("compare.html.j2", **_page_of_runs(runs, notes)))
    return Path(out)


def _page_of_runs(runs: list[Run], notes: list[str]) -> dict[str, Any]:
    """What the template of several runs needs: a group for each data set and size, since others cannot be compared."""
    titles = list(dict.fromkeys(run.title for run in runs))
    if len(titles) > 1:
        notes = [
            f"These runs are of different data sets or sizes: {', '.join(titles)}. Each has a section of its own, and "
            "nothing is compared across them.",
            *notes,
        ]
    names = _distinct_names(runs)
    unshown = ("Silhouettes", "What the network", "The map")  # a comparison has none of them
    notes = notes + [f"{names[id(run)]}: {note}" for run in runs for note in run.notes if not note.startswith(unshown)]
    groups = [_group([run for run in runs if run.title == title], title, names) for title in titles]
    return {
        "title": f"{len(runs)} runs compared",
        "subtitle": " · ".join(titles),
        "notes": notes,
        "groups": groups,
        "runs": [
            {"name": names[id(run)], "title": run.title, "state": state_of(run), "command": run.command} for run in runs
        ],
        "sections": [(f"results-{i}", title) for i, title in enumerate(titles, start=1)] + [("how", "The runs")],
    }


def _group(runs: list[Run], title: str, names: dict[int, str]) -> dict[str, Any]:
    """The comparison of the runs of one data set."""
    finished = [run for run in runs if run.is_finished]
    probes = list(dict.fromkeys(probe for run in finished for probe in run.results["rank1"]))
    base = finished[0] if finished else None
    lines: list[dict[str, Any]] = []
    for run in finished:
        means, first = _means(run, probes), _means(base, probes)  # type: ignore[arg-type]
        lines.append({"name": names[id(run)], "cells": _against(means, None if run is base else first)})
    # beside runs of which one is not what was published, its numbers would be a comparison that is none
    published = base.published if base and all(run.published for run in finished) else None
    if base and published and (paper := _paper_means(base, probes)):
        lines.append({"name": f"{published} (paper)", "cells": _against(paper, None), "is_paper": True})
    own_names = [names[id(run)] for run in runs]
    line_charts = _line_charts(finished, names, own_names)
    cells = {names[id(run)]: _cross_views(run) for run in finished if run.probes is not None}
    first_name = names[id(base)] if base else ""
    differ: dict[str, np.ndarray] = {}
    colours = figures.condition_colours(probes)
    about: dict[str, str] = {}  # title of a difference → the colour of its probes
    for name, own in cells.items():
        if name != first_name and first_name in cells:
            for probe, rank1 in own.items():
                other = cells[first_name].get(probe)
                if other is not None and other.shape == rank1.shape and base and base.probes:
                    differ[f"{name}, {probe}"] = rank1 - other
                    about[f"{name}, {probe}"] = colours[probe]
    views = base.probes.views if base and base.probes else []
    curves = {names[id(run)]: run.curves for run in runs}
    curve_charts = charts.curves(curves, probes)
    return {
        "title": title,
        "baseline": first_name,
        "probes": probes,
        "lines": [{"is_paper": False} | line for line in lines],
        "names": [names[id(run)] for run in runs if run.config],
        "settings": _differing_settings([run for run in runs if run.config]),
        "lines_charts": [chart for chart, _ in line_charts],
        "still_lines": _uri(figures.lines([panel for _, panel in line_charts], names=own_names))
        if line_charts
        else None,
        "differences": [
            charts.cross_view(name, values, views, difference=True, colour=about[name])
            for name, values in differ.items()
        ],
        "still_differences": _uri(figures.cross_view(differ, views, True, about)) if differ else None,
        "curves": curve_charts,
        "still_curves": _uri(figures.compared_curves(curves)) if curve_charts else None,
    }


def _line_charts(runs: list[Run], names: dict[int, str], all_names: Sequence[str]) -> list[Any]:
    """For each probe the lines of all runs, and the paper's where there is one: a chart and the same as a panel."""
    shown = [run for run in runs if run.table is not None]
    if not shown:
        return []
    first = shown[0].table
    assert first is not None
    made = []
    for probe in dict.fromkeys(row.probe for run in shown for row in run.table.rows):  # type: ignore[union-attr]
        rows: list[tuple[str, Row]] = []
        for run in shown:
            assert run.table is not None
            if run.table.views == first.views:
                own = [row for row in run.table.rows if row.probe == probe]
                rows += [(names[id(run)], row) for row in own if row.method == run.method]
        if all(run.published for run in runs):
            rows += [(row.method, row) for row in first.rows if row.probe == probe and row.method.endswith("(paper)")]
        made.append((probe, first.views, rows))
    lines = list(dict.fromkeys([*all_names, *(name for _, _, rows in made for name, _ in rows)]))
    return [(charts.per_view(probe, rows, views, lines), (probe, views, rows)) for probe, views, rows in made]


def _means(run: Run, probes: list[str]) -> list[float | None]:
    """The mean of each probe set, and their mean where all are there."""
    means = [run.results["rank1"].get(probe, {}).get("mean") for probe in probes]
    return [*means, _mean(means)]


def _paper_means(run: Run, probes: list[str]) -> list[float | None] | None:
    if run.table is None:
        return None
    paper = {row.probe: row.mean for row in run.table.rows if row.method == f"{run.published} (paper)"}
    means = [paper.get(probe) for probe in probes]
    return [*means, _mean(means)] if paper else None


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else None


def _against(means: list[float | None], base: list[float | None] | None) -> list[str]:
    cells = []
    for i, mean in enumerate(means):
        text = MISSING if mean is None else f"{mean:.1f}"
        if base is not None and mean is not None and base[i] is not None:
            text += f" ({signed(round(mean, 1) - round(base[i], 1))})"  # type: ignore[arg-type]
        cells.append(text)
    return cells


def _cross_views(run: Run) -> dict[str, np.ndarray]:
    return {probe: findings.cross_view(run, probe) for probe in run.probe_sets}


def _differing_settings(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """The keys that decide a result and are not the same in all runs, and each run's value."""
    if len(runs) < 2:
        return []
    keys = dict.fromkeys(
        line.partition(": ")[0] for run in runs[1:] for line in differences(runs[0].config, run.config)
    )
    return [(key, [_value(run.config, key) for run in runs]) for key in keys]


def _value(config: Any, key: str) -> str:
    for name in key.split("."):
        if not isinstance(config, dict) or name not in config:
            return MISSING
        config = config[name]
    return str(config)


def _distinct_names(runs: list[Run]) -> dict[int, str]:
    """A name for each run: its folder's; where two are the same with the parent's before it, or else a number."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.folder.resolve().parent.name}/{run.name}" for run in runs]
    numbered = [f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name for i, name in enumerate(names)]
    return {id(run): name for run, name in zip(runs, numbered, strict=True)}


def _uri(figure: Figure) -> str:
    return pictures.inlined(figures.to_png(figure))
