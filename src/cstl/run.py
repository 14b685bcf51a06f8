"""What the commands do: a run from data to table, its folder, and going on where it stopped."""

import logging
import re
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import Trainer, seed_everything
from rich.console import Console
from torch import nn

from cstl.checkpoint import (
    OURS,
    Weights,
    build_network,
    check_numbers,
    different_tensors,
    known_keys,
    load_weights,
    network_settings,
    own_class,
    plain_keys,
    to_official,
    transfer,
)
from cstl.config import Plain, checked, differences, digest, plain
from cstl.data.alignment import frame_size
from cstl.data.datamodule import GaitDataModule
from cstl.data.protocol import as_protocol
from cstl.data.store import open_store, verify_store
from cstl.files import read_json, read_yaml, remove_parts, shown, shown_lines, write_json, write_text
from cstl.metrics import CrossViewResult
from cstl.models import CSTL
from cstl.owner import InUseError, owner
from cstl.preparation.check import check_store, contact_sheet, write_check
from cstl.preparation.inspection import look_at_masks
from cstl.preparation.plan import OPTIONS
from cstl.preparation.prepare import prepare as prepare_store
from cstl.preparation.prepare import prepare_shard
from cstl.recognizer import GaitRecognizer, cross_view_accuracy
from cstl.reporting import results, tables
from cstl.reporting.published import BASELINE, caveats, check_label, coverage, method_name, published
from cstl.reporting.remarks import remarks
from cstl.run_folder import COMMAND, EVALUATED, begin_anew, check_kind, is_begun, is_finished, put_aside
from cstl.running import terminal
from cstl.running.checkpoints import BEST, Profile, WholeCheckpoints, check_best, checkpoints, last_whole_checkpoint
from cstl.running.metrics_log import CSVLog, TensorBoardLog, closing, read_rows, wanted
from cstl.running.processes import as_one_run, check_processes, is_first, naming_what_was_lost, wait_for
from cstl.running.settings import refuse_impossible
from cstl.running.sweep import AlreadyFinishedError
from cstl.trained import AUTHORS, met, ranges, refuse_seen, trained_by, training_of
from cstl.walkers.synthesis import synthesize as write_walkers

# What Lightning can compute in; a file from elsewhere may name nothing else.
PRECISIONS = (*("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"), *("32", "bf16", "16", "64"))
RESULTS, REPORT = "results.json", "report.html"
LOG = logging.getLogger(__name__)


