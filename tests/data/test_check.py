import csv
import shutil
from pathlib import Path

import cv2
import fake_trees
import numpy as np
import pytest
from rich.console import Console

from cstl.check import show
from cstl.data import Protocol, Store, open_store
from cstl.preparation.check import StoreCheck, check_store, contact_sheet, suspicion, write_check
from cstl.preparation.plan import Preparation
from cstl.preparation.prepare import prepare


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the fake CASIA-B tree, with frames changed afterwards."""
    folder = tmp_path_factory.mktemp("odd")
    fake_trees.casiab(folder / "raw")
    prepare(Preparation(folder / "raw", folder / "store", "casiab", fake_trees.CASIAB, 64), workers=1)
    store = open_store(folder / "store")
    frames = np.load(folder / "store/frames.npy")
    start, length = store.starts, store.lengths
    frames[start[0] : start[0] + length[0], :60] = 0
    frames[start[1] : start[1] + length[1]] = 255
    frames[start[2] : start[2] + length[2]] = frames[start[2]]
    frames[start[3] : start[3] + length[3]] = np.roll(frames[start[3] : start[3] + length[3]], 9, axis=2)
    assert length[4] == length[5]
    frames[start[5] : start[5] + length[5]] = frames[start[4] : start[4] + length[4]]
    np.save(folder / "store/frames.npy", frames)
    fake_trees.forget_checksums(folder / "store")
    return open_store(folder / "store")


def shown(check: StoreCheck) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        show(check, console)
    return capture.get()


def test_counts(store: Store, protocol: Protocol) -> None:
    check = check_store(store, protocol, {"subjects": 6, "test_sequences": [10, 11], "sequences": [0, 40]})
    assert check.sequences.tolist() == [[6, 6]] * 3
    assert check.sequences.sum() == len(store) == 36
    lengths = store.lengths[(store.conditions == "nm-02") & (store.views == "090")]
    row = (check.least[1, 1], check.median[1, 1], check.most[1, 1])
    assert row == (lengths.min(), np.median(lengths), lengths.max())
    assert check.missing == []
    assert check.suspicious == []
    numbers = {
        (count.what, count.source): (count.found, count.expected, count.verdict) for count in check.counts
    }
    assert numbers == {
        ("subjects", "protocol"): (6, "6", "as expected"),
        ("train subjects", "protocol"): (4, "4", "as expected"),
        ("test subjects", "protocol"): (2, "2", "as expected"),
        ("sequences", "protocol"): (36, "36", "as expected"),
        ("train sequences", "protocol"): (24, "24", "as expected"),
        ("test sequences", "protocol"): (12, "12", "as expected"),
        ("subjects", "published"): (6, "6", "as expected"),
        ("test sequences", "published"): (12, "10 to 11", "1 more"),
        ("sequences", "published"): (36, "at most 40", "as expected"),
    }
    assert "tiny 64×44: sequences" in shown(check)
    assert "1 more" in shown(check)


def test_an_unknown_published_count(store: Store, protocol: Protocol) -> None:
    with pytest.raises(
        ValueError, match=r"dataset\.published: unknown count people; the choices are subjects, train_su"
    ):
        check_store(store, protocol, {"people": 6})


def test_missing_and_suspicious_sequences_are_named(odd: Store, tmp_path: Path) -> None:
    check = check_store(odd, fake_trees.CASIAB)
    present = set(zip(odd.subjects, odd.conditions, odd.views, strict=True))
    assert len(check.missing) == 6
    assert ("002", "nm-01", "000") in check.missing
    assert not present & set(check.missing)
    names = [(str(odd.subjects[i]), str(odd.conditions[i]), str(odd.views[i])) for i in range(6)]
    assert check.suspicious == [
        (*names[0], "too few pixels"),
        (*names[1], "too many pixels"),
        (*names[2], "constant"),
        (*names[3], "not centred"),
        (*names[5], f"the same frames as another sequence: {' '.join(names[4])}"),
    ]
    text = shown(check)
    assert "6 of the protocol's sequences are missing" in text
    assert "5 sequences are suspicious: 1 constant, 1 not centred" in text

    write_check(check, contact_sheet(odd, 5), tmp_path / "a b/out")
    tables = {
        path.stem: list(csv.reader(path.open(newline=""))) for path in (tmp_path / "a b/out").glob("*.csv")
    }
    assert {name: len(rows) for name, rows in tables.items()} == {"counts": 7, "missing": 7, "suspicious": 6}
    assert tables["counts"][0] == [
        "condition",
        "view",
        "sequences",
        "least_frames",
        "median_frames",
        "most_frames",
    ]
    assert tables["counts"][1] == ["nm-01", "000", "2", "5", "5.5", "6"]
    sheet = cv2.imread(str(tmp_path / "a b/out/contact_sheet.png"), cv2.IMREAD_GRAYSCALE)
    assert sheet.shape == (5 * 66, 200 + 12 * 46)


def test_a_contact_sheet_is_the_same_every_time(store: Store) -> None:
    np.testing.assert_array_equal(contact_sheet(store, 4, seed=2), contact_sheet(store, 4, seed=2))
    assert (contact_sheet(store, 4, seed=2) != contact_sheet(store, 4, seed=3)).any()
    assert contact_sheet(store, 1000).shape[0] == 36 * 66


def test_a_store_that_lacks_a_whole_condition_and_a_subject(
    raw_tree: Path, tmp_path: Path, protocol: Protocol
) -> None:
    raw = Path(shutil.copytree(raw_tree, tmp_path / "raw", ignore=shutil.ignore_patterns("nm-02", "003")))
    prepare(Preparation(raw, tmp_path / "part", "tiny", protocol, 64), workers=1)
    check = check_store(open_store(tmp_path / "part"), protocol)
    assert check.sequences[1].tolist() == [0, 0]
    assert len(check.missing) == 6 * 2 + 4
    assert "–" in shown(check)


@pytest.mark.parametrize("size", [(64, 44), (128, 88)])
def test_good_silhouettes_are_not_suspicious(size: tuple[int, int]) -> None:
    for seed in range(5):
        assert suspicion(np.stack([fake_trees.aligned(seed, t, size) for t in range(6)])) is None


def test_silhouettes_that_are_not_aligned_are_suspicious() -> None:
    frames = np.stack(
        [cv2.resize(fake_trees.draw(0, t), (44, 64), interpolation=cv2.INTER_AREA) for t in range(6)]
    )
    assert suspicion(frames) in ("not centred", "too few pixels")
    low = np.stack([fake_trees.aligned(0, t, (64, 44)) for t in range(6)])
    low[:, :12] = 0
    assert suspicion(low) == "not centred"


def test_one_frame_is_not_called_constant() -> None:
    assert suspicion(fake_trees.aligned(0, 0, (64, 44))[None]) is None
