"""Comparing all probes with the gallery, beside the matrix products alone; and the memory it takes."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.harness import AT_MOST, Curve, Row, median_seconds, paired_ratio, peak_memory, wanted
from benchmarks.store import CONDITIONS, VIEWS, casiab, sequence_names
from cstl.metrics import CrossViewAccuracy

CASIAB = 5_500  # sequences of the test set: 50 subjects, 10 conditions, 11 views
PARTS, VALUES = 64, 256
PROTOCOL = casiab(["999"], ["001"])
GALLERIES = {  # of the two protocols: conditions of the gallery and of the probes
    PROTOCOL.gallery: [name for names in PROTOCOL.probes.values() for name in names],
    PROTOCOL.cross_view_gallery: [name for names in PROTOCOL.cross_view_probes.values() for name in names],
}


def rows(quick: bool) -> Iterator[Row]:
    """Time and memory at CASIA-B's size, both protocols."""
    number, parts = (220, 4) if quick else (CASIAB, PARTS)
    detail = f"{number:,} sequences × {parts} × {VALUES}, both protocols"
    if wanted(name := "evaluation time"):
        metric = _filled(number, parts)
        figures = paired_ratio(metric.compute, _products(metric), pairs=1 if quick else 5)
        yield Row(
            name, figures[0], 1.25, AT_MOST, *figures[1:], f"{detail}, {torch.get_num_threads()} threads"
        )
        del metric
    if wanted(name := "evaluation beside one busy process, over its own quiet time"):
        metric = _filled(number, parts)
        figures = paired_ratio(
            _beside_a_busy_process(metric.compute), metric.compute, pairs=1 if quick else 5
        )
        yield Row(
            name, figures[0], 2.0, AT_MOST, *figures[1:], f"{detail}, {torch.get_num_threads()} threads"
        )
        del metric
    if wanted(name := "evaluation memory"):
        peak, embeddings = peak_memory(evaluate, number, parts), number * parts * VALUES * 4
        figures = f"peak {peak / 1e6:,.0f} MB, embeddings {embeddings / 1e6:,.0f} MB"
        yield Row(name, peak / embeddings, 1.5, AT_MOST, math.nan, math.nan, f"{detail}: {figures}")


def curves(quick: bool) -> Iterator[Curve]:
    """Time goes with probes × gallery; memory beyond the embeddings stays."""
    if wanted(name := "evaluation over sequences"):
        curve = Curve(name, "sequences")
        for number in (110, 220) if quick else (1_100, 2_200, 4_400, 8_800):
            metric = _filled(number, 16)
            comparisons = sum(len(_rows(metric, g)) * len(_rows(metric, p)) for g, p in GALLERIES.items())
            seconds = median_seconds(metric.compute)
            del metric
            beyond = peak_memory(evaluate, number, 16) - number * 16 * VALUES * 4
            figures = {
                "probes × gallery": comparisons,
                "seconds": seconds,
                "MB beyond embeddings": beyond / 1e6,
            }
            curve.points.append({"sequences": number, **figures})
        yield curve


def evaluate(number: int, parts: int) -> None:
    """A whole evaluation of random embeddings."""
    _filled(number, parts).compute()


def _beside_a_busy_process(work: Callable[[], Any]) -> Callable[[], None]:
    """Do the work while another process computes, which is there before it begins."""

    def call() -> None:
        busy = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
        )
        try:
            assert busy.stdout
            busy.stdout.readline()
            work()
        finally:
            busy.kill()
            busy.wait()

    return call


def _filled(number: int, parts: int) -> CrossViewAccuracy:
    metric = CrossViewAccuracy(
        CONDITIONS,
        VIEWS,
        PROTOCOL.gallery,
        PROTOCOL.probes,
        cross_view_gallery=PROTOCOL.cross_view_gallery,
        cross_view_probes=PROTOCOL.cross_view_probes,
        compute_with_cache=False,
    )
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor(
        [(int(s), CONDITIONS.index(c), VIEWS.index(v)) for s, c, v in sequence_names(number)]
    )
    for some in labels.split(25):  # a test batch
        metric.update(torch.randn(len(some), parts, VALUES, generator=generator), *some.T)
    return metric


def _rows(metric: CrossViewAccuracy, conditions: Sequence[str]) -> torch.Tensor:
    wanted_ones = torch.tensor([CONDITIONS.index(name) for name in conditions])
    return torch.isin(torch.cat(metric.labels)[:, 1], wanted_ones).nonzero().squeeze(1)


def _products(metric: CrossViewAccuracy) -> Callable[[], None]:
    """Part by part, blocks of probes with the whole gallery, into the same place, everything in
    order beforehand.
    """
    embeddings = torch.cat(metric.embeddings).transpose(0, 1)  # (P, N, D)
    pairs = [
        (embeddings[:, _rows(metric, probes)].split(1024, 1), embeddings[:, _rows(metric, gallery)].mT)
        for gallery, probes in GALLERIES.items()
    ]
    places = [torch.empty(1024, gallery.shape[2]) for _, gallery in pairs]

    def multiply() -> None:
        for (blocks, gallery), place in zip(pairs, places, strict=True):
            for block in blocks:
                for x, y in zip(block, gallery, strict=True):
                    torch.mm(x, y, out=place[: len(x)])

    return multiply