class _PlainConsole(Console):
    """Prints text as it is: what looks like markup, or would do something to a terminal, is seen and does nothing."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(shown_lines(item) if isinstance(item, str) else item for item in objects), **options)


CONSOLE = _PlainConsole(width=None if sys.stdout.isatty() else 80, quiet=not is_first(), markup=False)


@naming_what_was_lost()
def train(config: DictConfig) -> Plain:
    """Trains the configured run, or goes on with it, evaluates its last model → what `results.json` says."""
    with alone(Path(HydraConfig.get().runtime.output_dir)):
        return _train(config)


def _train(config: DictConfig) -> Plain:
    prolong(config)
    check_device(config.trainer.accelerator)
    frame_size(config.res)  # another resolution is refused before anything is made
    refuse_impossible(config, "train")
    name_subjects(config)
    make_missing_walkers(config)
    data: GaitDataModule = instantiate(config.data, _convert_="all")
    data.check_tested()
    if OmegaConf.is_missing(config.model.network, "num_classes"):
        config.model.network.num_classes = data.num_classes
    folder = Path(HydraConfig.get().runtime.output_dir)
    settings = plain(config) | {"store_fingerprint": data.store.fingerprint}
    check_label(method_name(settings))
    trainer = make_trainer(config, folder)
    check_processes(config, trainer)
    chosen = any(getattr(callback, "best", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if chosen:
        check_best(data.validation_subjects, config.evaluate_every, trainer.max_steps)
    trained, origin = trained_by(settings["dataset"], data, chosen), None
    if config.init_from is not None and not checkpoints(folder / "checkpoints"):
        origin = load_weights(config.init_from)
        before = training_of(origin.config, origin.kept, config.init_from, origin.origin)
        tested = [*data.test_subjects, *data.validation_subjects]
        if not config.allow_seen:
            seen = met(before, settings["dataset"], data, tested)
            refuse_seen(seen, len(tested), settings["dataset"]["title"], config.init_from)
        trained += before
    last = open_run(folder, settings)
    if missing_files(folder, settings) == [REPORT]:  # killed while it was written, or it failed
        write_report(folder)
        return read_json(folder / RESULTS)
    for logger in trainer.loggers:  # also without a checkpoint: a run may have been killed before its first one
        if isinstance(logger, CSVLog | TensorBoardLog):
            logger.resume(step=int(last.stem.removeprefix("step-")) if last else 0)

    seed_everything(config.seed, workers=True, verbose=False)
    recognizer: GaitRecognizer = instantiate(config.model, _convert_="all")
    recognizer.config, recognizer.trained = settings, trained
    if config.init_from is not None and last is None:
        origin = origin or load_weights(config.init_from)
        recognizer.trained += training_of(origin.config, origin.kept, config.init_from, origin.origin)
        transferred = transfer(recognizer.network, origin.state_dict)
        CONSOLE.print(f"{config.init_from}: {transferred}", highlight=False)
    with as_one_run(config, folder, trainer.world_size), closing(trainer.loggers):
        started = time.monotonic()
        trainer.fit(recognizer, datamodule=data, ckpt_path=last, weights_only=True)
        seconds = {"training": time.monotonic() - started}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Profile):  # five steps are not worth an evaluation
                CONSOLE.print(f"operators by their own time: {callback.operators}", highlight=False, soft_wrap=True)
                how = "open it at https://ui.perfetto.dev or chrome://tracing"
                CONSOLE.print(f"trace: {callback.trace}; {how}", highlight=False, soft_wrap=True)
                return {"trace": str(callback.trace), "operators": str(callback.operators), "seconds": seconds}
        reported = checkpoints(folder / "checkpoints")[-1]  # the last, unless the best on held-out subjects is wanted
        if (best := folder / "checkpoints" / BEST).exists():
            reported = best
            recognizer.network.load_state_dict(load_weights(best).state_dict)
            recognizer.result_step = -1  # it is of the last
        return report(folder, settings, trainer, recognizer, data, reported, seconds)


@naming_what_was_lost()
def evaluate(config: DictConfig) -> Plain:
    """Evaluates a checkpoint, on the data set it was trained on or on another → what `results.json` says."""
    with alone(Path(HydraConfig.get().runtime.output_dir)):
        return _evaluate(config)


def _evaluate(config: DictConfig) -> Plain:
    check_device(config.trainer.accelerator)
    refuse_impossible(config, "evaluate")
    path = asked_checkpoint(config, "evaluate")
    recognizer, trained = load_recognizer(path, config.get("model"))
    own_data = None if "dataset" in config else trained_data(path, trained)
    if config.res not in (None, trained["res"]):
        raise ValueError(
            f"{path} was trained at res={trained['res']} and cannot read silhouettes of res={config.res}; "
            f"leave res= out, or take a checkpoint that was trained at res={config.res}"
        )
    with open_dict(config):
        config.res = trained["res"]
        config.trainer.precision = config.trainer.precision or trained.get("trainer", {}).get("precision", "32-true")
        config.logger = config.callbacks = {}
        config.pop("model", None)
        if own_data is not None:
            config.dataset = trained["dataset"]
            config.data = own_data | {"_target_": OURS["data"][0], "workers": config.data.workers}
        if config.store is not None:
            config.data.store = config.store
        config.data.max_frames = config.max_frames
    name_subjects(config)
    recognizer.half_embeddings = config.half_embeddings

    folder = Path(HydraConfig.get().runtime.output_dir)
    settings = plain(config)
    data: GaitDataModule = (
        instantiate(config.data, _convert_="all") if own_data is None else GaitDataModule(**own_class(settings, "data"))
    )
    data.check_tested()
    trainer = make_trainer(config, folder)
    check_processes(config, trainer)
    settings |= {"store_fingerprint": data.store.fingerprint}
    trained_on, store = trained.get("store_fingerprint"), data.store.fingerprint
    if trained_on not in (None, store) and trained.get("dataset", {}).get("name") == config.dataset.name:
        CONSOLE.print(
            f"{data.path} is not the store that {path} was trained on (fingerprint {store}, not {shown(trained_on)})",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    settings["label"] = settings["label"] or trained.get("label")
    check_label(method_name(trained | {"label": settings["label"]}))
    if not config.allow_seen:
        seen = met(recognizer.trained, settings["dataset"], data, data.test_subjects)
        refuse_seen(seen, len(data.test_subjects), settings["dataset"]["title"], str(path))
    # as trained, but for the data: what `cstl.compare` tells runs and evaluations apart by
    evaluated = trained | {key: settings[key] for key in ("dataset", "data", "store_fingerprint", "label")}
    open_evaluation(folder, evaluated | {EVALUATED: str(path)})
    with as_one_run(config, folder, trainer.world_size):
        return report(folder, settings, trainer, recognizer, data, path, {})


def export_official(config: DictConfig) -> None:
    """Writes a checkpoint's network as a file that the authors' code loads."""
    network = load_recognizer(asked_checkpoint(config, "export_official"))[0].network
    if not isinstance(network, CSTL) or 2 * network.parts != network.height:
        raise ValueError(f"{config.checkpoint} holds an ablated network; the authors' code has one part for two rows")
    out = Path(config.out or Path(config.checkpoint).with_suffix(".ptm"))
    if out.exists():
        raise FileExistsError(f"{out} is there already; name another file with out=PATH")
    WholeCheckpoints().save_checkpoint(to_official(network.state_dict(), prefix=True), out)
    CONSOLE.print(f"{out}: written for the authors' code", highlight=False, soft_wrap=True)


def asked_checkpoint(config: DictConfig, command: str) -> Path:
    """The checkpoint that was asked for; ValueError with the newest one, to be typed, where none or a folder was."""
    asked = None if OmegaConf.is_missing(config, "checkpoint") else config.checkpoint
    if asked and not Path(asked).is_dir():
        return Path(asked)
    if asked:
        inside = sorted({*Path(asked).glob("*.ckpt"), *Path(asked).glob("checkpoints/*.ckpt")})
        if not inside:
            raise ValueError(f"{asked} is a folder without a checkpoint; those of a run lie in runs/NAME/checkpoints")
        newest = shlex.quote(f"checkpoint={inside[-1]}")
        raise ValueError(f"{asked} is a folder; name a file in it, such as\n  python -m cstl.{command} {newest}")
    there = sorted(Path("runs").glob("*/checkpoints/*.ckpt"), key=lambda path: path.stat().st_mtime)
    newest = shlex.quote(f"checkpoint={there[-1]}") if there else "checkpoint=runs/NAME/checkpoints/step-0001000.ckpt"
    raise ValueError(f"which checkpoint? Name its file, such as\n  python -m cstl.{command} {newest}")


@naming_what_was_lost()
def prepare(config: DictConfig) -> None:
    """Prepares the data set's store from its raw frames, or one shard of it."""
    dataset = config.dataset
    if dataset.raw is None:
        raise ValueError(
            f"where are the raw frames of {dataset.name}? Name their folder:\n"
            f"  python -m cstl.prepare dataset={dataset.name} res={config.res} dataset.raw=PATH"
        )
    settings = {
        "dataset": dataset.name,
        "protocol": plain(dataset.protocol),
        "res": config.res,
        "layout": dataset.get("layout", "auto"),
        "workers": config.get("workers"),
        "strict": config.get("strict", False),
        "upsample": config.get("upsample", False),
        "subset": config.get("subset", False),
        "options": {key: plain(dataset)[key] for key in OPTIONS if key in dataset},
        "typed": typed_again(r"shards?=") if "shard" in config else None,  # training prepares its walkers itself
    }
    if config.get("shard") is None:
        summary = prepare_store(dataset.raw, dataset.store, **settings)
    else:
        summary = prepare_shard(dataset.raw, dataset.store, shard=config.shard, shards=config.shards, **settings)
    CONSOLE.print(str(summary), highlight=False, markup=False, soft_wrap=True)


