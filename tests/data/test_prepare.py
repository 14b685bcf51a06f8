import csv
import errno
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import fake_trees
import numpy as np
import pytest

import cstl.data.frames as frames_module
import cstl.preparation.inspection as inspection_module
import cstl.preparation.plan as plan_module
import cstl.preparation.prepare as module
from cstl.data import Protocol, Store, align_silhouette, open_store
from cstl.preparation.chunks import finished, prepare_chunk
from cstl.preparation.join import Summary, join
from cstl.preparation.plan import Preparation, plan_preparation
from cstl.preparation.prepare import prepare

Draw = Callable[..., np.ndarray]
Write = Callable[[Path, list[np.ndarray]], None]

FILES = ("frames.npy", "sequences.csv", "dropped.csv", "short_sequences.csv")


@pytest.fixture
def raw(raw_tree: Path, tmp_path: Path) -> Path:
    """A copy of the raw tree, to be spoilt."""
    return Path(shutil.copytree(raw_tree, tmp_path / "raw"))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sequences a chunk: 36 sequences make 12 chunks."""
    monkeypatch.setattr(plan_module, "CHUNK", 3)


def run(
    raw: Path, out: Path, protocol: Protocol, workers: int = 1, shard: int | None = None, **options: object
) -> Summary:
    asked = Preparation(raw, out, **{"dataset": "tiny", "protocol": protocol, "res": 64, **options})
    return prepare(asked, shard, 1, workers=workers)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def same(first: Path, second: Path) -> bool:
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in FILES)


@pytest.mark.parametrize("res", [64, 128])
def test_holds_every_frame_aligned_and_cut(
    raw_tree: Path, tmp_path: Path, protocol: Protocol, store: Store, res: int
) -> None:
    if res == 128:
        run(raw_tree, tmp_path / "tiny-128", protocol, res=128)
        store = open_store(tmp_path / "tiny-128", "tiny", 128)
    width, side = {64: (44, 10), 128: (88, 20)}[res]
    assert store.frames.shape[1:] == (res, width)
    expected = []
    for folder in sorted(path for path in raw_tree.glob("*/*/*")):
        for path in sorted(folder.iterdir()):
            square = align_silhouette(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), res)
            assert square is not None
            expected.append(square[:, side : side + width])
    np.testing.assert_array_equal(store.frames, np.stack(expected))
    names = [folder.relative_to(raw_tree).parts for folder in sorted(raw_tree.glob("*/*/*"))]
    assert list(zip(store.subjects, store.conditions, store.views, strict=True)) == names


def test_processes_and_chunks_do_not_change_the_store(
    raw_tree: Path, tmp_path: Path, protocol: Protocol, store: Store, small_chunks: None
) -> None:
    summary = run(raw_tree, tmp_path / "tiny-64", protocol, workers=2)
    assert same(summary.store, store.path)
    assert not (tmp_path / "tiny-64.partial").exists()


def test_faults_are_named_skipped_and_counted(
    raw: Path, tmp_path: Path, protocol: Protocol, draw_blob: Draw, write_sequence: Write
) -> None:
    good = draw_blob(0, 0)
    png = cv2.imencode(".png", good)[1].tobytes()
    shutil.rmtree(raw / "001/nm-01")
    images = [draw_blob(0, time) for time in range(10)]
    left = np.zeros((100, 100), np.uint8)
    left[:, 0] = 255
    write_sequence(raw / "001/nm-01/000", [*images, np.zeros_like(good), left])
    colour = cv2.cvtColor(good, cv2.COLOR_GRAY2BGR)
    colour[60, 80] = (0, 0, 255)
    broken = {
        "101.png": (b"", "unreadable"),
        "102.png": (png[: len(png) // 2], "unreadable"),
        "103.png": (b"no picture", "unreadable"),
        "104.png": (cv2.imencode(".png", colour)[1].tobytes(), "not 8-bit grey"),
        "105.png": (cv2.imencode(".png", good.astype(np.uint16) * 257)[1].tobytes(), "not 8-bit grey"),
        "106.png": (cv2.imencode(".png", np.dstack([good, good, good, good]))[1].tobytes(), "not 8-bit grey"),
    }
    for name, (data, _) in broken.items():
        (raw / "001/nm-01/000" / name).write_bytes(data)
    (raw / "001/nm-01/000/107.png").symlink_to(raw / "nothing.png")
    (raw / "001/nm-01/000/108.png").write_bytes(
        cv2.imencode(".png", cv2.cvtColor(good, cv2.COLOR_GRAY2BGR))[1].tobytes()
    )
    (raw / "001/nm-01/090").mkdir()  # empty
    shutil.rmtree(raw / "002/nm-01/000")
    write_sequence(raw / "002/nm-01/000", images[:2])  # two frame files
    shutil.rmtree(raw / "002/nm-01/090")
    write_sequence(raw / "002/nm-01/090", [*images[:2], np.zeros_like(good)])  # two usable frames
    write_sequence(raw / "099/nm-01/000", images)
    write_sequence(raw / "001/xx-01/000", images)
    write_sequence(raw / "001/nm-01/999", images)

    summary = run(raw, tmp_path / "tiny-64", protocol)

    assert summary.dropped_frames == {
        "no person": 2,
        "off centre": 1,
        "unreadable": 4,
        "not 8-bit grey": 3,
        "in dropped sequences": 4,
    }
    assert summary.dropped_sequences == {
        "empty": 1,
        "fewer than 3 frame files": 1,
        "fewer than 3 usable frames": 1,
        "subject the protocol does not know": 1,
        "condition the protocol does not know": 1,
        "view the protocol does not know": 1,
    }
    dropped = table(summary.store / "dropped.csv")
    reasons = {row["path"]: row["reason"] for row in dropped if row["what"] == "frame"}
    assert {
        f"001/nm-01/000/{name}": reason for name, (_, reason) in broken.items()
    }.items() <= reasons.items()
    assert reasons["001/nm-01/000/107.png"] == "unreadable"
    assert reasons["001/nm-01/000/011.png"] == "no person"
    assert reasons["001/nm-01/000/012.png"] == "off centre"
    assert Counter(row["what"] for row in dropped) == {"frame": 10, "sequence": 6}
    assert {row["path"]: row["reason"] for row in dropped}[
        "001/xx-01/000"
    ] == "condition the protocol does not know"

    store = open_store(summary.store)
    assert len(store) == summary.sequences == 36 - 3
    kept = (store.subjects == "001") & (store.conditions == "nm-01")
    assert store.lengths[kept].tolist() == [11]  # ten and the grey one in colour
    files = sum(1 for path in raw.glob("00*/[nb]?-0?/0?0/*.png"))
    assert files == summary.frames + sum(summary.dropped_frames.values())

    short = {
        (row["subject"], row["condition"], row["view"]): row
        for row in table(store.path / "short_sequences.csv")
    }
    assert short["001", "nm-01", "090"] == {
        **short["001", "nm-01", "090"],
        "files": "0",
        "usable": "0",
        "result": "empty",
    }
    assert (short["001", "nm-01", "000"]["files"], short["001", "nm-01", "000"]["usable"]) == ("20", "11")
    assert short["001", "nm-01", "000"]["result"] == "kept"
    assert short["002", "nm-01", "090"]["result"] == "fewer than 3 usable frames"
    assert len(short) == summary.short == 3 + (store.lengths < 15).sum()

    shown = str(summary)
    for words in (
        "33 sequences",
        "4 unreadable",
        "3 not 8-bit grey",
        "1 empty",
        "dropped.csv",
        "001/nm-01/000/101.png",
    ):
        assert words in shown
    assert f"{summary.short} sequences have fewer than 15 usable frames: short_sequences.csv" in shown


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_a_broken_picture(
    raw: Path, tmp_path: Path, protocol: Protocol, workers: int
) -> None:
    (raw / "003/nm-02/090/001.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"003/nm-02/090/001\.png: unreadable; .*strict=false"):
        run(raw, tmp_path / "tiny-64", protocol, strict=True, workers=workers)
    assert not (tmp_path / "tiny-64").exists()


def test_strict_after_a_run_that_was_not(
    raw: Path, tmp_path: Path, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    (raw / "003/nm-02/090/001.png").write_bytes(b"no picture")
    with monkeypatch.context() as patch:
        patch.setattr(module, "join", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(raw, tmp_path / "tiny-64", protocol)
    with pytest.raises(ValueError, match=r"003/nm-02/090/001\.png: unreadable"):
        run(raw, tmp_path / "tiny-64", protocol, strict=True)
    run(raw, tmp_path / "tiny-64", protocol)
    with pytest.raises(FileExistsError, match=r"without strict=true.*003/nm-02/090/001\.png"):
        run(raw, tmp_path / "tiny-64", protocol, strict=True)


KILL = """
import os, signal, sys
import cstl.preparation.plan
from cstl.preparation import chunks, prepare as module
from cstl.preparation.plan import Preparation
from cstl.data import Protocol
cstl.preparation.plan.CHUNK = 3
calls, original = [], chunks.prepare_sequence
def killed(*arguments):
    calls.append(arguments)
    if len(calls) == 14:  # in the middle of the fifth chunk
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
chunks.prepare_sequence = killed
protocol = Protocol(**eval(sys.argv[3]))
module.prepare(Preparation(sys.argv[1], sys.argv[2], "tiny", protocol, 64), workers=1)
"""


def fields(protocol: Protocol) -> str:
    return repr({name: getattr(protocol, name) for name in Protocol.__dataclass_fields__})


def test_killed_and_started_again(
    raw_tree: Path,
    tmp_path: Path,
    protocol: Protocol,
    store: Store,
    small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "tiny-64"
    process = subprocess.run(
        [sys.executable, "-c", KILL, str(raw_tree), str(out), fields(protocol)], check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(FileNotFoundError, match="not finished"):
        open_store(out, "tiny", 64)
    prepared = []
    read = frames_module.read_grey
    monkeypatch.setattr(frames_module, "read_grey", lambda path: prepared.append(path) or read(path))
    run(raw_tree, out, protocol)
    # one frame of each, to tell raw from aligned, and some to tell masks from nonsense
    sample = plan_module.SAMPLE + inspection_module.SAMPLE * inspection_module.EACH
    assert len(prepared) == sample + store.lengths[12:].sum()  # four chunks of three were finished
    assert same(out, store.path)
    assert not (tmp_path / "tiny-64.partial").exists()


def test_no_worker_outlives_a_killed_parent(raw_tree: Path, tmp_path: Path, protocol: Protocol) -> None:
    code = (
        KILL.replace("workers=1", "workers=2")
        .replace("chunks.prepare_sequence", "chunks.nothing")
        .replace(
            "calls, original = [], chunks.nothing",
            """
