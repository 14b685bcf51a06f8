import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from cstl.data import Protocol, Store, datamodule
from cstl.data.batches import TrainIndex
from cstl.data.datamodule import GaitDataModule, TrainBatch


@pytest.fixture
def options(store: Store, protocol: Protocol) -> dict[str, object]:
    recipe = {"subjects": 3, "sequences": 2, "frames": 12, "steps": 6, "seed": 5, "eval_frames": 60}
    return {"store": store.path, "protocol": protocol, "res": 64, "dataset": "tiny", **recipe}


def test_training_batches(options: dict[str, object], store: Store) -> None:
    found = list(GaitDataModule(**options).train_dataloader())
    assert len(found) == 6
    assert set(torch.cat([batch.labels for batch in found]).tolist()) == {0, 1, 2, 3}
    for batch in found:
        assert (batch.silhouettes.shape, batch.silhouettes.dtype) == ((6, 12, 64, 44), torch.uint8)
        assert (batch.labels.shape, batch.labels.dtype) == ((6,), torch.int64)
        for silhouettes, label in zip(batch.silhouettes.numpy(), batch.labels.tolist(), strict=True):
            own = store.subjects == f"{label + 1:03d}"  # class k is the k-th training subject
            frames = {
                store.frames[i].tobytes()
                for start, length in zip(store.starts[own], store.lengths[own], strict=True)
                for i in range(start, start + length)
            }
            assert all(frame.tobytes() in frames for frame in silhouettes)


def test_test_batches(options: dict[str, object], store: Store, protocol: Protocol) -> None:
    data = GaitDataModule(**options)
    assert data.test_subjects == ["005", "006"]
    found = list(data.test_dataloader())
    assert len(found) == len(data.test_dataloader())
    seen = []
    for batch in found:
        assert batch.silhouettes.dtype == torch.uint8
        assert batch.lengths.max() == batch.silhouettes.shape[1]
        assert batch.silhouettes.shape[0] * batch.silhouettes.shape[1] <= 60
        assert all(column.dtype == torch.int64 for column in batch[1:])
        for silhouettes, length, subject, condition, view, sequence in zip(*batch, strict=True):
            assert store.subjects[sequence] == data.test_subjects[subject]
            assert store.conditions[sequence] == protocol.conditions[condition]
            assert store.views[sequence] == protocol.views[view]
            start = store.starts[sequence]
            np.testing.assert_array_equal(silhouettes[:length], store.frames[start : start + length])
            assert length == store.lengths[sequence]
            assert not silhouettes[length:].any()
            seen.append(int(sequence))
    assert sorted(seen) == np.flatnonzero(np.isin(store.subjects, ["005", "006"])).tolist()


def test_conditions_that_are_neither_gallery_nor_probe_are_not_tested(
    options: dict[str, object], store: Store, protocol: Protocol
) -> None:
    options["protocol"] = replace(protocol, probes={"NM": ["nm-02"]}, views=["090"], exclude=["005"])
    sequences = torch.cat([batch.sequence for batch in GaitDataModule(**options).test_dataloader()]).tolist()
    found = {(store.subjects[i], store.conditions[i], store.views[i]) for i in sequences}
    assert found == {("006", "nm-01", "090"), ("006", "nm-02", "090")}


def equal(first: list, second: list) -> bool:
    return len(first) == len(second) and all(
        all(a is b is None or torch.equal(a, b) for a, b in zip(one, other, strict=True))
        and type(one) is type(other)
        for one, other in zip(first, second, strict=True)
    )


def test_workers_do_not_change_a_batch(options: dict[str, object]) -> None:
    alone, shared = GaitDataModule(**options), GaitDataModule(**options, workers=2)
    assert equal(list(alone.train_dataloader()), list(shared.train_dataloader()))
    assert equal(list(alone.test_dataloader()), list(shared.test_dataloader()))


def test_what_a_worker_is_given_does_not_grow_with_the_store(options: dict[str, object]) -> None:
    data = GaitDataModule(**options)
    loader = data.train_dataloader()
    assert len(pickle.dumps(loader.dataset)) < 1000
    assert len(pickle.dumps(next(iter(loader.sampler)))) < 8 * 6 * 12 + 1000
    dataset = pickle.loads(pickle.dumps(loader.dataset))
    dataset[TrainIndex(np.zeros((2, 3), np.int64), np.zeros(2, np.int64))]
    assert set(vars(dataset.store)) == {"path", "frames"}  # no table was read


