"""One page of a run, or one that compares several: `python -m cstl.report RUN [RUN …] [--out FILE]`.

The page is one HTML file that needs no network. Of a single run the same plots are written as figures for papers, PDF
and PNG, into its folder.
"""

import base64
import gzip
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from cstl.config import differences
from cstl.files import shown_lines, write_text
from cstl.reporting import charts, figures, findings, pictures, tables
from cstl.reporting.findings import HardProbe
from cstl.reporting.folder import Run, find_runs, read_run
from cstl.reporting.tables import MISSING, Row
from cstl.running.streams import Parser, never_fail

HARDEST = 4  # probes of each set
_MEASURES = (  # what to show, and where results.json has it
    ("rank-1, probes with a match", "identical_views_excluded", "matched", 1),
    ("rank-5, every probe", "identical_views_excluded", "every_probe", 5),
    ("rank-1, identical views included", "identical_views_included", "every_probe", 1),
    ("mAP", "identical_views_excluded", "mAP", 0),
    ("mINP", "identical_views_excluded", "mINP", 0),
    ("cross-view gallery: rank-1", "cross_view_gallery", "every_probe", 1),
    ("cross-view gallery: mAP", "cross_view_gallery", "mAP", 0),
)


@dataclass(frozen=True)
class Moving:
    """Silhouettes side by side in one picture, shown one at a time; 64 high, whatever their resolution."""

    uri: str
    text: str
    frames: int
    width: float
    height: int = 64


