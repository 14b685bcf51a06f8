"""Show a comparison of runs: in a terminal, as Markdown, as CSV, and as a picture."""

import csv
import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import matplotlib
import numpy as np
import rich.table
from matplotlib.figure import Figure
from rich.text import Text

from cstl.files import write_text
from cstl.reporting.comparison import Row, Table, label_of, typed_value
from cstl.reporting.entry import UNKNOWN
from cstl.reporting.style import COLOURS, condition_colours
from cstl.reporting.tables import MISSING, decimal, escaped, render
from cstl.run_folder import EVALUATED, Run

_MARKERS = "osD^vP"
COSTS = ("M params", "MFLOP/frame", "ms/sequence")


def is_pair(table: Table) -> bool:
    """Tell whether a table is of two runs: what differs between them is then said first, each
    run a column.
    """
    return len(table.rows) == 2 and all(len(row.runs) == 1 for row in table.rows)


def titles(table: Table) -> list[str]:
    """Return what the first run of each row is called: its folder, or where that is a number
    more of its path.
    """
    runs = [row.runs[0] for row in table.rows]
    clear = len({run.name for run in runs}) == len(runs) and not any(run.name.isdecimal() for run in runs)
    return [run.name if clear else run.title for run in runs]


def differing(table: Table) -> list[list[str]]:
    """Return a line for each setting that differs: the key, and its value in each row."""
    return [[key, *(setting(row, key) for row in table.rows)] for key in table.settings]


def numbers(table: Table, costs: bool = True) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of what a table says in numbers; the last is the difference
    with its interval.
    """
    finished = [row for row in table.rows if row.finished]
    held_out = bool(finished) and all(run.held_out is not None for row in finished for run in row.runs)
    priced = COSTS if costs and costs_differ(table) else ()
    columns, lines = [*table.probes, "mean", *(["held-out"] if held_out else []), *priced, "difference"], []
    for i, row in enumerate(table.rows):
        cells = [f"{fmean(row.means[probe]):.1f}" if row.finished else "" for probe in table.probes]
        cells.append(
            _spread(row.means["mean"]) if row.means else MISSING if row.finished else row.runs[0].state
        )
        if held_out:
            cells.append(f"{fmean(run.held_out or 0.0 for run in row.runs):.1f}" if row.finished else "")
        cells += [f"{value:.3g}" for value in _costs(row)] if priced and row.finished else [""] * len(priced)
        lines.append([*cells, "baseline" if i == table.baseline else _difference(row)])
    return columns, lines


def costs_differ(table: Table) -> bool:
    """Say whether what the networks cost is known of every finished row, and not the same."""
    costs = [_costs(row) for row in table.rows if row.finished]
    return all(costs) and len({cost[:2] for cost in costs}) > 1


def _costs(row: Row) -> tuple[float, ...]:
    """Return a row's `COSTS`, the time a median of its runs; nothing: one of them is not known."""
    known = [run.results.get("network", {}) for run in row.runs]
    if not all(
        {"parameters", "flops", "frames", "seconds_a_sequence"} <= network.keys() for network in known
    ):
        return ()
    first = known[0]
    seconds = median(network["seconds_a_sequence"] for network in known)
    return first["parameters"] / 1e6, first["flops"] / first["frames"] / 1e6, 1e3 * seconds


def state(run: Run) -> str:
    """Return how far a run got, in a few words."""
    kind = "evaluation" if EVALUATED in run.config else ""
    if run.state in ("running", "stopped") and not kind:
        return f"{run.state} at step {run.last_step:,} of {run.steps[1] or UNKNOWN}"
    detail = {"failed": run.error, "damaged": ", ".join(run.problems)}.get(run.state)
    words = [word for word in (kind, "" if kind and run.state == "finished" else run.state) if word]
    return ", ".join(words) + (f": {detail}" if detail else "")


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def signed(value: float) -> str:
    """Return points with their sign."""
    return decimal(round(value, 1) + 0.0, is_difference=True)


