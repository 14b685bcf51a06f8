"""What a run left in its folder, read as far as it is there: what is missing becomes a note for the reader."""

import csv
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cstl.checkpoint import Weights, load_weights
from cstl.config import Plain, checked
from cstl.data.alignment import WIDTHS, frame_size
from cstl.data.store import Store, open_store
from cstl.files import check_inside, read_json, read_npz, read_rows, read_text, read_yaml, shown, shown_data
from cstl.reporting.published import method_of_files
from cstl.reporting.remarks import remarks_of
from cstl.reporting.tables import Row, Table
from cstl.run_folder import COMMAND
from cstl.running.sweep import ERROR, last_words

LINES = 10**7  # of a store's table, at most
LARGEST = 1e30  # value in a curve
VIEWS = 200  # in a picture of view × view, at most
PROBES = 100  # sets of probes, at most
NAMES = 10**6  # subjects or conditions, at most
SEQUENCES = 2 * 10**6  # that were tested, at most
RUN_FILES = ("config.yaml", "results.json", "metrics.csv")  # a folder with one of them is a run
T = TypeVar("T")
Curve = tuple[list[int], list[float]]  # iterations and values


@dataclass(frozen=True)
class Probes:
    """`probes.npz`: what N probe sequences found in the gallery of each of V views, see `cstl.metrics.probes`."""

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


@dataclass(frozen=True)
class Embeddings:
    """`embeddings.npz`: float16 (M, D), the mean over the parts of every tested sequence, and which sequence it is."""

    embedding: np.ndarray
    sequence: np.ndarray  # int64 (M,), and so on
    subject: np.ndarray
    condition: np.ndarray
    view: np.ndarray


@dataclass
class Run:
    """A run folder. Everything but the name may be absent; `notes` say in sentences what is, and why."""

    folder: Path
    config: Plain = field(default_factory=dict)
    results: Plain = field(default_factory=dict)
    table: Table | None = None  # the paper's table, as the run printed it
    curves: dict[str, Curve] = field(default_factory=dict)  # by column of metrics.csv
    probes: Probes | None = None
    embeddings: Embeddings | None = None
    weights: Weights | None = None  # of the checkpoint that was reported, or of the last one
    checkpoint: Path | None = None
    store: Store | None = None
    command: str | None = None  # what was typed
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name."""
        return shown(self.folder.resolve().name)

    @property
    def is_finished(self) -> bool:
        """Whether it was evaluated."""
        return bool(self.results)

    @property
    def dataset(self) -> str:
        """Its name, such as casiab; empty when nothing says."""
        return self.results.get("dataset") or self.config.get("dataset", {}).get("name", "")

    @property
    def title(self) -> str:
        """The data set for the reader, with the size of the silhouettes: CASIA-B 128×88."""
        title = self.config.get("dataset", {}).get("title") or self.dataset or "unknown data set"
        res = self.config.get("res")  # another than ours may stand in a file
        size = self.results.get("resolution") or (frame_size(res) if res in WIDTHS else None)
        return f"{title} {size[0]}×{size[1]}" if size else title

    @property
    def method(self) -> str:
        """What the network is called in the tables."""
        return method_of_files(self.results, self.config)

    @property
    def published(self) -> str | None:
        """The published method whose rows stand beside this result; None: there are none."""
        found = self.results.get("published")
        return found if isinstance(found, str) else None

    @property
    def probe_sets(self) -> dict[str, list[str]]:
        """Name of a probe set → its conditions; each condition is its own where no configuration says."""
        protocol = self.config.get("dataset", {}).get("protocol", {})
        if protocol.get("probes"):
            return {name: list(conditions) for name, conditions in protocol["probes"].items()}
        if self.probes is None:
            return {}
        return {name: [name] for i, name in enumerate(self.probes.conditions) if (self.probes.condition == i).any()}

    @property
    def probe_names(self) -> list[str]:
        """The probe sets, in the order of the tables."""
        named = list(self.results.get("rank1", {})) or list(self.probe_sets)
        logged = [name.removeprefix("test/rank1/") for name in self.curves if name.startswith("test/rank1/")]
        return named or [name for name in logged if name != "mean"]

    @property
    def steps(self) -> tuple[int, int | None]:
        """Iterations logged, and those asked for."""
        done = max((steps[-1] for steps, _ in self.curves.values() if steps), default=0)
        asked = self.config.get("trainer", {}).get("max_steps") or 0
        return done, asked if asked > 0 else None


def read_run(folder: Path) -> Run:
    """Reads whatever of a run there is.

    Raises:
        FileNotFoundError: no such folder, or one that no run has written.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no run folder at {folder}; runs lie in runs/NAME where they were started")
    if not _is_run(folder):
        raise FileNotFoundError(
            f"{folder} is no run folder: expected {', '.join(RUN_FILES)} or one of them, found none; "
            "name the folder that python -m cstl.train or cstl.evaluate wrote, runs/NAME"
        )
    run = Run(folder)
    run.config = _read(run, "config.yaml", _read_yaml) or {}
    run.results = _read(run, "results.json", read_results) or {}
    run.table = _read(run, "table.csv", _read_table)
    run.curves = _read(run, "metrics.csv", read_curves) or {}
    run.probes = _read(run, "probes.npz", read_probes)
    run.embeddings = _read(run, "embeddings.npz", read_embeddings)
    _find_checkpoint(run)
    trained = (run.weights and run.weights.config) or {}
    if not run.config and trained.get("dataset", {}).get("name") == run.dataset:
        run.config = shown_settings(trained)  # an evaluation on the data set that the checkpoint was trained on
    _name_method(run)
    run.command = _command(folder)
    _find_store(run)
    _explain(run)
    return run


