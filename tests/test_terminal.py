"""What the terminal shows: the overview, help, one line of progress, closing words, and what Ctrl-C says."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console

import cstl
import cstl.__main__
from cstl import __version__
from cstl.config import CONFIG_PATH
from cstl.recognizer import GaitRecognizer
from cstl.reporting.tables import Row, Table
from cstl.running import command, terminal
from cstl.running.help import commands, keys_of, overview
from cstl.running.settings import choices
from cstl.train import main, train

CONF = Path(CONFIG_PATH)
COMMANDS = sorted(
    file.stem
    for file in Path(cstl.__file__).parent.glob("[!_]*.py")
    if 'if __name__ == "__main__"' in file.read_text(encoding="utf-8")
)
TINY = ("dataset=tiny", "data.workers=0", "trainer=cpu", "trainer.log_every_n_steps=1", "baseline=false")

Configure = Callable[..., DictConfig]


def too_wide(text: str) -> list[str]:
    return [line for line in text.splitlines() if len(line) > 80]


def test_the_overview_lists_every_command() -> None:
    text = overview()
    assert list(commands()) == COMMANDS
    assert all(f"python -m cstl.{name} " in text for name in COMMANDS)
    assert too_wide(text) == []


def test_a_command_is_a_word_after_cstl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cstl", "train", "model.margn=1"])
    with pytest.raises(SystemExit) as ended:
        cstl.__main__.main()
    assert ended.value.code == 1
    assert "did you mean model.triplet.margin" in capsys.readouterr().err
    for asked in (["--version"], ["evaluate", "--version"]):
        monkeypatch.setattr(sys, "argv", ["cstl", *asked])
        cstl.__main__.main()
        assert capsys.readouterr().out == f"cstl {__version__}\n"
    monkeypatch.setattr(sys, "argv", ["cstl", "trian"])
    with pytest.raises(SystemExit, match=r"no command 'trian'; did you mean train\?.*evaluate, .*train"):
        cstl.__main__.main()


@pytest.mark.parametrize("asked", [[], ["--help"]])
def test_the_overview_is_printed(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cstl", *asked])
    cstl.__main__.main()
    assert capsys.readouterr().out.strip() == overview()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the keys of its file, and every file of the groups that it chooses from."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [f"cstl.{name}", "--help"])
    with suppress(SystemExit):
        importlib.import_module(f"cstl.{name}").main()
    shown = capsys.readouterr().out
    assert too_wide(shown) == []
    if not (file := CONF / f"{name}.yaml").exists():
        assert "usage" in shown
        return
    assert f"python -m cstl.{name} " in shown
    assert [
        key.name
        for key in keys_of(file)
        if key.value and "." not in key.name and f"  {key.name}=" not in shown
    ] == []
    for group in choices(name):
        part = shown.split(f"  {group}=")[1]
        assert [
            path.stem for path in CONF.glob(f"{group}/*.yaml") if not re.search(rf"\b{path.stem}\b", part)
        ] == []


def test_help_knows_the_users_files_and_explains_a_group(
    user_conf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cstl.train", f"--config-dir={user_conf}", "--help", "dataset=tiny"])
    main()
    shown = capsys.readouterr().out
    assert "  dataset=tiny " in shown
    assert re.search(r"choices: casiab .*\btiny\b", shown)
    monkeypatch.setattr(sys, "argv", ["cstl.train", "model", "--help", "model.triplet.margin=0.3"])
    main()
    shown = capsys.readouterr().out
    assert re.search(r"^  model\.triplet\.margin=0\.3\s", shown, re.M)
    assert too_wide(shown) == []
    monkeypatch.setattr(sys, "argv", ["cstl.train", "modle", "--help"])
    with pytest.raises(SystemExit, match="1"):
        main()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed goes to a terminal of 80 columns without colours."""
    for name, value in {"TTY_COMPATIBLE": "1", "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)


def lines_of(shown: str) -> list[str]:
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown).replace("\r", "\n").splitlines()


def test_a_long_run_is_one_line_of_80_columns(screen: None, capsys: pytest.CaptureFixture[str]) -> None:
    progress, now = terminal.RunProgress(), [0.0]
    trainer = Trainer(
        callbacks=[progress], logger=False, enable_checkpointing=False, max_epochs=1, accelerator="cpu"
    )
    progress.setup(trainer, LightningModule(), "fit")
    trainer.state.fn, trainer.training = TrainerFn.FITTING, True
    progress.on_train_start(trainer, LightningModule())
    bars = progress.progress
    bars.get_time = lambda: now[0]
    progress.train_progress_bar_id = bars.add_task("train", total=150_000, completed=120_000)
    trainer.callback_metrics.update(
        {"train/loss": torch.tensor(12.345), "test/rank1/mean": torch.tensor(100.0)}
    )
    for step in range(120_000, 120_040):
        now[0] += 2.5
        progress.on_train_batch_end(trainer, LightningModule(), None, None, step)
    bars.refresh()
    progress.teardown(trainer, LightningModule(), "fit")
    line = [line for line in lines_of(capsys.readouterr().out) if "120040/150000" in line][-1]
    expected = r"train [━╸╺]{5,} +120040/150000 loss 12\.345 rank-1 100\.0 0\.4 steps/s 20:48:20 left"
    assert re.fullmatch(expected, line.rstrip())


