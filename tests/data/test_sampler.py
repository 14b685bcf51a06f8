from typing import Any

import numpy as np
import pytest

from cstl.data.batches import CLIPS, TrainBatches, length_buckets

LABELS = np.array([-1, 2, 0, 0, 1, -1, 1, 2, 2, 3])
LENGTHS = np.array([50, 40, 12, 7, 31, 9, 30, 21, 60, 16])
STARTS = np.cumsum(LENGTHS) - LENGTHS


def batches(**options: Any) -> TrainBatches:
    options = {"subjects": 3, "sequences": 4, "frames": 30, "steps": 20, "seed": 1, **options}
    return TrainBatches(LABELS, STARTS, LENGTHS, **options)


def windows(length: int, frames: int, count: int) -> list[list[int]]:
    return clips("consecutive", length, frames, count)


def clips(kind: str, length: int, frames: int, count: int, spare: int = 0) -> list[list[int]]:
    return [CLIPS[kind](length, frames, spare, np.random.default_rng(seed)).tolist() for seed in range(count)]


def test_long_sequences_give_consecutive_frames_from_every_start() -> None:
    found = windows(33, 30, 200)
    assert all(window == list(range(window[0], window[0] + 30)) for window in found)
    assert {window[0] for window in found} == {0, 1, 2, 3}  # 0 … L − 30 inclusive
    assert windows(30, 30, 3) == [list(range(30))] * 3


@pytest.mark.parametrize(("length", "frames"), [(16, 30), (22, 30), (29, 30), (11, 20), (8, 15), (2, 3)])
def test_shorter_ones_show_some_frames_twice_in_order(length: int, frames: int) -> None:
    seen_twice = set()
    for window in windows(length, frames, 300):
        assert window == sorted(window)
        counts = [window.count(frame) for frame in range(length)]
        assert set(counts) <= {1, 2}  # distinct frames are repeated, none is left out
        assert counts.count(2) == frames - length
        seen_twice |= {frame for frame, count in enumerate(counts) if count == 2}
    assert seen_twice == set(range(length))


@pytest.mark.parametrize(("length", "frames"), [(15, 30), (7, 30), (1, 30), (10, 20), (7, 15)])
def test_very_short_ones_are_repeated(length: int, frames: int) -> None:
    assert windows(length, frames, 2) == [(list(range(length)) * frames)[:frames]] * 2


def test_unordered_clips_hold_different_frames_as_long_as_there_are_any() -> None:
    found = clips("unordered", 40, 30, 200)
    assert all(len(set(clip)) == 30 for clip in found)
    assert any(clip != sorted(clip) for clip in found)
    assert {frame for clip in found for frame in clip} == set(range(40))
    assert all(len(clip) == 30 and set(clip) <= set(range(7)) for clip in clips("unordered", 7, 30, 20))
    assert any(len(set(clip)) < 30 for clip in clips("with_repeats", 40, 30, 20))


def test_thinned_clips_are_most_of_a_window() -> None:
    for clip in clips("thinned", 50, 30, 200, spare=4):
        assert len(set(clip)) == 30
        assert clip == sorted(clip)
        assert clip[-1] - clip[0] < 34
    starts = {clip[0] for clip in clips("thinned", 40, 40, 5)}
    assert starts == {0}  # nothing to spare: the only window
    # 0 … 9, four times: 40 frames, of which 34 are a window
    for clip in clips("thinned", 10, 30, 50, spare=4):
        jumps = np.diff(clip) % 10
        assert jumps.sum() < 34
        assert set(jumps.tolist()) <= {1, 2, 3, 4, 5}
    assert clips("thinned", 10, 30, 1)[0] == list(range(10)) * 3


@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize("length", [1, 2, 7, 29, 30, 33, 34, 90])
def test_every_clip_of_every_length_is_there(kind: str, length: int) -> None:
    for clip in clips(kind, length, 30, 5, spare=4):
        assert len(clip) == 30
        assert set(clip) <= set(range(length))


def test_a_range_of_frames_draws_a_length_for_each_clip() -> None:
    found = set()
    for rows, _, lengths in batches(frames=[4, 7], clip="unordered", steps=60):
        assert lengths is not None
        assert rows.shape == (12, 7)
        np.testing.assert_array_equal((rows >= 0).sum(1), lengths)
        assert ((rows >= 0) == (np.arange(7) < lengths[:, None])).all()  # what is missing is at the end
        found |= set(lengths.tolist())
    assert found == {4, 5, 6, 7}
    whole, shares = (
        batches(frames=[4, 7], processes=1),
        [batches(frames=[4, 7], rank=r, processes=3) for r in range(3)],
    )
    parts = zip(*shares, strict=True)
    for batch, dealt in zip(whole, parts, strict=True):
        for column, together in zip(batch, zip(*dealt, strict=True), strict=True):
            np.testing.assert_array_equal(column, np.concatenate(together))