def find_runs(folder: Path) -> list[Path]:
    """The folder itself; of a sweep's folder, those of its jobs, in the order of their numbers."""
    if _is_run(folder) or not folder.is_dir():
        return [folder]
    jobs = [job for job in folder.iterdir() if _is_run(job)]
    return sorted(jobs, key=lambda job: (not job.name.isdigit(), int(job.name) if job.name.isdigit() else 0, job.name))


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*RUN_FILES, ERROR))  # a job may fail before it writes anything


def _read(run: Run, name: str, reader: Callable[[Path], T]) -> T | None:
    """What `reader` makes of a file; None where it is absent, and a note where it is damaged."""
    path = run.folder / name
    if not path.is_file():
        return None
    try:
        if not name.endswith(".npz"):  # arrays of an exact form tell nothing of another file
            check_inside(path)
        return reader(path)
    except Exception as error:  # a cut or foreign file fails in many ways, and the rest can still be shown
        reason = shown(" ".join(str(error).split()), 200)
        run.notes.append(f"{name} cannot be read and is left out: it is damaged, or still being written ({reason}).")
        return None


def _read_yaml(path: Path) -> Plain:
    return shown_settings(read_yaml(path))


def shown_settings(content: Any) -> Plain:
    """Settings from a file, to be shown: checked, with names that can do nothing."""
    config = shown_data(checked(content, resolved=False))
    probes = config.get("dataset", {}).get("protocol", {}).get("probes", {})
    if not isinstance(probes, dict) or len(probes) > PROBES or not all(map(_are_names, probes.values())):
        raise ValueError("dataset.protocol.probes are no lists of conditions")
    return config


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 1000 and all(isinstance(name, str) for name in value)


