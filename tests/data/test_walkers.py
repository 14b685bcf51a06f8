import errno
import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from cstl.owner import InUseError, owner
from cstl.walkers import body, camera, traits
from cstl.walkers import synthesis as walkers
from cstl.walkers.synthesis import CONDITIONS, FPS, VIEWS, render_sequence, synthesize
from cstl.walkers.traits import joint_angle

PHASE = np.arange(200) / 200
TINY = {"subjects": 2, "seed": 5, "views": ("000", "090"), "conditions": ("nm-01", "cl-01"), "frames": 6}


def tree(out):
    return {
        str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()
    }


def clean(subject, condition, view, frames=30, seed=1):
    return render_sequence(seed, subject, condition, view, frames, noise=False)


def row_widths(frames):
    """Mean width of the outline at 20 heights of the body, from head to foot."""
    widths = []
    for frame in frames:
        rows = np.flatnonzero(frame.any(1))
        heights = np.linspace(rows[0], rows[-1], 20).astype(int)
        widths.append([np.ptp(np.flatnonzero(frame[y])) for y in heights])
    return np.mean(widths, 0)


# --- Normal gait ---


def test_knee_flexes_by_about_sixty_degrees_in_swing_and_twenty_in_stance():
    knee = np.rad2deg(joint_angle("knee", PHASE))
    assert 58 < knee.max() < 68
    assert 0.68 < PHASE[knee.argmax()] < 0.77
    loading = knee[(PHASE > 0.08) & (PHASE < 0.25)]
    assert 15 < loading.max() < 23
    assert abs(knee[0]) < 8
    assert knee.min() > -5


def test_hip_and_ankle_move_as_in_normal_gait():
    hip, ankle = (np.rad2deg(joint_angle(joint, PHASE)) for joint in ("hip", "ankle"))
    assert 0.47 < PHASE[hip.argmin()] < 0.57  # furthest back when the other foot lands
    assert 15 < hip[0] < 25
    assert 28 < np.ptp(hip) < 38
    assert 0.60 < PHASE[ankle.argmin()] < 0.70  # push-off
    assert 0.38 < PHASE[ankle.argmax()] < 0.50


def test_joint_angles_repeat_scale_shift_and_lag():
    angle = joint_angle("knee", PHASE)
    np.testing.assert_allclose(joint_angle("knee", PHASE + 3), angle, atol=1e-9)
    np.testing.assert_allclose(np.ptp(joint_angle("knee", PHASE, scale=1.5)), 1.5 * np.ptp(angle))
    np.testing.assert_allclose(joint_angle("knee", PHASE, offset=10), angle + np.deg2rad(10))
    np.testing.assert_allclose(joint_angle("knee", PHASE, delay=10), joint_angle("knee", PHASE - 0.1))


@pytest.fixture
def symmetric():
    """A walk of the mean person, whose sides are alike."""
    mean = {
        name: trait.mean
        for table in (traits.TRAITS, traits.PATH, traits.COAT, traits.BAG)
        for name, trait in table.items()
    }
    return traits.Walk(mean, coat=False, bag="", side=0, phase=0.0, length=60)


def test_left_and_right_are_half_a_cycle_apart(symmetric):
    now, later = (body.skeleton(symmetric, PHASE + shift) for shift in (0, 0.5))
    for part in body.LIMBS:
        mirrored = now[f"{part}_left"].origin * (1, -1, 1)
        np.testing.assert_allclose(later[f"{part}_right"].origin, mirrored, atol=1e-9)


def test_arms_swing_against_the_legs(symmetric):
    segments = body.skeleton(symmetric, PHASE)
    for side in body.SIDES:
        hand, foot = (segments[f"{part}_{side}"].origin[:, 0] for part in ("hand", "foot"))
        assert np.corrcoef(hand, foot)[0, 1] < -0.7


def test_speed_follows_from_cadence_and_stride(symmetric):
    gait = body.gait(symmetric)
    assert gait.frequency == pytest.approx(symmetric.traits["cadence"] / 120)
    assert 1.0 < gait.speed < 1.6
    quick = symmetric._replace(traits=symmetric.traits | {"cadence": 1.2 * symmetric.traits["cadence"]})
    assert body.gait(quick).speed == pytest.approx(1.2 * gait.speed)


def test_feet_stay_on_the_ground_and_the_head_at_the_stature(symmetric):
    walker = body.embody(symmetric)
    reach = np.sqrt((walker.shapes[:, :, 2] ** 2).sum(-1))  # (T, E), half heights
    lowest = (walker.centres[..., 2] - reach).min(1)
    highest = (walker.centres[..., 2] + reach).max(1)
    assert np.abs(lowest).max() < 0.05
    assert np.abs(highest - symmetric.traits["stature"]).max() < 0.08