def typed_again(leave_out: str | None = None) -> str:
    """What was typed after a command, to be typed again: in a sweep the job's own; without overrides of a pattern."""
    hydra = HydraConfig.get()
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    overrides = [override for override in hydra.overrides.task if not (leave_out and re.match(leave_out, override))]
    return shlex.join([*(f"--config-dir={folder}" for folder in folders), *overrides])


def check(config: DictConfig) -> None:
    """Checks the data set's store: counts, odd sequences, a sheet of pictures."""
    dataset = config.dataset
    store = open_store(dataset.store, dataset.name, config.res)
    CONSOLE.print(verify_store(store, progress=True), highlight=False, markup=False, soft_wrap=True)
    for remark in look_at_masks(store):
        CONSOLE.print(f"masks: {remark}", highlight=False, markup=False, soft_wrap=True)
    published = plain(dataset.published) if "published" in dataset else None
    found = check_store(store, plain(dataset.protocol), published, progress=True)
    write_check(found, contact_sheet(store, config.sequences, config.seed), Path(config.out))
    CONSOLE.print(found)
    CONSOLE.print(f"tables and a contact sheet: {config.out}", highlight=False, soft_wrap=True)


@naming_what_was_lost()
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
        **dataset.synthesis,
    )


def check_device(accelerator: str) -> None:
    """Refuses a GPU where PyTorch sees none."""
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer=gpu, but PyTorch {torch.__version__} sees no GPU here: use trainer=cpu or trainer=auto, or "
            "install a PyTorch build with CUDA and check that `nvidia-smi` lists a GPU"
        )


