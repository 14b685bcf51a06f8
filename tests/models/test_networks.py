"""What `cstl.models` promises of every network, of each of its variants, and of networks still to come."""

from inspect import signature

import pytest
import torch
from tiny_networks import CLASSES, VARIANTS, tiny
from torch import Tensor

from cstl.checkpoint import Weights, build_network
from cstl.models import AblatedCSTL, Output

LENGTHS = (1, 7, 2, 5, 3)
each = pytest.mark.parametrize("name", VARIANTS)


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    """Sequences of unequal length, padded with noise, and their lengths."""
    generator = torch.Generator().manual_seed(0)
    frames = max(LENGTHS) + 1  # nobody's own
    return torch.rand(len(LENGTHS), frames, 64, 44, generator=generator), torch.tensor(LENGTHS)


def assert_near(ours: Tensor | None, theirs: Tensor | None, tolerance: float) -> None:
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        assert ours.isfinite().all()
        for one, other in zip(ours, theirs, strict=True):  # sequence by sequence
            assert (one - other).norm() <= tolerance * other.norm()


@each
def test_a_padded_batch_gives_what_each_sequence_gives_alone(name: str, batch: tuple[Tensor, Tensor]) -> None:
    net, (x, lengths) = tiny(name), batch
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        net, x = net.to(dtype), x.to(dtype)
        with torch.no_grad():
            together = net(x, lengths)
            alone = [net(s[None, :n]) for s, n in zip(x, LENGTHS, strict=True)]
        assert isinstance(together, Output)
        assert together.embeddings.dtype == dtype
        assert_near(together.embeddings, torch.cat([out.embeddings for out in alone]), tolerance)
        if together.logits is None:
            continue
        assert together.logits.shape[::2] == (len(x), CLASSES)
        assert_near(together.logits, torch.cat([out.logits for out in alone]), tolerance)


@each
def test_so_do_their_gradients(name: str, batch: tuple[Tensor, Tensor]) -> None:
    net, x, lengths = tiny(name).double(), batch[0].double(), batch[1]
    wanted = torch.rand(net(x, lengths).embeddings.shape, dtype=torch.float64)

    def gradients(sequences: list[int], lengths: Tensor | None) -> dict[str, Tensor]:
        net.zero_grad()
        frames = x.shape[1] if lengths is not None else LENGTHS[sequences[0]]
        (net(x[sequences, :frames], lengths).embeddings * wanted[sequences]).sum().backward()
        return {
            key: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for key, p in net.named_parameters()
        }

    together = gradients(list(range(len(x))), lengths)
    alone = [gradients([i], None) for i in range(len(x))]
    for key, gradient in together.items():
        assert (gradient - sum(each[key] for each in alone)).norm() <= 1e-9 * gradient.norm(), key


@each
def test_lengths_that_are_all_frames_are_none(name: str, batch: tuple[Tensor, Tensor]) -> None:
    net, x = tiny(name), batch[0]
    with torch.no_grad():
        every, none = net(x, torch.full((len(x),), x.shape[1])), net(x)
    assert_near(every.embeddings, none.embeddings, 1e-5)
    assert_near(every.logits, none.logits, 1e-5)


@each
def test_both_resolutions_where_the_network_is_made_for_none(name: str) -> None:
    net = tiny(name)
    if getattr(net, "height", None) is None:
        with torch.no_grad():
            assert (
                net(torch.rand(1, 3, 128, 88)).embeddings.shape
                == net(torch.rand(1, 3, 64, 44)).embeddings.shape
            )


@each
def test_a_checkpoint_makes_the_network_again(name: str) -> None:
    """Of the settings that a file of ours has, which are looked at before anything is made of them."""
    network, arguments = VARIANTS[name]
    target = {"_target_": f"cstl.models.{network.__name__}"}
    net = tiny(name)
    defaults = {key: parameter.default for key, parameter in signature(network).parameters.items()}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    settings = {"network": target | plain | arguments, "_target_": "cstl.recognizer.GaitRecognizer"}
    again = build_network(Weights(net.state_dict(), {"model": settings}))
    assert type(again) is network or network is AblatedCSTL
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())
