"""Synthetic walkers: a gait benchmark that needs no licence, in CASIA-B's raw layout.

A walker is a kinematic skeleton whose joint angles are periodic (low-order Fourier series through the mean curves of
normal gait), dressed in solids (convex hulls of ellipsoids), seen by eleven perspective cameras and spoilt as
background subtraction spoils silhouettes. A sequence's way: `draw_walk` → `skeleton` → `dress` → `embody` → `outlines`
→ `silhouettes` → `degrade`.

Sources: segment lengths after Drillis & Contini, *Body Segment Parameters* (1966), as given in Winter, *Biomechanics
and Motor Control of Human Movement* (4th ed., 2009, fig. 4.1); joint angles of the leg after Winter (appendix A) and
Perry & Burnfield, *Gait Analysis: Normal and Pathological Function* (2nd ed., 2010), rounded; pelvis, trunk and arms
after Perry & Burnfield and Murray, Drought & Kory, *Walking Patterns of Normal Men* (J. Bone Joint Surg. 46-A, 1964).

Axes: x where the walker goes, y to their left, z up, metres. Angles are in radians unless a table says degrees.
"""

import errno
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cstl.files import read_json, write_text
from cstl.owner import owner
from cstl.progress import Steps
from cstl.workers import available_cores, worker_pool

Array = NDArray[np.float64]
Frames = NDArray[np.uint8]

VIEWS = tuple(f"{angle:03d}" for angle in range(0, 181, 18))
CONDITIONS = (*(f"nm-{i:02d}" for i in range(1, 7)), "bg-01", "bg-02", "cl-01", "cl-02")
HEIGHT, WIDTH = 240, 320
FPS = 25.0


class Trait(NamedTuple):
    """One number that makes a walker: normal, cut at two standard deviations, between subjects and within a subject."""

    mean: float
    between: float
    within: float
    unit: str
    meaning: str


