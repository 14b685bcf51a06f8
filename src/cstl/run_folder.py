"""A run's folder, as `Store` is for frames: the names of its files, writing them, and reading them with
suspicion.

Reading asks nothing of the network or the data set, and never fails: `Run` holds what there is, and says what
is not.
More than 450 lines, since each file of a run is written, checked and read here and nowhere else.
"""

import math
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cstl.config import Plain, checked, followed
from cstl.files import (
    check_inside,
    read_json,
    read_npz,
    read_rows,
    read_text,
    read_yaml,
    shown,
    shown_data,
    write_npz,
)
from cstl.owner import is_in_use

CONFIG, RESULTS, METRICS = "config.yaml", "results.json", "metrics.csv"
PROBES, EMBEDDINGS, REPORT = "probes.npz", "embeddings.npz", "report.html"
COMMAND = "command.txt"  # what was typed at the first start, never written over
ERROR = "error.txt"  # of a job of a sweep that failed; its last line is the error's message
CHECKPOINTS, BEST = "checkpoints", "best.ckpt"
HYDRA = ".hydra"
EVALUATED = "evaluated"  # the key of config.yaml that an evaluation has, and a run has not: the checkpoint
HELD_OUT = "validation/rank1/mean"  # the column of metrics.csv


LINES = 10**7  # of a store's table, at most
LARGEST = 1e30  # value in a curve
SETS = 100  # sets of probes, at most
# of probes.npz, at most
LIMITS = {"views": 200, "conditions": 10**6, "subjects": 10**6, "sequence": 2 * 10**6}

T = TypeVar("T")
Curve = tuple[list[int], list[float]]  # iterations and values


class Probes(NamedTuple):
    """`probes.npz`: what N probe sequences found in the galleries of V views, see `cstl.metrics.probes`."""

    sequence: np.ndarray  # int64 (N,), line of the store's table
    subject: np.ndarray  # int64 (N,), position in `subjects`
    condition: np.ndarray
    view: np.ndarray
    wrong: np.ndarray  # float32 (N, V): recognised where below 1; NaN without a match
    nearest: np.ndarray  # int64 (N, V), line of the store's table; -1 in an empty gallery
    nearest_distance: np.ndarray  # float32 (N, V)
    match: np.ndarray  # int64 (N, V), -1 without a match
    match_distance: np.ndarray  # float32 (N, V)
    subjects: list[str]
    conditions: list[str]
    views: list[str]
    gallery_sequences: np.ndarray  # int64 (V,)
    # subject, condition, view, line of M sequences; () in older files
    labels: np.ndarray = np.empty((0, 4), np.int64)


class Embeddings(NamedTuple):
    """`embeddings.npz`, where `keep_embeddings` asked for it: of every tested sequence the mean over the
    parts.

    That is float16 (M, D), a biometric template of a sequence in a row; and which sequence it is.
    """

    embedding: np.ndarray
    sequence: np.ndarray  # int64 (M,), and so on
    subject: np.ndarray
    condition: np.ndarray
    view: np.ndarray


