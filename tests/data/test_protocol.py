import json
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from cstl.data import Protocol
from cstl.data.protocol import as_protocol, protocol_of

FIELDS = {
    "views": ["000", "018"],
    "conditions": ["nm-01", "nm-02"],
    "gallery": ["nm-01"],
    "probes": {"NM": ["nm-02"]},
    "train": ["001-004"],
    "test": ["005", "010-020:5"],
}


def test_ranges_and_exclusions() -> None:
    protocol = Protocol(**{**FIELDS, "exclude": ["002-003", "010"]})
    assert protocol.train_subjects == ("001", "004")
    assert protocol.test_subjects == ("005", "015", "020")
    assert protocol.known_subjects == {"001", "002", "003", "004", "005", "010", "015", "020"}


def test_oumvlp_split_has_the_published_sizes() -> None:
    protocol = Protocol(**{**FIELDS, "train": ["00001-10305:2"], "test": ["00002-10306:2", "10307"]})
    assert len(protocol.train_subjects) == 5153
    assert len(protocol.test_subjects) == 5154
    assert protocol.train_subjects[1] == "00003"
    assert "10307" in protocol.test_subjects


def test_lists_become_tuples_and_a_string_is_one_name() -> None:
    protocol = Protocol(**{**FIELDS, "train": "001-002"})
    assert protocol.train_subjects == ("001", "002")
    assert protocol.views == ("000", "018")
    assert protocol.probes == {"NM": ("nm-02",)}


def test_from_a_composed_configuration() -> None:
    assert as_protocol(OmegaConf.create(FIELDS)) == Protocol(**FIELDS)
    protocol = Protocol(**FIELDS)
    assert as_protocol(protocol) is protocol


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views": [0, 18]}, ["views", "found 0", "quote"]),
        ({"views": ["000", "000"]}, ["views", "000", "more than once"]),
        ({"views": []}, ["views", "at least one"]),
        ({"views": 5}, ["views", "list of names", "5"]),
        ({"views": ["a,b"]}, ["views", "a,b", "comma"]),
        ({"gallery": ["nm-09"]}, ["gallery", "nm-09", "nm-01, nm-02"]),
        ({"gallery": []}, ["gallery", "at least one"]),
        ({"probes": {}}, ["probes", "at least one"]),
        ({"probes": {"NM": []}}, ["probes.NM", "at least one condition"]),
        ({"probes": {"NM": ["cl-01"]}}, ["probes.NM", "cl-01"]),
        ({"probes": ["nm-02"]}, ["probes", "mapping"]),
        ({"train": ["001-005"]}, ["both train and test", "005"]),
        ({"train": ["001-003", "002"]}, ["train", "002", "more than once"]),
        ({"train": ["004-001"]}, ["train", "004-001", "no range"]),
        ({"train": ["001-004:0"]}, ["train", "001-004:0", "no range"]),
        ({"exclude": ["099"]}, ["exclude", "099", "neither"]),
        ({"min_frames": 0}, ["min_frames", "at least 1", "0"]),
        ({"validation": -1}, ["validation", "at least 0", "-1"]),
        ({"validation": 4}, ["validation", "4 of the 4 training subjects", "none to train on"]),
        ({"subjects": ["001-015"]}, ["1 subject", "does not have: 020", "it has 15, 001 to 015"]),
    ],
)
def test_errors(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0]) as error:
        Protocol(**{**FIELDS, **change})
    for word in words:
        assert word in str(error.value)


def test_wrong_and_missing_keys() -> None:
    with pytest.raises(ValueError, match="unknown key galery; the keys are views"):
        as_protocol({**FIELDS, "galery": []})
    with pytest.raises(ValueError, match="gallery missing"):
        as_protocol({name: value for name, value in FIELDS.items() if name != "gallery"})


def test_a_long_list_of_names_is_cut_short() -> None:
    with pytest.raises(ValueError, match=r"100 subject\(s\) in both .* 010, … \(100 in all\)"):
        Protocol(**{**FIELDS, "train": ["001-100"], "test": ["001-100"]})


def load(name: str) -> DictConfig:
    """A data set's file, as a composed configuration has it."""
    return OmegaConf.create({"res": 64, "dataset": OmegaConf.load(CONF / f"{name}.yaml")}).dataset


