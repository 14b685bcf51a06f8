"""What a run says where nobody looks at a terminal, how it says what was lost, and what it makes again."""

import errno
import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from cstl import progress
from cstl.data import Protocol, Store
from cstl.data import datamodule as batches
from cstl.running import terminal
from cstl.running.evaluation import write_report
from cstl.running.processes import Stopped, naming_what_was_lost, obeying_signals
from cstl.running.sweep import AlreadyFinishedError
from cstl.train import train

TINY = ("dataset=tiny", "data.workers=0", "trainer=cpu", "baseline=false")
Configure = Callable[..., DictConfig]


def test_a_run_without_a_terminal(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines on the output and in the log; what a finished run has lost is made again, and only that."""
    monkeypatch.setattr(terminal, "EVERY", 0.0)
    first = train(configured("train", *TINY))
    shown, log = capsys.readouterr().out, (tmp_path / "run" / "train.log").read_text()
    for line in ("run: tiny, 4 training and 2 test subjects; 1 process on cpu; step 0 of 6",
        "step 5 of 6, loss ",
                 "evaluation after step 3: rank-1 NM ", "evaluating: 1 of ",
                 "trained for 6 steps"):  # fmt: skip
        assert line in shown
        assert line in log
    assert "rank-1 NM" in log.splitlines()[-1] or "next:" in log

    with pytest.raises(AlreadyFinishedError):
        train(configured("train", *TINY))
    monkeypatch.setattr("cstl.train.write_report", lambda folder: (folder / "report.html").write_text("made"))
    assert train(configured("train", *TINY, "report=true"))["rank1"] == first["rank1"]
    assert (tmp_path / "run" / "report.html").read_text() == "made"
    rows = (tmp_path / "run" / "metrics.csv").read_bytes()
    (tmp_path / "run" / "table.md").unlink()
    assert train(configured("train", *TINY))["rank1"] == first["rank1"]
    assert (tmp_path / "run" / "table.md").exists()
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == rows


def test_steps_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert list(progress.steps("abc", "drawing", "walks", True)) == ["a", "b", "c"]
    assert "drawing: 2 of 3 walks\n" in capsys.readouterr().out
    assert list(progress.steps("abc", "drawing", "walks", False)) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("error", "kind", "words"), [
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), ChildProcessError,
     "data.workers=0"),
    (BrokenProcessPool("A process was terminated abruptly"), ChildProcessError, "workers=1"),
    (MemoryError(), OSError, "memory ran out"),
    (torch.OutOfMemoryError("CUDA out of memory"), OSError, "memory ran out"),
    (RuntimeError("something else"), RuntimeError, "something else"),
])  # fmt: skip
def test_what_was_lost_is_named(error: Exception, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words), naming_what_was_lost():
        raise error


@pytest.mark.parametrize("how", ["Read error [127.0.0.1]:35723: Connection reset", "Connection closed"])
def test_a_process_of_the_run_that_was_lost_is_named(how: str) -> None:
    """As gloo says it; another error of its own is not taken for that."""
    lost = f"[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] {how} by peer. Check the logs"
    with (
        pytest.raises(ChildProcessError, match=r"another process of this run was lost.*last checkpoint"),
        naming_what_was_lost(),
    ):
        raise RuntimeError(lost)
    with pytest.raises(RuntimeError, match="by peers"), naming_what_was_lost():
        raise RuntimeError("connection closed by peers")


def test_workers_that_cannot_be_started_are_named() -> None:
    """Python's semaphores lie in /dev/shm; Lightning's teardown then raises an error of its own."""
    masking = RuntimeError("Please call `iter(combined_loader)` first.")
    masking.__context__ = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(OSError, match=r"No space left on device; /dev/shm may be full\): .*data\.workers=0"),
        naming_what_was_lost(),
    ):
        raise masking


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_before_training_stops_at_once(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"stopped by {name} at once"), obeying_signals():
        os.kill(os.getpid(), number)

    assert signal.getsignal(number) == before


@pytest.mark.parametrize("excusing", ["the report", "a setting"])
def test_a_signal_is_no_error_that_is_excused(
    excusing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that fails is a warning, and OmegaConf makes errors anew: neither gets hold of a signal."""

    def stop(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("cstl.reporting.page.report_run", stop)
    OmegaConf.register_new_resolver("stop", stop, replace=True)
    config = OmegaConf.create({"key": "${stop:}"})
    excused = {"the report": lambda: write_report(tmp_path), "a setting": lambda: config.key}[excusing]
    with pytest.raises(Stopped, match="stopped by SIGTERM at once") as stopped, obeying_signals():
        excused()
    OmegaConf.clear_resolver("stop")
    assert stopped.value.signal == signal.SIGTERM


def test_batches_come_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker sends needs no shared memory, and is tensors when it has come."""
    batch: Any = batches.TrainBatch(torch.arange(6, dtype=torch.uint8).view(2, 3), torch.tensor([1, 2]))
    assert batches._through_the_pipe(batch) is batch
    monkeypatch.setattr(batches, "get_worker_info", lambda: object())
    come = pickle.loads(pickle.dumps(batches._through_the_pipe(batch)))
    assert isinstance(come, batches.TrainBatch)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch[:2], come[:2], strict=True))
    assert come.lengths is None


def test_every_process_has_an_evaluation_batch(store: Store, protocol: Protocol) -> None:
    """More processes than batches: the last has an empty one, and takes part in what all do together."""
    shares = [batches.TestBatches(store, protocol, ["005", "006"], 2000, None, rank, 9) for rank in range(9)]
    found = [batches.StoreFrames(store)[index] for share in shares for index in share]
    assert len(found) == 9
    assert sorted(i for batch in found for i in batch.sequence.tolist()) == sorted(
        shares[0].sequences.tolist()
    )
    assert found[-1].silhouettes.shape == (0, 1, 64, 44)
