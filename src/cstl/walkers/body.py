"""How walkers move and what they are made of: a skeleton of rigid segments, dressed in solids.

Axes: x where the walker goes, y to their left, z up, metres. Angles are in radians unless a table says
degrees.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cstl.walkers.traits import COAT_ARM_SWING, Array, Walk, joint_angle

FPS = 25.0


def rotation(axis: int, angle: Array) -> Array:
    """Turn angles (T,) into rotations (T, 3, 3) about axis 0 (x), 1 (y) or 2 (z), counter-clockwise."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((len(angle), 3, 3))
    matrix[:, axis, axis] = 1
    matrix[:, i, i] = matrix[:, j, j] = np.cos(angle)
    matrix[:, j, i] = np.sin(angle)
    matrix[:, i, j] = -matrix[:, j, i]
    return matrix


def roll(angle: Array) -> Array:
    """Turn the left side up; what hangs goes left."""
    return rotation(0, angle)


def pitch(angle: Array) -> Array:
    """Turn the front up; what hangs goes forward, what stands falls backward."""
    return rotation(1, -angle)


def yaw(angle: Array) -> Array:
    """Turn to the left."""
    return rotation(2, angle)


class Segment(NamedTuple):
    """A rigid part of the skeleton: origin (T, 3) in metres and axes (T, 3, 3) in the walker's frame."""

    origin: Array
    axes: Array

    def at(self, *offset: float) -> Array:
        """Return the point (T, 3) at `offset` along the segment's axes."""
        return self.origin + self.axes @ np.asarray(offset)


SIDES = ("left", "right")
FOOT_HEIGHT = 0.039  # of the ankle above the sole, H


def skeleton(walk: Walk, phase: Array) -> dict[str, Segment]:
    """Pose the segments at `phase` (T,), gait cycles since the left foot's contact; pelvis at the origin."""
    w = walk.traits
    h = w["stature"]
    cycle = 2 * np.pi * phase
    zero = np.zeros(len(phase))

    def degrees(value: Array | float) -> Array:
        return np.deg2rad(value) + zero

    pelvis_yaw = degrees(-w["pelvis_twist"] * np.cos(cycle))
    pelvis_roll = degrees(w["pelvis_list"] * np.cos(cycle - 2 * np.pi * 0.17))
    sway = w["sway"] * h * np.cos(cycle - 2 * np.pi * 0.30)
    pelvis = Segment(np.stack([zero, sway, zero], -1), yaw(pelvis_yaw) @ roll(pelvis_roll))

    # degrees of lean against what is carried
    load = {"hand": 0.0, "shoulder": 0.5, "back": 4.0}.get(walk.bag, 0.0)
    chest_axes = (
        yaw(degrees(w["trunk_twist"] * np.cos(cycle - 2 * np.pi * 0.04)))
        @ pitch(-degrees(w["lean"] + load - 0.7 * np.cos(2 * cycle)))
        @ roll(degrees(w["shoulder_drop"] - w["trunk_roll"] * np.cos(cycle - 2 * np.pi * 0.2)))
    )
    chest = Segment(pelvis.at(0, 0, 0.05 * h), chest_axes)
    top = (1 - w["leg"] - w["neck"] - w["head"] - 0.05) * h  # from the chest's origin to the shoulder joints
    head_axes = yaw(degrees(0.3 * w["trunk_twist"] * np.cos(cycle))) @ pitch(-degrees(w["lean"] + w["nod"]))
    neck = Segment(chest.at(-0.012 * h, 0, top), head_axes)
    # The face looks ahead, whatever the neck does.
    head = Segment(neck.at(0, 0, w["neck"] * h), pitch(-degrees(0.4 * w["nod"])))
    segments = {"pelvis": pelvis, "chest": chest, "neck": neck, "head": head}

    thigh_length = (w["leg"] - FOOT_HEIGHT) * (1 - w["shank"]) * h
    shank_length = (w["leg"] - FOOT_HEIGHT) * w["shank"] * h
    arm_length = {"upper_arm": 0.56 * w["arm"] * h, "forearm": 0.44 * w["arm"] * h}
    hip_half = 0.052 * h
    for side, name in enumerate(SIDES):
        outward = 1 if side == 0 else -1
        own = phase + 0.5 * side
        effort = 1 + outward * w["leg_asymmetry"]
        hip = joint_angle("hip", own, w["hip_swing"] * effort, w["hip_offset"])
        knee = joint_angle("knee", own, w["knee_swing"] * effort, w["knee_offset"], w["knee_timing"])
        knee = np.maximum(knee, 0)
        ankle = joint_angle("ankle", own, w["ankle_swing"], 0.5 * w["knee_offset"] - 0.5 * w["hip_offset"])
        spread = np.arctan2(w["stance"] * h - hip_half, thigh_length + shank_length) + zero
        out = roll(outward * spread)
        turn = yaw(0.5 * pelvis_yaw)
        thigh = Segment(pelvis.at(0, outward * hip_half, 0), turn @ out @ pitch(hip))
        shank = Segment(thigh.at(0, 0, -thigh_length), turn @ out @ pitch(hip - knee))
        sole = hip - knee + ankle
        toe_out = yaw(outward * degrees(w["toe_out"]))
        foot = Segment(shank.at(0, 0, -shank_length), toe_out @ pitch(sole))
        bend = 0.55 * np.maximum(-sole - np.deg2rad(15), 0)  # toes give way at push-off
        toes = Segment(foot.at(0.48 * w["foot"] * h, 0, -0.026 * h), toe_out @ pitch(sole + bend))

        carries = walk.bag == "hand" and walk.side == side
        eagerness = (
            w["arm_swing"]
            * (1 + outward * w["arm_asymmetry"])
            * (0.4 if carries else COAT_ARM_SWING if walk.coat else 1.0)
        )
        shoulder = joint_angle("shoulder", own, max(eagerness, 0.05), w["arm_offset"], w["arm_timing"])
        bent = joint_angle("elbow", own, max(w["elbow_swing"], 0), w["elbow_bend"], w["arm_timing"])
        elbow = 0.4 * bent if carries else np.maximum(bent, np.deg2rad(3))
        spread_arm = degrees(max(w["arm_spread"], 0) + (5 if walk.coat else 0))
        shoulder_axes = yaw(degrees(0.5 * w["trunk_twist"] * np.cos(cycle))) @ roll(outward * spread_arm)
        upper_arm = Segment(chest.at(0, outward * w["shoulders"] * h, top), shoulder_axes @ pitch(shoulder))
        # The forearm hangs straighter than the upper arm and turns a little inward.
        inward = yaw(degrees(-outward * 12.0)) @ roll(0.3 * outward * spread_arm)
        forearm = Segment(upper_arm.at(0, 0, -arm_length["upper_arm"]), inward @ pitch(shoulder + elbow))
        hand = Segment(forearm.at(0, 0, -arm_length["forearm"] - 0.045 * h), pitch(0.5 * shoulder))
        segments |= {
            f"{part}_{name}": segment
            for part, segment in zip(LIMBS, (thigh, shank, foot, toes, upper_arm, forearm, hand), strict=True)
        }
    return segments


