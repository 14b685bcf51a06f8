"""Lightning's trainer as it is configured."""

import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer

from cstl.config import Plain, plain
from cstl.data.datamodule import GaitDataModule
from cstl.data.protocol import protocol_of
from cstl.running import terminal
from cstl.running.checkpoints import AtomicCheckpoints
from cstl.running.console import CONSOLE
from cstl.running.memory import keep_freed_memory
from cstl.running.metrics_log import loggers_of
from cstl.running.processes import is_first


def make_data(config: DictConfig, check: bool = True) -> GaitDataModule:
    """Return the data module as configured; `check`: of a store that has somebody to test on."""
    dataset = plain(config.dataset)
    data = GaitDataModule(
        dataset["store"],
        protocol_of(dataset),
        config.res,
        dataset["name"],
        steps=config.trainer.max_steps,
        seed=config.get("seed", 0),
        max_frames=config.get("max_frames"),
        **plain(config.data),
    )
    if check:
        data.check_tested()
    return data


def saved_settings(config: DictConfig, data: GaitDataModule) -> Plain:
    """Return the configuration as files keep it, complete in itself.

    It has the subjects of a split file in place of its path, the number of classes, and the store's
    fingerprint.
    """
    settings = plain(config) | {"store_fingerprint": data.store.fingerprint}
    if settings["dataset"].get("split_file") is not None:
        protocol = plain(OmegaConf.create(asdict(data.protocol)))
        settings["dataset"] |= {"protocol": protocol, "split_file": None}
    network = settings.get("model", {}).get("network", {})
    if network.get("num_classes") == "???":
        network["num_classes"] = data.num_classes
    return settings


def precision_of(trainer: DictConfig) -> str:
    """Return the precision to train in; auto: bf16 where the device computes in it, else float32.

    Where a processor only imitates bf16 a step takes eight times as long as in float32.
    """
    if trainer.precision != "auto":
        return str(trainer.precision)
    if trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        of_processor: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        has_bf16 = any(of_processor.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return "bf16-mixed" if has_bf16 else "32-true"


def make_trainer(config: DictConfig, folder: Path) -> Trainer:
    """Return Lightning's trainer as configured."""
    quiet_lightning()
    keep_freed_memory()
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    if is_first():
        callbacks.append(terminal.Lines(terminal.log_file(folder), printed=not CONSOLE.is_terminal))
    if CONSOLE.is_terminal:
        callbacks.append(terminal.RunProgress())
    every, steps = config.get("evaluate_every"), config.trainer.max_steps
    evaluates = every is not None and every <= steps
    return instantiate(
        config.trainer,
        default_root_dir=str(folder),
        logger=[instantiate(logger) for logger in loggers_of(config.logger)],
        callbacks=callbacks,
        plugins=[AtomicCheckpoints()],
        log_every_n_steps=min(config.trainer.log_every_n_steps, max(steps, 1)),
        val_check_interval=every if evaluates else None,
        limit_val_batches=1.0 if evaluates else 0,
        enable_checkpointing=False,
        enable_progress_bar=CONSOLE.is_terminal,
        _convert_="all",
    )


def check_device(accelerator: str) -> None:
    """Refuse a GPU where PyTorch sees none."""
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer=gpu, but PyTorch {torch.__version__} sees no GPU here: use trainer=cpu or "
            "trainer=auto, or install a PyTorch build with CUDA and check that `nvidia-smi` lists a GPU"
        )


def quiet_lightning() -> None:
    """Silence what Lightning says of a choice that is ours: the batch sampler resumes by itself, a CPU is
    fine.

    And what matplotlib and fontTools tell of their work when a figure becomes a PDF.
    """
    for name in ("pytorch_lightning", "lightning_fabric", "matplotlib", "fontTools"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*your dataloader is not resumable.*",
        ".*does not have many workers.*",
        ".*Experiment logs directory.*",
        ".*GPU available but not used.*",
        ".*LeafSpec.*",
        ".*`compute` method of metric CrossViewAccuracy was called before.*",  # a process without a sequence
        ".*sync_dist=True.*",  # every process has the same value
        ".*Grad strides do not match bucket view strides.*",
        ".*lr_scheduler.step.. before `optimizer.step.*",  # of a step that was skipped
    ):
        warnings.filterwarnings("ignore", message)