# Lengths are fractions of the stature ("H"), so that a body keeps its proportions at any stature.
TRAITS = {
    # The body.
    "stature": Trait(1.70, 0.08, 0.0, "m", "height; lost in alignment"),
    "leg": Trait(0.530, 0.017, 0.0, "H", "hip joint above the ground, against trunk"),
    "shank": Trait(0.501, 0.014, 0.0, "leg", "knee to ankle, part of hip to ankle"),
    "head": Trait(0.132, 0.0065, 0.0, "H", "chin to crown"),
    "neck": Trait(0.052, 0.007, 0.001, "H", "shoulder joint to chin"),
    "arm": Trait(0.332, 0.013, 0.0, "H", "shoulder to wrist"),
    "foot": Trait(0.152, 0.008, 0.0, "H", "heel to toe, with the shoe"),
    "shoulders": Trait(0.106, 0.008, 0.0, "H", "half the distance of the shoulder joints"),
    "hips": Trait(0.090, 0.0065, 0.0, "H", "half breadth at the hip"),
    "waist": Trait(0.078, 0.008, 0.001, "H", "half breadth at the waist"),
    "belly": Trait(0.062, 0.009, 0.001, "H", "half depth at the waist"),
    "chest": Trait(0.066, 0.006, 0.001, "H", "half depth at the chest"),
    "buttocks": Trait(0.066, 0.006, 0.0, "H", "half depth at the hip"),
    "thigh": Trait(0.050, 0.0045, 0.0, "H", "radius of the upper thigh"),
    "calf": Trait(0.034, 0.003, 0.0, "H", "radius of the calf, with the trouser leg"),
    "hem": Trait(0.027, 0.004, 0.0, "H", "radius of the trouser leg at the ankle"),
    "upper_arm": Trait(0.030, 0.003, 0.0, "H", "radius of the upper arm"),
    "head_breadth": Trait(0.046, 0.0022, 0.0, "H", "half breadth of the head"),
    "head_depth": Trait(0.056, 0.003, 0.0, "H", "half depth of the head"),
    "hair": Trait(0.008, 0.004, 0.0, "H", "thickness of the hair"),
    "hair_length": Trait(0.035, 0.03, 0.0, "H", "hair below the back of the head"),
    "slope": Trait(0.024, 0.007, 0.001, "H", "rise of the shoulders to the neck"),
    # The motion: scales multiply a curve about its mean, offsets add to it.
    "cadence": Trait(112.0, 9.0, 1.5, "steps/min", "speed follows from cadence and the legs' motion"),
    "hip_swing": Trait(1.06, 0.13, 0.02, "scale", "hip excursion, hence stride"),
    "hip_offset": Trait(0.0, 2.2, 0.4, "deg", "mean hip flexion"),
    "knee_swing": Trait(0.96, 0.11, 0.015, "scale", "knee excursion, hence foot lift"),
    "knee_offset": Trait(2.0, 2.6, 0.5, "deg", "mean knee flexion"),
    "knee_timing": Trait(0.0, 1.8, 0.3, "% cycle", "delay of the knee behind the hip"),
    "ankle_swing": Trait(1.0, 0.22, 0.03, "scale", "ankle excursion, hence push-off"),
    "toe_out": Trait(7.0, 7.0, 0.8, "deg", "foot progression angle"),
    "stance": Trait(0.046, 0.012, 0.001, "H", "half distance of the ankles, seen from the front"),
    "arm_swing": Trait(1.0, 0.35, 0.05, "scale", "shoulder excursion"),
    "arm_offset": Trait(-2.0, 5.0, 0.8, "deg", "mean shoulder flexion"),
    "arm_timing": Trait(0.0, 3.0, 0.4, "% cycle", "delay of the arms behind the legs"),
    "arm_spread": Trait(8.0, 4.2, 0.7, "deg", "upper arms away from the trunk"),
    "arm_asymmetry": Trait(0.0, 0.20, 0.02, "scale", "left arm swings more than right"),
    "elbow_bend": Trait(0.0, 6.0, 0.8, "deg", "added elbow flexion"),
    "elbow_swing": Trait(1.0, 0.35, 0.05, "scale", "elbow excursion"),
    "leg_asymmetry": Trait(0.0, 0.05, 0.008, "scale", "left leg swings more than right"),
    "lean": Trait(3.0, 3.0, 0.5, "deg", "trunk forward"),
    "nod": Trait(8.0, 6.5, 1.0, "deg", "neck and head forward of the trunk"),
    "trunk_twist": Trait(5.0, 3.0, 0.4, "deg", "shoulders against the pelvis"),
    "trunk_roll": Trait(1.5, 1.5, 0.2, "deg", "shoulders over the standing leg"),
    "shoulder_drop": Trait(0.0, 2.0, 0.2, "deg", "left shoulder higher than right"),
    "pelvis_twist": Trait(5.0, 2.5, 0.3, "deg", "pelvis forward with the leg"),
    "pelvis_list": Trait(3.5, 1.8, 0.2, "deg", "pelvis drops over the swinging leg"),
    "sway": Trait(0.012, 0.006, 0.001, "H", "pelvis over the standing leg"),
    "bounce": Trait(1.0, 0.35, 0.04, "scale", "rise and fall of the pelvis"),
}
# What belongs to one sequence alone.
PATH = {
    "heading": Trait(0.0, 0.0, 2.5, "deg", "off the straight path"),
    "start": Trait(0.0, 0.0, 0.12, "m", "ahead on the path"),
    "aside": Trait(0.0, 0.0, 0.08, "m", "beside the path"),
}
COAT = {
    "coat_thickness": Trait(0.030, 0.009, 0.005, "H", "added to chest, waist and hip"),
    "coat_sleeve": Trait(0.016, 0.006, 0.003, "H", "added to the arms"),
    "coat_length": Trait(0.920, 0.100, 0.050, "thigh", "from hip (0) to knee (1)"),
    "coat_flare": Trait(0.085, 0.018, 0.009, "H", "radius of the hem about each leg"),
    "coat_collar": Trait(0.026, 0.012, 0.004, "H", "collar above the shoulders"),
}
BAG = {
    "bag_breadth": Trait(0.085, 0.018, 0.008, "H", "half size along the path, of a hand or shoulder bag"),
    "bag_height": Trait(0.075, 0.014, 0.008, "H", "half height"),
    "bag_depth": Trait(0.036, 0.008, 0.004, "H", "half thickness"),
    "bag_strap": Trait(0.060, 0.020, 0.010, "H", "from the hand to the upper edge"),
}
BAGS = ("hand", "shoulder", "back")
# Background subtraction; drawn anew for every camera.
NOISE = {
    "holes": 0.35,  # part of the sequences that have holes
    "lost_feet": 0.06,  # part of the frames where a foot, or both, is lost
    "speckled": 0.03,  # part of the frames with specks beside the body
    "halved": 0.004,  # part of the frames that keep only half the person
    "empty": 0.008,  # part of the frames with nobody
}
BETWEEN = 0.9  # scales every `between` above: how far subjects are apart
WITHIN = 1.0  # scales every `within`: how far a subject's sequences are apart
COAT_WITHIN = 5.0  # further scales body and motion under a coat, which is worn on another day
COAT_ARM_SWING = 0.75  # of the usual, in a coat's sleeves