original, pids = module.as_completed, []
def as_completed(futures):
    for future in original(futures):
        import multiprocessing
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        yield future
module.as_completed = as_completed
calls = []
""",
        )
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(raw_tree), str(tmp_path / "tiny-64"), fields(protocol)],
        capture_output=True,  # returns when the last process that has the pipe is gone
        timeout=20,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    pids = [int(pid) for pid in process.stdout.split()]
    assert len(pids) == 2
    assert not any(
        Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids
    )


def test_chunks_of_changed_files_or_settings_are_made_again(
    raw: Path, tmp_path: Path, protocol: Protocol, small_chunks: None, draw_blob: Draw
) -> None:
    asked = Preparation(raw, tmp_path / "tiny-64", "tiny", protocol, 64)
    chunk = plan_preparation(asked).chunks[0]
    prepare_chunk(chunk)
    first = finished(chunk)
    before = chunk.outcome_path.stat().st_mtime_ns
    prepare_chunk(chunk)
    assert chunk.outcome_path.stat().st_mtime_ns == before

    path = min(Path(chunk.sequences[1].folder).iterdir())
    path.write_bytes(cv2.imencode(".png", draw_blob(5, 5))[1].tobytes())
    prepare_chunk(chunk)
    second = finished(chunk)
    assert first is not None
    assert second is not None
    assert second.digest != first.digest
    path.unlink()
    prepare_chunk(chunk)
    third = finished(chunk)
    assert third is not None
    assert sum(row[3] for row in third.kept) == sum(row[3] for row in second.kept) - 1

    other = plan_preparation(replace(asked, res=128))
    assert finished(other.chunks[0]) is None
    shutil.rmtree(raw / "001/bg-01/000")  # every later sequence moves to another place
    assert finished(plan_preparation(asked).chunks[0]) is None
    chunk.frames_path(third.digest).write_bytes(b"short")
    assert finished(chunk) is None


def test_chunks_in_any_order_then_joined(
    raw_tree: Path, tmp_path: Path, protocol: Protocol, store: Store, small_chunks: None
) -> None:
    plan = plan_preparation(Preparation(raw_tree, tmp_path / "tiny-64", "tiny", protocol, 64))
    assert len(plan.chunks) == 12
    for number in (11, 3, 5, 0, 1, 2, 4, 10, 9, 8, 7):
        prepare_chunk(plan.chunks[number])
    with pytest.raises(FileNotFoundError, match=r"chunk-00006\.json: this chunk is not finished"):
        join(plan)
    prepare_chunk(plan.chunks[6])
    join(plan)
    assert same(tmp_path / "tiny-64", store.path)


def file_size_limit(size: int) -> tuple[int, int]:
    """No file of this process may become larger: to the program the same as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    return before


