"""A sequence from disk, as it is given to a network."""

import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import fake_trees
import numpy as np
import pytest

from cstl.data import Protocol, open_store, read_sequence
from cstl.preparation.plan import Preparation
from cstl.preparation.prepare import prepare


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """A walk of six frames, uint8 (6, 240, 320), the fourth with nobody."""
    masks = np.stack([fake_trees.draw(1, time, (240, 320)) for time in range(6)])
    masks[3] = 0
    return (masks > 127).astype(np.uint8) * 255


def write_pictures(folder: Path, masks: np.ndarray) -> Path:
    folder.mkdir()
    for number, mask in enumerate(masks):
        cv2.imwrite(str(folder / f"{number:03d}.png"), mask)
    return folder


def write_video(path: Path, masks: np.ndarray, code: str, colour: bool = True) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 25, masks.shape[:0:-1], colour)
    for mask in masks:
        writer.write(cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR) if colour else mask)
    writer.release()
    return path


@pytest.mark.parametrize(("size", "shape"), [(64, (5, 64, 44)), (128, (5, 128, 88))])
def test_pictures_a_pickle_and_a_lossless_video_give_the_same(
    tmp_path: Path, masks: np.ndarray, size: int, shape: tuple[int, ...]
) -> None:
    sequence = read_sequence(write_pictures(tmp_path / "walk", masks), size)
    assert (sequence.shape, sequence.dtype) == (shape, np.uint8)
    (tmp_path / "walk.pkl").write_bytes(pickle.dumps(masks))
    np.testing.assert_array_equal(read_sequence(tmp_path / "walk.pkl", size), sequence)
    (tmp_path / "one").mkdir()
    (tmp_path / "walk.pkl").rename(tmp_path / "one/000.pkl")
    np.testing.assert_array_equal(read_sequence(tmp_path / "one", size), sequence)
    np.testing.assert_array_equal(
        read_sequence(write_video(tmp_path / "walk.avi", masks, "FFV1"), size), sequence
    )


@pytest.mark.parametrize(("name", "code"), [("walk.mp4", "mp4v"), ("walk.avi", "MJPG")])
def test_a_compressed_video_gives_almost_the_same(
    tmp_path: Path, masks: np.ndarray, name: str, code: str
) -> None:
    sequence = read_sequence(write_video(tmp_path / name, masks, code), 64).astype(int)
    lossless = read_sequence(write_pictures(tmp_path / "walk", masks), 64).astype(int)
    assert sequence.shape == lossless.shape
    assert np.abs(sequence - lossless).mean() < 4  # of 255


def test_it_is_what_preparation_stores(raw_tree: Path, tmp_path: Path, protocol: Protocol) -> None:
    prepare(Preparation(raw_tree, tmp_path / "store", "tiny", protocol, 64), workers=1)
    store = open_store(tmp_path / "store")
    for line in (0, 7):
        folder = raw_tree / store.subjects[line] / store.conditions[line] / store.views[line]
        frames = store.frames[store.starts[line] : store.starts[line] + store.lengths[line]]
        np.testing.assert_array_equal(read_sequence(folder, 64), frames)
        aligned = tmp_path / f"{line}.pkl"
        aligned.write_bytes(pickle.dumps(np.asarray(frames)))
        np.testing.assert_array_equal(read_sequence(aligned, 64), frames)


def text(path: Path) -> Path:
    path.write_text("#EXTM3U\nhttp://127.0.0.1/walk.ts\n")
    return path


def mixed(folder: Path, masks: np.ndarray) -> Path:
    cv2.imwrite(str(write_pictures(folder, masks) / "009.png"), masks[0][:64, :44])
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder, masks: write_pictures(folder / "walk", masks[3:4]),
            "no frame that can be used: 1 no person",
        ),
        (
            lambda folder, masks: write_pictures(folder / "walk", masks[:0]),
            "no frame that can be used: it has none",
        ),
        (
            lambda folder, masks: mixed(folder / "walk", masks),
            r"009\.png: a frame of \(64, 44\) after \(240, 320\)",
        ),
        (lambda folder, _: text(folder / "walk.mp4"), "walk.mp4: no video of such an ending"),
        (
            lambda folder, _: text(folder / "walk.txt"),
            "expected a folder of pictures, a pickle .* or a video",
        ),
        (lambda folder, _: text(folder / "walk.png"), r"walk\.png: unreadable"),
        (lambda folder, _: text(folder / "walk.pkl"), r"walk\.pkl: unreadable pickle"),
        (lambda folder, _: Path("/dev/zero"), "expected a folder of pictures"),
    ],
)
def test_what_is_no_sequence(
    tmp_path: Path, masks: np.ndarray, make: Callable[[Path, np.ndarray], Path], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_sequence(make(tmp_path, masks), 64)


def test_a_video_cut_short_and_a_size_that_there_is_not(tmp_path: Path, masks: np.ndarray) -> None:
    video = write_video(tmp_path / "walk.mp4", masks, "mp4v")
    video.write_bytes(video.read_bytes()[:200])
    with pytest.raises(ValueError, match="a video that cannot be read"):
        read_sequence(video)
    with pytest.raises(ValueError, match="unknown resolution res=63"):
        read_sequence(video, 63)
    with pytest.raises(FileNotFoundError):
        read_sequence(tmp_path / "nowhere")