# Mean curves of normal gait, degrees at 0, 5, … 95 % of the cycle from a foot's contact to its next. Flexion,
# dorsiflexion and forward are positive; the hip is the thigh against the vertical.
CURVES: dict[str, list[float]] = {
    "hip": [20, 20, 18, 14.5, 10.5, 6.5, 2.5, -1.5, -5.5, -9, -11, -10.5, -6, 1, 8.5, 15, 19.5, 22, 21.5, 20],
    "knee": [4, 11, 18, 20, 18, 15, 11.5, 8.5, 7, 8.5, 14, 24, 39, 54, 63.5, 63, 53, 36, 17, 3],
    "ankle": [0, -5, -3, 1, 3.5, 5, 6.5, 7.5, 9, 9.5, 6, -4, -15, -19, -14, -7, -2.5, -0.5, 0, 0.5],
    "shoulder": [-24, -24, -22, -18, -13, -8, -2, 3, 7, 10, 11, 10, 7, 3, -3, -9, -14, -18, -21, -23],
    "elbow": [16, 15, 15, 16, 18, 21, 25, 29, 32, 35, 36, 36, 34, 31, 28, 25, 23, 21, 19, 17],
}
HARMONICS = 5
SERIES = {name: np.fft.rfft(np.asarray(curve, float))[: HARMONICS + 1] / len(curve) for name, curve in CURVES.items()}


def joint_angle(joint: str, phase: Array, scale: float = 1.0, offset: float = 0.0, delay: float = 0.0) -> Array:
    """Angle of a joint of a normal walker.

    Args:
        joint: "hip", "knee", "ankle", "shoulder" or "elbow".
        phase: float (T,), gait cycles since this side's foot touched the ground; only its fraction matters.
        scale: multiplies the excursion about the mean.
        offset: degrees added.
        delay: percent of the cycle by which the curve comes later.

    Returns:
        float (T,), radians.
    """
    mean, *harmonics = SERIES[joint]
    turns = np.arange(1, len(harmonics) + 1) * (phase[:, None] - delay / 100)  # (T, harmonics)
    swing = 2 * (np.exp(2j * np.pi * turns) @ np.asarray(harmonics)).real
    return np.deg2rad(mean.real + offset + scale * swing)


# --- Who walks ------------------------------------------------------------------------------------------------------


def named_rng(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and the names alone, not on the process or on what was drawn before."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def draw(
    table: Mapping[str, Trait], rng: np.random.Generator, centre: Mapping[str, float] | None = None, within: float = 1.0
) -> dict[str, float]:
    """Draw a subject's traits (without `centre`), or one sequence's traits about the subject's (`centre`)."""
    z = np.clip(rng.standard_normal(len(table)), -2, 2)
    if centre is None:
        return {n: t.mean + BETWEEN * t.between * float(x) for (n, t), x in zip(table.items(), z, strict=True)}
    return {n: centre[n] + within * WITHIN * t.within * float(x) for (n, t), x in zip(table.items(), z, strict=True)}


def subject_traits(seed: int, subject: str) -> dict[str, float]:
    """Body, motion, coat and bag of a subject, alike in all of the subject's sequences."""
    return draw(TRAITS | PATH | COAT | BAG, named_rng(seed, "subject", subject))