class Run:
    """A run's folder. A file is read when it is first asked for; one that is absent or damaged gives nothing.

    Attributes:
        folder: where it is.
        problems: name of a file that was asked for → why it could not be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.problems: dict[str, str] = {}

    def _read(self, name: str, reader: Callable[[Path], T], absent: T) -> T:
        path = self.folder / name
        if not path.is_file():
            return absent
        try:
            if not name.endswith(".npz"):  # arrays of an exact form tell nothing of another file
                for inside in (path, *([path.parent] if "/" in name else [])):
                    check_inside(inside)
            return reader(path)
        # a cut or foreign file fails in many ways, and the rest can still be shown
        except Exception as error:
            self.problems[name] = shown(" ".join(str(error).split()), 200)
            return absent

    @cached_property
    def config(self) -> Plain:
        """Read the settings of `config.yaml`, resolved; {} where there are none."""
        return self._read(CONFIG, lambda path: shown_settings(read_yaml(path)), {})

    @cached_property
    def composed(self) -> Plain:
        """Read the settings as Hydra noted them before the run began, without what names the folder."""
        return self._read(f"{HYDRA}/config.yaml", _read_composed, {})

    @cached_property
    def results(self) -> Plain:
        """Read `results.json`; {} of a run that is not finished."""
        return self._read(RESULTS, read_results, {})

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Read the columns of `metrics.csv` over the iterations, without what is not finite."""
        return self._read(METRICS, lambda path: curves_of(read_metrics(path)), {})

    @cached_property
    def probes(self) -> Probes | None:
        return self._read(PROBES, read_probes, None)

    @cached_property
    def embeddings(self) -> Embeddings | None:
        return self._read(EMBEDDINGS, read_embeddings, None)

    @cached_property
    def error(self) -> str | None:
        """Read the last line of a failed job's `error.txt`; None where there is no such file."""
        return self._read(ERROR, _last_line, "") if (self.folder / ERROR).is_file() else None

    @cached_property
    def overrides(self) -> list[str]:
        """Read what the command line set, such as `model.triplet.margin=0.1`."""
        lines: Any = self._read(f"{HYDRA}/overrides.yaml", read_yaml, [])
        return [str(line).lstrip("+~") for line in lines] if isinstance(lines, list) else []

    @cached_property
    def command(self) -> str | None:
        """Return the command that made the run, under another name: a name is taken once."""
        words: list[str] = self._read(COMMAND, lambda path: shlex.split(read_text(path)), [])
        if (
            not words
            and (job := self._hydra("job", "name"))
            and (self.folder / HYDRA / "overrides.yaml").is_file()
        ):
            words = ["python", "-m", f"cstl.{job}", *self.overrides]
        return shlex.join(f"{word}-again" if word.startswith("name=") else word for word in words) or None

    @property
    def name(self) -> str:
        return shown(self.folder.resolve().name)

    @property
    def is_finished(self) -> bool:
        return bool(self.results)

    @cached_property
    def state(self) -> str:
        """Say how far it got: finished, damaged, failed, running, or stopped."""
        if self.results:
            return "finished"
        if RESULTS in self.problems:
            return "damaged"
        if self.error is not None:
            return "failed"
        with suppress(OSError):
            if is_in_use(self.folder):
                return "running"
        if self.config.get("evaluate") is False and self._last_checkpoint >= (self.steps[1] or math.inf):
            return "finished"  # it was asked to train and nothing else
        return "damaged" if CONFIG in self.problems else "stopped"

    @property
    def dataset(self) -> str:
        """Name of the data set, such as casiab; empty where nothing says."""
        return self.results.get("dataset") or self.config.get("dataset", {}).get("name", "")

    @property
    def published(self) -> dict[str, dict[str, float | None]]:
        """Return the published rows that stand beside this result: name → probe → their mean, percent."""
        rows = self.results.get("published_rows", {})
        return {
            name: {probe: row["mean"] for probe, row in found["rank1"].items()}
            for name, found in rows.items()
        }

    @property
    def probe_sets(self) -> dict[str, list[str]]:
        """Name of a probe set → its conditions; each condition is its own where no configuration says."""
        protocol = self.config.get("dataset", {}).get("protocol", {})
        if protocol.get("probes"):
            return {name: list(conditions) for name, conditions in protocol["probes"].items()}
        if self.probes is None:
            return {}
        return {
            name: [name]
            for i, name in enumerate(self.probes.conditions)
            if (self.probes.condition == i).any()
        }

    @property
    def probe_names(self) -> list[str]:
        """List the probe sets, in the order of the tables."""
        named = list(self.results.get("rank1", {})) or list(self.probe_sets)
        logged = [name.removeprefix("test/rank1/") for name in self.curves if name.startswith("test/rank1/")]
        return named or [name for name in logged if name != "mean"]

    @cached_property
    def steps(self) -> tuple[int, int | None]:
        """Return the last iteration that was logged, and how many were asked for."""
        asked = (self.config or self.composed).get("trainer", {}).get("max_steps") or 0
        return max((steps[-1] for steps, _ in self.curves.values()), default=0), asked if asked > 0 else None

    @property
    def last_step(self) -> int:
        """Return the last iteration that its log or a checkpoint knows of."""
        return max(self.steps[0], self._last_checkpoint)

    @property
    def _last_checkpoint(self) -> int:
        names = (path.stem.removeprefix("step-") for path in self.folder.glob(f"{CHECKPOINTS}/step-*.ckpt"))
        return max((int(name) for name in names if name.isdecimal() and len(name) < 20), default=0)

    @cached_property
    def held_out(self) -> float | None:
        """Return rank-1 (%) on held-out training subjects of the checkpoint it reports; None: unknown."""
        _, scores = self.curves.get(HELD_OUT, ([], []))
        scores = [score for score in scores if 0 <= score <= 100]
        if not scores:
            return None
        return max(scores) if (self.folder / CHECKPOINTS / BEST).exists() else scores[-1]

    def candidates(self, path: str) -> Iterator[Path]:
        """List where a path may lead: from here, from where the run was started, from beside the run."""
        yield Path(path)
        if isinstance(cwd := self._hydra("runtime", "cwd"), str):
            yield Path(cwd) / path
        for parent in self.folder.resolve().parents[:4]:
            yield parent / path

    def _hydra(self, *keys: str) -> Any:
        node: Any = self._read(f"{HYDRA}/hydra.yaml", read_yaml, {})
        for key in ("hydra", *keys):
            node = node.get(key) if isinstance(node, dict) else None
        return node


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a run's, however far it got."""
    return any((folder / name).exists() for name in (CONFIG, RESULTS, METRICS, ERROR, HYDRA))


