"""Every configuration file composes, overrides read as they should, and mistakes are named."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict

from cstl.config import CONFIG_PATH, differences, digest, plain
from cstl.data.protocol import Protocol, as_protocol

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
        config = compose(command, overrides=[*overrides, "hydra.runtime.output_dir=runs/x"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


@pytest.mark.parametrize(("command", "override"), EVERY)
def test_every_file_composes_and_resolves(command: str, override: str) -> None:
    config = composed(command, *(["dataset=casiab"] if command == "evaluate" else []), override)
    assert OmegaConf.to_container(config, resolve=True, throw_on_missing=False)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_data_set_is_a_protocol_with_a_recipe(dataset: str) -> None:
    config = composed("train", f"dataset={dataset}", "res=128")
    assert isinstance(as_protocol(plain(config.dataset.protocol)), Protocol)
    assert config.dataset.name == dataset
    assert config.model.network.height == 128
    assert config.model.network.channels == config.dataset.recipe.channels
    assert config.trainer.max_steps == config.data.steps == config.dataset.recipe.iterations


def test_published_numbers() -> None:
    casiab, oumvlp = (
        as_protocol(plain(composed("train", f"dataset={d}").dataset.protocol)) for d in ("casiab", "oumvlp")
    )
    assert (len(casiab.train_subjects), len(casiab.test_subjects)) == (73, 50)
    assert (len(oumvlp.train_subjects), len(oumvlp.test_subjects)) == (5153, 5154)
    assert (len(casiab.views), len(oumvlp.views)) == (11, 14)


def test_a_command_line_overrides_a_recipe() -> None:
    config = composed(
        "train", "dataset=casiab", "model.margin=0.1", "model.network.channels=[16,32,64]", "trainer.max_steps=7"
    )
    assert config.model.margin == 0.1
    assert config.model.network.channels == [16, 32, 64]
    assert config.data.steps == 7


def test_an_unknown_data_set_lists_the_choices() -> None:
    with pytest.raises(MissingConfigException, match=r"(?s)Could not find 'dataset/casia'.*casiab.*oumvlp.*synthetic"):
        composed("train", "dataset=casia")


def test_digest_and_differences_see_what_decides_a_result() -> None:
    before, same, other = (
        plain(composed("train", "name=a", *more)) for more in ((), ("logger=wandb", "data.workers=2"), ("seed=2",))
    )
    assert digest(before) == digest(same) != digest(other)
    assert differences(before, same) == []
    assert differences(before, other) == ["seed: 1 before, 2 now", "data.seed: 1 before, 2 now"]


def test_what_changes_no_number_may_change() -> None:
    """But where the best checkpoint is reported, how often it is looked for decides."""
    free = "evaluate_every=7", "trainer.log_every_n_steps=3", "baseline=false", "report=false", "dataset.title=x"
    before, same = (plain(composed("train", "name=a", *more)) for more in ((), free))
    assert differences(before, same) == []
    assert digest(before) == digest(same)
    best, other = (plain(composed("train", "callbacks=best", *more)) for more in ((), free))
    assert differences(best, other) == ["evaluate_every: 500 before, 7 now"]
    assert digest(best) != digest(other)
    chosen = plain(composed("train", "callbacks=best", "dataset.protocol.validation=0"))
    assert "callbacks.checkpoints.best: absent before, True now" in differences(before, chosen)
