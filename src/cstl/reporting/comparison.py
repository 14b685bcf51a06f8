"""What a comparison of runs says: which belong together, rows of equal settings, differences with intervals, notes.

Runs that differ in nothing but the seed are one row: mean ± standard deviation, best first, the difference to a
baseline with an interval from resampling the test subjects, and of the settings only those that differ.
"""

import json
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from cstl.config import CONFIG_PATH, Plain, checked, decisive, followed
from cstl.data.alignment import WIDTHS
from cstl.data.protocol import Protocol, as_protocol
from cstl.files import check_inside, read_rows, read_yaml, shown
from cstl.reporting.folder import read_probes, read_results, shown_settings
from cstl.reporting.published import method_of_files
from cstl.reporting.remarks import remarks_of
from cstl.running.sweep import ERROR, held_out_score, last_words

MISSING, UNKNOWN = "–", "?"
MOST_CELLS = 10**8  # subjects × views × views × probes, each a number in memory
RULE = "rank-1 (%), every probe counted, identical views excluded"
FEW_SUBJECTS = 20  # fewer than these, and an interval from resampling them is too narrow
# Settings by which no row is told from another: the seed makes the runs of a row, the others change no result or
# follow from another setting.
_NO_SETTING = (
    *("seed", "data.seed", "baseline", "evaluate_every", "dataset.recipe.evaluate_every"),
    *("dataset.recipe.checkpoint_every", "dataset.title", "trainer.log_every_n_steps"),
    *("data.protocol", "data.steps", "model.network.num_classes"),
)

Identity = tuple[Any, ...]  # what two runs must share to be compared: data set, resolution, protocol, test subjects


