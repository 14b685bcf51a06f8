import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_trees import forget_checksums

import cstl.data.store as module
from cstl.data import Protocol, Store, open_store
from cstl.data.store import read_table, verify_store
from cstl.preparation.plan import Preparation
from cstl.preparation.prepare import prepare


@pytest.fixture
def spoilt(store: Store, tmp_path: Path) -> Path:
    """A copy of the store, to be damaged."""
    return Path(shutil.copytree(store.path, tmp_path / "tiny-64"))


def test_columns_and_frames(store: Store) -> None:
    assert len(store) == 36
    assert (store.dataset, store.height, store.width) == ("tiny", 64, 44)
    assert store.starts.dtype == store.lengths.dtype == np.int64
    assert store.subjects.dtype.kind == store.conditions.dtype.kind == store.views.dtype.kind == "U"
    assert (store.subjects[0], store.conditions[0], store.views[0]) == ("001", "bg-01", "000")
    np.testing.assert_array_equal(store.starts, np.cumsum(store.lengths) - store.lengths)
    assert isinstance(store.frames, np.memmap)
    assert store.frames.shape == (store.lengths.sum(), 64, 44)


def test_opened_without_this_package(store: Store) -> None:
    lines = (store.path / "sequences.csv").read_text().splitlines()
    assert lines[:2] == ["subject,condition,view,start,length", f"001,bg-01,000,0,{store.lengths[0]}"]
    assert np.load(store.path / "frames.npy").dtype == np.uint8


def test_pickles_as_its_path(store: Store) -> None:
    assert store.frames is not None
    data = pickle.dumps(store)
    assert len(data) < 500
    again = pickle.loads(data)
    assert set(vars(again)) == {"path"}
    np.testing.assert_array_equal(again.frames[3], store.frames[3])


def test_missing_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        open_store(tmp_path / "casiab-128", "casiab", 128)
    assert "python -m cstl.prepare dataset=casiab res=128 dataset.raw=PATH" in str(error.value)
    assert "casiab-128" in str(error.value)


def test_partial(tmp_path: Path) -> None:
    (tmp_path / "tiny-64.partial").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"not finished.*goes on with:\n.*python -m cstl.prepare dataset=tiny res=64"
    ):
        open_store(tmp_path / "tiny-64", "tiny", 64)


def test_another_resolution(store: Store) -> None:
    with pytest.raises(
        ValueError, match=r"holds 64x44 frames, asked for was res=128 \(128x88\): type res=64"
    ):
        open_store(store.path, "tiny", 128)
    with pytest.raises(ValueError, match="unknown resolution res=100"):
        open_store(store.path, "tiny", 100)


def test_another_data_set(store: Store) -> None:
    with pytest.raises(ValueError, match="holds the data set tiny, asked for was casiab: type dataset=tiny"):
        open_store(store.path, "casiab", 64)
    assert open_store(store.path).dataset == "tiny"


@pytest.mark.parametrize("name", ["store.json", "frames.npy", "sequences.csv"])
def test_a_file_missing(spoilt: Path, name: str) -> None:
    (spoilt / name).unlink()
    with pytest.raises(ValueError, match=f"no complete store, {name} missing; delete the folder"):
        open_store(spoilt, "tiny", 64)


@pytest.mark.parametrize("name", ["store.json", "frames.npy", "sequences.csv"])
@pytest.mark.parametrize("keep", [0, 0.4])
def test_a_file_cut_short(spoilt: Path, name: str, keep: float) -> None:
    data = (spoilt / name).read_bytes()
    (spoilt / name).write_bytes(data[: int(keep * len(data))])
    with pytest.raises(
        ValueError, match=f"damaged, {name}.*delete the folder and prepare it again:\n.*dataset=tiny res=64"
    ):
        open_store(spoilt, "tiny", 64)


@pytest.mark.parametrize("line", ["007,nm-01,000,9999,5", "007,nm-01,000,0,0", "007,nm-01,000,-1,3"])
def test_a_line_that_does_not_fit_the_frames(spoilt: Path, line: str) -> None:
    with open(spoilt / "sequences.csv", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"damaged, sequences\.csv lists"):
        open_store(spoilt)


def test_frames_of_another_shape(spoilt: Path) -> None:
    np.save(spoilt / "frames.npy", np.zeros((500, 64, 64), np.uint8))
    with pytest.raises(ValueError, match=r"expected uint8 \(F, 64, 44\), found uint8 \(500, 64, 64\)"):
        open_store(spoilt)


def test_another_format(spoilt: Path) -> None:
    text = (spoilt / "store.json").read_text()
    (spoilt / "store.json").write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="store format 2, this version of cstl reads 1"):
        open_store(spoilt)


