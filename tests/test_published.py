"""What a method is called, and where the paper's numbers may stand beside a result: only beside
what they were of.
"""

import csv
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

import cstl
from cstl import models
from cstl.config import CONFIG_PATH
from cstl.data.datamodule import GaitDataModule
from cstl.data.protocol import as_protocol, protocol_of
from cstl.evaluate import evaluate
from cstl.files import read_yaml
from cstl.reporting.comparison import compare
from cstl.reporting.comparison_page import write_page
from cstl.reporting.folder import read_run
from cstl.reporting.leaderboard import to_markdown
from cstl.reporting.page import report_run
from cstl.reporting.published import (
    Published,
    _arguments_of,
    caveats,
    coverage,
    method_name,
    published,
    published_results,
)
from cstl.train import train
from cstl.trained import NOBODY, Trained

Configure = Callable[..., DictConfig]
PAPER = Path(cstl.__file__).parent / "paper"
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


def decide(
    config: dict[str, Any],
    *asked: str,
    trained: Trained | None = None,
    keep: Any = None,
    **about: Any,
) -> Any:
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
    return published(data, config, trained, config["dataset"], asked)


def beside(found: Any) -> tuple[str | None, str | None]:
    return found.compared, found.left_out


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


def with_005(config: dict[str, Any]) -> dict[str, Any]:
    """The incomplete subject is trained on, too."""
    return changed(config, dataset__protocol__exclude=[], model__network__num_classes=74)


def test_the_published_setting_has_the_published_rows(casiab: dict[str, Any]) -> None:
    assert beside(decide(casiab)) == ("CSTL (paper)", None)
    assert beside(decide(composed("dataset=casiab", "res=128"))) == ("CSTL (paper)", None)
    # as life has it: some sequences are missing
    gone = {("109", "nm-05", "126"), ("090", "cl-01", "000"), ("090", "cl-01", "180")}
    assert beside(decide(casiab, keep=lambda *sequence: sequence not in gone)) == ("CSTL (paper)", None)
    # the authors' files say only how many classes there were
    assert beside(decide(casiab, trained=NOBODY._replace(unknown=["the authors' weights"]))) == (
        "CSTL (paper)",
        None,
    )
    # another name for it does not change what it is
    assert beside(decide(changed(casiab, label="Mine"))) == ("CSTL (paper)", None)


def test_oumvlp_is_compared_where_its_split_is_whole() -> None:
    config = composed("dataset=oumvlp")
    lacking = lambda subject, condition, view: (int(subject) + int(view)) % 14 > 0  # noqa: E731  # as many as in life
    assert beside(decide(config, keep=lacking)) == ("CSTL (paper)", None)
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
        ({"model___target_": "my.Recognizer"}, "trained by my.Recognizer, not as published"),
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
    assert found.compared is None
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
    assert found.compared is None
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
        assert found.compared is None
        assert reason in found.left_out
    assert decide(casiab, min_frames=20).left_out == "the store has no sequence of fewer than 20 frames"


def test_where_nothing_was_published_nothing_is_left_out() -> None:
    assert beside(decide(composed("dataset=synthetic"))) == (None, None)
    assert beside(decide(composed("dataset=oumvlp", "res=128"))) == (None, None)
    # of a network of one's own, whatever its class is called
    for mine in ({}, {"label": "CSTL"}):
        network = {"model__network___target_": "my.nets.CSTL", **mine}
        assert beside(decide(changed(composed("dataset=casiab"), **network))) == (None, None)


