"""Cross-view measures against the golden numbers, slow loops written from the protocols, corner
cases and memory.
"""

import ctypes
import doctest
import gc
import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import recipe
from torch import Tensor

from cstl.metrics import (
    CrossViewAccuracy,
    CrossViewResult,
    ProbeTable,
    cross_view,
    distances,
    probes,
    retrieval,
)

GOLDEN = np.load(Path(__file__).parent / "golden" / "cross_view.npz")

# A small protocol, with a condition (xx) that plays no part and probes that share one (bg).
CONDITIONS = ["nm-1", "nm-2", "xx", "bg", "nm-3"]
VIEWS = ["000", "045", "090"]
GALLERY = ["nm-1", "nm-2"]
PROBES = {"NM": ["nm-3"], "ALL": ["nm-3", "bg"]}
# … and a second one, with a cross-view gallery
CROSS_GALLERY = ["nm-2", "xx"]
CROSS_PROBES = {"NM": ["nm-1"], "BG": ["bg", "nm-3"]}


def metric(**settings: Any) -> CrossViewAccuracy:
    second = {"cross_view_gallery": CROSS_GALLERY, "cross_view_probes": CROSS_PROBES}
    return CrossViewAccuracy(CONDITIONS, VIEWS, GALLERY, PROBES, **{"max_rank": 3, **second, **settings})


