"""Small fake trees in every raw layout, with the faults that real ones have:
`python tests/data/fake_trees.py FOLDER`.

Each function writes one tree and returns its faults: path → reason, as `dropped.csv` names them.
"""

import json
import os
import pickle
import sys
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from cstl.data import Protocol, align_silhouette

FRAMES = 5
SIZES = {"casiab": (240, 320), "oumvlp": (980, 1280)}  # of raw frames

CASIAB = Protocol(
    views=("000", "090"),
    conditions=("nm-01", "nm-02", "bg-01"),
    gallery=("nm-01",),
    probes={"NM": ("nm-02",), "BG": ("bg-01",)},
    train=("001-002",),
    test=("003-004",),
)
OUMVLP = Protocol(
    views=("000", "090"),
    conditions=("00", "01"),
    gallery=("01",),
    probes={"NM": ("00",)},
    train=("00001-00003:2",),
    test=("00002-00004:2",),
)


@lru_cache(maxsize=512)
def draw(seed: int, time: int, size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """uint8 `size`: a head, a trunk and two legs that swing, drawn at 240 rows' scale."""
    height, width = size
    image, scale = np.zeros(size, np.uint8), height / 240

    def at(x: float, y: float) -> tuple[int, int]:
        return int(x * scale) + width // 4, int(y * scale)

    x, swing = 20 + 4 * time, (14 + seed % 7) * np.sin(0.7 * time + seed)
    cv2.circle(image, at(x, 40), int((13 + seed % 4) * scale), 255, -1)
    cv2.ellipse(image, at(x, 105), (int((16 + seed % 5) * scale), int(55 * scale)), 0, 0, 360, 255, -1)
    for side in (-1, 1):
        cv2.line(image, at(x, 140), at(x + side * swing, 220), 255, int(13 * scale))
    return image


def aligned(seed: int, time: int, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """uint8 `size`, (64, 64), (64, 44), (128, 128) or (128, 88): the same, aligned."""
    square = align_silhouette(draw(seed, time), size[0])
    assert square is not None
    side = (size[0] - size[1]) // 2
    return square[:, side : size[0] - side]


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def seed_of(*names: str) -> int:
    return zlib.crc32(" ".join(names).encode()) % 10_007


def casiab(root: Path, size: tuple[int, int] | None = None) -> dict[str, str]:
    """CASIA-B's tree, raw or, with a size, of aligned silhouettes."""
    for subject in sorted(CASIAB.known_subjects):
        for condition in CASIAB.conditions:
            for view in CASIAB.views:
                seed = seed_of(subject, condition, view)
                for t in range(FRAMES):
                    image = aligned(seed, t, size) if size else draw(seed, t)
                    write(
                        root / subject / condition / view / f"{subject}-{condition}-{view}-{t + 1:03d}.png",
                        png(image),
                    )
    good = png(aligned(0, 0, size) if size else draw(0, 0))
    sequence = root / "001/nm-01/000"
    write(sequence / "901.png", png(np.zeros(size or (240, 320), np.uint8)))
    write(sequence / "902.png", good[: len(good) // 2])
    write(sequence / "903.png", b"")
    write(sequence / "gei.png", good)
    write(sequence / "1.png", good)
    write(sequence / "0001.png", good)
    write(sequence / "Thumbs.db", b"x")
    write(sequence / "._001.png", b"x")
    write(root / "readme.txt", b"x")
    for path in (root / "002/nm-01/000").iterdir():
        path.unlink()  # an empty sequence
    for path in sorted((root / "002/nm-02/000").iterdir())[2:]:
        path.unlink()
    (root / "002/nm-02/090").rename(root / "002/nm-02/999")  # a view of another name; 090 is missing
    (root / "003/bg-01").rename(root / "003/xx 01")
    write(root / "Fräulein Ünbekannt/nm-01/000/001.png", good)
    write(root / "004/nm-01/000/000.pkl", pickle.dumps(np.zeros((5, 64, 64), np.uint8)))
    (root / "004/again").symlink_to(root.resolve(), target_is_directory=True)
    (root / "004/nm-01/itself").symlink_to("itself")
    (root / "004/nm-01/nowhere").symlink_to("no such folder")
    other = aligned(0, 0, (64, 44) if size == (64, 64) else (64, 64))
    write(root / "004/nm-02/000/901.png", png(other))
    kind = f"silhouettes aligned to {size[0]}x{size[1]}" if size else "raw silhouettes"
    return {
        "001/nm-01/000/901.png": "no person",
        "001/nm-01/000/902.png": "unreadable",
        "001/nm-01/000/903.png": "unreadable",
        "001/nm-01/000/gei.png": "no number in its name",
        "001/nm-01/000/1.png": "same number as another",
        "002/nm-01/000": "empty",
        "002/nm-02/000": "fewer than 3 frame files",
        "002/nm-02/999": "view the protocol does not know",
        "003/xx 01/000": "condition the protocol does not know",
        "003/xx 01/090": "condition the protocol does not know",
        "Fräulein Ünbekannt/nm-01/000": "subject the protocol does not know",
        "004/again": "symbolic-link loop",
        "004/nm-01/itself": "symbolic-link loop",
        "004/nm-01/000": "pictures and a pickle in one folder; fewer than 3 usable frames",
        "004/nm-02/000/901.png": f"{other.shape[0]}x{other.shape[1]} among {kind}",
    }


def oumvlp(root: Path) -> dict[str, str]:
    """OU-MVLP's tree, frames of 1280×980."""
    good = b""
    for view in OUMVLP.views:
        for sequence in OUMVLP.conditions:
            for subject in sorted(OUMVLP.known_subjects):
                for t in range(FRAMES - 2):
                    good = png(draw(seed_of(subject, view), t, SIZES["oumvlp"]))
                    write(root / f"Silhouette_{view}-{sequence}" / subject / f"{t + 1:04d}.png", good)
    for path in (root / "Silhouette_090-01/00003").iterdir():
        path.unlink()
    (root / "Silhouette_090-01/00003").rmdir()  # many subjects lack some views
    write(root / "Silhouette_000-00/00001/0009.png", good[:100])
    write(root / "Silhouette_005-00/00001/0001.png", good)
    write(root / "Silhouette_000-00/.DS_Store", b"x")
    write(root / "other/00001/0001.png", good)
    return {
        "Silhouette_000-00/00001/0009.png": "unreadable",
        "Silhouette_005-00/00001": "view the protocol does not know",
    }


class Evil:
    """Unpickled without care, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def opengait(root: Path, size: tuple[int, int] = (64, 64), protocol: Protocol = CASIAB) -> dict[str, str]:
    """OpenGait's tree of pickles; `root/evil` would be made by a pickle that is run."""

    def array(*names: str) -> np.ndarray:
        return np.stack([aligned(seed_of(*names), t, size) for t in range(FRAMES)])

    for i, subject in enumerate(sorted(protocol.known_subjects)):
        for condition in protocol.conditions:
            for view in protocol.views:
                file = root / subject / condition / view / f"{view}.pkl"
                write(file, pickle.dumps(array(subject, condition, view), protocol=2 + i))
    first, second, third, fourth = (root / subject for subject in sorted(protocol.known_subjects))
    one, two = protocol.conditions[:2]
    good = array("x")
    wrong = "fewer than 3 usable frames"
    refused = f"pickle that wants {os.name}.mkdir, not an array: refused, nothing of it was run"
    whole, array_of, expected = (
        f"(T, {size[0]}, {size[1]}, 1)",
        "pickle of an array",
        "expected uint8 (T, H, W)",
    )
    faults = {
        first / one / "000/000.pkl": (pickle.dumps(Evil(root / "evil")), refused),
        first / two / "000/000.pkl": (pickle.dumps(good)[:-500], "unreadable pickle (damaged or cut short)"),
        second / one / "000/000.pkl": (b"", "empty pickle (0 bytes)"),
        second / two / "000/000.pkl": (pickle.dumps(good[..., None] > 0),
            f"{array_of} bool {whole}, {expected}"),
        third / one / "000/000.pkl": (pickle.dumps(good[0]), f"{array_of} uint8 (T, {size[1]}), {expected}"),
        third / two / "000/000.pkl": (pickle.dumps(list(good)), "pickle of a list, not of one array"),
        fourth / one / "000/000.pkl": (pickle.dumps(good.dtype), "pickle of numpy.dtype, not of one array"),
    }  # fmt: skip
    reasons = {}
    for path, (data, reason) in faults.items():
        write(path, data)
        reasons[path.relative_to(root).as_posix()] = reason
        reasons[path.parent.relative_to(root).as_posix()] = wrong
    write(fourth / two / "000/000.pkl", pickle.dumps(good[:0]))
    write(fourth / two / "090/again.pkl", pickle.dumps(good))
    reasons[f"{fourth.name}/{two}/000"] = "empty"
    reasons[f"{fourth.name}/{two}/090"] = f"several pickles in one folder; {wrong}"
    (second / one / "090/090.pkl").unlink()
    for t in range(3):
        write(second / one / f"090/{t}.png", png(good[t]))
    reasons[f"{second.name}/{one}/090"] = f"pictures where a pickle is expected; {wrong}"
    return reasons


def forget_checksums(store: Path, *keys: str) -> None:
    """Makes a store one of the first version, which had no checksums; also takes other keys
    from its store.json.
    """
    about = json.loads((store / "store.json").read_text())
    for key in ("checksums", "stored_subjects", *keys):
        about.pop(key, None)
    (store / "store.json").write_text(json.dumps(about))


if __name__ == "__main__":
    out = Path(sys.argv[1])
    casiab(out / "casiab")
    for height, width in ((64, 64), (64, 44), (128, 128), (128, 88)):
        casiab(out / f"casiab-{height}x{width}", (height, width))
    oumvlp(out / "oumvlp")
    opengait(out / "opengait")
