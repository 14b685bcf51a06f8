"""How walkers are seen: perspective cameras, filled outlines, the noise of background subtraction."""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cstl.walkers.body import Body
from cstl.walkers.traits import Array

Frames = NDArray[np.uint8]

HEIGHT, WIDTH = 240, 320
DISTANCE = 6.5  # of every camera from the middle of the walk, metres
CAMERA_HEIGHT = 1.3  # metres
AIM_HEIGHT = 0.86  # the cameras look at this point above the scene's origin, metres
FOCAL = 510.0  # pixels: a body is some 130 pixels high
CORNERS = 24  # of a drawn solid
SUBPIXELS = 3  # bits


def camera(view: str) -> tuple[Array, Array]:
    """Place a camera, 000 ahead, 180 behind → position (3,), axes (3, 3): right, down, forward."""
    if not (view.isdigit() and 0 <= int(view) < 360):
        raise ValueError(f"View {view!r}: expected an angle in degrees such as '000', '018', … '180'.")
    angle = np.deg2rad(int(view))
    position = np.array([DISTANCE * np.cos(angle), DISTANCE * np.sin(angle), CAMERA_HEIGHT])
    forward = np.array([0, 0, AIM_HEIGHT]) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return position, np.stack([right, np.cross(forward, right), forward])


def outlines(body: Body, view: str) -> Array:
    """Project the solids.

    An ellipsoid's image is an ellipse (to first order in its size over its distance), and a hull's outline
    consists of the furthest points of its ellipses in every direction.

    Returns:
        float (T, S, CORNERS, 2): x and y of convex polygons in pixels.
    """
    position, axes = camera(view)
    seen = (body.centres - position) @ axes.T  # (T, E, 3)
    depth = np.maximum(seen[..., 2:], 0.5)
    flat = seen[..., :2] / depth  # (T, E, 2)
    jacobian = (axes[:2] - flat[..., None] * axes[2]) * (FOCAL / depth)[..., None]  # (T, E, 2, 3)
    spans = jacobian @ body.shapes  # (T, E, 2, 3)
    covariance = spans @ spans.swapaxes(-1, -2)  # (T, E, 2, 2)
    around = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    directions = np.stack([np.cos(around), np.sin(around)])  # (2, N): N is CORNERS
    push = covariance @ directions  # (T, E, 2, N)
    reach = np.sqrt((push * directions).sum(-2))  # (T, E, N)
    middle = flat * FOCAL + (WIDTH / 2, HEIGHT / 2)  # (T, E, 2)
    points = middle[..., None] + push / reach[..., None, :]  # (T, E, 2, N)
    support = middle @ directions + reach  # (T, E, N)
    furthest = support[:, body.solids].argmax(2)  # (T, S, N), which ellipsoid of each solid
    chosen = body.solids[np.arange(len(body.solids))[:, None], furthest]  # (T, S, N)
    corner = np.arange(CORNERS)
    frame = np.arange(len(points))[:, None, None]
    return points[frame, chosen, :, corner]  # (T, S, N, 2)


MARGIN = 12  # pixels about the body where noise may fall


def silhouettes(polygons: Array, rng: np.random.Generator | None = None) -> Frames:
    """Draw the frames of a sequence from its solids' outlines, corrupted by noise if `rng` is not None."""
    frames = np.zeros((len(polygons), HEIGHT, WIDTH), np.uint8)
    limit = (WIDTH, HEIGHT)
    low = np.clip(np.floor(polygons.min((1, 2))).astype(int) - MARGIN, 0, limit)  # (T, 2)
    high = np.clip(np.ceil(polygons.max((1, 2))).astype(int) + MARGIN, 0, limit)
    fixed = np.rint((polygons - low[:, None, None]) * (1 << SUBPIXELS)).astype(np.int32)
    noise = draw_noise(len(polygons), rng) if rng else None
    for t, frame in enumerate(frames):
        (left, upper), (right, lower) = low[t], high[t]
        if right - left <= 2 * MARGIN or lower - upper <= 2 * MARGIN:
            continue  # out of sight
        patch = np.zeros((lower - upper, right - left), np.uint8)
        for polygon in fixed[t]:
            cv2.fillConvexPoly(patch, polygon, 255, cv2.LINE_8, SUBPIXELS)
        frame[upper:lower, left:right] = patch if noise is None else degrade(patch, noise, t)
    return frames