@dataclass(frozen=True)
class Outcome:
    """Which probes of each test subject were recognised: S subjects, V views.

    Attributes:
        subjects: the S names.
        hits: probe → float64 (S, V probe views, V gallery views), sequences recognised at rank 1.
        seen: probe → float64 (S, V), probe sequences.
        gallery: bool (V,), the views that have gallery sequences.
    """

    subjects: tuple[str, ...]
    hits: dict[str, np.ndarray]
    seen: dict[str, np.ndarray]
    gallery: np.ndarray

    def rank1(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Rank-1 of each probe set when subject s counts `weights[r, s]` times: (R, S) → float64 (R,), percent.

        Every probe counts, identical views are excluded where there are others; the mean over the gallery views, then
        over the probe views. The gallery stays whole.
        """
        scores, views = {}, len(self.gallery)
        compared = self.gallery & (~np.eye(views, dtype=bool) if views > 1 else np.ones((1, 1), bool))
        for probe, hits in self.hits.items():
            recognised = (weights @ hits.reshape(len(hits), -1)).reshape(-1, views, views)  # (R, V, V)
            sought = (weights @ self.seen[probe])[:, :, None]  # (R, V, 1)
            cells = np.where(compared & (sought > 0), 100 * recognised / np.maximum(sought, 1), np.nan)
            scores[probe] = _mean(_mean(cells))
        return scores


@dataclass(frozen=True)
class Run:
    """One run's folder, as far as it got.

    Attributes:
        config: the resolved configuration, {} where it is not known.
        whole: the configuration is that of `config.yaml`; else what Hydra noted before the run began.
        results: of `results.json`; None: not finished.
        state: finished, failed or unfinished.
        message: the error of a failed run, where an unfinished one is.
        outcome: None where `probes.npz` is not there or does not fit.
        held_out: mean rank-1 on held-out training subjects, where there are any.
    """

    folder: Path
    config: Plain
    whole: bool
    results: Plain | None
    state: str
    message: str = ""
    outcome: Outcome | None = None
    held_out: float | None = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Dotted key → value of what may tell the run from others."""
        every = decisive(self.config)
        settings = {key: value for key, value in every.items() if not _is_no_setting(key)}
        if self.config.get("callbacks", {}).get("checkpoints", {}).get("best"):
            settings["callbacks.checkpoints.best"] = True
            settings["evaluate_every"] = every.get("evaluate_every")  # decides which checkpoints there are to choose
        if self.results and self.results["trained_on"] != self.results["dataset"]:
            settings["trained_on"] = self.results["trained_on"]
        return {
            shown(key): value for key, value in settings.items() if value not in ("???", None)
        }  # null is as good as absent

    @cached_property
    def method(self) -> str:
        """What its network is called."""
        return method_of_files(self.results, self.config)

    @cached_property
    def means(self) -> dict[str, float]:
        """Probe → rank-1, percent, of the probes that have any sequence."""
        rows = self.results["rank1"] if self.results else {}
        return {probe: row["mean"] for probe, row in rows.items() if row["mean"] is not None}

    @cached_property
    def identity(self) -> Identity | None:
        """What it must share with a run that it is compared with; None: not known."""
        try:
            protocol = _protocol(self.config) if self.config else None
        except ValueError:
            protocol = None
        tested = self.outcome.subjects if self.outcome else protocol.test_subjects if protocol else ()
        rules = (protocol.views, protocol.gallery, tuple(protocol.probes.items())) if protocol else ()
        if self.results:
            return self.results["dataset"], tuple(self.results["resolution"]), tested, rules
        res = self.config.get("res")
        if protocol is None or res not in WIDTHS:
            return None
        return self.config["dataset"]["name"], (res, WIDTHS[res]), tested, rules


@dataclass(frozen=True)
class Row:
    """Runs of the same settings, or a single run that has no result.

    Attributes:
        means: probe → rank-1 of each run, percent; "mean" → their mean over the table's probes.
        difference: probe and "mean" → points more than the baseline; empty: not compared.
        interval: the same → the lowest and highest that resampling gives; empty: not known.
    """

    runs: tuple[Run, ...]
    means: dict[str, list[float]] = field(default_factory=dict)
    difference: dict[str, float] = field(default_factory=dict)
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Those of its runs, and what their network is called."""
        return {"method": self.runs[0].method} | self.runs[0].settings

    @property
    def finished(self) -> bool:
        """Whether it has results."""
        return self.runs[0].state == "finished"


@dataclass(frozen=True)
class Table:
    """Runs on the same test subjects, best first, those without a result at the end.

    Attributes:
        probes: those that every finished run has results of.
        settings: key → the keys that differ in just the same way, of each setting that differs.
        baseline: which row; None: none.
        notes: what a reader must know, a sentence or two each.
    """

    title: str
    rows: list[Row]
    probes: list[str]
    settings: dict[str, list[str]]
    baseline: int | None
    notes: list[str]


def compare(
    folders: Sequence[Path], baseline: Sequence[str] = (), resamples: int = 2000, seed: int = 0
) -> tuple[list[Table], list[str]]:
    """Tables of the runs in some folders, one for each set of test subjects, and what else is to be said.

    Args:
        folders: runs, sweeps, or folders that hold some.
        baseline: what is compared with: a run's folder, or settings such as `model.margin=0.2`. Nothing: the first row
            with the paper's model, else the first.
        resamples: how often the test subjects are drawn again, with replacement.
        seed: of the drawing.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no run in them, or a baseline that none or several of the rows are.
    """
    if resamples < 1:
        raise ValueError(f"--resamples: expected 1 or more, found {resamples}")
    found, remarks = [], []
    chosen = [Path(part) for part in baseline if Path(part).is_dir()]
    if chosen and len(baseline) > 1:
        raise ValueError("--baseline: give one run folder, or settings, not both")
    for folder in (*folders, *chosen):
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist (from {Path.cwd()}); expected a run or a sweep in runs/")
        here = find_runs(folder)
        found += here
        if not here:
            remarks.append(f"{folder} is left out: no run is in it")
    runs = [load_run(path) for path in dict.fromkeys(path.resolve() for path in found)]
    if not runs:
        raise ValueError(f"no run in {', '.join(map(str, folders))}; expected folders that `python -m cstl.train` made")

    parts = _apart(runs)
    tables = [_table(part, len(parts) > 1, baseline, chosen, resamples, seed) for part in parts]
    if baseline and all(table.baseline is None for table in tables):
        differing = dict.fromkeys(key for table in tables for key in table.settings)
        raise ValueError(
            f"--baseline {' '.join(baseline)}: no finished run is that; the settings that differ are "
            f"{', '.join(differing) or 'none'}"
        )
    if len(parts) > 1:
        kinds = zip(("data sets", "resolutions", "test subjects", "protocols"), *_identities(parts), strict=True)
        differ = [kind for kind, *values in kinds if len(set(values)) > 1]
        remarks.insert(
            0,
            f"{len(parts)} tables, since {listed(differ or ['runs'])} differ: a difference across them would mean "
            "nothing",
        )
    return tables, remarks


def find_runs(folder: Path, depth: int = 2) -> list[Path]:
    """The run folders in a folder: itself, or those it holds (a sweep's jobs), in the order of their names."""
    if any((folder / name).exists() for name in ("config.yaml", "results.json", ERROR, ".hydra")):
        return [folder]
    if depth == 0 or not folder.is_dir():
        return []
    children = sorted(folder.iterdir(), key=lambda path: (not path.name.isdecimal(), path.name.zfill(9)))
    return [run for child in children if child.is_dir() for run in find_runs(child, depth - 1)]


def load_run(folder: Path) -> Run:
    """What a run's folder holds, however far it got."""
    config, whole = _read_config(folder / "config.yaml"), True
    if not config:
        config, whole = _read_config(folder / ".hydra" / "config.yaml"), False
    if (folder / "results.json").exists():
        try:
            results = read_results(folder / "results.json")
            wanted = ("dataset", "resolution", "test_subjects", "trained_on", "rank1")
            if missing := [key for key in sorted(wanted) if results.get(key) is None]:
                raise ValueError(f"it has no {', '.join(missing)}")
        except (ValueError, OSError) as error:
            message = f"results.json is damaged or from elsewhere: {shown(error)}"
            return Run(folder, config, whole, None, "failed", message)
        outcome, reason = _read_outcome(folder / "probes.npz", config, results)
        held_out = None
        with suppress(ValueError, OSError):  # a damaged metrics.csv is no reason to fail
            held_out = held_out_score(folder)
        return Run(folder, config, whole, results, "finished", reason, outcome, held_out)
    if (folder / ERROR).is_file():
        return Run(folder, config, whole, None, "failed", last_words(folder))
    steps = config.get("trainer", {}).get("max_steps", UNKNOWN)
    message = f"at step {_last_step(folder)} of {steps}; still being written, or stopped"
    return Run(folder, config, whole, None, "unfinished", message)


def _read_config(path: Path) -> Plain:
    """A configuration in plain containers, {} where there is none; what cannot be resolved outside a run is left."""
    if not path.exists():
        return {}
    try:
        for inside in (path, *([path.parent] if path.parent.name == ".hydra" else [])):
            check_inside(inside)
        config = shown_settings(read_yaml(path))
        if path.parent.name != ".hydra":
            return config
        # As composed: what names the run's folder is known to the run alone.
        config = followed({key: config[key] for key in config if key not in ("name", "logger", "callbacks")})
        return checked(config, resolved=False)
    except (OSError, ValueError):
        return {}


def _protocol(config: Plain) -> Protocol:
    """The protocol of a configuration from a file: ValueError where it is none, or names a file to read."""
    protocol = config.get("dataset", {}).get("protocol", {})
    if protocol.get("split_file") is not None:
        raise ValueError("the protocol names a split file")
    return as_protocol(protocol)


def _read_outcome(path: Path, config: Plain, results: Plain) -> tuple[Outcome | None, str]:
    """Who was recognised, and if that is not known, why."""
    if not path.exists():
        return None, "no probes.npz (from an older version; evaluate the checkpoint again)"
    if not config.get("dataset", {}).get("protocol", {}).get("probes"):
        return None, "no configuration, which says what the probes are"
    try:
        found, protocol = read_probes(path), _protocol(config)
        shape = len(found.subjects), len(found.views), len(found.views)
        if shape[1] > 128 or np.prod(shape, dtype=float) * len(protocol.probes) > MOST_CELLS:
            raise ValueError(f"{shape[0]:,} subjects in {shape[1]:,} views are more than can be resampled")
        hits, seen = {}, {}
        for probe, members in protocol.probes.items():
            numbers = [i for i, name in enumerate(found.conditions) if name in members]
            some = np.isin(found.condition, numbers)  # names of millions of sequences would take gigabytes
            where = found.subject[some], found.view[some]
            hits[probe], seen[probe] = np.zeros(shape), np.zeros(shape[:2])
            np.add.at(hits[probe], where, found.wrong[some] == 0)
            np.add.at(seen[probe], where, 1)
        outcome = Outcome(tuple(found.subjects), hits, seen, found.gallery_sequences > 0)
    except (OSError, ValueError) as error:
        return None, f"probes.npz cannot be read ({shown(error)})"
    for probe, rank1 in outcome.rank1(np.ones((1, shape[0]))).items():
        told = results["rank1"].get(probe, {}).get("mean")
        if not np.isclose(rank1[0], np.nan if told is None else told, atol=1e-6, equal_nan=True):
            return (
                None,
                f"probes.npz gives {rank1[0]:.2f} % on {probe}, results.json {told}: they do not belong together",
            )
    return outcome, ""


def _last_step(folder: Path) -> int:
    """The last iteration that a run's log or checkpoints know of."""
    names = (path.stem.removeprefix("step-") for path in folder.glob("checkpoints/step-*.ckpt"))
    steps = [int(name) for name in names if name.isdecimal() and len(name) < 20]
    with suppress(OSError, ValueError, OverflowError):
        steps += [int(float(row["step"])) for row in read_rows(folder / "metrics.csv") if row.get("step")]
    return max(steps, default=0)


def _identities(parts: Iterable[Sequence[Run]]) -> list[Identity]:
    return [part[0].identity for part in parts if part[0].identity]


def _apart(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs that can be compared with each other; runs without a result come to those they belong to."""
    parts: dict[Identity | None, list[Run]] = {}
    for run in runs:
        if run.state == "finished":
            parts.setdefault(run.identity, []).append(run)
    only = next(iter(parts)) if len(parts) == 1 else None  # where one goes of which too little is known
    for run in runs:
        if run.state != "finished":
            parts.setdefault(run.identity or only, []).append(run)
    return list(parts.values())


def _table(
    runs: list[Run], several: bool, wanted: Sequence[str], folders: Sequence[Path], resamples: int, seed: int
) -> Table:
    finished = [run for run in runs if run.state == "finished"]
    all_probes = list(dict.fromkeys(probe for run in finished for probe in run.means))
    probes = [probe for probe in all_probes if all(probe in run.means for run in finished)]
    grouped: dict[str, list[Run]] = {}
    for run in finished:
        named = {"method": run.method} | run.settings
        key = json.dumps(named, sort_keys=True, default=str) if run.whole else str(run.folder)
        grouped.setdefault(key, []).append(run)
    rows = []
    for group in grouped.values():
        means = {probe: [run.means[probe] for run in group] for probe in probes}
        if probes:
            means["mean"] = [fmean(run.means[probe] for probe in probes) for run in group]
        rows.append(Row(tuple(group), means))
    settings = _differing(runs)
    if len({run.method for run in finished}) > 1:
        settings = {"method": []} | settings

    notes = []
    number = _baseline(rows, settings, wanted, folders)
    if number is not None and probes:
        rows = _with_differences(rows, number, probes, resamples, seed)
    order = sorted(range(len(rows)), key=lambda i: -fmean(rows[i].means.get("mean", [0.0])))
    place = order.index(number) if number is not None else None
    rows = [rows[i] for i in order]

    several_runs = any(len(row.runs) > 1 for row in rows)
    if probes:
        notes.append(
            f"mean: over {listed(probes)}"
            + (". ±: standard deviation over the runs of a row, which differ in the seed" if several_runs else "")
        )
    if gone := [probe for probe in all_probes if probe not in probes]:
        without = [name_of(run) for run in finished if any(probe not in run.means for probe in gone)]
        notes.append(f"{listed(gone)} left out: no such probes in {listed(without)}")
    if place is not None and len(rows) > 1:
        label = label_of(rows[place], settings)
        text = f"difference: points more than #{place + 1}{f' ({label})' if label else ''}"
        if any(row.interval for row in rows):
            tested = len(next(run.outcome.subjects for run in finished if run.outcome))
            text += (
                f"; in brackets 95 % of {resamples} resamples of the {tested} test subjects, the same for both rows, "
                "with seeds and gallery as they are"
            )
            if tested < FEW_SUBJECTS:
                text += f". {tested} subjects are few: the interval is narrower than it should be"
        notes.append(text)
    elif wanted and several:
        notes.append(f"no differences: --baseline {' '.join(wanted)} is in another table")
    seeds = [[run.config.get("seed") for run in row.runs if run.config] for row in rows]
    if twice := [f"#{i}" for i, some in enumerate(seeds, 1) if len(set(some)) < len(some)]:
        notes.append(f"{listed(twice)}: several runs with the same seed, so ± says less")
    notes += [
        f"{key} stands also for {', '.join(others)}, which differ in the same way"
        for key, others in settings.items()
        if others
    ]
    if finished and all(run.held_out is not None for run in finished):
        best = max(range(len(rows)), key=lambda i: fmean(run.held_out or 0.0 for run in rows[i].runs))
        notes.append(
            f"held-out: rank-1 on held-out training subjects, highest for #{best + 1}. Choose settings by it; the test "
            "subjects are for the report"
        )
    notes += [f"{name_of(run)}: {remark}" for run in finished for remark in remarks_of(run.results or {})]
    notes += [f"{name_of(run)}: without an interval: {run.message}" for run in finished if run.outcome is None]
    rows += [Row((run,)) for run in runs if run.state != "finished"]
    return Table(_title(runs), rows, probes, settings, place, notes)


def _differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that differ; of those that differ in just the same way the one that a user sets names them."""
    known = [run for run in runs if run.config]
    keys = dict.fromkeys(key for run in known for key in run.settings)
    columns: dict[str, list[str]] = {}
    for key in keys:
        values = [json.dumps(run.settings.get(key), default=str) for run in known if key in run.settings or run.whole]
        if len(set(values)) > 1:
            columns.setdefault(json.dumps([run.settings.get(key) for run in known], default=str), []).append(key)
    given = {key for run in known for key in _overridden(run.folder)}
    differing = {}
    for same in columns.values():
        first = min(same, key=lambda key: (key not in given, key.count("."), same.index(key)))
        differing[first] = [key for key in same if key != first and key.rpartition(".")[2] != first.rpartition(".")[2]]
    return differing


def _overridden(folder: Path) -> list[str]:
    """The keys that the command line of a run set."""
    try:
        overrides = read_yaml(folder / ".hydra" / "overrides.yaml")
    except (OSError, ValueError):
        return []
    return [str(line).partition("=")[0].lstrip("+~") for line in (overrides if isinstance(overrides, list) else [])]


def _baseline(
    rows: Sequence[Row], settings: Iterable[str], wanted: Sequence[str], folders: Sequence[Path]
) -> int | None:
    """Which row the others are compared with."""
    if not rows:
        return None
    if folders:
        home = folders[0].resolve()
        matching = [i for i, row in enumerate(rows) if any(home in (r.folder, r.folder.parent) for r in row.runs)]
    elif wanted:
        asked = decisive(OmegaConf.to_container(OmegaConf.from_dotlist(_split(wanted)), resolve=True))  # type: ignore[arg-type]
        matching = [i for i, row in enumerate(rows) if all(row.settings.get(k, UNKNOWN) == v for k, v in asked.items())]
    else:
        paper = {key: value for key, value in _paper().items() if key in settings}
        matching = [i for i, row in enumerate(rows) if all(row.settings.get(k) == v for k, v in paper.items())]
        return matching[0] if matching else 0
    if len(matching) > 1:
        labels = "; ".join(label_of(rows[i], settings) for i in matching)
        raise ValueError(f"--baseline {' '.join(wanted)}: {len(matching)} rows are that, name one: {labels}")
    return matching[0] if matching else None


def _split(wanted: Sequence[str]) -> list[str]:
    parts = [part for text in wanted for part in shlex.split(text)]
    if wrong := [part for part in parts if "=" not in part]:
        raise ValueError(
            f"--baseline {wrong[0]}: expected a run's folder that is there, or settings such as 'model.margin=0.2'"
        )
    return parts


def _paper() -> dict[str, Any]:
    """The paper's settings of the model, as far as they depend on no data set."""
    files = (Path(CONFIG_PATH) / "model" / name for name in ("base.yaml", "cstl.yaml"))
    model = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.load, files)), resolve=False)
    settings = decisive({"model": model})
    return {key: value for key, value in settings.items() if "$" not in str(value) and "defaults" not in key}


