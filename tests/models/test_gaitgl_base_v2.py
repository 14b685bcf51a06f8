"""GaitGL, GaitBase and DeepGaitV2 against the published implementations' own numbers, and their weights."""

import copy
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cstl.losses import CrossEntropy, TripletLoss
from cstl.models import DeepGaitV2, GaitBase, GaitGL, Output
from cstl.models.published import PublishedNetwork, recognise

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from recipe import draw, silhouettes  # noqa: E402

NETWORKS: dict[str, type[PublishedNetwork]] = {
    "gaitbase": GaitBase,
    "gaitbase_128": GaitBase,
    "deepgaitv2_p3d": DeepGaitV2,
    "deepgaitv2_p3d_deep": DeepGaitV2,
    "deepgaitv2_2d": DeepGaitV2,
    "deepgaitv2_3d": DeepGaitV2,
    "gaitgl_casiab": GaitGL,
    "gaitgl_oumvlp": GaitGL,
    "gaitgl_bnneck": GaitGL,
    "gaitgl_authors": GaitGL,
}
QUICK = ["gaitbase_128", "deepgaitv2_p3d_deep", "gaitgl_bnneck"]  # in double precision
PUBLISHED = json.loads((GOLDEN / "state_dicts_gaitgl_base_v2.json").read_text())
ENTRIES = [entry for entry in PUBLISHED if any(name.startswith(entry.split("_")[0]) for name in NETWORKS)]
OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}

networks = pytest.mark.parametrize("name", NETWORKS)
in_double = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)