def find_runs(folder: Path, depth: int = 2) -> list[Path]:
    """Return the run folders in a folder: itself, or those it holds (a sweep's jobs), in order."""
    if is_run(folder):
        return [folder]
    if depth == 0 or not folder.is_dir():
        return []
    children = sorted(folder.iterdir(), key=lambda path: (not path.name.isdecimal(), path.name.zfill(9)))
    return [run for child in children if child.is_dir() for run in find_runs(child, depth - 1)]


# --- Reading: what is used of a file is known to be of its kind ---------------------------------------------


def shown_settings(content: Any) -> Plain:
    """Return settings from a file to be shown: checked, with names that can do nothing."""
    config = shown_data(checked(content, resolved=False))
    probes = config.get("dataset", {}).get("protocol", {}).get("probes", {})
    if not isinstance(probes, dict) or len(probes) > SETS or not all(map(_are_names, probes.values())):
        raise ValueError("dataset.protocol.probes are no lists of conditions")
    return config


def _read_composed(path: Path) -> Plain:
    config = shown_settings(read_yaml(path))
    return checked(
        followed({key: config[key] for key in config if key not in ("name", "logger", "callbacks")}), False
    )


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 1000 and all(isinstance(name, str) for name in value)


def read_results(path: Path) -> Plain:
    """Return what a `results.json` says, once what is used of it is of its kind: numbers, names, lists of
    them.

    Raises:
        ValueError: something else; the message says where.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("rank1"), dict):
        raise ValueError("expected rank1 in it")
    if missing := [
        key for key in ("dataset", "resolution", "test_subjects", "trained_on") if content.get(key) is None
    ]:
        raise ValueError(f"expected {', '.join(missing)} in it")
    if len(content["rank1"]) > SETS:
        raise ValueError(f"rank1 of {len(content['rank1']):,} probes, expected {SETS} at most")
    content = shown_data(content)
    expected: dict[str, type] = {
        **dict.fromkeys(("dataset", "trained_on", "checkpoint", "configuration", "store"), str),
        **dict.fromkeys(("method", "published", "published_left_out"), str),
        **dict.fromkeys(("coverage", "trained_subjects", "seen_test_subjects", "published_rows"), dict),
        **dict.fromkeys(("train_subjects", "test_subjects", "gallery_sequences"), int),
        **dict.fromkeys(
            ("probe_sequences", "rank1_matched", "measures", "seconds", "versions", "network"), dict
        ),
    }
    for key, kind in expected.items():
        if type(content.get(key)) not in (kind, type(None)):
            raise ValueError(f"{key} is {shown(content[key], 60)}")
    # as absent
    content = {key: value for key, value in content.items() if value is not None or key not in expected}
    for name, counts in content.get("coverage", {}).items():
        if not isinstance(counts, dict) or any(type(count) is not int for count in counts.values()):
            raise ValueError(f"the coverage of {shown(name, 40)} is {shown(counts, 60)}")
    size = content.get("resolution", [1, 1])
    if (
        type(size) is not list
        or len(size) != 2
        or any(type(side) is not int or not 0 < side < 10**5 for side in size)
    ):
        raise ValueError(f"resolution is {shown(size, 60)}")
    for probe, row in content["rank1"].items():
        if not _has_mean(row):
            raise ValueError(f"the rank-1 of {shown(probe, 40)} is {shown(row, 60)}")
    # group → probe → measure → percent, or of ranks
    for method, groups in (content.get("measures") or {}).items():
        for group in groups.values() if isinstance(groups, dict) else [None]:
            for measures in group.values() if isinstance(group, dict) else [None]:
                for value in measures.values() if isinstance(measures, dict) else [""]:
                    if value == [] or not all(
                        map(_is_percent, value if isinstance(value, list) else [value])
                    ):
                        raise ValueError(f"the measures of {shown(method, 40)} are no percentages")
    for name, found in content.get("published_rows", {}).items():
        rows = found.get("rank1") if isinstance(found, dict) else None
        if not isinstance(rows, dict) or not all(map(_has_mean, rows.values())):
            raise ValueError(f"the published rank-1 of {shown(name, 40)} is {shown(found, 60)}")
    for what, number in content.get("network", {}).items():
        fits = (
            type(number) is str if what == "left_out" else type(number) in (int, float) and 0 <= number < 1e18
        )
        if not fits:
            raise ValueError(f"the {shown(what, 40)} of the network is {shown(number, 40)}")
    for what, seconds in (content.get("seconds") or {}).items():
        if type(seconds) not in (int, float) or not 0 <= seconds < 1e10:
            raise ValueError(f"the seconds of {shown(what, 40)} are {shown(seconds, 40)}")
    return content


def _has_mean(row: Any) -> bool:
    return isinstance(row, dict) and "mean" in row and _is_percent(row["mean"])


def _is_percent(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 100)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a `metrics.csv`, each with the values it has, without a last line that is cut."""
    if not path.exists():
        return []
    rows = read_rows(path, whole_lines=True)
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def curves_of(rows: Iterable[Mapping[str, float]]) -> dict[str, Curve]:
    """Return the columns of a run's log, finite values alone; of two rows of a step the last counts."""
    points: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "epoch") and abs(value) < LARGEST:
                points.setdefault(shown(name, 100), {})[int(row["step"])] = value
    return {name: (list(column), list(column.values())) for name, column in points.items()}


