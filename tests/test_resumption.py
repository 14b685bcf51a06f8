"""A run that was killed goes on as if nothing had happened; a damaged checkpoint is noticed;
signals are obeyed.
"""

import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from cstl.config import CONFIG_PATH
from cstl.running.checkpoints import checkpoints

TINY = (
    "dataset=tiny",
    "data.workers=0",
    "trainer=cpu",
    "trainer.log_every_n_steps=1",
    "baseline=false",
    "report=false",
)
LAST = ["step-0000004.ckpt", "step-0000006.ckpt"]
Patch = Callable[[], None]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(step: int, number: int = signal.SIGKILL) -> Patch:
    """A signal in the middle of a training step."""

    def patch() -> None:
        from cstl.recognizer import GaitRecognizer

        train = GaitRecognizer.training_step

        def training_step(self: GaitRecognizer, *arguments: object) -> torch.Tensor:
            if self.global_step == step:
                os.kill(os.getpid(), number)
            return train(self, *arguments)

        GaitRecognizer.training_step = training_step

    return patch


class Killed:
    """Kill points; each is called in the process before the run."""

    @staticmethod
    def writing_a_checkpoint() -> None:
        """When half of the second one is on the disk."""
        save, seen = torch.save, []

        def half(content: object, file: object) -> None:
            seen.append(save(content, file))
            if len(seen) == 2:
                file.truncate(file.tell() // 2)
                kill()

        torch.save = half

    @staticmethod
    def putting_a_checkpoint_in_its_place() -> None:
        replace = os.replace
        os.replace = lambda part, target: (
            kill() if target.name == "step-0000004.ckpt" else replace(part, target)
        )

    @staticmethod
    def evaluating() -> None:
        """In the evaluation after step 3, of which the checkpoint of step 2 knows nothing."""
        from cstl.recognizer import GaitRecognizer

        GaitRecognizer.validation_step = lambda *arguments: kill()

    @staticmethod
    def evaluating_the_last_model() -> None:
        """After the last step, which has no checkpoint yet."""
        from cstl.recognizer import GaitRecognizer

        step = GaitRecognizer.validation_step
        GaitRecognizer.validation_step = lambda self, *rest: (
            kill() if self.global_step == 6 else step(self, *rest)
        )

    @staticmethod
    def after_the_last_evaluation() -> None:
        """When its row is in the log, and nothing else tells of it."""
        replace = os.replace
        os.replace = lambda part, target: kill() if target.name == "probes.npz" else replace(part, target)

    @staticmethod
    def writing_the_table() -> None:
        """After training, which does not begin again."""
        replace = os.replace
        os.replace = lambda part, target: kill() if target.name == "table.csv" else replace(part, target)

    @staticmethod
    def taking_an_old_checkpoint_away() -> None:
        """Between the third one's bytes and its name."""
        unlink = Path.unlink

        def late(path: Path, missing_ok: bool = False) -> None:
            unlink(path, missing_ok=missing_ok)
            if path.name == "step-0000002.ckpt":
                kill()

        Path.unlink = late

    @staticmethod
    def rewriting_the_log() -> None:
        """With the second checkpoint, when the first evaluation has brought new columns."""
        replace, seen = os.replace, []

        def late(source: Path, target: Path) -> None:
            seen.append(target.name)
            if seen.count("metrics.csv") == 2:
                source.write_text(source.read_text()[:50])
                kill()
            replace(source, target)

        os.replace = late


def resumed_log() -> None:
    """Killed when a resumed run has just cut its log."""
    from cstl.running.metrics_log import CSVLog

    resume = CSVLog.resume

    def cut(self: CSVLog, step: int) -> None:
        resume(self, step)
        kill()

    CSVLog.resume = cut


def train(conf: Path, folder: Path, patch: Patch | str | None, *overrides: str) -> None:
    """What a fresh process does; its output goes to a file beside the run."""
    sys.stdout = sys.stderr = open(f"{folder}.log", "a")  # noqa: SIM115
    torch.set_num_threads(1)
    from cstl.running.processes import Stopped
    from cstl.train import train

    folder.mkdir(exist_ok=True)
    fixed = [f"hydra.searchpath=[file://{conf}]", f"hydra.runtime.output_dir={folder}", "name=run"]
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = compose("train", overrides=[*fixed, *TINY, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    if patch is not None:
        (getattr(Killed, patch) if isinstance(patch, str) else patch)()
    try:
        train(config)
    except Stopped as stopped:
        print(stopped, flush=True)
        os._exit(128 + stopped.signal)
    except OSError as error:
        print(error, flush=True)
        os._exit(1)


class AtStep:
    """`at_step`, as something that can be sent to another process."""

    def __init__(self, step: int, number: int = signal.SIGKILL) -> None:
        self.step, self.number = step, number

    def __call__(self) -> None:
        at_step(self.step, self.number)()


Start = Callable[..., BaseProcess]


@pytest.fixture(scope="module")
def start(user_conf: Path, folder: Path) -> Start:
    """Starts a run of that name in a process forked from one that has imported everything, and
    waits for its end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cstl.train"])

    def start(name: str, patch: Patch | str | None, *overrides: str) -> BaseProcess:
        process = context.Process(target=train, args=(user_conf, folder / name, patch, *overrides))
        process.start()
        process.join(120)
        return process

    return start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resumption")


@pytest.fixture(scope="module")
def whole(start: Start, folder: Path) -> Path:
    """A run that was never killed."""
    assert start("whole", None).exitcode == 0, (folder / "whole.log").read_text()
    return folder / "whole"


def assert_same(one: Path, other: Path) -> None:
    """The same weights, optimiser state, log and results, bit by bit."""
    ours, theirs = (
        torch.load(checkpoints(run / "checkpoints")[-1], weights_only=True) for run in (one, other)
    )
    assert list(_tensors(ours["state_dict"])) == list(_tensors(theirs["state_dict"]))
    assert list(_tensors(ours["optimizer_states"])) == list(_tensors(theirs["optimizer_states"]))
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    ours, theirs = (json.loads((run / "results.json").read_text()) for run in (one, other))
    assert [ours[what] for what in ("rank1", "measures")] == [theirs[what] for what in ("rank1", "measures")]


def _tensors(node: object) -> Iterator[bytes]:
    if isinstance(node, torch.Tensor):
        yield node.numpy().tobytes()
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _tensors(child)


@pytest.mark.parametrize("point", [name for name in vars(Killed) if not name.startswith("_")])
def test_killed_at_a_bad_moment(point: str, start: Start, whole: Path) -> None:
    name = point
    assert start(name, point).exitcode == -signal.SIGKILL
    assert len(checkpoints(whole.parent / name / "checkpoints")) <= 2
    assert start(name, None).exitcode == 0, (whole.parent / f"{name}.log").read_text()
    assert_same(whole, whole.parent / name)
    assert sorted(path.name for path in (whole.parent / name / "checkpoints").iterdir()) == LAST
    assert not list((whole.parent / name).glob("*.part"))


def test_a_row_is_logged_once(whole: Path) -> None:
    """The evaluation after the last step is the final one, too."""
    rows = (whole / "metrics.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == [1, 2, 3, 3, 4, 5, 6, 6]


def test_killed_again_and_again(start: Start, whole: Path) -> None:
    """Before there was a checkpoint, at a random step, when it had just gone on, and at a later step."""
    for patch in (AtStep(1), AtStep(random.Random(7).randint(2, 4)), resumed_log, AtStep(5)):
        assert start("thrice", patch).exitcode == -signal.SIGKILL
    assert start("thrice", None).exitcode == 0
    assert_same(whole, whole.parent / "thrice")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signals_leave_a_checkpoint_first(name: str, start: Start, whole: Path) -> None:
    """The signal comes in the fifth step, which no checkpoint would follow."""
    number = getattr(signal, name)
    assert start(name, AtStep(4, number)).exitcode == 128 + number
    run = whole.parent / name
    assert f"stopped by {name} with a checkpoint after 5 steps" in (whole.parent / f"{name}.log").read_text()
    assert [path.name for path in checkpoints(run / "checkpoints")] == [
        "step-0000004.ckpt",
        "step-0000005.ckpt",
    ]
    assert start(name, None).exitcode == 0
    assert_same(whole, run)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    damage: str, start: Start, whole: Path
) -> None:
    name = f"damaged-{damage}"
    assert start(name, AtStep(5)).exitcode == -signal.SIGKILL
    last = checkpoints(whole.parent / name / "checkpoints")[-1]
    assert last.name == "step-0000004.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "flipped":  # one bit of the weights, in the largest record
        with zipfile.ZipFile(last) as archive:
            record = max(archive.infolist(), key=lambda info: info.file_size)
        content[record.header_offset + record.file_size // 2] ^= 1
    last.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])

    assert start(name, None).exitcode == 0, (whole.parent / f"{name}.log").read_text()
    said = (whole.parent / f"{name}.log").read_text()
    assert f"{last} is damaged" in said
    assert "step-0000004.ckpt.damaged, the one before it is used" in said
    assert (last.parent / "step-0000004.ckpt.damaged").exists()
    assert_same(whole, whole.parent / name)


def full_disk() -> None:
    """Files of more than 100 kB cannot be written from step 3 on."""

    def fill() -> None:
        from cstl.recognizer import GaitRecognizer

        train = GaitRecognizer.training_step

        def training_step(self: GaitRecognizer, *arguments: object) -> torch.Tensor:
            if self.global_step == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            return train(self, *arguments)

        GaitRecognizer.training_step = training_step

    fill()


def test_a_full_disk_leaves_the_last_good_checkpoint(start: Start, whole: Path) -> None:
    assert start("full", full_disk).exitcode == 1
    run = whole.parent / "full"
    said = (whole.parent / "full.log").read_text()
    assert "step-0000004.ckpt could not be written" in said
    assert "step-0000002.ckpt is whole, and the same command goes on from it" in said
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-0000002.ckpt"]
    assert start("full", None).exitcode == 0
    assert_same(whole, run)


def test_a_finished_run_is_prolonged(start: Start, folder: Path) -> None:
    """6 of 6 steps, then to 12: the weights are those of 12 steps at once, and the first results stay."""
    assert start("long", None, "trainer.max_steps=12").exitcode == 0
    assert start("more", None).exitcode == 0
    first = json.loads((folder / "more" / "results.json").read_text())
    assert start("more", AtStep(9), "extend=12").exitcode == -signal.SIGKILL
    assert not (folder / "more" / "results.json").exists()
    assert start("more", None, "extend=12").exitcode == 0, (folder / "more.log").read_text()
    said = (folder / "more.log").read_text()
    assert (
        "goes on from 6 iterations to 12; the learning rate is cut at [4], as before; its results so far are"
        in said
    )

    ours, theirs = (torch.load(checkpoints(folder / name / "checkpoints")[-1]) for name in ("long", "more"))
    assert ours["global_step"] == theirs["global_step"] == 12
    for what in ("state_dict", "optimizer_states"):
        assert list(_tensors(ours[what])) == list(_tensors(theirs[what]))
    ours, theirs = (json.loads((folder / name / "results.json").read_text()) for name in ("long", "more"))
    for what in ("rank1", "measures", "configuration"):
        assert ours[what] == theirs[what]
    assert "max_steps: 12" in (folder / "more" / "config.yaml").read_text()

    aside = folder / "more" / "after-0000006"
    kept = json.loads((aside / "results.json").read_text())
    assert kept["rank1"] == first["rank1"]
    assert torch.load(kept["checkpoint"])["global_step"] == 6
    assert "max_steps: 6" in (aside / "config.yaml").read_text()
    assert (aside / "probes.npz").exists()


def test_a_stopped_run_is_prolonged(start: Start, folder: Path) -> None:
    assert start("stopped", AtStep(4, signal.SIGTERM)).exitcode == 128 + signal.SIGTERM
    assert start("stopped", None, "extend=12").exitcode == 0, (folder / "stopped.log").read_text()
    ours, theirs = (
        torch.load(checkpoints(folder / name / "checkpoints")[-1]) for name in ("long", "stopped")
    )
    assert list(_tensors(ours["state_dict"])) == list(_tensors(theirs["state_dict"]))
    assert (folder / "long" / "metrics.csv").read_bytes() == (folder / "stopped" / "metrics.csv").read_bytes()


def test_the_log_has_the_same_iterations_after_two_stops(start: Start, folder: Path) -> None:
    seldom = ("trainer.log_every_n_steps=3", "trainer.max_steps=9", "evaluate_every=null")
    for step in (3, 7):
        assert start("seldom", AtStep(step, signal.SIGTERM), *seldom).exitcode == 128 + signal.SIGTERM
    assert start("seldom", None, *seldom).exitcode == 0, (folder / "seldom.log").read_text()
    rows = (folder / "seldom" / "metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["3", "6", "9", "9"]


class InEvaluation:
    """A signal in the evaluation after the last step, or in the final one of a run without others."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def __call__(self) -> None:
        from cstl.recognizer import GaitRecognizer

        step = GaitRecognizer.validation_step

        def signalled(recognizer: GaitRecognizer, *arguments: object) -> None:
            if recognizer.global_step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            step(recognizer, *arguments)

        setattr(GaitRecognizer, self.hook, signalled)


@pytest.mark.parametrize("when", ["last step", "validation_step", "test_step"])
def test_a_signal_at_the_end_is_obeyed(when: str, start: Start, whole: Path) -> None:
    name = when.replace(" ", "-")
    patch = AtStep(5, signal.SIGUSR1) if when == "last step" else InEvaluation(when)
    number = signal.SIGUSR1 if when == "last step" else signal.SIGTERM
    overrides = ("evaluate_every=null",) if when == "test_step" else ()
    assert start(name, patch, *overrides).exitcode == 128 + number
    run = whole.parent / name
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == LAST
    assert not (run / "results.json").exists()
    assert start(name, None, *overrides).exitcode == 0
    if not overrides:
        assert_same(whole, run)