class Walk(NamedTuple):
    """One walk of a subject in one condition, the same for every camera."""

    traits: dict[str, float]
    coat: bool
    bag: str  # one of BAGS, or "" for none
    side: int  # that carries the bag: 0 left, 1 right
    phase: float  # gait cycles at the first frame
    length: int  # frames


def draw_walk(seed: int, subject: str, condition: str, frames: int) -> Walk:
    """Draw the walk of `subject` under `condition`, of about `frames` frames (within 15 %)."""
    kind = condition.partition("-")[0]
    if kind not in ("nm", "bg", "cl"):
        raise ValueError(f"Condition {condition!r}: expected nm-…, bg-… or cl-… (normal, bag, coat), as in CASIA-B.")
    rng = named_rng(seed, "walk", subject, condition)
    usual = subject_traits(seed, subject)
    traits = draw(TRAITS, rng, usual, COAT_WITHIN if kind == "cl" else 1.0) | draw(PATH | COAT | BAG, rng, usual)
    length = max(1, round(frames * rng.uniform(0.85, 1.15)))
    phase = float(rng.uniform())
    bag, side = BAGS[rng.integers(len(BAGS))], int(rng.integers(2))
    return Walk(traits, kind == "cl", bag if kind == "bg" else "", side, phase, length)


# --- How they walk --------------------------------------------------------------------------------------------------


def rotation(axis: int, angle: Array) -> Array:
    """Rotation matrices (T, 3, 3) about axis 0 (x), 1 (y) or 2 (z), counter-clockwise, from angles (T,)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((len(angle), 3, 3))
    matrix[:, axis, axis] = 1
    matrix[:, i, i] = matrix[:, j, j] = np.cos(angle)
    matrix[:, j, i] = np.sin(angle)
    matrix[:, i, j] = -matrix[:, j, i]
    return matrix


def roll(angle: Array) -> Array:
    """Left side up; what hangs goes left."""
    return rotation(0, angle)


def pitch(angle: Array) -> Array:
    """Front up; what hangs goes forward, what stands falls backward."""
    return rotation(1, -angle)


def yaw(angle: Array) -> Array:
    """To the left."""
    return rotation(2, angle)


class Segment(NamedTuple):
    """A rigid part of the skeleton: origin (T, 3) in metres and axes (T, 3, 3) in the walker's frame."""

    origin: Array
    axes: Array

    def at(self, *offset: float) -> Array:
        """The point (T, 3) at `offset` along the segment's axes."""
        return self.origin + self.axes @ np.asarray(offset)


SIDES = ("left", "right")
FOOT_HEIGHT = 0.039  # of the ankle above the sole, H


def skeleton(walk: Walk, phase: Array) -> dict[str, Segment]:
    """Segments at `phase` (T,), gait cycles since the left foot touched the ground, with the pelvis at the origin."""
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

    load = {"hand": 0.0, "shoulder": 0.5, "back": 4.0}.get(walk.bag, 0.0)  # degrees of lean against what is carried
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
    """What follows from a walker's leg motion when the feet neither sink nor slip."""

    frequency: float  # gait cycles a second
    speed: float  # metres a second
    rise: NDArray[np.complex128]  # Fourier series of the pelvis' height, metres


def gait(walk: Walk) -> Gait:
    """Cadence, walking speed and height of the pelvis over one cycle."""
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
    # A step: the heel that touches the ground is ahead of where the other heel stood, whose toes are still there.
    foot = w["foot"] * h
    heels = [segments[f"foot_{side}"].at(-0.25 * foot, 0, -FOOT_HEIGHT * h)[:, 0] for side in SIDES]
    others = [segments[f"toes_{side}"].origin[:, 0] - 0.73 * foot for side in SIDES]
    stride = float(heels[0][0] - others[1][0] + heels[1][20] - others[0][20])
    frequency = w["cadence"] / 120
    return Gait(frequency, stride * frequency, rise)


# --- What they are made of ------------------------------------------------------------------------------------------


class Blob(NamedTuple):
    """An ellipsoid fixed to a segment: centre and half axes along the segment's axes, in statures."""

    segment: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


def ball(segment: str, x: float, y: float, z: float, radius: float) -> Blob:
    """A sphere."""
    return Blob(segment, (x, y, z), (radius, radius, radius))