def _with_differences(rows: Sequence[Row], number: int, probes: Sequence[str], resamples: int, seed: int) -> list[Row]:
    """The rows with their differences to one of them, and intervals where all runs say who was recognised."""
    drawn = {}
    outcomes = [[run.outcome for run in row.runs if run.outcome] for row in rows]
    complete = [i for i, some in enumerate(outcomes) if len(some) == len(rows[i].runs)]
    if number in complete:
        subjects = len(outcomes[number][0].subjects)
        generator = np.random.default_rng(seed)
        weights = generator.multinomial(subjects, np.full(subjects, 1 / subjects), resamples).astype(float)  # (R, S)
        for i in complete:
            scores = [outcome.rank1(weights) for outcome in outcomes[i]]
            drawn[i] = {probe: np.mean([score[probe] for score in scores], 0) for probe in probes}
            drawn[i]["mean"] = np.mean(list(drawn[i].values()), 0)
    compared = []
    for i, row in enumerate(rows):
        difference = {name: fmean(row.means[name]) - fmean(rows[number].means[name]) for name in row.means}
        interval = {}
        if i in drawn and number in drawn and i != number:
            for name in difference:
                low, high = np.nanpercentile(drawn[i][name] - drawn[number][name], (2.5, 97.5))
                interval[name] = (float(low), float(high))
        compared.append(Row(row.runs, row.means, difference if i != number else {}, interval))
    return compared


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis, NaN left out; NaN where there is nothing else."""
    there = ~np.isnan(values)
    return np.where(there.any(-1), np.where(there, values, 0).sum(-1) / np.maximum(there.sum(-1), 1), np.nan)


def _is_no_setting(key: str) -> bool:
    return any(key == other or key.startswith(other + ".") for other in _NO_SETTING)


def _title(runs: Sequence[Run]) -> str:
    run = next((run for run in runs if run.results), runs[0])
    name = run.config.get("dataset", {}).get("title") or (run.results or {}).get("dataset", "unknown data set")
    name = shown(name)
    if not run.results:
        return f"{name}: no finished run"
    height, width = run.results["resolution"]
    tested = run.identity[2] if run.identity else ()
    methods = {run.method for run in runs if run.results}
    method = f"; {methods.pop()}" if len(methods) == 1 else ""
    span = f" ({tested[0]} to {tested[-1]})" if tested else ""
    return f"{name} {height}×{width}, {run.results['test_subjects']} test subjects{span}: {RULE}{method}"


def name_of(run: Run) -> str:
    """The folder, as short as it stays clear: from the current one, else its last two parts."""
    here = Path.cwd().resolve()
    return shown(run.folder.relative_to(here) if run.folder.is_relative_to(here) else Path(*run.folder.parts[-2:]))


def label_of(row: Row, settings: Iterable[str]) -> str:
    """Return the settings that differ as they are typed: model.margin=0.2 …."""
    return " ".join(f"{key}={typed_value(row.settings.get(key))}" for key in settings if key in row.settings)


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence has them: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def typed_value(value: Any) -> str:
    """A setting as the command line takes it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(typed_value, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value) if value is None or isinstance(value, bool) else shown(value)
