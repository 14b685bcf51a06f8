"""The table of a paper: a line for each probe and method, a column for each probe view, and their mean.

`paper_table` makes it from results and from what was published, `to_terminal` and `to_text` show it: all
formats print the same numbers, rounded to one decimal as papers do. `render` is what every table of this
project is shown with.
"""

import csv
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import rich.table
from rich import box
from rich.console import Group
from rich.text import Text

from cstl.files import shown as shown_text
from cstl.metrics import CrossViewResult

MISSING = "–"
RULE = "every probe"  # which probes the table counts; other rules are other tables
TEXT_FORMATS = ("md", "tex", "csv")  # by file ending
_DIFFERENCE = "difference"


@dataclass(frozen=True)
class Row:
    """One line of a table: percent for each view and their mean, None where nothing could be counted."""

    probe: str
    method: str
    values: tuple[float | None, ...]
    mean: float | None

    @property
    def is_difference(self) -> bool:
        """Say whether it is ours minus the published row, in points: shown with its sign."""
        return self.method == _DIFFERENCE

    @property
    def has_views(self) -> bool:
        """Say whether it can be drawn over the views: rank-1, and not of the mean alone."""
        return not self.is_difference and any(value is not None for value in self.values)

    @property
    def numbers(self) -> tuple[float | None, ...]:
        """Return the values and their mean."""
        return (*self.values, self.mean)


@dataclass(frozen=True)
class Table:
    """A table to be shown. Rows of one probe follow each other; every row has a value for each view."""

    title: str
    views: tuple[str, ...]
    rows: tuple[Row, ...]

    def groups(self) -> Iterator[list[Row]]:
        """Yield the rows of each probe."""
        for probe in dict.fromkeys(row.probe for row in self.rows):
            yield [row for row in self.rows if row.probe == probe]

    def compared(self) -> dict[str, tuple[Row, Row]]:
        """Return probe → the published row that ours is compared with, and the difference."""
        return {two.probe: (one, two) for one, two in pairwise(self.rows) if two.is_difference}


def render(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    format: str,
    *,
    title: str = "",
    words: Collection[int] = (0,),
    rules: Collection[int] = (),
    quiet: Collection[int] = (),
    tight: bool = False,
) -> Any:
    """Return a table as text, or as rich's for a terminal; what a format takes for its own markup is shown as
    it is.

    Args:
        columns: headings.
        rows: cells.
        format: "md" as GitHub and most editors show it, "tex" for a paper with or without booktabs, "csv", or
            "terminal" for rich's `Console.print`.
        title: stands above it; in a terminal, whoever prints it says it.
        words: positions of the columns that stand left; the others are numbers and stand right.
        rules: positions of the rows before which a rule stands, where the format has rules.
        quiet: positions of the rows that matter less, in a terminal.
        tight: leave one character between columns, not two, in a terminal.
    """
    if format == "terminal":
        return _terminal(columns, rows, words, rules, quiet, tight)
    if format == "md":
        lines = [map(escaped, columns), ("---" if i in words else "---:" for i in range(len(columns)))]
        lines += [map(escaped, row) for row in rows]
        heading = f"**{escaped(title)}**\n\n" if title else ""
        return heading + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if format == "csv":
        text = io.StringIO(f"# {_one_line(title)}\n" * bool(title))
        text.seek(0, io.SEEK_END)
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        return text.getvalue()
    if format == "tex":
        return _latex_table(columns, rows, title, words, rules)
    raise ValueError(f"unknown format {format!r} of a table; there are terminal, {', '.join(TEXT_FORMATS)}")


def _terminal(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    words: Collection[int],
    rules: Collection[int],
    quiet: Collection[int],
    tight: bool,
) -> rich.table.Table:
    table = rich.table.Table(box=box.SIMPLE_HEAD, padding=0 if tight else (0, 1, 0, 0), show_edge=False)
    for i, name in enumerate(columns):
        if i in words:
            table.add_column(Text(name), overflow="fold")
        else:
            style = "bold" if name == "mean" else None
            table.add_column(Text(name), justify="right", style=style, no_wrap=True)
    for i, row in enumerate(rows):
        if i in rules:
            table.add_section()
        table.add_row(*map(Text, row), style="dim" if i in quiet else None)
    return table


