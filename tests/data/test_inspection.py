import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cstl.data import Protocol, open_store
from cstl.data.frames import list_files, reading_of_points
from cstl.preparation.inspection import look_at_masks
from cstl.preparation.join import Summary
from cstl.preparation.plan import Preparation
from cstl.preparation.prepare import prepare

Spoil = Callable[[np.ndarray], np.ndarray]


def person(time: int = 0) -> np.ndarray:
    """uint8 (120, 160): a body of 25 × 90 pixels."""
    image = np.zeros((120, 160), np.uint8)
    cv2.ellipse(image, (60 + 3 * time, 60), (12, 45), 0, 0, 360, 255, -1)
    return image


def tree(root: Path, spoil: Spoil = lambda image: image, frames: int = 5) -> Path:
    for condition in ("nm-01", "nm-02"):
        folder = root / "001" / condition / "000"
        folder.mkdir(parents=True)
        for t in range(frames):
            cv2.imwrite(str(folder / f"{t + 1:03d}.png"), spoil(person(t)))
    return root


PROTOCOL = Protocol(views=("000",), conditions=("nm-01", "nm-02"), gallery=("nm-01",),
    probes={"NM": ("nm-02",)},
                    train=(), test=("001",))  # fmt: skip


def run(raw: Path, **options: object) -> Summary:
    shutil.rmtree(raw.parent / "store", ignore_errors=True)
    return prepare(
        Preparation(raw, raw.parent / "store", "tiny", PROTOCOL, 64, **options), workers=1, progress=False
    )


def grey(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).integers(1, 15, image.shape, np.uint8)
    return np.maximum(image, noise)


def speck(image: np.ndarray) -> np.ndarray:
    image[1, 150] = 255
    return image


def shrunk(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (64, 64), interpolation=cv2.INTER_NEAREST)