def read_probes(path: Path) -> Probes:
    """Return what every probe found, once all of it belongs together.

    Raises:
        ValueError: arrays are missing, are others than `Probes` says, or point to nothing.
    """
    one, two = ("sequence", "subject", "condition", "view"), ("nearest", "match")
    names = {"subject": "subjects", "condition": "conditions", "view": "views"}
    kinds = dict.fromkeys(one, ("iu", 1)) | dict.fromkeys(
        ("wrong", *(f"{name}_distance" for name in two)), ("fiu", 2)
    )
    kinds |= (
        dict.fromkeys(two, ("iu", 2))
        | dict.fromkeys(names.values(), ("U", 1))
        | {"gallery_sequences": ("iu", 1)}
    )
    arrays: dict[str, Any] = read_npz(path, kinds)
    probes, views = len(arrays["sequence"]), len(arrays["views"])
    shapes = dict.fromkeys(one, (probes,)) | {"gallery_sequences": (views,)}
    shapes |= {name: arrays[name].shape for name in names.values()}
    for name, array in arrays.items():
        if array.shape != (expected := shapes.get(name, (probes, views))):
            raise ValueError(f"{name} is {array.shape}, expected {expected}")
    for name, of in names.items():
        _check_range(name, arrays[name], 0, len(arrays[of]))
    for name in ("sequence", *two):
        _check_range(name, arrays[name], 0 if name == "sequence" else -1, LINES)
    with suppress(ValueError):  # an older file has none
        labels = read_npz(path, {"labels": ("iu", 2)})["labels"]
        if labels.shape[1] == 4 and labels.size:
            for column, end in zip(
                labels.T, (*(len(arrays[of]) for of in names.values()), LINES), strict=True
            ):
                _check_range("labels", column, 0, end)
            arrays["labels"] = labels.astype(np.int64)
    for name, most in LIMITS.items():
        if len(arrays[name]) > most:
            raise ValueError(f"{name} has {len(arrays[name]):,} entries, more than can be shown")
    return Probes(
        **arrays | {name: [shown(text) for text in arrays[name].tolist()] for name in names.values()}
    )