def _difference(row: Row) -> str:
    if "mean" not in row.difference:
        return ""
    interval = f" [{', '.join(map(signed, row.interval['mean']))}]" if "mean" in row.interval else ""
    return signed(row.difference["mean"]) + interval


def setting(row: Row, key: str) -> str:
    """Return a setting of a row as it is typed; `?` where nothing says."""
    return typed_value(row.settings.get(key)) if key in row.settings or row.runs[0].config else UNKNOWN


def short(keys: Iterable[str]) -> dict[str, str]:
    """Return key → its last part, where no other ends in the same."""
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: part if list(last.values()).count(part) == 1 else key for key, part in last.items()}


def _places(table: Table) -> list[list[str]]:
    """Return the place and the number of runs of each row."""
    return [
        [str(i), str(len(row.runs))] if row.finished else [MISSING, ""] for i, row in enumerate(table.rows, 1)
    ]


def to_terminal(table: Table, width: int = 80) -> list[Text | rich.table.Table]:
    """Return what rich's `Console.print` shows in `width` characters.

    Of two runs first what differs. Else a leaderboard, in which settings are columns where they fit, or lines
    of one.
    """
    names, (columns, lines) = titles(table), numbers(table, costs=False)
    parts: list[Text | rich.table.Table] = [Text(table.title, style="bold"), Text()]
    if is_pair(table):
        if table.settings:
            parts += [render(["what differs", *names], differing(table), "terminal", words=(0, 1, 2)), Text()]
        else:
            parts += [Text("no setting differs"), Text()]
        parts.append(
            render(
                ["run", *columns],
                [[name, *line] for name, line in zip(names, lines, strict=True)],
                "terminal",
            )
        )
        same = f"the same in both: {len(table.same)} settings" if table.same else ""
        return [
            *parts,
            Text(),
            *map(Text, wrapped(filter(None, [same, *_further(table)]), width)),
        ]

    settings = {
        part: [setting(row, key) for row in table.rows] for key, part in short(table.settings).items()
    }
    finished = [i for i, row in enumerate(table.rows) if row.finished]
    if len({tuple(cells[i] for cells in settings.values()) for i in finished}) < len(finished):
        settings["run"] = names  # nothing else tells these rows from each other
    room = width - 8 - sum(max(map(len, column)) + 1 for column in zip(columns, *lines, strict=True))
    if sum(max(map(len, [part, *cells])) + 1 for part, cells in settings.items()) > room:
        merged = zip(*([f"{part}={cell}" for cell in cells] for part, cells in settings.items()), strict=True)
        settings = {"settings": ["\n".join(cells) for cells in merged]}
    rows = [
        [place, *cells, count, *line]
        for (place, count), line, *cells in zip(_places(table), lines, *settings.values(), strict=True)
    ]
    words, quiet = range(1, 1 + len(settings)), [i for i in range(len(rows)) if i not in finished]
    parts.append(
        render(["#", *settings, "runs", *columns], rows, "terminal", words=words, quiet=quiet, tight=True)
    )
    if costs_differ(table):
        priced = [
            [str(i), row.runs[0].method, *(f"{value:.3g}" for value in _costs(row))]
            for i, row in enumerate(table.rows, 1)
            if row.finished
        ]
        parts += [Text(), render(["#", "network", *COSTS], priced, "terminal", words=(1,))]
    return [*parts, Text(), *map(Text, wrapped(_further(table), width))]


def _further(table: Table) -> list[str]:
    """Return what stands below a table: a line for each published row, for each run that has no result, what
    it is and why, and the notes.
    """
    lines = []
    for name, row in table.published.items():
        means = zip([*table.probes, "mean"], map(decimal, row), strict=True)
        lines.append(f"{name}: {', '.join(map(' '.join, means))}")
    for run in (row.runs[0] for row in table.rows if not row.finished):
        seed = [f"seed={run.known['seed']}"] if "seed" in run.known else []
        label = " ".join(filter(None, [label_of(Row((run,)), table.settings), *seed]))
        lines.append(f"{run.state}: {run.title} ({label or 'settings unknown'}): {run.message}")
    return lines + table.notes


