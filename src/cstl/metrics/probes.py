"""One table with a row for each probe and gallery, and the functions of it behind every average and picture.

A row is a probe in one gallery. A gallery is one view, or all views at once (`ALL_VIEWS`). Whatever is shown
of a result, in a terminal, a page or a dashboard, comes from this table by `tally` and `mean_over`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

ALL_VIEWS = -1
MEASURES = ("rank", "mAP", "mINP")


class ProbeTable(NamedTuple):
    """The nearest gallery sequences of each probe; R rows, ordered by gallery and the probe's number.

    Attributes:
        sequence, subject, condition, view: int64 (R,), of the probe, as given to `CrossViewAccuracy.update`.
        gallery: int64 (R,), the view that the gallery is made of, or `ALL_VIEWS`.
        impostors_ahead: float32 (R,), number of gallery sequences of other subjects at most as far as the
            nearest match; NaN without a match. 0 means recognised at rank 1, and k − 1 or fewer at rank k.
        average_precision, inverse_negative_penalty: float64 (R,), in 0 … 1; NaN without a match.
        nearest, match: int64 (R,), number of the nearest gallery sequence, and of the nearest of the probe's
            subject; −1 where there is none.
        nearest_distance, match_distance: float32 (R,), theirs; infinite where there is none.
    """

    sequence: np.ndarray
    subject: np.ndarray
    condition: np.ndarray
    view: np.ndarray
    gallery: np.ndarray
    impostors_ahead: np.ndarray
    average_precision: np.ndarray
    inverse_negative_penalty: np.ndarray
    nearest: np.ndarray
    nearest_distance: np.ndarray
    match: np.ndarray
    match_distance: np.ndarray

    def where(self, rows: np.ndarray) -> "ProbeTable":
        return ProbeTable(*(column[rows] for column in self))

    def of(self, conditions: Sequence[int], joint: bool = False) -> "ProbeTable":
        """Select the probes of some conditions, with single-view galleries or with all views at once."""
        return self.where(np.isin(self.condition, conditions) & ((self.gallery == ALL_VIEWS) == joint))


class Tally(NamedTuple):
    """Sums over the probes of S subjects in each pair of probe view and gallery, V × G cells.

    Attributes:
        score: float64 (S, V, G), of the measure, 0 … 1 a probe.
        counted: float64 (S, V, G), probes that count.
    """

    score: np.ndarray
    counted: np.ndarray

    def percent(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Average over the probes: float64 (V, G), NaN in a cell without any.

        Args:
            weights: float (…, S), how often each subject counts; None: once. The result is then (…, V, G):
                the same table for each resampling of the subjects.
        """
        score, count = (
            part.sum(0) if weights is None else np.tensordot(weights, part, axes=1) for part in self
        )
        return 100 * np.divide(score, count, out=np.full(score.shape, np.nan), where=count > 0)


