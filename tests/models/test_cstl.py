"""The network's parts against loops written from `facts/network.md`, and what users may ask of it."""

import doctest
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cstl.models.cstl.network
from cstl.models import CSTL
from cstl.models.layers.batch_norm import PartBatchNorm
from cstl.models.layers.gradients import pool_parts
from cstl.models.layers.parts import PartConv

TINY = {"height": 16, "num_classes": 5, "channels": (4, 8, 16), "embedding_dim": 8, "reduction": 4}


@pytest.fixture
def net() -> CSTL:
    torch.manual_seed(0)
    net = CSTL(**TINY)
    for module in net.modules():
        if isinstance(module, PartBatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net


def test_part_conv_is_a_grouped_convolution() -> None:
    torch.manual_seed(0)
    conv = PartConv(parts=3, in_channels=4, out_channels=5, kernel=3)
    x = torch.randn(3, 2, 7, 4)  # (P, N, T, C)
    grouped = x.permute(1, 0, 3, 2).reshape(2, 12, 7)
    expected = F.conv1d(grouped, conv.weight, padding=1, groups=3)
    assert torch.allclose(conv(x), expected.reshape(2, 3, 5, 7).permute(1, 0, 3, 2), atol=1e-6)


def test_part_batch_norm_is_pytorchs_part_by_part() -> None:
    torch.manual_seed(0)
    ours, theirs = PartBatchNorm(3, 4), [nn.BatchNorm1d(4) for _ in range(3)]
    for part, norm in enumerate(theirs):
        norm.weight.data = ours.weight.view(3, 4)[part].detach()
    for _ in range(2):
        x = torch.randn(3, 2, 7, 4)
        expected = torch.stack(
            [norm(part.flatten(0, 1)).view(2, 7, 4) for norm, part in zip(theirs, x, strict=True)]
        )
        assert torch.allclose(ours(x), expected, atol=1e-5)
    assert torch.allclose(
        ours.running_mean.view(3, 4), torch.stack([n.running_mean for n in theirs]), atol=1e-6
    )
    assert torch.allclose(
        ours.running_var.view(3, 4), torch.stack([n.running_var for n in theirs]), atol=1e-6
    )
    assert ours.num_batches_tracked == 2


def test_batch_norm_leaves_padding_out() -> None:
    torch.manual_seed(0)
    padded, cut = PartBatchNorm(3, 4), PartBatchNorm(3, 4)
    cut.load_state_dict(padded.state_dict())
    x = torch.randn(3, 1, 7, 4)
    mask = torch.arange(7)[None] < 5
    assert torch.allclose(padded(x, mask)[:, :, :5], cut(x[:, :, :5]), atol=1e-6)
    assert torch.allclose(padded.running_var, cut.running_var)


def test_batch_norm_of_a_single_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two values"):
        PartBatchNorm(3, 4)(torch.randn(3, 1, 1, 4))


def slow_reference(net: CSTL, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence (T, H, W) in evaluation mode, part by part and frame by frame."""
    f = F.leaky_relu(F.conv2d(x[:, None], net.encoder.conv1.weight, padding=1))
    f = F.max_pool2d(F.leaky_relu(F.conv2d(f, net.encoder.conv2.weight, padding=1)), 2)
    f = F.leaky_relu(F.conv2d(f, net.encoder.conv3.weight, padding=1))
    f = F.leaky_relu(F.conv2d(f, net.encoder.conv4.weight, padding=1))
    f = f.amax(-1) + f.mean(-1)  # (T, C, P)

    def conv(layer: PartConv, part: int, v: torch.Tensor) -> torch.Tensor:  # (C, T) → (out, T)
        weight = layer.weight.chunk(net.parts)[part]
        return F.conv1d(v[None], weight, padding=weight.shape[-1] // 2)[0]

    def norm(layer: PartBatchNorm, part: int, v: torch.Tensor) -> torch.Tensor:
        mean, var, w, b = (
            t.chunk(net.parts)[part][:, None]
            for t in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        )
        return (v - mean) / (var + 1e-5).sqrt() * w + b

    embeddings, logits = [], []
    for p in range(net.parts):
        t_f = f[:, :, p].T  # (C, T)
        m, s = net.mste, net.ssfl
        a = norm(m.short_norm1, p, conv(m.short_conv1, p, t_f))
        t_s = a + norm(m.short_norm2, p, conv(m.short_conv2, p, a))
        w = conv(m.long_out, p, F.leaky_relu(norm(m.long_norm, p, conv(m.long_in, p, t_f)))).sigmoid()
        t_l = ((w * t_f).sum(1) / w.sum(1))[:, None].expand_as(t_f)

        u_f, u_s, u_l = t_f, t_s + t_f, t_l + t_s + t_f
        scores = conv(
            net.ata.out_conv, p, F.leaky_relu(conv(net.ata.in_conv, p, torch.cat([u_f, u_s, u_l])))
        ).sigmoid()
        a_f, a_s, a_l = scores.chunk(3)
        numerator = (a_f * u_f + a_s * u_s + a_l * u_l).sum(1)
        aggregated = F.leaky_relu(numerator / (a_f + a_s + a_l).sum(1))

        stacked = torch.cat([t_f, t_s, t_l])
        score = conv(
            s.score_out, p, F.leaky_relu(norm(s.score_norm, p, conv(s.score_in, p, stacked)))
        ).sigmoid()[0]
        weighted = (conv(s.decay, p, stacked) * score).sum(1) / score.sum()
        selected = t_f[:, int(score.argmax())]
        logits.append(norm(s.class_norm, p, weighted[:, None])[:, 0] @ s.class_weight[0])
        embeddings.append(torch.cat([aggregated, weighted, selected]) @ net.embedding[p])
    return torch.stack(embeddings), torch.stack(logits)


@torch.no_grad()
def test_sequences_of_any_length_share_a_batch(net: CSTL) -> None:
    """A padded batch, garbage in the padding, against the slow reference one sequence at a time."""
    net.eval()
    lengths = torch.tensor([1, 2, 3, 9, 14])
    x = torch.rand(5, 14, 16, 10)
    out = net(x, lengths)
    for i, length in enumerate(lengths.tolist()):
        embeddings, logits = slow_reference(net, x[i, :length])
        assert torch.norm(out.embeddings[i] - embeddings) <= 1e-5 * embeddings.norm()
        assert torch.norm(out.logits[i] - logits) <= 1e-5 * logits.norm()


@torch.no_grad()
def test_random_lengths_up_to_200_share_a_batch(net: CSTL) -> None:
    """‖one batch − one at a time‖ / ‖one at a time‖ ≤ 1e-5."""
    net.eval()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        lengths = torch.cat([torch.tensor([1, 200]), torch.randint(1, 200, (6,), generator=generator)])
        x = torch.rand(8, 200, 16, 10, generator=generator)
        out = net(x, lengths)
        for i, length in enumerate(lengths.tolist()):
            alone = net(x[i : i + 1, :length])
            for together, single in zip(out, alone, strict=True):
                assert torch.norm(together[i] - single[0]) <= 1e-5 * single.norm()


@torch.no_grad()
def test_attention_is_what_the_network_uses(net: CSTL) -> None:
    x = torch.rand(2, 6, 16, 10)
    attention = net.eval().attention(x, torch.tensor([6, 4]))
    assert attention.scales.shape == (2, 6, 8, 3, 16)
    assert attention.frames.shape == (2, 6, 8)
    assert attention.scales[1, 4:].eq(0).all()
    assert attention.frames[0].gt(0).all()
    assert attention.frames[0].lt(1).all()


def test_selection_passes_no_gradient_to_its_score(net: CSTL) -> None:
    """Only the weighted part trains the scores: from `selected` alone nothing reaches them."""
    frames = torch.rand(2, 4, 16, 10)
    f, mask = net.encode(frames, None)
    salient = net.ssfl(net.mste(f, mask), mask)
    salient.selected.sum().backward()
    assert net.ssfl.score_in.weight.grad is None
    assert net.encoder.conv1.weight.grad.abs().sum() > 0


def test_every_parameter_learns(net: CSTL) -> None:
    out = net(torch.rand(4, 6, 16, 10))
    (
        out.embeddings.square().mean() + F.cross_entropy(out.logits.flatten(0, 1), torch.arange(32) % 5)
    ).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("name", "fan_in", "fan_out"), [
    ("encoder.conv3.weight", 64 * 9, 128 * 9),
    ("mste.short_conv1.weight", 128 * 3, 32 * 128 * 3),
    ("mste.long_in.weight", 128, 32 * 8),
    ("ata.out_conv.weight", 24, 32 * 384),
    ("ssfl.score_out.weight", 24, 32),
    ("ssfl.class_weight", 128 * 73, 73),
    ("embedding", 384 * 256, 32 * 256),
])  # fmt: skip
def test_initial_weights_are_xavier_of_the_tensor_as_stored(name: str, fan_in: int, fan_out: int) -> None:
    torch.manual_seed(0)
    weight = CSTL(64, 73).state_dict()[name]
    bound = math.sqrt(6 / (fan_in + fan_out))
    assert weight.abs().max() <= bound
    assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_initial_batch_norm() -> None:
    torch.manual_seed(0)
    norm = CSTL(64, 73).mste.short_norm1.requires_grad_(False)
    assert norm.weight.mean() == pytest.approx(1, abs=0.002)
    assert norm.weight.std() == pytest.approx(0.02, rel=0.05)
    assert not norm.bias.any()


@torch.no_grad()
def test_bf16_keeps_scores_and_outputs_in_float32(net: CSTL) -> None:
    net.eval()
    x = torch.rand(2, 6, 16, 10)
    exact, exact_attention = net(x), net.attention(x)
    with torch.autocast("cpu", torch.bfloat16):
        out, attention = net(x), net.attention(x)
    assert out.embeddings.dtype == out.logits.dtype == attention.frames.dtype == torch.float32
    error = (out.embeddings - exact.embeddings).norm(dim=2) / exact.embeddings.norm(dim=2)  # (N, P)
    assert error.median() <= 0.02  # not all: where two frames score alike, bf16 may select the other
    assert torch.allclose(attention.frames, exact_attention.frames, atol=0.02)


def test_float64_stays_float64(net: CSTL) -> None:
    out = net.double()(torch.rand(2, 6, 16, 10, dtype=torch.float64))
    assert out.embeddings.dtype == out.logits.dtype == torch.float64


def test_gradient_of_pooling() -> None:
    x = torch.rand(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)  # (frames, P, pixels, C)
    assert torch.autograd.gradcheck(pool_parts, x)
    equal = torch.ones(1, 1, 4, 1, requires_grad=True)
    pool_parts(equal).sum().backward()
    assert equal.grad is not None
    assert equal.grad.flatten().tolist() == [0.5] * 4


@pytest.mark.parametrize(("arguments", "message"), [
    ({"height": 15}, "multiple of 2"),
    ({"reduction": 5}, "does not divide"),
])  # fmt: skip
def test_impossible_networks_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CSTL(**TINY | arguments)


def test_wrong_input_is_refused(net: CSTL) -> None:
    with pytest.raises(ValueError, match=r"float \(B, T, 16, W\).*uint8"):
        net(torch.zeros(2, 3, 16, 10, dtype=torch.uint8))
    with pytest.raises(ValueError, match="prepare the data at that size"):
        net(torch.zeros(2, 3, 64, 44))
    with pytest.raises(ValueError, match="values from 1 to 3"):
        net(torch.zeros(2, 3, 16, 10), torch.tensor([3, 4]))


def test_the_docstrings_run() -> None:
    assert doctest.testmod(cstl.models.cstl.network).failed == 0