def name_subjects(config: DictConfig) -> None:
    """Puts the subjects of a split file into the configuration: a checkpoint must not depend on the file."""
    if config.dataset.get("split_file"):
        with open_dict(config):
            config.dataset.protocol = asdict(as_protocol(plain(config.dataset.protocol)))


def make_missing_walkers(config: DictConfig) -> None:
    """Synthetic walkers are made and prepared on first use; other data sets are the user's to prepare."""
    if "synthesis" not in config.dataset or (store := Path(config.dataset.store)).exists():
        return
    if not is_first():
        wait_for(store)
    told = False
    while not store.exists():
        try:
            synthesize(config)
            prepare(config)
        except InUseError as error:  # another run that was started at the same time makes them
            if not told:
                CONSOLE.print(f"waiting: {error}", highlight=False, markup=False, soft_wrap=True)
            told = True
            time.sleep(1)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lets nobody else write into a run's folder; its first process speaks for the others."""
    try:
        with owner(folder) if is_first() else nullcontext():
            if is_first():
                remove_parts(folder)
            yield
    except FileNotFoundError as error:
        if folder.is_dir():
            raise
        raise FileNotFoundError(f"{folder} was deleted or moved while this run wrote into it") from error


def prolong(config: DictConfig) -> None:
    """Sets the number of iterations to `extend` where it is asked for."""
    if (steps := config.get("extend")) is not None:
        if type(steps) is not int or steps < 1:
            raise ValueError(f"extend={shown(steps)}: expected the number of iterations in all, such as extend=20000")
        config.trainer.max_steps = steps