def test_every_published_row_can_stand_in_a_table() -> None:
    """The file is whole: no number twice, all percentages, each with a source, in views of its data set."""
    lines = list(csv.DictReader((PAPER / "published.csv").read_text(encoding="utf-8").splitlines()))
    keys = [tuple(line.values())[:10] for line in lines]
    assert len(set(keys)) == len(keys)
    assert sum(len(row) for found in published_results() for row in found.rank1.values()) == len(lines)
    for found in published_results():
        rules = read_yaml(PAPER / f"{found.dataset}.yaml")
        rules = read_yaml(PAPER / f"{rules['like']}.yaml") if "like" in rules else rules
        protocol = as_protocol(rules["protocol"])
        assert (found.split, found.rule) == (rules["split"], "every probe")
        assert found.rank1.keys() == protocol.probes.keys()
        for row in found.rank1.values():
            assert set(row) in ({"mean"}, {*protocol.views, "mean"})
            assert all(0 < value < 100 for value in row.values())
            if len(row) > 1:  # three means are not quite their rows', as printed
                assert (
                    abs(sum(row[view] for view in protocol.views) / len(protocol.views) - row["mean"]) < 0.14
                )
        assert found.source
        assert found.name((0, 0), 0)[60:] == ""  # a table that is read takes so long a name
    names = [(found.dataset, found.name((64, 44), 73)) for found in published_results()]
    assert len(set(names)) == len(names)


def test_the_rules_are_of_arguments_that_the_networks_have() -> None:
    rules = read_yaml(PAPER / "methods.yaml")
    methods = {found.method for found in published_results()}
    assert rules.keys() <= methods
    for name, rule in rules.items():
        network = getattr(models, rule["classes"][0].rpartition(".")[2], None)
        given = {key for arguments in rule.values() if isinstance(arguments, dict) for key in arguments}
        if network is not None:
            assert {*given, *rule.get("named", ())} <= signature(network).parameters.keys(), name


class Net(nn.Module):
    """A network by triplets alone, as several of the published ones are."""

    def __init__(self, channels: Sequence[int] = (32, 64, 128), kind: str = "p3d") -> None:
        super().__init__()