def report_run(folder: str | Path, out: str | Path | None = None) -> Path:
    """Writes a run's `report.html`, and its plots as PDF and PNG into `figures/` → the page's path.

    Args:
        folder: what a run left, finished or not: the page shows what there is and says what is missing.
        out: where the page goes instead.

    Raises:
        FileNotFoundError: no such folder, or one that no run has written.
        OSError: the page or a figure cannot be written.
    """
    run = read_run(Path(folder))
    out = Path(out) if out else run.folder / "report.html"
    _write(out, _render("run.html.j2", **_page_of_run(run)))
    return out


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
    _write(Path(out), _render("compare.html.j2", **_page_of_runs(runs, notes)))
    return Path(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    never_fail()
    parser = Parser(
        prog="python -m cstl.report",
        description="Write one HTML page of a run, or one that compares several.",
        epilog="example: python -m cstl.report runs/demo",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or the folder of a sweep")
    parser.add_argument("--out", metavar="FILE", help="where it goes; RUN/report.html, of several runs report.html")
    given = parser.parse_args(arguments)
    try:
        folders = [run for folder in given.runs for run in find_runs(Path(folder))]
        if len(folders) == 1:
            written = report_run(folders[0], given.out)
        elif folders:
            written = compare_runs(folders, given.out or "report.html")
        else:
            raise FileNotFoundError(f"no run in {', '.join(given.runs)}; name folders that cstl.train wrote, runs/NAME")
    except (ValueError, OSError) as error:
        print(f"error: {shown_lines(error)}", file=sys.stderr)
        sys.exit(1)
    print(f"report: {written}")


def _page_of_run(run: Run) -> dict[str, Any]:
    """What the template of one run needs; draws the figures on the way."""
    folder = run.folder / "figures"
    stills: dict[str, str | None] = dict.fromkeys(("curves", "cross_view", "per_view", "confusion", "embeddings"))

    def still(name: str, figure: Figure) -> str:
        stills[name] = pictures.inlined(figures.save(figure, folder, name))
        return str(stills[name])

    page: dict[str, Any] = {
        "run": run,
        "title": f"{run.method} on {run.title}",
        "subtitle": f"run {run.name} · {_state(run)}",
        "stills": stills,
        "tiles": _tiles(run),
        "compares": run.table is not None and any(row.is_difference for row in run.table.rows),
        "measures": _measures(run),
        "reported": _reported(run),
        "facts": _facts(run),
        "config": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else "",
        "curves": charts.curves({run.name: run.curves}, run.probe_names),
        "cross_views": [],
        "cells": {},
        "lines": [],
        "confusion": None,
        "hardest": [],
        "looks": [],
        "map": [],
    }
    if page["curves"]:
        still("curves", figures.curves(run.curves, run.probe_names))
    colours = figures.condition_colours(run.probe_names)
    if run.table:
        methods = list(dict.fromkeys(row.method for row in run.table.rows if not row.is_difference))
        for group in run.table.groups():
            probe, rows = group[0].probe, [(row.method, row) for row in group if not row.is_difference]
            page["lines"].append(charts.per_view(probe, rows, run.table.views, methods, colours.get(probe)))
        still("per_view", figures.per_view(run.table))
    if run.probes is not None:
        views = run.probes.views
        cells = {probe: findings.cross_view(run, probe) for probe in run.probe_sets}
        cells = {probe: rank1 for probe, rank1 in cells.items() if np.isfinite(rank1).any()}
        for probe, rank1 in cells.items():
            mean = figures.mean_excluding_identical(rank1)
            title = f"{probe}: rank-1, mean {figures.percent(mean)}"
            page["cross_views"].append(charts.cross_view(title, rank1, views, colour=colours.get(probe)))
        page["cells"] = {
            probe: [[MISSING if np.isnan(value) else f"{value:.1f}" for value in line] for line in rank1]
            for probe, rank1 in cells.items()
        }
        if cells:
            still("cross_view", figures.cross_view(cells, views, colours=colours))
        if matrix := findings.confusion(run):
            page |= {"confusion": charts.confusion(matrix), "matrix": matrix, "pairs": matrix.pairs}
            still("confusion", figures.confusion(matrix))
        if found := findings.embedding_map(run):
            page |= {"map": charts.embedding_map(found), "mapped": found}
            still("embeddings", figures.embedding_map(found))
        if run.store is not None:
            page["hardest"] = _hardest(run)
            if page["hardest"]:
                shown = [(probe, [_frames(run, line) for line in _trio(probe)]) for probe, _ in page["hardest"]]
                figures.save(figures.hardest(shown), folder, "hardest")
            page["looks"] = _looks(run, still)
            page["longest"] = max((item["moving"].frames for item in page["looks"]), default=1)
    drawn = folder.is_dir() and any(folder.iterdir())
    names = {
        "results": ("Results", page["tiles"] or run.table),
        "curves": ("Curves", page["curves"]),
        "views": ("Views", page["cross_views"] or page["lines"]),
        "confusions": ("Confusions", page["confusion"]),
        "hardest": ("Hardest probes", page["hardest"]),
        "looks": ("What it looks at", page["looks"]),
        "map": ("Map", page["map"]),
        "how": ("How it was made", True),
    }
    sections = [(name, label) for name, (label, there) in names.items() if there]
    return page | {"sections": sections, "figures": f"{run.name}/figures" if drawn else None}


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
            {"name": names[id(run)], "title": run.title, "state": _state(run), "command": run.command} for run in runs
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


def _hardest(run: Run) -> list[tuple[HardProbe, list[tuple[str, str, str, Moving]]]]:
    """The hardest probes of each set, each with its three sequences: what it is, whose, how far, in motion."""
    shown = []
    for name in run.probe_sets:
        for probe in findings.hardest(run, name, HARDEST):
            distances = ("", f"distance {probe.nearest_distance:.2f}", f"distance {probe.match_distance:.2f}")
            labels = (f"{probe.subject} {probe.condition}", probe.taken_for, probe.right)
            views = (probe.view, probe.gallery_view, probe.gallery_view)
            trio = []
            for what, label, view, distance, line in zip(
                ("probe", "taken for", "right one"), labels, views, distances, _trio(probe), strict=True
            ):
                text = f"Silhouettes of {label}, view {view}"
                trio.append((what, f"{label} {view}", distance, _moving(_frames(run, line), text)))
            shown.append((probe, trio))
    return shown


def _file_name(probe: str) -> str:
    """A probe set's name as part of a file's: without what leads to another folder."""
    return re.sub(r"[^\w-]", "_", probe)[:60]


def _trio(probe: HardProbe) -> tuple[int, int, int]:
    return probe.sequence, probe.nearest, probe.match


def _looks(run: Run, still: Any) -> list[dict[str, Any]]:
    """What the network makes of one probe of each set."""
    if run.weights is None:
        return []
    try:
        network = pictures.load_network(run.weights)
    except (ValueError, TypeError) as error:
        run.notes.append(f"What the network looks at is left out: {error}.")
        return []
    store, looks = run.store, []
    assert store is not None
    for probe, line in findings.examples(run):
        found = pictures.look(network, pictures.frames_of(store, line, pictures.LOOKED_AT))
        whose = f"{probe}: {store.subjects[line]} {store.conditions[line]}, view {store.views[line]}"
        item: dict[str, Any] = {"title": whose, "moving": _moving(found.silhouettes, f"Silhouettes of {whose}")}
        item |= {"recombined": None, "tinted": None, "sources": [], "more": 0, "charts": charts.attention(found)}
        if found.scores is not None:
            taken = pictures.sources(found)
            item["recombined"] = pictures.data_uri(pictures.recombine(found))
            item["tinted"] = pictures.data_uri(pictures.tinted(found, None, figures.COLOURS))
            item["more"] = max(0, len(taken) - pictures.SOURCES)
            item["sources"] = [
                {
                    "frame": frame,
                    "parts": parts,
                    "uri": pictures.data_uri(pictures.tinted(found, frame, figures.COLOURS)),
                }
                for frame, parts in taken[: pictures.SOURCES]
            ]
        if not item["charts"]:
            run.notes.append("What the network looks at is left out: this ablation has neither ATA nor SSFL.")
            return []
        item["still"] = still(f"attention_{_file_name(probe)}", figures.attention(found, whose))
        looks.append(item)
    return looks


def _frames(run: Run, line: int) -> np.ndarray:
    assert run.store is not None
    return pictures.frames_of(run.store, line, pictures.MOVING)


def _moving(silhouettes: np.ndarray, text: str) -> Moving:
    frames, height, width = silhouettes.shape
    return Moving(
        pictures.data_uri(pictures.strip(silhouettes)), f"{text}, {frames} frames", frames, 64 * width / height
    )


def _tiles(run: Run) -> list[dict[str, str]]:
    """The mean of each probe set, and what to hold it against."""
    rows = {(row.probe, row.method): row for row in run.table.rows} if run.table else {}
    tiles = []
    for probe, row in run.results.get("rank1", {}).items():
        paper, baseline = rows.get((probe, f"{run.published} (paper)")), rows.get((probe, "GEI"))
        difference = rows.get((probe, "difference"))
        note = ""
        if row["mean"] is None:
            note = "no probe could be counted"
        elif paper and difference and difference.mean is not None:
            note = f"paper {paper.mean:.1f} %, {_signed(difference.mean)} points"
        elif baseline and baseline.mean is not None:
            note = f"GEI baseline {baseline.mean:.1f} %"
        tiles.append({"probe": f"{probe} rank-1", "value": figures.percent(row["mean"]), "note": note})
    return tiles


def _measures(run: Run) -> dict[str, Any] | None:
    """The other means that results.json holds."""
    found = run.results.get("measures", {}).get(run.method)
    if not found:
        return None
    probes = list(run.results["rank1"])
    lines = []
    for label, group, key, rank in _MEASURES:
        values = [found.get(group, {}).get(probe, {}).get(key) for probe in probes]
        values = [value[rank - 1] if isinstance(value, list) and len(value) >= rank else value for value in values]
        if any(isinstance(value, float) for value in values):
            lines.append((label, [f"{value:.1f}" if isinstance(value, float) else MISSING for value in values]))
    return {"probes": probes, "lines": lines}


def _state(run: Run) -> str:
    done, asked = run.steps
    if not run.is_finished:
        return f"not finished, {done:,}" + (f" of {asked:,}" if asked else "") + " iterations logged"
    return f"{run.results.get('test_subjects', MISSING)} test subjects" + (f", {done:,} iterations" if done else "")


def _reported(run: Run) -> str:
    best = str(run.results.get("checkpoint", "")).endswith("best.ckpt")
    return "the best on held-out training subjects" if best else "the last"


def _facts(run: Run) -> list[tuple[str, str]]:
    r = run.results
    facts = [("folder", run.name), ("state", _state(run)), ("method", run.method)]
    if run.is_finished:
        facts += [
            ("trained on", str(r.get("trained_on", MISSING))),
            ("training subjects", _training_subjects(r)),
            ("test subjects", _coverage(r)),
            ("gallery sequences", str(r.get("gallery_sequences", MISSING))),
            ("probe sequences", ", ".join(f"{name} {count}" for name, count in r.get("probe_sequences", {}).items())),
            ("checkpoint", Path(str(r.get("checkpoint", MISSING))).name),
            ("store fingerprint", str(r.get("store", MISSING))),
            ("configuration digest", str(r.get("configuration", MISSING))),
        ]
        facts += [(f"{what}, seconds", f"{seconds:.1f}") for what, seconds in r.get("seconds", {}).items()]
    return facts


def _training_subjects(results: dict[str, Any]) -> str:
    """Of every data set that the network was trained on: 73 of casiab."""
    found = results.get("trained_subjects")
    if not isinstance(found, dict):
        return str(results.get("train_subjects", MISSING))
    return ", ".join(
        f"{of['subjects']} of {name}" if isinstance(of, dict) and "subjects" in of else f"those of {name} are unknown"
        for name, of in found.items()
    )


def _coverage(results: dict[str, Any]) -> str:
    """How many, of how many of the protocol's, and how many of them were trained on."""
    present = results.get("test_subjects", MISSING)
    counts, seen = results.get("coverage"), results.get("seen_test_subjects")
    asked = counts.get("test_subjects", {}).get("protocol") if isinstance(counts, dict) else None
    said = f"{present} of {asked}" if asked is not None else str(present)
    trained = seen.get("subjects") if isinstance(seen, dict) else 0
    return said + (f", {trained} of them trained on" if trained else "")


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
            text += f" ({_signed(round(mean, 1) - round(base[i], 1))})"  # type: ignore[arg-type]
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


def _signed(value: float) -> str:
    return "±0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "−")


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("cstl.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cells"] = tables.cells
    own = files("cstl.reporting").joinpath("templates")
    inlined = {name: own.joinpath(f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    return environment.get_template(template).render(
        **values, **{name: Markup(text) for name, text in inlined.items()}, plotly=_plotly(), version=version("cstl")
    )


@cache
def _plotly() -> str:
    """Plotly's script as its Python package carries it, packed: a quarter of the size, and mail takes it."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    script = Path(spec.submodule_search_locations[0], "package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, mtime=0)).decode()


def _write(path: Path, page: str) -> None:
    """Writes the page whole or not at all."""
    write_text(path, page)


if __name__ == "__main__":
    main()
