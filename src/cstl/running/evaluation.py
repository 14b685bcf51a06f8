"""A network is evaluated on the test subjects, and what a run leaves is written."""

import logging
import time
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from cstl.config import Plain, digest
from cstl.data.alignment import frame_size
from cstl.data.datamodule import GaitDataModule
from cstl.files import shown, write_json, write_text
from cstl.metrics import CrossViewResult
from cstl.models.cost import cost
from cstl.recognizer import GaitRecognizer, cross_view_accuracy
from cstl.reporting import tables
from cstl.reporting.published import BASELINE, Published, caveats, coverage, method_name, published
from cstl.reporting.remarks import remarks
from cstl.run_folder import (
    EMBEDDINGS,
    METRICS,
    PROBES,
    RESULTS,
    read_metrics,
    versions,
    write_embeddings,
    write_probes,
)
from cstl.running import terminal
from cstl.running.console import CONSOLE, say
from cstl.running.processes import is_first
from cstl.trained import AUTHORS, Met, met, ranges

LOG = logging.getLogger(__name__)


def evaluate_and_write(
    folder: Path,
    settings: Plain,
    trainer: Trainer,
    recognizer: GaitRecognizer,
    data: GaitDataModule,
    checkpoint: Path,
    seconds: dict[str, float],
) -> Plain:
    """Evaluate on the test subjects; rank 0 prints the paper's table and writes what a run leaves.

    Returns:
        What `results.json` says; on other ranks nothing.
    """
    started = time.monotonic()
    # else the evaluation after the last step has just found it
    if recognizer.result_step != trainer.global_step:
        trainer.test(recognizer, datamodule=data, verbose=False)
    if not is_first():
        return {}
    seconds = seconds | {"evaluation": time.monotonic() - started}
    result, trained = recognizer.result, recognizer.config
    assert result is not None
    assert trained is not None
    method = method_name(trained | {"label": settings["label"]})
    methods = {method: result} | ({BASELINE: gait_energy_images(data)} if settings["baseline"] else {})

    dataset, size = settings["dataset"], frame_size(settings["res"])
    origin = _origin(trained)
    title = dataset["title"] + (f", trained on {origin}" if origin != dataset["name"] else "")
    seen = met(recognizer.trained, dataset, data, data.test_subjects)
    paper = published(data, trained, recognizer.trained, dataset, settings["baselines"])
    said = caveats(data, *map(len, seen))
    table = tables.paper_table(
        methods, title, size, published=paper.rows, compared=paper.compared, remarks=said
    )
    CONSOLE.print()
    CONSOLE.print(tables.to_terminal(table, CONSOLE.width), highlight=False)
    for what, reason in {"published rows": paper.left_out, "baselines": paper.refused}.items():
        if reason:
            CONSOLE.print()
            say(f"the {what} are left out: {reason}")
    CONSOLE.print()
    CONSOLE.print(tables.summary(result), highlight=False)
    for ending in tables.TEXT_FORMATS:
        write_text(folder / f"table.{ending}", tables.to_text(table, ending))

    content = _content(settings, recognizer, data, seen, paper, methods, checkpoint, seconds)
    logged = read_metrics(folder / METRICS)
    noticed = remarks(
        result,
        *recognizer.mean_embeddings,
        gallery=[data.protocol.conditions.index(name) for name in data.protocol.gallery],
        margin=(trained["model"].get("triplet") or {}).get("margin"),
        baseline=methods.get("GEI"),
        logged=logged,
    )
    content["remarks"] = noticed
    names = {"subjects": data.test_subjects, "conditions": data.protocol.conditions, "views": result.views}
    embeddings, labels = (part.numpy() for part in recognizer.mean_embeddings)
    write_probes(folder / PROBES, result.arrays() | {"labels": labels}, **names)
    if settings["keep_embeddings"]:
        write_embeddings(folder / EMBEDDINGS, embeddings, labels)
    write_json(folder / RESULTS, content)
    if settings["report"]:
        write_report(folder)
    CONSOLE.print()
    last_words = terminal.closing(
        folder, table, len(data.test_subjects), seconds, checkpoint, noticed, method
    )
    terminal.write_line(terminal.log_file(folder), last_words)
    say(last_words)
    return content


