import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cstl.data import Store, open_store
from cstl.data.store import read_table


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
    with pytest.raises(ValueError, match=r"holds 64x44 frames, asked for was res=128 \(128x88\): type res=64"):
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
    with pytest.raises(ValueError, match=f"no whole store, {name} missing; delete the folder"):
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
    assert [column.tolist() for column in table] == [["001"] * 2, ["nm-01", "nm-02"], ["000"] * 2, [0, 5], [5, 6]]
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
    """A process that prepares frames is started for each core: it must not load PyTorch and Lightning for it."""
    code = "import sys, cstl.data.prepare; print(sorted({'torch', 'pytorch_lightning', 'hydra'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
