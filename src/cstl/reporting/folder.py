"""What a page shows of a run beside its files is found: the network's weights, the store's silhouettes."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from cstl.checkpoint import load_weights
from cstl.data.store import open_store
from cstl.files import shown
from cstl.reporting.entry import ShownRun
from cstl.reporting.remarks import remarks_of
from cstl.run_folder import CHECKPOINTS, CONFIG, METRICS, PROBES, RESULTS, is_run, shown_settings


def read_run(folder: Path) -> ShownRun:
    """Read whatever of a run there is, and what it needs to be shown.

    Raises:
        FileNotFoundError: no such folder, or one that no run has written.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no run folder at {folder}; runs lie in runs/NAME (python -m cstl.runs lists them)"
        )
    if not is_run(folder):
        raise FileNotFoundError(
            f"{folder} is no run folder: expected {CONFIG}, {RESULTS}, {METRICS} or one of them, found none; "
            "name the folder that python -m cstl.train or cstl.evaluate wrote, runs/NAME"
        )
    run = ShownRun(folder)
    _ = run.config, run.results, run.table, run.curves, run.probes, run.embeddings
    run.notes += [
        f"{name} cannot be read and is left out: it is damaged, or still being written ({reason})."
        for name, reason in run.problems.items()
    ]
    _find_checkpoint(run)
    trained = (run.weights and run.weights.config) or {}
    if not run.config and trained.get("dataset", {}).get("name") == run.dataset:
        # an evaluation on the data set that the checkpoint was trained on
        run.config = shown_settings(trained)
    _name_method(run)
    _find_store(run)
    _explain(run)
    return run


def _find_checkpoint(run: ShownRun) -> None:
    """Find the checkpoint that the results belong to, wherever the run was moved; unfinished: the last."""
    own = run.folder / CHECKPOINTS
    found = []
    if named := run.results.get("checkpoint"):
        found = [own / Path(named).name, *run.candidates(named)]
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


def _name_method(run: ShownRun) -> None:
    """Leave out the paper's rows of earlier versions, which called every network CSTL and compared all."""
    if run.results and "method" not in run.results:
        if run.table and any(row.is_difference or row.method.endswith(" (paper)") for row in run.table.rows):
            run.notes.append(
                "The paper's rows are left out: this run is of an earlier version, which did not look "
                "whether all is as it was published; evaluate its checkpoint again."
            )
        renamed = {"CSTL": run.method}
        if run.table:
            rows = [
                row for row in run.table.rows if not (row.is_difference or row.method.endswith(" (paper)"))
            ]
            rows = [replace(row, method=renamed.get(row.method, row.method)) for row in rows]
            run.table = replace(run.table, rows=tuple(rows))
        measures = run.results.get("measures") or {}
        run.results["measures"] = {renamed.get(name, name): found for name, found in measures.items()}
    elif reason := run.results.get("published_left_out"):
        run.notes.append(f"The published rows are left out: {shown(reason)}.")


def _find_store(run: ShownRun) -> None:
    """Find the store the run was tested on, if it is still there and still the same."""
    dataset = run.config.get("dataset", {})
    if not (folder := dataset.get("store")):
        run.notes.append("Silhouettes are left out: no config.yaml says where the prepared data set lies.")
        return
    if folder.replace("\\", "/").startswith("//"):
        run.notes.append("Silhouettes are left out: the store of config.yaml is on another machine.")
        return
    paths = [path for path in run.candidates(folder) if os.path.isdir(path)] or [Path(folder)]
    try:
        store = open_store(paths[0], dataset.get("name"), run.config.get("res"))
    except (ValueError, OSError) as error:
        run.notes.append(f"Silhouettes are left out: {str(error).splitlines()[0].removesuffix(' with:')}.")
        return
    tested_on = run.results.get("store")
    if tested_on not in (None, store.fingerprint):
        run.notes.append(
            f"Silhouettes are left out: the store {paths[0]} is not the one that the run was tested on, its "
            f"fingerprint is {store.fingerprint}, not {tested_on}; evaluate the checkpoint again on the "
            "store as it is now."
        )
        return
    if run.probes is not None:
        lines, subject = run.probes.sequence, np.array(run.probes.subjects)[run.probes.subject]
        if lines.max(initial=0) >= len(store) or (store.subjects[lines] != subject).any():
            run.notes.append(
                f"Silhouettes are left out: the store {paths[0]} is not the one that the run was tested on, "
                "its sequences are others; evaluate the checkpoint again on the store as it is now."
            )
            return
    run.store = store


def _explain(run: ShownRun) -> None:
    """Notes on what is not there as a whole."""
    done, asked = run.steps
    if run.state == "finished" and not run.is_finished:
        run.notes.insert(
            0,
            "This run was trained and not evaluated, as evaluate=false asked; the same command without it "
            "evaluates its model.",
        )
    elif not run.is_finished:
        logged = f"{done:,}{f' of {asked:,}' if asked else ''} iterations are logged"
        progress = logged if done else "no iteration is logged yet"
        if run.error is not None:
            run.notes.insert(0, f"It failed: {run.error or 'no message'}")
        run.notes.insert(
            0,
            f"This run is not finished: {progress}, and results.json is not there. The same command goes on "
            "with it; this page shows what there is.",
        )
    elif run.probes is None and not (run.folder / PROBES).exists():
        again = "python -m cstl.evaluate" + (f" checkpoint='{run.checkpoint}'" if run.checkpoint else "")
        run.notes.append(
            "Heat maps, confusions and the hardest probes are left out: probes.npz is not there, as in runs "
            f"of older versions. {again} writes it."
        )
    if run.probes is not None and not run.tallies and PROBES in run.problems:
        run.notes.append(f"Intervals are left out: {PROBES} is {run.without_intervals}.")
    run.notes[:0] = remarks_of(run.results)
    for probe, row in run.results.get("rank1", {}).items():
        if row["mean"] is None:
            run.notes.append(
                f"{probe} has no result: no probe sequence of it could be counted in the test set."
            )