@cache
def golden(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    about = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as numbers:
        return about, dict(numbers)


def their_weights(name: str) -> dict[str, Tensor]:
    about = golden(name)[0]
    weights = {}
    for key, shape in about["state_dict"].items():
        value = np.asarray(draw(key, shape, about["seed"]))
        if key in about["multiply"]:
            value = value * np.float32(about["multiply"][key])
        if key in about["given"]:
            value = np.asarray(about["given"][key], np.float32)
        weights[key] = torch.from_numpy(value)
    return weights


def walkers(name: str, sequences: int, frames: int, offset: int, dtype: torch.dtype) -> Tensor:
    about = golden(name)[0]
    drawn = silhouettes(sequences, frames, about["height"], about["width"], about["seed"] + offset)
    return torch.from_numpy(drawn).to(dtype) / 255


def assert_near(ours: Any, theirs: Any, tolerance: float) -> None:
    ours = ours.detach().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    assert ours.shape == np.shape(theirs)
    assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


def assert_outputs_near(
    out: Output, numbers: dict[str, np.ndarray], entry: str, logits: float = 1e-5
) -> None:
    assert_near(out.embeddings, numbers[f"{entry}_embeddings"], 1e-5)
    assert (out.logits is None) == (f"{entry}_logits" not in numbers)
    if out.logits is not None:
        assert_near(out.logits, numbers[f"{entry}_logits"], logits)


def network(name: str) -> PublishedNetwork:
    return NETWORKS[name].from_published(their_weights(name))


def assert_norms_and_sums_near(net: PublishedNetwork, about: dict[str, Any], prefix: str = "") -> None:
    """Of gradients and of running statistics."""
    holder = copy.deepcopy(net)  # gradients in the place of the weights, to have them under their names
    for parameter, ours in zip(holder.parameters(), net.parameters(), strict=True):
        assert ours.grad is not None
        parameter.data = ours.grad
    theirs = holder.to_published()
    gradients = about[f"{prefix}gradient_norm_and_sum"]
    assert len(gradients) == len(list(net.parameters()))
    norms = [float(theirs[key].norm()) for key in gradients]
    assert_near(norms, [norm for norm, _ in gradients.values()], 1e-6)
    for key, (norm, total) in gradients.items():
        assert float(theirs[key].sum()) == pytest.approx(total, abs=1e-5 * norm), key
    for key, (norm, total) in about[f"{prefix}running_stats_norm_and_sum"].items():
        assert float(theirs[key].norm()) == pytest.approx(norm, rel=1e-5), key
        assert float(theirs[key].sum()) == pytest.approx(total, abs=1e-5 * norm), key


class Losses:
    """What the published implementation computes of an output."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.labels = torch.tensor(about["labels"])
        self.triplet = TripletLoss(about["margin"])
        self.cross_entropy = about["cross_entropy"] and CrossEntropy(**about["cross_entropy"])

    def __call__(self, out: Output) -> tuple[Any, Tensor]:
        cross_entropy = out.embeddings.new_zeros(())
        if self.cross_entropy:
            assert out.logits is not None
            cross_entropy = self.cross_entropy(out.logits, self.labels)
        return self.triplet(out.embeddings, self.labels), cross_entropy


@networks
def test_evaluation_equals_the_published(name: str) -> None:
    about, numbers = golden(name)
    net = network(name).eval()
    for frames in about["frames"]:
        x = walkers(name, about["eval_batch"], frames, frames, torch.float32)
        with torch.no_grad():
            assert_outputs_near(net(x), numbers, f"eval_{frames}")


@in_double
def test_training_equals_the_published(name: str) -> None:
    about, numbers = golden(name)
    net = network(name).double().train()
    losses = Losses(about)
    frames = about["train_frames"]
    out = net(walkers(name, 6, frames, 100, torch.float64))
    assert_outputs_near(out, numbers, "train", logits=2e-5)
    triplet, cross_entropy = losses(out)
    assert_near(triplet.per_part, numbers["triplet_per_part"], 1e-6)
    assert_near(triplet.loss, numbers["triplet"], 1e-6)
    assert_near(triplet.active, numbers["nonzero_triplets"], 1e-6)
    assert_near(triplet.mean_distance, numbers["mean_distance"], 1e-5)
    if "batch_hard_per_part" in numbers:
        hard = TripletLoss(about["margin"], mining="hard")(out.embeddings, losses.labels)
        assert_near(hard.per_part, numbers["batch_hard_per_part"], 1e-6)
    if out.logits is not None:
        assert_near(cross_entropy, numbers["cross_entropy"], 1e-6)
        right = out.logits.argmax(-1) == losses.labels[:, None]
        assert_near(right.double().mean(), numbers["accuracy"], 1e-5)
    if "largest_triplet_per_part" in numbers:
        distances = torch.cdist(*[out.embeddings.transpose(0, 1)] * 2)
        same = losses.labels[:, None] == losses.labels
        farthest = distances.masked_fill(~same, -torch.inf).amax(2)
        nearest = distances.masked_fill(same, torch.inf).amin(2)
        largest = (about["margin"] + farthest - nearest).amax(1).relu()
        assert_near(largest, numbers["largest_triplet_per_part"], 1e-6)
    loss = triplet.loss + cross_entropy
    assert_near(loss, numbers["loss"], 1e-6)
    loss.backward()
    assert_norms_and_sums_near(net, about)

    options = {key: value for key, value in about["optimizer"].items() if key != "solver"}
    optimizer = OPTIMIZERS[about["optimizer"]["solver"]](net.parameters(), **options)
    trajectory = []
    for i in range(3):
        triplet, cross_entropy = losses(net(walkers(name, 6, frames, 200 + i, torch.float64)))
        optimizer.zero_grad()
        (triplet.loss + cross_entropy).backward()
        optimizer.step()
        trajectory.append([triplet.loss.item(), cross_entropy.item()])
    assert_near(trajectory, numbers["trajectory"], 1e-6)


def test_a_batch_of_unequal_lengths_equals_the_published() -> None:
    """What is there in place of the missing frames is not looked at, by statistics and gradients neither."""
    about, numbers = golden("gaitbase_128")
    lengths = torch.tensor(about["packed_lengths"])
    x = torch.rand(len(lengths), int(lengths.max()), 128, 88, dtype=torch.float64)
    for i, length in enumerate(lengths.tolist()):
        x[i, :length] = walkers("gaitbase_128", 1, length, 300 + i, torch.float64)[0]
    net = network("gaitbase_128").double().train()
    out = net(x, lengths)
    assert_outputs_near(out, numbers, "packed", logits=2e-5)
    triplet, cross_entropy = Losses(about)(out)
    loss = triplet.loss + cross_entropy
    assert_near(loss, numbers["packed_loss"], 1e-6)
    loss.backward()
    assert_norms_and_sums_near(net, about, "packed_")


@networks
def test_published_weights_go_out_as_they_came_in(name: str) -> None:
    theirs = their_weights(name)
    net = network(name)
    assert sum(p.numel() for p in net.parameters()) == golden(name)[0]["parameters"]
    back = net.to_published()
    assert back.keys() == theirs.keys()
    assert all(
        torch.equal(back[key], value) and back[key].dtype == value.dtype for key, value in theirs.items()
    )


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_published_file_is_read(entry: str) -> None:
    """As shapes without numbers."""
    about = PUBLISHED[entry]
    shapes = PUBLISHED[about.get("state_dict_as", entry)]["state_dict"]
    with torch.device("meta"):
        theirs = {
            key: torch.empty(
                [about["classes"] if size == "K" else size for size in shape],
                dtype=torch.int64 if key.endswith("num_batches_tracked") else torch.float32,
            )
            for key, shape in shapes.items()
        }
        (kind,) = {network for name, network in NETWORKS.items() if entry.startswith(name.split("_")[0])}
        found = recognise(theirs, [kind])
        net = found.network(**found.arguments)
        back = net.to_published()
    assert {key: value.shape for key, value in back.items()} == {key: v.shape for key, v in theirs.items()}
    assert sum(p.numel() for p in net.parameters()) == about["parameters"]
    classes = about["parameters"] - about["trunk_parameters"]
    assert sum(p.numel() for p in net.parameters() if about["classes"] in p.shape) in (0, classes)


@networks
def test_unequal_lengths_are_as_one_at_a_time(name: str) -> None:
    about, _ = golden(name)
    frames = about["frames"]
    net = network(name).eval()
    x = torch.rand(len(frames), max(frames), about["height"], about["width"])  # noise behind the ends
    with torch.no_grad():
        for i, length in enumerate(frames):
            x[i, :length] = walkers(name, 1, length, 400 + i, torch.float32)[0]
        together = net(x, torch.tensor(frames))
        for i, length in enumerate(frames):
            alone = net(x[i : i + 1, :length])
            assert_near(together.embeddings[i], alone.embeddings[0].numpy(), 1e-5)


def test_the_neck_is_tested_where_one_asks_for_it() -> None:
    net = network("gaitbase_128").eval()
    x = walkers("gaitbase_128", 2, 3, 0, torch.float32)
    net.test_neck = True
    with torch.no_grad():
        u, logits = net(x)
    assert torch.allclose(u.norm(dim=-1), torch.ones(2, 16))
    classes = torch.nn.functional.normalize(net.neck.weight, dim=1)  # type: ignore[union-attr]
    assert torch.allclose(torch.einsum("bpd,pdk->bpk", u, classes), logits, atol=1e-6)


def test_a_narrow_network_trains() -> None:
    """Of few channels PyTorch's strided 1×1 convolution wrote beyond its memory in the backward pass."""
    net = GaitBase(5, channels=(4, 4, 8, 8), embedding_dim=6)
    for _ in range(3):
        net(torch.rand(2, 2, 64, 44)).embeddings.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
