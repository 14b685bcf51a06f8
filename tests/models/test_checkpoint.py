"""Files of weights: which are read, which are refused and how, and starting a network from them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cstl.checkpoint import from_official, load_network, load_weights, to_official, transfer
from cstl.models import CSTL, AblatedCSTL

SIZES: dict[str, Any] = {
    "height": 16,
    "num_classes": 5,
    "channels": [4, 8, 16],
    "embedding_dim": 8,
    "reduction": 4,
}
ABLATIONS: list[dict[str, Any]] = [
    {"scales": ["frame"]},
    {"scales": ["short", "long"]},
    {"aggregation": "mean"},
    {"aggregation": "concatenation"},
    {"ssfl": "none"},
    {"ssfl": "weighted"},
]


class RunsCode:
    def __reduce__(self) -> Any:
        return os.mkdir, ("this-must-not-be-made",)


@pytest.fixture
def net() -> CSTL:
    torch.manual_seed(0)
    return CSTL(**SIZES)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_the_authors_file_is_recognised(net: CSTL, tmp_path: Path, prefix: bool, zipped: bool) -> None:
    file = tmp_path / "CSTL_CASIA-B-100000-encoder.ptm"
    torch.save(to_official(net.state_dict(), prefix), file, _use_new_zipfile_serialization=zipped)
    weights = load_weights(file)
    assert weights.config is None
    assert same(weights.state_dict, net.state_dict())
    assert (weights.network, weights.arguments) == (CSTL, SIZES)


def test_a_checkpoint_of_ours_is_recognised(net: CSTL, tmp_path: Path) -> None:
    config = {"model": {"triplet": {"margin": 0.2}}, "res": 64}
    state_dict = {f"network.{key}": value for key, value in net.state_dict().items()} | {
        "head.bias": torch.zeros(1)
    }
    torch.save({"state_dict": state_dict, "config": config, "global_step": 3}, tmp_path / "step-0000003.ckpt")
    weights = load_weights(tmp_path / "step-0000003.ckpt")
    assert weights.config == config
    assert same(weights.state_dict, net.state_dict())


def test_a_network_out_of_its_checkpoint(net: CSTL, tmp_path: Path) -> None:
    """Of the authors' file and of a run's; another class is the user's to make, and its weights
    are looked at.
    """
    torch.save(to_official(net.state_dict()), tmp_path / "theirs.ptm")
    settings = {"_target_": "cstl.models.CSTL", **SIZES}
    content = {"state_dict": {f"network.{key}": value for key, value in net.state_dict().items()}}
    config = {"model": {"_target_": "cstl.recognizer.GaitRecognizer", "network": settings}}
    torch.save(content | {"config": config}, tmp_path / "ours.ckpt")
    walks = torch.rand(2, 4, 16, 11)
    expected = net.eval()(walks).embeddings
    for name in ("theirs.ptm", "ours.ckpt"):
        loaded = load_network(tmp_path / name)
        assert not loaded.training
        torch.testing.assert_close(loaded(walks).embeddings, expected, rtol=0, atol=0)

    config["model"]["network"]["_target_"] = "mine.Net"
    torch.save(content | {"config": config}, tmp_path / "mine.ckpt")
    with pytest.raises(
        ValueError, match=r"mine\.ckpt is refused: .*mine\.Net, and what is called is not read from a"
    ):
        load_network(tmp_path / "mine.ckpt")
    mine = load_network(tmp_path / "mine.ckpt", CSTL(**SIZES))
    torch.testing.assert_close(mine(walks).embeddings, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"mine\.ckpt is refused: its weights are not those of Linear"):
        load_network(tmp_path / "mine.ckpt", torch.nn.Linear(2, 2))


@pytest.mark.parametrize(("content", "message"), [
    ({"fc_bin": RunsCode()}, r"is refused: besides tensors it holds (posix|nt)\.mkdir"),
    ({"fc_bin": np.zeros(3)}, "is refused: besides tensors it holds numpy"),
    (torch.nn.Linear(2, 2), r"is refused: besides tensors it holds torch\.nn\.modules\.linear\.Linear"),
    ([torch.zeros(1)], "holds a list; expected a checkpoint"),
    ({}, "nothing in it"),
    ({"state": {}, "param_groups": []}, "holds a dictionary with state, param_groups; expected"),
    ({"state_dict": {"network.a": 1}, "config": {}}, "holds a dictionary with state_dict, config; expected"),
    ({"state_dict": {"backbone.a": torch.zeros(1)}, "config": {}},
     "holds a dictionary with state_dict, config"),
])  # fmt: skip
def test_anything_else_is_refused_by_name(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.ptm")
    with pytest.raises(ValueError, match=rf"weights\.ptm.*{message}"):
        load_weights(tmp_path / "weights.ptm")
    assert not Path("this-must-not-be-made").exists()


def test_what_is_no_networks_says_whose_it_looks_like(net: CSTL, tmp_path: Path) -> None:
    theirs = to_official(net.state_dict())
    del theirs["salient_learning.fc"]
    torch.save(theirs, tmp_path / "weights.ptm")
    for model in (None, "cstl"):
        with pytest.raises(
            ValueError, match=r"weights\.ptm is refused.*CSTL.*salient_learning\.fc is absent"
        ):
            load_network(tmp_path / "weights.ptm", model=model)
    with pytest.raises(ValueError, match=r"model=gaitgait is no network of cstl: .*gaitset"):
        load_network(tmp_path / "weights.ptm", model="gaitgait")


def test_damaged_files_are_refused_by_name(net: CSTL, tmp_path: Path) -> None:
    torch.save(to_official(net.state_dict()), tmp_path / "whole.ptm")
    whole = (tmp_path / "whole.ptm").read_bytes()
    for content in (b"", b"some text", whole[: len(whole) // 2]):
        (tmp_path / "damaged.ptm").write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.ptm cannot be read: it is damaged"):
            load_weights(tmp_path / "damaged.ptm")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*absent\.ptm"):
        load_weights(tmp_path / "absent.ptm")


def test_shapes_that_do_not_belong_together_are_refused(net: CSTL) -> None:
    theirs = to_official(net.state_dict())
    with pytest.raises(ValueError, match=r"fc_bin is \(8, 32, 8\), not \(8, 48, 8\)"):
        from_official(theirs | {"fc_bin": torch.zeros(8, 32, 8)})
    with pytest.raises(ValueError, match="do not belong together"):
        from_official(theirs | {"fc_bin": torch.zeros(8)})


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_an_ablation_has_no_place_in_the_authors_code(ablation: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(is absent|, not |no place for)"):
        to_official(AblatedCSTL(**SIZES, **ablation).state_dict())


def test_a_transfer_keeps_the_backbone_and_makes_the_classes_new(net: CSTL) -> None:
    torch.manual_seed(1)
    other = CSTL(**SIZES | {"num_classes": 7})
    classes = other.ssfl.class_weight.detach().clone()
    done = transfer(other, net.state_dict())
    assert done.new == done.unused == ("ssfl.class_weight",)
    assert set(done.loaded) == net.state_dict().keys() - {"ssfl.class_weight"}
    assert all(torch.equal(other.state_dict()[key], net.state_dict()[key]) for key in done.loaded)
    assert torch.equal(other.ssfl.class_weight, classes)
    total = len(net.state_dict())
    assert (
        str(done)
        == f"loaded {total - 1} of {total} tensors; new: ssfl.class_weight; not used: ssfl.class_weight"
    )


def test_the_classes_are_new_also_where_their_number_is_the_same(net: CSTL) -> None:
    assert transfer(CSTL(**SIZES), net.state_dict()).new == ("ssfl.class_weight",)


def test_a_transfer_says_what_an_ablation_has_no_place_for(net: CSTL) -> None:
    done = transfer(AblatedCSTL(**SIZES, aggregation="mean"), net.state_dict())
    assert set(done.unused) == {"ata.in_conv.weight", "ata.out_conv.weight", "ssfl.class_weight"}


@pytest.mark.parametrize(("sizes", "message"), [
    ({"height": 32}, r"mste\.short_conv1\.weight is \(128, 16, 3\), not \(256, 16, 3\).*must agree in res"),
    ({"ssfl": "none"}, r"embedding is \(8, 48, 8\), not \(8, 16, 8\)"),
])  # fmt: skip
def test_a_transfer_that_does_not_fit_changes_nothing(net: CSTL, sizes: dict[str, Any], message: str) -> None:
    other = AblatedCSTL(**SIZES | sizes)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        transfer(other, net.state_dict())
    assert same(other.state_dict(), before)
    with pytest.raises(ValueError, match="no tensor has the same name"):
        transfer(other, {"backbone.weight": torch.zeros(1)})