def dress(walk: Walk) -> list[list[Blob]]:
    """The solids of a walker, each the convex hull of a few ellipsoids."""
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
        solids.append([Blob("head", (-0.25 * deep, 0, tall), (0.75 * deep + hair, broad + hair, 0.6 * tall)), nape])

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
    """A coat's skirt down to about the knee, in two halves that part with the legs, and its collar."""
    hem = w["coat_flare"]
    drop = -w["coat_length"] * thigh
    hems = [Blob(f"thigh_{side}", (-0.02, 0, drop), (hem, 0.85 * hem, 0.012)) for side in SIDES]
    above = [Blob(f"thigh_{side}", (-0.01, 0, 0.55 * drop), (hem, 0.85 * hem, 0.012)) for side in SIDES]
    collar = Blob(
        "neck", (-0.008, 0, w["slope"] + 0.5 * w["coat_collar"]), (0.042, 0.042, 0.012 + max(w["coat_collar"], 0))
    )
    return [[waist, hips, *above], [hips, hems[0], above[1]], [hips, hems[1], above[0]], [*hems, *above], [collar]]


def bag(w: dict[str, float], walk: Walk, top: float, arm: float) -> list[list[Blob]]:
    """What a walker carries: a bag in the hand, from a shoulder, or on the back."""
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
    strap = [ball("chest", 0, 0.75 * y * w["shoulders"], top + 0.016, 0.012), ball("pelvis", 0, beside, 0.03, 0.012)]
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
    solids = np.array([[index[b] for b in solid] + [index[solid[0]]] * (most - len(solid)) for solid in dressed])

    names = list(segments)
    which = np.array([names.index(blob.segment) for blob in blobs])
    origins = np.stack([s.origin for s in segments.values()], 1)[:, which]  # (T, E, 3)
    axes = np.stack([s.axes for s in segments.values()], 1)[:, which]  # (T, E, 3, 3)
    offsets = h * np.array([blob.centre for blob in blobs])
    radii = h * np.array([blob.radii for blob in blobs])
    centres = origins + (axes @ offsets[..., None])[..., 0] + place[:, None]
    return Body(centres @ heading.T, heading @ (axes * radii[:, None, :]), solids)


# --- How they are seen ----------------------------------------------------------------------------------------------

DISTANCE = 6.5  # of every camera from the middle of the walk, metres
CAMERA_HEIGHT = 1.3  # metres
AIM_HEIGHT = 0.86  # the cameras look at this point above the scene's origin, metres
FOCAL = 510.0  # pixels: a body is some 130 pixels high
CORNERS = 24  # of a drawn solid
SUBPIXELS = 3  # bits


def camera(view: str) -> tuple[Array, Array]:
    """Position (3,) and axes (3, 3; rows right, down, forward) of a camera: 000 meets the walker, 180 follows."""
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

    An ellipsoid's image is an ellipse (to first order in its size over its distance), and a hull's outline consists of
    the furthest points of its ellipses in every direction.

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
    directions = np.stack([np.cos(around), np.sin(around)])  # (2, D)
    push = covariance @ directions  # (T, E, 2, D)
    reach = np.sqrt((push * directions).sum(-2))  # (T, E, D)
    middle = flat * FOCAL + (WIDTH / 2, HEIGHT / 2)  # (T, E, 2)
    points = middle[..., None] + push / reach[..., None, :]  # (T, E, 2, D)
    support = middle @ directions + reach  # (T, E, D)
    furthest = support[:, body.solids].argmax(2)  # (T, S, D), which ellipsoid of each solid
    chosen = body.solids[np.arange(len(body.solids))[:, None], furthest]  # (T, S, D)
    corner = np.arange(CORNERS)
    frame = np.arange(len(points))[:, None, None]
    return points[frame, chosen, :, corner]  # (T, S, D, 2)


MARGIN = 12  # pixels about the body where noise may fall


def silhouettes(polygons: Array, rng: np.random.Generator | None = None) -> Frames:
    """Draw the frames of a sequence from its solids' outlines, spoilt by noise if `rng` is given."""
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


# --- How they are spoilt --------------------------------------------------------------------------------------------

