"""What the commands do: a run from data to table, its folder, and going on where it stopped."""

import csv
import logging
import sys
import time
import warnings
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import CSVLogger
from rich.console import Console

from cstl import results
from cstl.callbacks import WholeCheckpoints, checkpoints
from cstl.config import Plain, differences, digest, plain
from cstl.data.alignment import frame_size
from cstl.data.datamodule import GaitDataModule
from cstl.data.prepare import prepare as prepare_store
from cstl.data.protocol import as_protocol
from cstl.data.walkers import synthesize as write_walkers
from cstl.metrics import CrossViewAccuracy, CrossViewResult
from cstl.recognizer import GaitRecognizer

CONSOLE = Console(width=None if sys.stdout.isatty() else 100)


def train(config: DictConfig) -> Plain:
    """Trains the configured run, or goes on with it, evaluates its last model → what `results.json` says."""
    check_device(config.trainer.accelerator)
    frame_size(config.res)  # another resolution is refused before anything is made
    make_missing_walkers(config)
    data: GaitDataModule = instantiate(config.data, _convert_="all")
    with open_dict(config):
        config.model.network.num_classes = data.num_classes
    folder, settings = Path(HydraConfig.get().runtime.output_dir), plain(config)
    last = open_run(folder, settings)

    seed_everything(config.seed, workers=True, verbose=False)
    recognizer: GaitRecognizer = instantiate(config.model, _convert_="all")
    recognizer.config = settings
    trainer = make_trainer(config, folder, last)
    started = time.monotonic()
    trainer.fit(recognizer, datamodule=data, ckpt_path=last, weights_only=True)
    seconds = {"training": time.monotonic() - started}
    done = report(folder, settings, trainer, recognizer, data, checkpoints(folder / "checkpoints")[-1], seconds)
    results.draw_curves(folder / "metrics.csv", folder / "curves.png")
    return done


def evaluate(config: DictConfig) -> Plain:
    """Evaluates a checkpoint, on the data set it was trained on or on another → what `results.json` says."""
    check_device(config.trainer.accelerator)
    path = Path(config.checkpoint)
    recognizer, settings = load_recognizer(path)
    trained = OmegaConf.create(settings)
    if config.res not in (None, trained.res):
        raise ValueError(
            f"{path} was trained at res={trained.res} and cannot read silhouettes of res={config.res}; "
            f"leave res= out, or take a checkpoint that was trained at res={config.res}"
        )
    config.res = trained.res
    if "dataset" in config:
        trained.dataset = config.dataset
        trained.data.update(store=config.dataset.store, dataset=config.dataset.name, protocol=config.dataset.protocol)
    if config.store is not None:
        trained.data.store = config.store
    precision = config.trainer.precision or trained.trainer.precision
    trained.trainer = OmegaConf.merge(config.trainer, {"precision": precision})
    trained.update(baseline=config.baseline, logger={}, callbacks={})

    folder = Path(HydraConfig.get().runtime.output_dir)
    data: GaitDataModule = instantiate(trained.data, _convert_="all")
    return report(folder, plain(trained), make_trainer(trained, folder, None), recognizer, data, path, {})


def prepare(config: DictConfig) -> None:
    """Prepares the data set's store from its raw frames."""
    dataset = config.dataset
    if dataset.raw is None:
        raise ValueError(
            f"where are the raw frames of {dataset.name}? Name their folder:\n"
            f"  python -m cstl.prepare dataset={dataset.name} res={config.res} dataset.raw=PATH"
        )
    summary = prepare_store(
        dataset.raw,
        dataset.store,
        dataset=dataset.name,
        protocol=plain(dataset.protocol),
        res=config.res,
        layout=dataset.layout,
        workers=config.get("workers"),
        strict=config.get("strict", False),
    )
    CONSOLE.print(str(summary), highlight=False)


def synthesize(config: DictConfig) -> None:
    """Makes the data set's synthetic walkers, as raw frames."""
    dataset = config.dataset
    if "synthesis" not in dataset:
        raise ValueError(f"dataset={dataset.name} is not synthetic; synthesize makes synthetic and synthetic_large")
    protocol = as_protocol(plain(dataset.protocol))
    write_walkers(
        dataset.raw,
        subjects=sorted(protocol.known_subjects),
        views=protocol.views,
        conditions=protocol.conditions,
        workers=config.get("workers"),
        progress=CONSOLE.is_terminal,
        **dataset.synthesis,
    )


def check_device(accelerator: str) -> None:
    """Refuses a GPU where PyTorch sees none."""
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer=gpu, but PyTorch {torch.__version__} sees no GPU here: use trainer=cpu or trainer=auto, or "
            "install a PyTorch build with CUDA and check that `nvidia-smi` lists a GPU"
        )


def make_missing_walkers(config: DictConfig) -> None:
    """Synthetic walkers are made and prepared on first use; other data sets are the user's to prepare."""
    if "synthesis" in config.dataset and not Path(config.dataset.store).exists():
        synthesize(config)
        prepare(config)


def open_run(folder: Path, settings: Plain) -> Path | None:
    """The checkpoint a run goes on from, None for a new one; writes the settings of a new one to `config.yaml`.

    Raises:
        ValueError: the run is finished, or was started with other settings.
    """
    file = folder / "config.yaml"
    rename = "choose another name=, or delete the folder"
    if not file.exists():
        file.write_text(OmegaConf.to_yaml(settings), encoding="utf-8")
        return None
    before = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(before, dict)
    if differs := differences(before, settings):  # type: ignore[arg-type]
        raise ValueError(f"{folder} is a run with other settings; {rename}. What differs:\n  " + "\n  ".join(differs))
    if (folder / "results.json").exists():
        raise ValueError(f"{folder} is finished, its results are in results.json; to run again {rename}")
    return next(reversed(checkpoints(folder / "checkpoints")), None)