def test_sequences_come_again_only_where_there_are_too_few() -> None:
    counts = np.bincount(LABELS[LABELS >= 0])
    for rows, labels, _ in batches(sequences=2, repeat_sequences=False):
        sequences = np.searchsorted(STARTS, rows[:, 0], side="right") - 1
        for label in set(labels.tolist()):
            assert len(set(sequences[labels == label].tolist())) == min(2, counts[label])


@pytest.mark.parametrize(("options", "message"), [
    ({"clip": "ordered"},
     "data.clip is 'ordered'; choose one of consecutive, unordered, with_repeats, thinned"),
    ({"frames": [9, 4]}, r"data.frames is \[9, 4\]"),
    ({"frames": 0}, "data.frames is 0"),
])  # fmt: skip
def test_clips_that_do_not_exist(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches(**options)


def test_a_batch_is_subjects_by_sequences() -> None:
    for rows, labels, _ in batches():
        assert rows.shape == (12, 30)
        assert rows.dtype == labels.dtype == np.int64
        classes = labels.reshape(3, 4)
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0].tolist())) == 3  # without replacement
        sequences = np.searchsorted(STARTS, rows, side="right") - 1
        assert (sequences == sequences[:, :1]).all()  # all frames of one sequence …
        np.testing.assert_array_equal(LABELS[sequences[:, 0]], labels)  # … and of that class


def test_every_training_sequence_is_drawn_alike() -> None:
    counts = np.zeros(len(LABELS))
    for rows, _, _ in batches(steps=2000):
        np.add.at(counts, np.searchsorted(STARTS, rows[:, 0], side="right") - 1, 1)
    assert (counts[LABELS < 0] == 0).all()
    expected = 2000 * 3 / 4 * 4 / np.bincount(LABELS[LABELS >= 0])[LABELS[LABELS >= 0]]
    assert np.abs(counts[LABELS >= 0] / expected - 1).max() < 0.1


def test_a_batch_follows_from_seed_and_step_alone() -> None:
    whole = list(batches())
    for step in (19, 0, 7):
        for first, second in zip(batches().batch(step)[:2], whole[step][:2], strict=True):
            np.testing.assert_array_equal(first, second)
    resumed = list(batches(start=15))
    assert len(resumed) == 5
    for first, second in zip(resumed, whole[15:], strict=True):
        np.testing.assert_array_equal(first.rows, second.rows)
    assert not np.array_equal(whole[0].rows, whole[1].rows)
    assert not np.array_equal(whole[0].rows, batches(seed=2).batch(0).rows)


def test_the_length_stays_that_of_the_whole_run() -> None:
    assert len(batches()) == len(batches(start=15)) == 20


def test_fewer_subjects_than_a_batch_needs() -> None:
    with pytest.raises(
        ValueError, match=r"a batch needs 5 subjects, .* training sequences of 4; .*subjects=4"
    ):
        batches(subjects=5)


@pytest.mark.parametrize("seed", range(5))
def test_buckets_hold_everything_once_within_budget_and_padding(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = np.concatenate([generator.integers(1, 201, 100), generator.integers(60, 120, 200)])
    found = length_buckets(lengths, budget=1000)
    assert sorted(np.concatenate(found).tolist()) == list(range(300))
    for bucket in found:
        size = len(bucket) * lengths[bucket].max()
        assert size <= 1000
        assert lengths[bucket].sum() >= 0.9 * size


def test_buckets_start_with_the_longest_and_are_as_full_as_they_may_be() -> None:
    found = length_buckets([5, 30, 5, 10, 10, 5], budget=20)
    assert [bucket.tolist() for bucket in found] == [[1], [3, 4], [0, 2, 5]]  # 30 is over the budget, alone
    assert length_buckets([], budget=20) == []


def test_windows_drawn_at_once_are_those_drawn_one_by_one() -> None:
    lengths = np.array([30, 31, 95, 30, 40, 200, 33, 60, 120, 45])
    starts = np.cumsum(lengths) - lengths
    sampler = TrainBatches(
        np.arange(10) // 2, starts, lengths, subjects=4, sequences=4, frames=30, steps=50, seed=3
    )
    for step in range(50):
        generator = np.random.default_rng(np.random.SeedSequence([3, step]))
        classes = generator.choice(5, 4, replace=False)[:, None]
        chosen = (2 * classes + generator.integers(2, size=(4, 4))).ravel()
        expected = [starts[i] + CLIPS["consecutive"](lengths[i], 30, 0, generator) for i in chosen]
        np.testing.assert_array_equal(sampler.batch(step).rows, expected)
