"""The table of a paper: a line for each probe and method, a column for each probe view, and their mean.

`paper_table` makes it from results and from what was published; `to_terminal`, `to_markdown`, `to_latex` and `to_csv`
show it. All four print the same numbers, rounded to one decimal as papers do.
"""

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import rich.table
from rich import box
from rich.console import Group
from rich.text import Text

from cstl.files import shown as shown_text
from cstl.metrics import CrossViewResult

MISSING = "–"
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
        """Ours minus the published row, in points: shown with its sign."""
        return self.method == _DIFFERENCE

    @property
    def numbers(self) -> tuple[float | None, ...]:
        """The values and their mean."""
        return (*self.values, self.mean)


@dataclass(frozen=True)
class Table:
    """A table to be shown. Rows of one probe follow each other; every row has a value for each view."""

    title: str
    views: tuple[str, ...]
    rows: tuple[Row, ...]

    def groups(self) -> Iterator[list[Row]]:
        """The rows of each probe."""
        for probe in dict.fromkeys(row.probe for row in self.rows):
            yield [row for row in self.rows if row.probe == probe]


rows, measures = CrossViewResult.rows, CrossViewResult.measures

_SUMMARY = (  # what to show, and where `measures` has it
    ("rank-1, probes with a match", "identical_views_excluded", "matched"),
    ("rank-1, identical views included", "identical_views_included", "every_probe"),
    ("mAP", "identical_views_excluded", "mAP"),
    ("mINP", "identical_views_excluded", "mINP"),
    ("cross-view gallery: rank-1", "cross_view_gallery", "every_probe"),
    ("cross-view gallery: mAP", "cross_view_gallery", "mAP"),
)


def summary(result: CrossViewResult) -> rich.table.Table:
    """For rich's `Console.print`: the means of every other measure than `paper_table`'s, by probe, in percent."""
    found = result.measures()
    table = rich.table.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("other means (%)", no_wrap=True)
    for probe in result.accuracy:
        table.add_column(Text(probe), justify="right", no_wrap=True)
    for label, name, key in _SUMMARY:
        if name in found:
            means = [found[name].get(probe, {}).get(key) for probe in result.accuracy]
            table.add_row(label, *(_shown(mean[0] if isinstance(mean, list) else mean, False) for mean in means))
    return table


def published_rows(dataset: str | None, size: tuple[int, int]) -> dict[tuple[str, str], dict[str, float]]:
    """What papers report for a data set and resolution.

    Args:
        dataset: its name; "casiab" and "oumvlp" have published values, others have none.
        size: height and width of the silhouettes, in pixels.

    Returns:
        (probe, method) → percent of each view and of "mean": rank-1, identical views excluded, every probe counted.

    Source: Huang et al., ICCV 2021, Tables 1 (large split) and 2.
    """
    file = files("cstl").joinpath("paper", f"{dataset}.csv")
    if not str(dataset).isidentifier() or not file.is_file():
        return {}
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = {}
    for line in csv.DictReader(lines):
        row = {"probe": "NM", "height": "64", "width": "44", **line}  # OU-MVLP: one probe and one resolution
        probe, method = row.pop("probe"), row.pop("method")
        if (int(row.pop("height")), int(row.pop("width"))) == size:
            found[probe, method] = {view: float(value) for view, value in row.items()}
    return found


def paper_table(
    methods: Mapping[str, CrossViewResult],
    title: str,
    dataset: str | None,
    size: tuple[int, int],
    *,
    rank: int = 1,
    matched: bool = False,
    include_identical_view: bool = False,
    measure: str = "rank",
    others: Sequence[str] = (),
    published_as: str | None = None,
    remarks: Sequence[str] = (),
) -> Table:
    """The table as papers print it.

    Below the first method comes the row of what it was published as, "NAME (paper)", and the difference, ours minus
    theirs, of the numbers as printed. Published values are rank-1 with every probe counted and identical views excluded
    on the data set's own views, and stand only in a table of the same kind. Whether they may stand there at all,
    `cstl.reporting.published.published` says.

    Args:
        methods: name → result, such as {"CSTL": …, "GEI": …}, all of the same protocol.
        title: the data set's name for the reader, such as "CASIA-B".
        dataset: the data set's name, such as "casiab".
        size: height and width of the silhouettes, in pixels.
        rank, matched, include_identical_view, measure: see `CrossViewResult.per_view`.
        others: further published methods to show, such as ["GaitSet", "GaitPart"].
        published_as: the published method that the first one is, such as "CSTL"; None: compared with nothing published.
        remarks: what else is to be said in the title.

    Raises:
        ValueError: as `CrossViewResult.per_view`.
    """
    own, first = next(iter(methods.items()))
    identical = include_identical_view or first.has_one_view
    comparable = measure == "rank" and rank == 1 and not (matched or identical or first.joint_gallery)
    published = published_rows(dataset, size) if comparable else {}
    published = {key: row for key, row in published.items() if row.keys() - {"mean"} == set(first.views)}
    ours = {name: result.rows(rank, matched, include_identical_view, measure) for name, result in methods.items()}
    lines = []
    for probe in next(iter(ours.values())):
        lines += [
            _row(probe, f"{name} (paper)", published[probe, name]) for name in others if (probe, name) in published
        ]
        for name, table in ours.items():
            mine = table[probe]["per_view"] | {"mean": table[probe]["mean"]}
            lines.append(_row(probe, name, mine))
            theirs = published.get((probe, published_as or "")) if name == own else None
            if theirs:
                lines.append(_row(probe, f"{published_as} (paper)", {view: theirs[view] for view in mine}))
                lines.append(_row(probe, _DIFFERENCE, _difference(mine, theirs)))
    height, width = size
    number = f"rank-{rank}" if measure == "rank" else measure
    rule = "every probe" if measure == "rank" and not matched else "probes with a match"
    views = "cross-view gallery" if first.joint_gallery else f"identical views {'in' if identical else 'ex'}cluded"
    measured = "; ".join([f"{shown_text(title)} {height}×{width}: {number} (%), {rule}, {views}", *remarks])
    return Table(measured, first.views, tuple(lines))


