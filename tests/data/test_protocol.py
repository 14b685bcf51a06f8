from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cstl.data import Protocol
from cstl.data.layouts import LAYOUTS
from cstl.data.protocol import as_protocol

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


CONF = Path(__file__).parents[2] / "conf/dataset"
SIZES = {  # subjects to train and test on, views, conditions
    "casiab": (73, 50, 11, 10),
    "oumvlp": (5153, 5154, 14, 2),
    "synthetic": (32, 16, 11, 10),
    "synthetic_large": (74, 50, 11, 10),
}


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_data_set_files(path: Path) -> None:
    config = OmegaConf.load(path)
    protocol = as_protocol(config.protocol)
    sizes = (protocol.train_subjects, protocol.test_subjects, protocol.views, protocol.conditions)
    assert tuple(map(len, sizes)) == SIZES[path.stem]
    assert config.name == path.stem
    assert config.layout in LAYOUTS
    assert protocol.min_frames == 3
    needed = {"subjects", "sequences", "frames", "iterations", "channels", "learning_rate", "milestones"}
    assert needed <= set(config.recipe)
    assert config.recipe.learning_rate == 1e-4
