import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import cstl.preparation.layouts as module
from cstl.data.frames import list_files
from cstl.preparation.layouts import list_sequences


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_casiab_lists_sorted_sequences_and_frames(tmp_path: Path) -> None:
    for name in ("002/nm-01/018", "001/nm-02/000", "001/bg-01/000"):
        for frame in ("003.png", "001.png", "002.PNG", "._001.png", "Thumbs.db"):
            touch(tmp_path / name / frame)
    touch(tmp_path / ".git/nm-01/000/001.png")
    touch(tmp_path / "readme.txt")
    sequences = list_sequences(tmp_path, "casiab").sequences
    assert [(s.subject, s.condition, s.view) for s in sequences] == [
        ("001", "bg-01", "000"),
        ("001", "nm-02", "000"),
        ("002", "nm-01", "018"),
    ]
    assert list_files(sequences[2].folder).pictures == [
        str(tmp_path / "002/nm-01/018" / f) for f in ("001.png", "002.PNG", "003.png")
    ]


def test_frame_numbers_without_leading_zeros_are_in_order(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 11, 100):
        touch(tmp_path / f"001/nm-01/000/{number}.png")
    (sequence,) = list_sequences(tmp_path, "casiab").sequences
    assert [Path(path).stem for path in list_files(sequence.folder).pictures] == [
        "1",
        "2",
        "9",
        "10",
        "11",
        "100",
    ]


def test_oumvlp(tmp_path: Path) -> None:
    touch(tmp_path / "Silhouette_015-01/00002/0001.png")
    touch(tmp_path / "Silhouette_000-00/00001/0001.png")
    touch(tmp_path / "other/00001/0001.png")
    assert [(s.subject, s.condition, s.view) for s in list_sequences(tmp_path, "oumvlp").sequences] == [
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


@pytest.mark.parametrize(
    ("given", "perhaps", "path"),
    [("CASIA-B/001", "CASIA-B", "001/nm-01/000/001.png"),
     ("CASIA-B/001/nm-01", "CASIA-B", "001/nm-01/000/001.png"),
     ("CASIA-B/001/nm-01/000", "CASIA-B", "001/nm-01/000/001.png"), ("", "CASIA-B", "001/nm-01/000/001.png"),
     ("MVLP/Silhouette_000-00", "MVLP", "Silhouette_000-00/00001/0001.png"),
     ("wrapped", "wrapped/a/b", "Silhouette_000-00/00001/0001.png")],
)  # fmt: skip
def test_one_folder_too_deep_or_too_high(tmp_path: Path, given: str, perhaps: str, path: str) -> None:
    top = tmp_path / "top"
    touch(top / perhaps / path)
    for name in ("__MACOSX/001/nm-01/000/._001.png", ".DS_Store", "Thumbs.db"):
        touch(top / name)
    with pytest.raises(ValueError, match="none of the layouts") as error:
        list_sequences(top / given)
    assert str(error.value).splitlines()[-1] == f"Perhaps dataset.raw={top / perhaps}, which has {path}"


def test_no_guess_where_nothing_tells(tmp_path: Path) -> None:
    for subject in ("001", "002"):
        touch(tmp_path / f"top/{subject}/nm-01/000/sils/001.png")
    with pytest.raises(ValueError, match="none of the layouts") as error:
        list_sequences(tmp_path / "top")
    assert "Perhaps" not in str(error.value)


@pytest.mark.parametrize(
    ("ending", "typed"),
    [(".tar.gz", 'tar xf "$archive"'), (".zip", 'unzip -q "$archive"'), (".rar", "unrar x"), (".7z", "7z x"),
     (".TGZ", "tar xf"), (".tar", "tar xf"), (".tar.xz", "tar xf")],
)  # fmt: skip
def test_archives_that_are_not_unpacked_are_named(tmp_path: Path, ending: str, typed: str) -> None:
    for number in range(1, 9):
        touch(tmp_path / f"{number:03d}{ending}")
    with pytest.raises(ValueError, match="8 archive") as error:
        list_sequences(tmp_path)
    assert f"001{ending}, 002{ending}" in str(error.value)
    assert typed in str(error.value).splitlines()[-1]
    for number in range(1, 5):  # half of them
        touch(tmp_path / f"{number:03d}/nm-01/000/001.png")
    listing = list_sequences(tmp_path)
    assert len(listing.sequences) == 4
    reason = "an archive that is not unpacked"
    assert listing.problems == [(str(tmp_path / f"00{number}{ending}"), reason) for number in range(5, 9)]


def test_archives_deeper_in_the_tree(tmp_path: Path) -> None:
    touch(tmp_path / "001/nm-01/000/001.png")
    touch(tmp_path / "001/nm-02.zip")
    touch(tmp_path / "001/nm-01/018.rar")
    assert [path.removeprefix(f"{tmp_path}/") for path, _ in list_sequences(tmp_path).problems] == [
        "001/nm-01/018.rar",
        "001/nm-02.zip",
    ]
    touch(tmp_path / "001/nm-01/000/frames.zip")
    assert list_files(str(tmp_path / "001/nm-01/000")).faults == [
        (str(tmp_path / "001/nm-01/000/frames.zip"), "an archive that is not unpacked")
    ]


def test_subject_folders_in_folders_of_their_own_name(tmp_path: Path) -> None:
    """As a file manager unpacks 001.tar.gz, which has the folder 001 in it."""
    for name in ("001/001/nm-01/000", "001/001/nm-01/018", "002/nm-01/000", "003/003/003", "004/004/004/004"):
        touch(tmp_path / name / "001.png")
    touch(tmp_path / "__MACOSX/001/nm-01/000/._001.png")
    assert [(s.subject, s.condition, s.view) for s in list_sequences(tmp_path).sequences] == [
        ("001", "nm-01", "000"),
        ("001", "nm-01", "018"),
        ("002", "nm-01", "000"),
        ("003", "003", "003"),
        ("004", "004", "004"),
    ]


def test_only_files_of_a_pattern(tmp_path: Path) -> None:
    for name in ("000-sils.pkl", "000-rgbs.pkl"):
        touch(tmp_path / "001/nm-01/000" / name)
    touch(tmp_path / "001/nm-01/000/001.png")
    listing = list_sequences(tmp_path, pattern="*-sils.pkl")
    assert listing.layout == "opengait"
    folder = listing.sequences[0].folder
    assert list_files(folder, "*-sils.pkl") == ([], [f"{folder}/000-sils.pkl"], [])
    with pytest.raises(ValueError, match=r"Only files named \*\.npy were looked for \(dataset\.files\)"):
        list_sequences(tmp_path, pattern="*.npy")


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
    with pytest.raises(ValueError, match=r"layout='gait'; the choices are auto, casiab, oumvlp, opengait"):
        list_sequences(tmp_path, "gait")


@pytest.mark.parametrize(
    ("file", "layout"),
    [
        ("001/nm-01/000/001.png", "casiab"),
        ("00001/00/000/0001.png", "casiab"),  # OU-MVLP as OpenGait rearranges it
        ("Silhouette_000-00/00001/0001.png", "oumvlp"),
        ("001/nm-01/000/000.pkl", "opengait"),
        ("00001/00/000/anything.PKL", "opengait"),
    ],
)
def test_the_tree_tells_its_layout(tmp_path: Path, file: str, layout: str) -> None:
    touch(tmp_path / file)
    touch(tmp_path / "notes/read me.txt")
    listing = list_sequences(tmp_path)
    assert listing.layout == layout
    assert [Path(s.folder) for s in listing.sequences] == [(tmp_path / file).parent]


def test_the_first_sequences_may_be_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE", 2)
    for view in range(9):
        (tmp_path / f"001/nm-01/{view:03d}").mkdir(parents=True)
    touch(tmp_path / "001/nm-01/007/x.pkl")
    assert list_sequences(tmp_path).layout == "opengait"


def test_no_layout_shows_what_was_found_beside_all_of_them(tmp_path: Path) -> None:
    touch(tmp_path / "DatasetB/001/nm-01/000/001.png")
    with pytest.raises(ValueError, match="none of the layouts that are known") as error:
        list_sequences(tmp_path)
    assert str(error.value).splitlines()[1:] == [
        "Found: DatasetB; for example DatasetB/001/nm-01/000/001.png",
        "Expected one of:",
        "  casiab    001/nm-01/000/*.png (subject/condition/view/frames)",
        "  oumvlp    Silhouette_000-00/00001/*.png (Silhouette_VIEW-CONDITION/subject/frames)",
        "  opengait  001/nm-01/000/000.pkl (subject/condition/view/one pickled array)",
        "Give the folder whose entries are the first part of such a path with dataset.raw=PATH",
        f"Perhaps dataset.raw={tmp_path / 'DatasetB'}, which has 001/nm-01/000/001.png",
    ]


def test_two_layouts_are_refused_until_one_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "001/nm-01/000/001.png")
    touch(tmp_path / "001/nm-01/018/018.pkl")
    touch(tmp_path / "Silhouette_000-00/00001/0001.png")
    with pytest.raises(
        ValueError, match=r"casiab \(in 001/nm-01/000\) and oumvlp .* and opengait .*dataset\.layout=casiab"
    ):
        list_sequences(tmp_path)
    assert list_sequences(tmp_path, "oumvlp").layout == "oumvlp"


