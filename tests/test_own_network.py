"""Networks of a researcher's own: one with sets and triplets alone, one residual with classes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from cstl.evaluate import evaluate
from cstl.train import train

NETWORKS = '''
import torch
from torch import nn
from cstl.models import Output

class Sets(nn.Module):
    """2-D convolutions and the maximum over the frames; no logits."""

    def __init__(self, width=4):
        super().__init__()
        self.conv, self.embedding = nn.Conv2d(1, width, 3, padding=1), nn.Linear(width, 8)

    def forward(self, silhouettes, lengths=None):
        maps = self.conv(silhouettes.flatten(0, 1)[:, None]).mean(3).unflatten(0, silhouettes.shape[:2])
        if lengths is not None:
            beyond = torch.arange(maps.shape[1]) >= lengths[:, None]
            maps = maps.masked_fill(beyond[:, :, None, None], -torch.inf)
        rows = maps.amax(1).unflatten(2, (4, -1)).mean(3)  # (B, C, P)
        return Output(self.embedding(rows.transpose(1, 2)), None)

class Residual(nn.Module):
    """A residual block with batch norms, and classes."""

    def __init__(self, num_classes, width=4):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)
        convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.block = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), convolution)
        self.norm, self.classes = nn.BatchNorm1d(width), nn.Linear(width, num_classes)

    def forward(self, silhouettes, lengths=None):
        x = self.stem(silhouettes.flatten(0, 1)[:, None])
        x = (x + self.block(x)).mean((2, 3)).unflatten(0, silhouettes.shape[:2])  # (B, T, C)
        weight = torch.ones(x.shape[:2]) if lengths is None else torch.arange(x.shape[1]) < lengths[:, None]
        x = (x * weight[:, :, None]).sum(1) / weight.sum(1, keepdim=True)
        return Output(x[:, None], self.classes(self.norm(x))[:, None])
'''
TINY = ["dataset=tiny", "trainer=cpu", "baseline=false"]
MODEL = "defaults: [base, _self_]\nnetwork:\n  _target_: ownnet.{name}\n{more}"


@pytest.fixture
def user_conf(tmp_path: Path, user_conf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of everybody, with two models in it whose networks can be imported."""
    (tmp_path / "ownnet.py").write_text(NETWORKS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    own = tmp_path / "my"
    shutil.copytree(user_conf, own)
    (own / "model").mkdir()
    recipe = (
        (user_conf / "recipe" / "cstl_tiny.yaml")
        .read_text()
        .replace("network: {channels: [2, 4, 16]}", "ghosts: 2")
    )
    for name, network, more in (
        ("sets", "Sets", "  width: 3\n"),
        ("residual", "Residual", "  num_classes: ???\n"),
    ):
        (own / "recipe" / f"{name}_tiny.yaml").write_text(recipe)
        (own / "model" / f"{name}.yaml").write_text(MODEL.format(name=network, more=more), encoding="utf-8")
    return own


@pytest.mark.parametrize("more", [
    ["model=sets", "data.clip=unordered", "data.frames=[2,5]"],
    ["model=residual", "model.batch_norm=ghost", "data.repeat_sequences=false"],
    ["model=residual", "model.augment=[{_target_:cstl.data.augment.Rotate,probability:1.0}]",
     "data.clip=thinned"],
])  # fmt: skip
def test_a_network_of_ones_own_trains(
    configured: Callable[..., DictConfig], tmp_path: Path, more: list[str]
) -> None:
    results = train(configured("train", *TINY, *more, "trainer.max_steps=3"))
    assert results["rank1"].keys() == {"NM", "BG"}
    written = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert written["rank1"] == results["rank1"]
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("step-*.ckpt"))
    content = torch.load(checkpoint, weights_only=True)
    assert content["config"]["model"]["network"]["_target_"].startswith("ownnet.")
    asked = [f"checkpoint='{sorted(checkpoint.parent.glob('step-*.ckpt'))[-1]}'", "baseline=false"]
    with pytest.raises(ValueError, match=r"ownnet\.\w+, and what is called is not read from a file"):
        evaluate(configured("evaluate", *asked, folder="refused"))
    again = evaluate(configured("evaluate", *asked, more[0], folder="again"))
    assert (again["rank1"], again["method"]) == (results["rank1"], results["method"])
    next(tensor for tensor in content["state_dict"].values() if tensor.is_floating_point()).fill_(torch.nan)
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(ValueError, match=r"nan\.ckpt is refused: .*(NaN|finite|number)"):
        evaluate(configured("evaluate", f"checkpoint={tmp_path}/nan.ckpt", more[0], folder="nan"))
    other = {"model=sets": "model=residual", "model=residual": "model=sets"}[more[0]]
    with pytest.raises(ValueError, match=r"are not those of model\.network=ownnet|not say what num_classes"):
        evaluate(configured("evaluate", *asked, other, folder="wrong"))


