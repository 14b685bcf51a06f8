"""Preparing raw frames, beside decoding their PNG files alone; CPU time of one process."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.harness import AT_MOST, Curve, Row, paired_ratio, wanted
from benchmarks.store import CONDITIONS, VIEWS, casiab
from cstl.data.alignment import frame_size
from cstl.preparation.plan import Preparation
from cstl.preparation.prepare import prepare
from cstl.walkers.synthesis import synthesize


def rows(quick: bool) -> Iterator[Row]:
    """Synthetic walkers, 320×240, from files to a finished store."""
    names = {res: "preparation {}×{}".format(*frame_size(res)) for res in (64, 128)}
    if not any(map(wanted, names.values())):
        return
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "store"
        views, conditions = (VIEWS[:2], CONDITIONS[:1]) if quick else (VIEWS, CONDITIONS)
        # what is done once for a tree should weigh little, as it does in a real one
        subjects = 1 if quick else 4
        synthesize(raw, subjects=subjects, views=views, conditions=conditions, workers=1, progress=False)
        files = sorted(raw.rglob("*.png"))
        protocol = casiab(["002"], ["001", "003", "004"])
        for res, name in names.items():
            if not wanted(name):
                continue

            def make(res: int = res) -> None:
                shutil.rmtree(out, ignore_errors=True)
                prepare(Preparation(raw, out, "casiab", protocol, res), workers=1, progress=False)

            def decode() -> None:
                for file in files:
                    with open(file, "rb", buffering=0) as opened:
                        cv2.imdecode(np.frombuffer(opened.read(), np.uint8), cv2.IMREAD_UNCHANGED)

            figures = paired_ratio(make, decode, pairs=1 if quick else 5, clock=time.process_time)
            detail = f"{len(files):,} frames of 320×240, {len(files) / figures[1]:,.0f} a second and core"
            yield Row(name, figures[0], 1.25, AT_MOST, *figures[1:], detail)
    cv2.setNumThreads(threads)


def curves(quick: bool) -> Iterator[Curve]:
    """None: the cost is linear in the frames."""
    return iter(())
