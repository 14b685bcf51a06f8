"""A folder belongs to one process at a time, and what a process that is gone left is recognised."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cstl import owner as module
from cstl.owner import NOTE, InUseError, is_in_use, owner

HOLD = (
    "import sys, time; from cstl.owner import owner\nwith owner(sys.argv[1]): print('held', flush=True); "
    "time.sleep(60)"
)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    monkeypatch.setattr(module, "BEAT", 0.02)


@pytest.fixture
def note(tmp_path: Path) -> Callable[..., Path]:
    """The function that leaves a note like this process's own, but for what is given."""

    def write(**other: object) -> Path:
        with owner(tmp_path):
            said = json.loads((tmp_path / NOTE).read_text())
        (tmp_path / NOTE).write_text(json.dumps(said | other))
        return tmp_path

    return write


def test_one_process_at_a_time_and_nothing_left(tmp_path: Path) -> None:
    with owner(tmp_path):
        with pytest.raises(
            InUseError, match=rf"is in use: process {os.getpid()} on .* since .*another folder"
        ):
            owner(tmp_path).__enter__()
        assert is_in_use(tmp_path)
    assert not is_in_use(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), owner(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_note_is_neither_waited_for_nor_followed(kind: str, tmp_path: Path) -> None:
    note = tmp_path / NOTE
    if kind == "pipe":
        os.mkfifo(note)
    elif kind == "link":
        note.symlink_to(tmp_path / "nowhere")
    else:
        note.mkdir()
    with pytest.raises(OSError, match=r"owner\.json is .*delete it"):
        owner(tmp_path).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == [NOTE]


def test_another_process_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InUseError, match=f"process {process.pid} on"):
            owner(tmp_path).__enter__()
        process.kill()
        # ended, but still in the table of processes
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert (tmp_path / NOTE).exists()
        with owner(tmp_path):
            check = json.loads((tmp_path / NOTE).read_text())
        assert check["process"] == os.getpid()


@pytest.mark.skipif(
    module._machine() is None, reason="processes elsewhere cannot be told apart by their start"
)
def test_a_number_that_another_process_has_now(note: Callable[..., Path]) -> None:
    folder = note(started=1)
    assert not is_in_use(folder)
    with owner(folder):
        pass


def test_a_process_elsewhere_that_gives_no_sign(
    note: Callable[..., Path], hurried: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = note(host="node7", machine="another", process=7)
    with owner(folder):
        assert json.loads((folder / NOTE).read_text())["process"] == os.getpid()
    said = capsys.readouterr().err
    assert f"{folder} is in use: process 7 on node7 since" in said
    assert "for a sign of life" in said
    assert list(folder.iterdir()) == []


def test_a_process_elsewhere_that_lives(
    tmp_path: Path, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock may be years off: it is seen to touch its note."""
    utime = os.utime
    monkeypatch.setattr(
        os, "utime", lambda path: utime(path, ns=(1, os.stat(path).st_mtime_ns % 1_000_000 + 1))
    )
    with owner(tmp_path):
        monkeypatch.setattr(module, "_machine", lambda: "another")
        with pytest.raises(InUseError, match=f"process {os.getpid()} on"):
            owner(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text",
    ["", "{", "[]", '{"process": 1e99}', '{"process": "x", "machine": 1, "started": 2}',
                                  "[" * 9000, "\x00"])  # fmt: skip
def test_a_damaged_note_is_none_in_the_end(text: str, tmp_path: Path, hurried: None) -> None:
    (tmp_path / NOTE).write_text(text)
    with owner(tmp_path):
        assert json.loads((tmp_path / NOTE).read_text())["process"] == os.getpid()


def test_of_many_that_find_it_gone_one_follows(note: Callable[..., Path]) -> None:
    """Also where one of them was killed in the act."""
    folder = note(started=1)
    (folder / f"{NOTE}.next").write_text((folder / NOTE).read_text())
    together, go = threading.Barrier(8), threading.Event()

    def follow(number: int) -> int:
        together.wait()
        try:
            with owner(folder):
                go.wait(10)
                return 1
        except InUseError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(follow, number) for number in range(8)]
        refused = 0
        while refused < 7:
            go.wait(0.01)
            refused = sum(future.done() and future.result() == 0 for future in futures)
        go.set()
    assert sum(future.result() for future in futures) == 1


def _sleep_through(folder: str) -> None:
    module.BEAT = 0.05
    with owner(folder):
        (Path(folder) / NOTE).write_text('{"process": 8, "host": "node8", "since": "now"}')
        threading.Event().wait(60)
        Path(folder, "written").touch()


def test_who_was_taken_for_gone_ends(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    process = multiprocessing.get_context("fork").Process(target=_sleep_through, args=(str(tmp_path),))
    process.start()
    process.join(60)
    assert process.exitcode == 1
    assert "process 8 on node8 since now writes there" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [NOTE]


def test_a_note_that_was_deleted_comes_back(tmp_path: Path, hurried: None) -> None:
    with owner(tmp_path):
        (tmp_path / NOTE).unlink()
        while not (tmp_path / NOTE).exists():
            time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_away(tmp_path: Path, hurried: None) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with owner(folder):
        (folder / NOTE).unlink()
        folder.rename(tmp_path / "moved")
    assert not folder.exists()


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file cannot be written to: it is no folder"):
        owner(tmp_path / "file").__enter__()
    with pytest.raises(FileNotFoundError, match="none cannot be written to: no such file"):
        owner(tmp_path / "none").__enter__()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match="cannot be written to: permission denied"):
        owner(tmp_path).__enter__()
    tmp_path.chmod(0o755)