def test_a_run_with_augmentation_does_not_depend_on_where_it_stopped(
    configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    more = ["model=residual", "model.augment=[{_target_:cstl.data.augment.Erase,probability:0.7}]"]

    def trained(folder: str, *overrides: str) -> dict[str, torch.Tensor]:
        train(configured("train", *TINY, *more, *overrides, folder=folder))
        last = sorted((tmp_path / folder / "checkpoints").glob("step-*.ckpt"))[-1]
        return torch.load(last, weights_only=True)["state_dict"]

    straight = trained("straight", "trainer.max_steps=6")
    trained("stopped", "trainer.max_steps=4")
    prolonged = trained("stopped", "trainer.max_steps=4", "extend=6")
    for name, tensor in straight.items():
        assert torch.equal(tensor, prolonged[name]), name


def test_our_own_network_with_augmentation_is_evaluated_from_its_checkpoint(
    configured: Callable[..., DictConfig], tmp_path: Path
) -> None:
    changes = ["Flip", "Rotate", "Perspective", "Erase"]
    more = f"model.augment=[{','.join(f'{{_target_:cstl.data.augment.{change}}}' for change in changes)}]"
    trained = train(configured("train", *TINY, more, "data.frames=[2,5]", "data.clip=unordered"))
    checkpoint = sorted((tmp_path / "run" / "checkpoints").glob("step-*.ckpt"))[-1]
    evaluated = evaluate(
        configured("evaluate", f"checkpoint='{checkpoint}'", "baseline=false", folder="again")
    )
    assert evaluated["rank1"] == trained["rank1"]


def test_any_weights_start_a_network_but_for_the_classes(
    configured: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Class k is another subject elsewhere, so that the classes begin anew, as many as there may be."""
    first = train(
        configured("train", *TINY, "model=residual", "evaluate=false", "trainer.max_steps=2", folder="first")
    )
    weights = torch.load(first["checkpoint"], weights_only=True)["state_dict"]
    weights = {key.removeprefix("network."): value for key, value in weights.items()}
    torch.save({"state_dict": weights}, tmp_path / "bare.pt")
    for path in (first["checkpoint"], f"{tmp_path}/bare.pt"):
        folder = Path(path).stem
        again = (
            "model=residual",
            f"init_from='{path}'",
            "evaluate=false",
            "trainer.max_steps=1",
            "allow_seen=true",
        )
        capsys.readouterr()
        train(configured("train", *TINY, *again, "model.optimizer.lr=1e-30", folder=folder))
        assert "new: classes.weight, classes.bias; not used: classes.weight, classes.bias" in " ".join(
            capsys.readouterr().out.split()
        )
        begun = torch.load(tmp_path / folder / "checkpoints" / "step-0000001.ckpt", weights_only=True)[
            "state_dict"
        ]
        assert torch.equal(begun["network.stem.weight"], weights["stem.weight"])
        assert not torch.equal(begun["network.classes.weight"], weights["classes.weight"])


@pytest.mark.parametrize("word", [
    "model.optimizer=sgd", "model.scheduler=cosine", "model.augment=[flip]", "model.augment=flip",
    "model.triplet=none", "model.cross_entropy=none", "model.network=ownnet.Residual",
    "model.losses=[ownnet.spread]", "'model.losses=[{_target_: torch.nn.Identity}]'",
])  # fmt: skip
def test_a_name_for_a_component_is_refused_with_what_is_typed(
    configured: Callable[..., DictConfig], word: str
) -> None:
    key = word.strip("'").partition("=")[0]
    with pytest.raises(ValueError, match=rf"{key}=.*expected settings and no name, such as .*{key}"):
        train(configured("train", *TINY, "model=residual", word.strip("'")))


def test_what_comes_next_names_the_network_of_ones_own(
    configured: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    train(configured("train", *TINY, "model=residual", "evaluate=false", "trainer.max_steps=1"))
    assert "next: python -m cstl.evaluate model=residual checkpoint=" in capsys.readouterr().out


def test_an_evaluation_has_the_numbers_that_were_trained_and_not_those_of_the_file(
    configured: Callable[..., DictConfig], user_conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wider = ("model=sets", "model.network.width=5", "trainer.max_steps=1")
    trained = train(configured("train", *TINY, *wider))
    asked = (f"checkpoint='{trained['checkpoint']}'", "baseline=false", "model=sets")
    again = evaluate(configured("evaluate", *asked, folder="again"))
    assert again["rank1"] == trained["rank1"]
    assert "is made with width=5, as it was trained" in " ".join(capsys.readouterr().out.split())
    file = user_conf / "model" / "sets.yaml"
    file.write_text(file.read_text().replace("  width: 3\n", ""))
    assert evaluate(configured("evaluate", *asked, folder="unnamed"))["rank1"] == trained["rank1"]
    content = torch.load(trained["checkpoint"], weights_only=True)
    content["config"]["model"]["network"]["width"] = 10**12
    torch.save(content, trained["checkpoint"])
    with pytest.raises(ValueError, match=r"are not those of model\.network=ownnet\.Sets"):
        evaluate(configured("evaluate", *asked, folder="huge"))


def test_weights_of_other_sizes_start_what_fits_of_a_network(
    configured: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = (*TINY, "model=residual", "trainer.max_steps=1", "evaluate=false", "model.optimizer.lr=1e-30")
    first = train(configured("train", *few, folder="first"))
    weights = torch.load(first["checkpoint"], weights_only=True)["state_dict"]
    weights["network.block.2.weight"] = weights["network.block.2.weight"][:2]
    torch.save({"state_dict": weights}, tmp_path / "half.pt")
    second = train(configured("train", *few, f"init_from={tmp_path}/half.pt", folder="second"))
    told = " ".join(capsys.readouterr().out.split())
    assert "of another size, and new: block.2.weight is (2, 4, 3, 3), not (4, 4, 3, 3)" in told
    begun = torch.load(second["checkpoint"], weights_only=True)["state_dict"]
    assert torch.equal(begun["network.stem.weight"], weights["network.stem.weight"])
    torch.save({"state_dict": {"block.2.weight": weights["network.block.2.weight"]}}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"none\.pt: .*block\.2\.weight is \(2, 4, 3, 3\), not"):
        train(configured("train", *few, f"init_from={tmp_path}/none.pt", folder="third"))


def test_a_run_whose_rate_follows_its_length_is_not_prolonged(
    configured: Callable[..., DictConfig], user_conf: Path
) -> None:
    (user_conf / "recipe" / "residual_tiny.yaml").unlink()
    cosine = "{_target_:cstl.recognizer.warmup_cosine,_partial_:true,warmup:1,steps:'${trainer.max_steps}'}"
    few = (
        *TINY,
        "model=residual",
        f"model.scheduler={cosine}",
        "trainer.max_steps=2",
        "evaluate=false",
        "data.subjects=2",
        "data.sequences=2",
        "data.frames=4",
        "data.workers=0",
    )
    train(configured("train", *few))
    with pytest.raises(
        ValueError,
        match=r"extend=4: the learning rate .* follows the number of iterations "
        r"\(model\.scheduler\.steps: .*trainer\.max_steps=4 name=NAME, or "
        r".*init_from=.*run/checkpoints/step-0000002\.ckpt$",
    ):
        train(configured("train", *few, "extend=4"))