def open_run(folder: Path, settings: Plain) -> Path | None:
    """The checkpoint a run goes on from, None for a new one; its settings go to `config.yaml`.

    A start that left neither a checkpoint nor results has nothing to lose, and its name is free.

    Raises:
        ValueError: the folder is not a training run's, the run is finished, or it was started with other settings.
    """
    check_kind(folder, "train")
    file, extend = folder / "config.yaml", settings.get("extend")
    rename = "choose another name=, or delete the folder"
    before: Plain | None = None
    reason = "is not there"
    try:
        before = checked(read_yaml(file), resolved=False)
        before["trainer"]["max_steps"]
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        before, reason = None, f"is damaged ({error})"
    if not is_begun(folder):
        if extend is not None:
            raise ValueError(f"extend={extend}: {folder} has no run to go on with; leave extend= out, and type "
                             f"trainer.max_steps={extend}")  # fmt: skip
        if before is not None and differences(before, settings) and is_first():
            CONSOLE.print(f"{folder}: a start that came to nothing is begun anew, with other settings", highlight=False)
            begin_anew(folder)
        if is_first():
            write_text(file, OmegaConf.to_yaml(settings))
            write_text(folder / COMMAND, f"python -m cstl.train {typed_again()}\n")  # of the first start, for ever
        return None
    if before is None:
        raise ValueError(f"{folder} holds a run whose config.yaml {reason}, so nothing tells whether this is the same "
                         f"run: put it back, or {rename}")  # fmt: skip
    trained_on, store = before.get("store_fingerprint"), settings.get("store_fingerprint")
    if trained_on not in (None, store):  # a run of an earlier version does not say
        raise ValueError(
            f"{folder} was trained on a store with the fingerprint {shown(trained_on)}; "
            f"{settings['data']['store']} has {store}: it was prepared anew of other frames, or is another one. "
            f"Name the store that the run was trained on with dataset.store=PATH, or {rename}"
        )
    length, steps = ("trainer.max_steps:", "data.steps:"), before["trainer"]["max_steps"]
    differs = differences(before, settings)
    others = [line for line in differs if not line.startswith(length)]
    if others or (differs and extend is None):
        longest = max(steps, settings["trainer"]["max_steps"])
        how = rename if others else f"type extend={longest} to have it go on to {longest} iterations, or {rename}"
        raise ValueError(f"{folder} is a run with other settings; {how}. What differs:\n  " + "\n  ".join(differs))
    if extend is not None and extend < steps:
        raise ValueError(f"extend={extend}: {folder} is a run of {steps} iterations in all, and cannot be shortened")
    finished = is_finished(folder, _say)
    lost = missing_files(folder, settings) if checkpoints(folder / "checkpoints") else []  # what can be made again
    if finished and not lost and (extend is None or extend == steps):
        longer = f"to go on type extend=N with more than {steps} iterations, "
        raise AlreadyFinishedError(
            f"{folder} is finished, its results are in results.json; {longer}to run again {rename}"
        )
    last, problems = last_whole_checkpoint(folder / "checkpoints")
    for problem in problems:
        _say(problem)
    if extend is not None and extend > steps:
        cuts = settings["model"].get("milestones") or []
        rate = f"is cut at {cuts}, as before" if cuts else "stays constant"
        kept = f"; its results so far are in {put_aside(folder, steps)}" if finished and is_first() else ""
        _say(f"{folder} goes on from {steps} iterations to {extend}; the learning rate {rate}{kept}")
    if is_first():
        write_text(file, OmegaConf.to_yaml(settings))
    return last


def missing_files(folder: Path, settings: Plain) -> list[str]:
    """What a finished run has and this one has not: a run may have been killed while it wrote them."""
    names = [RESULTS, *(f"table.{ending}" for ending in tables.TEXT_FORMATS), "probes.npz", "embeddings.npz"]
    names += ["cross_view.png", *(["curves.png"] if (folder / "metrics.csv").exists() else [])]
    names += [REPORT] if settings["report"] else []
    return [name for name in names if not (folder / name).exists()]


