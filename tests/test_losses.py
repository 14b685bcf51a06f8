"""The triplet loss against the golden numbers, a slow loop written from the formula, and its corner cases."""

import doctest
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import cstl.losses
from cstl.losses import TripletLoss

GOLDEN = Path(__file__).parent / "golden"


def slow(embeddings: Tensor, labels: list[int], margin: float, mining: str) -> tuple[list[Tensor], list[int]]:
    """Loss and number of non-zero terms of each part, triplet by triplet."""
    losses, active = [], []
    for part in range(embeddings.shape[1]):
        x = embeddings[:, part]

        def d(i: int, j: int, x: Tensor = x) -> Tensor:
            return torch.zeros((), dtype=x.dtype) if i == j else (x[i] - x[j]).norm()

        terms = []
        for a, label in enumerate(labels):
            positives = [d(a, p) for p, other in enumerate(labels) if other == label]
            negatives = [d(a, n) for n, other in enumerate(labels) if other != label]
            if mining == "all":
                terms += [torch.relu(margin + p - n) for p in positives for n in negatives]
            else:
                nothing = torch.zeros((), dtype=x.dtype)
                terms.append(torch.relu(margin + max(positives) - min(negatives)) if negatives else nothing)
        count = sum(bool(term > 0) for term in terms)
        share = max(count, 1) if mining == "all" else len(labels)
        losses.append(sum(terms, torch.zeros((), dtype=x.dtype)) / share)
        active.append(count)
    return losses, active


def random_batch(seed: int, sizes: list[int], parts: int = 3, dim: int = 5) -> tuple[Tensor, Tensor]:
    """Shuffled embeddings of subjects with `sizes` sequences each, so near that some triplets
    are zero, some not.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    centre = torch.randn(len(sizes), parts, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), parts, dim, generator=generator, dtype=torch.float64)
    order = torch.randperm(len(labels), generator=generator)
    return (centre[labels] + 0.5 * noise)[order], labels[order]


SIZES = [[3, 3, 3], [1, 2, 3, 4], [1, 5], [2], [1, 1, 1, 1], [1], [6, 1, 1]]


@pytest.mark.parametrize("res", [64, 128])
@pytest.mark.parametrize(("mining", "key"), [("all", "triplet_full"), ("hard", "triplet_hard")])
def test_golden(res: int, mining: str, key: str) -> None:
    golden = np.load(GOLDEN / f"network_{res}.npz")
    output = TripletLoss(0.2, mining)(
        torch.from_numpy(golden["train_embeddings"]), torch.tensor([0, 0, 1, 1, 2, 2])
    )
    for found, expected in ((output.per_part, golden[key]), (output.mean_distance, golden["mean_distance"])):
        assert np.linalg.norm(found.numpy() - expected) <= 1e-4 * np.linalg.norm(expected)
    torch.testing.assert_close(output.loss, output.per_part.mean())
    if mining == "all":
        assert output.active.tolist() == golden["nonzero_triplets"].tolist()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("mining", ["all", "hard"])
@pytest.mark.parametrize("margin", [0.2, 1.5])
def test_equals_slow_loop_with_gradient(sizes: list[int], mining: str, margin: float) -> None:
    embeddings, labels = random_batch(len(sizes), sizes)
    embeddings.requires_grad_()
    per_part, active = slow(embeddings, labels.tolist(), margin, mining)
    expected = torch.stack(per_part)
    output = TripletLoss(margin, mining)(embeddings, labels)
    # d(a, a) is rounding noise, up to sqrt(1e-15)
    torch.testing.assert_close(output.per_part, expected, rtol=0, atol=1e-6)
    assert output.active.tolist() == active
    difference = embeddings[:, None] - embeddings[None]
    torch.testing.assert_close(
        output.mean_distance, difference.norm(dim=-1).mean((0, 1)).detach(), rtol=0, atol=1e-6
    )
    if expected.requires_grad:
        (wanted,) = torch.autograd.grad(expected.mean(), embeddings)
        (found,) = torch.autograd.grad(output.loss, embeddings)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mine", [cstl.losses._batch_all, cstl.losses._batch_hard])
def test_gradcheck(mine: Callable) -> None:
    """Numerically, from the distances on: d(a, a) itself has no derivative to compare with."""
    labels = torch.tensor([0, 1, 0, 2, 1, 1])
    distances = torch.rand(
        2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda d: mine(d, labels[:, None] == labels, 0.3)[0], distances)


@pytest.mark.parametrize("mining", ["all", "hard"])
def test_coincident_embeddings_have_gradient_zero(mining: str) -> None:
    embeddings = torch.ones(6, 2, 4, requires_grad=True)
    output = TripletLoss(0.2, mining)(embeddings, torch.tensor([0, 0, 1, 1, 2, 2]))
    output.loss.backward()
    assert output.loss.item() == pytest.approx(0.2)
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


@pytest.mark.parametrize("mining", ["all", "hard"])
@pytest.mark.parametrize("labels", [[7, 7, 7, 7], [7]])
def test_one_subject_has_no_loss(mining: str, labels: list[int]) -> None:
    embeddings = torch.randn(len(labels), 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = TripletLoss(0.2, mining)(embeddings, torch.tensor(labels))
    output.loss.backward()
    assert output.loss.item() == 0
    assert output.active.tolist() == [0, 0, 0]
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


@pytest.mark.parametrize("mining", ["all", "hard"])
def test_order_does_not_matter(mining: str) -> None:
    embeddings, labels = random_batch(1, [4, 2, 5, 1])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    one, other = (TripletLoss(0.5, mining)(embeddings[i], 10 - labels[i]) for i in (order, order.argsort()))
    torch.testing.assert_close(one.per_part, other.per_part, rtol=0, atol=1e-6)
    torch.testing.assert_close(one.active, other.active)


@pytest.mark.parametrize("mining", ["all", "hard"])
def test_autocast_and_half_precision_compute_in_float32(mining: str) -> None:
    embeddings, labels = random_batch(3, [3, 3, 3], dim=64)
    loss = TripletLoss(0.2, mining)
    # far from the origin: in 16 bit the difference of squares would be lost
    half = (embeddings + 20).bfloat16()
    expected = loss(half.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for found in (loss(half, labels), loss(half.float(), labels)):
            assert found.loss.dtype == torch.float32
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
    leaf = half.clone().requires_grad_()
    loss(leaf, labels).loss.backward()
    assert leaf.grad.dtype == torch.bfloat16
    assert loss(embeddings, labels).loss.dtype == torch.float64


@pytest.mark.parametrize("mining", ["all", "hard"])
def test_divergence_is_not_hidden(mining: str) -> None:
    embeddings, labels = random_batch(4, [2, 2])
    embeddings[1, 0, 0] = torch.nan
    assert TripletLoss(0.2, mining)(embeddings, labels).loss.isnan()


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((4, 5), torch.zeros(4, dtype=torch.int64), "embeddings: expected"),
        ((0, 2, 5), torch.zeros(0, dtype=torch.int64), "embeddings: expected"),
        ((4, 2, 5), torch.zeros(3, dtype=torch.int64), "labels: expected"),
        ((4, 2, 5), torch.zeros(4), "labels: expected"),
    ],
)
def test_input_that_does_not_fit(shape: tuple[int, ...], labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TripletLoss()(torch.zeros(shape), labels)


def test_unknown_mining() -> None:
    with pytest.raises(ValueError, match="choose 'all'"):
        TripletLoss(mining="semi")  # type: ignore[arg-type]


def test_examples() -> None:
    assert doctest.testmod(cstl.losses).failed == 0