def stretched(image: np.ndarray) -> np.ndarray:
    rows, columns = image.any(1).nonzero()[0], image.any(0).nonzero()[0]
    return shrunk(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


@pytest.mark.parametrize(
    ("spoil", "message", "known"),
    [
        (grey, r"background not black \(grey levels 1 to 14\): .*: 6 of 6 sampled frames \(.*001.png\); "
               "type dataset.threshold=128", {"threshold": 128}),
        (grey, "background not black", {"threshold": 0}),
        (lambda image: image // 255, "values 1, .*type dataset.threshold=1", {"threshold": 1}),
        (lambda image: image // 17, "values 15, .*type dataset.threshold=1", {"threshold": 15}),
        (lambda image: 255 - image, "black bodies on white", {"threshold": 0}),
        (shrunk, "does not fill the height .*type dataset.aligned=false", {"aligned": False}),
        (shrunk, "does not fill the height", {"aligned": True}),
        (stretched, "touches both sides", {"aligned": True}),
        (lambda image: image.astype(np.uint16) * 257, "none of 6 sampled frames can be used: not 8-bit grey",
         None),
        (lambda image: np.dstack([image, image // 2, image]), "not 8-bit grey", None),
    ],
    ids=["grey", "grey-known", "0-1", "0-15", "inverted", "small", "small-known", "stretched", "16-bit",
        "colour"],
)  # fmt: skip
def test_nonsense_is_refused_before_the_work(
    tmp_path: Path, spoil: Spoil, message: str, known: dict[str, object] | None
) -> None:
    raw = tree(tmp_path / "raw", spoil)
    with pytest.raises(ValueError, match=message):
        run(raw)
    assert not (tmp_path / "store.partial").exists()
    if known is not None and not (known == {"threshold": 0} and spoil(person()).max() == 1):
        assert run(raw, **known).frames == 10


@pytest.mark.parametrize(
    ("spoil", "message", "remedy"),
    [
        (
            speck,
            "specks away from the body .*3 of 3 sampled frames .*dataset.clean=largest",
            {"clean": "largest"},
        ),
        (
            lambda image: image // 2 + 1 * (image > 0).astype(np.uint8),
            "values 128, not 255",
            {"threshold": 1},
        ),
        (
            lambda image: np.hstack([image[:, 60:], image[:, :60] * 0]),
            "border cuts.*dataset.drop_cut=true",
            None,
        ),
        (lambda image: np.maximum(image, np.roll(image, 60, 1)), "second large patch", {"clean": "largest"}),
        (lambda image: np.rot90(image[:, :120]).copy(), "wider than tall", None),
        (lambda image: person(0), "equal the one before .*: 8 frames", None),
    ],
    ids=["specks", "128", "cut", "two", "lying", "repeated"],
)
def test_what_is_odd_is_said(
    tmp_path: Path, spoil: Spoil, message: str, remedy: dict[str, object] | None
) -> None:
    raw = tree(tmp_path / "raw", spoil)
    said = next(note for note in run(raw).notes if re.search(message, note))
    assert any(said == line for line in look_at_masks(open_store(tmp_path / "store")))
    about = json.loads((tmp_path / "store/store.json").read_text())
    del about["inspection"]  # a store of an earlier version: the raw tree is looked at
    (tmp_path / "store/store.json").write_text(json.dumps(about))
    if "equal the one" not in said:
        assert any(said.split(":")[0] in line for line in look_at_masks(open_store(tmp_path / "store")))
    if remedy is not None:
        assert not look_at_masks_after(raw, remedy)


def look_at_masks_after(raw: Path, remedy: dict[str, object]) -> list[str]:
    run(raw, **remedy)
    return look_at_masks(open_store(raw.parent / "store"))


def test_good_masks_give_no_remark(tmp_path: Path) -> None:
    raw = tree(tmp_path / "raw")
    run(raw)
    assert look_at_masks(open_store(tmp_path / "store")) == []


def test_bodies_that_are_cut_are_left_out(tmp_path: Path) -> None:
    raw = tree(tmp_path / "raw", frames=8)
    for t in range(2):
        half = np.hstack([person(t)[:, 60:], np.zeros((120, 60), np.uint8)])
        cv2.imwrite(str(raw / f"001/nm-01/000/{t + 101}.png"), half)
    assert run(raw).frames == 18
    summary = run(raw, drop_cut=True)
    assert (summary.frames, summary.dropped_frames) == (16, {"cut by the picture's border": 2})


def test_several_ways_to_name_frames_are_said(tmp_path: Path) -> None:
    raw = tree(tmp_path / "raw")
    shutil.copy(raw / "001/nm-01/000/001.png", raw / "001/nm-01/000/001 (1).png")
    (said,) = [note for note in run(raw).notes if "several ways" in note]
    assert "001.png" in said
    assert "001 (1).png" in said
    assert "dataset.files=PATTERN" in said
    assert run(raw, files="[0-9][0-9][0-9].png").frames == 10


@pytest.mark.parametrize(
    ("names", "order", "read"),
    [
        ("0.1 0.12 0.04", "0.04 0.1 0.12", "decimals"),
        ("1592.5 1592.25 1593.0", "1592.25 1592.5 1593.0", "decimals"),
        ("1.1 1.2 1.3 1.4 1.5 1.6 1.7 1.8 1.9 1.10", "1.1 1.2 1.3 1.4 1.5 1.6 1.7 1.8 1.9 1.10", "counters"),
        ("0.10 0.04 0.12", "0.04 0.10 0.12", None),
        ("10 2 1", "1 2 10", None),
        ("2020.01.2 2020.01.10", "2020.01.2 2020.01.10", None),
        ("a0.5b10 a0.25b9", "a0.25b9 a0.5b10", "decimals"),
    ],
)
def test_decimals_in_names(tmp_path: Path, names: str, order: str, read: str | None) -> None:
    for name in names.split():
        (tmp_path / f"{name}.png").touch()
    pictures = list_files(str(tmp_path)).pictures
    assert [Path(path).name.removesuffix(".png") for path in pictures] == order.split()
    assert reading_of_points(pictures) == read


@pytest.mark.parametrize(
    "option", [{"threshold": 300}, {"clean": "all"}, {"drop_cut": "yes"}, {"aligned": "maybe"}]
)
def test_unknown_options_are_refused_with_the_choices(tmp_path: Path, option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"unknown dataset.{next(iter(option))}=.*the choices are"):
        run(tree(tmp_path / "raw"), **option)


def test_another_option_makes_another_store(tmp_path: Path) -> None:
    raw = tree(tmp_path / "raw")
    run(raw)
    with pytest.raises(FileExistsError, match="threshold: None there, 128 now"):
        prepare(Preparation(raw, tmp_path / "store", "tiny", replace(PROTOCOL), 64, threshold=128))


@pytest.mark.parametrize(
    "convert",
    [
        lambda array: array > 0,
        lambda array: (array / 255).astype(np.float32),
        lambda array: array.astype(np.float64),
        lambda array: (array / 255).astype(">f4"),
    ],
    ids=["bool", "0-1", "0-255", "big-endian"],
)
def test_pickles_of_other_numbers_are_named_and_read_with_a_threshold(tmp_path: Path, convert: Spoil) -> None:
    array = np.stack([np.pad(cv2.resize(person(t)[15:106, :91], (64, 64)), 0) for t in range(5)])
    for condition in ("nm-01", "nm-02"):
        file = tmp_path / "raw/001" / condition / "000/000.pkl"
        file.parent.mkdir(parents=True)
        file.write_bytes(pickle.dumps(convert(array)))
    with pytest.raises(
        ValueError, match=r"none of 2 sampled .*\(T, 64, 64\), expected .*dataset.threshold=128"
    ):
        run(tmp_path / "raw")
    assert run(tmp_path / "raw", threshold=128, aligned=True).frames == 10
    assert set(np.unique(open_store(tmp_path / "store").frames)) == {0, 255}