@pytest.mark.parametrize(
    ("limit", "workers"), [(50_000, 1), (50_000, 2), (800_000, 1)], ids=["chunk", "worker", "join"]
)
def test_full_disk(
    raw_tree: Path,
    tmp_path: Path,
    protocol: Protocol,
    store: Store,
    small_chunks: None,
    limit: int,
    workers: int,
) -> None:
    out = tmp_path / "tiny-64"
    assert store.frames.nbytes > 800_000
    before = file_size_limit(limit)
    try:
        with pytest.raises(OSError, match=r"the disk of .* is full .* about 2\.\d MB there") as error:
            run(raw_tree, out, protocol, workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "make room" in str(error.value)
    assert "the same command goes on" in str(error.value)
    assert not out.exists()
    left = {path.suffix for path in Path(f"{out}.partial").rglob("*") if path.is_file()}
    assert left == ({".frames", ".json"} if limit == 800_000 else set())  # whole chunks or nothing
    run(raw_tree, out, protocol)
    assert same(out, store.path)


def test_already_prepared(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    first = run(raw, tmp_path / "tiny-64", protocol)
    shutil.rmtree(raw)  # not needed any more
    (tmp_path / "tiny-64.partial").mkdir()
    again = run(raw, tmp_path / "tiny-64", protocol)
    assert again.already
    assert "already prepared, 36 sequences" in str(again)
    assert again.frames == first.frames
    assert not (tmp_path / "tiny-64.partial").exists()


# --- A store that is there, and a raw tree that is another --------------------------------------------------


def touch_all(raw: Path) -> None:
    for path in raw.rglob("*.png"):
        os.utime(path)


def forget_sources(store: Path) -> None:
    """Makes it a store of an earlier version."""
    fake_trees.forget_checksums(store, "files")
    (store / "sources.csv").unlink()


def another_person(raw: Path) -> None:
    shutil.copytree(raw / "001", raw / "005", dirs_exist_ok=True)


def hide(raw: Path) -> None:
    for path in raw.rglob("*.png"):
        path.rename(path.with_suffix(".x"))


def empty(raw: Path) -> None:
    for path in raw.iterdir():
        shutil.rmtree(path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a person deleted": (
        lambda raw: shutil.rmtree(raw / "003"),
        r"6 sequence\(s\) of 1 subject\(s\) are gone \(003 bg-01 000, ",
    ),
    "a sequence deleted": (
        lambda raw: shutil.rmtree(raw / "003/nm-02/090"),
        r"1 sequence.* gone \(003 nm-02 090\)",
    ),
    "a frame deleted": (
        lambda raw: (raw / "003/nm-02/090/003.png").unlink(),
        r"other files \(003 nm-02 090: \d+ files then, \d+ now",
    ),
    "a frame renamed": (
        lambda raw: (raw / "003/nm-02/090/003.png").rename(raw / "003/nm-02/090/999.png"),
        "other names or sizes",
    ),
    "another's frames": (another_person, r"6 sequence\(s\) have other files \(005 bg-01 000"),
    "another layout": (hide, "none of the layouts"),
    "emptied": (empty, "an empty folder"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shard", [False, True])
def test_a_raw_tree_that_changed(
    raw: Path, tmp_path: Path, protocol: Protocol, change: str, shard: bool
) -> None:
    run(raw, tmp_path / "tiny-64", protocol)
    edit, said = CHANGES[change]
    edit(raw)
    with pytest.raises(FileExistsError, match=f"(?s)prepared from {raw} on 2.*{said}") as error:
        run(raw, tmp_path / "tiny-64", protocol, shard=0 if shard else None)
    assert open_store(tmp_path / "tiny-64").lengths.sum() > 0  # it is left as it was
    if change not in ("another layout", "emptied"):
        assert (
            f"Delete {tmp_path / 'tiny-64'} to prepare it again, or give another one with dataset.store=PATH"
            in str(error.value)
        )


def test_a_person_who_came(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    shutil.move(raw / "004", tmp_path / "004")
    run(raw, tmp_path / "tiny-64", protocol)
    shutil.move(tmp_path / "004", raw / "004")
    with pytest.raises(FileExistsError, match=r"6 sequence\(s\) of 1 subject\(s\) are new \(004 bg-01 000"):
        run(raw, tmp_path / "tiny-64", protocol)


def test_a_tree_that_was_copied_or_written_again_is_read(
    raw: Path, tmp_path: Path, protocol: Protocol
) -> None:
    run(raw, tmp_path / "tiny-64", protocol)
    first = str(run(raw, tmp_path / "tiny-64", protocol))
    assert f"prepared from {raw} on 2" in first
    assert "were read" not in first
    touch_all(raw)
    assert "36 of them were read, and give the same frames" in str(run(raw, tmp_path / "tiny-64", protocol))
    raw.rename(tmp_path / "moved")
    moved = str(run(tmp_path / "moved", tmp_path / "tiny-64", protocol))
    assert f"{tmp_path / 'moved'} holds the same files" in moved
    path, other = (tmp_path / "moved/002/nm-01/000" / name for name in ("001.png", "002.png"))
    size = max(path.stat().st_size, other.stat().st_size)
    for picture in (path, other):  # as masks of BMP always have one size
        picture.write_bytes(picture.read_bytes().ljust(size, b"\0"))
    shutil.rmtree(tmp_path / "tiny-64")
    run(tmp_path / "moved", tmp_path / "tiny-64", protocol)
    path.write_bytes(other.read_bytes())  # the same name and size
    with pytest.raises(
        FileExistsError, match=r"have other files \(002 nm-01 000: other pictures of the same names"
    ):
        run(tmp_path / "moved", tmp_path / "tiny-64", protocol)


def test_another_folder(raw: Path, raw_tree: Path, tmp_path: Path, protocol: Protocol) -> None:
    run(raw, tmp_path / "tiny-64", protocol)
    shutil.copytree(raw_tree, tmp_path / "other", ignore=shutil.ignore_patterns("006"))
    with pytest.raises(FileExistsError, match=f"prepared from {raw} on .*other is not the same: 6 sequence"):
        run(tmp_path / "other", tmp_path / "tiny-64", protocol)
    with pytest.raises(
        FileExistsError, match=f"(?s)prepared from {raw} on .*no raw frames at .*nothing: no such fol"
    ):
        run(tmp_path / "nothing", tmp_path / "tiny-64", protocol)


def test_a_folder_that_is_gone_is_said(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    run(raw, tmp_path / "tiny-64", protocol)
    shutil.rmtree(raw)
    said = str(run(raw, tmp_path / "tiny-64", protocol))
    assert f"prepared from {raw} on 2" in said
    assert "that folder is gone, so it could not be compared" in said


def test_other_options(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    run(raw, tmp_path / "tiny-64", protocol)
    with pytest.raises(FileExistsError, match=r"other settings \(files: None there, 0\*\.png now\)"):
        run(raw, tmp_path / "tiny-64", protocol, files="0*.png")
    with pytest.raises(TypeError, match="colour"):
        run(raw, tmp_path / "tiny-64", protocol, colour="red")
    forget_sources(tmp_path / "tiny-64")
    # it had no options, which is what they are by default
    assert run(raw, tmp_path / "tiny-64", protocol).already


def test_a_store_of_an_earlier_version_is_compared_by_names(
    raw: Path, tmp_path: Path, protocol: Protocol
) -> None:
    shutil.rmtree(raw / "001/nm-01/000")
    (raw / "001/nm-01/000").mkdir()  # dropped, and in the listing
    run(raw, tmp_path / "tiny-64", protocol)
    forget_sources(tmp_path / "tiny-64")
    assert "by an earlier version: only the sequences' names" in str(run(raw, tmp_path / "tiny-64", protocol))
    shutil.rmtree(raw / "003")
    with pytest.raises(FileExistsError, match=r"6 sequence\(s\) of 1 subject\(s\) are gone \(003 bg-01 000"):
        run(raw, tmp_path / "tiny-64", protocol)


def test_sources_that_are_damaged(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    run(raw, tmp_path / "tiny-64", protocol)
    for text in ("", "subject,condition\n", "subject,condition,view,files,content,times\n001,nm-01\n"):
        (tmp_path / "tiny-64/sources.csv").write_text(text)
        with pytest.raises(ValueError, match=r"sources\.csv is damaged .*delete the folder"):
            run(raw, tmp_path / "tiny-64", protocol)


def test_raw_files_that_changed_after_the_shards(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    run(raw, tmp_path / "tiny-64", protocol, shard=0)
    (raw / "001/nm-01/000/003.png").unlink()
    with pytest.raises(FileNotFoundError, match="of which 1 are made of files that changed since: 0"):
        run(raw, tmp_path / "tiny-64", protocol)
    run(raw, tmp_path / "tiny-64", protocol, shard=0)
    assert run(raw, tmp_path / "tiny-64", protocol).sequences == 36


def test_another_split_of_the_same_subjects_is_the_same_store(
    raw: Path, tmp_path: Path, protocol: Protocol
) -> None:
    run(raw, tmp_path / "tiny-64", protocol)
    other = Protocol(
        **{**eval(fields(protocol)), "train": ("001-002",), "test": ("003-006",), "exclude": ("006",)}
    )
    assert run(raw, tmp_path / "tiny-64", other).already


def test_a_store_with_other_settings_is_refused(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    run(raw, tmp_path / "tiny", protocol)
    with pytest.raises(FileExistsError, match="height: 64 there, 128 now; width: 44 there, 88 now") as error:
        run(raw, tmp_path / "tiny", protocol, res=128)
    assert "delete the folder" in str(error.value)
    assert "dataset.store=PATH" in str(error.value)
    more = Protocol(**{**eval(fields(protocol)), "test": ("005-009",)})
    with pytest.raises(
        FileExistsError, match=r"subjects: 6 \(001, 002, …, 006\) there, 9 \(001, 002, …, 009\) now"
    ):
        run(raw, tmp_path / "tiny", more)


def test_a_folder_that_is_no_store_is_left_alone(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("1")
    for out in (tmp_path / "thesis", tmp_path / "thesis/chapter.txt"):
        with pytest.raises(FileExistsError, match="exists and is no store; move it away"):
            run(raw, out, protocol)
    assert (tmp_path / "thesis/chapter.txt").read_text() == "1"


def test_a_damaged_store_is_not_taken_for_a_prepared_one(
    raw: Path, tmp_path: Path, protocol: Protocol
) -> None:
    run(raw, tmp_path / "tiny-64", protocol)
    os.truncate(tmp_path / "tiny-64/frames.npy", 10_000)
    with pytest.raises(ValueError, match=r"damaged, frames\.npy.*delete the folder"):
        run(raw, tmp_path / "tiny-64", protocol)


def test_a_tree_the_protocol_knows_nothing_of(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    other = Protocol(**{**eval(fields(protocol)), "train": ("101",), "test": ("102",)})
    with pytest.raises(
        ValueError, match="knows none of the 36 sequences found; the first one has subject 001"
    ) as error:
        run(raw, tmp_path / "tiny-64", other)
    assert "expected subjects like 101" in str(error.value)


ORDERS = {
    "view/subject/condition": lambda subject, condition, view: f"{view}/{subject}/{condition}",
    "condition/subject/view": lambda subject, condition, view: f"{condition}/{subject}/{view}",
    "subject/view/condition": lambda subject, condition, view: f"{subject}/{view}/{condition}",
    "view/condition/subject": lambda subject, condition, view: f"{view}/{condition}/{subject}",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("names", ["casiab", "oumvlp"])
def test_names_in_another_order_are_refused(
    raw_tree: Path, tmp_path: Path, protocol: Protocol, order: str, names: str
) -> None:
    """Read leniently they make nonsense: 015 is a view and a subject, 00 a condition and a view."""
    if names == "oumvlp":
        views = ("000", "015", "030")
        conditions, subjects = ("00", "01"), [f"{number:05d}" for number in range(1, 16)]
        protocol = Protocol(
            views=views, conditions=conditions, gallery=("01",), probes={"NM": ("00",)},
            train=("00001-10305:2",), test=("00002-10306:2",),
        )  # fmt: skip
        every = [(s, c, v) for s in subjects for c in conditions for v in views]
    else:
        every = [path.relative_to(raw_tree).parts for path in raw_tree.glob("*/*/*")]
    for name in every:
        folder = tmp_path / "raw" / ORDERS[order](*name)
        folder.mkdir(parents=True)
        shutil.copy(raw_tree / "001/nm-01/000/001.png", folder)
    said = rf"of the {len(every)} sequences found(?s:.*)seem to be {order}, such as"
    with pytest.raises(ValueError, match=said) as error:
        run(tmp_path / "raw", tmp_path / "tiny-64", protocol)
    assert "001/nm-01/000/*.png (subject/condition/view/frames)" in str(error.value)
    assert "dataset.layout=" in str(error.value)
    assert not (tmp_path / "tiny-64").exists()


def test_a_tree_of_which_the_protocol_knows_the_smaller_part(
    raw: Path, tmp_path: Path, protocol: Protocol
) -> None:
    two = Protocol(**{**eval(fields(protocol)), "train": ("001",), "test": ("002",)})
    with pytest.raises(ValueError, match=r"knows 12 of the 36 sequences found(?s:.*)type subset=true"):
        run(raw, tmp_path / "tiny-64", two)
    assert run(raw, tmp_path / "tiny-64", two, subset=True).sequences == 12
    three = Protocol(**{**eval(fields(protocol)), "train": ("001-002",), "test": ("003",)})
    assert run(raw, tmp_path / "half", three).sequences == 18
    other = Protocol(**{**eval(fields(protocol)), "train": ("101",), "test": ("102",)})
    with pytest.raises(ValueError, match="knows none of the 36 sequences found"):
        run(raw, tmp_path / "none", other, subset=True)


@pytest.mark.parametrize(
    ("ending", "same"), [(".bmp", True), (".BMP", True), (".jpg", False), (".JPEG", False)]
)
def test_masks_in_other_formats(
    raw_tree: Path, tmp_path: Path, protocol: Protocol, store: Store, ending: str, same: bool
) -> None:
    for path in raw_tree.rglob("*.png"):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        fake_trees.write(
            tmp_path / "raw" / path.relative_to(raw_tree).with_suffix(ending),
            cv2.imencode(ending, image)[1].tobytes(),
        )
    summary = run(tmp_path / "raw", tmp_path / "tiny-64", protocol)
    assert (summary.sequences, summary.frames) == (36, len(store.frames))
    told = "masks are JPEG files, whose values near black and white are noise (001/bg-01/000/001" in str(
        summary
    )
    assert told != same
    apart = np.abs(open_store(summary.store).frames.astype(int) - store.frames)
    assert apart.max() == 0 if same else apart.mean() < 3  # a body's outline moves, its size and place do not


def test_one_number_in_two_formats(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    image = cv2.imread(str(raw / "001/nm-01/000/001.png"), cv2.IMREAD_UNCHANGED)
    (raw / "001/nm-01/000/001.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    summary = run(raw, tmp_path / "tiny-64", protocol)
    assert summary.dropped_frames == {"same number as another": 1}


def test_archives_beside_folders_are_told(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    shutil.rmtree(raw / "005")
    for subject in ("004", "005"):
        (raw / f"{subject}.tar.gz").write_bytes(b"packed")
    said = str(run(raw, tmp_path / "tiny-64", protocol))
    assert (
        "1 archive(s) are not unpacked, and what is in them is left out: 005.tar.gz. Unpack them there"
        in said
    )
    with pytest.raises(ValueError, match=r"005\.tar\.gz: an archive that is not unpacked; .*strict=false"):
        run(raw, tmp_path / "strict", protocol, strict=True)


def test_one_of_several_pickles_is_chosen(tmp_path: Path) -> None:
    fake_trees.opengait(tmp_path / "raw")
    for path in list((tmp_path / "raw").rglob("*.pkl")):
        path.with_name(f"{path.stem}-rgbs.pkl").write_bytes(b"another thing")
        path.rename(path.with_name(f"{path.stem}-sils.pkl"))
    with pytest.raises(
        ValueError, match=r"several pickles(?s:.*)with dataset\.files=PATTERN, such as dataset\.files="
    ):
        run(tmp_path / "raw", tmp_path / "store", fake_trees.CASIAB)
    summary = run(tmp_path / "raw", tmp_path / "store", fake_trees.CASIAB, files="*0-sils.pkl")
    assert summary.sequences > 10
    assert open_store(summary.store).about["files"] == "*0-sils.pkl"


def test_a_sequence_in_a_folder_and_in_its_wrapped_copy(
    raw: Path, tmp_path: Path, protocol: Protocol
) -> None:
    shutil.copytree(raw / "001", raw / "copy")
    shutil.move(raw / "copy", raw / "001/001")
    with pytest.raises(ValueError, match=r"6 sequence\(s\) twice: 001 bg-01 000 is in .*001/001/bg-01/000"):
        run(raw, tmp_path / "tiny-64", protocol)


def test_nothing_is_left(tmp_path: Path, protocol: Protocol, write_sequence: Write) -> None:
    write_sequence(tmp_path / "raw/001/nm-01/000", [np.zeros((50, 50), np.uint8)] * 4)
    with pytest.raises(
        ValueError, match=r"no sequence is left to store; .*4 no person.*1 fewer than 3 usable frames"
    ):
        run(tmp_path / "raw", tmp_path / "tiny-64", protocol)
    assert not (tmp_path / "tiny-64").exists()


def test_raw_errors_leave_nothing_behind(tmp_path: Path, protocol: Protocol) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        run(tmp_path / "nothing", tmp_path / "tiny-64", protocol)
    with pytest.raises(ValueError, match="res=96; the choices are"):
        run(tmp_path / "nothing", tmp_path / "tiny-64", protocol, res=96)
    assert list(tmp_path.iterdir()) == []


def test_quiet_when_not_in_a_terminal(
    raw_tree: Path, tmp_path: Path, protocol: Protocol, capfd: pytest.CaptureFixture[str]
) -> None:
    run(raw_tree, tmp_path / "tiny-64", protocol)
    assert capfd.readouterr() == ("", "")


def test_names_with_spaces_and_other_letters(
    tmp_path: Path, protocol: Protocol, draw_blob: Draw, write_sequence: Write
) -> None:
    raw = tmp_path / "Größe und Gang"
    write_sequence(raw / "001/nm-01/000", [draw_blob(0, time) for time in range(4)])
    summary = run(raw, tmp_path / "añb 64", protocol)
    assert open_store(summary.store).lengths.tolist() == [4]
    assert json.loads((summary.store / "store.json").read_text())["raw"] == os.fspath(raw)


# --- Every layout, with faults ------------------------------------------------------------------------------


def faults(summary: Summary) -> dict[str, str]:
    """Path → reason, "frame; sequence" for a path that has both."""
    reasons: dict[str, str] = {}
    for row in table(summary.store / "dropped.csv"):
        reasons[row["path"]] = (
            f"{reasons[row['path']]}; {row['reason']}" if row["path"] in reasons else row["reason"]
        )
    return reasons


def expected_frames(store: Store, draw: Callable[[int, int], np.ndarray], frames: int) -> None:
    """Sequences that no fault touches hold the frames that `draw` makes."""
    rows = zip(store.subjects, store.conditions, store.views, store.starts, store.lengths, strict=True)
    whole = [row for row in rows if row[4] == frames]
    assert whole
    for *names, start, length in whole:
        want = np.stack([draw(fake_trees.seed_of(*names), t) for t in range(frames)])
        np.testing.assert_array_equal(store.frames[start : start + length], want)


@pytest.mark.parametrize("size", [None, (64, 64), (64, 44), (128, 128), (128, 88)], ids=str)
def test_casiab_raw_and_aligned(tmp_path: Path, size: tuple[int, int] | None) -> None:
    wrong = fake_trees.casiab(tmp_path / "raw", size)
    height, width = size or (64, 64)
    side = 0 if width < height else height * 5 // 32
    summary = run(tmp_path / "raw", tmp_path / "store", fake_trees.CASIAB, layout="auto", res=height)
    assert faults(summary) == wrong
    store = open_store(summary.store, "tiny", height)
    assert store.about["layout"] == "casiab"
    assert store.about["source"] == (list(size) if size else None)
    assert len(store) == 18

    def draw(seed: int, t: int) -> np.ndarray:
        frame = fake_trees.aligned(seed, t, size or (64, 64))
        return frame[:, side : width - side]

    expected_frames(store, draw, fake_trees.FRAMES)
    assert ("aligned to" in str(summary)) == (size is not None)
    assert "views left out, which the protocol does not know: 999" in str(summary)
    assert "conditions left out, which the protocol does not know: xx 01" in str(summary)
    assert "subjects left out, which the protocol does not know: Fräulein Ünbekannt" in str(summary)
    assert "6 of the protocol's 24 sequences are not in the store; `python -m cstl.check" in str(summary)


def test_128_rows_are_scaled_down_by_the_mean_of_four(tmp_path: Path) -> None:
    fake_trees.casiab(tmp_path / "raw", (128, 88))
    summary = run(tmp_path / "raw", tmp_path / "store", fake_trees.CASIAB)

    def draw(seed: int, t: int) -> np.ndarray:
        four = fake_trees.aligned(seed, t, (128, 88)).reshape(64, 2, 44, 2).astype(int).sum((1, 3))
        return (four + 2) // 4

    expected_frames(open_store(summary.store), draw, fake_trees.FRAMES)
    assert "aligned to 128x88 already: not aligned again, scaled down to 64 rows" in str(summary)


@pytest.mark.parametrize("size", [(64, 64), (64, 44)])
def test_64_rows_are_scaled_up_only_when_asked(tmp_path: Path, size: tuple[int, int]) -> None:
    fake_trees.casiab(tmp_path / "raw", size)
    with pytest.raises(
        ValueError, match=rf"aligned to {size[0]}x{size[1]}; res=128 .*type res=64.*upsample=true"
    ):
        run(tmp_path / "raw", tmp_path / "store", fake_trees.CASIAB, res=128)
    assert not (tmp_path / "store").exists()
    summary = run(tmp_path / "raw", tmp_path / "store", fake_trees.CASIAB, res=128, upsample=True)
    assert open_store(summary.store).frames.shape[1:] == (128, 88)
    assert "scaled up to 128 rows" in str(summary)


def test_oumvlp(tmp_path: Path) -> None:
    wrong = fake_trees.oumvlp(tmp_path / "raw")
    summary = run(tmp_path / "raw", tmp_path / "store", fake_trees.OUMVLP, layout="auto")
    assert faults(summary) == wrong
    store = open_store(summary.store)
    assert (len(store), store.about["layout"], store.about["source"]) == (15, "oumvlp", None)
    first = align_silhouette(fake_trees.draw(fake_trees.seed_of("00001", "000"), 0, (980, 1280)), 64)
    assert first is not None
    np.testing.assert_array_equal(store.frames[0], first[:, 10:54])


@pytest.mark.parametrize("protocol", [fake_trees.CASIAB, fake_trees.OUMVLP], ids=["casiab", "oumvlp"])
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (64, 44)])
def test_opengait(tmp_path: Path, size: tuple[int, int], protocol: Protocol) -> None:
    wrong = fake_trees.opengait(tmp_path / "raw", size, protocol)
    summary = run(tmp_path / "raw", tmp_path / "store", protocol, layout="auto", res=size[0])
    assert faults(summary) == wrong
    assert not (tmp_path / "raw/evil").exists()  # the pickle was not run
    store = open_store(summary.store)
    assert store.about["layout"] == "opengait"
    cut = (size[0] - store.width) // 2 if size[0] == size[1] else 0

    def draw(seed: int, t: int) -> np.ndarray:
        return fake_trees.aligned(seed, t, size)[:, cut : cut + store.width]

    expected_frames(store, draw, fake_trees.FRAMES)


def test_strict_stops_at_any_fault(tmp_path: Path) -> None:
    fake_trees.opengait(tmp_path / "pickles")
    with pytest.raises(ValueError, match=r"000\.pkl: pickle that wants .*mkdir.*strict=false"):
        run(tmp_path / "pickles", tmp_path / "store", fake_trees.CASIAB, strict=True)
    fake_trees.casiab(tmp_path / "links")
    with pytest.raises(ValueError, match=r"004/again: symbolic-link loop; .*strict=false"):
        run(tmp_path / "links", tmp_path / "store", fake_trees.CASIAB, strict=True)


def test_pickles_of_frames_that_are_not_aligned(tmp_path: Path) -> None:
    fake_trees.write(tmp_path / "raw/001/nm-01/000/000.pkl", pickle.dumps(np.ones((4, 240, 320), np.uint8)))
    with pytest.raises(ValueError, match="a pickle of 240x320 frames; expected aligned silhouettes, 64x64"):
        run(tmp_path / "raw", tmp_path / "store", fake_trees.CASIAB)


def test_raw_and_aligned_in_one_tree(tmp_path: Path, write_sequence: Write) -> None:
    write_sequence(tmp_path / "raw/001/nm-01/000", [fake_trees.draw(0, t) for t in range(4)])
    write_sequence(tmp_path / "raw/001/nm-01/090", [fake_trees.aligned(0, t) for t in range(4)])
    with pytest.raises(
        ValueError, match=r"240x320 in 001/nm-01/000 and 64x64 in 001/nm-01/090; move them apart"
    ):
        run(tmp_path / "raw", tmp_path / "store", fake_trees.CASIAB)


def test_frames_of_different_sizes_in_one_raw_sequence_are_told(
    tmp_path: Path, write_sequence: Write
) -> None:
    images = [fake_trees.draw(0, t) for t in range(4)] + [fake_trees.draw(0, 1)[:, 40:]]
    write_sequence(tmp_path / "raw/001/nm-01/000", images)
    summary = run(tmp_path / "raw", tmp_path / "store", fake_trees.CASIAB)
    assert summary.frames == 5
    assert "1 sequences have frames of different sizes, each aligned on its own: 001/nm-01/000" in str(
        summary
    )


def test_names_are_read_as_the_protocols(tmp_path: Path, write_sequence: Write) -> None:
    images = [fake_trees.draw(0, t) for t in range(4)]
    protocol = Protocol(**{**eval(fields(fake_trees.CASIAB)), "train": ("001", "Zo\u00eb"), "test": ("003",)})
    # ë as one letter and as two
    for name in ("1/NM-1/0", "001/nm-01/90", "Zoe\u0308/nm-01/000", "4/nm-01/000"):
        write_sequence(tmp_path / "raw" / name, images)
    summary = run(tmp_path / "raw", tmp_path / "store", protocol)
    store = open_store(summary.store)
    assert list(zip(store.subjects, store.conditions, store.views, strict=True)) == [
        ("001", "nm-01", "000"),
        ("001", "nm-01", "090"),
        ("Zo\u00eb", "nm-01", "000"),
    ]
    assert "names read as the protocol's: condition NM-1 as nm-01, subject 1 as 001" in str(summary)
    assert "1 of the protocol's subjects have no sequence: 003" in str(summary)


def test_the_same_sequence_in_two_folders(tmp_path: Path, write_sequence: Write) -> None:
    for name in ("1/nm-01/000", "001/nm-01/000", "001/NM-01/000"):
        write_sequence(tmp_path / "raw" / name, [fake_trees.draw(0, 0)])
    with pytest.raises(ValueError, match=r"001 nm-01 000 is in .*Keep one of the two") as error:
        run(tmp_path / "raw", tmp_path / "store", fake_trees.CASIAB)
    assert all(name in str(error.value) for name in ("1/nm-01/000", "001/nm-01/000", "001/NM-01/000"))


def test_an_unreadable_sequence_and_a_name_without_encoding(
    raw: Path, tmp_path: Path, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.makedirs(os.fsencode(raw) + b"/\xff/nm-01/000")
    scandir = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith(os.path.join("003", "nm-01", "090")):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    summary = run(raw, tmp_path / "store", protocol)
    assert faults(summary) == {
        "003/nm-01/090": "unreadable folder (Permission denied); fewer than 3 usable frames",
        "\\udcff/nm-01/000": "subject the protocol does not know",
    }
    str(summary).encode()


def test_a_store_of_more_subjects_serves_fewer(raw: Path, tmp_path: Path, protocol: Protocol) -> None:
    run(raw, tmp_path / "tiny-64", protocol)
    fewer = Protocol(**{**eval(fields(protocol)), "train": ("001-002",), "test": ("003",)})
    assert run(raw, tmp_path / "tiny-64", fewer).already