def test_the_outline_has_the_period_of_the_cadence(symmetric):
    frames = camera.silhouettes(camera.outlines(body.embody(symmetric), "090"))
    widths = np.array([np.ptp(np.flatnonzero(frame.any(0))) for frame in frames], float)
    widths -= widths.mean()
    lags = np.arange(5, 25)
    match = [np.corrcoef(widths[:-lag], widths[lag:])[0, 1] for lag in lags]
    step = FPS * 60 / symmetric.traits["cadence"]  # frames: a silhouette repeats with every step
    assert lags[int(np.argmax(match))] == pytest.approx(step, abs=1)


# --- Silhouettes ---


def test_frames_are_bytes_of_two_values():
    frames = render_sequence(1, "001", "nm-01", "054", 12)
    assert frames.dtype == np.uint8
    assert frames.shape[1:] == (240, 320)
    assert set(np.unique(frames)) == {0, 255}


@pytest.mark.parametrize("view", VIEWS)
def test_the_body_stays_in_the_frame(view):
    for subject, condition in (("001", "nm-01"), ("002", "bg-01"), ("003", "cl-01")):
        frames = clean(subject, condition, view, frames=40)
        assert (frames.sum((1, 2)) > 255 * 1500).all()
        border = np.concatenate([frames[:, [0, -1]].ravel(), frames[:, :, [0, -1]].ravel()])
        assert not border.any()
        heights = [np.ptp(np.flatnonzero(frame.any(1))) for frame in frames]
        assert 80 < min(heights) <= max(heights) < 200


def test_a_body_is_in_one_piece():
    for condition in ("nm-01", "bg-01", "cl-01"):
        for view in ("000", "072", "144"):
            for frame in clean("004", condition, view)[::6]:
                assert cv2.connectedComponents(frame, connectivity=8)[0] == 2  # the background and the body


def test_walkers_come_at_000_pass_at_090_and_go_at_180():
    area = {view: (clean("001", "nm-01", view) > 0).sum((1, 2)) for view in ("000", "180")}
    assert area["000"][-3:].mean() > 1.1 * area["000"][:3].mean()
    assert area["180"][-3:].mean() < 0.9 * area["180"][:3].mean()
    across = [np.flatnonzero(frame.any(0)).mean() for frame in clean("001", "nm-01", "090")]
    assert abs(across[-1] - across[0]) > 50


def test_a_coat_widens_the_outline_at_the_thighs_and_leaves_the_head():
    for subject in ("001", "002", "003"):
        walk = traits.draw_walk(1, subject, "nm-01", 30)
        for view in ("000", "090"):
            normal, coat = (
                row_widths(camera.silhouettes(camera.outlines(body.embody(walk._replace(coat=c)), view)))
                for c in (False, True)
            )
            assert (coat[10:13] > normal[10:13] + 1).all()
            assert abs(coat[1] - normal[1]) < 2


def test_bags_add_pixels_beside_the_same_walk():
    walk = traits.draw_walk(1, "001", "nm-01", 20)
    for bag in traits.BAGS:
        for view in ("072", "108"):
            bare, laden = (
                (camera.silhouettes(camera.outlines(body.embody(walk._replace(bag=b)), view)) > 0).sum()
                for b in ("", bag)
            )
            assert laden > 1.01 * bare, (bag, view)


def test_bags_vary():
    kinds = {traits.draw_walk(0, f"{i:03d}", "bg-01", 30).bag for i in range(20)}
    assert kinds == set(traits.BAGS)


def test_noise_spoils_the_frames_but_leaves_the_person():
    for view in ("000", "090"):
        noisy, plain = render_sequence(3, "001", "nm-01", view), clean("001", "nm-01", view, seed=3)
        assert noisy.shape == plain.shape
        shared = ((noisy > 0) & (plain > 0)).sum((1, 2)) / ((noisy > 0) | (plain > 0)).sum((1, 2))
        assert 0.75 < np.median(shared) < 0.99


def test_every_kind_of_noise_occurs(monkeypatch):
    monkeypatch.setattr(camera, "NOISE", dict.fromkeys(camera.NOISE, 0.0))
    whole = render_sequence(1, "001", "nm-01", "090", 10)
    for kind in camera.NOISE:
        monkeypatch.setitem(camera.NOISE, kind, 1.0)
        spoilt = render_sequence(1, "001", "nm-01", "090", 10)
        monkeypatch.setitem(camera.NOISE, kind, 0.0)
        pixels, before = (spoilt > 0).sum((1, 2)), (whole > 0).sum((1, 2))
        if kind == "empty":
            assert not spoilt.any()
        elif kind == "halved":
            assert (pixels < 0.8 * before).all()
        elif kind == "speckled":
            assert (pixels > before).any()
        else:
            assert pixels.sum() < before.sum()


