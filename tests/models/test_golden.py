"""The network against the authors' own numbers: outputs, losses, gradients, running statistics,
three Adam steps.
"""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cstl.checkpoint import from_official, to_official
from cstl.losses import TripletLoss
from cstl.models import CSTL

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from recipe import draw, silhouettes  # noqa: E402

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


@cache
def golden(height: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    about = json.loads((GOLDEN / f"network_{height}.json").read_text())
    with np.load(GOLDEN / f"network_{height}.npz") as numbers:
        return about, dict(numbers)


def official_weights(height: int) -> dict[str, torch.Tensor]:
    about = golden(height)[0]
    return {
        k: torch.from_numpy(np.asarray(draw(k, s, about["seed"]))) for k, s in about["state_dict"].items()
    }


def network(height: int) -> CSTL:
    net = CSTL(height, golden(height)[0]["classes"])
    net.load_state_dict(from_official(official_weights(height)))
    return net


def walkers(height: int, sequences: int, frames: int, offset: int) -> torch.Tensor:
    about = golden(height)[0]
    drawn = silhouettes(sequences, frames, about["height"], about["width"], about["seed"] + offset)
    return torch.from_numpy(drawn) / 255


def assert_near(ours: Any, theirs: Any, tolerance: float) -> None:
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    assert ours.shape == np.shape(theirs)
    assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


heights = pytest.mark.parametrize("height", [64, 128])


@heights
def test_evaluation_equals_the_authors(height: int) -> None:
    about, numbers = golden(height)
    net = network(height).eval()
    for frames in about["frames"]:
        with torch.no_grad():
            out = net(walkers(height, 2, frames, offset=frames))
        assert_near(out.embeddings, numbers[f"eval_{frames}_embeddings"], 1e-5)
        assert_near(out.logits, numbers[f"eval_{frames}_logits"], 1e-5)


@heights
def test_training_equals_the_authors(height: int) -> None:
    about, numbers = golden(height)
    net = network(height).train()

    def losses(x: torch.Tensor) -> tuple[Any, torch.Tensor, Any]:
        out = net(x)
        triplet = TripletLoss(margin=0.2)(out.embeddings, LABELS)
        cross_entropy = F.cross_entropy(out.logits.flatten(0, 1), LABELS.repeat_interleave(net.parts))
        return triplet, cross_entropy, out

    triplet, cross_entropy, out = losses(walkers(height, 6, 8, offset=100))
    assert_near(out.embeddings, numbers["train_embeddings"], 1e-5)
    assert_near(out.logits, numbers["train_logits"], 1e-5)
    assert_near(cross_entropy, numbers["cross_entropy"], 1e-5)
    assert_near(triplet.per_part, numbers["triplet_full"], 1e-4)
    assert_near(triplet.mean_distance, numbers["mean_distance"], 1e-4)
    assert_near(triplet.active, numbers["nonzero_triplets"], 1e-3)
    assert_near(TripletLoss(mining="hard")(out.embeddings, LABELS).per_part, numbers["triplet_hard"], 1e-4)
    loss = triplet.loss + cross_entropy
    assert_near(loss, numbers["loss"], 1e-4)

    loss.backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert gradients.keys() == dict(net.named_parameters()).keys()
    by_their_names = to_official(gradients | dict(net.named_buffers()))
    for name, (norm, total) in about["gradient_norm_and_sum"].items():
        gradient = by_their_names[name].double()
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-4), name
        assert float(gradient.sum()) == pytest.approx(total, abs=1e-2 * norm), name
    for name, (norm, total) in about["running_stats_norm_and_sum"].items():
        statistic = by_their_names[name].double()
        assert float(statistic.norm()) == pytest.approx(norm, rel=1e-5), name
        assert float(statistic.sum()) == pytest.approx(total, abs=1e-5 * norm * statistic.numel() ** 0.5), (
            name
        )

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    trajectory = []
    for i in range(3):
        triplet, cross_entropy, _ = losses(walkers(height, 6, 8, offset=200 + i))
        optimizer.zero_grad()
        (triplet.loss + cross_entropy).backward()
        optimizer.step()
        trajectory.append([triplet.loss.item(), cross_entropy.item()])
    assert_near(trajectory, numbers["adam_trajectory"], 1e-4)


@heights
def test_official_weights_go_out_as_they_came_in(height: int) -> None:
    theirs = official_weights(height)
    back = to_official(network(height).state_dict(), prefix=True)
    assert {f"module.{key}": value.shape for key, value in theirs.items()} == {
        k: v.shape for k, v in back.items()
    }
    assert all(torch.equal(back[f"module.{key}"], value) for key, value in theirs.items())
    assert all(value.dtype == theirs[key.removeprefix("module.")].dtype for key, value in back.items())
    again = from_official(back)
    assert all(torch.equal(again[key], value) for key, value in network(height).state_dict().items())


def test_the_number_of_parameters_is_published() -> None:
    assert sum(p.numel() for p in CSTL(64, 73).parameters()) == 9_091_232
    assert sum(p.numel() for p in CSTL(128, 73).parameters()) == 17_933_216
    about = golden(64)[0]
    assert sum(p.numel() for p in network(64).parameters()) == about["parameters"]


def test_other_state_dicts_are_refused_by_name() -> None:
    theirs = official_weights(64)
    del theirs["fc_bin"]
    with pytest.raises(ValueError, match="fc_bin is absent"):
        from_official(theirs)
    with pytest.raises(ValueError, match=r"backbone\.weight is .*, not absent"):
        from_official(official_weights(64) | {"backbone.weight": torch.zeros(1)})
