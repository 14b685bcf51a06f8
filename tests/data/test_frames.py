import os
import pickle
from pathlib import Path

import cv2
import fake_trees
import numpy as np
import pytest

from cstl.data.frames import list_files, read_grey
from cstl.data.pickles import read_pickle

ARRAY = np.arange(5 * 64 * 44, dtype=np.uint8).reshape(5, 64, 44)


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("walk 10.png", "walk 9.PNG", "walk 009.png", "cover.png", "x.pkl", ".hidden.png", "a.txt"):
        (tmp_path / name).touch()
    files = list_files(str(tmp_path))
    assert [os.path.basename(path) for path in files.pictures] == ["walk 009.png", "walk 10.png"]
    assert [os.path.basename(path) for path in files.pickles] == ["x.pkl"]
    assert [(os.path.basename(path), reason) for path, reason in files.faults] == [
        ("cover.png", "no number in its name"),
        ("walk 9.PNG", "same number as another"),
    ]


@pytest.mark.parametrize(
    ("names", "order"),
    [
        # as text, but for case
        (("b-010.png", "B-009.png", "b-011.PNG"), ("B-009.png", "b-010.png", "b-011.PNG")),
        (("1-2.png", "1-10.png"), ("1-2.png", "1-10.png")),
        (("a1b22.png", "a11b2.png"), ("a1b22.png", "a11b2.png")),  # as long, and not alike
        (("2024-01.png", "2023-02.png"), ("2023-02.png", "2024-01.png")),
    ],
)
def test_names_that_are_alike_are_in_the_same_order_as_others(
    tmp_path: Path, names: tuple[str, ...], order: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert [os.path.basename(path) for path in list_files(str(tmp_path)).pictures] == list(order)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array", [ARRAY, np.asfortranarray(ARRAY), ARRAY[:, ::2]], ids=["C", "Fortran", "strided"]
)
def test_arrays_of_every_pickle_protocol(tmp_path: Path, protocol: int, array: np.ndarray) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(array, protocol))
    np.testing.assert_array_equal(read_pickle(str(tmp_path / "x.pkl")), array)


@pytest.mark.parametrize("inside", [b"numpy.core", b"numpy._core"])
def test_arrays_of_numpy_1_and_2(tmp_path: Path, inside: bytes) -> None:
    data = pickle.dumps(ARRAY, 3).replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", inside)
    assert inside + b".multiarray" in data
    (tmp_path / "x.pkl").write_bytes(data)
    np.testing.assert_array_equal(read_pickle(str(tmp_path / "x.pkl")), ARRAY)


class Calls:
    """Unpickled, it calls what it is given."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("hidden", [False, True])
def test_code_is_not_run(tmp_path: Path, protocol: int, hidden: bool) -> None:
    ran = tmp_path / "ran"
    evil: object = fake_trees.Evil(ran)
    if hidden:  # inside an array of objects
        evil = np.array([evil, None], dtype=object)
    data = pickle.dumps(evil, protocol)
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=r"wants \w+\.mkdir, not an array: refused, nothing of it was run"):
        read_pickle(str(tmp_path / "x.pkl"))
    assert not ran.exists()
    pickle.loads(data)
    assert ran.exists()  # it would have


@pytest.mark.parametrize(
    "call",
    [
        (eval, "1"),
        (os.getenv, "HOME"),
        (np.load, "x.npy"),
        (np.memmap, "x"),
        (__import__, "os"),
        (bytearray, 10),
    ],
    ids=lambda call: call[0].__name__,
)
def test_only_arrays_are_admitted(tmp_path: Path, call: tuple[object, ...]) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Calls(*call), 4))
    with pytest.raises(ValueError, match=r"not an array: refused"):
        read_pickle(str(tmp_path / "x.pkl"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty pickle"),
        (b"no pickle", "unreadable pickle"),
        (pickle.dumps(ARRAY)[:-1], "unreadable pickle"),
        (pickle.dumps(ARRAY, 2)[: len(ARRAY.tobytes()) // 2], "unreadable pickle"),
        (pickle.dumps(ARRAY, 4).replace(b"K\x05K@", b"K\x06K@"), "values do not fill its shape"),
        (pickle.dumps(ARRAY.astype(np.float32)), r"array float32 \(T, 64, 44\), expected uint8"),
        (pickle.dumps(ARRAY.astype(object)), r"array object \(T, 64, 44\)"),
        (pickle.dumps(ARRAY[0]), r"array uint8 \(T, 44\)"),
        (pickle.dumps(ARRAY[..., None]), r"array uint8 \(T, 64, 44, 1\)"),
        (pickle.dumps(ARRAY[0, 0, 0]), "numpy.*scalar, not an array"),
        (pickle.dumps({"silhouettes": ARRAY}), "pickle of a dict"),
        (pickle.dumps(None), "pickle of a NoneType"),
        (pickle.dumps(np.ndarray), "pickle of numpy.ndarray"),
        (b"cnumpy\ndtype\n(S'u1'\ntRcnumpy.core.multiarray\n_reconstruct\n(tRI1\nb.", "unreadable pickle"),
    ],
)
def test_other_and_damaged_pickles(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_pickle(str(tmp_path / "x.pkl"))


def test_large_frames_are_decoded_whole(tmp_path: Path) -> None:
    """OpenCV's reduced decoding would give other frames."""
    image = fake_trees.draw(3, 2, (980, 1280))
    (tmp_path / "1.png").write_bytes(fake_trees.png(image))
    np.testing.assert_array_equal(read_grey(str(tmp_path / "1.png")), image)
    half = cv2.imread(str(tmp_path / "1.png"), cv2.IMREAD_REDUCED_GRAYSCALE_2)
    assert (fake_trees.align_silhouette(half, 64) != fake_trees.align_silhouette(image, 64)).any()
