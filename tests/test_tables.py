"""The paper's table: what it holds, what it is compared with, and its four formats."""

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cstl.metrics import CrossViewAccuracy, CrossViewResult
from cstl.reporting.published import published_results
from cstl.reporting.tables import (
    TEXT_FORMATS,
    Row,
    Table,
    paper_table,
    render,
    summary,
    to_terminal,
    to_text,
)

CASIAB = [f"{18 * i:03d}" for i in range(11)]
OUMVLP = [f"{15 * i:03d}" for i in (*range(7), *range(12, 19))]
CONDITIONS = ["nm-01", "nm-02", "bg-01"]


def result(views: Sequence[str] = CASIAB, probes: Sequence[str] = ("NM", "BG"), wrong: Sequence[str] = ()):
    """Twenty subjects on a line. At views in `wrong`, the first probes of NM stand where
    somebody else does.
    """
    members = dict(zip(probes, (["nm-02"], ["bg-01"]), strict=False))
    metric = CrossViewAccuracy(
        CONDITIONS, views, ["nm-01"], members, cross_view_gallery=["nm-01"], cross_view_probes=members
    )
    for (condition, name), (view, degrees) in itertools.product(enumerate(CONDITIONS), enumerate(views)):
        subject = torch.arange(20)
        places = 10.0 * subject + condition
        if name == "nm-02" and degrees in wrong:
            places[0] += 10
        metric.update(places[:, None, None], subject, torch.full((20,), condition), torch.full((20,), view))
    return metric.compute()


def rows_of(dataset: str, size: tuple[int, int]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        result.name(size, result.training_subjects or 0): result.rank1
        for result in published_results()
        if (result.dataset, result.size, result.by) == (dataset, size, "paper")
    }


def table(
    found: CrossViewResult, dataset: str = "casiab", size: tuple[int, int] = (64, 44), **options: Any
) -> Table:
    """Beside what the CSTL paper has of it."""
    theirs = {name: rows for name, rows in rows_of(dataset, size).items() if name.startswith("CSTL")}
    name = next(iter(theirs), None)
    return paper_table({"CSTL": found}, "CASIA-B", size, published=theirs, compared=name, **options)