def _latex_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str,
    words: Collection[int],
    rules: Collection[int],
) -> str:
    lines = [
        r"\begin{table*}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        r"  % the rules of booktabs, or plain ones in a paper without it",
        (
            r"  "
            r"\providecommand{\toprule}{\hline}\providecommand{\midrule}{\hline}\providecommand{\bottomrule}{\hline}"
        ),
        rf"  \caption{{{_latex(title)}}}",
        rf"  \begin{{tabular}}{{{''.join('l' if i in words else 'r' for i in range(len(columns)))}}}",
        r"    \toprule",
    ]
    for i, row in enumerate([columns, *rows]):
        lines += [r"    \midrule"] if i == 1 or i - 1 in rules else []
        lines.append("    " + " & ".join(map(_latex, row)).lstrip() + r" \\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table*}"]) + "\n"


_OTHER_MEANS = (  # what to show beside rank-1 of every probe, and where `CrossViewResult.measures` has it
    ("rank-1, probes with a match", "identical_views_excluded", "matched", 1),
    ("rank-5, every probe", "identical_views_excluded", "every_probe", 5),
    ("rank-1, identical views included", "identical_views_included", "every_probe", 1),
    ("mAP", "identical_views_excluded", "mAP", 1),
    ("mINP", "identical_views_excluded", "mINP", 1),
    ("cross-view gallery: rank-1", "cross_view_gallery", "every_probe", 1),
    ("cross-view gallery: mAP", "cross_view_gallery", "mAP", 1),
)


def other_means(measures: Mapping[str, Any], probes: Sequence[str]) -> list[list[str]]:
    """Return the means that `paper_table` does not have: a line for each measure, its name and
    percent by probe.
    """
    lines = []
    for label, group, key, rank in _OTHER_MEANS:
        means = [measures.get(group, {}).get(probe, {}).get(key) for probe in probes]
        means = [(mean[rank - 1 :] or [None])[0] if isinstance(mean, list) else mean for mean in means]
        if any(mean is not None for mean in means):
            lines.append([label, *map(decimal, means)])
    return lines


def summary(result: CrossViewResult) -> rich.table.Table:
    """Return `other_means` for rich's `Console.print`."""
    probes = list(result.probes)
    return render(["other means (%)", *probes], other_means(result.measures(), probes), "terminal")


def paper_table(
    methods: Mapping[str, CrossViewResult],
    title: str,
    size: tuple[int, int],
    *,
    published: Mapping[str, Mapping[str, Mapping[str, float]]] = MappingProxyType({}),
    compared: str | None = None,
    remarks: Sequence[str] = (),
) -> Table:
    """Return the table that papers print: rank-1, every probe counted, identical views excluded.

    Below the first method come the published rows; below the one that is compared the difference, ours minus
    theirs, of the numbers as printed. Which may stand there, `cstl.reporting.published.published` says; of
    other views than the result's none is shown.

    Args:
        methods: name → result, such as {"CSTL": …, "GEI": …}, all of the same protocol.
        title: the data set's name for the reader, such as "CASIA-B".
        size: height and width of the silhouettes, in pixels.
        published: name of a row → probe → view or "mean" → percent; a view that was not published is absent.
        compared: which of them the first method is compared with; None: with none.
        remarks: what else is to be said in the title.
    """
    own, first = next(iter(methods.items()))
    ours = {name: result.rows() for name, result in methods.items()}
    lines = []
    for probe in first.probes:
        for name, table in ours.items():
            mine = table[probe]["per_view"] | {"mean": table[probe]["mean"]}
            lines.append(_row(probe, name, mine))
            for theirs_name, rows in published.items() if name == own else ():
                theirs = rows.get(probe)
                if theirs is None or not theirs.keys() <= mine.keys():
                    continue
                lines.append(_row(probe, theirs_name, {view: theirs.get(view) for view in mine}))
                if theirs_name == compared:
                    lines.append(_row(probe, _DIFFERENCE, _difference(mine, theirs)))
    height, width = size
    rule = f"rank-1 (%), {RULE}, identical views {'in' if first.has_one_view else 'ex'}cluded"
    return Table(
        "; ".join([f"{shown_text(title)} {height}×{width}: {rule}", *remarks]), first.views, tuple(lines)
    )