TEXTURE = 768  # pixels, side of the textures that noise is cut from


@lru_cache(maxsize=1)
def textures() -> tuple[Frames, list[Frames]]:
    """A texture of thresholds that tears edges, and textures of holes (255) of growing severity."""
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
    fate: Array  # (T,) uniform: empty, halved or whole
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
    """Spoil the patch (h, w) about a body in frame t, as background subtraction does."""
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


# --- Sequences and trees --------------------------------------------------------------------------------------------


def render_sequence(
    seed: int, subject: str, condition: str, view: str, frames: int = 30, *, noise: bool = True
) -> Frames:
    """Render one sequence.

    Args:
        seed: of the whole benchmark, 0 or more.
        subject: any name; each names another person.
        condition: nm-… (normal), bg-… (bag) or cl-… (coat). Another number is another walk of the same person.
        view: degrees from the walking direction to the camera, "000" (coming) … "180" (going).
        frames: mean number of frames of a sequence, at 25 a second.
        noise: spoil the silhouettes as background subtraction does.

    Returns:
        uint8 (T, 240, 320), values 0 and 255. It depends on the arguments alone; the views of one walk show the same
        moments.

    Raises:
        ValueError: a condition or view of another form.
    """
    body = embody(draw_walk(seed, subject, condition, frames))
    return view_sequence(body, seed, subject, condition, view, noise=noise)


def view_sequence(body: Body, seed: int, subject: str, condition: str, view: str, *, noise: bool = True) -> Frames:
    """Render what one view's camera sees of a walk: uint8 (T, 240, 320)."""
    rng = named_rng(seed, "camera", subject, condition, view) if noise else None
    return silhouettes(outlines(body, view), rng)


PNG = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)
MARKER = "walkers.json"
PART = ".part"


def write_walk(out: Path, seed: int, subject: str, condition: str, views: Sequence[str], frames: int) -> int:
    """Write the sequences of one walk that are not there yet, each whole or not at all; returns how many."""
    folder = out / subject / condition
    missing = [view for view in views if not (folder / view).is_dir()]
    if not missing:
        return 0
    body = embody(draw_walk(seed, subject, condition, frames))
    folder.mkdir(parents=True, exist_ok=True)
    for view in missing:
        name = f"{subject}-{condition}-{view}"
        part = out / PART / name
        part.mkdir(parents=True)
        for i, frame in enumerate(view_sequence(body, seed, subject, condition, view), start=1):
            (part / f"{name}-{i:03d}.png").write_bytes(cv2.imencode(".png", frame, PNG)[1].tobytes())
        part.rename(folder / view)
    return len(missing)


