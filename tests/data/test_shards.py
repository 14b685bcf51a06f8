"""A preparation in shards: what the jobs leave, how they are joined, and what happens when they meet."""

import errno
import json
import os
import shlex
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from omegaconf import DictConfig

import cstl.preparation.plan as plan_module
from cstl.data import Protocol, Store, open_store
from cstl.owner import InUseError
from cstl.preparation import chunks as chunks_module
from cstl.preparation import join as join_module
from cstl.preparation import prepare as prepare_module
from cstl.preparation.chunks import finished, prepare_chunk
from cstl.preparation.join import Summary, join
from cstl.preparation.plan import Preparation, plan_preparation
from cstl.preparation.prepare import SHARDS, prepare
from cstl.prepare import prepare as prepare_command

FILES = ("frames.npy", "sequences.csv", "dropped.csv", "short_sequences.csv")
TYPED = "dataset=tiny dataset.raw=walks"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sequences a chunk: 36 sequences make 12 chunks."""
    monkeypatch.setattr(plan_module, "CHUNK", 3)


@pytest.fixture
def raw(raw_tree: Path, tmp_path: Path) -> Path:
    """A copy of the raw tree, to be spoilt."""
    return Path(shutil.copytree(raw_tree, tmp_path / "raw"))


@pytest.fixture
def options(protocol: Protocol) -> dict:
    return {"dataset": "tiny", "protocol": protocol, "res": 64, "typed": TYPED}


def make(raw: Path, out: Path, shard: int | None = None, shards: int = SHARDS, **options: object) -> Summary:
    return prepare(Preparation(raw, out, **options), shard, shards, workers=1, progress=False)


def same(first: Path, second: Path) -> bool:
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in FILES)


def test_shards_in_any_order_make_the_same_store(
    raw_tree: Path, tmp_path: Path, options: dict, store: Store
) -> None:
    out = tmp_path / "out"
    summaries = [make(raw_tree, out, shard=shard, shards=5, **options) for shard in (4, 0, 2, 3, 1)]
    assert [summary.sequences for summary in summaries] == [6, 9, 6, 6, 9]  # 12 chunks of 3 in 5 shards
    assert sum(summary.frames for summary in summaries) == len(store.frames)
    shown = str(summaries[0])
    assert "out.partial: shard 4 (0 … 4) prepared, 6 sequences" in shown
    assert "2 of the 12 chunks; when all shards are done, join them with:" in shown
    assert f"python -m cstl.prepare {TYPED}" in shown
    assert not out.exists()
    joined = make(raw_tree, out, **options)
    assert (joined.sequences, joined.part, joined.already) == (36, "", False)
    assert same(out, store.path)
    assert not (tmp_path / "out.partial").exists()
    late = make(raw_tree, out, shard=1, shards=5, **options)
    assert late.already
    assert not (tmp_path / "out.partial").exists()


def test_faults_are_counted_in_their_shard(raw: Path, tmp_path: Path, options: dict) -> None:
    (raw / "001/bg-01/000/001.png").write_bytes(b"no picture")
    shutil.rmtree(raw / "001/bg-01/090")
    (raw / "001/bg-01/090").mkdir()
    summaries = [make(raw, tmp_path / "out", shard=shard, shards=12, **options) for shard in (0, 1)]
    assert summaries[0].dropped_frames == {"unreadable": 1}
    assert summaries[0].dropped_sequences == {"empty": 1}
    assert summaries[0].examples == ["001/bg-01/000/001.png (unreadable)"]
    assert summaries[1].dropped_frames == summaries[1].dropped_sequences == {}
    assert "will be named in dropped.csv" in str(summaries[0])


@pytest.mark.parametrize(
    ("done", "missing", "chosen"),
    [((0, 1, 3), "1 are not finished: 2", "2"), ((1,), "3 are not finished: 0, 2, 3", "0,2,3"),
     ((0, 1), "2 are not finished: 2, 3", "'range(2,4)'")],
)  # fmt: skip
def test_missing_shards_are_named(
    done: tuple[int, ...],
    missing: str,
    chosen: str,
    raw_tree: Path,
    tmp_path: Path,
    options: dict,
    store: Store,
) -> None:
    out = tmp_path / "out"
    for shard in done:
        make(raw_tree, out, shard=shard, shards=4, **options)
    with pytest.raises(FileNotFoundError) as error:
        make(raw_tree, out, **options)
    assert f"out is prepared in 4 shards, of which {missing}. " in str(error.value)
    assert (
        f"  python -m cstl.prepare -m {TYPED} hydra/launcher=submitit_slurm shards=4 shard={chosen}\n"
        in str(error.value)
    )
    assert not out.exists()
    make(raw_tree, out, shard=0, shards=1, **options)  # the other way the message offers
    make(raw_tree, out, **options)
    assert same(out, store.path)


def test_a_chunk_that_was_lost_or_cut_is_missing(raw_tree: Path, tmp_path: Path, options: dict) -> None:
    make(raw_tree, tmp_path / "out", shard=0, shards=1, **options)
    for number, spoil in ((5, Path.unlink), (7, lambda path: os.truncate(path, 100))):
        (path,) = (tmp_path / "out.partial").glob(f"chunk-{number:05d}-*.frames")
        spoil(path)
    (tmp_path / "out.partial/shards.json").write_text(json.dumps({"shards": 12}))
    with pytest.raises(FileNotFoundError, match="2 are not finished: 5, 7"):
        make(raw_tree, tmp_path / "out", **options)


def test_subjects_that_came_meanwhile_are_missing(raw: Path, tmp_path: Path, options: dict) -> None:
    shutil.move(raw / "003", tmp_path / "003")
    for shard in range(2):
        make(raw, tmp_path / "out", shard=shard, shards=2, **options)
    shutil.move(tmp_path / "003", raw / "003")
    with pytest.raises(FileNotFoundError, match="2 are not finished: 0, 1"):
        make(raw, tmp_path / "out", **options)
    for shard in range(2):
        make(raw, tmp_path / "out", shard=shard, shards=2, **options)
    frames = list((tmp_path / "out.partial").glob("*.frames"))
    assert len(frames) == 12  # those of before are gone
    assert make(raw, tmp_path / "out", **options).sequences == 36


def test_strict_does_not_join_what_was_not_strict(raw: Path, tmp_path: Path, options: dict) -> None:
    (raw / "001/bg-01/000/001.png").write_bytes(b"no picture")
    for shard in range(2):
        make(raw, tmp_path / "out", shard=shard, shards=2, **options)
    with pytest.raises(FileNotFoundError, match="1 are not finished: 0"):
        make(raw, tmp_path / "out", strict=True, **options)
    with pytest.raises(ValueError, match=r"001/bg-01/000/001\.png: unreadable"):
        make(raw, tmp_path / "out", shard=0, shards=2, strict=True, **options)
    assert make(raw, tmp_path / "out", **options).sequences == 36


@pytest.mark.parametrize(
    ("shard", "shards", "typed"),
    [(64, 64, "shards=65 shard='range(0,65)'"), (-1, 4, "shards=1 shard='range(0,1)'"), (0, 0, "shards=1 "),
     ("all", 4, "shards=64 shard='range(0,64)'")],
)  # fmt: skip
def test_shards_that_are_none(
    shard: object, shards: int, typed: str, raw_tree: Path, tmp_path: Path, options: dict
) -> None:
    with pytest.raises(
        ValueError, match=f"shard={shard} of shards={shards}: expected 0 … shards − 1"
    ) as error:
        make(raw_tree, tmp_path / "out", shard=shard, shards=shards, **options)
    assert typed in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_raw_tree_leaves_nothing_behind(tmp_path: Path, options: dict) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        make(tmp_path / "nothing", tmp_path / "out", shard=3, **options)
    assert list(tmp_path.iterdir()) == []


def test_more_shards_than_chunks(raw_tree: Path, tmp_path: Path, options: dict) -> None:
    summary = make(raw_tree, tmp_path / "out", shard=20, **options)
    assert (summary.sequences, summary.frames) == (0, 0)
    assert "0 of the 12 chunks" in str(summary)


def test_the_command_line_names_what_to_type(
    configured: Callable[..., DictConfig], raw_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("dataset=tiny", f"dataset.raw={raw_tree}", f"dataset.store='{tmp_path}/a (b)'", "workers=1")
    prepare_command(configured("prepare", *overrides, "shard=1", "shards=3"))
    assert "a (b).partial: shard 1 (0 … 2) prepared, 12 sequences" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="2 are not finished: 0, 2") as error:
        prepare_command(configured("prepare", *overrides))
    line = next(line for line in str(error.value).splitlines() if "-m cstl.prepare -m" in line)
    python, _, command, multirun, *typed = shlex.split(line)
    assert (python, command, multirun) == ("python", "cstl.prepare", "-m")
    assert set(overrides) | {"hydra/launcher=submitit_slurm", "shards=3", "shard=0,2"} <= set(typed)
    typed = [override for override in typed if not override.startswith(("hydra", "shard="))]
    for shard in (0, 2):
        prepare_command(configured("prepare", *typed, f"shard={shard}"))
    prepare_command(configured("prepare", *overrides))
    assert len(open_store(tmp_path / "a (b)", "tiny", 64)) == 36


# --- Two at once --------------------------------------------------------------------------------------------


def meanwhile(monkeypatch: pytest.MonkeyPatch, place: str, other: Callable[[], object], at: int = 1) -> None:
    """Let another process, for which `other` stands, do its work just before the `at`-th call
    of a function.
    """
    module, name = place.split(".")
    module = {"chunks": chunks_module, "join": join_module, "prepare": prepare_module}[module]
    original, calls = getattr(module, name), []

    def call(*arguments: object, **options: object) -> object:
        calls.append(name)
        if len(calls) == at:
            other()
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize(
    "place",
    [
        "chunks.prepare_sequence",
        "prepare.join",
        "join.clear_abandoned",
        "join.write_table",
        "chunks.replacing",
    ],
)
def test_two_preparations_at_once(
    place: str, raw_tree: Path, tmp_path: Path, options: dict, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One does everything while the other is anywhere, and takes OUT.partial away."""
    others: list[Summary] = []
    meanwhile(monkeypatch, place, lambda: others.append(make(raw_tree, tmp_path / "out", **options)))
    summary = make(raw_tree, tmp_path / "out", **options)
    assert summary.sequences == others[0].sequences == 36
    assert same(tmp_path / "out", store.path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("place", ["chunks.prepare_sequence", "prepare.replacing", "chunks.finished"])
def test_a_shard_while_another_joins(
    place: str, raw_tree: Path, tmp_path: Path, options: dict, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_of_it() -> None:
        make(raw_tree, tmp_path / "out", shard=0, shards=1, **options)
        make(raw_tree, tmp_path / "out", **options)

    meanwhile(monkeypatch, place, all_of_it)
    make(raw_tree, tmp_path / "out", shard=2, shards=4, **options)
    assert same(tmp_path / "out", store.path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_same_shard_in_four_jobs_at_once(
    raw_tree: Path, tmp_path: Path, options: dict, store: Store
) -> None:
    failed: list[BaseException] = []

    def job() -> None:
        try:
            make(raw_tree, tmp_path / "out", shard=0, shards=1, **options)
        except BaseException as error:
            failed.append(error)

    jobs = [threading.Thread(target=job) for _ in range(4)]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join()
    assert failed == []
    assert not list((tmp_path / "out.partial").glob("*.part"))
    make(raw_tree, tmp_path / "out", **options)
    assert same(tmp_path / "out", store.path)


def test_jobs_that_saw_different_files_do_not_mix_their_frames(
    raw: Path,
    tmp_path: Path,
    options: dict,
    draw_blob: Callable[..., np.ndarray],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job has written a chunk's frames and not yet its outcome, when another writes both, of
    files that changed.
    """
    out, frame = tmp_path / "out", raw / "001/bg-01/000/001.png"

    def replaced() -> None:
        frame.write_bytes(cv2.imencode(".png", draw_blob(5, 5))[1].tobytes())
        make(raw, out, shard=0, shards=12, **options)

    meanwhile(monkeypatch, "chunks.replacing", replaced, at=2)  # the frames, the outcome
    make(raw, out, shard=0, shards=12, **options)
    chunk = plan_preparation(Preparation(raw, out, **options)).chunks[0]
    outcome = finished(chunk)
    assert outcome is not None
    frames = np.frombuffer(chunk.frames_path(outcome.digest).read_bytes(), np.uint8).reshape(-1, 64, 44)
    np.testing.assert_array_equal(frames, store.frames[: len(frames)])  # those that the outcome speaks of

    make(raw, out, shard=0, shards=1, **options)
    make(raw, out, **options)
    assert (open_store(out).frames[0] != store.frames[0]).any()
    np.testing.assert_array_equal(open_store(out).frames[1:], store.frames[1:])


@pytest.mark.parametrize("other_res", [64, 128])
def test_two_preparations_of_different_things_at_once_do_not_mix(
    raw: Path, raw_tree: Path, tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch, other_res: int
) -> None:
    """The other one has replaced some chunks by its own just before the first joins."""
    (raw / "001/bg-01/000/001.png").unlink()
    other = plan_preparation(Preparation(raw, tmp_path / "out", **options | {"res": other_res}))
    meanwhile(monkeypatch, "prepare.join", lambda: prepare_chunk(other.chunks[0]))
    with pytest.raises(
        InUseError, match=r"another process prepares .*out of other files or with other options"
    ):
        make(raw_tree, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_killed_join_is_cleared_when_it_is_old(raw_tree: Path, tmp_path: Path, options: dict) -> None:
    make(raw_tree, tmp_path / "out", shard=0, shards=1, **options)
    for name in ("store-old", "store-new"):
        (tmp_path / "out.partial" / name).mkdir()
        (tmp_path / "out.partial" / name / "frames.npy.part").write_bytes(b"half")
    long_ago = (tmp_path / "out.partial").stat().st_mtime - join_module.ABANDONED - 100
    for path in ("store-old/frames.npy.part", "store-old"):
        os.utime(tmp_path / "out.partial" / path, (long_ago, long_ago))
    join_module.clear_abandoned(tmp_path / "out.partial")
    assert [path.name for path in (tmp_path / "out.partial").glob("store-*")] == ["store-new"]


def test_a_full_disk_in_a_shard(
    raw_tree: Path, tmp_path: Path, options: dict, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(chunks_module, "prepare_sequence", full)
        with pytest.raises(OSError, match=r"the disk of .* is full .*the same command goes on"):
            make(raw_tree, tmp_path / "out", shard=0, shards=1, **options)
    make(raw_tree, tmp_path / "out", shard=0, shards=1, **options)
    join(plan_preparation(Preparation(raw_tree, tmp_path / "out", **options)))
    assert same(tmp_path / "out", store.path)