# --- What a sequence depends on ---


def test_seed_subject_condition_and_view_matter():
    first = render_sequence(1, "001", "nm-01", "090", 12)
    np.testing.assert_array_equal(first, render_sequence(1, "001", "nm-01", "090", 12))
    for other in ((2, "001", "nm-01", "090"), (1, "002", "nm-01", "090"), (1, "001", "nm-02", "090")):
        again = render_sequence(*other, 12)
        assert again.shape != first.shape or (again != first).any()


def test_views_show_the_same_moments():
    lengths = {len(render_sequence(1, "001", "nm-01", view, 20)) for view in VIEWS}
    assert len(lengths) == 1


def test_subjects_differ_more_than_their_sequences():
    def mean_traits(subject, condition):
        walk = traits.draw_walk(0, subject, condition, 30)
        return np.array([(walk.traits[n] - t.mean) / t.between for n, t in traits.TRAITS.items()])

    # drawn: (S, C, traits)
    drawn = np.array([[mean_traits(f"{s:03d}", c) for c in CONDITIONS[:4]] for s in range(1, 13)])
    assert drawn.std(1).mean() < 0.3 * drawn.mean(1).std(0).mean()


def test_lengths_have_the_mean_asked_for():
    lengths = [traits.draw_walk(0, f"{s:03d}", "nm-01", 40).length for s in range(200)]
    assert np.mean(lengths) == pytest.approx(40, abs=1)
    assert 34 <= min(lengths) < max(lengths) <= 46


@pytest.mark.parametrize(("condition", "view"), [("xx-01", "000"), ("nm-01", "side"), ("nm-01", "400")])
def test_unknown_condition_or_view_is_named(condition, view):
    with pytest.raises(ValueError, match=f"{condition}|{view}"):
        render_sequence(0, "001", condition, view)


# --- Trees ---