def ran(network: str, casiab: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The configuration of a run of another of our networks."""
    config = deepcopy(casiab)
    config["model"]["network"] = {"_target_": f"cstl.models.{network}", **settings}
    return config


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GaitBase", "DeepGaitV2", "MT3D"):
        monkeypatch.setattr(models, name, Net, raising=False)
    _arguments_of.cache_clear()
    monkeypatch.setattr("cstl.reporting.published._arguments_of", _arguments_of.__wrapped__)


@pytest.mark.usefixtures("nets")
def test_each_method_has_its_own_rows(casiab: dict[str, Any]) -> None:
    """Of the method that ran, by its class and widths, and by who trained it on as many subjects."""
    seventy_four = with_005(casiab)
    assert beside(decide(ran("GaitSet", casiab))) == ("GaitSet (paper)", None)
    assert beside(decide(ran("GaitSet", seventy_four))) == ("GaitSet (OpenGait)", None)
    assert beside(decide(ran("GaitBase", seventy_four))) == ("GaitBase (OpenGait)", None)
    assert decide(ran("GaitBase", casiab)).left_out == (
        "the training subjects of the split (73) are not the 74 published ones, they differ in 005"
    )
    wide = ran("GaitSet", casiab, channels=[64, 128, 256])
    assert decide(wide).left_out == "the network has channels [64, 128, 256], the published one [32, 64, 128]"
    oumvlp = composed("dataset=oumvlp")
    of_oumvlp = lambda config: decide(config, keep=lambda s, c, v: (int(s) + int(v)) % 14 > 0)  # noqa: E731
    assert of_oumvlp(ran("GaitSet", oumvlp, channels=[64, 128, 256])).compared == "GaitSet (paper)"
    assert of_oumvlp(ran("GaitGL", oumvlp, variant="oumvlp")).compared == "GaitGL (paper)"
    assert "variant casiab" in of_oumvlp(ran("GaitGL", oumvlp)).left_out
    assert of_oumvlp(ran("DeepGaitV2", oumvlp, kind="3d")).compared == "DeepGaitV2-3D (OpenGait)"
    assert of_oumvlp(ran("DeepGaitV2", oumvlp)).left_out == (
        "the network is not the published DeepGaitV2-3D but one with kind: p3d"
    )
    # weights that others share tell how many classes there were, or not even that
    shared = NOBODY._replace(unknown=["OpenGait's weights"])
    assert decide(ran("GaitBase", seventy_four, num_classes=74), trained=shared).left_out is None
    unknown = NOBODY._replace(unknown=["the authors' weights"])
    assert "not known whom" in decide(ran("GaitSet", casiab), trained=unknown).left_out


@pytest.mark.usefixtures("nets")
def test_a_reading_says_that_it_is_one(casiab: dict[str, Any]) -> None:
    config = ran("MT3D", casiab)
    assert method_name(config) == "MT3D (reading, not a reproduction)"
    found = decide(config)
    assert found.compared == "MT3D (paper)"
    assert {probe: row["mean"] for probe, row in found.rows["MT3D (paper)"].items()} == {
        "NM": 96.7, "BG": 93.0, "CL": 81.5,
    }  # fmt: skip


def test_baselines_stand_beside_any_method(casiab: dict[str, Any]) -> None:
    """Also beside an ablation, and what of them is another than the result's stands in their names."""
    found = decide(casiab, "GaitSet", "gln")
    assert list(found.results) == [
        "CSTL (paper)", "GaitSet (paper)", "GaitSet (128×88, paper)", "GaitSet (74 subjects, OpenGait)",
        "GLN (128×88, paper)", "GLN without compact block (128×88, paper)",
        "GLN without compact block (128×88, 74 subjects, OpenGait)",
    ]  # fmt: skip
    assert beside(found) == ("CSTL (paper)", None)
    ablated = changed(casiab, model__network__ssfl="none")
    found = decide(ablated, "GaitPart")
    assert list(found.results) == ["GaitPart (paper)", "GaitPart (74 subjects, OpenGait)"]
    assert found.compared is None
    assert "ssfl: none" in found.left_out
    found = decide(ablated, "CSTL")  # asked for, so not left out, and compared with nothing
    assert list(found.results) == ["CSTL (paper)", "CSTL (128×88, paper)"]
    assert beside(found) == (None, None)


def test_the_papers_whole_table_beside_a_result() -> None:
    config = composed("dataset=casiab", "res=128")
    found = decide(config, "table1")
    assert list(found.results) == [
        "CSTL (paper)", "GaitSet (64×44, paper)", "GaitSet (paper)", "GaitPart (64×44, paper)",
        "MT3D (64×44, paper)", "GLN (paper)", "CSTL (64×44, paper)",
    ]  # fmt: skip
    assert {len(row) for rows in found.rows.values() for row in rows.values()} == {12}
    assert found.rows["CSTL (paper)"]["CL"]["mean"] == 87.0
    oumvlp = composed("dataset=oumvlp")
    found = decide(oumvlp, "table2", keep=lambda s, c, v: (int(s) + int(v)) % 14 > 0)
    assert list(found.results) == [
        "CSTL (paper)", "GaitSet (paper)", "GaitPart (paper)", "GLN (resolution not stated, paper)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "asked", "reason"),
    [
        ({"max_frames": 30}, "GaitSet", "only the first 30 frames"),
        ({"dataset__split": "ST"}, "GaitSet", r"training subjects of the split \(23\) are not the 73"),
        ({"dataset__protocol__gallery": ["nm-01"]}, "table1", "gallery"),
        (
            {},
            "GaitSit",
            "nothing of GaitSit on CASIA-B is known; there are GaitSet, GaitPart, MT3D, GLN, CSTL",
        ),
        ({}, "table2", "nothing of table2 on CASIA-B is known; there are .*table1"),
        ({"dataset__name": "mine"}, "GaitSet", "nothing of GaitSet on CASIA-B is known$"),
    ],
)
def test_baselines_are_refused_beside_another_protocol(
    casiab: dict[str, Any], settings: dict[str, Any], asked: str, reason: str
) -> None:
    found = decide(changed(casiab, **settings), asked)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found.refused)
    assert not any(result.is_asked(asked) for result in found.results.values())


def test_baselines_know_who_was_trained_on_and_what_the_store_has(casiab: dict[str, Any]) -> None:
    other = Trained({"oumvlp": ["00001"]}, {}, {}, [])
    assert "was trained on oumvlp" in decide(casiab, "GaitSet", trained=other).refused
    assert "49 of 50 testing" in decide(casiab, "GaitSet", keep=lambda s, c, v: s != "124").refused
    # 005 may be among them: so several were trained
    assert decide(with_005(casiab), "GaitSet").refused is None


