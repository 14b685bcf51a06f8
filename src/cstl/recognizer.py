"""The LightningModule around a network: losses, optimiser, logging and the cross-view metric."""

from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.data.augment import Transform, augment
from cstl.data.datamodule import GaitDataModule, TestBatch, TrainBatch
from cstl.data.protocol import Protocol
from cstl.distributed import of_all_processes
from cstl.losses import TripletLoss
from cstl.metrics import CrossViewAccuracy, CrossViewResult
from cstl.models import set_batch_norm
from cstl.trained import NOBODY, Trained, to_plain, training_of


class GaitRecognizer(LightningModule):
    """Trains a network with triplet loss and cross-entropy; evaluates it by cross-view rank-1.

    Args:
        network: any with the contract of `cstl.models`.
        margin, mining: of the triplet loss, see `TripletLoss`.
        triplet_weight, cross_entropy_weight: the loss is their weighted sum, 1 and 1 in the paper.
        batch_norm, ghosts: over which sequences batch statistics are taken, see `cstl.models.set_batch_norm`;
            None: as the network was made.
        learning_rate: of Adam, constant or cut by `gamma` at each step of `milestones`.
        half_embeddings: keep the embeddings of an evaluation in float16, half the memory; means move by 0.01 points.
        patience: steps in a row whose gradient is not finite before training stops. Such a step changes nothing,
            neither parameters nor running statistics nor what the optimiser remembers, whichever optimiser it is: a
            float16 scaler makes a few of them on purpose while it searches its scale.
        augment: transforms of training sequences, one after the other, see `cstl.data.augment`.
        augment_together: what happens is drawn once for the whole batch, in place of once a sequence.
    """

    def __init__(
        self,
        network: nn.Module,
        margin: float = 0.2,
        mining: Literal["all", "hard"] = "all",
        triplet_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        batch_norm: str | None = None,
        ghosts: int = 2,
        learning_rate: float = 1e-4,
        milestones: Sequence[int] = (),
        gamma: float = 0.1,
        half_embeddings: bool = False,
        patience: int = 20,
        augment: Sequence[Transform] = (),
        augment_together: bool = False,
    ) -> None:
        super().__init__()
        self.network = network if batch_norm is None else set_batch_norm(network, batch_norm, ghosts)
        self.triplet = TripletLoss(margin, mining)
        self.triplet_weight, self.cross_entropy_weight = triplet_weight, cross_entropy_weight
        self.learning_rate, self.milestones, self.gamma = learning_rate, list(milestones), gamma
        self.half_embeddings = half_embeddings
        self.augment, self.augment_together = tuple(augment), augment_together
        self.patience, self.bad_steps = patience, torch.tensor(0)
        self.buffers_before: list[Tensor] = []  # as they were when the step began
        self.evaluated_step = -1  # the last step whose gradient was made
        self.metrics: dict[str, CrossViewAccuracy] = {}  # of the test subjects and of held-out training subjects
        self.result: CrossViewResult | None = None  # of the test subjects
        self.result_step = -1  # the iteration it is of
        self.mean_embeddings: tuple[Tensor, Tensor]  # theirs, see CrossViewAccuracy.mean_embeddings
        self.config: dict[str, Any] | None = None  # plain containers; goes into the checkpoints
        self.trained: Trained = NOBODY  # whom the network was trained on; goes there too

    def setup(self, stage: str) -> None:
        """Makes the metrics for the protocol of the data module in use."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, GaitDataModule)
        splits = ["test"] if stage == "test" or not data.protocol.validation else ["test", "validation"]
        self.metrics = {split: cross_view_accuracy(data.protocol, self.half_embeddings) for split in splits}

    def configure_optimizers(self) -> Any:
        """Adam without weight decay, and the step schedule when there is one."""
        optimizer = torch.optim.Adam(self.parameters(), self.learning_rate, fused=True)
        if not self.milestones:
            return optimizer
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, self.milestones, self.gamma)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def embed(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Any:
        """The network's output for uint8 silhouettes (B, T, H, W)."""
        return self.network(silhouettes.to(self.dtype) / 255, lengths)

    def augmented(self, silhouettes: Tensor) -> Tensor:
        """Change uint8 silhouettes (B, T, H, W) of this process as the step has it → float (B, T, H, W) in [0, 1]."""
        x = silhouettes.to(self.dtype) / 255
        if not self.augment:
            return x
        first, whole = self.global_rank * len(x), self.trainer.world_size * len(x)
        share = slice(first, first + len(x))
        seed = self.trainer.datamodule.seed  # type: ignore[attr-defined]
        return augment(x, self.augment, seed, self.global_step, share, whole, self.augment_together)

    def on_train_start(self) -> None:
        """Forgets another training's steps."""
        self.evaluated_step = -1

    def on_train_batch_start(self, batch: TrainBatch, batch_idx: int) -> None:
        """Lets Lightning log at every so many iterations of the run: its own count is one ahead after a resumption."""
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.global_step

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        self.buffers_before = [buffer.clone() for buffer in self.network.buffers()]
        embeddings, logits = self.network(self.augmented(batch.silhouettes), batch.lengths)
        # Every process has the triplets of the whole batch, and the gradients of all processes are averaged: with the
        # gradient that the gathering passes on, that is the gradient of one process with the whole batch.
        labels = of_all_processes(batch.labels)
        triplet = self.triplet(of_all_processes(embeddings), labels)
        if logits is None:  # the network trains by triplets alone
            cross_entropy = embeddings.new_zeros(())
        else:
            parts = logits.shape[1]
            cross_entropy = F.cross_entropy(logits.flatten(0, 1), batch.labels.repeat_interleave(parts))
        loss = self.triplet_weight * triplet.loss + self.cross_entropy_weight * cross_entropy
        cross_entropy = of_all_processes(cross_entropy.detach()[None]).mean()
        self.log("step", self.global_step + 1.0)  # the iteration is every log's axis, also after a resumption
        whole = self.triplet_weight * triplet.loss + self.cross_entropy_weight * cross_entropy
        self.log("train/loss", whole, prog_bar=True)
        self.log("train/triplet", triplet.loss)
        self.log("train/cross_entropy", cross_entropy)
        # of all triplets, 0 … 1, as a mean over the parts
        self.log("train/active_triplets", triplet.active.mean() / self.triplet.num_terms(labels).clamp(min=1))
        self.log("train/mean_distance", triplet.mean_distance.mean())
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Skips a step whose gradient is not finite, and stops when there were `patience` of them in a row.

        With fused Adam a GPU is asked for the number of such steps only when there is something to log, so that it need
        not wait; with another optimiser it is asked at every step.
        """
        if self.evaluated_step == self.global_step:
            raise ValueError(
                f"{type(optimizer).__name__} makes the loss of a batch several times in one step, and running "
                "statistics and logs with it: expected an optimiser that does so once, such as torch.optim.AdamW"
            )
        self.evaluated_step = self.global_step
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        self.log("train/gradient_norm", norm)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
        bad = ~torch.isfinite(norm)
        for buffer, before in zip(self.network.buffers(), self.buffers_before, strict=True):
            lost = bad | (before.isfinite() & ~buffer.isfinite())  # a variance may overflow where the gradient does not
            buffer.copy_(torch.where(lost, before, buffer))
        self.bad_steps = (self.bad_steps.to(bad.device) + 1) * bad
        fused = isinstance(optimizer, torch.optim.Adam) and bool(optimizer.defaults.get("fused"))
        if fused:
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # of 1: fused Adam changes nothing
        if fused and norm.is_cuda and (self.global_step + 1) % self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        if (count := int(self.bad_steps)) >= self.patience:
            first = self.global_step - count + 2  # counted from 1
            raise FloatingPointError(
                f"the gradient was not finite for {count} steps in a row, first at step {first}; the weights "
                "are those before it. Try a lower model.learning_rate or trainer.precision=bf16-mixed or 32-true"
            )
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # of float16, which skips such a step by itself
        if count and not fused and scaler is None:
            raise _SkippedStep

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lets the optimiser step, unless the gradient was not finite: it then learns of nothing."""
        with suppress(_SkippedStep):
            super().optimizer_step(*args, **kwargs)

    def validation_step(self, batch: TestBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if not len(batch.sequence):
            return  # this process has nothing to do
        embeddings, _ = self.embed(batch.silhouettes, batch.lengths)
        metric = list(self.metrics.values())[dataloader_idx]
        metric.update(embeddings, batch.subject, batch.condition, batch.view, batch.sequence)

    def on_validation_epoch_end(self) -> None:
        """Logs `test/rank1/…` and `validation/rank1/…`: each probe and, as `mean`, all; keeps `self.result`."""
        for split, metric in self.metrics.items():
            result = metric.compute()
            if split == "test":
                self.result, self.mean_embeddings = result, metric.mean_embeddings()
                self.result_step = self.global_step
            metric.reset()
            means = {probe: row["mean"] for probe, row in result.rows().items() if row["mean"] is not None}
            if means:
                means["mean"] = fmean(means.values())
            for probe, rank1 in means.items():
                self.log(f"{split}/rank1/{probe}", rank1, prog_bar=probe == "mean")
        self.log("step", float(self.global_step))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the configuration, so that a checkpoint alone is enough to rebuild the network, and whom it knows."""
        checkpoint["config"] = self.config
        checkpoint.update(to_plain(self.trained))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run that goes on knows whom `init_from` was trained on, also where that file is gone."""
        self.trained += training_of(checkpoint.get("config"), checkpoint, "the run's own checkpoint")

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end


class _SkippedStep(Exception):  # not an error
    """Ends an optimiser's step after its gradient was made and before it is used."""


def cross_view_accuracy(protocol: Protocol, half_embeddings: bool = False, **settings: Any) -> CrossViewAccuracy:
    """The metric of a protocol; `settings` are torchmetrics' own."""
    return CrossViewAccuracy(
        protocol.conditions,
        protocol.views,
        protocol.gallery,
        protocol.probes,
        cross_view_gallery=protocol.cross_view_gallery,
        cross_view_probes=protocol.cross_view_probes,
        store_dtype=torch.float16 if half_embeddings else None,
        **settings,
    )
