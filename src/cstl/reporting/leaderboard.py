"""How a comparison of runs is shown: in a terminal, as Markdown, as CSV, and as a picture."""

import csv
import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
import numpy as np
import rich.table
from matplotlib.figure import Figure
from rich import box
from rich.text import Text

from cstl.files import write_text
from cstl.reporting.comparison import UNKNOWN, Row, Table, label_of, typed_value
from cstl.reporting.figures import COLOURS, condition_colours
from cstl.reporting.tables import MISSING

_MARKERS = "osD^vP"


def _spread(values: Sequence[float], digits: int = 1) -> str:
    return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if round(value, 1) else "0.0"


def _setting(row: Row, key: str) -> str:
    return typed_value(row.settings.get(key)) if key in row.settings or row.runs[0].config else UNKNOWN


def to_terminal(table: Table, width: int = 80) -> list[Text | rich.table.Table]:
    """For rich's `Console.print`: settings are columns where they fit `width` characters, else lines of one column."""
    finished = [row for row in table.rows if row.finished]
    held_out = bool(finished) and all(run.held_out is not None for row in finished for run in row.runs)
    numbers = [*table.probes, "mean", *(["held-out"] if held_out else []), "difference"]
    lines = []
    for row in table.rows:
        cells = [f"{fmean(row.means[probe]):.1f}" if row.finished else "" for probe in table.probes]
        cells.append(_spread(row.means["mean"]) if row.means else MISSING if row.finished else row.runs[0].state)
        if held_out:
            cells.append(f"{fmean(run.held_out or 0.0 for run in row.runs):.1f}" if row.finished else "")
        lines.append([*cells, _difference(row)])
    if table.baseline is not None:
        lines[table.baseline][-1] = "baseline"
    sizes = [max(map(len, column)) + 1 for column in zip(numbers, *lines, strict=True)]
    keys = {key: key.rpartition(".")[2] for key in table.settings}
    keys = {key: short if list(keys.values()).count(short) == 1 else key for key, short in keys.items()}
    columns = {short: [_setting(row, key) for row in table.rows] for key, short in keys.items()}
    shown = [tuple(cells) for cells in zip(*columns.values(), strict=True)] if columns else [()] * len(table.rows)
    told = [cells for cells, row in zip(shown, table.rows, strict=True) if row.finished]
    if len(set(told)) < len(told):  # nothing else tells these rows from each other
        columns["run"] = [row.runs[0].title for row in table.rows]
    room = width - sum(sizes) - 3 - 5  # the place and the number of runs
    if sum(max(len(short), *map(len, cells)) + 1 for short, cells in columns.items()) > room:
        merged = zip(*([f"{short}={cell}" for cell in cells] for short, cells in columns.items()), strict=True)
        columns = {"settings": ["\n".join(cells) for cells in merged]}

    shape = rich.table.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    shape.add_column("#", justify="right", no_wrap=True)
    for short in columns:
        shape.add_column(Text(short), overflow="fold")
    shape.add_column("runs", justify="right", no_wrap=True)
    for name in numbers:
        shape.add_column(Text(name), justify="right", no_wrap=True)
    for i, (row, line) in enumerate(zip(table.rows, lines, strict=True)):
        settings = [Text(cells[i]) for cells in columns.values()]
        place, count = (str(i + 1), str(len(row.runs))) if row.finished else (MISSING, "")
        shape.add_row(place, *settings, count, *line, style=None if row.finished else "dim")
    texts = [_without_result(row, table.settings) for row in table.rows if not row.finished]
    return [Text(table.title, style="bold"), Text(), shape, Text(), *map(Text, wrapped([*texts, *table.notes], width))]


def _without_result(row: Row, settings: Iterable[str]) -> str:
    run = row.runs[0]
    label = " ".join(
        filter(None, [label_of(row, settings), f"seed={run.config['seed']}" if "seed" in run.known else ""])
    )
    return f"{run.state}: {run.title} ({label or 'settings unknown'}): {run.message}"


def _difference(row: Row) -> str:
    """Of the means, with the interval."""
    if "mean" not in row.difference:
        return ""
    low, high = row.interval.get("mean", (None, None))
    bracket = "" if low is None or high is None else f" [{_signed(low)}, {_signed(high)}]"
    return _signed(row.difference["mean"]) + bracket


def wrapped(notes: Iterable[str], width: int) -> list[str]:
    """Break notes into lines of at most `width` characters."""
    return [textwrap.fill(note, width, subsequent_indent="  ", break_on_hyphens=False) for note in notes]


def to_markdown(table: Table) -> str:
    """A pipe table with every differing setting, under its title and above its notes."""
    head = ["#", *table.settings, "runs", *table.probes, "mean", "difference", "95 % of resamples", "folders"]
    left = 1 + len(table.settings)
    lines = [head, ["---:", *["---"] * (left - 1), *["---:"] * (len(head) - left - 1), "---"]]
    for i, row in enumerate(table.rows):
        cells = [str(i + 1) if row.finished else MISSING, *(_setting(row, key) for key in table.settings)]
        if row.finished:
            means = [_spread(row.means[name]) for name in (*table.probes, "mean")] if row.means else [MISSING]
            low, high = row.interval.get("mean", (None, None))
            difference = _signed(row.difference["mean"]) if "mean" in row.difference else MISSING
            interval = MISSING if low is None or high is None else f"{_signed(low)} … {_signed(high)}"
            cells += [str(len(row.runs)), *means, "baseline" if i == table.baseline else difference, interval]
        else:
            cells += ["", *[""] * len(table.probes), f"{row.runs[0].state}: {row.runs[0].message}", "", ""]
        lines.append([*cells, ", ".join(run.title for run in row.runs)])
    text = "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)
    return f"**{_escaped(table.title)}**\n\n{text}\n\n" + "".join(f"- {_escaped(note)}\n" for note in table.notes)


def _escaped(text: str) -> str:
    return " ".join(text.split()).translate({ord(sign): f"\\{sign}" for sign in "\\|*_`<["})


def to_csv(tables: Sequence[Table]) -> str:
    """All tables in one: a line for each row, numbers in full; what a table or a row has not stays empty."""
    keys = list(dict.fromkeys(key for table in tables for key in table.settings))
    probes = [*dict.fromkeys(probe for table in tables for probe in table.probes), "mean"]
    head = ["table", "place", "state", "message", *keys, "runs", "seeds", "held_out"]
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
    """The scores with their deviation over the seeds, and the differences with their intervals, a line for each row."""
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
            places, [textwrap.shorten(f"#{i} {label}", 60, placeholder=" …") for i, label in enumerate(labels, 1)]
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


def write(tables: Sequence[Table], remarks: Sequence[str], folder: Path) -> None:
    """Writes `comparison.csv`, `.md`, `.png` and `.pdf`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "comparison.csv", to_csv(tables))
    text = "\n".join([*map(to_markdown, tables), *(f"{_escaped(remark)}\n" for remark in remarks)])
    write_text(folder / "comparison.md", text)
    with matplotlib.rc_context({"text.parse_math": False}):  # a $ in a name is a $
        figure = draw([table for table in tables if any(row.finished for row in table.rows)])
        for ending in ("png", "pdf"):
            figure.savefig(folder / f"comparison.{ending}", dpi=150)