def test_rows_of_other_protocols_are_never_in_one_table(
    casiab: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CASIA-B and its silhouettes segmented anew; every probe counted and the matched ones; splits."""
    again = changed(with_005(casiab), dataset__name="casiab_star")
    ours = decide(casiab, "GaitSet", "GaitBase", "GaitGL")
    anew = decide(again, "GaitSet", "GaitBase", "GaitGL")
    assert {found.dataset for found in ours.results.values()} == {"casiab"}
    assert {found.dataset for found in anew.results.values()} == {"casiab_star"}
    assert anew.rows["GaitBase (OpenGait)"]["NM"] == {"mean": 96.5}
    assert beside(anew) == (None, None)  # CSTL was not published on it

    gaitset = next(found for found in published_results() if found.method == "GaitSet")
    others = [
        gaitset._replace(rule="matched", method="Matched"),
        gaitset._replace(split="MT", method="Medium"),
    ]
    monkeypatch.setattr("cstl.reporting.published.published_results", lambda: (gaitset, *others))
    assert list(decide(casiab, "GaitSet").results) == ["GaitSet (paper)"]
    for other in ("Matched", "Medium"):
        assert decide(casiab, other).refused == (
            f"nothing of {other} on CASIA-B is known; there are GaitSet, table1"
        )


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
        ({"model__network___target_": "my.nets.Gait"}, "Gait"),
        ({"model__network___target_": "my.nets.GaitSet"}, "my.nets.GaitSet"),
        ({"model__network___target_": "my.nets.CSTL"}, "my.nets.CSTL"),
        ({"model__network___target_": "my.nets.GEI"}, "my.nets.GEI"),
        ({"label": "Mine", "model__network__parts": 8}, "Mine"),
    ],
)  # fmt: skip
def test_a_method_is_called_as_its_network(
    casiab: dict[str, Any], settings: dict[str, Any], name: str
) -> None:
    assert method_name(changed(casiab, **settings)) == name


@pytest.mark.parametrize(
    "label", ["GEI", "difference", "CSTL (paper)", "X (74 subjects, OpenGait)", " ", "x" * 61, 7]
)
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


def test_baselines_are_refused_before_anything_runs(configured: Configure, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^baselines=\[GaitSet\] .*: nothing of GaitSet on Tiny is known$"):
        train(configured("train", *TINY, "baselines=[GaitSet]", "trainer.max_steps=1"))
    assert not (tmp_path / "run/config.yaml").exists()
    config = configured("train", *TINY, "trainer.max_steps=1", "evaluate=false")
    checkpoint = train(config)["checkpoint"]
    with pytest.raises(ValueError, match="nothing of table1 on Tiny is known"):
        evaluate(
            configured(
                "evaluate", f"checkpoint='{checkpoint}'", "trainer=cpu", "baselines=table1", folder="e"
            )
        )
    assert not (tmp_path / "e/config.yaml").exists()


def test_published_rows_go_through_results_page_and_comparison(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {probe: {"mean": 90.0 + i} for i, probe in enumerate(("NM", "BG"))}
    found = published_results()[0]._replace(method="Other", by="paper", size=(64, 44), rank1=row)
    other = Published({"Other (paper)": found}, "Other (paper)")
    monkeypatch.setattr("cstl.running.evaluation.published", lambda *_: other)
    results = train(configured("train", *TINY, "trainer.max_steps=1"))
    assert results["published"] == "Other"
    assert results["published_rows"] == {"Other (paper)": {"rank1": row, "source": found.source}}
    run = read_run(tmp_path / "run")
    assert run.problems == {}
    assert run.table is not None
    assert [theirs.mean for theirs, _ in run.table.compared().values()] == [90.0, 91.0]
    page = report_run(tmp_path / "run").read_text()
    assert page.count("Other (paper)") > 3
    (table,), _ = compare([tmp_path / "run"])
    assert table.published == {"Other (paper)": [90.0, 91.0, 90.5]}
    assert "Other (paper): NM 90.0, BG 91.0, mean 90.5" in to_markdown(table)
    write_page([table], [], tmp_path / "comparison.html")
    assert "Other (paper)" in (tmp_path / "comparison.html").read_text()


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