def read_results(path: Path) -> Plain:
    """What a `results.json` says, once what is used of it is known to be of its kind: numbers, names, lists of them.

    Raises:
        ValueError: something else; the message says where.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("rank1"), dict):
        raise ValueError("expected rank1 in it")
    if len(content["rank1"]) > PROBES:
        raise ValueError(f"rank1 of {len(content['rank1']):,} probes, expected {PROBES} at most")
    content = shown_data(content)
    expected: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("dataset", "trained_on", "checkpoint", "configuration", "store"), (str,)),
        **dict.fromkeys(("method", "published", "published_left_out"), (str,)),
        **dict.fromkeys(("coverage", "trained_subjects", "seen_test_subjects"), (dict,)),
        **dict.fromkeys(("train_subjects", "test_subjects", "gallery_sequences"), (int,)),
        **dict.fromkeys(("probe_sequences", "rank1_matched", "measures", "seconds", "versions"), (dict,)),
    }
    for key, kinds in expected.items():
        if type(content.get(key)) not in (*kinds, type(None)):
            raise ValueError(f"{key} is {shown(content[key], 60)}")
    content = {key: value for key, value in content.items() if value is not None or key not in expected}  # as absent
    for name, counts in content.get("coverage", {}).items():
        if not isinstance(counts, dict) or any(type(count) is not int for count in counts.values()):
            raise ValueError(f"the coverage of {shown(name, 40)} is {shown(counts, 60)}")
    size = content.get("resolution", [1, 1])
    if type(size) is not list or len(size) != 2 or any(type(side) is not int or not 0 < side < 10**5 for side in size):
        raise ValueError(f"resolution is {shown(size, 60)}")
    for probe, row in content["rank1"].items():
        if not isinstance(row, dict) or "mean" not in row or not _is_percent(row["mean"]):
            raise ValueError(f"the rank-1 of {shown(probe, 40)} is {shown(row, 60)}")
    for method, groups in (content.get("measures") or {}).items():  # group → probe → measure → percent, or of ranks
        for group in groups.values() if isinstance(groups, dict) else [None]:
            for measures in group.values() if isinstance(group, dict) else [None]:
                for value in measures.values() if isinstance(measures, dict) else [""]:
                    if value == [] or not all(map(_is_percent, value if isinstance(value, list) else [value])):
                        raise ValueError(f"the measures of {shown(method, 40)} are no percentages")
    for what, seconds in (content.get("seconds") or {}).items():
        if type(seconds) not in (int, float) or not 0 <= seconds < 1e10:
            raise ValueError(f"the seconds of {shown(what, 40)} are {shown(seconds, 40)}")
    return content


def _is_percent(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 100)


def _read_table(path: Path) -> Table:
    title, *lines = read_text(path, 2**20).splitlines()
    header, *lines_of_cells = csv.reader(lines)
    rows = []
    for probe, method, *cells in lines_of_cells:
        *values, mean = (float(cell) if cell else None for cell in cells)
        numbers = [value for value in (*values, mean) if value is not None]
        if len(cells) != len(header) - 2 or not all(abs(value) <= 100 for value in numbers):
            raise ValueError(f"the row of {shown(probe, 40)} is no row of percentages")
        rows.append(Row(shown(probe, 60), shown(method, 60), tuple(values), mean))
    if not 3 < len(header) <= VIEWS or len(rows) > VIEWS:
        raise ValueError(f"{len(header)} columns and {len(rows)} rows are no table of views")
    return Table(shown(title.removeprefix("# ")), tuple(shown(view, 60) for view in header[2:-1]), tuple(rows))


def read_curves(path: Path) -> dict[str, Curve]:
    """The columns of a `metrics.csv`; a last line that is still being written is left out."""
    curves: dict[str, Curve] = {}
    for row in read_rows(path, whole_lines=True):
        for name, value in row.items():
            if name not in ("step", "epoch") and value and abs(float(value)) < LARGEST:  # not NaN, not infinite
                steps, values = curves.setdefault(shown(name, 100), ([], []))
                if steps and steps[-1] == int(float(row["step"])):  # the last of two rows of one iteration
                    values[-1] = float(value)
                else:
                    steps.append(int(float(row["step"])))
                    values.append(float(value))
    return curves


def read_probes(path: Path) -> Probes:
    """What every probe found, once all of it belongs together.

    Raises:
        ValueError: arrays are missing, are others than `Probes` says, or point to nothing.
    """
    one, two = dict.fromkeys(("sequence", "subject", "condition", "view"), ("iu", 1)), ("nearest", "match")
    expected = one | dict.fromkeys(("wrong", *(f"{name}_distance" for name in two)), ("fiu", 2))
    expected |= dict.fromkeys(two, ("iu", 2)) | dict.fromkeys(("subjects", "conditions", "views"), ("U", 1))
    found = read_npz(path, expected | {"gallery_sequences": ("iu", 1)})
    probes, views = len(found["sequence"]), len(found["views"])
    for name, array in found.items():
        shape = {"subjects": array.shape, "conditions": array.shape, "views": array.shape}
        shape |= dict.fromkeys(one, (probes,)) | {"gallery_sequences": (views,)}
        if array.shape != shape.get(name, (probes, views)):
            raise ValueError(f"{name} is {array.shape}, expected {shape.get(name, (probes, views))}")
    for name, names in {"subject": "subjects", "condition": "conditions", "view": "views"}.items():
        _check_range(name, found[name], 0, len(found[names]))
    for name in ("sequence", *two):
        _check_range(name, found[name], 0 if name == "sequence" else -1, LINES)
    limits = {"views": VIEWS, "conditions": NAMES, "subjects": NAMES, "sequence": SEQUENCES}
    if large := [
        f"{name} has {len(found[name]):,} entries" for name, most in limits.items() if len(found[name]) > most
    ]:
        raise ValueError(f"{large[0]}, more than can be shown")
    contents: dict[str, Any] = dict(found)
    for name in ("subjects", "conditions", "views"):
        contents[name] = [shown(text) for text in found[name].tolist()]
    return Probes(**contents)


def read_embeddings(path: Path) -> Embeddings:
    """The embeddings of a run, once all of it belongs together. Raises ValueError as `read_probes`."""
    labels = ("sequence", "subject", "condition", "view")
    found = read_npz(path, {"embedding": ("f", 2)} | dict.fromkeys(labels, ("iu", 1)))
    if len(found["sequence"]) > SEQUENCES or found["embedding"].shape[1] > 2**14:
        raise ValueError(f"embedding is {found['embedding'].shape}, more than can be shown")
    for name in labels:
        if len(found[name]) != len(found["embedding"]):
            raise ValueError(f"{name} has {len(found[name])} entries, expected {len(found['embedding'])}")
        _check_range(name, found[name], 0, LINES)
    if not np.isfinite(found["embedding"]).all():
        raise ValueError("embedding has values that are not finite")
    return Embeddings(**found)


def _check_range(name: str, array: np.ndarray, least: int, end: int) -> None:
    if array.size and (int(array.min()) < least or int(array.max()) >= end):
        raise ValueError(f"{name} has {int(array.min())} to {int(array.max())}, expected {least} to {end - 1}")


def _find_checkpoint(run: Run) -> None:
    """The checkpoint that the results belong to, wherever the run was moved; of an unfinished run, the last."""
    own = run.folder / "checkpoints"
    found = []
    if named := run.results.get("checkpoint"):
        found = [own / Path(named).name, *_candidates(run, named)]
    elif own.is_dir():
        found = sorted(own.glob("step-*.ckpt"), reverse=True)[:1]
    for path in found:
        if os.path.isfile(path):
            try:
                run.weights, run.checkpoint = load_weights(path), path
            except (ValueError, OSError) as error:
                run.notes.append(f"What the network looks at is left out: {error}.")
            return
    run.notes.append(
        "What the network looks at is left out: "
        + (f"the checkpoint {named} is not there any more." if named else "there is no checkpoint yet.")
    )


def _name_method(run: Run) -> None:
    """Earlier versions called every network CSTL and set the paper's rows beside it without a look at the rest."""
    if run.results and "method" not in run.results:
        if run.table and any(row.is_difference or row.method.endswith(" (paper)") for row in run.table.rows):
            run.notes.append(
                "The paper's rows are left out: this run is of an earlier version, which did not look whether "
                "all is as it was published; evaluate its checkpoint again."
            )
        renamed = {"CSTL": run.method}
        if run.table:
            rows = [row for row in run.table.rows if not (row.is_difference or row.method.endswith(" (paper)"))]
            rows = [replace(row, method=renamed.get(row.method, row.method)) for row in rows]
            run.table = replace(run.table, rows=tuple(rows))
        measures = run.results.get("measures") or {}
        run.results["measures"] = {renamed.get(name, name): found for name, found in measures.items()}
    elif reason := run.results.get("published_left_out"):
        run.notes.append(f"The paper's rows are left out: {shown(reason)}.")


