"""Who was trained on is not tested on without a word: other splits, sizes, names, and chains of weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from cstl.checkpoint import load_weights
from cstl.config import CONFIG_PATH
from cstl.evaluate import evaluate
from cstl.train import train
from cstl.trained import NOBODY, Trained, people, ranges, to_plain, training_of
from cstl.walkers.traits import subject_traits

Configure = Callable[..., DictConfig]
TINY = ("dataset=tiny", "data.workers=0", "trainer=cpu", "trainer.max_steps=1", "baseline=false")
# of them, 003 and 004 were trained on
OTHER = ("dataset.protocol.train=[001-002]", "dataset.protocol.test=[003-006]")


def of(path: str) -> Trained:
    weights = load_weights(path)
    return training_of(weights.config, weights.kept, path)


def test_an_evaluation_refuses_whom_it_meets_again(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(configured("train", *TINY))
    assert first["trained_subjects"] == {"tiny": {"subjects": 4, "names": ["001-004"]}}
    assert first["seen_test_subjects"] == {"subjects": 0, "names": []}
    kept = torch.load(first["checkpoint"], weights_only=True)
    assert kept["trained_subjects"] == {"tiny": ["001", "002", "003", "004"]}

    def tested(
        *overrides: str, checkpoint: str = first["checkpoint"], folder: str = "again"
    ) -> dict[str, Any]:
        typed = (f"checkpoint='{checkpoint}'", "dataset=tiny", "trainer=cpu", "baseline=false")
        return evaluate(configured("evaluate", *typed, *overrides, folder=folder))

    with pytest.raises(
        ValueError, match=r"was trained on 2 of the 4 test subjects of Tiny: 003, 004\..*allow_seen"
    ):
        tested(*OTHER)
    # by its store, under another name
    with pytest.raises(ValueError, match="2 of the 4 test subjects"):
        tested(*OTHER, "+dataset.people=elsewhere")
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"TRAIN_SET": ["005"], "TEST_SET": ["004", "006"]}))
    with pytest.raises(ValueError, match="1 of the 2 test subjects of Tiny: 004"):
        tested(f"+dataset.split_file={split}")
    # a checkpoint of 0.1 says it by its configuration
    old = {key: value for key, value in kept.items() if key not in ("trained_subjects", "provenance")}
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match="2 of the 4 test subjects"):
        tested(*OTHER, checkpoint=f"{tmp_path}/old.ckpt")

    capsys.readouterr()
    seen = tested(*OTHER, "allow_seen=true", folder="seen")
    assert seen["seen_test_subjects"] == {"subjects": 2, "names": ["003-004"]}
    assert "2 of 4 test subjects were trained on" in " ".join(capsys.readouterr().out.split())
    assert "2 of 4 test subjects were trained on" in (tmp_path / "seen/table.md").read_text()


def test_weights_pass_on_whom_they_know(configured: Configure, tmp_path: Path) -> None:
    first = train(configured("train", *TINY, folder="first"))
    start = f"init_from='{first['checkpoint']}'"
    with pytest.raises(ValueError, match=r"2 of the 4 test subjects of Tiny: 003, 004.*allow_seen=true"):
        train(configured("train", *TINY, *OTHER, start, folder="second"))
    assert not (tmp_path / "second/config.yaml").exists()  # the name stays free
    second = train(configured("train", *TINY, *OTHER, start, "allow_seen=true", folder="second"))
    assert second["trained_subjects"] == {"tiny": {"subjects": 4, "names": ["001-004"]}}
    assert second["seen_test_subjects"]["subjects"] == 2
    assert "2 of 4 test subjects were trained on" in (tmp_path / "second/table.md").read_text()
    # held-out subjects that were trained on could choose nothing
    with pytest.raises(ValueError, match="004"):
        train(configured("train", *TINY, start, "dataset.protocol.validation=1", folder="held"))

    # a third of the second; the first is gone
    Path(first["checkpoint"]).unlink()
    again = ("dataset.protocol.train=['002','005']", "dataset.protocol.test=['001','006']")
    with pytest.raises(ValueError, match="1 of the 2 test subjects of Tiny: 001"):
        train(configured("train", *TINY, *again, f"init_from='{second['checkpoint']}'", folder="third"))


def test_a_run_that_goes_on_still_knows(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(configured("train", *TINY, folder="first"))
    typed = ("train", *TINY, *OTHER, f"init_from='{first['checkpoint']}'", "allow_seen=true")
    train(configured(*typed, folder="second"))
    (tmp_path / "second/results.json").unlink()
    Path(first["checkpoint"]).unlink()
    result = train(configured(*typed, folder="second"))
    assert result["trained_subjects"]["tiny"]["names"] == ["001-004"]
    assert result["seen_test_subjects"]["subjects"] == 2


def test_held_out_subjects_that_chose_are_told(configured: Configure, tmp_path: Path) -> None:
    typed = (
        "dataset=tiny",
        "data.workers=0",
        "trainer=cpu",
        "callbacks=best",
        "dataset.protocol.validation=2",
    )
    best = train(configured("train", *typed, "trainer.max_steps=3", "baseline=false"))
    assert of(best["checkpoint"]).held_out == {"tiny": ["003", "004"]}
    found = evaluate(
        configured(
            "evaluate",
            f"checkpoint='{best['checkpoint']}'",
            "dataset=tiny",
            "trainer=cpu",
            *OTHER,
            folder="b",
        )
    )
    assert found["seen_test_subjects"]["subjects"] == 0
    assert found["chosen_by_test_subjects"] == {"subjects": 2, "names": ["003-004"]}
    assert "were held out to choose a checkpoint by" in (tmp_path / "b/table.md").read_text()


def test_walkers_of_one_seed_are_the_same_people() -> None:
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        small, large, other = (
            compose("train", overrides=["name=x", *typed]).dataset
            for typed in (
                ["dataset=synthetic"],
                ["dataset=synthetic_large"],
                ["dataset=synthetic", "dataset.synthesis.seed=1"],
            )
        )
    names = [people(OmegaConf.to_container(dataset, resolve=True)) for dataset in (small, large, other)]
    assert names == ["walkers-0", "walkers-0", "walkers-1"]
    assert subject_traits(small.synthesis.seed, "033") == subject_traits(large.synthesis.seed, "033")
    assert people({"name": "night", "people": "casiab"}) == "casiab"


@pytest.mark.parametrize(
    "kept",
    [
        {"trained_subjects": ["001"]},
        {"trained_subjects": {"tiny": "001"}},
        {"trained_subjects": {"tiny": [1]}},
        {"trained_subjects": {"tiny": ["001"]}, "provenance": {"stores": ["x"]}},
        {"trained_subjects": {"tiny": ["001"]}, "provenance": {"held_out": {"tiny": 3}}},
    ],
)
def test_what_is_damaged_is_unknown(kept: dict[str, Any]) -> None:
    assert training_of({"dataset": {}}, kept, "x.ckpt") == NOBODY._replace(unknown=["x.ckpt"])


def test_what_is_kept_comes_back() -> None:
    trained = Trained({"a": ["1", "2"]}, {"f": "a"}, {"a": ["3"]}, ["theirs"])
    assert training_of({}, to_plain(trained), "x") == trained
    more = trained + Trained({"a": ["4"], "b": ["1"]}, {}, {}, ["theirs"])
    assert more == Trained({"a": ["1", "2", "4"], "b": ["1"]}, {"f": "a"}, {"a": ["3"]}, ["theirs"])
    assert training_of(None, {}, "x.ptm").unknown == ["the authors' weights"]


def test_a_split_that_a_file_names_is_not_read(tmp_path: Path) -> None:
    config = {"dataset": {"name": "tiny", "protocol": {}, "split_file": str(tmp_path / "anything")}}
    assert training_of(config, {}, "x.ckpt").unknown == ["x.ckpt"]


def test_subjects_are_told_as_ranges() -> None:
    assert ranges(["001", "002", "003", "005", "a7", "a8"]) == ["001-003", "005", "a7", "a8"]
    assert ranges(["9", "10", "11"]) == ["9", "10-11"]
    assert ranges([]) == []
