"""The network as it is trained against the paper read line by line, and hand-written gradients
against formulas.
"""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.losses import TripletLoss
from cstl.models import CSTL
from cstl.models.layers import gradients

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "golden")]
from recipe import silhouettes  # noqa: E402
from reference_weights import as_reference  # noqa: E402

LABELS = torch.arange(8) // 2


def step(net: nn.Module, x: Tensor) -> list[Tensor]:
    embeddings, logits = net(x)
    cross_entropy = F.cross_entropy(logits.flatten(0, 1), LABELS.repeat_interleave(logits.shape[1]))
    loss = TripletLoss()(embeddings, LABELS).loss + cross_entropy
    loss.backward()
    return [embeddings, logits, loss, net.get_parameter("embedding").grad]  # type: ignore[list-item]


def test_the_trained_network_is_the_papers() -> None:
    torch.manual_seed(0)
    # In double precision: in single, rounding adds or takes a triplet at the margin, not the same everywhere.
    ours = CSTL(64, 73).double()
    reference = as_reference(ours).double()
    x = torch.from_numpy(silhouettes(8, 6, 64, 44, seed=2)).double() / 255
    mine, theirs = step(ours, x), step(reference, x)
    mine.append(ours.encoder.conv4.weight.grad)  # type: ignore[arg-type]
    theirs.append(reference.encoder[3].weight.grad)  # type: ignore[arg-type, union-attr]
    for a, b in zip(mine, theirs, strict=True):
        assert torch.norm(a - b) <= 1e-6 * torch.norm(b)


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_the_trained_network_is_the_papers_in_evaluation(frames: int) -> None:
    torch.manual_seed(0)
    net = CSTL(16, 5, (4, 8, 16), 8).double()
    net(torch.rand(4, 6, 16, 10, dtype=torch.float64))  # gives it running statistics of its own
    net.eval()
    reference = as_reference(net).double()
    x = torch.rand(3, frames, 16, 10, dtype=torch.float64)
    for mine, theirs in zip(net(x), reference(x), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-6)


def _inputs(*shapes: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(("fast", "plain", "shapes", "more"), [
    (gradients.pool_parts, gradients.pool_parts_plainly, [(3, 2, 4, 5)], ()),
    (gradients.windows, gradients.windows_plainly, [(2, 2, 3, 2)], (3,)),
    (gradients.windows, gradients.windows_plainly, [(2, 2, 1, 2)], (5,)),
    (gradients.weighted_mean, gradients.weighted_mean_plainly, [(2, 2, 3, 2), (2, 2, 3, 1)], ((2,),)),
    (gradients.add_neighbours, gradients.add_neighbours_plainly, [(7, 6, 2, 2)], ([1, 4, 2],)),
    (gradients.moments, gradients.moments_plainly, [(2, 2, 3, 4, 5)], ()),
])  # fmt: skip
def test_hand_written_gradients_are_those_of_their_formulas(fast, plain, shapes, more) -> None:  # type: ignore[no-untyped-def]
    inputs = _inputs(*shapes)
    outputs = [function(*inputs, *more) for function in (fast, plain)]
    outputs = [out if isinstance(out, tuple) else (out,) for out in outputs]
    for mine, theirs in zip(*outputs, strict=True):
        assert torch.allclose(mine, theirs)
    cotangents = [torch.randn_like(out) for out in outputs[0]]
    for mine, theirs in zip(*(torch.autograd.grad(out, inputs, cotangents) for out in outputs), strict=True):
        assert torch.allclose(mine, theirs)
    assert torch.autograd.gradcheck(lambda *tensors: fast(*tensors, *more), inputs)