def wrapped(notes: Iterable[str], width: int) -> list[str]:
    """Break notes into lines of at most `width` characters."""
    return [textwrap.fill(note, width, subsequent_indent="  ", break_on_hyphens=False) for note in notes]


def to_markdown(table: Table) -> str:
    """Return a pipe table with every differing setting, under its title and above its notes."""
    columns, lines = numbers(table)
    rows = [
        [
            place,
            *(setting(row, key) for key in table.settings),
            count,
            *line,
            ", ".join(run.title for run in row.runs),
        ]
        for (place, count), line, row in zip(_places(table), lines, table.rows, strict=True)
    ]
    head = ["#", *table.settings, "runs", *columns, "folders"]
    text = render(
        head, rows, "md", title=table.title, words=(*range(1, 1 + len(table.settings)), len(head) - 1)
    )
    return f"{text}\n" + "".join(f"- {escaped(note)}\n" for note in _further(table))


def to_csv(tables: Sequence[Table]) -> str:
    """Return all tables in one, as CSV: a line a row, numbers in full; what a row has not stays empty."""
    keys = list(dict.fromkeys(key for table in tables for key in table.settings))
    probes = [*dict.fromkeys(probe for table in tables for probe in table.probes), "mean"]
    head = ["table", "place", "state", "message", *keys, "runs", "seeds", "held_out", *COSTS]
    for probe in probes:
        head += [f"{probe}", f"{probe} deviation", f"{probe} difference", f"{probe} low", f"{probe} high"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*head, "baseline", "folders"], lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for i, row in enumerate(table.rows):
            line: dict[str, Any] = {"table": table.title, "state": row.runs[0].state, "runs": len(row.runs)}
            line |= {"place": i + 1} if row.finished else {"message": row.runs[0].message}
            line |= {key: typed_value(row.settings[key]) for key in table.settings if key in row.settings}
            line["seeds"] = " ".join(str(run.known["seed"]) for run in row.runs if "seed" in run.known)
            if all(run.held_out is not None for run in row.runs):
                line["held_out"] = f"{fmean(run.held_out or 0.0 for run in row.runs):.4f}"
            line |= {name: f"{value:.6g}" for name, value in zip(COSTS, _costs(row), strict=False)}
            for probe, means in row.means.items():
                line[probe] = f"{fmean(means):.4f}"
                line[f"{probe} deviation"] = f"{stdev(means):.4f}" if len(means) > 1 else ""
            for probe, difference in row.difference.items():
                line[f"{probe} difference"] = f"{difference:.4f}"
            for probe, ends in row.interval.items():
                line[f"{probe} low"], line[f"{probe} high"] = (f"{end:.4f}" for end in ends)
            line |= {
                "baseline": "yes" if i == table.baseline else "",
                "folders": " ".join(run.title for run in row.runs),
            }
            writer.writerow(line)
    return text.getvalue()