LIMBS = ("thigh", "shank", "foot", "toes", "upper_arm", "forearm", "hand")


class Gait(NamedTuple):
    """Cadence, speed and rise of a walker whose feet neither sink nor slip."""

    frequency: float  # gait cycles a second
    speed: float  # metres a second
    rise: NDArray[np.complex128]  # Fourier series of the pelvis' height, metres


def gait(walk: Walk) -> Gait:
    """Return cadence, walking speed and height of the pelvis over one cycle."""
    w = walk.traits
    h = w["stature"]
    grid = np.arange(40) / 40
    segments = skeleton(walk, grid)
    lowest = np.min(
        [
            points[:, 2]
            for side in SIDES
            for points in (
                segments[f"foot_{side}"].at(-0.25 * w["foot"] * h, 0, -FOOT_HEIGHT * h),
                segments[f"toes_{side}"].at(0, 0, -0.013 * h),
                segments[f"toes_{side}"].at(0.25 * w["foot"] * h, 0, -0.013 * h),
            )
        ],
        axis=0,
    )
    rise = np.fft.rfft(-lowest)[:5] / len(grid)
    rise[1:] *= max(w["bounce"], 0)
    # A step: the heel that touches the ground is ahead of where the other heel stood, whose toes are still
    # there.
    foot = w["foot"] * h
    heels = [segments[f"foot_{side}"].at(-0.25 * foot, 0, -FOOT_HEIGHT * h)[:, 0] for side in SIDES]
    others = [segments[f"toes_{side}"].origin[:, 0] - 0.73 * foot for side in SIDES]
    stride = float(heels[0][0] - others[1][0] + heels[1][20] - others[0][20])
    frequency = w["cadence"] / 120
    return Gait(frequency, stride * frequency, rise)


# --- What they are made of ----------------------------------------------------------------------------------


class Blob(NamedTuple):
    """An ellipsoid fixed to a segment: centre and half axes along the segment's axes, in statures."""

    segment: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


def ball(segment: str, x: float, y: float, z: float, radius: float) -> Blob:
    """Make a sphere."""
    return Blob(segment, (x, y, z), (radius, radius, radius))


