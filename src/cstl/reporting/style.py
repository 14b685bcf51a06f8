"""What plots on the page and on paper share: colours, dashes, signs, and how numbers are written."""

import math
from collections.abc import Sequence
from importlib.resources import files

import matplotlib
import numpy as np

from cstl.metrics.probes import mean_over_galleries, nanmean
from cstl.reporting.findings import Map
from cstl.reporting.tables import MISSING, Row

WIDTH = 6.9  # inches: both columns of a paper
STYLE = matplotlib.rc_params_from_file(
    str(files("cstl").joinpath("paper.mplstyle")), use_default_template=False
)
COLOURS: list[str] = STYLE["axes.prop_cycle"].by_key()["color"]
SIGNS = ("o", "^", "s")  # with the colours: enough for `findings.SUBJECTS`
DASHES = ("-", "--", ":", "-.")
LOSSES = {"loss": "loss", "triplet": "triplet", "cross_entropy": "cross-entropy"}
LOSS_COLOURS = COLOURS[3:6]  # not those of the first sets of probes


def condition_colours(probes: Sequence[str]) -> dict[str, str]:
    """Give each set of probes a colour by its place in the protocol: the same in every picture.

    Args:
        probes: all names, in the order of the protocol, whichever are drawn.

    Returns:
        name → colour; also of "mean" and of "gallery".
    """
    *others, mean, gallery = COLOURS
    named = {
        probe: others[i % len(others)] for i, probe in enumerate(name for name in probes if name != "mean")
    }
    return {"mean": mean, "gallery": gallery, **named}


def line_look(i: int, many: bool = True) -> tuple[str, str, str]:
    """Return colour, dash and sign of the i-th line; `many`: colours differ first, else dashes and signs."""
    place = i // len(COLOURS) if many else i
    return COLOURS[i % len(COLOURS)], DASHES[place % len(DASHES)], SIGNS[place % len(SIGNS)]


def groups(found: Map) -> dict[str, list[tuple[str, np.ndarray, str, str]]]:
    """Return the points of a map by subject and by condition: each a name, bool (M,), colour and sign."""
    subjects = np.unique(found.subject)
    looks = [(COLOURS[i % len(COLOURS)], SIGNS[i // len(COLOURS) % len(SIGNS)]) for i in range(len(subjects))]
    colours = condition_colours(found.kinds[1:])
    kinds = enumerate(found.kinds)
    return {
        "subject": [
            (str(name), found.subject == name, *look) for name, look in zip(subjects, looks, strict=True)
        ],
        "condition": [(name, found.kind == name, colours[name], SIGNS[i % len(SIGNS)]) for i, name in kinds],
    }


def short(text: str, most: int = 30) -> str:
    """Return a name that leaves room for the plot: a long one ends in …."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def numbers(row: Row) -> list[float]:
    """Return the values of a row, NaN where there is none."""
    return [math.nan if value is None else value for value in row.values]


def mean_excluding_identical(cells: np.ndarray) -> float | None:
    """Return the mean that papers print, of rank-1 (V, V); None where nothing can be averaged."""
    mean = float(nanmean(mean_over_galleries(cells, leave_out_identical=len(cells) > 1)))
    return mean if np.isfinite(mean) else None


def percent(value: float | None) -> str:
    """Return a number of percent with one decimal."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.1f} %"


def unit(views: Sequence[str]) -> str:
    """Return the unit of the views' axis: degrees, where they are named by them."""
    return " (°)" if all(view.isdigit() for view in views) else ""
