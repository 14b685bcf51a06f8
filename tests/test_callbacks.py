"""Which checkpoint a run goes on from: a damaged one is passed over, one that cannot be read
stops everything.
"""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cstl import tensor_files
from cstl.files import remove_parts
from cstl.running.checkpoints import (
    BEST,
    PART,
    AtomicCheckpoints,
    Checkpoints,
    checkpoints,
    last_intact_checkpoint,
    remove_leftovers,
)
from cstl.running.processes import Stopped, obeying_signals

NAMES = ["step-0000002.ckpt", "step-0000004.ckpt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two whole checkpoints."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in NAMES:
        torch.save(
            {"state_dict": {"network.weight": torch.arange(100.0)}, "global_step": int(name[5:12])},
            folder / name,
        )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_read_error_is_no_damage(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise OSError(number, os.strerror(number), arguments[0])

    before = contents(folder)
    monkeypatch.setattr(tensor_files, "open", refuse, raising=False)
    with pytest.raises(
        OSError, match=r"step-0000004.ckpt cannot be read \(.+\); nothing was changed"
    ) as stopped:
        last_intact_checkpoint(folder)
    assert stopped.value.errno == number
    assert contents(folder) == before


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: …")]
)
def test_too_little_memory_is_no_damage(
    error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise error

    before = contents(folder)
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(MemoryError):
        last_intact_checkpoint(folder)
    assert contents(folder) == before


def test_a_signal_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)
    monkeypatch.setattr(torch, "load", lambda *arguments, **settings: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped), obeying_signals():
        last_intact_checkpoint(folder)
    assert contents(folder) == before


def test_a_damaged_best_is_said_at_the_start(folder: Path) -> None:
    """Not after the whole training, and with what to type; once it is away, the next best counts."""
    best = folder / BEST
    best.write_bytes((folder / NAMES[1]).read_bytes()[:300])
    callback = Checkpoints(folder, every=2, best=True)
    callback.load_state_dict({"best_score": 99.0})
    assert callback.best_score == 99
    with pytest.raises(ValueError, match=rf"best checkpoint so far is damaged(.|\n)*\n  rm {best}$"):
        last_intact_checkpoint(folder)
    best.unlink()
    assert last_intact_checkpoint(folder) == (folder / NAMES[1], [])
    callback = Checkpoints(folder, every=2, best=True)
    callback.load_state_dict({"best_score": 99.0})
    assert callback.best_score < 0


def test_every_flipped_bit_of_the_zips_directory(folder: Path) -> None:
    """The newest checkpoint that loads is used, whichever byte of the directory has changed."""
    path = folder / NAMES[1]
    content = path.read_bytes()
    directory = content.rindex(b"PK\x01\x02", 0, len(content))
    damaged = path.with_name(path.name + ".damaged")
    for place in range(directory, len(content), 3):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << place % 8
        path.write_bytes(spoilt)
        last, problems = last_intact_checkpoint(folder)
        assert last is not None
        assert torch.load(last)["state_dict"]["network.weight"].tolist() == list(range(100))
        if last.name == NAMES[0]:
            assert "is damaged" in problems[0]
            damaged.unlink()


def test_a_run_does_not_begin_anew_by_itself(folder: Path) -> None:
    for name in NAMES:
        (folder / name).write_bytes((folder / name).read_bytes()[:300])
    before = contents(folder)
    with pytest.raises(ValueError, match=f"no checkpoint in .* can be loaded(.|\n)*rm -r {folder}"):
        last_intact_checkpoint(folder)
    assert contents(folder) == before


def test_never_more_than_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a file appears or goes, there are two at most; a full disk takes none away."""
    seen = []
    replace = os.replace

    def watched(path: Path, target: Path) -> None:
        seen.append([path.name for path in checkpoints(folder)])
        replace(path, target)

    monkeypatch.setattr(os, "replace", watched)
    AtomicCheckpoints().save_checkpoint({}, folder / "step-0000006.ckpt", {"keep": 2})
    assert seen == [NAMES[1:]]
    assert [path.name for path in checkpoints(folder)] == [NAMES[1], "step-0000006.ckpt"]

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"step-0000008.ckpt could not be written \(No space left on device\)"):
        AtomicCheckpoints().save_checkpoint({}, folder / "step-0000008.ckpt", {"keep": 2})
    assert sorted(contents(folder)) == [NAMES[1], "step-0000006.ckpt"]


def test_what_a_killed_process_left_goes(folder: Path) -> None:
    mine = folder.parent / "notes.part"
    left = [folder / f"step-0000006.ckpt{PART}", folder / f"best.ckpt{PART}",
            folder.parent / f"metrics.csv.{'0f' * 8}{PART}", folder / "step-0000000.ckpt"]  # fmt: skip
    for path in [*left, mine]:
        path.write_text("")
    remove_leftovers(folder, keep=2)
    remove_parts(folder.parent)
    assert sorted(contents(folder)) == NAMES
    assert not any(path.exists() for path in left)
    assert mine.exists()