def _find_store(run: Run) -> None:
    """The store the run was tested on, if it is still there and still the same."""
    data = run.config.get("data", {})
    if not data.get("store"):
        run.notes.append("Silhouettes are left out: no config.yaml says where the prepared data set lies.")
        return
    if data["store"].replace("\\", "/").startswith("//"):
        run.notes.append("Silhouettes are left out: the store of config.yaml is on another machine.")
        return
    paths = [path for path in _candidates(run, data["store"]) if os.path.isdir(path)] or [Path(data["store"])]
    try:
        store = open_store(paths[0], data.get("dataset"), data.get("res"))
    except (ValueError, OSError) as error:
        run.notes.append(f"Silhouettes are left out: {str(error).splitlines()[0].removesuffix(' with:')}.")
        return
    tested_on = run.results.get("store")
    if tested_on not in (None, store.fingerprint):
        run.notes.append(
            f"Silhouettes are left out: the store {paths[0]} is not the one that the run was tested on, its "
            f"fingerprint is {store.fingerprint}, not {tested_on}; evaluate the checkpoint again on the store as it "
            "is now."
        )
        return
    if run.probes is not None:
        lines, subject = run.probes.sequence, np.array(run.probes.subjects)[run.probes.subject]
        if lines.max(initial=0) >= len(store) or (store.subjects[lines] != subject).any():
            run.notes.append(
                f"Silhouettes are left out: the store {paths[0]} is not the one that the run was tested on, its "
                "sequences are others; evaluate the checkpoint again on the store as it is now."
            )
            return
    run.store = store