def to_terminal(table: Table, width: int = 80) -> Group:
    """For rich's `Console.print`: fits `width` characters, if need be as several blocks of views."""
    cells = {row: [_short(number, row.is_difference) for number in row.numbers] for row in table.rows}
    names = max(len(row.probe) for row in table.rows) + 1 + max(len("method"), *(len(row.method) for row in table.rows))
    column = 1 + max(len("mean"), *map(len, table.views), *(len(cell) for line in cells.values() for cell in line))
    blocks = math.ceil(len(table.views) / max(1, (width - names) // column - 1))  # a column is left for the mean
    size = math.ceil(len(table.views) / blocks)
    shown: list[rich.table.Table | Text] = [Text(table.title, style="bold")]
    for start in range(0, len(table.views), size):
        columns = list(range(start, min(start + size, len(table.views))))
        last = columns[-1] == len(table.views) - 1
        block = rich.table.Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
        block.add_column("", no_wrap=True)
        block.add_column("method", no_wrap=True)
        for i in columns:
            block.add_column(Text(table.views[i]), justify="right", no_wrap=True)
        if last:
            block.add_column("mean", justify="right", style="bold", no_wrap=True)
        for group in table.groups():
            for row in group:
                numbers = [cells[row][i] for i in (*columns, *([-1] if last else []))]
                style = "dim" if row.is_difference else None
                block.add_row(Text(row.probe if row is group[0] else ""), Text(row.method), *numbers, style=style)
            block.add_section()
        shown += [Text(), block]
    return Group(*shown)


def to_markdown(table: Table) -> str:
    """A pipe table, as GitHub and most editors show it, under its title."""
    lines = [
        ["probe", "method", *map(_markdown, table.views), "mean"],
        ["---", "---", *["---:"] * (len(table.views) + 1)],
        *([_markdown(row.probe), _markdown(row.method), *cells(row)] for row in table.rows),
    ]
    return "\n".join([f"**{_markdown(table.title)}**", "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def to_latex(table: Table) -> str:
    """A LaTeX table: with booktabs where the paper loads it, else with plain lines; needs no other package."""
    lines = [
        r"\begin{table*}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        r"  % the rules of booktabs, or plain ones in a paper without it",
        r"  \providecommand{\toprule}{\hline}\providecommand{\midrule}{\hline}\providecommand{\bottomrule}{\hline}",
        rf"  \caption{{{_latex(table.title)}}}",
        rf"  \begin{{tabular}}{{ll*{{{len(table.views)}}}{{r}}r}}",
        r"    \toprule",
        "    " + " & ".join(["Probe", "Method", *map(_latex, table.views), r"Mean \\"]),
    ]
    for group in table.groups():
        lines.append(r"    \midrule")
        for row in group:
            names = [_latex(row.probe) if row is group[0] else "", _latex(row.method)]
            lines.append("    " + " & ".join([*names, *map(_latex, cells(row))]).lstrip() + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """Comma-separated values under a comment line with the title; a missing value is an empty cell."""
    text = io.StringIO()
    text.write(f"# {_one_line(table.title)}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["probe", "method", *table.views, "mean"])
    for row in table.rows:
        numbers = ["" if number is None else f"{number:.1f}" for number in row.numbers]
        writer.writerow([row.probe, row.method, *numbers])
    return text.getvalue()


TEXT_FORMATS: dict[str, Callable[[Table], str]] = {"md": to_markdown, "tex": to_latex, "csv": to_csv}  # by file ending


def _row(probe: str, method: str, numbers: Mapping[str, float | None]) -> Row:
    *values, mean = numbers.values()
    return Row(probe, method, tuple(values), mean)


def _difference(ours: Mapping[str, float | None], theirs: Mapping[str, float]) -> dict[str, float | None]:
    """Ours minus theirs as printed; of the means only where both are over all views."""
    differences = {
        view: None if value is None else round(round(value, 1) - theirs[view], 1) + 0.0  # + 0.0: no negative zero
        for view, value in ours.items()
    }
    if None in differences.values():
        differences["mean"] = None
    return differences


def _shown(number: float | None, is_difference: bool) -> str:
    """With one decimal; a difference with its sign."""
    if number is None:
        return MISSING
    if not is_difference:
        return f"{number:.1f}"
    return f"{number:+.1f}".replace("-", "−") if number else "0.0"


def _short(number: float | None, is_difference: bool) -> str:
    """In four characters: 100 and differences of ten and more go without a decimal."""
    text = _shown(number, is_difference)
    return text if len(text) <= 4 or number is None else _shown(float(round(number)), is_difference)[:-2]


def cells(row: Row) -> list[str]:
    """The numbers of a row as every table shows them: one decimal, a sign where it is a difference."""
    return [_shown(number, row.is_difference) for number in row.numbers]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown(text: str) -> str:
    return _one_line(text).translate({ord(sign): f"\\{sign}" for sign in "\\|*_`<["})


_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"}
    | {"×": r"$\times$", "−": "$-$", "–": "--", "°": r"$^\circ$"}
)


def _latex(text: str) -> str:
    return _one_line(text).translate(_LATEX)
