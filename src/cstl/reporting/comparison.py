"""What a comparison of runs says: which belong together, rows of equal settings, differences with intervals,
notes.

Runs that differ in nothing but the seed are one row: mean ± standard deviation, best first, the difference to
a baseline with an interval from resampling the test subjects, and of the settings only those that differ. Of
two runs that are named each is a row, and the first is the baseline.
"""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from cstl.config import CONFIG_PATH, decisive
from cstl.files import shown
from cstl.metrics.probes import resampled
from cstl.reporting.entry import FEW_SUBJECTS, UNKNOWN, Identity, ShownRun
from cstl.reporting.remarks import remarks_of
from cstl.run_folder import PROBES, find_runs

RULE = "rank-1 (%), every probe counted, identical views excluded"
# seeds vary within a row, the height is the resolution's
IGNORED_WHEN_GROUPING = ("seed", "model.network.height")


@dataclass(frozen=True)
class Row:
    """Runs of the same settings, or a single run that has no result.

    Attributes:
        means: probe → rank-1 of each run, percent; "mean" → their mean over the table's probes.
        difference: probe and "mean" → points more than the baseline; empty: not compared.
        interval: the same → the lowest and highest that resampling gives; empty: not known.
    """

    runs: tuple[ShownRun, ...]
    means: dict[str, list[float]] = field(default_factory=dict)
    difference: dict[str, float] = field(default_factory=dict)
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of its runs."""
        return self.runs[0].settings

    @property
    def finished(self) -> bool:
        return self.runs[0].is_finished


@dataclass(frozen=True)
class Table:
    """Runs on the same test subjects, best first, those without a result at the end.

    Attributes:
        probes: those that every finished run has results of.
        settings: keys of the settings that differ.
        same: key → value of those that do not.
        baseline: which row; None: none.
        notes: what a reader must know, a sentence or two each.
        published: name → percent of each probe and their mean, of the published rows that stand beside every
            finished run.
    """

    title: str
    rows: list[Row]
    probes: list[str]
    settings: list[str]
    same: dict[str, Any]
    baseline: int | None
    notes: list[str]
    published: dict[str, list[float | None]] = field(default_factory=dict)


def compare(
    folders: Sequence[Path], baseline: Sequence[str] = (), resamples: int = 2000, seed: int = 0
) -> tuple[list[Table], list[str]]:
    """Return tables of the runs in some folders, one for each set of test subjects, and what else is to be
    said.

    Args:
        folders: runs, sweeps, or folders that hold some.
        baseline: what is compared with: a run's folder, or settings such as `model.triplet.margin=0.2`.
            Nothing: of two runs the first; else the first row with the paper's model, or the first.
        resamples: how often the test subjects are drawn again, with replacement.
        seed: of the drawing.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no run in them, or a baseline that none or several of the rows are.
    """
    if resamples < 1:
        raise ValueError(f"--resamples: expected 1 or more, found {resamples}")
    chosen = [Path(part) for part in baseline if Path(part).is_dir()]
    if chosen and len(baseline) > 1:
        raise ValueError("--baseline: give one run folder, or settings, not both")
    paths, remarks = [], []
    for folder in (*folders, *chosen):
        if not folder.exists():
            raise FileNotFoundError(
                f"{folder} does not exist (from {Path.cwd()}); expected a run or a sweep; "
                "`python -m cstl.runs` lists them"
            )
        paths += (here := find_runs(folder))
        if not here:
            remarks.append(f"{folder} is left out: no run is in it")
    runs = [ShownRun(path) for path in dict.fromkeys(path.resolve() for path in paths)]
    if not runs:
        raise ValueError(
            f"no run in {', '.join(map(str, folders))}; expected folders that `python -m cstl.train` made"
        )
    pair = len(runs) == len(folders) == 2
    if pair and not baseline:
        chosen = [runs[0].folder]

    parts = _apart(runs)
    tables = [_table(part, pair, len(parts) > 1, baseline, chosen, resamples, seed) for part in parts]
    if baseline and all(table.baseline is None for table in tables):
        differing = dict.fromkeys(key for table in tables for key in table.settings)
        raise ValueError(
            f"--baseline {' '.join(baseline)}: no finished run is that; the settings that differ are "
            f"{', '.join(differing) or 'none'}"
        )
    if len(parts) > 1:
        identities = [part[0].identity for part in parts if part[0].identity]
        kinds = zip(("data sets", "resolutions", "test subjects", "protocols"), *identities, strict=True)
        differ = [kind for kind, *values in kinds if len(set(values)) > 1]
        remarks.insert(
            0,
            f"{len(parts)} tables, since {listed(differ or ['runs'])} differ: a difference across them "
            "would mean nothing",
        )
    return tables, remarks


def _apart(runs: Iterable[ShownRun]) -> list[list[ShownRun]]:
    """Return the runs that can be compared with each other; those without a result where they belong."""
    parts: dict[Identity | None, list[ShownRun]] = {}
    for run in runs:
        if run.is_finished:
            parts.setdefault(run.identity, []).append(run)
    only = next(iter(parts)) if len(parts) == 1 else None  # where one goes of which too little is known
    for run in runs:
        if not run.is_finished:
            parts.setdefault(run.identity or only, []).append(run)
    return list(parts.values())


def _table(
    runs: list[ShownRun],
    pair: bool,
    several: bool,
    asked: Sequence[str],
    folders: Sequence[Path],
    resamples: int,
    seed: int,
) -> Table:
    finished = [run for run in runs if run.is_finished]
    all_probes = list(dict.fromkeys(probe for run in finished for probe in run.means))
    probes = [probe for probe in all_probes if all(probe in run.means for run in finished)]
    grouped: dict[str, list[ShownRun]] = {}
    for run in finished:
        distinct = {key: value for key, value in run.settings.items() if not _is_ignored(key)}
        key = str(run.folder) if pair or not run.config else json.dumps(distinct, sort_keys=True, default=str)
        grouped.setdefault(key, []).append(run)
    rows = []
    for group in grouped.values():
        means = {probe: [run.means[probe] for run in group] for probe in probes}
        if probes:
            means["mean"] = [fmean(run.means[probe] for probe in probes) for run in group]
        rows.append(Row(tuple(group), means))
    settings, same, with_network = _differing(runs, pair)

    number = _baseline(rows, settings, asked, folders)
    if number is not None and probes:
        rows = _with_differences(rows, number, probes, resamples, seed)
    order = sorted(range(len(rows)), key=lambda i: 0.0 if pair else -fmean(rows[i].means.get("mean", [0.0])))
    place = order.index(number) if number is not None else None
    rows = [rows[i] for i in order]
    notes = _notes(rows, settings, probes, all_probes, place, resamples)
    if with_network:
        notes.append(f"other with each network, beside itself: {listed(with_network)}")
    if place is None and finished and asked and several:
        notes.append(f"no differences: --baseline {' '.join(asked)} is in another table")
    rows += [Row((run,)) for run in runs if not run.is_finished]
    return Table(_title(runs), rows, probes, settings, same, place, notes, _published(finished, probes))


def _published(runs: Sequence[ShownRun], probes: Sequence[str]) -> dict[str, list[float | None]]:
    found = {}
    for name, row in runs[0].published.items() if runs else ():
        if all(name in run.published for run in runs):
            means = [row.get(probe) for probe in probes]
            known = [mean for mean in means if mean is not None]
            found[name] = [*means, fmean(known) if len(known) == len(probes) > 0 else None]
    return found


def _notes(
    rows: list[Row],
    settings: list[str],
    probes: list[str],
    all_probes: list[str],
    place: int | None,
    resamples: int,
) -> list[str]:
    finished, notes = [run for row in rows for run in row.runs], []
    if probes:
        several = any(len(row.runs) > 1 for row in rows)
        notes.append(
            f"mean: over {listed(probes)}"
            + (". ±: standard deviation over the runs of a row, which differ in the seed" if several else "")
        )
    if gone := [probe for probe in all_probes if probe not in probes]:
        without = [run.title for run in finished if any(probe not in run.means for probe in gone)]
        notes.append(f"{listed(gone)} left out: no such probes in {listed(without)}")
    if place is not None and len(rows) > 1:
        label, base = label_of(rows[place], settings), rows[place].runs[0].title
        which = base if len(finished) == len(rows) == 2 else f"#{place + 1}{f' ({label})' if label else ''}"
        text = f"difference: points more than {which}"
        if any(row.interval for row in rows):
            tested = len(next(run.probes.subjects for run in finished if run.tallies and run.probes))
            text += (
                f"; in brackets 95 % of {resamples} resamples of the {tested} test subjects, the same for "
                "both rows, with seeds and gallery as they are"
            )
            if tested < FEW_SUBJECTS:
                text += f". {tested} subjects are few: the interval is narrower than it should be"
        notes.append(text)
    seeds = [[run.config.get("seed") for run in row.runs if run.config] for row in rows]
    if twice := [f"#{i}" for i, some in enumerate(seeds, 1) if len(set(some)) < len(some)]:
        notes.append(f"{listed(twice)}: several runs with the same seed, so ± says less")
    if finished and all(run.held_out is not None for run in finished):
        best = max(range(len(rows)), key=lambda i: fmean(run.held_out or 0.0 for run in rows[i].runs))
        notes.append(
            f"held-out: rank-1 on held-out training subjects, highest for #{best + 1}. Choose settings by "
            "it; the test subjects are for the report"
        )
    notes += [f"{run.title}: {remark}" for run in finished for remark in remarks_of(run.results)]
    notes += [
        f"{run.title}: without an interval: {PROBES} is {run.without_intervals}"
        for run in finished
        if not run.tallies
    ]
    return notes


def _differing(runs: Sequence[ShownRun], pair: bool) -> tuple[list[str], dict[str, Any], list[str]]:
    """Return the keys of the settings that differ, and the settings that do not; of two runs the seed is one
    of them.

    What the names of the networks tell already is in neither. Of more than two runs the third list has what
    goes with the network, the same in all runs of one.
    """
    known = [run for run in runs if run.known]
    methods = {run.method for run in known if run.results or "network" in run.known.get("model", {})}
    classes, same = {_class(run) for run in known}, dict[str, Any]()
    differing, with_network = (["method"] if len(methods) > 1 else []), list[str]()
    for key in dict.fromkeys(key for run in known for key in run.settings):
        if key == "method" or (_is_ignored(key) and not (pair and key == "seed")):
            continue
        values = {run: json.dumps(run.settings.get(key), default=str) for run in known}
        if len({value for run, value in values.items() if key in run.settings or run.config}) < 2:
            same[key] = next(run.settings[key] for run in known if key in run.settings)
        elif len({(run.method, values[run]) for run in known}) > len(methods):
            differing.append(key)
        elif not key.startswith("model.network."):
            of_class = len(classes) > 1 and len({(_class(run), values[run]) for run in known}) == len(classes)
            (with_network if of_class and not pair else differing).append(key)
    return differing, same, with_network


def _class(run: ShownRun) -> str:
    return str(run.known.get("model", {}).get("network", {}).get("_target_"))


def _baseline(
    rows: Sequence[Row], settings: Iterable[str], asked: Sequence[str], folders: Sequence[Path]
) -> int | None:
    """Return which row the others are compared with."""
    if not rows:
        return None
    if folders:
        home = folders[0].resolve()
        matching = [
            i for i, row in enumerate(rows) if any(home in (r.folder, r.folder.parent) for r in row.runs)
        ]
    else:
        expected = _typed_settings(asked) if asked else {k: v for k, v in _paper().items() if k in settings}
        matching = [
            i
            for i, row in enumerate(rows)
            if all(row.settings.get(k, UNKNOWN) == v for k, v in expected.items())
        ]
        if not asked:
            return matching[0] if matching else 0
    if len(matching) > 1:
        labels = "; ".join(label_of(rows[i], settings) for i in matching)
        raise ValueError(f"--baseline {' '.join(asked)}: {len(matching)} rows are that, name one: {labels}")
    return matching[0] if matching else None


def _typed_settings(asked: Sequence[str]) -> dict[str, Any]:
    parts = [part for text in asked for part in shlex.split(text)]
    if wrong := [part for part in parts if "=" not in part]:
        raise ValueError(
            f"--baseline {wrong[0]}: expected a run's folder that is there, or settings such as "
            "'data.frames=30'"
        )
    return decisive(OmegaConf.to_container(OmegaConf.from_dotlist(parts), resolve=True))  # type: ignore[arg-type]


def _paper() -> dict[str, Any]:
    """Return the paper's settings of the model, as far as they depend on no data set."""
    files = (Path(CONFIG_PATH) / "model" / name for name in ("base.yaml", "cstl.yaml"))
    model = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.load, files)), resolve=False)
    settings = decisive({"model": model})
    return {key: value for key, value in settings.items() if "$" not in str(value) and "defaults" not in key}