def to_terminal(table: Table, width: int = 80) -> Group:
    """Return what rich's `Console.print` shows in `width` characters, if need be as several
    blocks of views.
    """
    numbers = [[_short(number, row.is_difference) for number in row.numbers] for row in table.rows]
    names = (
        max(len(row.probe) for row in table.rows)
        + 1
        + min(34, max(len("method"), *(len(row.method) for row in table.rows)))  # longer ones take two lines
    )
    column = 1 + max(len("mean"), *map(len, table.views), *(len(cell) for line in numbers for cell in line))
    # a column is left for the mean
    blocks = math.ceil(len(table.views) / max(1, (width - names) // column - 1))
    size = math.ceil(len(table.views) / blocks)
    firsts = _firsts(table)
    quiet = [i for i, row in enumerate(table.rows) if row.is_difference]
    parts: list[rich.table.Table | Text] = [Text(table.title, style="bold")]
    for start in range(0, len(table.views), size):
        some = list(range(start, min(start + size, len(table.views))))
        if some[-1] == len(table.views) - 1:
            some.append(len(table.views))  # the mean
        columns = ["", "method", *([*table.views, "mean"][i] for i in some)]
        # what was published without its views stands beside the mean alone
        there = [
            i
            for i in range(len(table.rows))
            if i in firsts or any(table.rows[i].numbers[k] is not None for k in some)
        ]
        lines = [
            [table.rows[i].probe if i in firsts else "", table.rows[i].method, *(numbers[i][k] for k in some)]
            for i in there
        ]
        rules, dim = ([at for at, i in enumerate(there) if i in which] for which in (firsts, quiet))
        block = render(columns, lines, "terminal", words=(0, 1), rules=rules, quiet=dim, tight=True)
        parts += [Text(), block]
    return Group(*parts)


def to_text(table: Table, format: str) -> str:
    """Return the table as the content of a file: one of `TEXT_FORMATS`. In CSV, a missing value
    is an empty cell.
    """
    firsts, lines = _firsts(table), []
    for i, row in enumerate(table.rows):
        probe = "" if format == "tex" and i not in firsts else row.probe
        bare = ["" if number is None else f"{number:.1f}" for number in row.numbers]
        lines.append([probe, row.method, *(bare if format == "csv" else cells(row))])
    columns = ["probe", "method", *table.views, "mean"]
    return render(columns, lines, format, title=table.title, words=(0, 1), rules=firsts)


def _firsts(table: Table) -> list[int]:
    """Return the positions of the first row of each probe."""
    probes = [row.probe for row in table.rows]
    return [i for i, probe in enumerate(probes) if probe not in probes[:i]]


def _row(probe: str, method: str, numbers: Mapping[str, float | None]) -> Row:
    *values, mean = numbers.values()
    return Row(probe, method, tuple(values), mean)


def _difference(ours: Mapping[str, float | None], theirs: Mapping[str, float]) -> dict[str, float | None]:
    """Subtract theirs from ours as printed; of the means only where both are over all views."""
    differences = {
        # + 0.0: no negative zero
        view: None if value is None or view not in theirs else round(round(value, 1) - theirs[view], 1) + 0.0
        for view, value in ours.items()
    }
    if None in ours.values():
        differences["mean"] = None
    return differences


def decimal(number: float | None, is_difference: bool = False) -> str:
    """Return a number with one decimal, a difference with its sign."""
    if number is None:
        return MISSING
    if not is_difference:
        return f"{number:.1f}"
    return f"{number:+.1f}".replace("-", "−") if number else "0.0"


def _short(number: float | None, is_difference: bool) -> str:
    """Write a number in four characters: 100 and differences of ten and more go without a decimal."""
    text = decimal(number, is_difference)
    return text if len(text) <= 4 or number is None else decimal(float(round(number)), is_difference)[:-2]


def cells(row: Row) -> list[str]:
    """Return the numbers of a row as every table shows them: one decimal, a sign where it is a difference."""
    return [decimal(number, row.is_difference) for number in row.numbers]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def escaped(text: str) -> str:
    """Return text as Markdown shows it as it is, in one line."""
    return _one_line(text).translate({ord(sign): f"\\{sign}" for sign in "\\|*_`<["})


_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"}
    | {"×": r"$\times$", "−": "$-$", "–": "--", "°": r"$^\circ$"}
)


def _latex(text: str) -> str:
    return _one_line(text).translate(_LATEX)
