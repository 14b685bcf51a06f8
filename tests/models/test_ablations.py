"""Every ablation trains, means what it says, and is one line to ask for; what does not exist is refused."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional as F

from cstl.config import CONFIG_PATH
from cstl.losses import TripletLoss
from cstl.models import CSTL
from cstl.models.cstl.ablations import AGGREGATIONS, SCALES, SSFL, AblatedCSTL, MeanAggregation
from cstl.models.cstl.ata import AdaptiveTemporalAggregation
from cstl.models.cstl.encoder import Encoder
from cstl.models.cstl.mste import TemporalScales

TINY: dict[str, Any] = {
    "height": 16,
    "num_classes": 5,
    "channels": (4, 8, 16),
    "embedding_dim": 8,
    "reduction": 4,
}
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(SCALES, size)]
ABLATIONS = {
    file.stem: OmegaConf.load(file) for file in sorted((Path(CONFIG_PATH) / "ablation").glob("*.yaml"))
}


def three_steps(net: CSTL) -> None:
    """Triplet loss and cross-entropy under Adam; every parameter has a gradient that is more
    than rounding.
    """
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for _ in range(3):
        out = net(torch.rand(6, 4, 16, 10, dtype=torch.float64))
        cross_entropy = F.cross_entropy(out.logits.flatten(0, 1), LABELS.repeat_interleave(net.parts))
        optimizer.zero_grad()
        (TripletLoss()(out.embeddings, LABELS).loss + cross_entropy).backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.norm() > 1e-7, name
        optimizer.step()
    for name, parameter in net.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("ssfl", SSFL)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("scales", SUBSETS, ids="+".join)
def test_every_ablation_trains_and_reads_any_length(
    scales: tuple[str, ...], aggregation: str, ssfl: str
) -> None:
    torch.manual_seed(0)
    net = AblatedCSTL(**TINY, scales=scales, aggregation=aggregation, ssfl=ssfl).double()
    three_steps(net)
    net.eval()
    x, lengths = torch.rand(3, 5, 16, 10, dtype=torch.float64), torch.tensor([5, 1, 3])
    together = net(x, lengths)
    for i, length in enumerate(lengths.tolist()):
        alone = net(x[i : i + 1, :length])
        assert torch.allclose(together.embeddings[i], alone.embeddings[0], rtol=0, atol=1e-10)
        assert torch.allclose(together.logits[i], alone.logits[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_every_part_count_trains(parts: int) -> None:
    torch.manual_seed(0)
    net = AblatedCSTL(**TINY, parts=parts).double()
    three_steps(net)
    assert net(torch.rand(2, 3, 16, 10, dtype=torch.float64)).embeddings.shape == (2, parts, 8)


def test_parts_are_strips_of_rows() -> None:
    torch.manual_seed(0)
    rows, strips = Encoder((4, 8, 16), parts=8), Encoder((4, 8, 16), parts=2)
    strips.load_state_dict(rows.state_dict())
    maps: list[torch.Tensor] = []
    handle = rows.conv4.register_forward_hook(lambda module, inputs, output: maps.append(output.clone()))
    frames = torch.rand(3, 16, 10)
    rows(frames)
    handle.remove()
    strip = F.leaky_relu(maps[0]).unflatten(2, (2, 4))  # (frames, C, 2 strips, 4 rows, W/2)
    assert torch.allclose(strips(frames), (strip.amax((3, 4)) + strip.mean((3, 4))).mT, atol=1e-6)


def test_aggregations_by_their_definition() -> None:
    t = TemporalScales(*torch.randn(3, 2, 1, 4, 5))  # P = 2, N = 1, T = 4, C = 5
    each = torch.stack(t).cumsum(0)  # (S, P, N, T, C)
    expected = {
        "mean": each.mean((0, 3)),
        "max": each.amax((0, 3)),
        "concatenation": torch.cat([*each.mean(3)], -1),
    }
    for how, pooled in expected.items():
        assert torch.allclose(AGGREGATIONS[how](2, 5, 1, 3)(t, None)[0], F.leaky_relu(pooled), atol=1e-6)


def test_ata_of_the_long_term_alone_would_be_its_mean() -> None:
    """Why no importances are made for it: they cancel."""
    t = [torch.randn(2, 3, 1, 16).expand(2, 3, 4, 16)]
    ata = AdaptiveTemporalAggregation(2, 16, 4, scales=1)(t, None)[0]
    assert torch.allclose(ata, MeanAggregation(2, 16, 4, 1)(t, None)[0], atol=1e-6)
    assert isinstance(AblatedCSTL(**TINY, scales=["long"]).ata, MeanAggregation)


def test_the_embedding_holds_what_ssfl_names() -> None:
    width = {ssfl: AblatedCSTL(**TINY, ssfl=ssfl).embedding.shape[1] for ssfl in SSFL}
    assert width == {"both": 48, "weighted": 32, "selected": 32, "none": 16}
    assert AblatedCSTL(**TINY, aggregation="concatenation", ssfl="none").embedding.shape[1] == 48


def test_the_order_of_scales_does_not_matter() -> None:
    assert AblatedCSTL(**TINY, scales=["long", "frame"]).scales == ("frame", "long")


def test_nothing_ablated_is_the_papers_network() -> None:
    torch.manual_seed(0)
    net = CSTL(**TINY).eval()
    ablated = AblatedCSTL(**TINY).eval()
    ablated.load_state_dict(net.state_dict())
    x, lengths = torch.rand(2, 5, 16, 10), torch.tensor([5, 2])
    for mine, theirs in zip(ablated(x, lengths), net(x, lengths), strict=True):
        assert torch.equal(mine, theirs)


def test_attention_says_what_is_not_there() -> None:
    x = torch.rand(2, 3, 16, 10)
    attention = AblatedCSTL(**TINY, scales=["frame", "short"], ssfl="none").eval().attention(x)
    assert attention.frames is None
    assert attention.scales is not None
    assert attention.scales.shape == (2, 3, 8, 2, 16)
    assert AblatedCSTL(**TINY, aggregation="max").eval().attention(x).scales is None


@pytest.mark.parametrize(("arguments", "message"), [
    ({"scales": []}, r"scales is \[\]; choose one or more .*\[frame,short,long\]"),
    ({"scales": "frame"}, "in brackets"),
    ({"scales": ["frame", "middle"]}, "middle.*choose"),
    ({"aggregation": "sum"}, "'sum'; choose one of ata, mean, max, concatenation"),
    ({"ssfl": "off"}, "'off'; choose one of both, weighted, selected, none"),
    ({"parts": 3}, "parts=3 does not divide the 8 rows.*1, 2, 4, 8"),
    ({"parts": 0}, "parts=0"),
    ({"batch_norm": "sync"}, "'sync'; choose one of replica, synchronised, ghost"),
])  # fmt: skip
def test_ablations_that_do_not_exist_list_those_that_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AblatedCSTL(**TINY | arguments)


def model(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        config = compose("train", overrides=[*overrides, "model.network.num_classes=5"])
    model = OmegaConf.to_container(config.model, resolve=True)
    assert isinstance(model, dict)
    return model


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_named_ablation_changes_one_argument_of_the_network(name: str) -> None:
    paper, ablated, changes = model(), model(f"ablation={name}"), OmegaConf.to_container(ABLATIONS[name])
    assert len(changes) == (0 if name == "none" else 2)  # the class, and one argument of it
    assert ablated == paper | {"network": paper["network"] | changes}
    with torch.device("meta"):
        network = instantiate(ablated["network"], _convert_="all")
        assert isinstance(network, CSTL)
        assert isinstance(network, AblatedCSTL) == bool(changes)


def test_ablations_are_one_line_overrides() -> None:
    few = "model.network.scales=[frame,long]"
    network = model("ablation=frame_only", few, "+model.network.ssfl=none", "+model.network.parts=4")[
        "network"
    ]
    assert (network["scales"], network["ssfl"], network["parts"]) == (["frame", "long"], "none", 4)
