"""Train a run, or go on with it, and evaluate its last model.

python -m cstl.train experiment=demo
python -m cstl.train dataset=casiab res=128 seed=2 data.frames=20 name=mine
python -m cstl.train -m seed=1,2,3 ablation=none,frame_only name=a_sweep
python -m cstl.train --config-dir=my dataset=mine
"""

import time
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Trainer, seed_everything

from cstl.checkpoint import Weights, load_weights
from cstl.config import Plain
from cstl.data.datamodule import GaitDataModule
from cstl.files import read_json
from cstl.recognizer import GaitRecognizer
from cstl.reporting.published import check_label, method_name, refuse_baselines
from cstl.run_folder import BEST, CHECKPOINTS, REPORT, RESULTS
from cstl.running.checkpoints import check_best, checkpoints
from cstl.running.command import command
from cstl.running.console import say
from cstl.running.evaluation import evaluate_and_write, write_report
from cstl.running.loading import start_from
from cstl.running.metrics_log import loggers_closed
from cstl.running.processes import as_one_run, check_processes, naming_what_was_lost, owned
from cstl.running.resumption import missing_files, open_run, prolong, resume_logs
from cstl.running.settings import refuse_impossible
from cstl.running.terminal import leftovers
from cstl.running.trainer import check_device, make_data, make_trainer, precision_of, saved_settings
from cstl.synthesize import make_missing_walkers
from cstl.trained import NOBODY, Trained, met, refuse_seen, trained_by, training_of


def train(config: DictConfig) -> Plain:
    """Train the configured run, or go on with it, and evaluate its last model; return what `results.json`
    says.

    Args:
        config: `conf/train.yaml`, composed; the run goes to its `folder`.
    """
    folder = Path(config.folder)
    with naming_what_was_lost(), owned(folder):
        prolong(config)
        check_device(config.trainer.accelerator)
        refuse_impossible(config, "train")
        config.trainer.precision = precision_of(config.trainer)
        make_missing_walkers(config)  # where the data set is synthetic
        data = make_data(config)
        settings = saved_settings(config, data)
        check_label(method_name(settings))
        trainer = make_trainer(config, folder)
        check_processes(config, trainer)
        begun = bool(checkpoints(folder / CHECKPOINTS))
        weights, trained = starting_point(config, settings, data, trainer, begun)
        refuse_baselines(data, settings, trained, settings["dataset"], config.baselines)

        last = open_run(folder, settings)
        if missing_files(folder, settings) == [REPORT]:  # killed while it was written, or it failed
            write_report(folder)
            return read_json(folder / RESULTS)
        resume_logs(trainer.loggers, last)

        seed_everything(config.seed, workers=True, verbose=False)
        recognizer: GaitRecognizer = instantiate(
            settings["model"], half_embeddings=config.half_embeddings, _convert_="all"
        )
        recognizer.config, recognizer.trained = settings, trained
        if weights is not None and last is None:
            say(start_from(weights, config.init_from, recognizer.network, settings["model"]["network"]))
        with as_one_run(config, folder, trainer.world_size), loggers_closed(trainer.loggers):
            started = time.monotonic()
            trainer.fit(recognizer, datamodule=data, ckpt_path=last, weights_only=True)
            seconds = {"training": time.monotonic() - started}
            reported = checkpoints(folder / CHECKPOINTS)[-1]  # the last, unless the best is asked for
            if (best := folder / CHECKPOINTS / BEST).exists():
                reported = best
                recognizer.network.load_state_dict(load_weights(best).state_dict)
                recognizer.result_step = -1  # it is of the last
            if not config.evaluate:
                say(leftovers(folder, reported))
                return {"checkpoint": str(reported), "seconds": seconds}
            return evaluate_and_write(folder, settings, trainer, recognizer, data, reported, seconds)


def starting_point(
    config: DictConfig, settings: Plain, data: GaitDataModule, trainer: Trainer, begun: bool
) -> tuple[Weights | None, Trained]:
    """Read the weights of `init_from`; return them and whom the network will have been trained on in the end.

    Args:
        begun: the run goes on from a checkpoint of its own, which knows whom `init_from` was trained on.

    Raises:
        ValueError: test subjects were trained on, or the best checkpoint cannot be chosen.
    """
    chosen = any(getattr(callback, "best", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if chosen:
        check_best(data.validation_subjects, config.evaluate_every, trainer.max_steps)
    weights, before = None, NOBODY
    if config.init_from is not None and not begun:
        weights = load_weights(config.init_from)
        before = training_of(weights.config, weights.kept, config.init_from, weights.origin)
        tested = [*data.test_subjects, *data.validation_subjects]
        if not config.allow_seen:
            seen = met(before, settings["dataset"], data, tested)
            refuse_seen(seen, len(tested), settings["dataset"]["title"], config.init_from)
    return weights, trained_by(settings["dataset"], data, chosen) + before


main = command(train)

if __name__ == "__main__":
    main()
