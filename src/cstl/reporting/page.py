"""The page of one run: everything that its folder holds, in one HTML file that needs no network."""

import base64
import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from cstl.checkpoint import build_network
from cstl.files import write_text
from cstl.reporting import charts, figures, findings, pictures, style, tables
from cstl.reporting.entry import FEW_SUBJECTS
from cstl.reporting.entry import ShownRun as Run
from cstl.reporting.findings import HardProbe, Interval
from cstl.reporting.folder import read_run
from cstl.reporting.leaderboard import state
from cstl.reporting.remarks import remarks_of
from cstl.reporting.tables import MISSING

HARDEST = 4  # probes of each set


@dataclass(frozen=True)
class Moving:
    """Silhouettes side by side in one picture, shown one at a time; 64 high, whatever their resolution."""

    uri: str
    text: str
    frames: int
    width: float
    height: int = 64


def report_run(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write a run's `report.html`, and its plots as PDF and PNG into `figures/`; return the page's path.

    Args:
        folder: what a run left, finished or not: the page shows what there is and says what is missing.
        out: where the page goes instead.

    Raises:
        FileNotFoundError: no such folder, or one that no run has written.
        OSError: the page or a figure cannot be written.
    """
    run = read_run(Path(folder))
    out = Path(out) if out else run.folder / "report.html"
    write_text(out, render("run.html.j2", **_page_of_run(run)))
    return out


def _page_of_run(run: Run) -> dict[str, Any]:
    """Return what the template of one run needs; draws the figures on the way."""
    folder = run.folder / "figures"
    stills: dict[str, str | None] = dict.fromkeys(
        ("curves", "cross_view", "per_view", "confusion", "embeddings")
    )

    def still(name: str, figure: Figure) -> str:
        stills[name] = pictures.inlined(figures.save(figure, folder, name))
        return str(stills[name])

    between = findings.intervals(run)
    page: dict[str, Any] = {
        "run": run,
        "title": f"{run.method} on {run.benchmark}",
        "subtitle": f"run {run.name} · {state_of(run)}",
        "stills": stills,
        "verdict": _verdict(run, between),
        "tiles": _tiles(run, between),
        "compares": run.table is not None and bool(run.table.compared()),
        "measures": tables.other_means(run.results.get("measures", {}).get(run.method, {}), run.probe_names),
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
        still("curves", figures.draw(charts.main_curves(page["curves"])))
    colours = style.condition_colours(run.probe_names)
    if run.table:
        methods = list(dict.fromkeys(row.method for row in run.table.rows if row.has_views))
        for group in run.table.groups():
            probe, rows = group[0].probe, [(row.method, row) for row in group if row.has_views]
            page["lines"].append(charts.per_view(probe, rows, run.table.views, methods, colours.get(probe)))
        still("per_view", figures.draw(page["lines"]))
    if run.probes is not None:
        views = run.probes.views
        cells = {probe: findings.cross_view(run, probe) for probe in run.probe_sets}
        cells = {probe: rank1 for probe, rank1 in cells.items() if np.isfinite(rank1).any()}
        page["cross_views"] = charts.rank1(cells, views, colours)
        page["cells"] = {
            probe: [[MISSING if np.isnan(value) else f"{value:.1f}" for value in line] for line in rank1]
            for probe, rank1 in cells.items()
        }
        if cells:
            still("cross_view", figures.draw(page["cross_views"]))
        if matrix := findings.confusion(run):
            page |= {"confusion": charts.confusion(matrix), "matrix": matrix, "pairs": matrix.pairs}
            still("confusion", figures.draw([page["confusion"]]))
        if found := findings.embedding_map(run):
            page |= {"map": charts.embedding_map(found), "mapped": found}
            still("embeddings", figures.draw(page["map"]))
        if run.store is not None:
            page["hardest"] = _hardest(run)
            if page["hardest"]:
                trios = [
                    [(f"{what} {whose}, {far}", _frames(run, line)) for what, whose, far, line in probe.trio]
                    for probe, _ in page["hardest"]
                ]
                figures.save(figures.strips(trios), folder, "hardest")
            page["looks"] = _looks(run, still)
            page["longest"] = max((item["moving"].frames for item in page["looks"]), default=1)
    drawn = folder.is_dir() and any(folder.iterdir())
    names = {
        "verdict": ("Verdict", page["verdict"]),
        "results": ("Results", run.table or page["measures"]),
        "curves": ("Curves", page["curves"]),
        "views": ("Views", page["cross_views"] or page["lines"]),
        "confusions": ("Confusions", page["confusion"]),
        "hardest": ("Hardest probes", page["hardest"]),
        "looks": ("What it looks at", page["looks"]),
        "map": ("Map", page["map"]),
        "how": ("How it was made", True),
    }
    sections = [(name, label) for name, (label, there) in names.items() if there]
    # the verdict has those
    page["notes"] = [note for note in run.notes if note not in remarks_of(run.results)]
    return page | {"sections": sections, "figures": f"{run.name}/figures" if drawn else None}


def _hardest(run: Run) -> list[tuple[HardProbe, list[tuple[str, str, str, Moving]]]]:
    """Return the hardest probes of each set, each with three sequences: what, whose, how far, in motion."""
    return [
        (
            probe,
            [
                (what, whose, far, _moving(_frames(run, line), f"Silhouettes of {whose}"))
                for what, whose, far, line in probe.trio
            ],
        )
        for name in run.probe_sets
        for probe in findings.hardest(run, name, HARDEST)
    ]


def _file_name(probe: str) -> str:
    """Return a probe set's name as part of a file's: without what leads to another folder."""
    return re.sub(r"[^\w-]", "_", probe)[:60]


def _looks(run: Run, still: Any) -> list[dict[str, Any]]:
    """Return what the network makes of one probe of each set."""
    if run.weights is None:
        return []
    try:
        network = build_network(run.weights).eval()
    except (ValueError, TypeError) as error:
        run.notes.append(f"What the network looks at is left out: {error}.")
        return []
    store, looks = run.store, []
    assert store is not None
    assert run.probes is not None
    for whose, line in pictures.examples(
        store, run.probe_sets, run.probes.views, run.probes.subjects
    ).items():
        found = pictures.look(network, pictures.frames_of(store, line, pictures.LOOKED_AT))
        if found is None:
            run.notes.append("What the network looks at is left out: this ablation has neither ATA nor SSFL.")
            return []
        item: dict[str, Any] = {
            "title": whose,
            "moving": _moving(found.silhouettes, f"Silhouettes of {whose}"),
        }
        item |= {
            "recombined": None,
            "tinted": None,
            "sources": [],
            "more": 0,
            "charts": charts.attention(found),
        }
        if found.scores is not None:
            taken = pictures.sources(found)
            item["recombined"] = pictures.data_uri(pictures.recombine(found))
            item["tinted"] = pictures.data_uri(pictures.tinted(found, None, style.COLOURS))
            item["more"] = max(0, len(taken) - pictures.SOURCES)
            item["sources"] = [
                {
                    "frame": frame,
                    "parts": parts,
                    "uri": pictures.data_uri(pictures.tinted(found, frame, style.COLOURS)),
                }
                for frame, parts in taken[: pictures.SOURCES]
            ]
        item["still"] = still(
            f"attention_{_file_name(whose.rpartition(': ')[0])}", figures.attention(found, whose)
        )
        looks.append(item)
    return looks


def _frames(run: Run, line: int) -> np.ndarray:
    assert run.store is not None
    return pictures.frames_of(run.store, line, pictures.MOVING)


def _moving(silhouettes: np.ndarray, text: str) -> Moving:
    frames, height, width = silhouettes.shape
    return Moving(
        pictures.data_uri(pictures.strip(silhouettes)),
        f"{text}, {frames} frames",
        frames,
        64 * width / height,
    )


def _verdict(run: Run, between: Mapping[str, Interval]) -> dict[str, Any] | None:
    """Return the result in a few words: what, between what, against what, and whether to believe it."""
    means = [row["mean"] for row in run.results.get("rank1", {}).values() if row["mean"] is not None]
    if not run.is_finished:
        return None
    facts, subjects = [], run.results.get("test_subjects")
    if interval := between.get("mean"):
        few = subjects is not None and subjects < FEW_SUBJECTS
        note = f"95 % of 1,000 resamplings of the {subjects or MISSING} test subjects"
        note += "; of so few it is too narrow" if few else ""
        facts.append(("interval over subjects", f"{interval.low:.1f} to {interval.high:.1f} %", note))
    if subjects:
        facts.append(("guessing", f"{100 / subjects:.1f} %", "chance, a gallery of all test subjects"))
    against = {"GEI": ("baseline", "gait energy images, which learn nothing")}
    pairs = run.table.compared().values() if run.table else ()
    against |= {theirs.method: ("published", theirs.method) for theirs, _ in pairs}
    for method, (name, note) in against.items():
        rows = [row for row in run.table.rows if row.method == method] if run.table else []
        others = [row.mean for row in rows if row.mean is not None]
        if means and len(others) == len(means):
            facts.append((name, f"{fmean(others):.1f} %", note))
    facts += _cost(run.results.get("network", {}))
    probes = ", ".join(run.results.get("rank1", {}))
    return {
        "value": style.percent(fmean(means) if means else None),
        "what": f"rank-1, the mean of {probes}" if len(means) > 1 else f"rank-1 of {probes}",
        "facts": facts,
        "remarks": remarks_of(run.results),
    }


def _cost(network: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return what `results.json` says of the network's size and speed: name, value, note."""
    facts = []
    if "parameters" in network:
        facts.append(("parameters", _large(network["parameters"]), "numbers that are trained"))
    if "flops" in network:
        sequence = f"a sequence of {network.get('frames', MISSING)} frames"
        facts.append(("operations", f"{_large(network['flops'])}FLOP", sequence))
        facts.append(("time", f"{1000 * network.get('seconds_a_sequence', 0):.3g} ms", f"{sequence}, alone"))
    elif "left_out" in network:
        facts.append(("operations", MISSING, f"left out: {network['left_out']}"))
    return facts


def _large(number: float) -> str:
    """Return a number in three digits: 3.21 M, 1.5 G."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:g} "


def _tiles(run: Run, between: Mapping[str, Interval]) -> list[dict[str, str]]:
    """Return the mean of each probe set, and what to hold it against."""
    rows = {(row.probe, row.method): row for row in run.table.rows} if run.table else {}
    pairs = run.table.compared() if run.table else {}
    tiles = []
    for probe, row in run.results.get("rank1", {}).items():
        paper, difference = pairs.get(probe, (None, None))
        baseline = rows.get((probe, "GEI"))
        note = ""
        if row["mean"] is None:
            note = "no probe could be counted"
        elif paper and difference and difference.mean is not None:
            note = f"{paper.method} {tables.decimal(paper.mean)} %, {signed(difference.mean)} points"
        elif baseline and baseline.mean is not None:
            note = f"GEI baseline {baseline.mean:.1f} %"
        if interval := between.get(probe):
            note = f"{interval.low:.1f} to {interval.high:.1f} %" + (f"; {note}" if note else "")
        tiles.append({"probe": f"{probe} rank-1", "value": style.percent(row["mean"]), "note": note})
    return tiles


def state_of(run: Run) -> str:
    """Return how far a run has come, in a few words."""
    if not run.is_finished:
        return state(run)
    steps = f", {run.steps[0]:,} iterations" if run.steps[0] else ""
    return f"{run.results.get('test_subjects', MISSING)} test subjects{steps}"


def _reported(run: Run) -> str:
    best = str(run.results.get("checkpoint", "")).endswith("best.ckpt")
    return "the best on held-out training subjects" if best else "the last"


def _facts(run: Run) -> list[tuple[str, str]]:
    r = run.results
    facts = [("folder", run.name), ("state", state_of(run)), ("method", run.method)]
    if run.is_finished:
        facts += [
            ("trained on", str(r.get("trained_on", MISSING))),
            ("training subjects", _training_subjects(r)),
            ("test subjects", _coverage(r)),
            ("gallery sequences", str(r.get("gallery_sequences", MISSING))),
            (
                "probe sequences",
                ", ".join(f"{name} {count}" for name, count in r.get("probe_sequences", {}).items()),
            ),
            ("checkpoint", Path(str(r.get("checkpoint", MISSING))).name),
            ("store fingerprint", str(r.get("store", MISSING))),
            ("configuration digest", str(r.get("configuration", MISSING))),
        ]
        facts += [(f"{what}, seconds", f"{seconds:.1f}") for what, seconds in r.get("seconds", {}).items()]
    return facts


def _training_subjects(results: dict[str, Any]) -> str:
    """Say of every data set how many the network was trained on: 73 of casiab."""
    found = results.get("trained_subjects")
    if not isinstance(found, dict):
        return str(results.get("train_subjects", MISSING))
    return ", ".join(
        f"{of['subjects']} of {name}"
        if isinstance(of, dict) and "subjects" in of
        else f"those of {name} are unknown"
        for name, of in found.items()
    )


def _coverage(results: dict[str, Any]) -> str:
    """Say how many, of how many of the protocol's, and how many of them were trained on."""
    present = results.get("test_subjects", MISSING)
    counts, seen = results.get("coverage"), results.get("seen_test_subjects")
    asked = counts.get("test_subjects", {}).get("protocol") if isinstance(counts, dict) else None
    said = f"{present} of {asked}" if asked is not None else str(present)
    trained = seen.get("subjects") if isinstance(seen, dict) else 0
    return said + (f", {trained} of them trained on" if trained else "")


def signed(value: float) -> str:
    """Return a difference in points with its sign."""
    return "±0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "−")


def render(template: str, **values: Any) -> str:
    """Return the HTML of a template, with style, script and Plotly inside it."""
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
        **values,
        **{name: Markup(text) for name, text in inlined.items()},
        plotly=_plotly(),
        version=version("cstl"),
    )


@cache
def _plotly() -> str:
    """Return Plotly's script as its Python package has it, packed: a quarter of the size, fit for mail."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    script = Path(spec.submodule_search_locations[0], "package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, mtime=0)).decode()
