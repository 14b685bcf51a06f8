"""Training steps of any network and optimiser: what one whose gradient is not finite leaves as it was."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn, optim

from cstl.data import Protocol, Store
from cstl.data.datamodule import GaitDataModule
from cstl.recognizer import GaitRecognizer

Make = Callable[[list[nn.Parameter]], optim.Optimizer]
BAD = 2  # the step whose activations are not finite, counted from 0
OPTIMIZERS: dict[str, Make] = {
    "fused Adam": lambda p: optim.Adam(p, 1e-2, fused=True),
    "fused AdamW": lambda p: optim.AdamW(p, 1e-2, fused=True),
    "AdamW": lambda p: optim.AdamW(p, 1e-2, weight_decay=0.1),
    "AdamW, foreach": lambda p: optim.AdamW(p, 1e-2, weight_decay=0.1, foreach=True),
    "Adam, amsgrad": lambda p: optim.Adam(p, 1e-2, amsgrad=True),
    "SGD": lambda p: optim.SGD(p, 1e-2, momentum=0.9, weight_decay=0.1),
    "SGD, nesterov, foreach": lambda p: optim.SGD(p, 1e-2, momentum=0.9, nesterov=True, foreach=True),
    "fused SGD": lambda p: optim.SGD(p, 1e-2, momentum=0.9, weight_decay=0.1, fused=True),
    **{
        kind.__name__: lambda p, kind=kind: kind(p, 1e-2)
        for kind in (optim.Adagrad, optim.Adadelta, optim.Adamax, optim.ASGD, optim.NAdam, optim.RAdam,
            optim.RMSprop,
                     optim.Rprop, optim.Adafactor)
    },
}  # fmt: skip


class Foreign(nn.Module):
    """A small network of somebody else: frames folded into the batch, PyTorch's batch norms, a
    count of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4, momentum=None)
        self.embedding, self.neck, self.classes = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.register_buffer("seen", torch.tensor(0))
        self.factor = 1.0

    def forward(self, silhouettes: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.norm(self.factor * self.first(silhouettes.flatten(0, 1)[:, None]))
        x = x.relu().amax((2, 3)).unflatten(0, silhouettes.shape[:2]).amax(1)
        self.seen += len(x)
        embeddings = self.embedding(x)
        return embeddings[:, None], self.classes(self.neck(embeddings))[:, None]


class Watch(Callback):
    """Spoils one step, and notes all that training knows after each."""

    def __init__(self, bad: int = BAD, factor: float = math.nan) -> None:
        self.bad, self.factor, self.states = bad, factor, []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.network.factor = self.factor if trainer.global_step == self.bad else 1.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        state = pl_module.network.state_dict(), trainer.optimizers[0].state_dict()["state"]
        self.states.append(copy.deepcopy(state))


def batches(store: Store, protocol: Protocol, steps: int) -> GaitDataModule:
    sizes = {"subjects": 2, "sequences": 2, "frames": 4, "steps": steps}
    return GaitDataModule(store.path, dataset="tiny", protocol=protocol, res=64, seed=1, workers=0, **sizes)


def train(
    store: Store, protocol: Protocol, make: Make | None, watch: Watch, steps: int = 5, **settings: Any
) -> GaitRecognizer:
    class Recognizer(GaitRecognizer):
        def configure_optimizers(self) -> Any:
            if make is None:
                return super().configure_optimizers()
            optimizer = make(list(self.parameters()))
            schedule = optim.lr_scheduler.MultiStepLR(optimizer, [3])
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    torch.manual_seed(0)
    recognizer = Recognizer(Foreign(), batch_norm="ghost", **settings)
    data = batches(store, protocol, steps)
    quiet = dict.fromkeys(
        (
            "logger",
            "enable_checkpointing",
            "enable_progress_bar",
            "enable_model_summary",
            "use_distributed_sampler",
        ),
        False,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[watch],
        **quiet,
    )
    trainer.fit(recognizer, datamodule=data)
    return recognizer


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_nothing(store: Store, protocol: Protocol, name: str) -> None:
    watch = Watch()
    recognizer = train(store, protocol, OPTIMIZERS[name], watch)
    # parameters, running statistics, counts and what the optimiser remembers
    assert same(watch.states[BAD], watch.states[BAD - 1])
    assert not same(watch.states[BAD + 1], watch.states[BAD])
    assert all(value.isfinite().all() for value in recognizer.state_dict().values())
    schedule = recognizer.lr_schedulers()
    assert schedule.last_epoch == 5  # the schedule counts it


@pytest.mark.parametrize("name", ["fused Adam", "SGD", "fused SGD", "AdamW"])
def test_nor_does_the_very_first(store: Store, protocol: Protocol, name: str) -> None:
    """Fused SGD would keep what its memory held before as momentum."""
    spoilt, late = Watch(bad=0), Watch(bad=-1)
    train(store, protocol, OPTIMIZERS[name], spoilt, steps=2)
    assert spoilt.states[0][0]["norm.num_batches_tracked"] == 0
    torch.manual_seed(0)
    fresh = Foreign().state_dict()
    assert same(spoilt.states[0][0], fresh)
    assert all(value.isfinite().all() for state in spoilt.states[1][1].values() for value in state.values())
    train(store, protocol, OPTIMIZERS[name], late, steps=1)
    assert not same(late.states[0][0], fresh)


@pytest.mark.parametrize("factor", [math.inf, -math.inf, 1e30])
def test_running_statistics_stay_finite(store: Store, protocol: Protocol, factor: float) -> None:
    """Of 1e30 the variance is infinite, and the gradient through it is zero."""
    watch = Watch(factor=factor)
    recognizer = train(store, protocol, None, watch)
    before, after = (watch.states[step][0] for step in (BAD - 1, BAD))
    assert same(before["norm.running_var"], after["norm.running_var"])
    assert all(value.isfinite().all() for value in recognizer.state_dict().values())


def test_too_many_in_a_row_stop_whatever_the_optimiser(store: Store, protocol: Protocol) -> None:
    class Ruined(Watch):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            pl_module.network.factor = math.nan

    with pytest.raises(FloatingPointError, match=r"3 steps in a row, first at step 1"):
        train(store, protocol, OPTIMIZERS["SGD"], Ruined(), max_nonfinite_steps=3)


def test_optimisers_that_look_several_times_are_refused(store: Store, protocol: Protocol) -> None:
    with pytest.raises(ValueError, match=r"LBFGS makes the loss of a batch several times.*AdamW"):
        train(store, protocol, lambda p: optim.LBFGS(p, 1e-2), Watch(bad=-1))


def test_optimisers_change_what_they_did_before(store: Store, protocol: Protocol) -> None:
    """Where every gradient is finite, no bit is another one than in a plain loop."""
    watch = Watch(bad=-1)
    recognizer = train(store, protocol, OPTIMIZERS["AdamW"], watch, steps=3)
    torch.manual_seed(0)
    plain = GaitRecognizer(Foreign(), batch_norm="ghost")
    optimizer = OPTIMIZERS["AdamW"](list(plain.parameters()))
    for batch in batches(store, protocol, 3).train_dataloader():
        optimizer.zero_grad()
        plain.training_step(batch, 0).backward()
        optimizer.step()
    assert same(plain.network.state_dict(), recognizer.network.state_dict())