# --- How they are corrupted ---------------------------------------------------------------------------------

# Background subtraction; drawn anew for every camera.
NOISE = {
    "holes": 0.35,  # part of the sequences that have holes
    "lost_feet": 0.06,  # part of the frames where a foot, or both, is lost
    "speckled": 0.03,  # part of the frames with specks beside the body
    "halved": 0.004,  # part of the frames that keep only half the person
    "empty": 0.008,  # part of the frames with nobody
}
TEXTURE = 768  # pixels, side of the textures that noise is cut from


@lru_cache(maxsize=1)
def textures() -> tuple[Frames, list[Frames]]:
    """Return a texture of thresholds that tears edges, and textures of holes (255) of growing severity."""
    rng = np.random.default_rng(0)

    def smooth(size: float) -> NDArray[np.float32]:
        field = cv2.GaussianBlur(rng.standard_normal((TEXTURE, TEXTURE)).astype(np.float32), (0, 0), size)
        return field / field.std()

    edges = np.clip(127 + 32 * smooth(1.2) + 18 * smooth(4), 12, 243).astype(np.uint8)
    spots, streaks = smooth(2.5), smooth(6)
    field = (spots + streaks) / np.sqrt(2)
    return edges, [np.where(field > threshold, 255, 0).astype(np.uint8) for threshold in (2.6, 2.3, 2.0)]


class Noise(NamedTuple):
    """What goes wrong in each frame of one sequence of one camera."""

    holes: Frames | None  # the texture of holes, or none
    edge_at: NDArray[np.int64]  # (T, 2) offsets into the texture
    hole_at: NDArray[np.int64]  # (T, 2), drifting
    fate: Array  # (T,) uniform: empty, halved or intact
    feet: Array  # (T,) uniform; below NOISE["lost_feet"] a foot is lost
    speck: Array  # (T,) uniform
    shape: Array  # (T, 8) uniform, where and how much


def draw_noise(length: int, rng: np.random.Generator) -> Noise:
    """Draw the noise of a sequence of `length` frames."""
    _, holes = textures()
    room = TEXTURE - max(HEIGHT, WIDTH)
    severity = rng.integers(len(holes)) if rng.uniform() < NOISE["holes"] else -1
    drift = rng.integers(0, room, 2) + np.cumsum(rng.integers(-2, 3, (length, 2)), 0)
    return Noise(
        holes=holes[severity] if severity >= 0 else None,
        edge_at=rng.integers(0, room, (length, 2)),
        hole_at=np.abs(drift) % room,
        fate=rng.uniform(size=length),
        feet=rng.uniform(size=length),
        speck=rng.uniform(size=length),
        shape=rng.uniform(size=(length, 8)),
    )


def degrade(patch: Frames, noise: Noise, t: int) -> Frames:
    """Corrupt the patch (h, w) about a body in frame t, as background subtraction does."""
    h, w = patch.shape
    fate, shape = noise.fate[t], noise.shape[t]
    if fate < NOISE["empty"]:
        return np.zeros_like(patch)
    if fate < NOISE["empty"] + NOISE["halved"]:
        keep = int(h * (0.35 + 0.3 * shape[0]))
        patch[slice(keep, None) if shape[1] < 0.5 else slice(None, keep)] = 0
    if noise.feet[t] < NOISE["lost_feet"]:
        # A foot, the left or right one of the image, or rarely both, up to 6 % of the height.
        rows = MARGIN + int((h - 2 * MARGIN) * (0.02 + 0.04 * shape[2]))
        cut = int(w * (0.42 + 0.16 * shape[3]))
        columns = slice(None) if shape[4] < 0.25 else slice(cut) if shape[4] < 0.625 else slice(cut, None)
        patch[h - rows :, columns] = 0
    edges, _ = textures()
    x, y = noise.edge_at[t]
    torn = cv2.compare(cv2.blur(patch, (5, 5)), edges[y : y + h, x : x + w], cv2.CMP_GT)
    if noise.holes is not None:
        x, y = noise.hole_at[t]
        torn = cv2.subtract(torn, noise.holes[y : y + h, x : x + w])
    if noise.speck[t] < NOISE["speckled"]:
        for a, b, c in shape[:6].reshape(2, 3):
            cv2.circle(torn, (int(a * w), int(b * h)), int(1 + 1.5 * c), 255, -1)
    return np.asarray(torn, np.uint8)
