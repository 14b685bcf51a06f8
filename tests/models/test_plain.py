"""The fast network against the plain one that the benchmark compares it with: the same outputs, loss and gradients."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.losses import TripletLoss
from cstl.models import CSTL
from cstl.models.batch_norm import _Moments
from cstl.models.parts import _Windows, weighted_mean

sys.path[:0] = [str(Path(__file__).parents[2] / "scripts"), str(Path(__file__).parents[1] / "golden")]
from benchmarks.plain_cstl import PlainCSTL, take_weights  # noqa: E402
from recipe import silhouettes  # noqa: E402

LABELS = torch.arange(8) // 2


def step(net: nn.Module, x: Tensor) -> list[Tensor]:
    embeddings, logits = net(x)
    cross_entropy = F.cross_entropy(logits.flatten(0, 1), LABELS.repeat_interleave(logits.shape[1]))
    loss = TripletLoss()(embeddings, LABELS).loss + cross_entropy
    loss.backward()
    return [embeddings, logits, loss, net.get_parameter("embedding").grad]  # type: ignore[list-item]


def test_the_plain_version_is_the_same_network() -> None:
    torch.manual_seed(0)
    ours, plain = CSTL(64, 73), PlainCSTL(64, 73)
    take_weights(plain, ours)
    # Of this seed no triplet lies on the margin, where rounding adds or takes a term of the loss.
    x = torch.from_numpy(silhouettes(8, 6, 64, 44, seed=2)) / 255
    mine, theirs = step(ours, x), step(plain, x)
    mine.append(ours.encoder.conv4.weight.grad)  # type: ignore[arg-type]
    theirs.append(plain.convolutions[3].weight.grad)  # type: ignore[arg-type, union-attr]
    for a, b in zip(mine[:3], theirs[:3], strict=True):
        assert torch.norm(a - b) <= 1e-5 * torch.norm(b)
    for a, b in zip(mine[3:], theirs[3:], strict=True):
        assert torch.norm(a - b) <= 1e-4 * torch.norm(b)


def test_windows_and_weighted_means_have_their_gradient() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)  # (P, N, T, C)
    for kernel in (3, 5):
        assert torch.autograd.gradcheck(lambda x, k=kernel: _Windows.apply(x, k), x)
    weight = torch.rand(2, 2, 3, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: weighted_mean(x, w, (2,)), (x, weight))
    assert torch.autograd.gradcheck(_Moments.apply, x[:, None])
