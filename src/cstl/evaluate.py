"""Evaluate a checkpoint: the paper's table on the data set it was trained on, or on another.

python -m cstl.evaluate checkpoint=runs/NAME/checkpoints/step-0000200.ckpt
python -m cstl.evaluate checkpoint=PATH dataset=casiab
python -m cstl.evaluate checkpoint=AUTHORS.ptm dataset=casiab res=128
python -m cstl.evaluate checkpoint=SET.pt model=gaitset dataset=casiab res=64
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from cstl.config import Plain
from cstl.data.datamodule import EVAL_FRAMES, GaitDataModule
from cstl.files import shown, write_text
from cstl.reporting.published import check_label, method_name, refuse_baselines
from cstl.run_folder import EVALUATED
from cstl.running.command import asked_checkpoint, command, write_command
from cstl.running.console import say
from cstl.running.evaluation import evaluate_and_write
from cstl.running.folder import check_kind, is_finished
from cstl.running.loading import load_recognizer, trained_dataset
from cstl.running.processes import as_one_run, check_processes, is_first, naming_what_was_lost, owned
from cstl.running.settings import refuse_impossible
from cstl.running.trainer import check_device, make_data, make_trainer, precision_of, saved_settings
from cstl.trained import met, refuse_seen


def evaluate(config: DictConfig) -> Plain:
    """Evaluate a checkpoint, on the data set it was trained on or another; return what `results.json` says.

    Args:
        config: `conf/evaluate.yaml`, composed; the evaluation goes to its `folder`.
    """
    folder = Path(config.folder)
    with naming_what_was_lost(), owned(folder):
        check_device(config.trainer.accelerator)
        refuse_impossible(config, "evaluate")
        path = asked_checkpoint(config, "evaluate")
        recognizer, trained = load_recognizer(path, config.get("model"), config.half_embeddings, config.form)
        take_from_training(config, path, trained)
        data = make_data(config)
        trainer = make_trainer(config, folder)
        check_processes(config, trainer)

        settings = saved_settings(config, data)
        settings["label"] = settings["label"] or trained.get("label")
        check_label(method_name(trained | {"label": settings["label"]}))
        say_if_other_store(path, trained, settings, data)
        if not config.allow_seen:
            seen = met(recognizer.trained, settings["dataset"], data, data.test_subjects)
            refuse_seen(seen, len(data.test_subjects), settings["dataset"]["title"], str(path))
        refuse_baselines(data, trained, recognizer.trained, settings["dataset"], config.baselines)
        # as trained, but for the data: what `cstl.compare` tells runs and evaluations apart by
        changed = ("dataset", "store_fingerprint", "label", "max_frames", "half_embeddings")
        evaluated = trained | {key: settings[key] for key in changed}
        evaluated["data"] = trained.get("data", {}) | settings["data"]
        open_evaluation(folder, evaluated | {EVALUATED: str(path)})
        with as_one_run(config, folder, trainer.world_size):
            return evaluate_and_write(folder, settings, trainer, recognizer, data, path, {})


def take_from_training(config: DictConfig, path: Path, trained: Plain) -> None:
    """Fill in what an evaluation takes from the training's settings, with the data set where none is named.

    Raises:
        ValueError: silhouettes of another resolution are asked for, or the data set is not known.
    """
    dataset = None if "dataset" in config else trained_dataset(path, trained)
    if trained["res"] is None:
        trained["res"] = config.res
        if config.res is None:
            raise ValueError(
                f"{path} does not say at which resolution its network was trained, and fits any: add res=64 "
                "or res=128, whichever it was; weights do not carry over to another one"
            )
    if config.res not in (None, trained["res"]):
        raise ValueError(
            f"{path} was trained at res={trained['res']} and cannot read silhouettes of res={config.res}; "
            f"leave res= out, or take a checkpoint that was trained at res={config.res}"
        )
    with open_dict(config):
        config.res = trained["res"]
        config.trainer.precision = config.trainer.precision or trained.get("trainer", {}).get(
            "precision", "32-true"
        )
        config.trainer.precision = precision_of(config.trainer)
        config.logger = config.callbacks = {}
        config.pop("model", None)
        if dataset is not None:
            config.dataset = dataset
        if config.store is not None:
            config.dataset.store = config.store
        if config.data.eval_frames is None:
            config.data.eval_frames = trained.get("data", {}).get("eval_frames") or EVAL_FRAMES


def say_if_other_store(path: Path, trained: Plain, settings: Plain, data: GaitDataModule) -> None:
    """Say where a data set's store is not the one that the checkpoint was trained on."""
    trained_on, store = trained.get("store_fingerprint"), data.store.fingerprint
    if (
        trained_on not in (None, store)
        and trained.get("dataset", {}).get("name") == settings["dataset"]["name"]
    ):
        say(
            f"{data.path} is not the store that {path} was trained on (fingerprint {store}, not "
            f"{shown(trained_on)})"
        )


def open_evaluation(folder: Path, settings: Plain) -> None:
    """Write what is evaluated to `config.yaml`; ValueError where a run or a finished evaluation is."""
    check_kind(folder, "evaluate")
    if is_finished(folder, say):
        raise ValueError(f"{folder} holds a finished evaluation; choose another name=, or leave it out")
    if is_first():
        write_text(folder / "config.yaml", OmegaConf.to_yaml(settings))
        write_command(folder, "evaluate")


main = command(evaluate)

if __name__ == "__main__":
    main()