def _candidates(run: Run, path: str) -> Iterator[Path]:
    """Where a path of the configuration may lead: from here, from where the run was started, from beside the run."""
    yield Path(path)
    hydra = run.folder / ".hydra" / "hydra.yaml"
    if hydra.is_file():
        with suppress(ValueError, OSError, KeyError, TypeError):
            cwd = read_yaml(hydra)["hydra"]["runtime"]["cwd"]
            if isinstance(cwd, str):
                yield Path(cwd) / path
    for parent in run.folder.resolve().parents[:4]:
        yield parent / path


def _command(folder: Path) -> str | None:
    """The command that made the run, as its first start kept it, under another name: a name is taken once."""
    with suppress(OSError, ValueError):
        check_inside(folder / COMMAND)
        words = shlex.split(read_text(folder / COMMAND))
        return shlex.join(f"{word}-again" if word.startswith("name=") else word for word in words)
    files = [folder / ".hydra" / name for name in ("overrides.yaml", "hydra.yaml")]
    if not all(file.is_file() for file in files):
        return None
    try:
        for file in (folder / ".hydra", *files):
            check_inside(file)
        overrides = [str(override) for override in read_yaml(files[0])]
        job = str(read_yaml(files[1])["hydra"]["job"]["name"])
    except Exception:  # a damaged note of Hydra's is no reason to fail
        return None
    overrides = [f"{item}-again" if item.startswith("name=") else item for item in overrides]
    return shlex.join(["python", "-m", f"cstl.{job}", *overrides])


def _explain(run: Run) -> None:
    """Notes on what is not there as a whole."""
    done, asked = run.steps
    if not run.is_finished:
        if done:
            progress = f"{done:,} of {asked:,} iterations are logged" if asked else f"{done:,} iterations are logged"
        else:
            progress = "no iteration is logged yet"
        if (run.folder / ERROR).is_file():
            run.notes.insert(0, f"It failed: {last_words(run.folder) or 'no message'}")
        run.notes.insert(
            0,
            f"This run is not finished: {progress}, and results.json is not there. The same command goes on with it; "
            "this page shows what there is.",
        )
    elif run.probes is None and not (run.folder / "probes.npz").exists():
        again = (
            f"python -m cstl.evaluate checkpoint='{run.checkpoint}'" if run.checkpoint else "python -m cstl.evaluate"
        )
        run.notes.append(
            "Heat maps, confusions and the hardest probes are left out: probes.npz is not there, as in runs of older "
            f"versions. {again} writes it."
        )
    if run.is_finished and run.embeddings is None and not (run.folder / "embeddings.npz").exists():
        run.notes.append("The map of the embeddings is left out: embeddings.npz is not there, as in older runs.")
    run.notes[:0] = remarks_of(run.results)
    for probe, row in run.results.get("rank1", {}).items():
        if row["mean"] is None:
            run.notes.append(f"{probe} has no result: no probe sequence of it could be counted in the test set.")
