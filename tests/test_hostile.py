"""Files from elsewhere: nothing of them is run, nothing else is read, little memory is taken, and names stay text.

What is tried is drawn from what is known to work elsewhere (`CALLS`, `BOMBS`, …) and put anywhere: each ends in one
clear line. A file that calls something makes the folder `canary`; one that reads the environment finds `CANARY`.
"""

import copy
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from omegaconf import DictConfig, open_dict

from cstl import run
from cstl.checkpoint import DamagedError, load_tensors
from cstl.config import CONFIG_PATH, Plain, plain
from cstl.files import shown
from cstl.models import CSTL

SECRET = "canary-of-the-environment"
hypothesis.settings.register_profile(
    "hostile",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("hostile")
Configure = Callable[..., DictConfig]


@pytest.fixture(autouse=True)
def canaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a test does, no folder `canary` appears and the secret is printed nowhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", SECRET)
    yield
    assert not list(tmp_path.rglob("canary"))
    printed = "".join(capfd.readouterr())
    assert SECRET not in printed
    assert "\x1b" not in printed


@pytest.fixture(scope="module")
def whole(user_conf: Path) -> dict[str, Any]:
    """What a checkpoint of a tiny run holds."""
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        overrides = [f"hydra.searchpath=[file://{user_conf}]", "dataset=tiny", "trainer=cpu", "trainer.max_steps=2"]
        config = compose("train", [*overrides, "hydra.runtime.output_dir=run", "name=run"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
        config.model.network.num_classes = 4
    settings = plain(config)
    HydraConfig.instance().cfg = None
    network = settings["model"]["network"]
    sizes = {"channels": network["channels"], "height": network["height"], "num_classes": 4}
    torch.manual_seed(0)
    weights = {f"network.{key}": value for key, value in CSTL(**sizes).state_dict().items()}
    return {"state_dict": weights, "config": settings}


def evaluated(path: Path, whole: dict[str, Any]) -> tuple[Any, Plain]:
    """What `evaluate` reads of a file with this content, up to its data."""
    torch.save(whole, path)
    recognizer, trained = run.load_recognizer(path)
    return recognizer, run.trained_data(path, trained)


def refused(path: Path, content: dict[str, Any]) -> str:
    """The one clear line that a file with this content ends in."""
    with pytest.raises((ValueError, OSError)) as caught:
        evaluated(path, content)
    return clear(caught.value)


def clear(error: Exception) -> str:
    message = str(error)
    assert shown(message, 5000) == message  # one line, nothing in it that does anything
    assert 10 < len(message) < 1500
    return message


def placed(config: Plain, place: str, value: Any) -> Plain:
    """A copy of settings with another value somewhere."""
    config = copy.deepcopy(config)
    *above, last = place.split(".")
    inside: Any = config
    for key in above:
        inside = inside[key]
    inside[last] = value
    return config


CALL = {"_target_": "os.mkdir", "path": "canary"}
CALLS: list[Any] = [
    CALL,
    (CALL,),
    [CALL],
    [(CALL, 1)],
    {"_target_": "sympy.sympify", "_args_": ["__import__('os').mkdir('canary')"]},
    {"_partial_": True, "_target_": "os.mkdir"},
    {"a": {"b": CALL}},
    "${oc.create:{_target_: os.mkdir, path: canary}}",
    "${dataset.evil}",
    "${oc.env:SECRET}",
    "${oc.decode:${oc.env:SECRET}}",
    "${",
    "???",
]
PLACES = [
    *("res", "seed", "dataset", "data", "model", "dataset.name", "dataset.title", "dataset.protocol"),
    *("dataset.protocol.views", "dataset.protocol.probes", "data.store", "data.protocol", "data.protocol.test"),
    *("data.protocol.probes.NM", "data.eval_frames", "data.extra", "data._target_", "model._target_", "model.extra"),
    *("model.network", "model.network._target_", "model.network.channels", "model.network.height"),
    *("model.network.scales", "model.network.extra", "trainer.precision", "data.dataset", "data.res"),
]


def test_a_whole_checkpoint_is_read(whole: dict[str, Any], tmp_path: Path) -> None:
    recognizer, data = evaluated(tmp_path / "a.ckpt", whole)
    assert data["dataset"] == "tiny"
    for key, value in recognizer.network.state_dict().items():
        assert torch.equal(value, whole["state_dict"][f"network.{key}"])


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_called(place: str, whole: dict[str, Any], tmp_path: Path) -> None:
    for call in CALLS:
        refused(tmp_path / "evil.ckpt", whole | {"config": placed(whole["config"], place, call)})


@pytest.mark.parametrize("place", ["name", "trainer.max_epochs", "logger.csv", "callbacks.checkpoints.every"])
def test_nothing_is_called_where_nothing_is_used(
    place: str, whole: dict[str, Any], configured: Configure, tmp_path: Path, store: Any
) -> None:
    """Settings that an evaluation does not need are plain data, too, and go into its config.yaml as such."""
    for call in [call for call in CALLS if not isinstance(call, str) or "$" not in call][:1]:
        content = whole | {"config": placed(whole["config"], place, call)}
        torch.save(content, tmp_path / "evil.ckpt")
        options = ("trainer=cpu", "baseline=false", "trainer.max_steps=1")
        run.evaluate(configured("evaluate", "checkpoint=evil.ckpt", *options, folder="again"))
    for call in CALLS:
        if isinstance(call, tuple) or (isinstance(call, str) and "$" in call):
            refused(tmp_path / "evil.ckpt", whole | {"config": placed(whole["config"], place, call)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.network.channels": [2, 4, 10**9]}, "channels is .* expected a whole number from 1 to 65,536"),
        ({"model.network.channels": [2, 4, 65_536]}, "do not fit the network of its own configuration"),
        ({"model.network.channels": [16] * 10**5}, "expected three numbers"),
        ({"model.network.channels": "248"}, "channels is 248, expected"),
        ({"model.network.height": 10**9, "res": 10**9}, "height is 1000000000, expected"),
        ({"model.network.height": 4096, "res": 4096}, "do not fit"),
        ({"model.network.embedding_dim": 10**12}, "embedding_dim is"),
        ({"model.network.num_classes": 9_999_999}, "do not fit.*class_weight"),
        ({"model.network.reduction": 0}, "reduction is 0"),
        ({"model.network.parts": 10**15}, "parts=1000000000000000 does not divide"),
        ({"model.network.scales": [{}]}, "cannot be made"),
        ({"model.network._target_": "acme.nets.Net"}, "model.network is acme.nets.Net.*only cstl.models.CSTL"),
        ({"model._target_": "acme.Recognizer"}, "model is acme.Recognizer"),
        ({"data._target_": "acme.Data"}, "data is acme.Data"),
        ({"model.temperature": 2.0}, "model has the unknown key temperature"),
        ({"data.files": "/etc/passwd"}, "data has the unknown key files"),
        ({"trainer.precision": "64-false"}, "precision is 64-false, expected one of 32-true"),
        ({"trainer.precision": [16]}, "precision"),
        ({"res": 128}, "res is 128, its network's 64"),
        ({"seed": 2**70}, "64 bits"),
        ({"seed": 1.5}, "seed is 1.5, expected int"),
        ({"data.protocol.split_file": "/etc/passwd"}, "names a split file to read"),
        ({"dataset.protocol.split_file": "/etc/passwd"}, "names a split file to read"),
        ({"data.protocol.test": ["0-99999999999"]}, "stands for 100,000,000,000 subjects"),
        ({"data.protocol.views": [f"{i}" for i in range(50_000)]}, "tables of"),
        ({"data.protocol.splits": 5, "data.protocol.split": "LT"}, "splits: expected a mapping"),
        ({"data.protocol.cross_view_probes": [1]}, "cross_view_probes: expected a mapping"),
        ({"data.store": "//elsewhere/share"}, "on another machine"),
        ({"data.store": "\\\\elsewhere\\share"}, "on another machine"),
        ({"data.store": None}, "lacks data.store"),
        ({"dataset.name": "\x1b[31mred\x1b[0m", "dataset.title": ["a"]}, "dataset.title is"),
        ({"dataset": None}, "dataset is None"),
        ({"trainer": None}, "trainer is None"),
        ({"\x1b[2J": "${x}"}, r"\\x1b\[2J is"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str, whole: dict[str, Any], tmp_path: Path) -> None:
    config = whole["config"]
    for place, value in changes.items():
        config = placed(config, place, value)
    torch.save(whole | {"config": config}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=message) as caught:
        evaluated(tmp_path / "evil.ckpt", whole | {"config": config})
    clear(caught.value)


def test_settings_that_hold_too_much(whole: dict[str, Any], tmp_path: Path) -> None:
    deep: Any = 1
    wide: Any = "x"
    for _ in range(40):
        deep, wide = [deep], [wide] * 10
    endless: list[Any] = []
    endless.append(endless)
    for value in (deep, wide, endless):
        for place in ("dataset.recipe.extra", "data.protocol.test", "name"):
            refused(tmp_path / "evil.ckpt", whole | {"config": placed(whole["config"], place, value)})


def test_a_tensor_is_not_larger_than_its_file(whole: dict[str, Any], tmp_path: Path) -> None:
    """Stretched over one number, it has any shape."""
    config = placed(whole["config"], "model.network.num_classes", 9_000_000)
    name = "network.ssfl.class_weight"
    shape = (*whole["state_dict"][name].shape[:-1], 9_000_000)
    weights = whole["state_dict"] | {name: torch.zeros(1).expand(shape)}
    assert "expected a checkpoint" in refused(tmp_path / "evil.ckpt", {"state_dict": weights, "config": config})
    for strange in (torch.zeros(1).to_sparse(), torch.zeros(1, device="meta"), torch.zeros(1, dtype=torch.complex64)):
        weights = whole["state_dict"] | {name: strange}
        refused(tmp_path / "evil.ckpt", whole | {"state_dict": weights})


def test_names_of_tensors_are_text(whole: dict[str, Any], tmp_path: Path) -> None:
    weights = whole["state_dict"] | {"network.\x1b]0;title\x07\nnext: rm -rf": torch.zeros(1)}
    message = refused(tmp_path / "evil.ckpt", whole | {"state_dict": weights})
    assert r"\x1b]0;title\x07\nnext" in message
    assert r"\x1b[31m" in refused(tmp_path / "evil.ckpt", {"\x1b[31mred": 1})


def test_every_flipped_bit_of_a_checkpoint_is_seen_or_says_nothing(whole: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"a": torch.arange(4.0), "b": [1, 2]}, path)
    data = path.read_bytes()
    for position in range(0, len(data), 3):
        spoilt = bytearray(data)
        spoilt[position] ^= 1 << position % 8
        path.write_bytes(spoilt)
        try:
            found = load_tensors(path)
        except DamagedError as error:
            clear(error)
            continue
        assert torch.equal(found["a"], torch.arange(4.0))
        assert found["b"] == [1, 2]


def test_a_compressed_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "a.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "a.ckpt") as archive,
        zipfile.ZipFile(tmp_path / "b.ckpt", "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in archive.namelist():
            out.writestr(name, archive.read(name))
    with pytest.raises(DamagedError, match="a record is compressed"):
        load_tensors(tmp_path / "b.ckpt")


def test_a_read_error_is_not_damage(whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(whole, tmp_path / "a.ckpt")
    for number in (5, 13, 24, 116):  # EIO, EACCES, EMFILE, ESTALE

        def failing(*_: Any, number: int = number, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        for place in ("cstl.checkpoint._check_records", "torch.load", "builtins.open"):
            with monkeypatch.context() as patch, pytest.raises(OSError, match=os.strerror(number)):  # noqa: PT012
                patch.setattr(place, failing)
                load_tensors(tmp_path / "a.ckpt")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(CALLS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["_target_", "_args_", "path", "x"]), inner, max_size=3)
        | st.tuples(inner)
    ),
    max_leaves=5,
)


@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_anywhere(place: str, value: Any, whole: dict[str, Any], tmp_path: Path) -> None:
    """Read, or refused in a line."""
    try:
        evaluated(tmp_path / "evil.ckpt", whole | {"config": placed(whole["config"], place, value)})
    except (ValueError, OSError) as error:
        clear(error)