def test_tables_as_editors_leave_them(tmp_path: Path) -> None:
    path = tmp_path / "sequences.csv"
    path.write_bytes(b"subject,condition,view,start,length\r\n001,nm-01,000,0,5\r\n001,nm-02,000,5,6")
    table = read_table(path)
    assert [column.tolist() for column in table] == [
        ["001"] * 2,
        ["nm-01", "nm-02"],
        ["000"] * 2,
        [0, 5],
        [5, 6],
    ]
    path.write_text("subject;condition;view;start;length\n")
    with pytest.raises(ValueError, match="expected the columns subject,condition"):
        read_table(path)
    path.write_text("subject,condition,view,start,length\n001,nm-01,000,0\n")
    with pytest.raises(ValueError, match="expected 5 columns in each of 1 lines, found 4 cells"):
        read_table(path)
    path.write_text("subject,condition,view,start,length\n001,nm-01,000,0,five\n")
    with pytest.raises(ValueError, match="five"):
        read_table(path)


def test_preparing_needs_no_torch() -> None:
    """A process that prepares frames is started for each core: it must not load PyTorch and
    Lightning for it.
    """
    code = (
        "import sys, cstl.preparation.prepare; print({'torch', 'pytorch_lightning', 'hydra'} & "
        "set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


# --- Numbers that would be others without a word ------------------------------------------------------------


def edit_table(path: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
    """Changes the rows of a store's table, each a list of its cells."""
    header, *lines = (path / "sequences.csv").read_text().splitlines()
    rows = change([line.split(",") for line in lines])
    (path / "sequences.csv").write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")


def doubled(rows: list[list[str]]) -> list[list[str]]:
    return [*rows[:5], rows[4], *rows[5:]]


def longer(rows: list[list[str]]) -> list[list[str]]:
    """A sequence takes a frame of the next."""
    return [*rows[:5], [*rows[5][:4], str(int(rows[5][4]) + 1)], *rows[6:]]


def one_for_another(rows: list[list[str]]) -> list[list[str]]:
    return [rows[0], rows[1], [*rows[1][:3], *rows[2][3:]], *rows[3:]]


@pytest.mark.parametrize("first_version", [False, True])
@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda rows: rows[:20], r"20 sequences there, 36 by store\.json"), (doubled, r"37 sequences there, 36"),
     (lambda rows: rows[1:], "35 sequences there, 36"),
      (one_for_another, "001 bg-01 090 twice, in lines 3 and 4"),
     (longer, r"line 8: a sequence begins at frame \d+, the one before ends at \d+"),
     (lambda rows: [*rows[:2], rows[3], rows[2], *rows[4:]], "line 4: a sequence begins at frame")],
    ids=["cut at a line end", "doubled", "first one gone", "one for another", "longer", "swapped lines"],
)  # fmt: skip
def test_a_table_that_is_not_the_one_prepared(
    spoilt: Path, change: Callable[[list[list[str]]], list[list[str]]], said: str, first_version: bool
) -> None:
    if first_version:
        forget_checksums(spoilt)
    edit_table(spoilt, change)
    with pytest.raises(ValueError, match=rf"damaged, sequences\.csv.*{said}.*delete the folder"):
        open_store(spoilt, "tiny", 64)


@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda rows: rows[:20], r"lists \d+ frames, frames\.npy holds"), (doubled, "twice, in lines 6 and 7"),
     (lambda rows: rows[1:], r"line 2: a sequence begins at frame \d+, the one before ends at 0")],
    ids=["cut", "doubled", "first one gone"],
)  # fmt: skip
def test_a_table_without_anything_to_compare_it_with(
    spoilt: Path, change: Callable[[list[list[str]]], list[list[str]]], said: str
) -> None:
    """As a script of a user's own may have written it."""
    forget_checksums(spoilt, "sequences", "frames")
    assert len(open_store(spoilt)) == 36
    edit_table(spoilt, change)
    with pytest.raises(ValueError, match=rf"damaged, sequences\.csv.*{said}"):
        open_store(spoilt)


def test_names_and_lengths_that_fit_but_are_others_are_told_by_the_checksum(spoilt: Path) -> None:
    names = [row.copy() for row in ([], [])]

    def exchange(rows: list[list[str]]) -> list[list[str]]:
        names[0], names[1] = rows[0][:3], rows[1][:3]
        return [[*names[1], *rows[0][3:]], [*names[0], *rows[1][3:]], *rows[2:]]

    edit_table(spoilt, exchange)
    with pytest.raises(ValueError, match=r"sequences\.csv is not what was prepared \(another checksum\)"):
        open_store(spoilt)


def test_line_ends_of_an_editor_are_no_damage(spoilt: Path, store: Store) -> None:
    text = (spoilt / "sequences.csv").read_bytes().replace(b"\n", b"\r\n").rstrip()
    (spoilt / "sequences.csv").write_bytes(text)
    assert open_store(spoilt).fingerprint == store.fingerprint


