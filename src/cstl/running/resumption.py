"""Whether a run begins, goes on or is refused, as its folder says."""

from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from cstl.config import Plain, checked, differences
from cstl.files import read_yaml, shown, write_text
from cstl.reporting.tables import TEXT_FORMATS
from cstl.run_folder import EMBEDDINGS, PROBES, REPORT, RESULTS
from cstl.running.checkpoints import checkpoints, last_intact_checkpoint
from cstl.running.command import write_command
from cstl.running.console import say
from cstl.running.folder import begin_anew, check_kind, is_begun, is_finished, put_aside
from cstl.running.metrics_log import CSVLog, TensorBoardLog
from cstl.running.processes import is_first
from cstl.running.sweep import AlreadyFinishedError


def open_run(folder: Path, settings: Plain) -> Path | None:
    """Return the checkpoint that a run goes on from, None for a new one; write its settings to `config.yaml`.

    A start that left neither a checkpoint nor results has nothing to lose, and its name is free.

    Raises:
        ValueError: the folder is not a training run's, the run is finished, or it was started with other
            settings.
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
            raise ValueError(f"extend={extend}: {folder} has no run to go on with; leave extend= out, and "
                             f"type trainer.max_steps={extend}")  # fmt: skip
        if before is not None and differences(before, settings) and is_first():
            say(f"{folder}: a start that came to nothing is begun anew, with other settings")
            begin_anew(folder)
        if is_first():
            write_text(file, OmegaConf.to_yaml(settings))
            write_command(folder, "train")  # of the first start, for ever
        return None
    if before is None:
        raise ValueError(f"{folder} holds a run whose config.yaml {reason}, so nothing tells whether this "
                         f"is the same run: put it back, or {rename}")  # fmt: skip
    trained_on, store = before.get("store_fingerprint"), settings.get("store_fingerprint")
    if trained_on not in (None, store):  # a run of an earlier version does not say
        raise ValueError(
            f"{folder} was trained on a store with the fingerprint {shown(trained_on)}; "
            f"{settings['dataset']['store']} has {store}: it was prepared anew of other frames, or is "
            f"another one. Name the store that the run was trained on with dataset.store=PATH, or {rename}"
        )
    steps = before["trainer"]["max_steps"]
    differs = differences(before, settings)
    others = [line for line in differs if not line.startswith("trainer.max_steps:")]
    if extend is not None and others and all(line.startswith("model.scheduler.") for line in others):
        raise ValueError(
            f"extend={extend}: the learning rate of {folder} follows the number of iterations "
            f"({'; '.join(others)}), so that a run of {extend} has another rate from its first iterations "
            f"on, and this one would become neither. Train anew with trainer.max_steps={extend} name=NAME, "
            f"or begin from its weights with init_from={folder}/checkpoints/step-{steps:07d}.ckpt"
        )
    if others or (differs and extend is None):
        longest = max(steps, settings["trainer"]["max_steps"])
        how = (
            rename
            if others
            else f"type extend={longest} to have it go on to {longest} iterations, or {rename}"
        )
        raise ValueError(
            f"{folder} is a run with other settings; {how}. What differs:\n  " + "\n  ".join(differs)
        )
    if extend is not None and extend < steps:
        raise ValueError(
            f"extend={extend}: {folder} is a run of {steps} iterations in all, and cannot be shortened"
        )
    finished = is_finished(folder, say)
    # what can be made again
    lost = missing_files(folder, settings) if checkpoints(folder / "checkpoints") else []
    if finished and not lost and (extend is None or extend == steps):
        longer = f"to go on type extend=N with more than {steps} iterations, "
        raise AlreadyFinishedError(
            f"{folder} is finished, its results are in results.json; {longer}to run again {rename}"
        )
    last, problems = last_intact_checkpoint(folder / "checkpoints")
    for problem in problems:
        say(problem)
    if extend is not None and extend > steps:
        schedule = settings["model"].get("scheduler") or {"milestones": []}
        cuts = schedule.get("milestones")
        rate = (
            f"is cut at {cuts}, as before"
            if cuts
            else "stays constant"
            if cuts == []
            else "follows model.scheduler"
        )
        kept = f"; its results so far are in {put_aside(folder, steps)}" if finished and is_first() else ""
        say(f"{folder} goes on from {steps} iterations to {extend}; the learning rate {rate}{kept}")
    if is_first():
        write_text(file, OmegaConf.to_yaml(settings))
    return last


def missing_files(folder: Path, settings: Plain) -> list[str]:
    """Return the files that a finished run has and this one lacks: killed while it wrote them, perhaps."""
    names = [RESULTS, *(f"table.{ending}" for ending in TEXT_FORMATS), PROBES]
    names += [EMBEDDINGS] if settings["keep_embeddings"] else []
    names += [REPORT] if settings["report"] else []
    return [name for name in names if not (folder / name).exists()]


def prolong(config: DictConfig) -> None:
    """Set the number of iterations to `extend` where it is asked for."""
    if (steps := config.get("extend")) is not None:
        if type(steps) is not int or steps < 1:
            raise ValueError(
                f"extend={shown(steps)}: expected the number of iterations in all, such as extend=20000"
            )
        config.trainer.max_steps = steps


def resume_logs(loggers: Iterable[Logger], last: Path | None) -> None:
    """Cut the logs back to the checkpoint a run goes on from; None: killed before its first one, perhaps."""
    for logger in loggers:
        if isinstance(logger, CSVLog | TensorBoardLog):
            logger.resume(step=int(last.stem.removeprefix("step-")) if last else 0)
