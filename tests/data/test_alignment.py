from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cstl.data import align_silhouette
from cstl.data.alignment import OFF_CENTRE, align_or_reason, clean_mask, cut_sides, frame_size, is_cut

GOLDEN = Path(__file__).parents[1] / "golden"


def slow_align(image: np.ndarray, size: int) -> np.ndarray | None:
    """The published steps, one after another, in Python's own numbers."""
    if sum(map(int, image.ravel())) <= 10_000:
        return None
    rows = [y for y in range(image.shape[0]) if any(image[y])]
    cut = image[rows[0] : rows[-1] + 1]
    width = int(size * cut.shape[1] / cut.shape[0])
    if width == 0:
        return None
    scaled = cv2.resize(np.ascontiguousarray(cut), (width, size), interpolation=cv2.INTER_CUBIC)
    columns = [sum(map(int, scaled[:, x])) for x in range(width)]
    centre = next(x for x in range(width) if 2 * sum(columns[: x + 1]) > sum(columns))
    if centre == 0:
        return None
    left, right = centre - size // 2, centre + size // 2
    if left <= 0 or right >= width:
        side = np.zeros((size, size // 2), np.uint8)
        scaled = np.concatenate([side, scaled, side], axis=1)
        left, right = left + size // 2, right + size // 2
    return scaled[:, left:right]


@pytest.mark.parametrize("size", [64, 128])
def test_golden_frames(size: int) -> None:
    golden = np.load(GOLDEN / "alignment.npz")
    for number, path in enumerate(sorted((GOLDEN / "alignment").glob("*.png"))):
        aligned = align_silhouette(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), size)
        assert (aligned is not None) == golden[f"kept_{size}"][number], path.name
        if aligned is not None:
            np.testing.assert_array_equal(aligned, golden[f"aligned_{size}"][number], err_msg=path.name)


@pytest.mark.parametrize("size", [64, 128])
def test_equals_the_slow_steps(size: int) -> None:
    generator = np.random.default_rng(size)
    results = []
    for _ in range(60):
        height, width = generator.integers(8, 90, 2)
        image = np.zeros((height, width), np.uint8)
        (y, x), (h, w) = generator.integers(0, (height, width)), generator.integers(1, 50, 2)
        image[y : y + h, x : x + w] = generator.integers(0, 256, image[y : y + h, x : x + w].shape)
        expected, aligned = slow_align(image, size), align_silhouette(image, size)
        results.append(aligned is not None)
        assert (expected is None) == (aligned is None)
        if expected is not None:
            np.testing.assert_array_equal(aligned, expected)
    assert 10 < sum(results) < 60  # both ways were taken


def test_exactly_ten_thousand_is_no_person() -> None:
    image = np.zeros((100, 100), np.uint8)
    image[30:70, 50] = 250
    assert align_silhouette(image, 64) is None
    image[30, 50] = 251
    assert align_silhouette(image, 64) is not None


def test_everything_in_the_first_column_is_off_centre() -> None:
    image = np.zeros((100, 100), np.uint8)
    image[:, 0] = 255
    assert align_or_reason(image, 64) == OFF_CENTRE
    assert align_silhouette(image, 64) is None


def test_a_picture_one_pixel_wide_is_dropped() -> None:
    assert align_silhouette(np.full((200, 1), 255, np.uint8), 64) is None


def test_memory_that_is_not_contiguous() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 60), np.uint8)
    np.testing.assert_array_equal(
        align_silhouette(image[:, ::-1], 64), align_silhouette(image[:, ::-1].copy(), 64)
    )


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8)), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8), np.uint8)],
    ids=["float", "rgb", "none"],
)
def test_not_a_silhouette(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected a uint8 \(H, W\) silhouette, found"):
        align_silhouette(image, 64)


def test_odd_size() -> None:
    with pytest.raises(ValueError, match=r"expected an even size .* found 63"):
        align_silhouette(np.ones((200, 200), np.uint8), 63)


def test_sides_and_sizes() -> None:
    square = np.arange(64 * 64).reshape(64, 64)
    np.testing.assert_array_equal(cut_sides(square), square[:, 10:54])
    assert cut_sides(np.zeros((3, 128, 128))).shape == (3, 128, 88)
    assert frame_size(64) == (64, 44)
    assert frame_size(128) == (128, 88)
    with pytest.raises(ValueError, match=r"res=96; the choices are 64 \(64x44\), 128 \(128x88\)"):
        frame_size(96)


def body(background: int = 0) -> np.ndarray:
    """uint8 (120, 160): a body of 30 × 80 pixels on a grey background."""
    image = np.full((120, 160), background, np.uint8)
    image[20:100, 60:90] = 255
    return image


def test_a_threshold_blackens_the_background() -> None:
    grey, clear = body(background=9), align_silhouette(body(), 64)
    assert clear is not None
    assert (align_silhouette(grey, 64) != clear).any()
    np.testing.assert_array_equal(align_silhouette(grey, 64, threshold=10), clear)
    np.testing.assert_array_equal(align_silhouette((body() > 0).astype(np.uint8), 64, threshold=1), clear)
    np.testing.assert_array_equal(align_silhouette(body() // 2, 64, threshold=127), clear)
    assert align_silhouette(body() // 2, 64, threshold=128) is None  # 127 is below
    np.testing.assert_array_equal(align_silhouette(grey, 64, threshold=0), align_silhouette(grey, 64))


def test_the_largest_component_is_kept() -> None:
    spoilt = body()
    spoilt[0, 0] = spoilt[110:115, 150] = 255
    clear = align_silhouette(body(), 64)
    assert (align_silhouette(spoilt, 64) != clear).any()  # the field's alignment, as it is
    np.testing.assert_array_equal(align_silhouette(spoilt, 64, clean="largest"), clear)
    soft = body()
    soft[20:100, 60:90] = np.random.default_rng(0).integers(1, 256, (80, 30))
    np.testing.assert_array_equal(clean_mask(soft, clean="largest"), soft)  # its grey values stay
    assert not clean_mask(np.zeros((8, 8), np.uint8), clean="largest").any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 256}, "dataset.threshold=256; the choices are 1 to 255"),
        ({"threshold": -1}, "dataset.threshold=-1"),
        ({"threshold": 0.5}, "dataset.threshold=0.5"),
        ({"threshold": True}, "dataset.threshold=True"),
        ({"clean": "biggest"}, "dataset.clean=biggest; the choices are none, largest"),
    ],
)
def test_unknown_thresholds_and_cleanings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align_silhouette(body(), 64, **options)


def test_a_body_that_the_border_cuts() -> None:
    def moved(rows: int, columns: int) -> np.ndarray:
        return cv2.warpAffine(
            body(background=9), np.float32([[1, 0, columns], [0, 1, rows]]), (160, 120), borderValue=9
        )

    assert not is_cut(moved(0, 0))
    assert is_cut(moved(0, -65))
    assert is_cut(moved(0, 75))
    assert is_cut(moved(30, 0))
    assert is_cut(moved(-30, 0))
    assert not is_cut(body()[20:100, 60:90])  # cut out of a larger picture
    assert not is_cut(body()[20:100])
    assert not is_cut(np.zeros((8, 8), np.uint8))
