"""Training in two phases, as GLN's, and with dropout."""

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from cstl.train import train

Configure = Callable[..., DictConfig]
TINY = (
    "dataset=tiny", "trainer=cpu", "baseline=false", "evaluate_every=null",
    "data.subjects=2", "data.sequences=2", "data.frames=4", "model.network.channels=[2,2,4]",
    "model.network.lateral_dim=4", "model.network.embedding_dim=4", "model.network.compact_dim=4",
)  # fmt: skip


@pytest.fixture
def trained(configured: Configure) -> Callable[..., tuple[dict[str, Tensor], str]]:
    """The function (model, folder, steps, *overrides) → the network's weights after them, and their file."""

    def trained(model: str, folder: str, steps: int, *overrides: str) -> tuple[dict[str, Tensor], str]:
        more = (f"model={model}", f"trainer.max_steps={steps}", "evaluate=false", *overrides)
        checkpoint = train(configured("train", *TINY, *more, folder=folder))["checkpoint"]
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        return {key.removeprefix("network."): value for key, value in state.items()}, checkpoint

    return trained


def test_the_second_phase_starts_from_the_first(
    trained: Callable[..., tuple[dict[str, Tensor], str]],
) -> None:
    first, checkpoint = trained("gln", "first", 2)
    second, _ = trained("gln_phase2", "second", 1, f"init_from={checkpoint}", "model.optimizer.lr=1e-30")
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert {key.partition(".")[0] for key in second.keys() - first.keys()} == {"compact"}
    assert second["compact.classes.weight"].shape == (4, 4)  # training subjects × values


def test_what_a_network_draws_follows_from_the_seed_and_the_step(
    trained: Callable[..., tuple[dict[str, Tensor], str]],
) -> None:
    """A run that goes on has the dropout of one that was never interrupted."""
    whole, _ = trained("gln_phase2", "whole", 4)
    trained("gln_phase2", "parts", 2)
    parts, _ = trained("gln_phase2", "parts", 2, "extend=4")
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    assert int(whole["compact.norm.num_batches_tracked"]) == 4
    assert not whole["compact.norm.bias"].any()  # it is not trained
    constant, _ = trained("gln_phase2", "constant", 4, "model.network.dropout=0")
    assert not torch.equal(constant["compact.reduce.weight"], whole["compact.reduce.weight"])