def open_evaluation(folder: Path, settings: Plain) -> None:
    """Writes what is evaluated to `config.yaml`; ValueError where a run or a finished evaluation is."""
    check_kind(folder, "evaluate")
    if is_finished(folder, _say):
        raise ValueError(f"{folder} holds a finished evaluation; choose another name=, or leave it out")
    if is_first():
        write_text(folder / "config.yaml", OmegaConf.to_yaml(settings))
        write_text(folder / COMMAND, f"python -m cstl.evaluate {typed_again()}\n")


def _say(line: str) -> None:
    CONSOLE.print(line, highlight=False, markup=False, soft_wrap=True)


def make_trainer(config: DictConfig, folder: Path) -> Trainer:
    """Lightning's trainer as configured."""
    quiet_lightning()
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    if is_first():
        callbacks.append(terminal.Lines(log_file(folder), printed=not CONSOLE.is_terminal))
    if CONSOLE.is_terminal:
        callbacks.append(terminal.RunProgress(CONSOLE))
    every, steps = config.get("evaluate_every"), config.trainer.max_steps
    evaluates = every is not None and every <= steps
    return instantiate(
        config.trainer,
        default_root_dir=str(folder),
        logger=[instantiate(logger) for logger in wanted(config.logger)],
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        log_every_n_steps=min(config.trainer.log_every_n_steps, max(steps, 1)),
        val_check_interval=every if evaluates else None,
        limit_val_batches=1.0 if evaluates else 0,
        enable_checkpointing=False,
        enable_progress_bar=CONSOLE.is_terminal,
        _convert_="all",
    )


def log_file(folder: Path) -> Path:
    """Where a run says how far it is: `train.log`, Hydra's own."""
    return folder / f"{HydraConfig.get().job.name}.log"


def load_recognizer(path: Path, model: DictConfig | None = None) -> tuple[GaitRecognizer, Plain]:
    """A recogniser from its checkpoint alone, and the settings it was trained with; only tensors are loaded.

    Of the authors' files, which say nothing of their training, the settings are only what the weights tell.

    Args:
        path: of the checkpoint.
        model: the user's own, as composed: its network is made of these settings, and takes the file's weights.

    Raises:
        FileNotFoundError, ValueError: no such file, a damaged one, or one that holds something else.
    """
    weights = load_weights(path)
    try:
        network = build_network(weights) if model is None else own_network(model, weights)
        if weights.config is not None:
            known_keys(own_class(weights.config, "model"), GaitRecognizer, "model")
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    settings: Plain
    if weights.config is None:
        shape = network_settings(weights.state_dict)
        settings = {"res": network.height, "model": {"network": shape}, "trainer": {"precision": "32-true"}}
        settings["origin"] = weights.origin
    else:
        settings = weights.config
        precision = settings.get("trainer", {}).get("precision", "32-true")
        if str(precision) not in PRECISIONS:
            raise ValueError(
                f"{path} is refused: its trainer.precision is {shown(precision, 60)}, expected one of "
                f"{', '.join(PRECISIONS[:6])}"
            )
        if model is None and settings.get("res") != network.height:
            raise ValueError(f"{path} is refused: its res is {settings.get('res')}, its network's {network.height}")
        if "dataset" in settings and not settings["dataset"].get("name"):
            raise ValueError(f"{path} is refused: its data set has no name")
    recognizer = GaitRecognizer(network)
    recognizer.config, recognizer.trained = (
        settings,
        training_of(weights.config, weights.kept, str(path), weights.origin),
    )
    return recognizer, settings


