"""Every configuration file composes, overrides read as they should, and mistakes are named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from cstl.config import CONFIG_PATH, differences, digest, plain, translated
from cstl.data.protocol import Protocol, protocol_of
from cstl.running.settings import refuse_impossible

CONF = Path(CONFIG_PATH)
DATASETS = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))
GROUPS = {
    "train": [group.name for group in CONF.iterdir() if group.is_dir()],
    "evaluate": ["dataset", "trainer"],
    "prepare": ["dataset"],
    "check": ["dataset"],
}
EVERY = [
    (command, f"{group}={option.stem}")
    for command, groups in GROUPS.items()
    for group in sorted(groups)
    for option in sorted((CONF / group).glob("*.yaml"))
]


def composed(command: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = compose(
            command, overrides=[*overrides, "hydra.runtime.output_dir=runs/x"], return_hydra_config=True
        )
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


@pytest.mark.parametrize(("command", "override"), EVERY)
def test_every_file_composes_and_resolves(command: str, override: str) -> None:
    config = composed(command, *(["dataset=casiab"] if command == "evaluate" else []), override)
    assert OmegaConf.to_container(config, resolve=True, throw_on_missing=False)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_data_set_is_a_protocol_and_says_nothing_of_a_network(dataset: str) -> None:
    config = composed("train", f"dataset={dataset}", "res=128")
    assert isinstance(protocol_of(plain(config.dataset)), Protocol)
    assert config.dataset.name == dataset
    assert config.model.network.height == 128
    assert not {"recipe", "model", "channels", "learning_rate"} & set(config.dataset)


def test_published_numbers() -> None:
    casiab, oumvlp = (
        protocol_of(plain(composed("train", f"dataset={d}").dataset)) for d in ("casiab", "oumvlp")
    )
    assert (len(casiab.train_subjects), len(casiab.test_subjects)) == (73, 50)
    assert (len(oumvlp.train_subjects), len(oumvlp.test_subjects)) == (5153, 5154)
    assert (len(casiab.views), len(oumvlp.views)) == (11, 14)


def taken(*overrides: str, conf: Path | None = None) -> dict[str, Any]:
    """What a recipe decides, of a composed training."""
    config = composed("train", *([f"hydra.searchpath=[file://{conf}]"] if conf else []), *overrides)
    scheduler = config.model.scheduler or {}
    return {
        "steps": config.trainer.max_steps,
        "batch": (config.data.subjects, config.data.sequences, config.data.frames),
        "widths": config.model.network.get("channels"), "batch_norm": config.model.batch_norm,
        "rate": config.model.optimizer.lr, "milestones": scheduler.get("milestones"),
        "every": (config.evaluate_every, config.callbacks.checkpoints.every),
    }  # fmt: skip


CASIAB = {
    "steps": 150_000, "batch": (8, 8, 30), "widths": [32, 64, 128], "batch_norm": "ghost", "rate": 1e-4,
    "milestones": [], "every": (10_000, 1000),
}  # fmt: skip
OUMVLP = {
    "steps": 250_000, "batch": (32, 8, 30), "widths": [64, 128, 256], "batch_norm": "synchronised",
    "rate": 1e-4,
    "milestones": [150_000], "every": (10_000, 1000),
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder: a network and a data set that no recipe knows, and an experiment with a
    model and a data set.
    """
    files = {
        "model/mine": "defaults: [base, _self_]\nnetwork:\n  _target_: mynet.Net\n",
        "dataset/mine": "defaults: [casiab, _self_]\nname: mine\n",
        "experiment/both": "# @package _global_\ndefaults:\n  - override /dataset: oumvlp\n  - override "
        "/model: cstl\n"
        "data:\n  frames: 7\n",
        "recipe/mine_oumvlp": "# @package _global_\ntrainer:\n  max_steps: 5\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def test_a_recipe_is_what_a_network_takes_on_a_data_set(own: Path) -> None:
    assert taken("dataset=casiab") == CASIAB
    assert taken("dataset=oumvlp") == OUMVLP
    assert taken("model=mine", "dataset=oumvlp", conf=own)["steps"] == 5
    assert taken("experiment=casiab_128") == CASIAB
    assert taken("experiment=oumvlp_64") == OUMVLP


def test_a_recipe_is_beaten_by_the_command_line_and_by_an_experiment(own: Path) -> None:
    typed = taken("dataset=casiab", "trainer.max_steps=9", "model.network.channels=[1,2,16]", "data.frames=3")
    assert typed == CASIAB | {"steps": 9, "widths": [1, 2, 16], "batch": (8, 8, 3)}
    assert taken("experiment=both", conf=own) == OUMVLP | {"batch": (32, 8, 7)}
    assert taken("experiment=demo")["widths"] == [16, 32, 64]
    assert taken("experiment=ablation", "ablation=frame_only")["milestones"] == [75]


MODELS = sorted((path.stem for path in (CONF / "model").glob("*.yaml")), key=len, reverse=True)
RECIPES = [
    (next(model for model in MODELS if path.stem.startswith(f"{model}_")), path.stem)
    for path in sorted((CONF / "recipe").glob("*_*.yaml"))
    if path.stem not in MODELS
]


@pytest.mark.parametrize(("model", "recipe"), RECIPES)
def test_every_recipe_is_one_that_can_be_trained(model: str, recipe: str) -> None:
    """On its data set, or in the experiment of its name; optimiser and schedule are made."""
    where = recipe.removeprefix(f"{model}_")
    group = "dataset" if where in DATASETS else "experiment"
    config = composed("train", f"model={model}", f"{group}={where}")
    refuse_impossible(config, "train")
    optimizer = instantiate(config.model.optimizer)([nn.Parameter(torch.zeros(2))])
    if config.model.scheduler is not None:
        instantiate(config.model.scheduler)(optimizer)
        assert all(milestone < config.trainer.max_steps for milestone in config.model.scheduler.milestones)


@pytest.mark.parametrize("model", [model for model in MODELS if model not in ("base", "gln_phase2")])
@pytest.mark.parametrize("where", ["synthetic", "synthetic_large", "demo", "peers"])
def test_every_network_has_a_recipe_for_the_walkers(model: str, where: str) -> None:
    """Without one it would take its published widths and 10,000 iterations, and say nothing."""
    assert (CONF / "recipe" / f"{model}_{where}.yaml").is_file()


def test_an_ablation_keeps_the_recipe() -> None:
    assert taken("dataset=oumvlp", "ablation=frame_only") == OUMVLP
    assert composed("train", "dataset=oumvlp", "ablation=frame_only").model.network.scales == ["frame"]


def test_without_a_recipe_the_defaults_stand(own: Path) -> None:
    """Of a user's data set, and of a user's network on any data set."""
    found = taken("dataset=mine", conf=own)
    assert (found["batch"], found["widths"], found["rate"]) == ((8, 8, 30), [32, 64, 128], 1e-4)
    assert taken("model=mine", "dataset=casiab", conf=own) == found | {"widths": None, "milestones": None}
    assert taken("model=mine", "experiment=demo", conf=own)["steps"] == 200


def test_an_unknown_data_set_lists_the_choices() -> None:
    with pytest.raises(
        MissingConfigException, match=r"(?s)Could not find 'dataset/casia'.*casiab.*oumvlp.*synthetic"
    ):
        composed("train", "dataset=casia")


def test_digest_and_differences_see_what_decides_a_result() -> None:
    before, same, other = (
        plain(composed("train", "name=a", *more))
        for more in ((), ("logger=wandb", "data.workers=2"), ("seed=2",))
    )
    assert digest(before) == digest(same) != digest(other)
    assert differences(before, same) == []
    assert differences(before, other) == ["seed: 1 before, 2 now"]


@pytest.mark.parametrize("change", [
    "seed=2", "data.frames=10", "trainer.max_steps=7", "model.optimizer.lr=0.1", "res=128",
    "dataset.split=MT",
    "model.triplet.margin=0.3", "model.batch_norm=replica", "max_frames=3",
])  # fmt: skip
def test_a_change_is_reported_once(change: str) -> None:
    command = "evaluate" if change.startswith("max_frames") else "train"
    before, now = (plain(composed(command, "name=a", "dataset=casiab", *more)) for more in ((), (change,)))
    (line,) = differences(before, now)
    assert line.startswith(f"{change.partition('=')[0]}: ")


def test_what_changes_no_number_may_change() -> None:
    """But where the best checkpoint is reported, how often it is looked for decides."""
    free = (
        "evaluate_every=7",
        "trainer.log_every_n_steps=3",
        "baseline=false",
        "report=false",
        "dataset.title=x",
    )
    before, same = (plain(composed("train", "name=a", *more)) for more in ((), free))
    assert differences(before, same) == []
    assert digest(before) == digest(same)
    best, other = (plain(composed("train", "callbacks=best", *more)) for more in ((), free))
    assert differences(best, other) == ["evaluate_every: 500 before, 7 now"]
    assert digest(best) != digest(other)
    chosen = plain(composed("train", "callbacks=best", "dataset.protocol.validation=0"))
    assert "callbacks.checkpoints.best: absent before, True now" in differences(before, chosen)


def test_a_split_file_of_0_1_is_the_subjects_that_were_written_in_its_place() -> None:
    subjects = {"train": ["001"], "test": ["002"]}
    dataset = {"name": "x", "split_file": "split.json", "protocol": dict(subjects)}
    read = translated({"dataset": dataset, "data": {"protocol": dict(subjects)}})
    assert read["dataset"] == {"name": "x", "split_file": None, "protocol": subjects}
    dataset["protocol"] = subjects | {"split_file": "split.json"}
    translated({"dataset": dataset, "data": {"protocol": dict(subjects)}})  # of two minds, and no crash
