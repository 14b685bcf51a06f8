"""Who walks: what makes a walker, drawn from tables, and the joint angles of normal gait.

Sources: segment lengths after Drillis & Contini, *Body Segment Parameters* (1966), as given in Winter,
*Biomechanics and Motor Control of Human Movement* (4th ed., 2009, fig. 4.1); joint angles of the leg after
Winter (appendix A) and Perry & Burnfield, *Gait Analysis: Normal and Pathological Function* (2nd ed., 2010),
rounded; pelvis, trunk and arms after Perry & Burnfield and Murray, Drought & Kory, *Walking Patterns of
Normal Men* (J. Bone Joint Surg. 46-A, 1964).
"""

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Trait(NamedTuple):
    """One number of a walker: normal, cut at two standard deviations, between and within subjects."""

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
SERIES = {
    name: np.fft.rfft(np.asarray(curve, float))[: HARMONICS + 1] / len(curve)
    for name, curve in CURVES.items()
}


def joint_angle(
    joint: str, phase: Array, scale: float = 1.0, offset: float = 0.0, delay: float = 0.0
) -> Array:
    """Return angle of a joint of a normal walker.

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


def named_rng(seed: int, *names: str) -> np.random.Generator:
    """Make a generator that depends on the seed and the names alone, not on what was drawn before."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def draw(
    table: Mapping[str, Trait],
    rng: np.random.Generator,
    centre: Mapping[str, float] | None = None,
    within: float = 1.0,
) -> dict[str, float]:
    """Draw a subject's traits (without `centre`), or one sequence's traits about the subject's (`centre`)."""
    z = np.clip(rng.standard_normal(len(table)), -2, 2)
    if centre is None:
        return {
            n: t.mean + BETWEEN * t.between * float(x) for (n, t), x in zip(table.items(), z, strict=True)
        }
    return {
        n: centre[n] + within * WITHIN * t.within * float(x)
        for (n, t), x in zip(table.items(), z, strict=True)
    }


def subject_traits(seed: int, subject: str) -> dict[str, float]:
    """Draw a subject's body, motion, coat and bag, alike in all of the subject's sequences."""
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
        raise ValueError(
            f"Condition {condition!r}: expected nm-…, bg-… or cl-… (normal, bag, coat), as in CASIA-B."
        )
    rng = named_rng(seed, "walk", subject, condition)
    usual = subject_traits(seed, subject)
    traits = draw(TRAITS, rng, usual, COAT_WITHIN if kind == "cl" else 1.0) | draw(
        PATH | COAT | BAG, rng, usual
    )
    length = max(1, round(frames * rng.uniform(0.85, 1.15)))
    phase = float(rng.uniform())
    bag, side = BAGS[rng.integers(len(BAGS))], int(rng.integers(2))
    return Walk(traits, kind == "cl", bag if kind == "bg" else "", side, phase, length)