def own_network(model: DictConfig, weights: Weights) -> nn.Module:
    """The network that the user's model names, with a checkpoint's weights; the file says how many classes it has.

    Raises:
        ValueError: the checkpoint is of no run of ours, or its weights are those of another network.
    """
    if weights.config is None:
        raise ValueError("it does not say how it was trained; model= is for checkpoints of cstl.train")
    trained = weights.config.get("model", {}).get("network", {})
    OmegaConf.update(model._get_root(), "res", weights.config["res"])
    settings = OmegaConf.to_container(model.network, resolve=True)
    assert isinstance(settings, dict)
    filled = {key: trained.get(key) for key, value in settings.items() if value == "???"}
    if unknown := [str(key) for key, value in filled.items() if type(value) is not int]:
        raise ValueError(f"it does not say what {', '.join(unknown)} of its network is")
    network: nn.Module = instantiate(settings | filled)
    if wrong := different_tensors(weights.state_dict, network.state_dict()):
        raise ValueError(f"its weights are not those of model.network={settings['_target_']}: {', '.join(wrong[:3])}")
    check_numbers(weights.state_dict)
    network.load_state_dict(weights.state_dict)
    return network


def trained_data(path: Path, trained: Plain) -> Plain:
    """The arguments of the data module that a checkpoint was trained with; none of them names a file to read.

    Raises:
        ValueError: they are not known, are for a class of the user's, or not what they must be.
    """
    if not trained.get("dataset") or not trained.get("data"):
        raise ValueError(f"{path} does not say which data set to evaluate on: add dataset=casiab or dataset=oumvlp")
    try:
        data, dataset = own_class(trained, "data"), trained["dataset"]
        known_keys(data, GaitDataModule, "data")
        plain_keys(dataset, "dataset")
        absent = [f"data.{key}" for key in ("store", "protocol", "res", "dataset") if not data.get(key)]
        absent += [f"dataset.{key}" for key in ("name", "title", "protocol") if not dataset.get(key)]
        if absent:
            raise ValueError(f"it lacks {', '.join(absent)}")
        for protocol in (data["protocol"], dataset["protocol"]):
            if protocol.get("split_file") is not None:
                raise ValueError("its protocol names a split file to read, not the subjects that are in it")
            as_protocol(protocol)
        if data["store"].replace("\\", "/").startswith("//"):
            raise ValueError(f"its store {shown(data['store'], 100)} is on another machine; give store=PATH")
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}; evaluate it on a data set of yours with dataset=NAME") from None
    return data