def test_classes_are_the_subjects_that_are_there(options: dict[str, object], protocol: Protocol) -> None:
    options["protocol"] = replace(
        protocol, train=["006", "001-003", "777"], test=["004-005"], exclude=["002"]
    )
    data = GaitDataModule(**options)
    assert data.train_subjects == ["001", "003", "006"]
    assert data.num_classes == 3


def test_errors(options: dict[str, object], protocol: Protocol, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a batch needs 5 subjects, .* training sequences of 4"):
        GaitDataModule(**{**options, "subjects": 5}).train_dataloader()
    with pytest.raises(ValueError, match="no gallery or probe sequence of the protocol's test subjects"):
        GaitDataModule(**{**options, "protocol": replace(protocol, test=["777"])}).test_dataloader()
    with pytest.raises(ValueError, match=r"a batch needs 3 subjects, .* training sequences of 0"):
        GaitDataModule(**{**options, "protocol": replace(protocol, train=["777"])}).train_dataloader()
    with pytest.raises(FileNotFoundError, match=r"python -m cstl\.prepare dataset=tiny res=64"):
        _ = GaitDataModule(**{**options, "store": tmp_path / "nothing"}).num_classes
    with pytest.raises(ValueError, match=r"res=128 \(128x88\)"):
        _ = GaitDataModule(**{**options, "res": 128}).num_classes


class Recorder(pl.LightningModule):
    """Keeps the sum of every batch it is given, and a checkpoint after four."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.folder = folder
        self.trained: list[int] = []
        self.tested = 0

    def training_step(self, batch: TrainBatch, _: int) -> Tensor:
        self.trained.append(int(batch.silhouettes.sum()))
        return self.weight.sum()

    def on_train_batch_end(self, *_: object) -> None:
        if self.trainer.global_step == 4:
            self.trainer.save_checkpoint(self.folder / "step-4.ckpt")

    def validation_step(self, batch: datamodule.TestBatch, _: int) -> None:
        self.tested += len(batch.lengths)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_the_batches_it_has_not_seen(
    options: dict[str, object], tmp_path: Path, workers: int
) -> None:
    def fit(checkpoint: Path | None = None) -> Recorder:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        recorder = Recorder(tmp_path)
        trainer.fit(recorder, datamodule=GaitDataModule(**options, workers=workers), ckpt_path=checkpoint)
        assert trainer.global_step == 6
        return recorder

    whole = fit()
    assert len(set(whole.trained)) == 6
    assert whole.tested == 12
    assert fit(tmp_path / "step-4.ckpt").trained == whole.trained[4:]


def test_held_out_subjects_are_trained_on_no_more(store: Store, protocol: Protocol, options: dict) -> None:
    held_out = replace(protocol, validation=1)
    data = GaitDataModule(**options | {"protocol": held_out})
    test, validation = data.val_dataloader()
    assert (data.train_subjects, data.validation_subjects) == (["001", "002", "003"], ["004"])
    seen = {store.subjects[i] for batch in validation for i in batch.sequence.tolist()}
    assert seen == {"004"}
    assert sum(len(batch.sequence) for batch in test) == 12


def test_max_frames_bounds_a_sequence(options: dict) -> None:
    whole, cut = (list(GaitDataModule(**options, max_frames=n).test_dataloader()) for n in (None, 7))
    first = {int(i): s[:7] for b in whole for i, s in zip(b.sequence, b.silhouettes, strict=True)}
    for batch in cut:
        assert batch.lengths.max() <= 7
        for i, silhouettes, length in zip(batch.sequence, batch.silhouettes, batch.lengths, strict=True):
            assert torch.equal(silhouettes[:length], first[int(i)][:length])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process cannot be forked here")
def test_a_worker_leaves_signals_to_the_run() -> None:
    """A terminal and a cluster send them to all processes; only a second SIGTERM, the run's
    own, ends a worker.
    """
    if not (child := os.fork()):
        datamodule._leave_signals_to_the_run(0)
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
        signal.alarm(60)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
