"""The weights that others share, of every network, variant and form: out, in, and what is refused."""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
from tiny_networks import VARIANTS, tiny
from torch import Tensor

from cstl.api import compose
from cstl.checkpoint import load_network
from cstl.models import GLN, NETWORKS, GaitBase, GaitPart, GaitSet
from cstl.models.published import PublishedNetwork, recognise
from cstl.running.loading import load_recognizer


@cache
def files() -> dict[str, tuple[PublishedNetwork, str, dict[str, Tensor]]]:
    """Variant and form → the network, the form, and what is written."""

    def written() -> Iterator[tuple[str, tuple[PublishedNetwork, str, dict[str, Tensor]]]]:
        for name in VARIANTS:
            net = tiny(name)
            for form in net.forms:
                with suppress(ValueError):  # of a variant that another form is for
                    yield f"{name} {form}", (net, form, net.to_published(form))

    return dict(written())


each = pytest.mark.parametrize("file", files())


@each
def test_out_and_in_again(file: str) -> None:
    net, form, weights = files()[file]
    again = type(net).from_published(weights, form).eval()
    assert again.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())
    back = again.to_published(form)
    assert list(back) == list(weights)
    assert all(torch.equal(value, back[key]) for key, value in weights.items())
    if getattr(net, "test_neck", False):
        return  # which no file says
    x = torch.rand(1, 3, 64, 44)
    with torch.no_grad():
        for ours, theirs in zip(net(x), again(x), strict=True):
            assert (ours is None and theirs is None) or torch.equal(ours, theirs)


@each
def test_a_file_is_recognised_among_all_networks(file: str) -> None:
    net, _, weights = files()[file]
    assert recognise(weights, NETWORKS.values()).network is type(net)


def test_every_form_is_there() -> None:
    """In every form, each by some variant."""
    written = {(type(net), form) for net, form, _ in files().values()}
    assert written == {(network, form) for network in NETWORKS.values() for form in network.forms}


@each
def test_a_damaged_file_is_refused_by_name(file: str) -> None:
    net, form, weights = files()[file]
    key = max(weights, key=lambda name: weights[name].numel())
    rest = {name: value for name, value in weights.items() if name != key}
    for damaged, named in (
        (rest, key),
        (weights | {"backbone.weight": torch.zeros(1)}, "backbone.weight"),
        (weights | {key: weights[key][..., None]}, type(net).__name__),
    ):
        with pytest.raises(ValueError, match=re.escape(named)):
            type(net).from_published(damaged, form)


@each
def test_a_foreign_file_is_said_to_look_like_what_it_is(file: str) -> None:
    net, _, weights = files()[file]
    key = next(iter(weights))
    with pytest.raises(ValueError, match=rf"looks most like {type(net).__name__} .*{re.escape(key)}"):
        recognise({name: value for name, value in weights.items() if name != key}, NETWORKS.values())


def test_another_order_of_the_parts_is_another_form() -> None:
    net, _, weights = files()["gaitset opengait"]
    with pytest.raises(ValueError, match="no file of GaitSet"):
        GaitSet.from_published(weights, "authors")
    with pytest.raises(ValueError, match=r"form=mine: .*opengait, authors"):
        net.to_published("mine")
    with pytest.raises(ValueError, match="scale="):  # embeddings 255 times smaller, which nothing would tell
        GaitSet(channels=(4, 8, 16), authors_oumvlp=True).to_published("opengait")
    with pytest.raises(ValueError, match="strips="):
        GaitPart(channels=(4, 8, 16, 16), strips=(2, 2, 8, 8)).to_published()


def test_the_flat_embedding_of_older_weights_is_in_another_order() -> None:
    """Keys and shapes are the same, so that only who loads them can say so."""
    net = GLN(num_classes=3, channels=(2, 4, 8), lateral_dim=4, embedding_dim=4, compact_dim=4).eval()
    now, before = net.to_published(), net.to_published("opengait_1_1")
    order = torch.arange(93 * 4).view(93, 4).T.flatten()  # theirs now, c·93 + p, of theirs before, p·4 + c
    assert torch.equal(now["reduce_fc.weight"], before["reduce_fc.weight"][:, order])
    assert torch.equal(now["encoder_bn.running_var"], before["encoder_bn.running_var"][order])
    assert torch.equal(now["Head.fc_bin"], before["Head.fc_bin"])
    assert recognise(before, NETWORKS.values()).origin == recognise(now, NETWORKS.values()).origin


def test_what_a_file_cannot_say_is_added_and_what_it_says_stands(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / "GaitBase-60000.pt"
    torch.save({"model": GaitBase(5, (4, 4, 8, 8), 6).to_published()}, file)
    plain, by_neck = (load_network(file, model="gaitbase", **more) for more in ({}, {"test_neck": True}))
    x = torch.rand(2, 3, 64, 44)
    assert not torch.allclose(plain(x).embeddings, by_neck(x).embeddings)
    assert by_neck.to_published().keys() == plain.to_published().keys()  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"GaitBase-60000\.pt is refused: .*num_classes=9.*, not "):
        load_network(file, model="gaitbase", num_classes=9)
    with pytest.raises(ValueError, match="It is a file of GaitBase: model=gaitbase"):
        load_network(file, model="deepgaitv2")


def test_a_checkpoint_of_ours_is_tested_by_its_neck(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = GaitBase(5, (4, 4, 8, 8), 6).eval()
    network = {
        "_target_": "cstl.models.GaitBase",
        "num_classes": 5,
        "channels": [4, 4, 8, 8],
        "embedding_dim": 6,
    }
    config = {"model": {"_target_": "cstl.recognizer.GaitRecognizer", "network": network}, "res": 64}
    weights = {f"network.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": weights, "config": config}, tmp_path / "a.ckpt")
    typed = compose("model=gaitbase", "model.network.test_neck=true", "checkpoint=x", command="evaluate")
    recognizer, settings = load_recognizer(tmp_path / "a.ckpt", typed.model)
    x = torch.rand(1, 3, 64, 44)
    expected = load_network(tmp_path / "a.ckpt", test_neck=True)(x).embeddings
    assert torch.equal(recognizer.network.eval()(x).embeddings, expected)
    assert not torch.allclose(net(x).embeddings, expected)
    assert settings["model"]["network"]["test_neck"]
    with pytest.raises(
        ValueError, match=r"a\.ckpt is refused: it holds a GaitBase, the model is a DeepGaitV2"
    ):
        load_recognizer(
            tmp_path / "a.ckpt", compose("model=deepgaitv2", "checkpoint=x", command="evaluate").model
        )


def test_a_file_without_counts_of_batches_is_read() -> None:
    net = tiny("gaitbase")
    weights = {key: value for key, value in net.to_published().items() if "num_batches" not in key}
    assert type(net).from_published(weights).state_dict().keys() == net.state_dict().keys()


def test_old_weights_are_written_in_the_new_order(tmp_path: Path) -> None:
    net = tiny("gln num_classes=3")
    torch.save(net.to_published("opengait_1_1"), tmp_path / "old.pt")
    again = load_network(tmp_path / "old.pt", model="gln", form="opengait_1_1")
    new = again.to_published("opengait")  # type: ignore[operator]
    assert all(torch.equal(value, new[key]) for key, value in net.to_published("opengait").items())
