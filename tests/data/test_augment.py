"""The transforms beside the published ones, and what happens to a batch as a function of seed and step."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cstl.data.augment import Erase, Flip, Perspective, Rotate, Transform, augment

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from recipe import silhouettes  # noqa: E402

CASES = json.loads((GOLDEN / "augment_base_v2.json").read_text(encoding="utf-8"))["cases"]
ARRAYS = np.load(GOLDEN / "augment_base_v2.npz")
ALL: list[Transform] = [Perspective(0.5), Flip(0.5), Rotate(0.5), Erase(0.5)]


@pytest.mark.parametrize("name", [*CASES, "flip_64", "flip_128"])
def test_transforms_are_the_published_ones(name: str) -> None:
    kind, side = name.split("_")[0], int(name.split("_")[1])
    cut = torch.from_numpy(ARRAYS[f"cut_{side}"])[None]
    case = CASES.get(name, {})
    found: torch.Tensor
    if kind == "perspective":
        uncut = torch.from_numpy(silhouettes(1, 2, side, side, 1 + side)).float()
        corners = tuple(case[corner] for corner in ("top_left", "top_right", "bottom_right", "bottom_left"))
        found = Perspective().apply(uncut, [corners])[0]  # type: ignore[list-item]
        assert (found - torch.from_numpy(ARRAYS[name]).float()).abs().max() <= 1
        return
    if kind == "rotate":
        found = Rotate().apply(cut, [case["degree"]])[0]
        difference = (found - torch.from_numpy(ARRAYS[name])).abs()
        assert difference.max() <= 0.03
        assert difference.mean() <= 1e-3
        return
    if kind == "erase":
        height, width = cut.shape[-2:]
        area = case["area"] * height * width
        h, w = round((area * case["ratio"]) ** 0.5), round((area / case["ratio"]) ** 0.5)
        found = Erase().apply(cut, [(case["top"], case["left"], h, w)])[0]
    else:
        found = Flip().apply(cut, [None])[0]
    assert torch.equal(found, torch.from_numpy(ARRAYS[name]))


def test_a_cut_frame_is_stretched_as_the_uncut_one() -> None:
    """Where nothing was cut away but background."""
    uncut = torch.zeros(1, 1, 64, 64)
    uncut[..., 5:60, 20:44] = torch.rand(55, 24)
    corners = [(3, 60, 55, 7)]
    assert torch.allclose(
        Perspective().apply(uncut[..., 10:54], corners), Perspective().apply(uncut, corners)[..., 10:54]
    )


def test_what_happens_follows_from_seed_and_step_whoever_computes_it() -> None:
    x = torch.rand(12, 3, 64, 44)
    whole = augment(x, ALL, seed=3, step=7, share=slice(0, 12), sequences=12)
    again = augment(x, ALL, seed=3, step=7, share=slice(0, 12), sequences=12)
    shares = [augment(x[some], ALL, 3, 7, some, 12) for some in (slice(0, 4), slice(4, 12))]
    assert torch.equal(whole, again)
    assert torch.allclose(torch.cat(shares), whole, atol=1e-6)
    for seed, step in ((4, 7), (3, 8)):
        assert not torch.equal(augment(x, ALL, seed, step, slice(0, 12), 12), whole)


def test_all_frames_of_a_sequence_are_changed_alike_and_sequences_apart() -> None:
    frame = torch.rand(64, 44)
    x = frame.expand(40, 5, 64, 44)
    found = augment(x, ALL, 0, 0, slice(0, 40), 40)
    assert torch.allclose(found, found[:, :1].expand_as(found), atol=1e-6)
    changed = [not torch.equal(sequence, x[0]) for sequence in found]
    assert 0.8 < sum(changed) / 40 < 1  # 15 of 16 in the mean
    together = augment(x, ALL, 0, 0, slice(0, 40), 40, together=True)
    assert torch.allclose(together, together[:1].expand_as(together), atol=1e-6)


def test_probabilities_and_ranges() -> None:
    x = torch.rand(4, 2, 64, 44)
    assert augment(x, [Flip(0.0), Rotate(0.0)], 0, 0, slice(0, 4), 4) is x
    assert torch.equal(augment(x, [Flip(1.0)], 0, 0, slice(0, 4), 4), x.flip(-1))
    generator = np.random.default_rng(0)
    corners = np.array([Perspective().draw(generator, 64, 44) for _ in range(2000)])
    assert (corners.min(0).tolist(), corners.max(0).tolist()) == ([0, 54, 54, 0], [9, 63, 63, 9])
    angles = [Rotate().draw(generator, 64, 44) for _ in range(2000)]
    assert -10 <= min(angles) < -9.9
    assert 9.9 < max(angles) <= 10
    for _ in range(500):
        top, left, h, w = Erase().draw(generator, 64, 44) or (0, 0, 1, 1)
        assert 0 <= top <= 64 - h
        assert 0 <= left <= 44 - w
        assert 0.04 < h * w / (64 * 44) < 0.22
