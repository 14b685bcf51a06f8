"""The result of an evaluation: the table of probes, and every average that papers print."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cstl.metrics.probes import (
    MEASURES,
    ProbeTable,
    compact_subjects,
    mean_over_galleries,
    nanmean,
    tally,
    to_arrays,
)

Row = dict[str, Any]  # {"mean": percent or None, "per_view": {view: percent or None}}


class CrossViewResult:
    """The output of `CrossViewAccuracy.compute`: V views, R ranks, all tensors on the CPU, in percent.

    A plain class, because torchmetrics rebuilds named tuples and dataclasses and squeezes tensors of one
    element. All its numbers are made of `table` by the functions of `cstl.metrics.probes`.

    Attributes:
        table: one row for each probe sequence in each gallery.
        views: the V names, in the order of both view axes.
        probes: name → positions of its conditions.
        accuracy: probe → float64 (V probe views, V gallery views, R), percent of *all* probes of the view.
        accuracy_matched: the same, percent of those probes whose subject is in the gallery of that view.
        average_precision: probe → float64 (V, V), mAP. A probe's average precision is the mean, over its
            matches (the gallery sequences of its subject, in that view), of the precision at the match: how
            many of the sequences up to and with it are matches. Probes without a match are left out.
        inverse_negative_penalty: probe → float64 (V, V), mINP: a probe's number of matches divided by the
            rank of the hardest, the last of them. Probes without a match are left out.
            (Ye et al., TPAMI 2021)
        gallery_sequences: int64 (V,), number of gallery sequences of each view.
        probe_sequences: probe → int64 (V,), number of probe sequences of each view.
        joint_gallery: the gallery is all views at once: the axis of the gallery views has one entry instead
            of V.
        cross_view_gallery: the result of the second protocol, where the metric has one; its `joint_gallery`
            is True.

    Cells without a single probe or gallery sequence to count are NaN; the means leave them out.
    """

    def __init__(
        self,
        table: ProbeTable,
        views: Sequence[str],
        probes: Mapping[str, Sequence[int]],
        max_rank: int,
        gallery_sequences: Tensor,
        probe_sequences: Mapping[str, Tensor],
        joint_gallery: bool = False,
    ) -> None:
        self.table, self.views = table, tuple(views)
        self.probes = {name: tuple(conditions) for name, conditions in probes.items()}
        self.gallery_sequences, self.probe_sequences = gallery_sequences, dict(probe_sequences)
        self.joint_gallery, self.max_rank = joint_gallery, max_rank
        self.cross_view_gallery: CrossViewResult | None = None
        ranks = range(1, max_rank + 1)
        self.accuracy, self.accuracy_matched = (
            {
                name: torch.stack([self._cells(name, "rank", k, matched) for k in ranks], dim=-1)
                for name in self.probes
            }
            for matched in (False, True)
        )
        self.average_precision, self.inverse_negative_penalty = (
            {name: self._cells(name, measure) for name in self.probes} for measure in ("mAP", "mINP")
        )

    def _cells(self, probe: str, measure: str, k: int = 1, matched: bool = False) -> Tensor:
        rows, subjects = compact_subjects(self.table.of(self.probes[probe], self.joint_gallery))
        sums = tally(rows, len(self.views), len(subjects), measure, k, matched, self.joint_gallery)
        return torch.from_numpy(sums.percent())

    def arrays(self) -> dict[str, np.ndarray]:
        """Lay the table out as `probes.npz` holds it."""
        return to_arrays(self.table, len(self.views)) | {"gallery_sequences": self.gallery_sequences.numpy()}

    def per_view(
        self,
        probe: str,
        rank: int = 1,
        matched: bool = False,
        include_identical_view: bool = False,
        measure: str = "rank",
    ) -> Tensor:
        """Give one measure for each probe view, the row of a paper's table: the mean over the gallery views.

        Args:
            probe: a name of the protocol's probes, such as "NM".
            rank: 1 … R; a probe counts as recognised when its subject is among the `rank` nearest of the
                gallery view.
            matched: count only probes whose subject is in that gallery view, instead of all of them.
            include_identical_view: also average over the gallery view that equals the probe view. Papers
                leave it out.
            measure: "rank" for accuracy at `rank`; "mAP" and "mINP" know neither rank nor `matched`.

        Returns:
            float64 (V,), percent; NaN for a view with nothing to average.

        Raises:
            ValueError: an unknown probe or measure, a rank that was not computed, or identical views of a
                joint gallery, which has left them out.
        """
        if probe not in self.accuracy:
            raise ValueError(f"unknown probe {probe!r}; the protocol's probes are {', '.join(self.accuracy)}")
        if measure not in MEASURES:
            raise ValueError(f"unknown measure {measure!r}; there are {', '.join(MEASURES)}")
        if measure == "rank":
            cells = (self.accuracy_matched if matched else self.accuracy)[probe]
            if not 1 <= rank <= cells.shape[-1]:
                raise ValueError(
                    f"rank is {rank}; ranks 1 to {cells.shape[-1]} were computed, raise max_rank for more"
                )
            cells = cells[:, :, rank - 1]  # (V probe, V gallery)
        else:
            cells = (self.average_precision if measure == "mAP" else self.inverse_negative_penalty)[probe]
        if self.joint_gallery and include_identical_view:
            raise ValueError(
                "a cross-view gallery leaves identical views out: include_identical_view must be False"
            )
        leave_out = not (include_identical_view or self.joint_gallery)
        return torch.from_numpy(mean_over_galleries(cells.numpy(), leave_out))

    def mean(
        self,
        probe: str,
        rank: int = 1,
        matched: bool = False,
        include_identical_view: bool = False,
        measure: str = "rank",
    ) -> float:
        """Average `per_view`, with its arguments, over the probe views: the percentage that papers compare.

        Raises:
            ValueError: as in `per_view`, and when there is nothing to average; the message says why.
        """
        mean = float(nanmean(self.per_view(probe, rank, matched, include_identical_view, measure).numpy()))
        if mean == mean:
            return mean
        if not self.probe_sequences[probe].any():
            reason = "no probe sequence was seen; check that the test set holds its conditions"
        elif not self.gallery_sequences.any():
            reason = "no gallery sequence was seen; check that the test set holds the gallery's conditions"
        elif (
            not self.joint_gallery
            and not include_identical_view
            and self.accuracy[probe].diagonal().isfinite().any()
        ):
            reason = (
                "probes and gallery share a view and have no other; "
                "pass include_identical_view=True to compare sequences of the same view"
            )
        else:
            reason = "no probe's subject is in the gallery of the views compared"
            if measure == "rank":
                reason += "; pass matched=False to count them as misses"
        raise ValueError(f"{measure} of {probe}: nothing to average: {reason}")

    def rows(
        self,
        rank: int = 1,
        matched: bool = False,
        include_identical_view: bool = False,
        measure: str = "rank",
    ) -> dict[str, Row]:
        """Return each probe's row of a paper's table: percent of each probe view, and their mean.

        The arguments are those of `per_view`. Where there is one view only, identical views are compared in
        any case. A cross-view gallery with several probes has one more row, `mean`, of the means over the
        probes. None stands where nothing could be counted.
        """
        include = include_identical_view or self.has_one_view
        cells = {
            probe: self.per_view(probe, rank, matched, include, measure).numpy() for probe in self.probes
        }
        means = {probe: nanmean(values) for probe, values in cells.items()}
        if self.joint_gallery and len(cells) > 1:
            cells["mean"] = nanmean(np.stack(list(cells.values()), axis=1))
            means["mean"] = nanmean(np.stack(list(means.values())))
        return {
            probe: {
                "mean": _plain(means[probe]),
                "per_view": dict(zip(self.views, map(_plain, values), strict=True)),
            }
            for probe, values in cells.items()
        }

    def measures(self) -> dict[str, Any]:
        """Return every mean in plain containers for `results.json`, percent or None.

        Returns:
            "identical_views_excluded", "identical_views_included" and, where it was computed,
            "cross_view_gallery" → probe → "every_probe" and "matched", each a list over the ranks, "mAP" and
            "mINP".
        """
        means = {} if self.has_one_view else {"identical_views_excluded": self._means(False)}
        means["identical_views_included"] = self._means(True)
        if self.cross_view_gallery:
            means["cross_view_gallery"] = self.cross_view_gallery._means(False)
        return means

    def _means(self, identical: bool) -> dict[str, Any]:
        ranks = range(1, self.max_rank + 1)
        every, matched = ([self.rows(k, flag, identical) for k in ranks] for flag in (False, True))
        precision, penalty = (self.rows(1, False, identical, measure) for measure in ("mAP", "mINP"))
        return {
            probe: {
                "every_probe": [rows[probe]["mean"] for rows in every],
                "matched": [rows[probe]["mean"] for rows in matched],
                "mAP": precision[probe]["mean"],
                "mINP": penalty[probe]["mean"],
            }
            for probe in precision
        }

    @property
    def has_one_view(self) -> bool:
        """Say whether there are identical views only."""
        return len(self.views) == 1 and not self.joint_gallery


def _plain(value: np.floating[Any] | np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None
