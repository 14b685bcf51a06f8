"""Silhouettes as pictures, and what the network looks at in them."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from cstl.data.store import Store

MOVING = 30  # frames of a moving picture, at most
LOOKED_AT = 120  # frames of a sequence that the network is shown, at most
SOURCES = 8  # frames of the recombined one that get a colour of their own
SCALE_NAMES = {"frame": "frame level", "short": "short term", "long": "long term"}


@dataclass(frozen=True)
class Look:
    """What the network makes of one sequence: T frames, P parts."""

    silhouettes: np.ndarray  # uint8 (T, H, W)
    # scale → float32 (T, P), ATA's importance, mean over the channels; empty without ATA
    scales: dict[str, np.ndarray]
    scores: np.ndarray | None  # float32 (T, P), SSFL's; None without SSFL

    @property
    def source(self) -> np.ndarray | None:
        """Return the frame from which SSFL takes each part, int64 (P,)."""
        return None if self.scores is None else self.scores.argmax(0)

    @property
    def range(self) -> tuple[float | None, float | None]:
        """Return the smallest and the largest importance; None without ATA."""
        every = [weights for weights in self.scales.values() if weights.size]
        return min((float(w.min()) for w in every), default=None), max(
            (float(w.max()) for w in every), default=None
        )


def frames_of(store: Store, sequence: int, count: int) -> np.ndarray:
    """Return the first frames of a sequence, uint8 (T, H, W)."""
    start = int(store.starts[sequence])
    return np.asarray(store.frames[start : start + min(count, int(store.lengths[sequence]))])


def examples(
    store: Store, probes: Mapping[str, Sequence[str]], views: Sequence[str], subjects: Sequence[str]
) -> dict[str, int]:
    """Choose a sequence of each set of probes to look at: from the side, where there is such a view.

    Args:
        store: where the sequences lie.
        probes: name → conditions; the first three sets are looked at.
        views: of the protocol.
        subjects: those that are tested.

    Returns:
        what it is → line of the store's table: {"NM: 075 nm-05, view 090": 1234}.
    """
    side = "090" if "090" in views else views[len(views) // 2]
    found = {}
    for probe, conditions in list(probes.items())[:3]:
        there = np.flatnonzero(
            np.isin(store.conditions, list(conditions)) & np.isin(store.subjects, list(subjects))
        )
        if len(there):
            line = int(there[np.argsort(store.views[there] != side, kind="stable")[0]])
            found[f"{probe}: {store.subjects[line]} {store.conditions[line]}, view {store.views[line]}"] = (
                line
            )
    return found


def look(network: Any, silhouettes: np.ndarray) -> Look | None:
    """Show a network of `cstl.models` the frames uint8 (T, H, W); None: it does not say what it looks at."""
    if not hasattr(network, "attention"):
        return None
    tensor = next(network.parameters())
    x = torch.from_numpy(silhouettes.copy())[None].to(tensor.device, tensor.dtype) / 255
    training = network.training
    network.eval()
    with torch.no_grad():
        attention = network.attention(x)
    network.train(training)
    scales: dict[str, np.ndarray] = {}
    if attention.scales is not None:
        means = attention.scales[0].float().mean(-1).cpu()  # (T, P, S)
        names = getattr(network, "scales", range(means.shape[-1]))
        scales = {SCALE_NAMES.get(name, str(name)): means[:, :, i].numpy() for i, name in enumerate(names)}
    scores = None if attention.frames is None else attention.frames[0].float().cpu().numpy()
    return Look(silhouettes, scales, scores) if scales or scores is not None else None


def strip(silhouettes: np.ndarray) -> np.ndarray:
    """Lay frames side by side: (T, H, W) → (H, T·W)."""
    return np.hstack(list(silhouettes))


def recombine(found: Look) -> np.ndarray:
    """Return the frame that SSFL puts together, uint8 (H, W): each part's rows from the frame it took."""
    assert found.source is not None
    rows = _rows_of_parts(found)
    return np.stack([found.silhouettes[found.source[part], row] for row, part in enumerate(rows)])


def sources(found: Look) -> list[tuple[int, int]]:
    """Return the frames that SSFL takes parts from and how many parts, those with most first."""
    assert found.source is not None
    frame, count = np.unique(found.source, return_counts=True)
    order = np.argsort(-count, kind="stable")
    return [(int(frame[i]), int(count[i])) for i in order]


def tinted(found: Look, frame: int | None, colours: list[str]) -> np.ndarray:
    """Return a source frame with the rows taken from it in its colour and the rest dim; None: the recombined
    one.

    Args:
        frame: one of `sources`.
        colours: of the first `SOURCES` of them, "#rrggbb"; the others are grey.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    assert found.source is not None
    colour_of = {source: _rgb(colours[i]) for i, (source, _) in enumerate(sources(found)[:SOURCES])}
    picture = recombine(found) if frame is None else found.silhouettes[frame]
    result = np.repeat(picture[:, :, None] * 0.35, 3, axis=2)
    for row, part in enumerate(_rows_of_parts(found)):
        source = int(found.source[part])
        if frame in (None, source):
            result[row] = picture[row][:, None] / 255 * colour_of.get(source, np.array([200.0] * 3))
    return result.round().astype(np.uint8)


def data_uri(picture: np.ndarray) -> str:
    """Return a picture, uint8 (H, W) grey or (H, W, 3) RGB, as the address of an inlined PNG."""
    done, encoded = cv2.imencode(".png", picture[..., ::-1] if picture.ndim == 3 else picture)
    assert done
    return inlined(encoded.tobytes())


def inlined(png: bytes) -> str:
    """Return a PNG file's content as the address of an inlined picture."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _rows_of_parts(found: Look) -> np.ndarray:
    """Return the part that each row of a silhouette belongs to, int64 (H,)."""
    assert found.source is not None
    height = found.silhouettes.shape[1]
    return np.arange(height) * len(found.source) // height


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)
