"""One sequence as networks see it, out of a folder of frames, a pickle, or a video of silhouettes."""

import os
import stat
from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np

from cstl.data.alignment import ALIGNED, check_mask_options, clean_mask, fit_frame, frame_size
from cstl.data.frames import MOST_PIXELS, PICKLES, PICTURES, TOO_LARGE, Files, list_files, read_frames
from cstl.files import shown

VIDEOS = (".avi", ".mp4", ".mov", ".m4v", ".mkv", ".webm")
# How such files begin, by place.
_HEADS = {0: (b"RIFF", b"\x1aE\xdf\xa3"), 4: (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")}


def read_sequence(
    path: str | os.PathLike[str], size: int = 64, *, threshold: int | None = None, clean: str = "none"
) -> np.ndarray:
    """Read a sequence and align its silhouettes, frame by frame, as `cstl.prepare` does.

    Args:
        path: a folder of pictures (or with one pickle), a pickle of one array, or a video
            (AVI, MP4, MOV, MKV, WebM).
        size: height of the result, 64 or 128.
        threshold, clean: as for `align_silhouette`. Of a video and of JPEG pictures, whose values near black
            and white are noise, 128 and more are white and the rest black in any case.

    Returns:
        uint8 (T, 64, 44) or (T, 128, 88). Frames that show nobody, or a person off centre, are left out.
        Silhouettes that are aligned already (64x64, 64x44, 128x128, 128x88) are only brought to the size.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a frame that cannot be read, another kind of file, or no frame with a person.

    Example:
        >>> network(torch.from_numpy(read_sequence("walk.mp4", 64))[None] / 255)  # doctest: +SKIP
    """
    check_mask_options(threshold, clean)
    height, _ = frame_size(size)
    frames, dropped, shape = [], Counter[str](), None
    for name, image in _frames(os.fspath(path), scaled=bool(threshold)):
        if isinstance(image, str):
            raise ValueError(f"{shown(name)}: {image}")
        shape = shape or image.shape
        if image.shape != shape and (image.shape in ALIGNED or shape in ALIGNED):
            raise ValueError(
                f"{shown(name)}: a frame of {image.shape} after {shape}; expected one kind of frames"
            )
        frame = fit_frame(clean_mask(image, threshold, clean), height, shape in ALIGNED)
        if isinstance(frame, str):
            dropped[frame] += 1
        else:
            frames.append(frame)
    if not frames:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "it has none"
        raise ValueError(f"{shown(path)}: no frame that can be used: {why}")
    return np.stack(frames)


def _frames(path: str, scaled: bool) -> Iterator[tuple[str, np.ndarray | str]]:
    """Give every frame's name with its picture, uint8 (H, W), or with what is wrong with it."""
    mode, lower = os.stat(path).st_mode, path.lower()
    if stat.S_ISDIR(mode):
        files = list_files(path)
        return read_frames(path, files, ".png" if files.pictures else ".pkl", scaled)
    if stat.S_ISREG(mode) and lower.endswith(PICTURES):
        return read_frames(path, Files([path], [], []), ".png")
    if stat.S_ISREG(mode) and lower.endswith(PICKLES):
        return read_frames(path, Files([], [path], []), ".pkl", scaled)
    if stat.S_ISREG(mode) and lower.endswith(VIDEOS):
        return _video(path)
    raise ValueError(
        f"{shown(path)}: expected a folder of pictures, a pickle ({', '.join(PICKLES)}) or a video "
        f"({', '.join(VIDEOS)})"
    )


def _video(path: str) -> Iterator[tuple[str, np.ndarray | str]]:
    # FFmpeg goes by the content: a list of other people's addresses is no video
    with open(path, "rb") as file:
        head = file.read(8)
    if not any(head[place:].startswith(signs) for place, signs in _HEADS.items()):
        yield path, "no video of such an ending"
        return
    video = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    try:
        if video.get(cv2.CAP_PROP_FRAME_WIDTH) * video.get(cv2.CAP_PROP_FRAME_HEIGHT) > MOST_PIXELS:
            yield path, TOO_LARGE
            return
        number = 0
        while (frame := video.read()[1]) is not None:
            grey = frame if frame.ndim == 2 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            yield f"{path}[{number}]", cv2.threshold(grey, 127, 255, cv2.THRESH_BINARY)[1]
            number += 1
        if not number:
            yield path, "a video that cannot be read"
    finally:
        video.release()