@pytest.mark.parametrize("first_version", [False, True])
def test_frames_that_were_never_copied(spoilt: Path, first_version: bool) -> None:
    """A copy that was cut off has its size, and zeros for what did not come: as a hole, or written."""
    if first_version:
        forget_checksums(spoilt)
    path = spoilt / "frames.npy"
    size = path.stat().st_size
    data = path.read_bytes()
    os.truncate(path, size // 2)
    os.truncate(path, size)
    with pytest.raises(
        ValueError, match=r"frames\.npy: frame \d+ of 00\d .* is empty, as if .*copied in part"
    ):
        open_store(spoilt)
    path.write_bytes(data[: size // 2] + bytes(size - size // 2))
    with pytest.raises(
        ValueError, match=r"frames\.npy: frame \d+ of 00\d .* is empty, as if .*copied in part"
    ):
        open_store(spoilt)


def test_one_hole_among_many_frames(spoilt: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the frames that are looked at, only the file system, or `verify_store`, knows of it."""
    monkeypatch.setattr(module, "SAMPLE", 2)
    frames = np.load(spoilt / "frames.npy")
    frames[7] = 0
    np.save(spoilt / "frames.npy", frames)
    forget_checksums(spoilt)
    opened = open_store(spoilt)  # written zeros: no hole
    line = int(np.searchsorted(store.starts, 7, side="right")) - 1
    name = f"{store.subjects[line]} {store.conditions[line]} {store.views[line]}"
    with pytest.raises(ValueError, match=f"frame {7 - store.starts[line]} of {name} is empty"):
        verify_store(opened)
    data = (spoilt / "frames.npy").read_bytes()
    start = 128 + 100 * 64 * 44
    with open(spoilt / "frames.npy", "wb") as file:
        file.write(data[: start - start % 4096])
        file.seek(start + 20 * 64 * 44)
        file.write(data[file.tell() :])
    with pytest.raises(ValueError, match="is empty, as if the file was copied in part"):
        open_store(spoilt)


def test_bytes_too_many(spoilt: Path) -> None:
    with open(spoilt / "frames.npy", "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"damaged, frames\.npy"):
        open_store(spoilt)


def test_a_flipped_bit_is_found_by_verifying(spoilt: Path, store: Store) -> None:
    assert "all is as it was then, by its checksums" in verify_store(store)
    data = bytearray((spoilt / "frames.npy").read_bytes())
    data[128 + 64 * 44 + 1000] ^= 1  # of the second frame, which is not among those that opening looks at
    (spoilt / "frames.npy").write_bytes(data)
    opened = open_store(spoilt)
    with pytest.raises(
        ValueError, match=r"frames\.npy is not what was prepared \(another checksum\); delete"
    ):
        verify_store(opened)
    forget_checksums(spoilt)
    assert "nothing tells whether a frame changed" in verify_store(open_store(spoilt))


def test_frames_of_another_store(spoilt: Path) -> None:
    frames = np.load(spoilt / "frames.npy")
    np.save(spoilt / "frames.npy", frames[:, :, ::-1])
    with pytest.raises(ValueError, match=r"frames\.npy is not what was prepared \(other frames\)"):
        open_store(spoilt)


def test_the_fingerprint_is_of_what_a_store_holds(
    spoilt: Path, store: Store, raw_tree: Path, tmp_path: Path, protocol: Protocol
) -> None:
    assert re.fullmatch("[0-9a-f]{12}", store.fingerprint)
    assert open_store(spoilt).fingerprint == store.fingerprint  # copied
    prepare(Preparation(raw_tree, tmp_path / "again", "tiny", protocol, 64), workers=1)
    assert open_store(tmp_path / "again").fingerprint == store.fingerprint  # prepared at another time
    shutil.copytree(raw_tree, tmp_path / "raw")
    (tmp_path / "raw/001/bg-01/000/001.png").unlink()
    prepare(Preparation(tmp_path / "raw", tmp_path / "other", "tiny", protocol, 64), workers=1)
    assert open_store(tmp_path / "other").fingerprint != store.fingerprint
    forget_checksums(spoilt)
    assert re.fullmatch("[0-9a-f]{12}", open_store(spoilt).fingerprint)


@pytest.mark.parametrize("checksums", ["text", [1], {"frames": 3}, {}, None])
def test_checksums_that_are_none(spoilt: Path, checksums: object) -> None:
    about = json.loads((spoilt / "store.json").read_text())
    (spoilt / "store.json").write_text(json.dumps(about | {"checksums": checksums}))
    if checksums == {}:
        assert len(open_store(spoilt)) == 36
        return
    with pytest.raises(ValueError, match="damaged"):
        open_store(spoilt)
