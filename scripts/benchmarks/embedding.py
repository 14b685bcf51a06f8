"""Embedding a test set through the recogniser, beside the encoder's forward alone on the same frames."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.harness import AT_MOST, Curve, Row, paired_ratio, wanted
from benchmarks.store import casiab, sequence_names, write_store
from cstl.data.datamodule import GaitDataModule
from cstl.models import CSTL
from cstl.recognizer import GaitRecognizer, cross_view_accuracy

PRECISIONS = {"float32": False, "bf16": True}  # autocast


def rows(quick: bool) -> Iterator[Row]:
    """Loading, masked batches and the metric's update are in it; the encoder's frames are float
    and without padding.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = small_test_set(Path(folder), quick)
        network = CSTL(height=64, channels=(4, 8, 16) if quick else (32, 64, 128)).eval()
        for precision, autocast in PRECISIONS.items():
            if wanted(name := f"embedding a test set, {precision}"):
                ours, floor = embed(data, network, autocast), _encode(data, network.encoder, autocast)
                figures = paired_ratio(ours, floor, pairs=1 if quick else 5)
                lengths = data.store.lengths
                detail = f"{len(lengths)} sequences of {lengths.min()} to {lengths.max()} frames, 64×44"
                yield Row(name, figures[0], 1.3, AT_MOST, *figures[1:], detail)


def curves(quick: bool) -> Iterator[Curve]:
    """None: the network's are those of training."""
    return iter(())


def small_test_set(folder: Path, quick: bool) -> GaitDataModule:
    """Make short, middle and long sequences. A large test set has many of every length, so that a
    batch hardly varies.
    """
    lengths = np.arange(6) % 3 + 4 if quick else np.concatenate([np.arange(n, n + 5) for n in (40, 78, 116)])
    names = [name for name in sequence_names(110) if name[1] in ("nm-01", "nm-05")][: len(lengths)]
    write_store(folder / "store", names, lengths, 64)
    unused = {"subjects": 1, "sequences": 1, "frames": 1, "steps": 1, "seed": 1}
    return GaitDataModule(folder / "store", casiab(["002"], ["001"]), 64, "casiab", **unused)


def embed(data: GaitDataModule, network: nn.Module, autocast: bool = False) -> Callable[[], None]:
    """Make what is timed: loading, embedding and the metric's update of a test set."""
    recognizer = GaitRecognizer(network).eval()

    @torch.inference_mode()
    def embed() -> None:
        recognizer.metrics = {"test": cross_view_accuracy(data.protocol)}
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            for number, batch in enumerate(data.test_dataloader()):
                recognizer.validation_step(batch, number)

    return embed


def _encode(data: GaitDataModule, encoder: nn.Module, autocast: bool) -> Callable[[], None]:
    batches = []
    for batch in data.test_dataloader():
        valid = torch.arange(batch.silhouettes.shape[1]) < batch.lengths[:, None]
        batches.append(batch.silhouettes[valid].float() / 255)  # (frames, H, W)

    @torch.inference_mode()
    def encode() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            for frames in batches:
                encoder(frames)

    return encode