def _content(
    settings: Plain,
    recognizer: GaitRecognizer,
    data: GaitDataModule,
    seen: Met,
    paper: Published,
    methods: dict[str, CrossViewResult],
    checkpoint: Path,
    seconds: dict[str, float],
) -> Plain:
    """Return what `results.json` says, but for the remarks."""
    dataset, trained = settings["dataset"], recognizer.config or {}
    method, result = next(iter(methods.items()))
    return {
        "method": method,
        "dataset": dataset["name"],
        "trained_on": _origin(trained),
        "trained_subjects": {
            **{
                shown(name): {"subjects": len(of), "names": ranges(of)}
                for name, of in recognizer.trained.subjects.items()
            },
            **dict.fromkeys(map(shown, recognizer.trained.unknown), "training subjects unknown"),
        },
        "seen_test_subjects": {"subjects": len(seen.trained_on), "names": ranges(seen.trained_on)},
        "chosen_by_test_subjects": {"subjects": len(seen.chosen_by), "names": ranges(seen.chosen_by)},
        "coverage": coverage(data),
        "published": paper.results[paper.compared].method if paper.compared else None,
        "published_left_out": paper.left_out,
        "published_rows": {
            name: {"rank1": theirs.rank1, "source": theirs.source} for name, theirs in paper.results.items()
        },
        "resolution": list(frame_size(settings["res"])),
        "store": data.store.fingerprint,
        "train_subjects": len(data.train_subjects),
        "test_subjects": len(data.test_subjects),
        "gallery_sequences": int(result.gallery_sequences.sum()),
        "probe_sequences": {probe: int(count.sum()) for probe, count in result.probe_sequences.items()},
        "rank1": result.rows(),
        "rank1_matched": result.rows(matched=True),
        "measures": {method: found.measures() for method, found in methods.items()},
        "network": network_cost(recognizer, data),
        "seconds": seconds,
        "checkpoint": str(checkpoint),
        "configuration": digest(trained),
        "versions": versions(),
    }


def _origin(trained: Plain) -> str:
    """Return the name of the data set that a network was trained on, or of who trained it."""
    return trained["dataset"]["name"] if "dataset" in trained else trained.get("origin", AUTHORS)


def write_report(folder: Path) -> None:
    """Write `report.html` and `figures/`; what goes wrong there is said, but does not undo a finished run."""
    from cstl.reporting.page import report_run  # here: libraries for plots that nothing else needs

    try:
        report_run(folder)
    except Exception as error:
        LOG.warning(
            "the report of %s could not be written: %s: %s", folder, type(error).__name__, shown(error)
        )


def network_cost(recognizer: GaitRecognizer, data: GaitDataModule) -> Plain:
    """Return what the network costs on one sequence of as many frames as a training clip has at most."""
    frames = data.frames if isinstance(data.frames, int) else max(data.frames)
    shape = (1, frames, data.store.height, data.store.width)
    silhouettes = torch.full(shape, 0.5, device=recognizer.device).to(recognizer.dtype)
    with recognizer.trainer.precision_plugin.forward_context():
        return cost(recognizer.network, silhouettes)


def gait_energy_images(data: GaitDataModule) -> CrossViewResult:
    """Return the baseline: mean silhouettes of sequences, nearest neighbour (Han & Bhanu, TPAMI 2006)."""
    # an image of H·W values a sequence; the first process alone makes them
    metric = cross_view_accuracy(data.protocol, half_embeddings=True, sync_on_compute=False)
    for batch in data.test_dataloader(sharded=False):
        sums = batch.silhouettes.sum(dim=1, dtype=torch.float32).flatten(1)  # (B, H·W); padding is zero
        images = sums / (255 * batch.lengths[:, None])
        metric.update(images[:, None], batch.subject, batch.condition, batch.view)
    return metric.compute()