def test_layout_and_format(tmp_path):
    synthesize(tmp_path, **TINY, workers=1, progress=False)
    folders = {str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/*/*")}
    assert folders == {
        f"{s}/{c}/{v}" for s in ("001", "002") for c in TINY["conditions"] for v in TINY["views"]
    }
    expected = render_sequence(5, "002", "cl-01", "090", 6)
    files = sorted((tmp_path / "002/cl-01/090").iterdir())
    assert [f.name for f in files] == [f"002-cl-01-090-{i:03d}.png" for i in range(1, len(expected) + 1)]
    image = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED)
    assert files[0].read_bytes()[24:26] == bytes([8, 0])  # 8 bits, grey
    np.testing.assert_array_equal(image, expected[0])
    assert {p.name for p in tmp_path.iterdir()} == {"001", "002", "walkers.json"}


def test_files_do_not_depend_on_the_number_of_workers(tmp_path):
    synthesize(tmp_path / "one", **TINY, workers=1, progress=False)
    synthesize(tmp_path / "two", **TINY, workers=2, progress=False)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_files_do_not_depend_on_the_other_subjects(tmp_path):
    synthesize(tmp_path / "two", **TINY, workers=1, progress=False)
    synthesize(tmp_path / "second", **(TINY | {"subjects": ["002"]}), workers=1, progress=False)
    assert tree(tmp_path / "two" / "002") == tree(tmp_path / "second" / "002")


def test_interrupted_it_goes_on(tmp_path, monkeypatch):
    synthesize(tmp_path / "whole", **TINY, workers=1, progress=False)
    view_sequence, calls = walkers.view_sequence, []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return view_sequence(*args, **kwargs)

    cut = tmp_path / "cut"
    monkeypatch.setattr(walkers, "view_sequence", failing)
    with pytest.raises(KeyboardInterrupt):
        synthesize(cut, **TINY, workers=1, progress=False)
    assert not (cut / "walkers.json").exists()
    assert len(list(cut.glob("0*/*/*"))) == 3
    (cut / ".part" / "001-nm-01-000").mkdir(exist_ok=True)  # half a sequence
    with pytest.raises(FileExistsError, match="seed 5 there, 6 asked for"):
        synthesize(cut, **(TINY | {"seed": 6}), workers=1, progress=False)
    synthesize(cut, **TINY, workers=1, progress=False)
    assert len(calls) == 4 + 5  # what was there was not drawn again
    assert tree(cut) == tree(tmp_path / "whole")


def test_two_at_once(tmp_path, monkeypatch):
    """A second process would clear the first one's unfinished sequences away: it is refused,
    and nothing is lost.
    """
    synthesize(tmp_path / "whole", **TINY, workers=1, progress=False)
    view_sequence, refused = walkers.view_sequence, []

    def meanwhile(*args, **kwargs):
        if not refused:
            half = sorted(path.name for path in (tmp_path / "tree/.part").iterdir() if path.is_dir())
            with pytest.raises(InUseError, match=r"in use: process \d+ on .* writes there") as error:
                synthesize(tmp_path / "tree", **TINY, workers=1, progress=False)
            refused.append(error)
            assert (
                sorted(path.name for path in (tmp_path / "tree/.part").iterdir() if path.is_dir())
                == half
                != []
            )
        return view_sequence(*args, **kwargs)

    monkeypatch.setattr(walkers, "view_sequence", meanwhile)
    synthesize(tmp_path / "tree", **TINY, workers=1, progress=False)
    assert len(refused) == 1
    assert tree(tmp_path / "tree") == tree(tmp_path / "whole")


def test_a_killed_process_does_not_keep_others_out(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    (tmp_path / "tree/.part/001-nm-01-000").mkdir(parents=True)
    with owner(tmp_path / "tree/.part"):
        note = json.loads((tmp_path / "tree/.part/owner.json").read_text())
    note |= {"process": int(ended.stdout), "started": 1}
    (tmp_path / "tree/.part/owner.json").write_text(json.dumps(note))
    synthesize(tmp_path / "tree", **TINY, workers=1, progress=False)
    assert {path.name for path in (tmp_path / "tree").iterdir()} == {"001", "002", "walkers.json"}


KILLED = """
import multiprocessing, os, signal, sys
from cstl.walkers import synthesis as walkers
def killed(futures):
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
walkers.as_completed = killed
walkers.synthesize(sys.argv[1], subjects=2, frames=6, workers=2, progress=False)
"""


def test_no_worker_outlives_a_killed_parent(tmp_path):
    """Else it draws into a tree that another process goes on with, and never ends."""
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        capture_output=True,  # returns when the last process that has the pipe is gone
        timeout=60,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len(process.stdout.split()) == 2


def test_a_full_disk_is_named_and_what_is_drawn_stays(tmp_path, monkeypatch):
    view_sequence, calls = walkers.view_sequence, []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return view_sequence(*args, **kwargs)

    monkeypatch.setattr(walkers, "view_sequence", full)
    with pytest.raises(
        OSError, match=rf"the disk of {tmp_path} is full .*dataset\.raw=PATH.*the same command goes on"
    ):
        synthesize(tmp_path, **TINY, workers=1, progress=False)
    assert len(list(tmp_path.glob("0*/*/*"))) == 2
    synthesize(tmp_path, **TINY, workers=1, progress=False)
    assert (tmp_path / "walkers.json").exists()


def test_another_process_finishes_just_before(tmp_path, monkeypatch):
    """It takes the folder of unfinished sequences away when this one is about to write its note there."""

    def meanwhile(folder):
        monkeypatch.setattr(walkers, "owner", owner)
        synthesize(tmp_path, **TINY, workers=1, progress=False)
        return owner(folder)

    monkeypatch.setattr(walkers, "owner", meanwhile)
    synthesize(tmp_path, **TINY, workers=1, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"001", "002", "walkers.json"}


def test_a_complete_tree_is_left_alone(tmp_path, monkeypatch):
    synthesize(tmp_path, **TINY, workers=1, progress=False)
    monkeypatch.setattr(walkers, "write_walk", None)
    synthesize(tmp_path, **TINY, workers=1, progress=False)


def test_other_settings_are_refused(tmp_path, monkeypatch):
    synthesize(tmp_path, **TINY, workers=1, progress=False)
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="frames 6 there, 7 asked for"):
        synthesize(tmp_path, **(TINY | {"frames": 7}), workers=1, progress=False)
    monkeypatch.setattr(traits, "BETWEEN", 0.5)
    with pytest.raises(FileExistsError, match="renderer"):
        synthesize(tmp_path, **TINY, workers=1, progress=False)
    assert tree(tmp_path) == before
    assert json.loads((tmp_path / "walkers.json").read_text())["seed"] == 5


def test_foreign_folders_are_not_touched(tmp_path):
    (tmp_path / "001").mkdir()
    with pytest.raises(FileExistsError, match="Name a new folder"):
        synthesize(tmp_path, **TINY, workers=1, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["001"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"subjects": 0},
        {"seed": -1},
        {"frames": 0},
        {"views": ["090", "090"]},
        {"views": ["x"]},
        {"conditions": ["x"]},
    ],
)
def test_settings_that_cannot_be_drawn(tmp_path, wrong):
    with pytest.raises(ValueError, match="expected"):
        synthesize(tmp_path / "out", **(TINY | wrong), workers=1, progress=False)
    assert not (tmp_path / "out").exists()