def dress(walk: Walk) -> list[list[Blob]]:
    """Return the solids of a walker, each the convex hull of a few ellipsoids."""
    w = walk.traits
    puff, sleeve = (max(w["coat_thickness"], 0), max(w["coat_sleeve"], 0)) if walk.coat else (0.0, 0.0)
    top = 1 - w["leg"] - w["neck"] - w["head"] - 0.05  # shoulder joints above the chest's origin
    thigh = (w["leg"] - FOOT_HEIGHT) * (1 - w["shank"])
    shank = (w["leg"] - FOOT_HEIGHT) * w["shank"]
    upper, lower = 0.56 * w["arm"], 0.44 * w["arm"]
    arm = w["upper_arm"]
    shoulders = w["shoulders"]

    waist = Blob("chest", (0.1 * w["belly"], 0, 0.055), (w["belly"] + puff, w["waist"] + puff, 0.05))
    hips = Blob("pelvis", (-0.008, 0, 0.005), (w["buttocks"] + puff, w["hips"] + puff, 0.055))
    ribs = Blob("chest", (0, 0, top - 0.075), (w["chest"] + puff, 0.88 * shoulders + puff, 0.07))
    caps = [ball("chest", -0.005, y * shoulders, top - 0.020, 0.028 + 0.9 * sleeve) for y in (1, -1)]
    throat = ball("neck", -0.004, 0, w["slope"] - 0.004, 0.031 + 0.4 * sleeve)
    hair = max(w["hair"], 0)
    deep, broad, tall = w["head_depth"], w["head_breadth"], w["head"] / 2
    skull = Blob("head", (0.006, 0, 1.15 * tall), (deep, broad, 0.85 * tall))
    chin = Blob("head", (0.020, 0, 0.30 * tall), (0.62 * deep, 0.66 * broad, 0.32 * tall))
    cap = Blob("head", (0.001, 0, 1.20 * tall), (deep + hair, broad + hair, 0.80 * tall + 0.5 * hair))
    solids = [
        [waist, ribs, *caps],
        [waist, hips],
        [throat, *caps],
        [throat, ball("head", -0.004, 0, 0.35 * tall, 0.030)],
        [skull, chin],
        [cap],
    ]
    if (length := w["hair_length"]) > 0:
        nape = Blob("head", (-0.5 * deep, 0, 0.55 * tall - length), (0.022 + hair, 0.75 * broad + hair, 0.03))
        solids.append(
            [Blob("head", (-0.25 * deep, 0, tall), (0.75 * deep + hair, broad + hair, 0.6 * tall)), nape]
        )

    foot = w["foot"]
    for side in SIDES:
        solids += [
            [
                Blob(f"thigh_{side}", (-0.006, 0, -0.03), (1.08 * w["thigh"], w["thigh"], 0.05)),
                ball(f"thigh_{side}", 0.004, 0, -0.6 * thigh, 0.55 * w["thigh"] + 0.45 * w["calf"]),
                ball(f"shank_{side}", 0.002, 0, 0, 0.97 * w["calf"]),
            ],
            [
                ball(f"shank_{side}", 0.002, 0, 0, 0.97 * w["calf"]),
                ball(f"shank_{side}", -0.009, 0, -0.3 * shank, w["calf"]),
                ball(f"shank_{side}", -0.002, 0, -0.93 * shank, w["hem"]),
            ],
            [
                ball(f"foot_{side}", 0, 0, -0.004, 0.021),
                ball(f"foot_{side}", -0.17 * foot, 0, -0.022, 0.018),
                Blob(f"toes_{side}", (0, 0, 0.003), (0.022, 0.028, 0.017)),
            ],
            [
                Blob(f"toes_{side}", (0, 0, 0.003), (0.022, 0.028, 0.017)),
                Blob(f"toes_{side}", (0.18 * foot, 0, 0), (0.018, 0.022, 0.013)),
            ],
            [
                ball(f"upper_arm_{side}", 0, 0, -0.022, arm + sleeve),
                ball(f"upper_arm_{side}", 0, 0, -upper, 0.80 * arm + sleeve),
            ],
            [
                ball(f"forearm_{side}", 0, 0, 0, 0.80 * arm + sleeve),
                ball(f"forearm_{side}", 0, 0, -lower, 0.016 + 0.8 * sleeve),
            ],
            [
                ball(f"forearm_{side}", 0, 0, -lower, 0.016),
                Blob(f"hand_{side}", (0.004, 0, 0.012), (0.022, 0.013, 0.034)),
            ],
        ]
    if walk.coat:
        solids += coat(w, thigh, waist, hips)
    if walk.bag:
        solids += bag(w, walk, top, arm)
    return solids