def synthesize(
    out: Path | str,
    *,
    subjects: int | Sequence[str] = 46,
    seed: int = 0,
    views: Sequence[str] = VIEWS,
    conditions: Sequence[str] = CONDITIONS,
    frames: int = 30,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Write synthetic walkers as a raw tree in CASIA-B's layout.

    `out/001/nm-01/000/001-nm-01-000-001.png`: 320×240, 8-bit grey, 0 or 255. Interrupted and called again, it goes on;
    `out/walkers.json` is written last, so a tree that has it is complete, and then nothing is done.

    Args:
        out: folder of the tree; new, empty, or an earlier call's with the same settings.
        subjects: how many ("001", "002", …), or their names. A subject does not depend on the others.
        seed: 0 or more. Together with the names it decides every pixel.
        views: angles in degrees, three digits.
        conditions: nm-…, bg-… or cl-….
        frames: mean number of frames of a sequence, at 25 a second. From some 65 on, walkers enter and leave the side
            views.
        workers: processes; by default one for each core. The files do not depend on it.
        progress: show a bar, or lines where the output is no terminal.

    Raises:
        ValueError: settings that cannot be drawn.
        FileExistsError: `out` holds something else, or walkers made with other settings.
        InUseError: another process makes them at this moment.
        OSError: the disk is full.
    """
    out = Path(out)
    names = [f"{i:03d}" for i in range(1, subjects + 1)] if isinstance(subjects, int) else list(subjects)
    settings = {
        "subjects": names,
        "seed": seed,
        "views": list(views),
        "conditions": list(conditions),
        "frames": frames,
        "renderer": renderer(),
    }
    check(settings)
    if is_complete(out, settings):
        return
    (out / PART).mkdir(parents=True, exist_ok=True)
    try:
        with owner(out / PART):  # two at once would take each other's unfinished sequences away
            if not is_complete(out, settings):  # made meanwhile
                claim(out, settings)
                write_walks(out, seed, names, conditions, views, frames, workers, progress)
                (out / PART / MARKER).replace(out / MARKER)
    except FileNotFoundError:
        if not is_complete(out, settings):  # else another process was done, and took the folder away
            raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"the disk of {out} is full ({os.strerror(error.errno)}): make room, or name another folder with "
            "dataset.raw=PATH. What is drawn is kept, and the same command goes on",
        ) from error
    shutil.rmtree(out / PART, ignore_errors=True)


def write_walks(
    out: Path,
    seed: int,
    subjects: Sequence[str],
    conditions: Sequence[str],
    views: Sequence[str],
    frames: int,
    workers: int | None,
    progress: bool,
) -> None:
    """Write the walks of all subjects, each a job of its own."""
    walks = [(subject, condition) for subject in subjects for condition in conditions]
    workers = workers if workers is not None else available_cores()
    with Steps("walks", progress) as bar:
        task = bar.add_task("Synthetic walkers", total=len(walks))
        if workers <= 1:
            threads = cv2.getNumThreads()
            cv2.setNumThreads(1)
            for subject, condition in walks:
                write_walk(out, seed, subject, condition, views, frames)
                bar.advance(task)
            cv2.setNumThreads(threads)
        else:
            with worker_pool(workers) as pool:
                jobs = [pool.submit(write_walk, out, seed, *walk, views, frames) for walk in walks]
                for job in as_completed(jobs):
                    job.result()
                    bar.advance(task)


def renderer() -> str:
    """A digest of the tables above, so that walkers drawn from other tables are not taken for the same."""
    tables: list[object] = [TRAITS, PATH, COAT, BAG, BAGS, NOISE, CURVES, HARMONICS, FPS]
    tables += [BETWEEN, WITHIN, COAT_WITHIN, COAT_ARM_SWING, DISTANCE, CAMERA_HEIGHT, AIM_HEIGHT, FOCAL]
    return f"1-{zlib.crc32(repr(tables).encode()):08x}"


def check(settings: Mapping[str, Any]) -> None:
    """Refuse settings that cannot be drawn, before anything is written."""
    for key in ("subjects", "views", "conditions"):
        values = settings[key]
        if not values or len(set(values)) != len(values):
            raise ValueError(f"Synthetic walkers: expected {key} that are given and differ, found {values}.")
    if settings["seed"] < 0:
        raise ValueError(f"Synthetic walkers: expected a seed of 0 or more, found {settings['seed']}.")
    if settings["frames"] < 1:
        raise ValueError(f"Synthetic walkers: expected at least 1 frame a sequence, found {settings['frames']}.")
    for view in settings["views"]:
        camera(view)
    for condition in settings["conditions"]:
        draw_walk(0, "", condition, 1)


def is_complete(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the walkers of these settings are all there; refuses a folder that holds anything else."""
    made = next((file for file in (out / MARKER, out / PART / MARKER) if file.is_file()), None)
    if made is None:
        if out.is_dir() and any(path.name != PART for path in out.iterdir()):
            raise FileExistsError(
                f"{out} holds files but no {MARKER}, so synthetic walkers did not come from here. Name a new folder."
            )
        return False
    found = read_json(made)
    if found != settings:
        differing = [
            f"{key} {found.get(key)} there, {settings.get(key)} asked for"
            for key in {**settings, **found}
            if found.get(key) != settings.get(key)
        ]
        raise FileExistsError(
            f"{out} holds synthetic walkers of other settings: {'; '.join(differing)}. "
            "Ask for the same settings, name another folder, or delete this one."
        )
    return made == out / MARKER


def claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Prepare `out` to be (further) filled, by the one process that does so.

    While a tree grows, its settings and its unfinished sequences lie in `.part`.
    """
    write_text(out / PART / MARKER, json.dumps(settings, indent=1))
    for path in (out / PART).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
