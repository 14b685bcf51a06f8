"""The LightningModule around a network, made of components: losses, optimiser, schedule, augmentation."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from cstl.data.augment import Transform, augment
from cstl.data.datamodule import GaitDataModule, TestBatch, TrainBatch
from cstl.data.protocol import Protocol
from cstl.distributed import of_all_processes
from cstl.losses import CrossEntropy, TripletLoss
from cstl.metrics import CrossViewAccuracy, CrossViewResult
from cstl.models import set_batch_norm
from cstl.trained import NOBODY, Trained, to_plain, training_of

DROPOUT = 2  # apart from the draws of the batch, which have the seed and the step alone, and of augmentation
_TRIPLET, _CROSS_ENTROPY = TripletLoss(), CrossEntropy()  # the paper's


class GaitRecognizer(LightningModule):
    """The training of a network by a weighted sum of losses, and its evaluation by cross-view rank-1.

    Args:
        network: any with the contract of `cstl.models`.
        triplet: of the embeddings, or what returns the same; None: none.
        cross_entropy: (logits (B, P, K), labels (B,)) → loss (), where the network has logits; None: none.
        losses: further ones, each {"loss": function, "weight": 1.0}, with a function
            (embeddings (B, P, D), labels (B,), logits (B, P, K) or None) → loss (). They see the batch of all
            processes; a module's parameters are trained, too.
        optimizer: parameters → optimiser; by default Adam with a rate of 1e-4.
        scheduler: optimiser → schedule, which steps at each iteration; None: the rate stays.
        augment: transforms of training sequences, one after the other, see `cstl.data.augment`.
        augment_together: what happens is drawn once for the global batch, in place of once a sequence.
        batch_norm, ghosts: over which sequences batch statistics are taken, see `cstl.models.set_batch_norm`;
            None: as the network was made.
        max_nonfinite_steps: in a row before training stops. A step whose gradient is not finite changes
            nothing, neither parameters nor running statistics nor what the optimiser remembers, whichever
            optimiser it is: a float16 scaler makes a few of them on purpose while it searches its scale.
        half_embeddings: keep the embeddings of an evaluation in float16, half the memory; means move by 0.01
            points.
    """

    def __init__(
        self,
        network: nn.Module,
        triplet: TripletLoss | None = _TRIPLET,
        cross_entropy: CrossEntropy | None = _CROSS_ENTROPY,
        losses: Sequence[Mapping[str, Any]] = (),
        optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer] | None = None,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        augment: Sequence[Transform] = (),
        augment_together: bool = False,
        batch_norm: str | None = None,
        ghosts: int = 2,
        max_nonfinite_steps: int = 20,
        half_embeddings: bool = False,
    ) -> None:
        super().__init__()
        self.network = network if batch_norm is None else set_batch_norm(network, batch_norm, ghosts)
        self.triplet, self.cross_entropy, self.losses = triplet, cross_entropy, list(losses)
        self.trained_losses = nn.ModuleList(
            each["loss"] for each in losses if isinstance(each["loss"], nn.Module)
        )
        self.optimizer = optimizer or partial(torch.optim.Adam, lr=1e-4, fused=True)
        self.scheduler = scheduler
        self.half_embeddings = half_embeddings
        self.augment, self.augment_together = tuple(augment), augment_together
        self.max_nonfinite_steps, self.bad_steps = max_nonfinite_steps, torch.tensor(0)
        self.buffers_before: list[Tensor] = []  # as they were when the step began
        self.evaluated_step = -1  # the last step whose gradient was made
        # Of the test subjects and of held-out training subjects.
        self.metrics: dict[str, CrossViewAccuracy] = {}
        self.result: CrossViewResult | None = None  # of the test subjects
        self.result_step = -1  # the iteration it is of
        self.mean_embeddings: tuple[Tensor, Tensor]  # theirs, see CrossViewAccuracy.mean_embeddings
        self.config: dict[str, Any] | None = None  # plain containers; goes into the checkpoints
        self.trained: Trained = NOBODY  # whom the network was trained on; goes there too

    def setup(self, stage: str) -> None:
        """Make the metrics for the protocol of the data module in use."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, GaitDataModule)
        splits = ["test"] if stage == "test" or not data.protocol.validation else ["test", "validation"]
        self.metrics = {split: cross_view_accuracy(data.protocol, self.half_embeddings) for split in splits}

    def configure_optimizers(self) -> Any:
        """Make the optimiser of all parameters, and its schedule."""
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"},
        }

    def embed(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Any:
        """Return the network's output for uint8 silhouettes (B, T, H, W)."""
        return self.network(silhouettes.to(self.dtype) / 255, lengths)

    def augmented(self, silhouettes: Tensor) -> Tensor:
        """Augment uint8 silhouettes (B, T, H, W) as the step has it → float (B, T, H, W) in [0, 1]."""
        x = silhouettes.to(self.dtype) / 255
        if not self.augment:
            return x
        first, sequences = self.global_rank * len(x), self.trainer.world_size * len(x)
        share = slice(first, first + len(x))
        seed = self.trainer.datamodule.seed  # type: ignore[attr-defined]
        return augment(x, self.augment, seed, self.global_step, share, sequences, self.augment_together)

    def on_train_start(self) -> None:
        """Forget another training's steps."""
        self.evaluated_step = -1

    def on_train_batch_start(self, batch: TrainBatch, batch_idx: int) -> None:
        """Seed what the network draws, such as dropout, by the step: alike in all processes and after a
        resumption. And let Lightning log by the iterations of the run: its own count is one ahead then.
        """
        seed = self.trainer.datamodule.seed  # type: ignore[attr-defined]
        drawn = np.random.SeedSequence([seed, self.global_step, DROPOUT]).generate_state(1)
        torch.manual_seed(int(drawn[0]))
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.global_step

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        self.buffers_before = [buffer.clone() for buffer in self.network.buffers()]
        embeddings, logits = self.network(self.augmented(batch.silhouettes), batch.lengths)
        # Every process has the triplets of the global batch, and the gradients of all processes are averaged:
        # with the gradient that the gathering passes on, that is the gradient of one process with the whole
        # batch.
        labels = of_all_processes(batch.labels)
        everybodys = of_all_processes(embeddings) if self.triplet or self.losses else embeddings
        terms: dict[str, tuple[float, Tensor]] = {}  # name → weight, loss
        if self.triplet is not None:
            triplet = self.triplet(everybodys, labels)
            terms["triplet"] = self.triplet.weight, triplet.loss
        if self.cross_entropy is not None and logits is not None:  # of the process's own share
            terms["cross_entropy"] = self.cross_entropy.weight, self.cross_entropy(logits, batch.labels)
        for i, further in enumerate(self.losses):
            loss = further["loss"](everybodys, labels, None if logits is None else of_all_processes(logits))
            terms[f"losses/{i}"] = further.get("weight", 1.0), loss
        if not terms:
            raise ValueError(
                "there is no loss: the network has no logits, and model.triplet and model.losses are empty"
            )
        values = {name: loss.detach() for name, (_, loss) in terms.items()}
        if "cross_entropy" in values:
            values["cross_entropy"] = of_all_processes(values["cross_entropy"][None]).mean()
        self.log("step", self.global_step + 1.0)  # the iteration is every log's axis, also after a resumption
        self.log(
            "train/loss", _sum(weight * values[name] for name, (weight, _) in terms.items()), prog_bar=True
        )
        for name, value in values.items():
            self.log(f"train/{name}", value)
        if self.triplet is not None:  # of all triplets, 0 … 1, as a mean over the parts
            self.log(
                "train/active_triplets", triplet.active.mean() / self.triplet.num_terms(labels).clamp(min=1)
            )
            self.log("train/mean_distance", triplet.mean_distance.mean())
        return _sum(weight * loss for weight, loss in terms.values())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Skip a step whose gradient is not finite; stop after `max_nonfinite_steps` of them in a row.

        With fused Adam a GPU is asked for the number of such steps only when there is something to log, so
        that it need not wait; with another optimiser it is asked at every step.
        """
        if self.evaluated_step == self.global_step:
            raise ValueError(
                f"{type(optimizer).__name__} makes the loss of a batch several times in one step, and "
                "running statistics and logs with it: expected an optimiser that does so once, such as "
                "torch.optim.AdamW"
            )
        self.evaluated_step = self.global_step
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        self.log("train/gradient_norm", norm)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
        bad = ~torch.isfinite(norm)
        for buffer, before in zip(self.network.buffers(), self.buffers_before, strict=True):
            # A variance may overflow where the gradient does not.
            lost = bad | (before.isfinite() & ~buffer.isfinite())
            buffer.copy_(torch.where(lost, before, buffer))
        self.bad_steps = (self.bad_steps.to(bad.device) + 1) * bad
        fused = isinstance(optimizer, torch.optim.Adam) and bool(optimizer.defaults.get("fused"))
        if fused:
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # of 1: fused Adam changes nothing
        if fused and norm.is_cuda and (self.global_step + 1) % self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        if (count := int(self.bad_steps)) >= self.max_nonfinite_steps:
            first = self.global_step - count + 2  # counted from 1
            raise FloatingPointError(
                f"the gradient was not finite for {count} steps in a row, first at step {first}; the weights "
                "are those before it. Try a lower model.optimizer.lr or trainer.precision=bf16-mixed or "
                "32-true"
            )
        # That of float16 skips such a step by itself.
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if count and not fused and scaler is None:
            raise _SkippedStep

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Let the optimiser step, unless the gradient was not finite: it then learns of nothing."""
        with suppress(_SkippedStep):
            super().optimizer_step(*args, **kwargs)

    def validation_step(self, batch: TestBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if not len(batch.sequence):
            return  # this process has nothing to do
        embeddings, _ = self.embed(batch.silhouettes, batch.lengths)
        metric = list(self.metrics.values())[dataloader_idx]
        metric.update(embeddings, batch.subject, batch.condition, batch.view, batch.sequence)

    def on_validation_epoch_end(self) -> None:
        """Log `test/rank1/…` and `validation/rank1/…`, each probe and the `mean`; keep `self.result`."""
        for split, metric in self.metrics.items():
            result = metric.compute()
            if split == "test":
                self.result = result
                with metric.sync_context():  # of the sequences of all processes
                    self.mean_embeddings = metric.mean_embeddings()
                self.result_step = self.global_step
            metric.reset()
            means = {probe: row["mean"] for probe, row in result.rows().items() if row["mean"] is not None}
            if means:
                means["mean"] = fmean(means.values())
            for probe, rank1 in means.items():
                self.log(f"{split}/rank1/{probe}", rank1, prog_bar=probe == "mean")
        self.log("step", float(self.global_step))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the configuration, to rebuild the network from a checkpoint alone, and whom it knows."""
        checkpoint["config"] = self.config
        checkpoint.update(to_plain(self.trained))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over whom `init_from` was trained on, also where that file is gone."""
        self.trained += training_of(checkpoint.get("config"), checkpoint, "the run's own checkpoint")

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end


def warmup_cosine(
    optimizer: torch.optim.Optimizer, warmup: int, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the schedule that raises the rate over `warmup` steps and lowers it to 0 by a half cosine.

    Args:
        optimizer: whose rate it is.
        warmup: steps until the rate of the optimiser is reached.
        steps: of the run.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(steps - warmup, 1), 1)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    first, *others = terms
    return sum(others, start=first)


class _SkippedStep(Exception):  # not an error
    """Ends an optimiser's step after its gradient was made and before it is used."""


def cross_view_accuracy(
    protocol: Protocol, half_embeddings: bool = False, **settings: Any
) -> CrossViewAccuracy:
    """Make the metric of a protocol; `settings` are torchmetrics' own."""
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
