"""What a method is called, and where the paper's numbers may stand beside a result: only beside
what they were of.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from cstl.config import CONFIG_PATH
from cstl.data.datamodule import GaitDataModule
from cstl.data.protocol import protocol_of
from cstl.evaluate import evaluate
from cstl.reporting.comparison import compare
from cstl.reporting.folder import read_run
from cstl.reporting.published import caveats, coverage, method_name, published
from cstl.train import train
from cstl.trained import NOBODY, Trained

Configure = Callable[..., DictConfig]
TINY = ("dataset=tiny", "data.workers=0", "trainer=cpu")


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of a training run."""
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = compose("train", overrides=["name=x", *overrides])
    with open_dict(config):
        config.model.network.num_classes = 73 if config.dataset.name == "casiab" else 5153
    config = OmegaConf.masked_copy(config, ["res", "seed", "dataset", "data", "model", "trainer", "label"])
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def whole_store(config: dict[str, Any]) -> SimpleNamespace:
    """The table of a store that has all there is of a data set."""
    protocol = GaitDataModule(**arguments(config)).protocol
    names = [sorted(protocol.known_subjects), protocol.conditions, protocol.views]
    subjects, conditions, views = (part.ravel() for part in np.meshgrid(*names, indexing="ij"))
    size = {64: (64, 44), 128: (128, 88)}[config["res"]]
    return SimpleNamespace(
        subjects=subjects, conditions=conditions, views=views, height=size[0], width=size[1], fingerprint="f",
        about={"min_frames": protocol.min_frames},
    )  # fmt: skip


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    dataset = config["dataset"]
    of_store = {"store": dataset["store"], "dataset": dataset["name"], "res": config["res"]}
    return (
        of_store | {"protocol": protocol_of(dataset), "max_frames": config.get("max_frames")} | config["data"]
    )


def decide(config: dict[str, Any], *, trained: Trained | None = None, keep: Any = None, **about: Any) -> Any:
    """The decision on a store with all there is but the sequences that `keep` leaves out."""
    store = whole_store(config)
    if keep is not None:
        there = np.array(
            [keep(*names) for names in zip(store.subjects, store.conditions, store.views, strict=True)]
        )
        for name in ("subjects", "conditions", "views"):
            setattr(store, name, getattr(store, name)[there])
    store.about |= about
    data = GaitDataModule(**arguments(config))
    data.__dict__["store"] = store
    if trained is None:
        trained = Trained({config["dataset"]["name"]: data.train_subjects}, {}, {}, [])
    return published(data, config, trained, config["dataset"])


@pytest.fixture(scope="module")
def casiab() -> dict[str, Any]:
    return composed("dataset=casiab")