def shown(made: Table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(to_terminal(made, width))
    return console.file.getvalue()


def test_ours_theirs_and_the_difference() -> None:
    found = result(wrong=["018"])
    theirs = {name: rows_of("casiab", (64, 44))[name] for name in ("CSTL (paper)", "GaitSet (paper)")}
    made = paper_table(
        {"CSTL": found, "GEI": found}, "CASIA-B", (64, 44), published=theirs, compared="CSTL (paper)"
    )
    assert made.title == "CASIA-B 64×44: rank-1 (%), every probe, identical views excluded"
    assert made.views == tuple(CASIAB)
    names = ["CSTL", "CSTL (paper)", "difference", "GaitSet (paper)", "GEI"]
    assert [(row.probe, row.method) for row in made.rows] == [
        *(("NM", n) for n in names),
        *(("BG", n) for n in names),
    ]
    ours, theirs, difference, *_ = made.rows
    assert ours.values[:3] == pytest.approx([100, 95, 100])
    assert theirs.values[:3] == (97.2, 99.0, 99.2)
    assert difference.values[:3] == (2.8, -4.0, 0.8)
    assert (ours.mean, theirs.mean) == (pytest.approx(100 - 5 / 11), 97.8)
    assert difference.mean == 1.7  # of the numbers as printed: 99.5 − 97.8
    assert [row.is_difference for row in made.rows[:4]] == [False, False, True, False]


def test_a_mean_alone_is_compared_with_ours() -> None:
    """Many a method was published without its views."""
    published = {"GaitBase (OpenGait)": {"NM": {"mean": 97.6}}}
    made = paper_table(
        {"GaitBase": result(wrong=["018"])}, "CASIA-B", (64, 44),
        published=published, compared="GaitBase (OpenGait)",
    )  # fmt: skip
    ours, theirs, difference, other_probe = made.rows
    assert theirs.numbers == (None,) * 11 + (97.6,)
    assert difference.numbers == (None,) * 11 + (1.9,)  # 99.5 − 97.6
    assert other_probe.method == "GaitBase"
    assert made.compared() == {"NM": (theirs, difference)}
    assert [row.has_views for row in made.rows] == [True, False, False, True]
    assert ours.mean is not None
    first, last = shown(made, 60).split("method")[1:]  # two blocks of views, the mean in the last
    assert "OpenGait" not in first
    assert "difference" not in first
    assert "GaitBase (OpenGait)" in last


def test_cross_view_gallery_has_a_mean_over_the_probes() -> None:
    found = result(wrong=["018"]).cross_view_gallery.rows()
    assert list(found) == ["NM", "BG", "mean"]
    assert [list(row["per_view"].values())[1] for row in found.values()] == pytest.approx([95, 100, 97.5])
    assert found["mean"]["mean"] == pytest.approx((found["NM"]["mean"] + found["BG"]["mean"]) / 2)


def test_other_views_are_not_compared() -> None:
    assert [row.method for row in table(result(CASIAB[:5])).rows] == ["CSTL", "CSTL"]


def test_missing_values() -> None:
    found = result()
    found.accuracy["NM"][3] = math.nan
    found.accuracy["BG"][:] = math.nan
    made = table(found)
    ours, _, difference = made.rows[:3]
    assert ours.values[3] is None
    assert ours.mean == 100
    assert difference.values[3] is None
    assert difference.mean is None  # theirs is a mean over more views
    assert made.rows[3].numbers == (None,) * 12
    assert shown(made).splitlines()[4].split() == ["NM", "CSTL", *["100"] * 3, "–", *["100"] * 8]
    assert "| 100.0 | – | 100.0 |" in to_text(made, "md")
    assert "& 100.0 & -- & 100.0 &" in to_text(made, "tex")
    assert "NM,CSTL,100.0,100.0,100.0,,100.0" in to_text(made, "csv")


def test_one_view_compares_identical_views() -> None:
    found = result(["090"])
    made = table(found)
    assert made.title.endswith("identical views included")
    assert made.rows[0].numbers == (100, 100)
    assert found.rows()["NM"] == {"mean": 100, "per_view": {"090": 100}}
    assert list(found.measures()) == ["identical_views_included", "cross_view_gallery"]


def test_measures_for_the_results_file() -> None:
    found = result(wrong=["018"])
    content = json.loads(json.dumps(found.measures(), allow_nan=False))
    assert list(content) == ["identical_views_excluded", "identical_views_included", "cross_view_gallery"]
    means = content["identical_views_excluded"]["NM"]
    assert list(means) == ["every_probe", "matched", "mAP", "mINP"]
    for i in range(5):
        assert means["every_probe"][i] == pytest.approx(found.mean("NM", i + 1))
        assert means["matched"][i] == pytest.approx(found.mean("NM", i + 1, matched=True))
    assert means["mAP"] == pytest.approx(found.mean("NM", measure="mAP"))
    assert means["mINP"] == pytest.approx(found.mean("NM", measure="mINP"))
    included = content["identical_views_included"]["NM"]["every_probe"][0]
    assert included == pytest.approx(found.mean("NM", include_identical_view=True))
    assert list(content["cross_view_gallery"]) == ["NM", "BG", "mean"]


@pytest.mark.parametrize(
    ("views", "dataset", "blocks"),
    [(CASIAB, "casiab", 1), (OUMVLP, "oumvlp", 2)],
)
def test_terminal_fits_eighty_columns(views: list[str], dataset: str, blocks: int) -> None:
    found = result(views, wrong=views[:2])
    for accuracy in found.accuracy.values():
        accuracy[2:4] = 1.25  # a difference of more than ten points
    text = shown(table(found, dataset))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    headers = [line.split()[1:] for line in text.splitlines() if "method" in line]
    assert headers == ([[*views, "mean"]] if blocks == 1 else [views[:7], [*views[7:], "mean"]])
    assert re.search(r"difference .* −9\d ", text)
    if blocks == 2:  # a wider terminal shows them in one
        assert shown(table(found, dataset), 100).count("method") == 1


def test_long_names_and_markup_are_shown_as_they_are() -> None:
    made = Table("T", ("[red]a", "rear-left"), (Row("[b]x", "m" * 50, (1.0, 2.0), 1.5),))
    text = shown(made)
    assert "[red]a" in text
    assert "[b]x" in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("m" * 30) == 1  # in two lines, so that the views are in one block
    assert text.count("method") == 1


def test_markdown() -> None:
    made = Table(
        "T|1",
        ("000", "018"),
        (Row("NM", "a_b", (99.96, None), 3.14159), Row("NM", "difference", (-0.5, 0.0), 2.0)),
    )
    assert to_text(made, "md") == (
        "**T\\|1**\n\n"
        "| probe | method | 000 | 018 | mean |\n"
        "| --- | --- | ---: | ---: | ---: |\n"
        "| NM | a\\_b | 100.0 | – | 3.1 |\n"
        "| NM | difference | −0.5 | 0.0 | +2.0 |\n"
    )


def test_csv_reads_back() -> None:
    made = table(result(wrong=["018"]))
    title, *lines = to_text(made, "csv").splitlines()
    assert title == f"# {made.title}"
    for row, line in zip(made.rows, csv.DictReader(lines), strict=True):
        assert (line["probe"], line["method"]) == (row.probe, row.method)
        assert [float(line[view]) for view in CASIAB] == pytest.approx(row.values, abs=0.051)
        assert float(line["mean"]) == pytest.approx(row.mean, abs=0.051)


def test_latex() -> None:
    made = Table(
        r"50% of {A} & B_1 #2 $3 C:\x ~ ^ 64×44",
        ("000", "018"),
        (Row("NM", "CSTL", (1, 2), 1.5), Row("NM", "difference", (-1, 1), 0.5)),
    )
    text = to_text(made, "tex")
    assert (
        r"\caption{50\% of \{A\} \& B\_1 \#2 \$3 C:\textbackslash{}x \textasciitilde{} "
        r"\textasciicircum{} 64$\times$44}"
    ) in text
    lines = [line.strip() for line in text.splitlines()]
    assert r"NM & CSTL & 1.0 & 2.0 & 1.5 \\" in lines
    assert r"& difference & $-$1.0 & +1.0 & +0.5 \\" in lines
    body = text[text.index(r"\begin{tabular}") :]
    assert {line.count("&") for line in body.splitlines() if line.endswith(r"\\")} == {4}
    assert re.findall(r"\\(begin|end){(.*?)}", text) == [
        ("begin", "table*"),
        ("begin", "tabular"),
        ("end", "tabular"),
        ("end", "table*"),
    ]
    without_escapes = re.sub(r"\\[\\{}]", "", text)
    assert without_escapes.count("{") == without_escapes.count("}")
    for made in (table(result()), table(result(OUMVLP), "oumvlp")):
        to_text(made, "tex").encode("ascii")  # any engine, any input encoding


@pytest.mark.parametrize("format", [*TEXT_FORMATS, "terminal"])
def test_any_table_in_any_format(format: str) -> None:
    """What a format takes for its own markup is shown as it is."""
    made = render(["[b]run", "a|b"], [["x_1", "50%"], ["y", "–"]], format, title="T", rules=[1])
    if format == "terminal":
        console = Console(file=io.StringIO(), width=80)
        console.print(made)
        made = console.file.getvalue()
    expected = {
        "md": ["**T**", "| \\[b]run | a\\|b |", "| --- | ---: |", "| x\\_1 | 50% |"],
        "tex": [r"\caption{T}", r"[b]run & a\textbar{}b \\", r"x\_1 & 50\% \\", r"y & -- \\"],
        "csv": ["# T\n[b]run,a|b\nx_1,50%\ny,–\n"],
        "terminal": ["[b]run", "a|b", "x_1", "50%", "–"],
    }[format]
    assert all(text in made for text in expected), made


def test_an_unknown_format() -> None:
    with pytest.raises(
        ValueError, match=r"unknown format 'html' of a table; there are terminal, md, tex, csv"
    ):
        render(["a"], [], "html")


def test_shipped_values_are_read_without_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    published_results.cache_clear()
    assert published_results()


def test_summary_has_the_other_means() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(summary(result(wrong=["000"])))
    lines = console.file.getvalue().splitlines()
    assert lines[0].split() == ["other", "means", "(%)", "NM", "BG"]
    assert [line.split()[0] for line in lines[2:]] == [
        *("rank-1,", "rank-5,", "rank-1,", "mAP", "mINP", "cross-view", "cross-view"),
    ]
    assert lines[2].split()[-2:] == ["99.5", "100.0"]  # one of twenty is missed from one of eleven views


def test_summary_of_one_view() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(summary(result(views=["000"])))
    assert "included" in console.file.getvalue()
    assert "mINP" not in console.file.getvalue()