def report(
    folder: Path,
    settings: Plain,
    trainer: Trainer,
    recognizer: GaitRecognizer,
    data: GaitDataModule,
    checkpoint: Path,
    seconds: dict[str, float],
) -> Plain:
    """Evaluates on the test subjects; the first process prints the paper's table and writes what a run leaves."""
    started = time.monotonic()
    if recognizer.result_step != trainer.global_step:  # else the evaluation after the last step has just found it
        trainer.test(recognizer, datamodule=data, verbose=False)
    if not is_first():
        return {}
    seconds = seconds | {"evaluation": time.monotonic() - started}
    result, trained = recognizer.result, recognizer.config
    assert result is not None
    assert trained is not None
    method = method_name(trained | {"label": settings["label"]})
    methods = {method: result} | ({BASELINE: gait_energy_images(data)} if settings["baseline"] else {})

    dataset, size = settings["dataset"], frame_size(settings["res"])
    origin = trained["dataset"]["name"] if "dataset" in trained else trained.get("origin", AUTHORS)
    title = dataset["title"] + (f", trained on {origin}" if origin != dataset["name"] else "")
    seen = met(recognizer.trained, dataset, data, data.test_subjects)
    paper = published(data, trained, recognizer.trained, dataset)
    said = caveats(data, *map(len, seen))
    table = tables.paper_table(methods, title, dataset["name"], size, published_as=paper.method, remarks=said)
    CONSOLE.print()
    CONSOLE.print(tables.to_terminal(table, CONSOLE.width), highlight=False)
    if paper.left_out:
        CONSOLE.print()
        CONSOLE.print(f"the paper's rows are left out: {paper.left_out}", highlight=False, markup=False)
    CONSOLE.print()
    CONSOLE.print(tables.summary(result), highlight=False)
    for ending, render in tables.TEXT_FORMATS.items():
        write_text(folder / f"table.{ending}", render(table))

    content = {
        "method": method,
        "dataset": dataset["name"],
        "trained_on": origin,
        "trained_subjects": {
            **{
                shown(name): {"subjects": len(of), "names": ranges(of)}
                for name, of in recognizer.trained.subjects.items()
            },
            **dict.fromkeys(map(shown, recognizer.trained.unknown), "training subjects unknown"),
        },
        "seen_test_subjects": {"subjects": len(seen.trained_on), "names": ranges(seen.trained_on)},
        "chosen_by_test_subjects": {"subjects": len(seen.chosen_by), "names": ranges(seen.chosen_by)},
        "coverage": coverage(data),
        "published": paper.method,
        "published_left_out": paper.left_out,
        "resolution": list(size),
        "store": data.store.fingerprint,
        "train_subjects": len(data.train_subjects),
        "test_subjects": len(data.test_subjects),
        "gallery_sequences": int(result.gallery_sequences.sum()),
        "probe_sequences": {probe: int(count.sum()) for probe, count in result.probe_sequences.items()},
        "rank1": tables.rows(result),
        "rank1_matched": tables.rows(result, matched=True),
        "measures": {method: tables.measures(found) for method, found in methods.items()},
        "seconds": seconds,
        "checkpoint": str(checkpoint),
        "configuration": digest(trained),
        "versions": results.versions(),
    }
    noticed = remarks(
        result,
        *recognizer.mean_embeddings,
        gallery=[data.protocol.conditions.index(name) for name in data.protocol.gallery],
        margin=trained["model"].get("margin"),
        baseline=methods.get("GEI"),
        logged=read_rows(folder / "metrics.csv"),
    )
    content["remarks"] = noticed
    results.write_probes(result, data.test_subjects, data.protocol.conditions, folder / "probes.npz")
    results.write_embeddings(*recognizer.mean_embeddings, folder / "embeddings.npz")
    results.draw_cross_view(result, folder / "cross_view.png")
    if (metrics := folder / "metrics.csv").exists():
        results.draw_curves(metrics, list(result.accuracy), folder / "curves.png")
    write_json(folder / RESULTS, content)
    if settings["report"]:
        write_report(folder)
    CONSOLE.print()
    last_words = terminal.closing(folder, table, len(data.test_subjects), seconds, checkpoint, noticed, method)
    terminal.write_line(log_file(folder), last_words)
    CONSOLE.print(last_words, highlight=False, markup=False, soft_wrap=True)
    return content


def write_report(folder: Path) -> None:
    """Writes `report.html` and `figures/`; what goes wrong there is said, but does not undo a finished run."""
    from cstl.report import report_run  # here: libraries for plots that nothing else needs

    try:
        report_run(folder)
    except Exception as error:
        LOG.warning("the report of %s could not be written: %s: %s", folder, type(error).__name__, shown(error))


def gait_energy_images(data: GaitDataModule) -> CrossViewResult:
    """The baseline: the mean silhouette of a sequence and its nearest neighbour (Han & Bhanu, TPAMI 2006)."""
    # an image of H·W values a sequence; the first process alone makes them
    metric = cross_view_accuracy(data.protocol, half_embeddings=True, sync_on_compute=False)
    for batch in data.test_dataloader(dealt=False):
        sums = batch.silhouettes.sum(dim=1, dtype=torch.float32).flatten(1)  # (B, H·W); padding is zero
        images = sums / (255 * batch.lengths[:, None])
        metric.update(images[:, None], batch.subject, batch.condition, batch.view)
    return metric.compute()


def quiet_lightning() -> None:
    """Silences what Lightning says of a choice that is ours: the batch sampler resumes by itself, a CPU is fine.

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