def changed(config: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The configuration with `model__network__parts=8` and the like."""
    config = deepcopy(config)
    for path, value in settings.items():
        *parents, key = path.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[key] = value
    return config


def test_the_published_setting_has_the_published_rows(casiab: dict[str, Any]) -> None:
    assert decide(casiab) == ("CSTL", None)
    assert decide(composed("dataset=casiab", "res=128")) == ("CSTL", None)
    # as life has it: some sequences are missing
    gone = {("109", "nm-05", "126"), ("090", "cl-01", "000"), ("090", "cl-01", "180")}
    assert decide(casiab, keep=lambda *sequence: sequence not in gone) == ("CSTL", None)
    # the authors' files say only how many classes there were
    assert decide(casiab, trained=NOBODY._replace(unknown=["the authors' weights"])) == ("CSTL", None)
    # another name for it does not change what it is
    assert decide(changed(casiab, label="Mine")) == ("CSTL", None)


def test_oumvlp_is_compared_where_its_split_is_whole() -> None:
    config = composed("dataset=oumvlp")
    lacking = lambda subject, condition, view: (int(subject) + int(view)) % 14 > 0  # noqa: E731  # as many as in life
    assert decide(config, keep=lacking) == ("CSTL", None)
    assert (
        "sequences of the test subjects"
        in decide(config, keep=lambda s, c, v: int(s) % 5 != 4 or c == "00").left_out
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model__network__ssfl": "none"}, "ssfl: none"),
        ({"model__network__scales": ["frame", "long"]}, "scales: frame, long"),
        ({"model__network__aggregation": "mean"}, "aggregation: mean"),
        ({"model__network__parts": 8}, "parts: 8"),
        ({"model__network__channels": [16, 32, 64]}, r"channels \[16, 32, 64\]"),
        ({"model__network__embedding_dim": 128}, "embedding_dim 128"),
        ({"model__network___target_": "my.nets.CSTL"}, "not the paper's CSTL"),
        ({"model__network___target_": "my.nets.GaitSet", "label": "CSTL"}, "not the paper's CSTL"),
        ({"model___target_": "my.Recognizer"}, "not the paper's CSTL"),
        ({"model__network__ssfl": "none", "label": "CSTL"}, "ssfl: none"),
        ({"max_frames": 30}, "first 30 frames"),
        ({"dataset__protocol__gallery": ["nm-01"]}, "gallery"),
        ({"dataset__protocol__probes__NM": ["nm-05"]}, "probes"),
        ({"dataset__protocol__views": ["000", "090"]}, "views"),
        ({"dataset__split": "ST"}, r"training subjects of the split \(23\)"),
        ({"dataset__protocol__exclude": []}, r"training subjects of the split \(74\)"),
        ({"dataset__protocol__exclude": ["005", "124"]}, r"testing subjects of the split \(49\)"),
        ({"dataset__protocol__validation": 10}, r"training subjects of the split \(63\)"),
        ({"model__network__num_classes": 23}, "trained on 23 subjects"),
    ],
)
def test_whatever_differs_leaves_the_rows_out(
    casiab: dict[str, Any], settings: dict[str, Any], reason: str
) -> None:
    found = decide(changed(casiab, **settings))
    assert found.method is None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found.left_out)


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (lambda s, c, v: s in ("075", "076", "077") or s < "075", "3 of 50 testing subjects"),
        (lambda s, c, v: s != "124", "49 of 50 testing subjects"),
        (lambda s, c, v: s != "001", "72 of 73 training subjects"),
        (lambda s, c, v: s >= "075", "0 of 73 training subjects"),
        (lambda s, c, v: not (c == "cl-02" and v == "180"), "cl-02 at view 180 of 0 test subjects"),
        (lambda s, c, v: s != "100" or (c != "cl-01" and c != "cl-02" and c != "bg-01"), "test subjects 100"),
        (lambda s, c, v: v != "090" or (c != "nm-01" and c != "nm-02" and c != "nm-03"), "5,350 sequences"),
    ],
)
def test_a_store_with_less_leaves_the_rows_out(casiab: dict[str, Any], keep: Any, reason: str) -> None:
    found = decide(casiab, keep=keep)
    assert found.method is None
    assert reason in found.left_out


def test_only_who_was_trained_as_published_is_compared(casiab: dict[str, Any]) -> None:
    subjects = [f"{number:03d}" for number in range(1, 75) if number != 5]
    for trained, reason in (
        (Trained({"casiab": subjects[:23]}, {}, {}, []), "on 23 subjects that are not"),
        (Trained({"casiab": [*subjects, "080"]}, {}, {}, []), "on 74 subjects that are not"),
        (Trained({"oumvlp": ["00001"]}, {}, {}, []), "was trained on oumvlp"),
        (Trained({"casiab": subjects, "oumvlp": ["00001"]}, {}, {}, []), "was also trained on oumvlp"),
        (Trained({"casiab": subjects}, {}, {}, ["the authors' weights"]), "not known whom"),
        (NOBODY._replace(unknown=["x.ckpt"]), "not known whom"),
    ):
        found = decide(casiab, trained=trained)
        assert found.method is None
        assert reason in found.left_out
    assert decide(casiab, min_frames=20).left_out == "the store has no sequence of fewer than 20 frames"


def test_where_nothing_was_published_nothing_is_left_out() -> None:
    assert decide(composed("dataset=synthetic")) == (None, None)
    assert decide(composed("dataset=oumvlp", "res=128")) == (None, None)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "CSTL"),
        ({"model__network__scales": ["long", "frame", "short"]}, "CSTL"),
        ({"model__network__parts": 32}, "CSTL"),
        ({"model__network__ssfl": "none"}, "CSTL (ssfl: none)"),
        ({"model__network__scales": ["frame"], "model__network__aggregation": "max"},
         "CSTL (scales: frame, aggregation: max)"),
        ({"model__network__parts": 8}, "CSTL (parts: 8)"),
        ({"model__network___target_": "my.nets.GaitSet"}, "GaitSet"),
        ({"model__network___target_": "my.nets.CSTL"}, "my.nets.CSTL"),
        ({"model__network___target_": "my.nets.GEI"}, "my.nets.GEI"),
        ({"label": "Mine", "model__network__parts": 8}, "Mine"),
    ],
)  # fmt: skip
def test_a_method_is_called_as_its_network(
    casiab: dict[str, Any], settings: dict[str, Any], name: str
) -> None:
    assert method_name(changed(casiab, **settings)) == name


@pytest.mark.parametrize("label", ["GEI", "difference", "CSTL (paper)", " ", "x" * 61, 7])
def test_a_label_is_no_other_row(label: Any) -> None:
    with pytest.raises(ValueError, match="label="):
        method_name({"label": label})


def test_coverage_stands_in_the_title(casiab: dict[str, Any]) -> None:
    store = whole_store(casiab)
    there = np.isin(store.subjects, ["001", "075", "076", "077"])
    for name in ("subjects", "conditions", "views"):
        setattr(store, name, getattr(store, name)[there])
    data = GaitDataModule(**arguments(casiab))
    data.__dict__["store"] = store
    assert coverage(data)["test_subjects"] == {"present": 3, "protocol": 50}
    data.max_frames = 9
    assert caveats(data, seen=2) == [
        "3 of 50 test subjects", "the first 9 frames of a sequence", "2 of 3 test subjects were trained on",
    ]  # fmt: skip


def test_every_output_names_the_network(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An ablation, as it is named in the table, its files, results.json, the report and the leaderboard."""
    name = "CSTL (ssfl: none)"
    report = train(configured("train", *TINY, "ablation=without_ssfl", "trainer.max_steps=1"))
    assert (report["method"], report["published"], report["published_left_out"]) == (name, None, None)
    assert report["measures"].keys() == {name, "GEI"}
    assert report["coverage"]["test_subjects"] == {"present": 2, "protocol": 2}
    assert f"NM {name}" in " ".join(capsys.readouterr().out.split())
    for ending in ("md", "csv", "tex"):
        assert "ssfl: none" in (tmp_path / f"run/table.{ending}").read_text()
    run_folder = read_run(tmp_path / "run")
    assert run_folder.method == name
    (table,), _ = compare([tmp_path / "run"])
    assert table.title.endswith(f"; {name}")

    again = evaluate(
        configured(
            "evaluate", f"checkpoint='{report['checkpoint']}'", "trainer=cpu", "label=Mine", folder="again"
        )
    )
    assert again["measures"].keys() == {"Mine", "GEI"}
    (table,), _ = compare([tmp_path / "run", tmp_path / "again"])
    assert {row.settings["method"] for row in table.rows} == {name, "Mine"}
    assert "method" in table.settings


def test_a_run_of_an_earlier_version_is_shown_without_the_papers_rows(
    configured: Configure, tmp_path: Path
) -> None:
    train(configured("train", *TINY, "ablation=mean_pooling", "trainer.max_steps=1"))
    folder = tmp_path / "run"
    results = json.loads((folder / "results.json").read_text())
    new = ("method", "published", "published_left_out", "coverage", "trained_subjects", "seen_test_subjects")
    old = {key: value for key, value in results.items() if key not in new}
    old["measures"] = {"CSTL": results["measures"][results["method"]]}
    (folder / "results.json").write_text(json.dumps(old))
    (folder / "table.csv").write_text(
        "# Tiny 64×44\nprobe,method,000,090,mean\nNM,CSTL,1,1,1\nNM,CSTL "
        "(paper),2,2,2\nNM,difference,-1,-1,-1\n"
    )
    found = read_run(folder)
    assert found.method == "CSTL (aggregation: mean)"
    assert found.table is not None
    assert [row.method for row in found.table.rows] == [found.method]
    assert found.results["measures"].keys() == {found.method}
    assert any("earlier version" in note for note in found.notes)