def _with_differences(
    rows: Sequence[Row], number: int, probes: Sequence[str], resamples: int, seed: int
) -> list[Row]:
    """Return the rows with their differences to one; with intervals where all runs say who was recognised."""

    def drawn(row: Row) -> dict[str, np.ndarray] | None:
        """Draw the same test subjects for every row, since the seed is."""
        some = [run.tallies for run in row.runs]
        if not all(some):
            return None
        several = len(next(iter(some[0].values())).score[0]) > 1
        scores = [resampled(tallies, several, resamples, seed) for tallies in some]
        means = {probe: np.mean([score[probe] for score in scores], 0) for probe in probes}
        return means | {"mean": np.mean(list(means.values()), 0)}

    base, theirs, compared = rows[number], drawn(rows[number]), []
    for row in rows:
        if row is base:
            compared.append(row)
            continue
        difference = {name: fmean(row.means[name]) - fmean(base.means[name]) for name in row.means}
        interval = {}
        if theirs and (ours := drawn(row)):
            ends = {name: np.nanpercentile(ours[name] - theirs[name], (2.5, 97.5)) for name in difference}
            interval = {name: (float(low), float(high)) for name, (low, high) in ends.items()}
        compared.append(Row(row.runs, row.means, difference, interval))
    return compared


def _is_ignored(key: str) -> bool:
    return any(key == other or key.startswith(other + ".") for other in IGNORED_WHEN_GROUPING)


def _title(runs: Sequence[ShownRun]) -> str:
    run = next((run for run in runs if run.results), runs[0])
    name = run.known.get("dataset", {}).get("title") or run.results.get("dataset", "unknown data set")
    name = shown(name)
    if not run.results:
        return f"{name}: no finished run"
    height, width = run.results["resolution"]
    tested = run.identity[2] if run.identity else ()
    methods = {run.method for run in runs if run.results}
    method = f"; {methods.pop()}" if len(methods) == 1 else ""
    span = f" ({tested[0]} to {tested[-1]})" if tested else ""
    return f"{name} {height}×{width}, {run.results['test_subjects']} test subjects{span}: {RULE}{method}"


def label_of(row: Row, settings: Iterable[str]) -> str:
    """Return the settings that differ as they are typed: model.triplet.margin=0.2 …."""
    return " ".join(f"{key}={typed_value(row.settings.get(key))}" for key in settings if key in row.settings)


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence has them: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def typed_value(value: Any) -> str:
    """Return a setting as the command line takes it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(typed_value, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value) if value is None or isinstance(value, bool) else shown(value)