def sequences(count: int = 80, seed: int = 0, subjects: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random sequences: some cells of the protocol hold several, some none."""
    generator = torch.Generator().manual_seed(seed)
    subject, condition, view = (
        torch.randint(high, (count,), generator=generator) for high in (subjects, len(CONDITIONS), len(VIEWS))
    )
    centre = torch.randn(subjects, 4, 8, generator=generator)
    return (
        centre[subject] + 1.2 * torch.randn(count, 4, 8, generator=generator),
        100 + subject,
        condition,
        view,
    )


def evaluate(data: tuple[Tensor, ...], **settings: Any) -> CrossViewResult:
    accuracy = metric(**settings)
    accuracy.update(*data)
    return accuracy.compute()


def slow(data: tuple[Tensor, ...], probe: str, max_rank: int, matched: bool) -> Tensor:
    """(views, views, ranks), probe by probe."""
    embeddings, subject, condition, view = (tensor.tolist() for tensor in data)
    table = torch.full((len(VIEWS), len(VIEWS), max_rank), torch.nan, dtype=torch.float64)
    for pv in range(len(VIEWS)):
        for gv in range(len(VIEWS)):
            gallery = [i for i in range(len(view)) if CONDITIONS[condition[i]] in GALLERY and view[i] == gv]
            probes = [
                i for i in range(len(view)) if CONDITIONS[condition[i]] in PROBES[probe] and view[i] == pv
            ]
            if matched:
                probes = [i for i in probes if subject[i] in [subject[j] for j in gallery]]
            if not probes or not gallery:
                continue
            for rank in range(1, max_rank + 1):
                hits = 0
                for i in probes:

                    def distance(j: int, i: int = i) -> float:
                        parts = zip(embeddings[i], embeddings[j], strict=True)
                        return sum(math.dist(x, y) for x, y in parts) / len(embeddings[i])

                    nearest = sorted(gallery, key=distance)[:rank]
                    hits += subject[i] in [subject[j] for j in nearest]
                table[pv, gv, rank - 1] = 100 * hits / len(probes)
    return table


def ranked(data: tuple[Tensor, ...], probe: int, gallery: list[int]) -> list[bool]:
    """The gallery from the nearest on: is it the probe's subject?"""
    embeddings, subject = data[0].tolist(), data[1].tolist()

    def distance(j: int) -> float:
        return sum(math.dist(x, y) for x, y in zip(embeddings[probe], embeddings[j], strict=True))

    return [subject[j] == subject[probe] for j in sorted(gallery, key=distance)]


def slow_measures(found: list[list[bool]], max_rank: int) -> dict[str, list[float]]:
    """Percentages over some probes, from `ranked` of each."""
    precision, penalty = [], []
    for matches in (matches for matches in found if any(matches)):
        places = [place for place, match in enumerate(matches, 1) if match]
        precision.append(sum(matches[:place].count(True) / place for place in places) / len(places))
        penalty.append(len(places) / places[-1])
    hits = [sum(any(matches[:rank]) for matches in found) for rank in range(1, max_rank + 1)]
    nan = [math.nan]
    return {
        "accuracy": [100 * hit / len(found) for hit in hits] if found else nan * max_rank,
        "accuracy_matched": [100 * hit / len(precision) for hit in hits] if precision else nan * max_rank,
        "average_precision": [100 * sum(precision) / len(precision)] if precision else nan,
        "inverse_negative_penalty": [100 * sum(penalty) / len(penalty)] if penalty else nan,
    }


def assert_equal(one: CrossViewResult, other: CrossViewResult) -> None:
    for name in (
        "accuracy",
        "accuracy_matched",
        "probe_sequences",
        "average_precision",
        "inverse_negative_penalty",
    ):
        tolerance = (
            {} if name in ("average_precision", "inverse_negative_penalty") else {"rtol": 0, "atol": 0}
        )
        for probe, table in getattr(one, name).items():
            torch.testing.assert_close(table, getattr(other, name)[probe], equal_nan=True, **tolerance)
    assert torch.equal(one.gallery_sequences, other.gallery_sequences)
    if one.cross_view_gallery and other.cross_view_gallery:
        assert_equal(one.cross_view_gallery, other.cross_view_gallery)
    else:
        assert one.cross_view_gallery is other.cross_view_gallery is None


def golden(
    subjects: list[str],
    conditions: list[str],
    views: list[str],
    gallery: list[str],
    probes: dict,
    **drawing: Any,
):
    embeddings, subject, condition, view = recipe.embeddings(4, subjects, conditions, views, 16, **drawing)
    accuracy = CrossViewAccuracy(conditions, views, gallery, probes)
    columns = (
        [names.index(x) for x in column]
        for names, column in ((subjects, subject), (conditions, condition), (views, view))
    )
    accuracy.update(torch.from_numpy(embeddings).transpose(0, 1), *map(torch.tensor, columns))
    return accuracy.compute()


def test_golden_casiab() -> None:
    conditions = ["nm-01", "nm-02", "nm-03", "nm-04", "nm-05", "nm-06", "bg-01", "bg-02", "cl-01", "cl-02"]
    probes = {"NM": conditions[4:6], "BG": conditions[6:8], "CL": conditions[8:]}
    views = [f"{18 * i:03d}" for i in range(11)]
    subjects = [f"{i:03d}" for i in range(75, 105)]
    result = golden(subjects, conditions, views, conditions[:4], probes, seed=1, noise=2.2)
    found = np.stack([result.accuracy[probe].numpy() for probe in probes])
    expected = GOLDEN["casiab"].copy()
    found[1, 6, 4, 4] = expected[1, 6, 4, 4]  # a tie in float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.005)
    without_identical = [np.delete(expected[0, i, :, 0], i).mean() for i in range(11)]
    np.testing.assert_allclose(result.per_view("NM").numpy(), without_identical, rtol=0, atol=0.005)
    assert result.mean("NM") == pytest.approx(np.mean(without_identical), abs=0.005)
    assert result.mean("NM", rank=5, include_identical_view=True) == pytest.approx(
        expected[0, :, :, 4].mean(), abs=0.005
    )


@pytest.mark.parametrize(
    ("key", "drawing"),
    [("oumvlp", {"seed": 2, "noise": 1.8}), ("oumvlp_missing", {"seed": 3, "drop": 0.12, "noise": 1.4})],
)
def test_golden_oumvlp(key: str, drawing: dict[str, Any]) -> None:
    views = [f"{15 * i:03d}" for i in (*range(7), *range(12, 19))]
    subjects = [f"{i:05d}" for i in range(2, 61, 2)]
    result = golden(subjects, ["00", "01"], views, ["01"], {"NM": ["00"]}, **drawing)
    np.testing.assert_allclose(result.accuracy["NM"].numpy(), GOLDEN[key][0], rtol=0, atol=0.005)
    if key == "oumvlp_missing":
        matched = result.accuracy_matched["NM"][:, :, 0].numpy()
        np.testing.assert_allclose(matched, GOLDEN["oumvlp_missing_excluded"], rtol=0, atol=0.005)


@pytest.mark.parametrize(("count", "subjects"), [(80, 6), (25, 9), (8, 2)])
def test_equals_slow_loop(count: int, subjects: int) -> None:
    """Few sequences leave cells, and galleries smaller than the largest rank."""
    data = sequences(count, seed=count, subjects=subjects)
    result = evaluate(data, max_rank=4)
    for probe in PROBES:
        for matched, tables in ((False, result.accuracy), (True, result.accuracy_matched)):
            torch.testing.assert_close(tables[probe], slow(data, probe, 4, matched), equal_nan=True)
            assert tables[probe].dtype == torch.float64
    for probe, members in {**PROBES, "gallery": GALLERY}.items():
        chosen = torch.isin(data[2], torch.tensor([CONDITIONS.index(member) for member in members]))
        counts = result.gallery_sequences if probe == "gallery" else result.probe_sequences[probe]
        assert counts.tolist() == [int((chosen & (data[3] == view)).sum()) for view in range(len(VIEWS))]


@pytest.mark.parametrize(("count", "subjects"), [(80, 6), (25, 9), (8, 2)])
def test_average_precision_and_inverse_negative_penalty_equal_slow_loop(count: int, subjects: int) -> None:
    data = sequences(count, seed=count, subjects=subjects)
    _, _, condition, view = data
    names = [CONDITIONS[index] for index in condition]
    result = evaluate(data)
    for probe, members in PROBES.items():
        for pv in range(len(VIEWS)):
            for gv in range(len(VIEWS)):
                gallery = [i for i in range(count) if names[i] in GALLERY and view[i] == gv]
                probes = [i for i in range(count) if names[i] in members and view[i] == pv]
                slow = slow_measures([ranked(data, i, gallery) for i in probes], 1)
                for name in ("average_precision", "inverse_negative_penalty"):
                    assert getattr(result, name)[probe][pv, gv].item() == pytest.approx(
                        slow[name][0], nan_ok=True
                    )


@pytest.mark.parametrize(("count", "subjects"), [(80, 6), (25, 9), (8, 2)])
def test_cross_view_gallery_equals_slow_loop(count: int, subjects: int) -> None:
    data = sequences(count, seed=count, subjects=subjects)
    _, subject, condition, view = data
    names = [CONDITIONS[index] for index in condition]
    result = evaluate(data).cross_view_gallery
    assert result is not None
    assert result.joint_gallery
    gallery = [i for i in range(count) if names[i] in CROSS_GALLERY]
    for probe, members in CROSS_PROBES.items():
        for pv in range(len(VIEWS)):
            probes = [i for i in range(count) if names[i] in members and view[i] == pv]
            found = [
                ranked(data, i, [j for j in gallery if subject[j] != subject[i] or view[j] != view[i]])
                for i in probes
            ]
            for name, values in slow_measures(found, 3).items():
                table = getattr(result, name)[probe]
                assert table.shape[:2] == (len(VIEWS), 1)
                assert table[pv, 0].flatten().tolist() == pytest.approx(values, nan_ok=True)
        per_view = result.average_precision[probe][:, 0]
        torch.testing.assert_close(result.per_view(probe, measure="mAP"), per_view, equal_nan=True)


def test_measures_by_hand() -> None:
    """Two matches, second and fourth of five: precisions 1/2 and 2/4, hardest at rank 4."""
    result = by_hand([1, 2, 3, 4, 5, 0], [7, 1, 8, 1, 9, 1], [0, 0, 0, 0, 1, 4], [1, 1, 1, 1, 1, 0])
    assert result.average_precision["NM"][0, 1] == 50
    assert result.inverse_negative_penalty["NM"][0, 1] == 50
    assert result.mean("NM", measure="mAP") == result.mean("NM", measure="mINP") == 50
    assert result.accuracy["NM"][0, 1].tolist() == [0, 100, 100]


def test_cross_view_gallery_by_hand() -> None:
    """The probe's own view of its subject is nearest and left out; another subject in that view is not."""
    places, subject = [0, 0.1, 0.2, 0.3, 5], [1, 1, 2, 1, 3]
    result = by_hand(places, subject, [0, 1, 1, 1, 0], [0, 0, 0, 1, 0]).cross_view_gallery
    assert result is not None
    # subject 3 has no match: a miss, and no precision
    assert result.accuracy["NM"][0, 0].tolist() == [0, 50, 50]
    assert result.accuracy_matched["NM"][0, 0].tolist() == [0, 100, 100]
    assert result.mean("NM", measure="mAP") == 50
    with pytest.raises(ValueError, match="include_identical_view must be False"):
        result.mean("NM", include_identical_view=True)
    with pytest.raises(
        ValueError, match=r"mAP of NM: .*no probe's subject is in the gallery of the views compared$"
    ):
        by_hand([0, 1], [1, 2], [0, 1], [0, 0]).cross_view_gallery.mean("NM", measure="mAP")


def test_second_protocol_is_left_out_unless_given() -> None:
    result = evaluate(sequences(), cross_view_gallery=(), cross_view_probes=None)
    assert result.cross_view_gallery is None


def test_batches_chunks_and_order_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sequences()
    expected = evaluate(data)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    assert_equal(evaluate([tensor[order] for tensor in data]), expected)
    assert_equal(evaluate(data, chunk=1), expected)
    assert_equal(evaluate(data, chunk=100), expected)
    monkeypatch.setattr(cross_view, "_BLOCK", 7)
    accuracy = metric()
    for batch in zip(*(tensor.split(3) for tensor in data), strict=True):
        accuracy.update(*batch)
    assert_equal(accuracy.compute(), expected)
    assert_equal(accuracy.compute(), expected)  # asked twice
    accuracy.update(*(tensor[:0] for tensor in data))
    assert_equal(accuracy.compute(), expected)  # goes on after compute, an empty batch changes nothing
    accuracy.reset()
    accuracy.update(*(tensor[:40] for tensor in data))
    assert_equal(accuracy.compute(), evaluate([tensor[:40] for tensor in data]))


def test_forward_returns_the_result_of_its_batch() -> None:
    data, accuracy = sequences(), metric()
    halves = list(zip(*(tensor.split(40) for tensor in data), strict=True))
    for half in halves:
        assert_equal(accuracy(*half), evaluate(half))
    assert_equal(accuracy.compute(), evaluate(data))


def test_half_precision_and_autocast_compute_in_float32() -> None:
    embeddings, *labels = sequences(seed=3)
    # far from the origin: in 16 bit the difference of squares would be lost
    half = (embeddings + 20).bfloat16()
    expected = evaluate((half.float(), *labels))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal(evaluate((half, *labels)), expected)
        assert_equal(evaluate((half.float(), *labels)), expected)
    assert_equal(evaluate((half.double(), *labels)), expected)


def test_half_precision_storage_moves_nothing_by_a_twentieth_of_a_point() -> None:
    generator = torch.Generator().manual_seed(0)
    subject, condition, view = (
        x.flatten()
        for x in torch.meshgrid(torch.arange(200), torch.arange(2), torch.arange(14), indexing="ij")
    )
    centre = torch.randn(200, 4, 32, generator=generator)
    embeddings = 0.7 * centre[subject] + torch.randn(len(subject), 4, 32, generator=generator)
    means = []
    for store_dtype in (None, torch.float16):
        accuracy = CrossViewAccuracy(
            ["00", "01"], [str(i) for i in range(14)], ["01"], {"NM": ["00"]}, store_dtype=store_dtype
        )
        for batch in zip(*(x.split(64) for x in (embeddings, subject, condition, view)), strict=True):
            accuracy.update(*batch)
        assert {stored.dtype for stored in accuracy.embeddings} == {store_dtype or torch.float32}
        result = accuracy.compute()
        means.append([result.mean("NM", 1), result.mean("NM", 5), result.mean("NM", measure="mAP")])
    assert 60 < means[0][0] < 95  # neither easy nor hopeless
    assert means[0] == pytest.approx(means[1], abs=0.05)


def test_large_values_are_refused_where_the_stored_type_or_a_distance_overflows() -> None:
    embeddings, *labels = sequences()
    metric().update(1e10 * embeddings, *labels)
    with pytest.raises(ValueError, match="80 of 80 sequences hold NaN, infinite or huge values"):
        metric(store_dtype=torch.float16).update(1e10 * embeddings, *labels)
    with pytest.raises(ValueError, match="80 of 80 sequences hold NaN, infinite or huge values"):
        metric().update(1e30 * embeddings, *labels)


def test_stored_tensors_are_shared_not_cloned() -> None:
    """Torchmetrics copies the state before it gathers from other processes, and in `forward`."""
    accuracy = metric()
    accuracy.update(*sequences())
    copy = accuracy._copy_state_dict()
    assert copy["embeddings"] is not accuracy.embeddings
    assert copy["embeddings"][0] is accuracy.embeddings[0]
    assert copy["labels"][0] is accuracy.labels[0]


def resident(field: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at most since `clear_refs` (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be read on this system"
)
@pytest.mark.parametrize(("store_dtype", "share"), [(None, 1.0), (torch.float16, 0.5)])
def test_memory_is_one_copy_of_the_embeddings(
    store_dtype: torch.dtype | None, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks are as small beside the whole as those of OU-MVLP are; a second copy would
    double the peak.
    """
    monkeypatch.setattr(cross_view, "_BLOCK", 16)
    monkeypatch.setattr(retrieval, "_VALUES", 2**20)
    accuracy = metric(store_dtype=store_dtype, cross_view_gallery=(), cross_view_probes=None)
    accuracy.update(torch.ones(1, 32, 2048), *torch.zeros(3, 1, dtype=torch.int64))
    accuracy.compute()
    accuracy.reset()  # libraries are loaded, buffers are there
    gc.collect()
    # what other tests have freed would hide a copy
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    generator = torch.Generator().manual_seed(0)
    before, total, count = resident("VmRSS"), 0, 960
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for start in range(0, count, 4):
        batch = torch.randn(4, 32, 2048, generator=generator)
        total += batch.nbytes
        index = torch.arange(start, start + 4)
        accuracy.update(batch, index // 16, torch.where(index % 32 == 0, 4, index % 2), index % 3)
    accuracy.compute()
    assert total > 250e6
    assert resident("VmHWM") - before < (share + 0.3) * total


def test_gradients_are_not_kept() -> None:
    embeddings, *labels = sequences()
    accuracy = metric()
    accuracy.update(embeddings.requires_grad_(), *labels)
    assert not accuracy.embeddings[0].requires_grad


def test_embeddings_all_the_same_recognise_nobody() -> None:
    _, *labels = sequences()
    assert evaluate((torch.ones(80, 4, 8), *labels)).mean("NM") == 0


def by_hand(places: list[float], subject: list[int], condition: list[int], view: list[int], **settings: Any):
    return evaluate(
        (
            torch.tensor(places, dtype=torch.float32).reshape(-1, 1, 1),
            *map(torch.tensor, (subject, condition, view)),
        ),
        **settings,
    )


def test_missing_views_are_left_out_of_means() -> None:
    """Gallery at 000 (subjects 1, 2) and 045 (subject 1); probes at 000 (1, 2) and 090 (2)."""
    result = by_hand([0, 10, 0, 1, 9, 8], [1, 2, 1, 1, 2, 2], [0, 0, 0, 4, 4, 4], [0, 0, 1, 0, 0, 2])
    nan = math.nan
    first = torch.tensor([[100, 50, nan], [nan, nan, nan], [100, 0, nan]], dtype=torch.float64)
    torch.testing.assert_close(result.accuracy["NM"][:, :, 0], first, equal_nan=True)
    first = torch.tensor([[100, 100, nan], [nan, nan, nan], [100, nan, nan]], dtype=torch.float64)
    torch.testing.assert_close(result.accuracy_matched["NM"][:, :, 0], first, equal_nan=True)
    assert result.per_view("NM").nan_to_num(-1).tolist() == [50, -1, 50]
    assert result.per_view("NM", include_identical_view=True).nan_to_num(-1).tolist() == [75, -1, 50]
    assert result.mean("NM") == 50
    assert result.mean("NM", matched=True) == 100
    assert result.mean("NM", include_identical_view=True) == 62.5
    # a rank beyond the gallery's size does not find who is not there
    assert result.accuracy["NM"][0, 1].tolist() == [50, 50, 50]


def test_one_subject() -> None:
    result = by_hand([0, 1, 2, 3], [5] * 4, [0, 0, 4, 4], [0, 1, 0, 1])
    assert result.mean("NM") == result.mean("NM", matched=True) == 100


def test_one_view_needs_identical_views() -> None:
    result = by_hand([0, 9, 1, 8], [1, 2, 1, 2], [0, 0, 4, 4], [1, 1, 1, 1])
    with pytest.raises(ValueError, match="include_identical_view=True"):
        result.mean("NM")
    assert result.mean("NM", include_identical_view=True) == 100


def test_means_of_nothing_say_why() -> None:
    with pytest.raises(ValueError, match="no probe sequence was seen"):
        by_hand([0, 9], [1, 2], [0, 0], [0, 1]).mean("NM")
    with pytest.raises(ValueError, match="no gallery sequence was seen"):
        by_hand([0, 9], [1, 2], [4, 4], [0, 1]).mean("NM")
    with pytest.raises(ValueError, match="matched=False"):
        by_hand([0, 9], [1, 2], [0, 4], [0, 1]).mean("NM", matched=True)
    with (
        pytest.warns(UserWarning, match="called before the"),
        pytest.raises(ValueError, match="no probe sequence was seen"),
    ):
        metric().compute().mean("NM")


def test_what_was_not_computed_is_refused() -> None:
    result = evaluate(sequences())
    with pytest.raises(ValueError, match="the protocol's probes are NM, ALL"):
        result.mean("CL")
    for rank in (0, 4):
        with pytest.raises(ValueError, match="ranks 1 to 3"):
            result.mean("NM", rank=rank)
    with pytest.raises(ValueError, match="unknown measure 'map'; there are rank, mAP, mINP"):
        result.mean("NM", measure="map")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery": ["nm-1", "nm-9"]}, "gallery: unknown nm-9; the conditions are nm-1, nm-2"),
        ({"probes": {"NM": ["nm-9"]}}, "NM: unknown nm-9"),
        ({"probes": {"NM": ["nm-2"]}}, "NM: nm-2 is in the gallery too"),
        ({"probes": {}}, "probes: expected at least one"),
        ({"probes": {"NM": []}}, "NM: expected a list"),
        ({"views": ["000", "000"]}, "views: expected a list of different names"),
        ({"gallery": "nm-1"}, "gallery: expected a list"),
        ({"max_rank": 0}, "at least 1"),
        ({"store_dtype": torch.int64}, "store_dtype: expected None or one of .*float16"),
        ({"cross_view_gallery": ["nm-1"]}, "cross_view_probes: expected at least one"),
        ({"cross_view_probes": {"BG": ["bg"]}}, "cross_view_gallery: expected a list"),
        (
            {"cross_view_gallery": ["nm-1"], "cross_view_probes": {"BG": ["nm-1"]}},
            "BG: nm-1 is in the cross_view_gallery too",
        ),
    ],
)
def test_protocol_that_makes_no_sense(change: dict[str, Any], message: str) -> None:
    protocol = {"conditions": CONDITIONS, "views": VIEWS, "gallery": GALLERY, "probes": PROBES}
    with pytest.raises(ValueError, match=message):
        CrossViewAccuracy(**{**protocol, **change})


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.zeros(2, 4), "embeddings: expected a float tensor"),
        (0, torch.zeros(2, 4, 8, dtype=torch.int64), "embeddings: expected a float tensor"),
        (0, torch.zeros(2, 4, 9), "expected .parts, values. = .4, 8. as in the batches before"),
        (0, torch.full((2, 4, 8), torch.nan), "2 of 2 sequences hold NaN"),
        (1, torch.tensor([1]), "subject: expected one integer"),
        (1, torch.tensor([1.0, 2.0]), "subject: expected one integer"),
        (2, torch.tensor([0, 5]), "condition: expected indices 0 to 4 .nm-1, .*found 0 to 5"),
        (3, torch.tensor([-1, 0]), "view: expected indices 0 to 2 .000, 045, 090., found -1 to 0"),
    ],
)
def test_update_that_does_not_fit(position: int, value: Tensor, message: str) -> None:
    accuracy = metric()
    accuracy.update(*sequences())
    arguments = [torch.zeros(2, 4, 8), *torch.zeros(3, 2, dtype=torch.int64)]
    arguments[position] = value
    with pytest.raises(ValueError, match=message):
        accuracy.update(*arguments)
    assert_equal(accuracy.compute(), evaluate(sequences()))


def test_what_every_probe_found_whatever_the_batches() -> None:
    embeddings, subject, condition, view = sequences()
    number = 1000 + torch.randperm(80, generator=torch.Generator().manual_seed(1))
    whole, dealt = metric(), metric()
    whole.update(embeddings, subject, condition, view, number)
    for some in torch.randperm(80, generator=torch.Generator().manual_seed(2)).split(7):
        dealt.update(embeddings[some], subject[some], condition[some], view[some], number[some])
    found = whole.compute().table
    for one, other in zip(found, dealt.compute().table, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(whole.mean_embeddings(), dealt.mean_embeddings(), strict=True):
        assert torch.equal(one, other)

    sought = sorted(number[i].item() for i in range(80) if CONDITIONS[condition[i]] in PROBES["ALL"])
    # gallery by gallery, each in the order of the numbers
    assert found.sequence.tolist() == sought * len(VIEWS)
    distance = torch.cdist(embeddings.transpose(0, 1).double(), embeddings.transpose(0, 1).double()).mean(0)
    for row in map(ProbeTable._make, zip(*found, strict=True)):
        i = int((number == int(row.sequence)).nonzero())
        assert (row.subject, row.condition, row.view) == (subject[i], condition[i], view[i])
        gallery = [j for j in range(80) if CONDITIONS[condition[j]] in GALLERY and view[j] == row.gallery]
        near = min(gallery, key=distance[i].__getitem__)
        own = [j for j in gallery if subject[j] == subject[i]]
        assert row.nearest == number[near]
        assert row.nearest_distance == pytest.approx(distance[i, near].item(), rel=1e-5)
        match = min(own, key=distance[i].__getitem__, default=None)
        assert row.match == (-1 if match is None else number[match])
        if match is None:
            assert np.isnan(row.impostors_ahead)
            assert np.isinf(row.match_distance)
            continue
        assert row.match_distance == pytest.approx(distance[i, match].item(), rel=1e-5)
        assert row.impostors_ahead == sum(
            distance[i, j] <= distance[i, match] for j in gallery if j not in own
        )


def test_distances_by_their_formulas() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(300, 3, 5), torch.randn(40, 3, 5)
    expected = torch.cdist(x.transpose(0, 1).double(), y.transpose(0, 1).double()).mean(0)
    assert torch.allclose(distances(x, y).double(), expected, rtol=1e-5)
    assert torch.allclose(distances(x.double(), y.double()), expected, rtol=1e-12)
    assert torch.allclose(distances(x, y.double()), expected, rtol=1e-12)  # float64 where one of them is
    cosine = 1 - torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=3).mean(2)
    assert torch.allclose(distances(x, y, "cosine"), cosine, atol=1e-6)
    with pytest.raises(ValueError, match="'cosinus'; choose one of euclidean, cosine"):
        distances(x, y, "cosinus")
    with pytest.raises(ValueError, match=r"same parts and values.*\(300, 3, 5\) and \(40, 3, 4\)"):
        distances(x, y[..., :4])


def test_the_number_of_threads_changes_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(500, 4, 16), torch.randn(300, 4, 16)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(distances(x, y))
        assert torch.get_num_threads() == count
    torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_an_evaluation_in_inference_mode_on_several_threads() -> None:
    """As Lightning evaluates: what a thread changes is a tensor of that mode."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.inference_mode():
        found = evaluate(sequences())
    torch.set_num_threads(threads)
    assert_equal(found, evaluate(sequences()))


def test_many_matches_rank_as_few_do(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    near, own = torch.rand(9, 60).round(decimals=1), torch.rand(9, 60) < 0.3  # with ties
    one_by_one = retrieval.rank(near, own)
    monkeypatch.setattr(retrieval, "_MANY", 1)
    for mine, theirs in zip(retrieval.rank(near, own), one_by_one, strict=True):
        assert torch.equal(mine, theirs)


def test_a_table_comes_back_from_its_arrays() -> None:
    result = evaluate(sequences())
    again = probes.from_arrays(
        probes.to_arrays(result.table, len(VIEWS)), result.gallery_sequences.numpy() > 0
    )
    for name, mine, theirs in zip(ProbeTable._fields, again, result.table, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


def test_resampled_subjects_by_a_loop() -> None:
    """A weight for each subject is as if its probes had come that often."""
    result = evaluate(sequences())
    table, subjects = probes.compact_subjects(result.table.of(result.probes["ALL"]))
    weights = np.random.default_rng(0).multinomial(
        len(subjects), np.full(len(subjects), 1 / len(subjects)), size=3
    )
    for matched in (False, True):
        fast = probes.tally(table, len(VIEWS), len(subjects), k=2, matched=matched).percent(weights)
        for again, row in zip(weights, fast, strict=True):
            repeated = table.where(np.repeat(np.arange(len(table.view)), again[table.subject]))
            slow = probes.tally(repeated, len(VIEWS), len(subjects), k=2, matched=matched).percent()
            np.testing.assert_allclose(row, slow)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # on purpose: processes without a sequence
@pytest.mark.parametrize("shares", [[80, 0, 0], [30, 40, 10], [0, 0, 0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_processes_with_unequal_shares_gather_everything(shares: list[int], dtype: torch.dtype) -> None:
    """Threads stand for the processes; what they exchange has to agree in number, dtype and dimensions."""
    embeddings, *labels = sequences()
    data = [tensor[: sum(shares)] for tensor in (embeddings.to(dtype), *labels)]
    barrier, exchanged, results = threading.Barrier(len(shares), timeout=20), {}, {}

    def run(process: int, part: list[Tensor]) -> None:
        def gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
            barrier.wait()
            exchanged[process] = tensor
            barrier.wait()
            tensors = [exchanged[i] for i in range(len(shares))]
            if any(other.dtype != tensor.dtype or other.ndim != tensor.ndim for other in tensors):
                barrier.abort()
            return tensors

        accuracy = metric(dist_sync_fn=gather, distributed_available_fn=lambda: True)
        for batch in zip(*(tensor.split(8) for tensor in part), strict=True):
            if len(batch[0]):
                accuracy.update(*batch)
        results[process] = accuracy.compute(), sum(map(len, accuracy.embeddings))

    starts = [sum(shares[:i]) for i in range(len(shares))]
    threads = [
        threading.Thread(target=run, args=(i, [tensor[start : start + share] for tensor in data]))
        for i, (start, share) in enumerate(zip(starts, shares, strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2]
    for process, (result, kept) in results.items():
        assert_equal(result, evaluate(data))
        assert kept == shares[process]  # its own share again


def test_examples() -> None:
    for module in (cross_view, retrieval):
        assert doctest.testmod(module).failed == 0
        assert doctest.testmod(module).attempted
