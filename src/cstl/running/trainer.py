"""Lightning's trainer as it is configured."""

import logging
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import Trainer

from cstl.checkpoint import own_class
from cstl.config import plain
from cstl.data.datamodule import GaitDataModule
from cstl.data.protocol import as_protocol
from cstl.running import terminal
from cstl.running.checkpoints import AtomicCheckpoints
from cstl.running.console import CONSOLE
from cstl.running.memory import keep_freed_memory
from cstl.running.metrics_log import loggers_of
from cstl.running.processes import is_first


def _name_subjects(config: DictConfig) -> None:
    """Put the subjects of a split file into the configuration: a checkpoint must not depend on the file."""
    if config.dataset.get("split_file"):
        with open_dict(config):
            config.dataset.protocol = asdict(as_protocol(plain(config.dataset.protocol)))


def make_data(config: DictConfig, from_file: bool = False) -> GaitDataModule:
    """Return the data module as configured, of a store that has somebody to test on.

    Args:
        config: a network's `num_classes` that is to come is filled in.
        from_file: the settings come from a checkpoint, and what is called is ours whatever they say.
    """
    _name_subjects(config)
    data: GaitDataModule
    data = (
        GaitDataModule(**own_class(plain(config), "data")) if from_file else instantiate(config.data, _convert_="all")
    )
    data.check_tested()
    network = OmegaConf.select(config, "model.network")
    if network is not None and OmegaConf.is_missing(network, "num_classes"):
        network.num_classes = data.num_classes
    return data


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
            f"trainer=gpu, but PyTorch {torch.__version__} sees no GPU here: use trainer=cpu or trainer=auto, or "
            "install a PyTorch build with CUDA and check that `nvidia-smi` lists a GPU"
        )


def quiet_lightning() -> None:
    """Silence what Lightning says of a choice that is ours: the batch sampler resumes by itself, a CPU is fine.

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
    ):
        warnings.filterwarnings("ignore", message)
