"""A run in a comparison: its settings, who was recognised, and what it must share with others
to be compared.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cstl.config import Plain, decisive
from cstl.data.alignment import WIDTHS
from cstl.data.protocol import Protocol, protocol_of
from cstl.files import shown
from cstl.metrics.probes import Tally, from_arrays, mean_over_galleries, nanmean, tally
from cstl.reporting.published import method_of_files
from cstl.run_folder import PROBES, Run

UNKNOWN = "?"
MOST_CELLS = 5 * 10**7  # subjects × views × views × probes, each two numbers in memory

# what two runs must share to be compared: data set, resolution, protocol, test subjects
Identity = tuple[Any, ...]


class Outcome(NamedTuple):
    """Which probes of each test subject were recognised: sums of `cstl.metrics.probes` for each probe set."""

    subjects: list[str]
    views: list[str]
    tallies: dict[str, Tally]

    def per_view(self, probe: str, weights: np.ndarray | None = None) -> np.ndarray:
        """Average over the gallery views, identical ones left out where there are others: (…, V), percent."""
        return mean_over_galleries(self.tallies[probe].percent(weights), len(self.views) > 1)

    def rank1(self, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Compute rank-1 of each probe set, float64 (R,), percent, when subject s counts
        `weights[r, s]` times.
        """
        return {probe: nanmean(self.per_view(probe, weights)) for probe in self.tallies}


class Entry(Run):
    """A run in a comparison."""

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
    def outcome(self) -> Outcome | None:
        """Return who was recognised; None where that is not known, and `problems` says why."""
        if not self.results:
            return None
        if (found := self.probes) is None or (protocol := self.protocol) is None:
            older = "not there (from an older version; evaluate the checkpoint again)"
            self.problems.setdefault(
                PROBES, older if found is None else "of no use without a protocol in config.yaml"
            )
            return None
        size = (len(found.subjects), len(found.views), len(found.views))
        if size[1] > 128 or np.prod(size, dtype=float) * len(protocol.probes) > MOST_CELLS:
            self.problems[PROBES] = (
                f"of {size[0]:,} subjects in {size[1]:,} views, more than can be resampled"
            )
            return None
        tallies = {}
        for probe, members in protocol.probes.items():
            chosen = np.isin(
                found.condition, [i for i, name in enumerate(found.conditions) if name in members]
            )
            arrays = {key: getattr(found, key)[chosen] for key in found._fields[:9]}
            tallies[probe] = tally(from_arrays(arrays, found.gallery_sequences > 0), size[1], size[0])
        outcome = Outcome(found.subjects, found.views, tallies)
        for probe, rank1 in outcome.rank1().items():
            mean = self.means.get(probe, np.nan)
            if not np.isclose(rank1, mean, atol=1e-6, equal_nan=True):
                self.problems[PROBES] = (
                    f"of another result than results.json: {rank1:.2f} % on {probe}, there {mean:.2f}"
                )
                return None
        return outcome

    @cached_property
    def identity(self) -> Identity | None:
        """Return what it must share with a run that it is compared with; None: not known."""
        protocol = self.protocol
        tested = tuple(self.outcome.subjects) if self.outcome else protocol.test_subjects if protocol else ()
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
    def title(self) -> str:
        """Return the folder, as short as it stays clear: from the current one, else its last two parts."""
        here, folder = Path.cwd().resolve(), self.folder.resolve()
        return shown(folder.relative_to(here) if folder.is_relative_to(here) else Path(*folder.parts[-2:]))
