"""What is read from files is plain and bounded, what is written is whole, and names are shown as text."""

import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from cstl import files
from cstl.files import (
    check_npy,
    read_json,
    read_npz,
    read_rows,
    read_text,
    read_yaml,
    shown,
    shown_lines,
    write_json,
)


def npy(shape: str, descr: str = "|u1", data: bytes = b"") -> bytes:
    """A `.npy` file with any header."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(path: Path, **members: bytes) -> Path:
    """A `.npz` file of any members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"rank1": 3.5, "name": "Ü"})
    assert read_json(tmp_path / "a.json") == {"rank1": 3.5, "name": "Ü"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    with pytest.raises(TypeError), files.replacing(tmp_path / "a.json") as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert read_json(tmp_path / "a.json") == {"rank1": 3.5, "name": "Ü"}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10_000 + "]" * 10_000, "nested"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested more than 32"),
        ("9" * 1_000_000, "digits"),
        ("9" * 30, "64 bits"),
        ("1e999", "no finite number"),
        ("NaN", "NaN is no finite"),
        ("[-Infinity]", "no finite"),
        ('{"a": 1, "a": 2}', "key a comes twice"),
        ('"\\ud800"', "surrogates not allowed"),
        ("[" + "0," * 1_100_000 + "0]", "more than 1,000,000 values"),
        ("{", "no JSON file"),
        ("", "no JSON file"),
        ("[1]" + " " * 2**23, "bytes, expected at most"),
    ],
)
def test_json_that_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(tmp_path / "x.json")
    assert "x.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1]\nb: [*a, *a]", "an alias"),
        ("a: !!python/object/apply:os.mkdir [canary]", "a tag"),
        ("a: !!binary aGk=", "a tag"),
        ("[" * 10_000 + "]" * 10_000, "nested more than 32"),
        ("a: 1\na: 2", "key a comes twice"),
        ("a: 1" + ":1" * 100_000, "a number of"),
        ("a: " + "1" * 100_000, "a number of"),
        ("a: 0x" + "f" * 30, "64 bits"),
        ("? [1]\n: 2", "a key that is no text"),
        ("a: [b", "no plain YAML"),
        ("a:\t1\n\tb", "no plain YAML"),
        ("a: \x1b[31m", "no plain YAML"),
        ("a: 1 #" + "x" * 2**20, "bytes, expected at most"),
    ],
)
def test_yaml_that_is_refused(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml("x.yaml")
    assert "x.yaml" in str(caught.value)
    assert str(caught.value).isprintable()
    assert not Path("canary").exists()


def test_yaml_is_what_omegaconf_writes(tmp_path: Path) -> None:
    config = {
        "numbers": [1e-3, 1e16, -0.5, 3, float("inf"), 1e-4, 10_000_000_000],
        "names": [
            "000",
            "018",
            "1e3",
            "2020-01-01",
            "yes",
            "null",
            "0x1",
            "1:30",
            "",
            "~",
            "Ü",
            "a: b",
            "${x}",
        ],
        "nothing": None,
        "on": True,
        "empty": {},
        "list": [],
    }
    (tmp_path / "x.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)), encoding="utf-8")
    assert read_yaml(tmp_path / "x.yaml") == config
    (tmp_path / "x.yaml").write_text("5: a\ntrue: b\n1.5e-3: c")
    assert read_yaml(tmp_path / "x.yaml") == {"5": "a", "true": "b", "1.5e-3": "c"}


def test_interpolations_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "canary")
    (tmp_path / "x.yaml").write_text("title: ${oc.env:SECRET}\nother: ${title}")
    assert read_yaml(tmp_path / "x.yaml") == {"title": "${oc.env:SECRET}", "other": "${title}"}


WANTED = {"a": ("iu", 1)}


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy("(6000000000,)"), "not as long as its header"),
        (npy("(3,)", data=b"12"), "not as long as its header"),
        (npy("(1000000000000, 0, 64)"), "without values"),
        (npy("(-1,)"), "of shape"),
        (npy("(1,)", "|O", b"x" * 8), "array of object"),
        (npy("(1,)", "<U999999999"), "not as long|no array"),
        (npy("(2, 2)", data=b"1234"), r"a is uint8 \(2, 2\)"),
        (npy("(1,)", "<f4", b"1234"), "a is float32"),
        (npy("(" * 500), "no array"),
        (npy("(1,)") [:20], "no array"),
        (b"", "no array"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31), "another version"),
        (npy("(700000000,)", data=bytes(2**29)), "expected at most"),
    ],
)  # fmt: skip
def test_npz_whose_header_promises_something_else(member: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_npz(npz(tmp_path / "x.npz", a=member), WANTED)
    assert "x.npz" in str(caught.value)
    assert str(caught.value).isprintable()


def test_npz_that_is_damaged_or_lacks_an_array(tmp_path: Path) -> None:
    files.write_npz(tmp_path / "x.npz", {"a": np.arange(1000), "names": np.array(["x", "Ü"])})
    assert read_npz(tmp_path / "x.npz", {**WANTED, "names": ("U", 1)})["names"].tolist() == ["x", "Ü"]
    with pytest.raises(ValueError, match="b missing"):
        read_npz(tmp_path / "x.npz", {"b": ("iu", 1)})
    data = bytearray((tmp_path / "x.npz").read_bytes())
    for position in range(0, len(data), 7):
        spoilt = bytearray(data)
        spoilt[position] ^= 16
        (tmp_path / "y.npz").write_bytes(spoilt)
        try:
            found = read_npz(tmp_path / "y.npz", WANTED)["a"]
        except ValueError:
            continue
        np.testing.assert_array_equal(found, np.arange(1000))  # what was flipped says nothing of the array
    for text in (2**31, 0x110000, 0xD800):
        member = npy("(1,)", "<U1", struct.pack("<I", text))
        with pytest.raises(ValueError, match="a is no text"):
            read_npz(npz(tmp_path / "z.npz", a=member), {"a": ("U", 1)})
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "absent.npz", WANTED)