def test_a_stray_pickle_does_not_make_another_layout(tmp_path: Path) -> None:
    for view in range(9):
        touch(tmp_path / f"001/nm-01/{view:03d}/001.png")
    touch(tmp_path / "001/nm-01/000/000.pkl")
    assert list_sequences(tmp_path).layout == "casiab"


def test_symbolic_links_that_lead_back_are_left_out_and_named(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    touch(tmp_path / "disk/nm-01/000/001.png")
    raw.mkdir()
    (raw / "001").symlink_to(tmp_path / "disk")  # people keep subjects on several disks
    (raw / "up").symlink_to(tmp_path)
    (raw / "self").symlink_to("self")
    (raw / "nowhere").symlink_to("nothing")
    (tmp_path / "disk/nm-01/again").symlink_to(tmp_path / "disk")
    listing = list_sequences(raw)
    assert [s.folder for s in listing.sequences] == [str(raw / "001/nm-01/000")]
    assert listing.problems == [
        (str(raw / path), "symbolic-link loop") for path in ("001/nm-01/again", "self", "up")
    ]


def test_folders_that_cannot_be_read_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "001/nm-01/000/001.png")
    touch(tmp_path / "002/nm-01/000/001.png")
    scandir = os.scandir

    def guarded(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("002"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    listing = list_sequences(tmp_path)
    assert [s.subject for s in listing.sequences] == ["001"]
    assert listing.problems == [(str(tmp_path / "002"), "unreadable folder (Permission denied)")]


def test_names_with_spaces_other_letters_and_no_encoding(tmp_path: Path) -> None:
    touch(tmp_path / "Zoë B/nm 01/öst/bild 001.png")
    os.makedirs(os.fsencode(tmp_path) + b"/\xff\xfe/nm-01/000")
    assert [(s.subject, s.condition, s.view) for s in list_sequences(tmp_path).sequences] == [
        ("Zoë B", "nm 01", "öst"),
        ("\udcff\udcfe", "nm-01", "000"),
    ]
