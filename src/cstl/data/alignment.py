"""Silhouettes of one height, the body in the middle (Takemura et al., IPSJ CVA 2018)."""

import cv2
import numpy as np

from cstl.files import shown

WIDTHS = {64: 44, 128: 88}  # height → width: 11/16 of the square, whose sides hold nobody
ALIGNED = {(64, 64), (64, 44), (128, 128), (128, 88)}  # (height, width) of silhouettes that are aligned
MIN_SUM = 10_000  # a frame whose grey values sum to this or less shows no person (40 white pixels)

NO_PERSON = "no person"
OFF_CENTRE = "off centre"
CUT = "cut by the picture's border"
CLEAN = ("none", "largest")  # what is done about specks


def frame_size(res: int) -> tuple[int, int]:
    """Return the height and width of a resolution: 64 → (64, 44), 128 → (128, 88); else ValueError."""
    if res not in WIDTHS:
        choices = ", ".join(f"{height} ({height}x{width})" for height, width in WIDTHS.items())
        raise ValueError(f"unknown resolution res={res}; the choices are {choices}")
    return res, WIDTHS[res]


def align_silhouette(
    silhouette: np.ndarray, size: int, *, threshold: int | None = None, clean: str = "none"
) -> np.ndarray | None:
    """Cut a raw silhouette to the person's rows, scale it, and put half of its mass on either side.

    Args:
        silhouette: uint8 (H, W), the person bright on a black background, any size.
        size: even height (and width) of the result in pixels.
        threshold: grey values from this one on, 1 to 255, become 255 before, the others 0; None leaves them.
        clean: "largest" keeps nothing but the largest component, "none" leaves specks.

    Returns:
        uint8 (size, size), or None for a frame to be dropped: its values sum to 10,000 or less, or its first
        column already holds half of them.

    Raises:
        ValueError: the input is not a uint8 matrix, the size is not even, or an unknown threshold or clean.
    """
    check_mask_options(threshold, clean)
    if silhouette.dtype == np.uint8 and silhouette.ndim == 2 and silhouette.size:
        silhouette = clean_mask(silhouette, threshold, clean)
    aligned = align_or_reason(silhouette, size)
    return None if isinstance(aligned, str) else aligned


def check_mask_options(threshold: object, clean: object) -> None:
    """Refuse what `clean_mask` does not know: ValueError."""
    if threshold is not None and not (type(threshold) is int and 0 <= threshold <= 255):
        raise ValueError(
            f"unknown dataset.threshold={shown(threshold, 80)}; the choices are 1 to 255 (grey values from "
            "there on become 255, the others 0), 0 (masks as they are, whatever they look like) and null"
        )
    if clean not in CLEAN:
        raise ValueError(f"unknown dataset.clean={shown(clean, 80)}; the choices are {', '.join(CLEAN)}")


def clean_mask(silhouette: np.ndarray, threshold: int | None = None, clean: str = "none") -> np.ndarray:
    """Return a silhouette, uint8 (H, W), made binary and rid of specks, as far as that is asked for."""
    if threshold:
        silhouette = cv2.threshold(silhouette, threshold - 1, 255, cv2.THRESH_BINARY)[1]
    if clean == "largest":
        silhouette = np.where(largest_component(silhouette), silhouette, 0).astype(np.uint8, copy=False)
    return silhouette


def largest_component(silhouette: np.ndarray) -> np.ndarray:
    """Mark the pixels, bool (H, W), of the largest patch above 0; neighbours may meet at corners."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((silhouette > 0).view(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return labels == 1 + int(areas.argmax()) if len(areas) else np.zeros(silhouette.shape, bool)


def is_cut(silhouette: np.ndarray) -> bool:
    """Say whether the border cuts the body: it reaches left or right, or top or bottom, and not both.

    A body that reaches both of two sides was cut out of a larger picture, and is complete. Values up to half
    of the brightest do not count.
    """
    half = int(silhouette.max(initial=0)) // 2
    top, bottom, left, right = (
        bool((edge > half).any())
        for edge in (silhouette[0], silhouette[-1], silhouette[:, 0], silhouette[:, -1])
    )
    return left != right or top != bottom


def align_or_reason(silhouette: np.ndarray, size: int) -> np.ndarray | str:
    """Do as `align_silhouette`, with the reason (`NO_PERSON`, `OFF_CENTRE`) in place of None."""
    if silhouette.dtype != np.uint8 or silhouette.ndim != 2 or not silhouette.size:
        raise ValueError(f"expected a uint8 (H, W) silhouette, found {silhouette.dtype} {silhouette.shape}")
    if size < 2 or size % 2:
        raise ValueError(f"expected an even size of at least 2 pixels, found {size}")
    silhouette = np.ascontiguousarray(silhouette)
    mass = cv2.reduce(silhouette, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]  # of every row
    if cv2.sumElems(mass)[0] <= MIN_SUM:
        return NO_PERSON
    filled = mass.nonzero()[0]
    rows = silhouette[filled[0] : filled[-1] + 1]
    width = int(size * (rows.shape[1] / rows.shape[0]))
    if not width:
        return NO_PERSON  # a vertical line, not a body
    scaled = cv2.resize(rows, (width, size), interpolation=cv2.INTER_CUBIC)
    mass = cv2.reduce(scaled, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0].cumsum()  # up to every column
    centre = int(mass.searchsorted(mass[-1] // 2, side="right"))  # the first column past half of the mass
    if centre == 0:
        return OFF_CENTRE
    left = centre - size // 2
    first, last = max(left, 0), min(left + size, width)
    square = np.zeros((size, size), np.uint8)
    square[:, first - left : last - left] = scaled[:, first:last]
    return square


def cut_sides(square: np.ndarray) -> np.ndarray:
    """Cut a square to the middle 11/16 of its columns, a view: (..., 64, 64) → (..., 64, 44)."""
    side = square.shape[-1] * 5 // 32
    return square[..., side : square.shape[-1] - side]


def fit_aligned(silhouette: np.ndarray, size: int) -> np.ndarray | str:
    """Bring an aligned silhouette to a store's size, its sides cut off; or return `NO_PERSON`.

    Scaled down by the mean of the area (128 to 64: of 2 × 2 pixels), up as alignment scales.

    Args:
        silhouette: uint8 (S, S) or, already cut, (S, 11/16 S).
        size: height of the result in pixels.

    Returns:
        uint8 (size, 11/16 size).
    """
    height, width = silhouette.shape
    if int(silhouette.sum()) <= MIN_SUM:
        return NO_PERSON
    if height != size:
        interpolation = cv2.INTER_AREA if height > size else cv2.INTER_CUBIC
        silhouette = cv2.resize(silhouette, (width * size // height, size), interpolation=interpolation)
    return cut_sides(silhouette) if silhouette.shape[1] == size else silhouette


def fit_frame(mask: np.ndarray, size: int, aligned: bool) -> np.ndarray | str:
    """Return a store's frame, uint8 (size, 11/16 size), of a raw or an aligned mask; or why there is none."""
    if aligned:
        frame = fit_aligned(mask, size)
        return frame if isinstance(frame, str) or frame.any() else OFF_CENTRE  # all of it was at the sides
    square = align_or_reason(mask, size)
    return square if isinstance(square, str) else cut_sides(square)