def make_trainer(config: DictConfig, folder: Path, last: Path | None) -> Trainer:
    """Lightning's trainer as configured; the CSV log goes on from the checkpoint `last`."""
    quiet_lightning()
    loggers = [instantiate(logger) for logger in config.logger.values()]
    for logger in loggers:
        if last is not None and isinstance(logger, CSVLogger):
            keep_rows(logger, step=int(last.stem.removeprefix("step-")))
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    if CONSOLE.is_terminal:
        callbacks.append(RichProgressBar(leave=True))
    every, steps = config.get("evaluate_every"), config.trainer.max_steps
    evaluates = every is not None and every <= steps
    return instantiate(
        config.trainer,
        default_root_dir=str(folder),
        logger=loggers,
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        log_every_n_steps=min(config.trainer.log_every_n_steps, max(steps, 1)),
        val_check_interval=every if evaluates else None,
        limit_val_batches=1.0 if evaluates else 0,
        enable_checkpointing=False,
        enable_progress_bar=CONSOLE.is_terminal,
        _convert_="all",
    )


def keep_rows(logger: CSVLogger, step: int) -> None:
    """Carries the rows up to `step` over into a log that starts again: the logger itself deletes the old file."""
    file = Path(logger.log_dir) / "metrics.csv"
    if not file.exists():
        return
    with file.open(newline="") as rows:
        before = [row for row in csv.DictReader(rows) if int(row["step"]) <= step]
    logger.experiment.metrics = before  # type: ignore[assignment]
    logger.save()


def load_recognizer(path: Path) -> tuple[GaitRecognizer, Plain]:
    """A recogniser from its checkpoint alone, and the settings it was trained with; only tensors are loaded.

    Raises:
        FileNotFoundError, ValueError: no such file, a damaged one, or one that is no checkpoint of this software.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; those of a run lie in runs/NAME/checkpoints")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise ValueError(f"{path} is damaged, or holds more than tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or "config" not in checkpoint or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint that cstl.train wrote: it lacks config and state_dict")
    settings = checkpoint["config"]
    recognizer: GaitRecognizer = instantiate(settings["model"], _convert_="all")
    recognizer.config = settings
    try:
        recognizer.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{path}: its weights do not fit the network of its own configuration: {error}") from error
    return recognizer, settings


def report(
    folder: Path,
    settings: Plain,
    trainer: Trainer,
    recognizer: GaitRecognizer,
    data: GaitDataModule,
    checkpoint: Path,
    seconds: dict[str, float],
) -> Plain:
    """Evaluates on the test subjects, prints the paper's table, writes `results.json` and `cross_view.png`."""
    started = time.monotonic()
    trainer.test(recognizer, datamodule=data, verbose=False)
    seconds = seconds | {"evaluation": time.monotonic() - started}
    result = recognizer.result
    assert result is not None
    assert recognizer.config is not None
    title = settings["dataset"]["title"]
    methods = {"CSTL": results.rows(result)}
    if settings["baseline"]:
        methods["GEI"] = results.rows(gait_energy_images(data))
    height, width = frame_size(settings["res"])
    CONSOLE.print(f"\n{title} {height}×{width}: rank-1 (%) by probe view, identical views excluded", highlight=False)
    CONSOLE.print(results.paper_table(methods))
    content = {
        "dataset": settings["dataset"]["name"],
        "resolution": [height, width],
        "train_subjects": len(data.train_subjects),
        "test_subjects": len(data.test_subjects),
        "gallery_sequences": int(result.gallery_sequences.sum()),
        "probe_sequences": {probe: int(count.sum()) for probe, count in result.probe_sequences.items()},
        "rank1": methods["CSTL"],
        "rank1_matched": results.rows(result, matched=True),
        "baseline_rank1": methods.get("GEI"),
        "seconds": seconds,
        "checkpoint": str(checkpoint),
        "configuration": digest(recognizer.config),
        "versions": results.versions(),
    }
    results.draw_cross_view(result, folder / "cross_view.png")
    results.write_json(folder / "results.json", content)
    CONSOLE.print(f"results, pictures and checkpoints: {folder}", highlight=False)
    return content


def gait_energy_images(data: GaitDataModule) -> CrossViewResult:
    """The baseline: the mean silhouette of a sequence and its nearest neighbour (Han & Bhanu, TPAMI 2006)."""
    protocol = data.protocol
    metric = CrossViewAccuracy(protocol.conditions, protocol.views, protocol.gallery, protocol.probes)
    for batch in data.test_dataloader():
        sums = batch.silhouettes.sum(dim=1, dtype=torch.float32).flatten(1)  # (B, H·W); padding is zero
        images = sums / (255 * batch.lengths[:, None])
        metric.update(images[:, None], batch.subject, batch.condition, batch.view)
    return metric.compute()


def quiet_lightning() -> None:
    """Silences what Lightning says of a choice that is ours: the batch sampler resumes by itself, a CPU is fine."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*your dataloader is not resumable.*",
        ".*does not have many workers.*",
        ".*Experiment logs directory.*",
        ".*GPU available but not used.*",
        ".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message)