def test_a_run_shows_its_progress(
    screen: None, configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Also where it goes on after a stop: it counts from there."""
    for module in ("console", "trainer", "evaluation"):
        monkeypatch.setattr(f"cstl.running.{module}.CONSOLE", Console())
    step = GaitRecognizer.training_step

    def power_cut(self: GaitRecognizer, *arguments: object) -> torch.Tensor:
        if self.global_step == 3:
            raise RuntimeError("power cut")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(GaitRecognizer, "training_step", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            train(configured("train", *TINY, "evaluate_every=4"))
    assert any(re.match(r"train .* [23]/6 ", line) for line in lines_of(capsys.readouterr().out))
    train(configured("train", *TINY, "evaluate_every=4"))
    lines = lines_of(capsys.readouterr().out)
    training = [line for line in lines if re.match(r"train .*\d/6 ", line)]
    assert not any(re.search(r" [12]/6 ", line) for line in training)
    assert re.search(r" 6/6 loss \d+\.\d{3} rank-1 \d+\.\d .* in 0:00:\d\d", training[-1])
    assert any(re.match(r"evaluate [━╸╺ ]*\d+/\d+", line) for line in lines)
    assert too_wide("\n".join(line for line in lines if str(tmp_path) not in line)) == []


def test_closing_words(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train(configured("train", *TINY, "trainer.max_steps=2"))
    shown = capsys.readouterr().out
    assert "steps/s" not in shown  # quiet where there is no terminal
    last = shown[shown.index("\nrank-1 NM") + 1 :]  # a line of its own, after those of progress
    assert re.match(r"rank-1 NM \d+\.\d, BG \d+\.\d % on 2 test subjects\n", last)
    names = [name for line in re.findall(r"^  (\S.*?)  ", last, re.M) for name in line.split()]
    assert "results.json" in names
    assert [name for name in names if not (tmp_path / "run" / name).exists()] == []
    following = shlex.split(last.splitlines()[-1].removeprefix("next: "))
    assert following[:2] == ["python", "-m"]
    assert too_wide(last) == []

    page = tmp_path / "run" / "report.html"
    page.touch()
    rows = [
        Row("NM", "CSTL", (90.0,), 90.0),
        Row("NM", "CSTL (paper)", (98.0,), 98.0),
        Row("NM", "difference", (), -8.0),
    ]
    table = Table("CASIA-B", ("000",), (*rows, Row("CL", "CSTL", (None,), None)))
    told = terminal.closing(tmp_path / "run", table, 50, {"evaluation": 3700.9}, tmp_path / "other.ckpt")
    assert told.startswith(
        "rank-1 NM 90.0, CL – % on 50 test subjects\nCSTL (paper) NM 98.0 %; difference NM −8.0\nevaluation "
        "1:01:40\n\nrun/\n"
    )
    assert "  other.ckpt" in told
    assert "  report.html" in told
    assert told.endswith(f"\nnext: python -m webbrowser {page.as_uri()}")


@pytest.mark.parametrize(("typed", "expected"), [
    (["dataset=tiny", "data.eval_frames=9"], "python -m cstl.train dataset=tiny data.eval_frames=9 name={}"),
    (["dataset=tiny", "name=mine", "model.network.channels=[2]"],
     "python -m cstl.train dataset=tiny name=mine 'model.network.channels=[2]'"),
])  # fmt: skip
def test_the_command_that_goes_on(
    typed: list[str], expected: str, user_conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *typed])
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        overrides = [f"hydra.searchpath=[file://{user_conf}]", *typed, "hydra.runtime.output_dir=x"]
        config = compose("train", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    try:
        assert command.go_on("train", config) == expected.format(config.name)
    finally:
        HydraConfig.instance().cfg = None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_ctrl_c_in_a_terminal(user_conf: Path, tmp_path: Path) -> None:
    """In a terminal all processes of a run are interrupted, the workers that gather batches too."""
    import pty

    ours, theirs = pty.openpty()
    arguments = [
        f"--config-dir={user_conf}",
        *TINY,
        "data.workers=1",
        "trainer.max_steps=100000",
        "evaluate_every=null",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "cstl.train", *arguments],
        cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=_take_terminal, env=os.environ | {"COLUMNS": "80", "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown = ""
    while "steps/s" not in shown:
        shown += os.read(ours, 4096).decode(errors="replace")
    os.write(ours, b"\x03")
    try:
        while part := os.read(ours, 4096):
            shown += part.decode(errors="replace")
    except OSError:
        pass  # how Linux says that nobody is at the other end
    assert process.wait() == 130, shown
    (name,) = [path.name for path in (tmp_path / "runs").iterdir()]
    last = max((tmp_path / "runs" / name / "checkpoints").glob("*.ckpt"))
    step = int(last.stem.removeprefix("step-"))
    told = shown[shown.rindex("stopped by SIGINT") :].split()
    words = (
        f"stopped by SIGINT with a checkpoint after {step} steps; go on with: python -m cstl.train".split()
    )
    assert told == [*words, *arguments, f"name={name}"]


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize(("typed", "message"), [
    (["cstl.report"], r"^error: .*required: RUN; see python -m cstl.report --help$"),
    (["cstl.report", "x", "--otu=page.html"], r"--otu.*did you mean --out\?"),
    (["cstl.compare", "x", "--basline=0"], r"--basline.*did you mean --baseline\?"),
])  # fmt: skip
def test_a_wrong_option_is_one_sentence(
    typed: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", typed)
    with pytest.raises(SystemExit, match="1"):
        importlib.import_module(typed[0]).main()
    assert re.search(message, capsys.readouterr().err.rstrip("\n"))