def draw(tables: Sequence[Table]) -> Figure:
    """Draw scores with their deviation over the seeds, and differences with their intervals, a line a row."""
    finished = [[row for row in table.rows if row.finished] for table in tables]
    heights = [0.36 * len(rows) + 1.1 for rows in finished]
    figure = Figure(figsize=(10, sum(heights) + 0.6), layout="constrained")
    grid = figure.subplots(len(tables), 2, squeeze=False, height_ratios=heights, width_ratios=(3, 2))
    for table, rows, (scores, differences) in zip(tables, finished, grid, strict=True):
        places = np.arange(len(rows))
        names = [*table.probes, *(["mean"] if len(table.probes) > 1 else [])]
        every = [probe for row in rows for run in row.runs for probe in run.results["rank1"]]
        colours = condition_colours(list(dict.fromkeys(every)))
        for i, name in enumerate(names):
            offset = 0.5 * ((i + 0.5) / len(names) - 0.5)
            scores.errorbar(
                [fmean(row.means[name]) for row in rows],
                places + offset,
                xerr=[stdev(row.means[name]) if len(row.means[name]) > 1 else 0.0 for row in rows],
                label=name,
                linestyle="none",
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=5,
                color=colours[name],
            )
        labels = [label_of(row, table.settings) or row.runs[0].title for row in rows]
        scores.set_yticks(
            places,
            [textwrap.shorten(f"#{i} {label}", 60, placeholder=" …") for i, label in enumerate(labels, 1)],
        )
        scores.set_xlabel("rank-1, identical views excluded (%)")
        scores.set_title(table.title.partition(": ")[0], fontsize="medium", loc="left")
        scores.grid(alpha=0.3)
        if names:
            scores.legend(fontsize="small")
        differences.axvline(0, color="black", linewidth=1)
        for place, row in zip(places, rows, strict=True):
            if "mean" in row.difference:
                value = row.difference["mean"]
                low, high = row.interval.get("mean", (value, value))
                differences.plot([low, high], [place, place], color=COLOURS[0], linewidth=2)
                differences.plot(value, place, "o", color=COLOURS[0])
        differences.set_yticks(places, [])
        named = "" if table.baseline is None else f" to #{table.baseline + 1}"
        differences.set_xlabel(f"mean: difference{named} (points), 95 %")
        differences.grid(alpha=0.3)
        for axes in (scores, differences):
            axes.set_ylim(len(rows) - 0.5, -0.5)
    return figure


def draw_costs(table: Table) -> Figure:
    """Draw accuracy against cost, a point a row: mean rank-1 with its deviation over operations a frame."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in table.rows if row.finished]
    for row in rows:
        parameters, operations, _ = _costs(row)
        means = row.means["mean"]
        deviation = stdev(means) if len(means) > 1 else 0.0
        axes.errorbar(operations, fmean(means), yerr=deviation, color=COLOURS[0], marker="o", capsize=3)
        label = label_of(row, table.settings).removeprefix("method=") or row.runs[0].title
        text = f"{textwrap.shorten(label, 40, placeholder=' …')} ({parameters:.2g} M)"
        at = (operations, fmean(means))
        axes.annotate(text, at, xytext=(7, 5), textcoords="offset points", fontsize="small")
    axes.set_xscale("log", subs=(2, 5))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.3, y=0.15)
    axes.set_xlabel("operations a frame (million; in brackets million parameters)")
    axes.set_ylabel("mean rank-1 (%)")
    axes.set_title(table.title.partition(": ")[0], fontsize="medium", loc="left")
    axes.grid(alpha=0.3)
    return figure


def write(tables: Sequence[Table], remarks: Sequence[str], folder: Path) -> None:
    """Write `comparison.csv`, `.md`, `.png` and `.pdf`; of networks `accuracy_cost.png` and `.pdf`, too."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "comparison.csv", to_csv(tables))
    text = "\n".join([*map(to_markdown, tables), *(f"{escaped(remark)}\n" for remark in remarks)])
    write_text(folder / "comparison.md", text)
    with matplotlib.rc_context({"text.parse_math": False}):  # a $ in a name is a $
        figures = {"comparison": draw([table for table in tables if any(row.finished for row in table.rows)])}
        for i, table in enumerate(filter(costs_differ, tables), 1):
            figures["accuracy_cost" + f"_{i}" * (i > 1)] = draw_costs(table)
        for name, figure in figures.items():
            for ending in ("png", "pdf"):
                figure.savefig(folder / f"{name}.{ending}", dpi=150)