def test_an_npy_file_is_as_long_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((3, 64, 44), np.uint8))
    assert check_npy(path) == ((3, 64, 44), np.uint8)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="8,575 bytes, expected 8,576"):
        check_npy(path)
    for content in (b"", b"text", npy("(1000000000000, 0, 64)"), npy("(1000000000000, 64, 44)")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"no array|without values|bytes"):
            check_npy(path)


def test_tables_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("step,loss\n1,2.0\n2\n3,4.0,5\n4,1")
    rows = [{"step": "1", "loss": "2.0"}, {"step": "2"}, {"step": "3", "loss": "4.0"}]
    assert list(read_rows(path, whole_lines=True)) == rows
    for text in ("a\n" + "x" * 200_000, "a\n" + '"' + "x" * 200_000, ",".join(map(str, range(2000)))):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"x\.csv (is no CSV|has 2,000 columns)"):
            list(read_rows(path))


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    for path in (tmp_path, *([tmp_path / "pipe"] if hasattr(os, "mkfifo") else [])):
        if path.name == "pipe":
            os.mkfifo(path)
        for read in (read_text, read_json, read_yaml):
            with pytest.raises(ValueError, match="is no plain file"):
                read(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\nb\r\tc\x07", r"a\nb\r\tc\x07"),
        ("abc\u202egnp.exe", r"abc\u202egnp.exe"),
        ("\x9b31m\u2028", r"\x9b31m\u2028"),
        ("caf\udce9", r"caf\udce9"),
        ("Ü – 30 × 2…", "Ü – 30 × 2…"),
        ("x" * 400, "x" * 300 + "…"),
        (Path("a/\x1b"), "a/\\x1b"),
    ],
)
def test_names_are_shown_as_text(text: Any, seen: str) -> None:
    assert shown(text) == seen
    assert shown_lines(f"error:\n  {text}").split("\n")[0] == "error:"


def test_data_may_not_refer_to_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    wide: Any = 0
    for _ in range(20):
        wide = [wide] * 10
    for content in (endless, wide, {"a": (1,)}, {1: 2}, {"a": io.StringIO()}, {"a": np.float64(1)}, 2**64):
        with pytest.raises(ValueError, match=r"nested|more than|tuple|key|StringIO|float64"):
            files.plain_data(content)
    assert files.plain_data(json.loads('{"a": [1, 2.5, null, true, "x"]}')) is not None