CONF = Path(__file__).parents[2] / "conf/dataset"
SIZES = {  # subjects to train and test on, views, conditions
    "casiab": (73, 50, 11, 10),
    "oumvlp": (5153, 5154, 14, 2),
    "synthetic": (32, 16, 11, 10),
    "synthetic_large": (74, 50, 11, 10),
}


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_data_set_files(path: Path) -> None:
    config = load(path.stem)
    protocol = protocol_of(config)
    sizes = (protocol.train_subjects, protocol.test_subjects, protocol.views, protocol.conditions)
    assert tuple(map(len, sizes)) == SIZES[path.stem]
    assert config.name == path.stem
    assert config.layout == "auto"
    assert protocol.min_frames == 3


def test_the_last_training_subjects_are_held_out() -> None:
    protocol = Protocol(**{**FIELDS, "exclude": ["004"], "validation": 1})
    assert protocol.train_subjects == ("001", "002")
    assert protocol.validation_subjects == ("003",)
    assert protocol.test_subjects == ("005", "010", "015", "020")
    assert Protocol(**FIELDS).validation_subjects == ()


def test_all_subjects_of_the_data_set_are_known_whatever_the_split() -> None:
    protocol = Protocol(**{**FIELDS, "subjects": ["001-020"], "exclude": ["019"]})
    assert len(protocol.known_subjects) == 20


def casiab(**changes: object) -> Protocol:
    config = load("casiab")
    config.update(changes)
    return protocol_of(config)


@pytest.mark.parametrize(
    ("split", "last", "train", "test"), [("LT", 74, 73, 50), ("MT", 62, 61, 62), ("ST", 24, 23, 100)]
)
def test_the_splits_of_casiab(split: str, last: int, train: int, test: int) -> None:
    protocol = casiab(split=split)
    assert protocol.train_subjects == tuple(f"{i:03d}" for i in range(1, last + 1) if i != 5)
    assert (len(protocol.train_subjects), len(protocol.test_subjects)) == (train, test)
    assert protocol.known_subjects == {f"{i:03d}" for i in range(1, 125)}
    assert as_protocol(asdict(protocol)) == protocol


def test_an_unknown_split() -> None:
    with pytest.raises(
        ValueError,
        match=r"unknown dataset\.split=XT; the choices are LT, MT, ST, or .*dataset\.split_file=PATH",
    ):
        casiab(split="XT")


@pytest.fixture
def split_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my split.json"


def test_a_split_file(split_file: Path) -> None:
    """Subject 005 takes part when the file names it."""
    split_file.write_text(json.dumps({"TRAIN_SET": ["001", "005"], "TEST_SET": ["002"], "NOTE": 1}))
    protocol = casiab(split_file="my split.json")
    assert (protocol.train_subjects, protocol.test_subjects) == (("001", "005"), ("002",))
    assert len(protocol.known_subjects) == 124
    own = as_protocol(FIELDS, split_file=str(split_file))
    assert own.known_subjects == {"001", "002", "005"}
    split_file.write_text(
        "\ufeff" + json.dumps({"TRAIN_SET": ["00003"], "TEST_SET": ["00001"]}), encoding="utf-8"
    )
    config = load("oumvlp")
    config.split_file = str(split_file)
    assert protocol_of(config).train_subjects == ("00003",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"TRAIN_SET": ["001", "002"], "TEST_SET": ["002"]}, "both train and test: 002"),
        ({"TRAIN_SET": ["001"]}, 'TEST_SET missing, found TRAIN_SET; expected {"TRAIN_SET"'),
        ({}, "TRAIN_SET missing, found no key"),
        ({"TRAIN_SET": ["001"], "TEST_SET": []}, "TEST_SET is []; expected"),
        ({"TRAIN_SET": "001", "TEST_SET": ["002"]}, "TRAIN_SET is '001'; expected"),
        ({"TRAIN_SET": [1], "TEST_SET": ["002"]}, "train: expected names, found 1; quote"),
        ({"TRAIN_SET": ["001", "001"], "TEST_SET": ["002"]}, "train: 001 listed more than once"),
        (
            {"TRAIN_SET": ["1"], "TEST_SET": ["002", "125"]},
            "2 subject(s) in train or test that the data set does not have",
        ),
        (["001"], "holds a list; expected"),
        ("{", "is no JSON file"),
    ],
)
def test_split_files_that_are_wrong(split_file: Path, content: object, words: str) -> None:
    split_file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=r"my split\.json") as error:
        casiab(split_file="my split.json")
    assert words in str(error.value)


def test_no_split_file(split_file: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no split file at dataset\.split_file=my split\.json \(from .*TRAIN_SET"
    ):
        casiab(split_file="my split.json")
