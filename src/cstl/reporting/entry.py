"""A run as it is shown: its settings, who was recognised, what it must share to be compared."""

import csv
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cstl.checkpoint import Weights
from cstl.config import Plain, decisive
from cstl.data.alignment import WIDTHS, frame_size
from cstl.data.protocol import Protocol, protocol_of
from cstl.data.store import Store
from cstl.files import read_text, shown
from cstl.metrics.probes import ProbeTable, Tally, from_arrays, mean_over_galleries, nanmean, tally
from cstl.reporting.published import method_of_files
from cstl.reporting.tables import Row, Table
from cstl.run_folder import LIMITS, PROBES, Run

UNKNOWN = "?"
FEW_SUBJECTS = 20  # fewer than these, and an interval from resampling them is too narrow
MOST_CELLS = 5 * 10**7  # subjects × views × views × probes, each two numbers in memory

# what two runs must share to be compared: data set, resolution, protocol, test subjects
Identity = tuple[Any, ...]


def per_view(sums: Tally, weights: np.ndarray | None = None) -> np.ndarray:
    """Average over the gallery views, identical ones left out where there are others: (…, V), percent."""
    return mean_over_galleries(sums.percent(weights), sums.score.shape[1] > 1)


def rank1(tallies: Mapping[str, Tally], weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Compute rank-1 of each probe set, float64 (R,), percent; subject s counts `weights[r, s]` times."""
    return {probe: nanmean(per_view(sums, weights)) for probe, sums in tallies.items()}


class ShownRun(Run):
    """A run as a page and a comparison show it.

    Attributes:
        notes: sentences on what is not there, and why.
        weights: of the checkpoint that was reported, or of the last one.
        checkpoint: where that is.
        store: what it was tested on.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.notes: list[str] = []
        self.weights: Weights | None = None
        self.checkpoint: Path | None = None
        self.store: Store | None = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Return dotted key → value of what may tell the run from others."""
        settings = {key: value for key, value in decisive(self.known).items() if not key.endswith("_target_")}
        if self.known.get("callbacks", {}).get("checkpoints", {}).get("best"):
            settings["callbacks.checkpoints.best"] = True
        if self.results and self.results["trained_on"] != self.results["dataset"]:
            settings["trained_on"] = self.results["trained_on"]
        # null is as good as absent
        return {"method": self.method} | {
            shown(key): v for key, v in settings.items() if v not in ("???", None)
        }

    @cached_property
    def known(self) -> Plain:
        """Return its configuration, or what Hydra noted of it before it began."""
        return self.config or self.composed

    @cached_property
    def method(self) -> str:
        return method_of_files(self.results, self.known)

    @cached_property
    def means(self) -> dict[str, float]:
        """Return probe → rank-1, percent, of the probes that have any sequence."""
        rows = self.results.get("rank1", {})
        return {probe: row["mean"] for probe, row in rows.items() if row["mean"] is not None}

    @cached_property
    def protocol(self) -> Protocol | None:
        """Return what was tested; None where it is not known, or names a file to read."""
        dataset = self.known.get("dataset", {})
        try:
            return None if dataset.get("split_file") is not None else protocol_of({"protocol": {}} | dataset)
        except ValueError:
            return None

    @cached_property
    def table(self) -> Table | None:
        """Return the paper's table, as the run printed it."""
        return self._read("table.csv", read_table, None)

    @cached_property
    def probe_table(self) -> ProbeTable:
        """Return the table of probes: a row for each probe and gallery view."""
        assert self.probes is not None
        return from_arrays(self.probes._asdict(), self.probes.gallery_sequences > 0)

    def of_set(self, probe: str) -> ProbeTable:
        """Return the rows of a set of probes."""
        assert self.probes is not None
        members = self.probe_sets[probe]
        return self.probe_table.of([i for i, name in enumerate(self.probes.conditions) if name in members])

    @cached_property
    def tallies(self) -> dict[str, Tally]:
        """Return which probes of each test subject were recognised: sums for each set; {}: not known.

        Then there are no intervals, and `without_intervals` says why.
        """
        if (p := self.probes) is None or (self.results and not self.probe_sets):
            return {}
        if len(p.subjects) * len(p.views) ** 2 * len(self.probe_sets) > MOST_CELLS:
            return {}
        found = {probe: tally(self.of_set(probe), len(p.views), len(p.subjects)) for probe in self.probe_sets}
        for probe, mean in rank1(found).items() if self.results else ():
            told = self.means.get(probe, np.nan)  # another file, perhaps of another result
            if not np.isclose(mean, told, atol=1e-6, equal_nan=True):
                self.problems[PROBES] = (
                    f"of another result than results.json: {mean:.2f} % on {probe}, there {told:.2f}"
                )
                return {}
        return found

    @property
    def without_intervals(self) -> str:
        """Say why there are no intervals, after "probes.npz is"."""
        if self.probes is None:
            return self.problems.get(
                PROBES, "not there (from an older version; evaluate the checkpoint again)"
            )
        size = f"of {len(self.probes.subjects):,} subjects in {len(self.probes.views)} views"
        return self.problems.get(PROBES, f"{size}, more than can be resampled")

    @cached_property
    def identity(self) -> Identity | None:
        """Return what it must share with a run that it is compared with; None: not known."""
        protocol = self.protocol
        tested = (
            tuple(self.probes.subjects)
            if self.tallies and self.probes
            else protocol.test_subjects
            if protocol
            else ()
        )
        rules = (protocol.views, protocol.gallery, tuple(protocol.probes.items())) if protocol else ()
        if self.results:
            return self.results["dataset"], tuple(self.results["resolution"]), tested, rules
        res = self.known.get("res")
        if protocol is None or res not in WIDTHS:
            return None
        return self.known["dataset"]["name"], (res, WIDTHS[res]), tested, rules

    @property
    def message(self) -> str:
        """Say what a reader must know of a run without results."""
        if self.state == "failed":
            return self.error or "no message"
        if self.state == "damaged":
            name, reason = next(iter(self.problems.items()))
            return f"{name} is damaged or from elsewhere: {reason}"
        if self.state == "finished":
            return "trained and not evaluated, as evaluate=false asked"
        return f"at step {self.last_step} of {self.steps[1] or UNKNOWN}"

    @property
    def benchmark(self) -> str:
        """Name the data set for the reader, with the size of the silhouettes: CASIA-B 128×88."""
        title = self.config.get("dataset", {}).get("title") or self.dataset or "unknown data set"
        res = self.config.get("res")  # another than ours may stand in a file
        size = self.results.get("resolution") or (frame_size(res) if res in WIDTHS else None)
        return f"{title} {size[0]}×{size[1]}" if size else title

    @property
    def title(self) -> str:
        """Return the folder, as short as it stays clear: from the current one, else its last two parts."""
        here, folder = Path.cwd().resolve(), self.folder.resolve()
        return shown(folder.relative_to(here) if folder.is_relative_to(here) else Path(*folder.parts[-2:]))


def read_table(path: Path) -> Table:
    """Read a `table.csv`; ValueError where it is none."""
    title, *lines = read_text(path, 2**20).splitlines()
    header, *lines_of_cells = csv.reader(lines)
    rows = []
    for probe, method, *cells in lines_of_cells:
        *values, mean = (float(cell) if cell else None for cell in cells)
        numbers = [value for value in (*values, mean) if value is not None]
        if len(cells) != len(header) - 2 or not all(abs(value) <= 100 for value in numbers):
            raise ValueError(f"the row of {shown(probe, 40)} is no row of percentages")
        rows.append(Row(shown(probe, 60), shown(method, 60), tuple(values), mean))
    if not 3 < len(header) <= LIMITS["views"] or len(rows) > LIMITS["views"]:
        raise ValueError(f"{len(header)} columns and {len(rows)} rows are no table of views")
    return Table(
        shown(title.removeprefix("# ")), tuple(shown(view, 60) for view in header[2:-1]), tuple(rows)
    )