def read_embeddings(path: Path) -> Embeddings:
    """Return the embeddings of a run, once all of it belongs together. Raises ValueError as `read_probes`."""
    labels = ("sequence", "subject", "condition", "view")
    arrays = read_npz(path, {"embedding": ("f", 2)} | dict.fromkeys(labels, ("iu", 1)))
    if len(arrays["sequence"]) > LIMITS["sequence"] or arrays["embedding"].shape[1] > 2**14:
        raise ValueError(f"embedding is {arrays['embedding'].shape}, more than can be shown")
    for name in labels:
        if len(arrays[name]) != len(arrays["embedding"]):
            raise ValueError(f"{name} has {len(arrays[name])} entries, expected {len(arrays['embedding'])}")
        _check_range(name, arrays[name], 0, LINES)
    if not np.isfinite(arrays["embedding"]).all():
        raise ValueError("embedding has values that are not finite")
    return Embeddings(**arrays)


def _check_range(name: str, array: np.ndarray, least: int, end: int) -> None:
    if array.size and (int(array.min()) < least or int(array.max()) >= end):
        raise ValueError(
            f"{name} has {int(array.min())} to {int(array.max())}, expected {least} to {end - 1}"
        )


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 2**14, 0))
        lines = file.read().decode("utf-8", "replace").split("\n")
    return shown(next((line for line in reversed(lines) if line.strip()), ""), 1000)


# --- Writing ------------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on."""
    names = (
        "cstl",
        "torch",
        "pytorch-lightning",
        "torchmetrics",
        "hydra-core",
        "numpy",
        "opencv-python-headless",
    )
    return {name: version(name) for name in names}


def write_probes(path: Path, arrays: Mapping[str, np.ndarray], **names: Sequence[str]) -> None:
    """Write what every probe sequence found: enough to resample subjects and to look at mistakes.

    Args:
        path: of `probes.npz`.
        arrays: those of `cstl.metrics.probes.to_arrays`, in which `subject`, `condition` and `view` are
            positions in the names and a sequence number is the line of the store's table; `gallery_sequences`
            int64 (V,); and `labels` int64 (M, 4), subject, condition, view and line of every tested sequence.
        names: subjects, conditions, views.
    """
    write_npz(
        path, {**arrays, **{name: np.array(list(values), dtype=np.str_) for name, values in names.items()}}
    )


def write_embeddings(path: Path, embedding: np.ndarray, labels: np.ndarray) -> None:
    """Write a vector for each sequence, with its subject, condition, view and number: int64 (M, 4)."""
    columns = dict(zip(("subject", "condition", "view", "sequence"), labels.T, strict=True))
    write_npz(path, {"embedding": embedding, **columns})