def coat(w: dict[str, float], thigh: float, waist: Blob, hips: Blob) -> list[list[Blob]]:
    """Return a coat's skirt down to about the knee, in two halves that part with the legs, and its collar."""
    hem = w["coat_flare"]
    drop = -w["coat_length"] * thigh
    hems = [Blob(f"thigh_{side}", (-0.02, 0, drop), (hem, 0.85 * hem, 0.012)) for side in SIDES]
    above = [Blob(f"thigh_{side}", (-0.01, 0, 0.55 * drop), (hem, 0.85 * hem, 0.012)) for side in SIDES]
    collar = Blob(
        "neck",
        (-0.008, 0, w["slope"] + 0.5 * w["coat_collar"]),
        (0.042, 0.042, 0.012 + max(w["coat_collar"], 0)),
    )
    return [
        [waist, hips, *above],
        [hips, hems[0], above[1]],
        [hips, hems[1], above[0]],
        [*hems, *above],
        [collar],
    ]


def bag(w: dict[str, float], walk: Walk, top: float, arm: float) -> list[list[Blob]]:
    """Say what a walker carries: a bag in the hand, from a shoulder, or on the back."""
    long, tall, thick = w["bag_breadth"], w["bag_height"], w["bag_depth"]
    y = 1 if walk.side == 0 else -1
    side = SIDES[walk.side]
    if walk.bag == "back":
        back = -w["chest"] - 0.6 * thick
        x = (1.1 * thick, 0.85 * long, 0.5 * tall)
        return [
            [
                Blob("chest", (back, 0, top - 0.06 - 0.3 * tall), x),
                Blob("chest", (back - 0.01, 0, top - 0.06 - 1.5 * tall), x),
            ]
        ]
    if walk.bag == "hand":
        upper_edge = -w["bag_strap"]
        corners = [
            Blob(f"hand_{side}", (x * (long - 0.02), 0, z), (0.02, thick, 0.02))
            for x in (-1, 1)
            for z in (upper_edge, upper_edge - 1.6 * tall)
        ]
        strap = [
            ball(f"hand_{side}", 0, 0, -0.01, 0.008),
            *(c._replace(radii=(0.008, 0.01, 0.008)) for c in corners[::2]),
        ]
        return [corners, strap]
    beside = y * (w["hips"] + 0.5 * thick)
    corners = [
        Blob("pelvis", (x * (0.9 * long - 0.02), beside, z), (0.02, thick, 0.02))
        for x in (-1, 1)
        for z in (0.03, 0.03 - 1.5 * tall)
    ]
    strap = [
        ball("chest", 0, 0.75 * y * w["shoulders"], top + 0.016, 0.012),
        ball("pelvis", 0, beside, 0.03, 0.012),
    ]
    return [corners, strap]


class Body(NamedTuple):
    """Every ellipsoid of a walk at every frame, in metres, and the solids that they make."""

    centres: Array  # (T, E, 3)
    shapes: Array  # (T, E, 3, 3), columns are the half axes
    solids: NDArray[np.intp]  # (S, M) indices into E; short solids repeat their first ellipsoid


def embody(walk: Walk) -> Body:
    """Move a dressed walker through the scene, the middle of the walk at the scene's origin."""
    w = walk.traits
    h = w["stature"]
    motion = gait(walk)
    seconds = np.arange(walk.length) / FPS
    phase = walk.phase + motion.frequency * seconds
    segments = skeleton(walk, phase)
    harmonics = np.arange(1, len(motion.rise))
    rise = motion.rise[0].real + 2 * (np.exp(2j * np.pi * phase[:, None] * harmonics) @ motion.rise[1:]).real
    ahead = motion.speed * (seconds - seconds[-1] / 2) + w["start"]
    place = np.stack([ahead, np.full_like(ahead, w["aside"]), rise], -1)
    heading = yaw(np.full(1, np.deg2rad(w["heading"])))[0]

    dressed = dress(walk)
    blobs = list(dict.fromkeys(blob for solid in dressed for blob in solid))
    index = {blob: i for i, blob in enumerate(blobs)}
    most = max(map(len, dressed))
    solids = np.array(
        [[index[b] for b in solid] + [index[solid[0]]] * (most - len(solid)) for solid in dressed]
    )

    names = list(segments)
    which = np.array([names.index(blob.segment) for blob in blobs])
    origins = np.stack([s.origin for s in segments.values()], 1)[:, which]  # (T, E, 3)
    axes = np.stack([s.axes for s in segments.values()], 1)[:, which]  # (T, E, 3, 3)
    offsets = h * np.array([blob.centre for blob in blobs])
    radii = h * np.array([blob.radii for blob in blobs])
    centres = origins + (axes @ offsets[..., None])[..., 0] + place[:, None]
    return Body(centres @ heading.T, heading @ (axes * radii[:, None, :]), solids)
