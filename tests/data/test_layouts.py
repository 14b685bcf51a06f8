from pathlib import Path

import pytest

from cstl.data.layouts import list_sequences


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_casiab_lists_sorted_sequences_and_frames(tmp_path: Path) -> None:
    for name in ("002/nm-01/018", "001/nm-02/000", "001/bg-01/000"):
        for frame in ("003.png", "001.png", "002.PNG", "._001.png", "Thumbs.db"):
            touch(tmp_path / name / frame)
    touch(tmp_path / ".git/nm-01/000/001.png")
    touch(tmp_path / "readme.txt")
    sequences = list_sequences(tmp_path, "casiab")
    assert [(s.subject, s.condition, s.view) for s in sequences] == [
        ("001", "bg-01", "000"),
        ("001", "nm-02", "000"),
        ("002", "nm-01", "018"),
    ]
    assert sequences[2].frames == [str(tmp_path / "002/nm-01/018" / f) for f in ("001.png", "002.PNG", "003.png")]


def test_frame_numbers_without_leading_zeros_are_in_order(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11, 100):
        touch(tmp_path / f"001/nm-01/000/{number}.png")
    (sequence,) = list_sequences(tmp_path, "casiab")
    assert [Path(path).stem for path in sequence.frames] == ["1", "2", "9", "10", "11", "100"]


def test_oumvlp(tmp_path: Path) -> None:
    touch(tmp_path / "Silhouette_015-01/00002/0001.png")
    touch(tmp_path / "Silhouette_000-00/00001/0001.png")
    touch(tmp_path / "other/00001/0001.png")
    assert [(s.subject, s.condition, s.view) for s in list_sequences(tmp_path, "oumvlp")] == [
        ("00001", "00", "000"),
        ("00002", "01", "015"),
    ]


def test_another_layout_shows_both(tmp_path: Path) -> None:
    touch(tmp_path / "Silhouette_000-00/00001/0001.png")
    with pytest.raises(
        ValueError, match=r"expected 001/nm-01/000/\*\.png .* found .*Silhouette_000-00/00001/0001\.png"
    ):
        list_sequences(tmp_path, "casiab")


def test_one_folder_too_high(tmp_path: Path) -> None:
    touch(tmp_path / "DatasetB/001/nm-01/000/001.png")
    with pytest.raises(ValueError, match=r"found DatasetB; for example DatasetB/001/nm-01/000/001\.png"):
        list_sequences(tmp_path, "casiab")


def test_archives_not_unpacked(tmp_path: Path) -> None:
    for number in range(1, 9):
        touch(tmp_path / f"{number:03d}.tar.gz")
    with pytest.raises(ValueError, match=r"found 001\.tar\.gz, .*… \(8 entries\)"):
        list_sequences(tmp_path, "casiab")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected 001/nm-01/000/\*\.png .*found an empty folder"):
        list_sequences(tmp_path, "casiab")


def test_folders_without_files(tmp_path: Path) -> None:
    (tmp_path / "001/nm-01/000").mkdir(parents=True)
    with pytest.raises(ValueError, match="found 001; no file in them"):
        list_sequences(tmp_path, "casiab")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_sequences(tmp_path / "nothing", "casiab")
    with pytest.raises(ValueError, match=r"dataset\.raw=PATH"):
        list_sequences(None, "casiab")
    touch(tmp_path / "file.zip")
    with pytest.raises(NotADirectoryError, match="a file; expected a folder"):
        list_sequences(tmp_path / "file.zip", "casiab")


def test_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown layout 'gait'; the choices are casiab, oumvlp"):
        list_sequences(tmp_path, "gait")
