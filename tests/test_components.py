"""What the parts of a model can say: losses, optimisers and schedules of the methods of the field."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.evaluate import evaluate
from cstl.losses import CrossEntropy
from cstl.recognizer import GaitRecognizer, warmup_cosine
from cstl.train import train

Configure = Callable[..., DictConfig]
TINY = ("dataset=tiny", "trainer=cpu", "baseline=false", "evaluate_every=null")
SGD = ("model.optimizer._target_=torch.optim.SGD", "model.optimizer.lr=1e-4", "+model.optimizer.momentum=0.9",
       "+model.optimizer.weight_decay=5e-4")  # fmt: skip
METHODS = {
    "GaitBase": (*SGD, "model.cross_entropy.scale=16", "model.cross_entropy.label_smoothing=0.1"),
    "GLN, first phase": (*SGD, "model.cross_entropy=null"),
    "classes alone": (
        "model.triplet=null",
        "model.scheduler=null",
        "model.optimizer._target_=torch.optim.AdamW",
    ),
}


class Spread(nn.Module):
    """A loss of one's own, with a parameter that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.target = nn.Parameter(torch.tensor(0.5))

    def forward(self, embeddings: Tensor, labels: Tensor, logits: Tensor | None) -> Tensor:
        assert logits is not None
        assert len(logits) == len(labels) == len(embeddings)
        return (embeddings.square().mean() - self.target) ** 2


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_the_field_is_a_few_keys(name: str, configured: Configure, tmp_path: Path) -> None:
    results = train(configured("train", *TINY, "trainer.max_steps=2", *METHODS[name]))
    content = torch.load(results["checkpoint"], weights_only=True)
    assert all(value.isfinite().all() for value in content["state_dict"].values())
    (group,) = content["optimizer_states"][0]["param_groups"]
    if SGD[0] in METHODS[name]:
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-4, 0.9, 5e-4)


def test_a_further_loss_enters_the_sum_and_its_parameters_are_trained(configured: Configure) -> None:
    torch.manual_seed(0)
    loss = Spread()
    network = nn.Linear(3, 3)
    recognizer = GaitRecognizer(network, losses=[{"loss": loss, "weight": 2.0}])
    assert any(parameter is loss.target for parameter in recognizer.parameters())
    own = f"model.losses=[{{loss:{{_target_:{__name__}.Spread}},weight:0.5}}]"
    results = train(configured("train", *TINY, "trainer.max_steps=2", own))
    content = torch.load(results["checkpoint"], weights_only=True)
    assert content["state_dict"]["trained_losses.0.target"] != 0.5


def test_an_evaluation_makes_nothing_of_a_file_but_the_network(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither optimisers nor losses, PyTorch's own among them, nor what a file says in their place."""
    results = train(configured("train", *TINY, "trainer.max_steps=1"))
    content = torch.load(results["checkpoint"], weights_only=True)
    for part in ("optimizer", "scheduler", "triplet", "cross_entropy"):
        content["config"]["model"][part] = {
            "_target_": "pathlib.Path.touch",
            "self": str(tmp_path / "touched"),
        }
    content["config"]["model"]["losses"] = [
        {"loss": {"_target_": "os.mkdir", "path": str(tmp_path / "touched")}}
    ]
    torch.save(content, tmp_path / "evil.ckpt")

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("an optimiser was made")

    monkeypatch.setattr(torch.optim.Adam, "__init__", refused)
    again = evaluate(
        configured("evaluate", f"checkpoint={tmp_path}/evil.ckpt", "baseline=false", folder="again")
    )
    assert again["rank1"] == results["rank1"]
    assert not (tmp_path / "touched").exists()


def test_cross_entropy_by_its_definition() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3, 5, dtype=torch.float64), torch.tensor([0, 4, 2, 2])
    target = 0.1 / 5 + 0.9 * F.one_hot(labels, 5)[:, None]
    expected = -(target * (16 * logits).log_softmax(-1)).sum(-1).mean()
    assert torch.allclose(CrossEntropy(scale=16, label_smoothing=0.1)(logits, labels), expected)
    plain = F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(3))
    assert torch.equal(CrossEntropy()(logits, labels), plain)  # to the bit


def test_warm_up_and_cosine() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=0.8)
    schedule, rates = warmup_cosine(optimizer, warmup=4, steps=12), []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4:] == pytest.approx([0.4 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)