def tally(
    table: ProbeTable,
    views: int,
    subjects: int,
    measure: str = "rank",
    k: int = 1,
    matched: bool = False,
    joint: bool = False,
) -> Tally:
    """Sum a measure over the rows of a table, for each subject, probe view and gallery.

    Args:
        table: rows of one comparison, such as `table.of(conditions)`; of single-view galleries or of all
            views.
        views, subjects: how many there are: V and S.
        measure: "rank" for recognition at rank k; "mAP" and "mINP" count probes with a match only, and know
            no k.
        k: rank.
        matched: count only probes whose subject is in the gallery, in place of all of them.
        joint: the rows are of all views as one gallery.

    Returns:
        sums over S × V × G cells, G = V, or 1 where the gallery is all views.

    Raises:
        ValueError: another measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"unknown measure {measure!r}; there are {', '.join(MEASURES)}")
    has_match = ~np.isnan(table.impostors_ahead)
    score = {
        "rank": lambda: (table.impostors_ahead < k).astype(np.float64),  # NaN is no hit
        "mAP": lambda: np.nan_to_num(table.average_precision),
        "mINP": lambda: np.nan_to_num(table.inverse_negative_penalty),
    }[measure]()
    counted = has_match if matched or measure != "rank" else np.ones(len(score), bool)
    shape = (subjects, views, 1 if joint else views)
    cell = np.ravel_multi_index(
        (table.subject, table.view, np.zeros_like(table.gallery) if joint else table.gallery), shape
    )
    sums = (
        np.bincount(cell, weights, minlength=int(np.prod(shape))).astype(np.float64)
        for weights in (score * counted, counted)
    )
    return Tally(*(column.reshape(shape) for column in sums))


def mean_over_galleries(percent: np.ndarray, leave_out_identical: bool = True) -> np.ndarray:
    """Average the cells (…, V, G) over the galleries, the row of a paper's table: (…, V).

    Args:
        percent: of `Tally.percent`.
        leave_out_identical: without the gallery of the probe's own view, as papers do. False for a gallery of
            all views, from which the probe's own view is hidden already.
    """
    if leave_out_identical:
        percent = np.where(np.eye(percent.shape[-1], dtype=bool), np.nan, percent)
    return nanmean(percent)


def resampled(
    tallies: Mapping[str, Tally], leave_out_identical: bool = True, resamples: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Average again over subjects drawn with replacement, for intervals: name → percent (resamples,).

    Args:
        tallies: name → sums over the same S subjects in the same order.
        leave_out_identical: as `mean_over_galleries`.
        resamples: how many.
        seed: of the draws.
    """
    subjects = max((len(sums.score) for sums in tallies.values()), default=0)
    draws = np.random.default_rng(seed).multinomial(
        subjects, np.full(subjects, 1 / max(subjects, 1)), resamples
    )
    return {
        name: nanmean(mean_over_galleries(sums.percent(draws.astype(np.float64)), leave_out_identical))
        for name, sums in tallies.items()
    }


def nanmean(values: np.ndarray) -> np.ndarray:
    """Average over the last axis what is not NaN: NaN, and no warning, where all of it is."""
    present = ~np.isnan(values)
    count = present.sum(-1)
    total = np.where(present, values, 0).sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


_OF_A_PROBE = ("sequence", "subject", "condition", "view")  # the other columns differ from gallery to gallery
_FILE_NAMES = {"impostors_ahead": "wrong"}  # as files have had it since 0.1


def to_arrays(table: ProbeTable, views: int) -> dict[str, np.ndarray]:
    """Lay a table of single-view galleries out for a file: a row a probe, (N,), a column a view, (N, V)."""
    sequences, first, row = np.unique(table.sequence, return_index=True, return_inverse=True)
    arrays = {name: getattr(table, name)[first] for name in _OF_A_PROBE}
    for name in (name for name in ProbeTable._fields if name not in (*_OF_A_PROBE, "gallery")):
        column = getattr(table, name)
        missing = -1 if column.dtype.kind == "i" else np.inf if name.endswith("distance") else np.nan
        arrays[_FILE_NAMES.get(name, name)] = cells = np.full((len(sequences), views), missing, column.dtype)
        cells[row, table.gallery] = column
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray], views_with_gallery: np.ndarray) -> ProbeTable:
    """Make the table from the arrays of `to_arrays`; precision is NaN where an older file has none.

    Args:
        arrays: by name.
        views_with_gallery: bool (V,), views whose gallery is not empty.
    """
    probes = len(arrays["sequence"])
    views = np.flatnonzero(views_with_gallery)
    columns = {name: np.tile(arrays[name], len(views)) for name in _OF_A_PROBE}
    columns["gallery"] = np.repeat(views, probes)
    for name in (name for name in ProbeTable._fields if name not in columns):
        stored = arrays.get(_FILE_NAMES.get(name, name))
        columns[name] = np.full(len(views) * probes, np.nan) if stored is None else stored[:, views].T.ravel()
    return ProbeTable(**columns)


def compact_subjects(table: ProbeTable) -> tuple[ProbeTable, np.ndarray]:
    """Renumber the subjects from 0 on → the table, and the subjects that the numbers stand for."""
    subjects, numbers = np.unique(table.subject, return_inverse=True)
    return table._replace(subject=numbers), subjects


def conditions_of(probes: Mapping[str, Sequence[str]], conditions: Sequence[str]) -> dict[str, list[int]]:
    """Return the positions in `conditions` of each probe set's conditions."""
    return {name: [list(conditions).index(member) for member in members] for name, members in probes.items()}
