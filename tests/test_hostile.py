"""Files from elsewhere: nothing of them is run, nothing else is read, little memory is taken, and names stay
text.

What is tried is drawn from what is known to work elsewhere (`CALLS`, `BOMBS`, …) and put anywhere: each ends
in one clear line. A file that calls something makes the folder `canary`; one that reads the environment finds
`CANARY`.
"""

import copy
import io
import json
import os
import pickle
import re
import shutil
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import hypothesis
import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from omegaconf import DictConfig, open_dict
from rich.console import Console

from cstl import files
from cstl.checkpoint import load_weights, transfer
from cstl.compare import main as compare_main
from cstl.config import CONFIG_PATH, Plain, plain
from cstl.data import Protocol, Store, open_store
from cstl.data.frames import read_grey
from cstl.data.pickles import read_pickle
from cstl.data.protocol import as_protocol
from cstl.data.store import COLUMNS
from cstl.evaluate import evaluate
from cstl.files import shown
from cstl.models import CSTL
from cstl.preparation.sources import Source, read_sources
from cstl.recognizer import cross_view_accuracy
from cstl.report import main as report_main
from cstl.reporting import charts, figures, findings, leaderboard, pictures, tables
from cstl.reporting.comparison import compare
from cstl.reporting.entry import ShownRun
from cstl.reporting.folder import read_run
from cstl.reporting.leaderboard import to_markdown, to_terminal
from cstl.reporting.page import _file_name, report_run
from cstl.run_folder import write_embeddings, write_probes
from cstl.running.loading import load_recognizer, trained_dataset
from cstl.running.metrics_log import wandb_id
from cstl.tensor_files import DamagedError, load_tensors

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
def canaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
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
        overrides = [
            f"hydra.searchpath=[file://{user_conf}]",
            "dataset=tiny",
            "trainer=cpu",
            "trainer.max_steps=2",
        ]
        config = compose(
            "train", [*overrides, "hydra.runtime.output_dir=run", "name=run"], return_hydra_config=True
        )
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
    recognizer, trained = load_recognizer(path)
    return recognizer, trained_dataset(path, trained)


def torch_saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


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
    *("dataset.protocol.views", "dataset.protocol.probes", "dataset.store", "dataset.protocol.test"),
    *(
        "dataset.protocol.probes.NM",
        "data.eval_frames",
        "data.extra",
        "data._target_",
        "model._target_",
        "model.extra",
    ),
    *("model.network", "model.network._target_", "model.network.channels", "model.network.height"),
    *("model.network.scales", "model.network.extra", "trainer.precision", "data.dataset", "data.store"),
]


def test_a_whole_checkpoint_is_read(whole: dict[str, Any], tmp_path: Path) -> None:
    recognizer, data = evaluated(tmp_path / "a.ckpt", whole)
    assert data["name"] == "tiny"
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
        evaluate(configured("evaluate", "checkpoint=evil.ckpt", *options, folder="again"))
    for call in CALLS:
        if isinstance(call, tuple) or (isinstance(call, str) and "$" in call):
            refused(tmp_path / "evil.ckpt", whole | {"config": placed(whole["config"], place, call)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model.network.channels": [2, 4, 10**9]},
            "channels is .* expected a list of at most 16, each a whole number from 1 to 65,536",
        ),
        ({"model.network.channels": [2, 4, 65_536]}, "do not fit the network of its own configuration"),
        ({"model.network.channels": [16] * 10**5}, "expected a list of at most 16"),
        ({"model.network.channels": "248"}, "channels is 248, expected"),
        ({"model.network.height": 10**9, "res": 10**9}, "height is 1000000000, expected"),
        ({"model.network.height": 4096, "res": 4096}, "do not fit"),
        ({"model.network.embedding_dim": 10**12}, "embedding_dim is"),
        ({"model.network.num_classes": 9_999_999}, "do not fit.*class_weight"),
        ({"model.network.reduction": 0}, "reduction is 0"),
        ({"model.network.parts": 10**15}, "parts is 1000000000000000, expected a whole number"),
        ({"model.network.scales": [{}]}, "scales is .*expected a list"),
        (
            {"model.network._target_": "acme.nets.Net"},
            "model.network is acme.nets.Net.*only cstl.models",
        ),
        ({"model._target_": "acme.Recognizer"}, "model is acme.Recognizer"),
        ({"data._target_": "acme.Data"}, "data._target_ is acme.Data"),
        ({"model.temperature": 2.0}, "model has the unknown key temperature"),
        ({"trainer.precision": "64-false"}, "precision is 64-false, expected one of 32-true"),
        ({"trainer.precision": [16]}, "precision"),
        ({"res": 128}, "res is 128, its network's 64"),
        ({"seed": 2**70}, "64 bits"),
        ({"seed": 1.5}, "seed is 1.5, expected int"),
        ({"dataset.split_file": "/etc/passwd"}, "names a split file to read"),
        ({"dataset.protocol.split_file": "/etc/passwd"}, "names a split file to read"),
        ({"dataset.protocol.test": ["0-99999999999"]}, "stands for 100,000,000,000 subjects"),
        ({"dataset.protocol.views": [f"{i}" for i in range(50_000)]}, "tables of"),
        ({"dataset.protocol.splits": 5, "dataset.split": "LT"}, "splits: expected a mapping"),
        ({"dataset.protocol.cross_view_probes": [1]}, "cross_view_probes: expected a mapping"),
        ({"dataset.store": "//elsewhere/share"}, "on another machine"),
        ({"dataset.store": "\\\\elsewhere\\share"}, "on another machine"),
        ({"data.store": "//elsewhere/share"}, "on another machine"),
        ({"dataset.store": None}, "lacks dataset.store"),
        ({"model.margin": 0.2, "model.triplet": 5}, "it has model.margin and model.triplet"),
        ({"dataset.name": "\x1b[31mred\x1b[0m", "dataset.title": ["a"]}, "dataset.title is"),
        ({"dataset": None}, "dataset is None"),
        ({"trainer": None}, "trainer is None"),
        ({"\x1b[2J": "${x}"}, r"\\x1b\[2J is"),
    ],
)
def test_settings_that_cannot_be(
    changes: dict[str, Any], message: str, whole: dict[str, Any], tmp_path: Path
) -> None:
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
        for place in ("dataset.synthesis", "dataset.protocol.test", "name"):
            refused(tmp_path / "evil.ckpt", whole | {"config": placed(whole["config"], place, value)})


def test_a_tensor_is_not_larger_than_its_file(whole: dict[str, Any], tmp_path: Path) -> None:
    """Stretched over one number, it has any shape."""
    config = placed(whole["config"], "model.network.num_classes", 9_000_000)
    name = "network.ssfl.class_weight"
    shape = (*whole["state_dict"][name].shape[:-1], 9_000_000)
    weights = whole["state_dict"] | {name: torch.zeros(1).expand(shape)}
    assert "expected a checkpoint" in refused(
        tmp_path / "evil.ckpt", {"state_dict": weights, "config": config}
    )
    for strange in (
        torch.zeros(1).to_sparse(),
        torch.zeros(1, device="meta"),
        torch.zeros(1, dtype=torch.complex64),
    ):
        weights = whole["state_dict"] | {name: strange}
        refused(tmp_path / "evil.ckpt", whole | {"state_dict": weights})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("embedding", lambda value: value * torch.nan, r"embedding has [0-9,]+ of [0-9,]+"),
        (
            "encoder.conv1.weight",
            lambda value: value.index_fill(0, torch.tensor(0), torch.inf),
            "encoder.conv1.weight",
        ),
        ("mste.long_norm.running_mean", lambda value: value * torch.nan, "mste.long_norm.running_mean has"),
        ("mste.long_norm.running_var", lambda value: value * torch.nan, "mste.long_norm.running_var has"),
        ("mste.long_norm.running_var", lambda value: value - 5, "running_var, a variance, has -4"),
        ("embedding", lambda value: value.double() + 1e300, "embedding has"),
        ("embedding", lambda value: value.bool(), "embedding is torch.bool, not torch.float32"),
        ("embedding", lambda value: value.long(), "embedding is torch.int64, not torch.float32"),
        ("embedding", lambda value: value.byte(), "embedding is torch.uint8, not torch.float32"),
        (
            "mste.long_norm.num_batches_tracked",
            lambda value: value.float(),
            "tracked is torch.float32, not torch.int64",
        ),
    ],
)
def test_weights_that_are_no_numbers(
    name: str,
    change: Callable[[torch.Tensor], torch.Tensor],
    message: str,
    whole: dict[str, Any],
    tmp_path: Path,
) -> None:
    """In a checkpoint, in weights alone, and where another run starts from them."""
    weights = whole["state_dict"] | {f"network.{name}": change(whole["state_dict"][f"network.{name}"])}
    sizes = whole["config"]["model"]["network"]
    network = CSTL(channels=sizes["channels"], height=sizes["height"], num_classes=4)
    before = copy.deepcopy(network.state_dict())
    for content in (whole | {"state_dict": weights}, weights):
        assert re.search(message, refused(tmp_path / "evil.ckpt", content))
        with pytest.raises(ValueError, match=message) as caught:
            transfer(network, load_weights(tmp_path / "evil.ckpt").state_dict)
        clear(caught.value)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


def test_weights_in_other_floats_are_read(whole: dict[str, Any], tmp_path: Path) -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        halves = {key: value.to(kind) if value.is_floating_point() else value for key, value in
                  whole["state_dict"].items()}  # fmt: skip
        recognizer, _ = evaluated(tmp_path / "a.ckpt", whole | {"state_dict": halves})
        assert recognizer.network.embedding.dtype == torch.float32


@pytest.mark.parametrize("prefix", ["module.", "network.", "module.network."])
def test_weights_of_one_name_twice(prefix: str, whole: dict[str, Any], tmp_path: Path) -> None:
    bare = {key.removeprefix("network."): value for key, value in whole["state_dict"].items()}
    load_recognizer(torch_saved(tmp_path / "a.ckpt", {prefix + key: value for key, value in bare.items()}))
    message = refused(tmp_path / "evil.ckpt", bare | {f"{prefix}embedding": bare["embedding"] * 2})
    assert "it holds embedding twice" in message


def test_tensors_of_other_kinds_are_called_that(tmp_path: Path) -> None:
    """They could run nothing; sparse ones, quantised ones, those of new types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of what it will not have any more
        kinds = {
            "sparse": torch.eye(2).to_sparse(),
            "quantised": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
            "of float8, uint16 or the like": torch.zeros(2).to(torch.float8_e4m3fn),
            "without numbers": torch.zeros(2, device="meta"),
        }
    kinds |= {"of float8, uint16 or the like ": torch.zeros(2, dtype=torch.uint16)}
    for kind, value in kinds.items():
        message = refused(tmp_path / "evil.ckpt", {"state_dict": {"network.a": value}, "config": {}})
        assert f"of a kind that no network of ours has: {kind.strip()};" in message
        assert "could run code" not in message
    message = refused(tmp_path / "evil.ckpt", {"state_dict": {"a": torch.zeros(2, dtype=torch.complex64)}})
    assert "a tensor that is not dense, real" in message


def test_names_of_tensors_are_text(whole: dict[str, Any], tmp_path: Path) -> None:
    weights = whole["state_dict"] | {"network.\x1b]0;title\x07\nnext: rm -rf": torch.zeros(1)}
    message = refused(tmp_path / "evil.ckpt", whole | {"state_dict": weights})
    assert r"\x1b]0;title\x07\nnext" in message
    assert r"\x1b[31m" in refused(tmp_path / "evil.ckpt", {"\x1b[31mred": 1})


def test_every_flipped_bit_of_a_checkpoint_is_seen_or_says_nothing(
    whole: dict[str, Any], tmp_path: Path
) -> None:
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


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def called(name: str, *arguments: bytes) -> bytes:
    """A pickle's bytes for a call."""
    return "c{}\n{}\n(".format(*name.rsplit(".", 1)).encode() + b"".join(arguments) + b"tR"


def number(value: Any) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def torch_file(path: Path, content: bytes, legacy: bool, records: tuple[str, ...] = ("0",)) -> Path:
    """A file as torch.save writes it, now or before PyTorch 1.6, of any pickle; each storage
    has two values.
    """
    whole = b"\x80\x02" + content + b"."
    if legacy:
        head = (
            0x1950A86A20F9469CFC6C,
            1001,
            {"protocol_version": 1001, "little_endian": True, "type_sizes": {}},
        )
        storages = b"".join((2).to_bytes(8, "little") + bytes(8) for _ in records)
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + whole + pickle.dumps([*records],
            2)
                         + storages)  # fmt: skip
        return path
    with zipfile.ZipFile(path, "w") as out:
        for name, data in {"data.pkl": whole, "byteorder": b"little", "version": b"3\n"}.items():
            out.writestr(f"a/{name}", data)
        for record in records:
            out.writestr(f"a/data/{record}", bytes(8))
    return path


def tensor(stored: int, size: int, legacy: bool, key: str = "0") -> bytes:
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(stored)
    storage += b"NtQ" if legacy else b"tQ"
    rest = (number(0), number((size,)), number((1,)), b"\x89", b"ccollections\nOrderedDict\n)R")
    return b"}" + text("a") + called("torch._utils._rebuild_tensor_v2", storage, *rest) + b"s"


@pytest.mark.parametrize("legacy", [False, True])
def test_small_checkpoints_that_cost_gigabytes_or_hours(legacy: bool, tmp_path: Path) -> None:
    """What PyTorch would call for a file that holds tensors only; none of it is."""
    path, endless = tmp_path / "a.ckpt", called("builtins.bytearray", number(2**41))
    assert torch.equal(load_tensors(torch_file(path, tensor(2, 2, legacy), legacy))["a"], torch.zeros(2))
    for content in (
        endless,
        called("builtins.set", called("builtins.bytearray", number(2**30))),
        called("collections.Counter", b"]"),
        called("collections.Counter", called("builtins.bytearray", number(2**30))),
        called("torch.FloatTensor", number(2**41)),
        called("torch.Tensor", number(2**41)),
        called("torch.UntypedStorage", number(2**41)),
        called("torch.Size", endless),
        called("collections.OrderedDict", endless),
        called("_codecs.encode", text("ä" * 1000), text("punycode")),
        b"}" + b")" + b"\x85" * 300_000 + b"Ns",  # the key is 300,000 tuples deep
        called("collections.OrderedDict", b"])" + b"\x85" * 300_000 + b"N\x86a"),
        called("builtins.set", b"])" + b"\x85" * 300_000 + b"a"),
        b"\x96" + (2**36).to_bytes(8, "little"),
        tensor(2**31, 2**31, legacy),
        tensor(2, 2**31, legacy),
        tensor(2**31, 2**31, legacy, key="9"),
    ):
        with pytest.raises(ValueError, match=r"refused|damaged") as caught:
            load_tensors(torch_file(path, content, legacy))
        clear(caught.value)


def test_a_checkpoint_has_each_record_once(tmp_path: Path) -> None:
    """Else what was looked at is not what is loaded."""
    for again in ("a/data.pkl", "A/Data.PKL", "a/data/0"):
        path = torch_file(tmp_path / "a.ckpt", tensor(2, 2, False), False)
        with zipfile.ZipFile(path, "a") as out, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, of the name
            out.writestr(again, bytes(8))
        with pytest.raises(DamagedError, match="one name"):
            load_tensors(path)


def test_a_read_error_is_not_damage(
    whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(whole, tmp_path / "a.ckpt")
    for number in (5, 13, 24, 116):  # EIO, EACCES, EMFILE, ESTALE

        def failing(*_: Any, number: int = number, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        for place in ("cstl.tensor_files._check_records", "torch.load", "builtins.open"):
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


# --- Run folders --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, whole: dict[str, Any], protocol: Protocol) -> Path:
    """A finished run's folder, without a checkpoint. Read only: copy it to spoil it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    subjects = ["005", "006"]
    label = torch.tensor([(s, c, v) for s in range(2) for c in range(3) for v in range(2)])
    metric = cross_view_accuracy(protocol)
    metric.update(torch.eye(12)[:, None], *label.T, torch.arange(12))
    result = metric.compute()
    found = {"subjects": subjects, "conditions": protocol.conditions, "views": result.views}
    write_probes(folder / "probes.npz", result.arrays(), **found)
    labels = torch.cat([label, torch.arange(12)[:, None]], dim=1)
    write_embeddings(folder / "embeddings.npz", torch.randn(12, 4).half().numpy(), labels.numpy())
    (folder / "config.yaml").write_text(yaml.safe_dump(whole["config"]), encoding="utf-8")
    content = {
        "dataset": "tiny", "trained_on": "tiny", "resolution": [64, 44], "test_subjects": 2,
        "seconds": {"a": 1.0},
        "rank1": result.rows(), "measures": {"CSTL": result.measures()}, "checkpoint": "gone.ckpt",
    }  # fmt: skip
    files.write_json(folder / "results.json", content)
    (folder / "metrics.csv").write_text("step,train/loss,test/rank1/NM\n1,3.0,\n2,2.0,50.0\n")
    table = tables.paper_table({"CSTL": result}, "Tiny", (64, 44))
    (folder / "table.csv").write_text(tables.to_text(table, "csv"), encoding="utf-8")
    return folder


@pytest.fixture
def spoilt(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(run_folder, tmp_path / "runs" / "spoilt")


def read(folder: Path) -> None:
    """What `report` and `compare` read of a folder: whatever is wrong is a note or one clear line."""
    run = read_run(folder)
    notes = [*run.notes, run.title, run.name, *run.probe_names]
    (table,), remarks = compare([folder], resamples=2)
    printed = Console(file=io.StringIO(), width=80)
    printed.print(*to_terminal(table, 80))
    notes += [*remarks, *table.notes, to_markdown(table)]
    for note in notes:
        assert SECRET not in note
        assert "\x1b" not in note


HOSTILE_FILES: dict[str, list[str | bytes]] = {
    "config.yaml": [
        "dataset: {name: tiny, title: '${oc.env:SECRET}', protocol: {views: ['${oc.env:SECRET}']}}",
        "dataset: {title: '${oc.create:{_target_: os.mkdir, path: canary}}'}",
        "dataset: {protocol: {split_file: /etc/passwd}}",
        "a: &a [1]\nb: [*a]",
        "a: !!python/object/apply:os.mkdir [canary]",
        "[" * 10_000,
        "dataset: []",
        "dataset: {protocol: [1]}",
        "dataset: {protocol: {probes: 3}}",
        "dataset: {protocol: {probes: {NM: 3}}}",
        'dataset: {title: "\\e[31mred", name: "\\u202e"}',
        "res: 65\ndata: {store: /proc, res: x}",
        "data: {store: 5}",
        "model: {network: x}\ncallbacks: {checkpoints: {best: true}}",
        "trainer: {max_steps: .inf}",
        "dataset: {name: tiny, protocol: {test: ['0-99999999999'], train: [], views: [a], conditions: [b], "
        "gallery: [b], probes: {NM: [b]}}}",
        b"\xff\xfe",
        "",
    ],
    "results.json": [
        "[" * 10_000,
        '{"rank1": {}}',
        (
            '{"rank1": {"NM": 3}, "dataset": "tiny", "trained_on": "tiny", "resolution": [64, 44], '
            '"test_subjects": 2}'
        ),
        '{"rank1": {"NM": {"mean": "x"}}}',
        '{"rank1": {"NM": {"mean": 1e308}}}',
        '{"rank1": {"NM": {"mean": NaN}}}',
        '{"rank1": {"NM": {"mean": 50.0}}, "dataset": "\\u001b[31mred", "trained_on": "${oc.env:SECRET}", '
        '"resolution": [64, 44], "test_subjects": 2, "checkpoint": "\\u001b]0;a\\u0007"}',
        '{"rank1": {"\\u001b[31m": {"mean": 50.0}}, "dataset": "a", "trained_on": "a", "resolution": [64, '
        '44], "test_subjects": 2}',
        '{"rank1": {}, "resolution": 64}',
        '{"rank1": {}, "measures": {"CSTL": [1]}}',
        '{"rank1": {}, "seconds": {"a": "b"}}',
        '{"rank1": {}, "test_subjects": ' + "9" * 5000 + "}",
        "[]",
        b"\x00",
    ],
    "metrics.csv": [
        "step,train/loss\n1," + "9" * 200_000 + "\n",
        "step,train/loss\ninf,1\n",
        "step,train/loss\nnan,1\n1,nan\n2,inf\n3,1e300\n",
        "step,train/loss\n" + "9" * 5000 + ",1\n",
        "train/loss\n1\n",
        ",".join(f"c{i}" for i in range(5000)) + "\n",
        'step,"' + "x" * 200_000,
        "step,validation/rank1/mean\n1,nan\n2,1e9\n",
        "step,test/rank1/\x1b[31m\n1,5.0\n",
        b"\xff\xfe\x00",
        "",
    ],
    "table.csv": [
        "# \x1b[31mtitle\nprobe,method,000,mean\nNM,\x1b[2J,5.0,5.0\n",
        "# t\nprobe,method,000,mean\nNM,CSTL,nan,inf\n",
        "# t\nprobe,method,000,mean\nNM\n",
        "# t\nprobe,method,mean\n",
        "# t\nprobe,method,000,mean\nNM,CSTL,5.0,\nNM,CSTL (paper),5.0,\nNM,difference,5.0,5.0\n",
        "# t\n" + "x" * 200_000,
        "",
    ],
    "error.txt": ["\x1b[31mred\x1b[0m\n", "x" * 10**6, b"\xff\xff", ""],
    ".hydra/hydra.yaml": [
        "hydra: {job: {name: '${oc.env:SECRET}'}, runtime: {cwd: '${oc.env:SECRET}'}}",
        "[[",
        "hydra: 3",
    ],
    ".hydra/overrides.yaml": ["['${oc.env:SECRET}', \"a=\\e[31m\"]", "3", "a: b"],
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_a_folder_from_elsewhere_is_read_as_far_as_it_can_be(name: str, spoilt: Path) -> None:
    path = spoilt / name
    path.parent.mkdir(exist_ok=True)
    for content in HOSTILE_FILES[name]:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if name == ".hydra/overrides.yaml":
            (spoilt / ".hydra" / "hydra.yaml").write_text("hydra: {job: {name: train}}")
        if name == "error.txt":
            (spoilt / "results.json").unlink(missing_ok=True)
        read(spoilt)


@pytest.mark.parametrize(
    "name", ["config.yaml", "command.txt", "error.txt", "table.csv", ".hydra/config.yaml"]
)
def test_a_link_out_of_the_folder_is_not_followed(name: str, spoilt: Path, tmp_path: Path) -> None:
    """An archive may hold links to whatever its reader has: a page to be passed on would show it."""
    (tmp_path / "private").write_text(f"token: {SECRET}\n")
    (spoilt / name).parent.mkdir(exist_ok=True)
    (spoilt / name).unlink(missing_ok=True)
    if name in ("error.txt", ".hydra/config.yaml"):
        (spoilt / "results.json").unlink()
        (spoilt / "config.yaml").unlink()
    (spoilt / name).symlink_to(tmp_path / "private")
    for linked in (spoilt / name, spoilt / ".hydra"):
        assert SECRET not in str(read_run(spoilt))
        assert SECRET not in str(ShownRun(spoilt))
        shutil.rmtree(spoilt / ".hydra", ignore_errors=True)
        (tmp_path / "hydra").mkdir(exist_ok=True)
        (tmp_path / "hydra" / "config.yaml").write_text(f"token: {SECRET}\n")
        if linked.name != ".hydra":
            (spoilt / ".hydra").symlink_to(tmp_path / "hydra")


@pytest.mark.parametrize(
    "name", ["probes.npz", "embeddings.npz", "results.json", "config.yaml", "metrics.csv"]
)
def test_a_named_pipe_is_not_waited_for(name: str, spoilt: Path) -> None:
    (spoilt / name).unlink()
    os.mkfifo(spoilt / name)
    read_run(spoilt)
    ShownRun(spoilt)


def test_what_hydra_noted_is_followed_and_nothing_of_it_called(spoilt: Path) -> None:
    """A job that failed before it wrote its configuration."""
    for name in ("config.yaml", "results.json"):
        (spoilt / name).unlink()
    (spoilt / ".hydra").mkdir()
    (spoilt / "error.txt").write_text("margin is -1")
    lines = [
        "seed: 7", "res: 64",
        "model: {margin: '${res}', a: '${oc.env:SECRET}', b: '${model.b}', c: '${nowhere}'}",
        "data: {seed: '${oc.select:seed,0}'}", "dataset: {name: tiny, title: '${dataset.name}'}",
        "name: '${now:%Y}'",
    ]  # fmt: skip
    (spoilt / ".hydra" / "config.yaml").write_text("\n".join(lines))
    assert ShownRun(spoilt).known == {}  # of itself it has no end
    (spoilt / ".hydra" / "config.yaml").write_text("\n".join(lines).replace("b: '${model.b}', ", ""))
    config = ShownRun(spoilt).known
    assert (config["model"]["triplet"]["margin"], config["model"]["a"]) == (64, "${oc.env:SECRET}")
    assert (config["model"]["c"], config["data"], config["dataset"]["title"]) == ("${nowhere}", {}, "tiny")
    bomb = [f"a{i}: ['${{a{i + 1}}}', '${{a{i + 1}}}', '${{a{i + 1}}}', '${{a{i + 1}}}']" for i in range(15)]
    (spoilt / ".hydra" / "config.yaml").write_text("\n".join([*bomb, "a15: 1"]))
    assert ShownRun(spoilt).known == {}
    read(spoilt)


@pytest.mark.parametrize("name", ["probes.npz", "embeddings.npz"])
def test_arrays_from_elsewhere(name: str, spoilt: Path) -> None:
    """Positions that point to nothing, other shapes and kinds, values that are none."""
    with np.load(spoilt / name) as file:
        whole = dict(file)
    for key, array in whole.items():
        spoils = [array[:-1], array[..., None], np.array(["x"]), np.array([], dtype=array.dtype)]
        if array.dtype.kind == "i":
            spoils += [array + 10**12, array - 10**12, np.full_like(array, np.iinfo(array.dtype).max)]
        if array.dtype.kind == "f":
            spoils += [array.astype(complex)]
            spoils += [array * np.nan, array * np.inf]
        if array.dtype.kind == "U":
            spoils += [np.array(["\x1b[31m"] * len(array)), np.array(["$\\frac{"] * len(array))]
        for spoil in spoils:
            with np.errstate(invalid="ignore"):
                np.savez(spoilt / name, **whole | {key: spoil})
            read(spoilt)
    (spoilt / name).write_bytes(b"PK\x03\x04 and no more")
    read(spoilt)


OTHERS = [None, "text", -1, 1e308, [], {}, [[1, ["a"]]], True, "\x1b[31mred\nerror: b", 2**62, 0, 0.5]


def places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field of a JSON or YAML file, and every field in a field."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content[:1]):
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


def swapped(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    content = copy.deepcopy(content)
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return content


def written(name: str, folder: Path) -> list[tuple[str, str]]:
    """A good file with one field after the other swapped for something of another type → what,
    and its content.
    """
    text = (folder / name).read_text()
    if name == "metrics.csv":
        head, *lines = [line.split(",") for line in text.splitlines()]
        tables_of = [
            (f"{column} {value!r:.30}", swapped(swapped(lines, (0, i), str(value)), (1, i), str(value)))
            for i, column in enumerate(head)
            for value in [*OTHERS, "nan", "inf", "-inf", "9" * 400, ""]
        ]
        return [(what, "\n".join(map(",".join, [head, *table])) + "\n") for what, table in tables_of]
    content = yaml.safe_load(text)
    dump = json.dumps if name == "results.json" else yaml.safe_dump
    return [
        (f"{'.'.join(map(str, place))} = {value!r:.30}", dump(swapped(content, place, value)))
        for value in OTHERS  # so that a sample of every so many has all of them
        for place in places(content)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["results.json", "config.yaml", "metrics.csv"])
def test_fields_of_other_types(
    name: str, spoilt: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each ends in a page and in a table, with a note where something is left out, or in one clear line."""
    monkeypatch.setattr(figures, "save", lambda figure, folder, name: folder / name)  # drawing takes long
    monkeypatch.setattr(figures, "to_png", lambda figure: b"")
    monkeypatch.setattr(pictures, "inlined", lambda path: "")
    monkeypatch.setattr(leaderboard, "draw", lambda tables: Figure())
    monkeypatch.setattr("cstl.compare.write_page", lambda *_: None)  # each takes a second
    monkeypatch.setattr(findings, "embedding_map", lambda run: None)
    content = json.loads((spoilt / "results.json").read_text()) | {
        "method": "CSTL", "train_subjects": 4, "gallery_sequences": 4, "probe_sequences": {"NM": 4, "BG": 4},
        "trained_subjects": {"tiny": {"subjects": 4, "names": ["001-004"]},
            "other": "training subjects unknown"},
        "seen_test_subjects": {"subjects": 0, "names": []},
        "chosen_by_test_subjects": {"subjects": 0, "names": []},
        "coverage": {"test_subjects": {"present": 2, "protocol": 2}}, "published": "CSTL",
        "published_left_out": "so",
        "published_rows": {"CSTL (paper)": {"rank1": {"NM": {"000": 97.2, "mean": 97.8}}, "source": "so"}},
        "store": "0123", "configuration": "abc", "versions": {"torch": "2"}, "remarks": ["so"],
    }  # fmt: skip
    (spoilt / "results.json").write_text(json.dumps(content))
    cases = written(name, spoilt)
    cases = cases[:: max(1, len(cases) // 120)]
    good = (spoilt / name).read_text()
    other = shutil.copytree(spoilt, spoilt.parent / "other")
    failed, refusals, pages = [], set(), 0
    for number, (what, text) in enumerate(cases):
        (spoilt / name).write_text(text)
        try:
            notes = read_run(spoilt).notes
            refusal = next((note for note in notes if note.startswith(f"{name} cannot be read")), None)
            if refusal is None or not refusals:
                refusals.add(refusal)
                report_run(spoilt)
                pages += 1
                if number % 5 == 0:
                    report_main([str(other), str(spoilt), "--out", str(spoilt.parent / "report.html")])
            code = compare_main(
                [str(other), str(spoilt), "--out", str(spoilt.parent / "out"), "--resamples", "2"]
            )
            printed = capfd.readouterr()
            assert code == 0 or printed.err.count("\n") == 1
            assert "\x1b" not in printed.out + printed.err
        except (ValueError, OSError, SystemExit) as error:
            clear(error) if not isinstance(error, SystemExit) else None
        except Exception as error:
            failed.append(
                f"{what}: {type(error).__name__}: {error}, {traceback.extract_tb(error.__traceback__)[-1]}"
            )
    (spoilt / name).write_text(good)
    assert not failed, "\n".join(failed)
    assert pages > len(cases) / 20


def test_a_whole_report_of_hostile_names(spoilt: Path) -> None:
    """Markup, mathematics and escapes in every name there is: the page and the figures show them as text."""
    evil = "<script>alert(1)</script>$\\frac{\x1b[31m${oc.env:SECRET}"
    config = yaml.safe_load((spoilt / "config.yaml").read_text())
    config["dataset"]["title"] = config["dataset"]["name"] = evil
    config["note"] = evil
    (spoilt / "config.yaml").write_text(yaml.safe_dump(config))
    with np.load(spoilt / "probes.npz") as file:
        arrays = dict(file)
    arrays["subjects"] = np.array([evil, evil + "2"])
    np.savez(spoilt / "probes.npz", **arrays)
    content = json.loads((spoilt / "results.json").read_text())
    content |= {"trained_on": evil, "checkpoint": evil}
    (spoilt / "results.json").write_text(json.dumps(content))
    (spoilt / "table.csv").write_text(
        (spoilt / "table.csv").read_text().replace("Tiny", evil).replace("CSTL", evil)
    )
    page = report_run(spoilt).read_text()
    assert "<script>alert" not in page
    assert SECRET not in page
    assert "\x1b" not in page
    assert compare_main([str(spoilt), "--out", str(spoilt / "out")]) == 0
    for file in spoilt.glob("out/*.[cm]*"):
        assert "\x1b" not in file.read_text()


def test_plotly_shows_markup_in_names_as_text() -> None:
    """Its own, which it shows in titles, legends, axes and hover texts: <b>, <br>, <a href>;
    &lt; would be one, too.
    """
    evil = "<b>bold</b><br><a href='https://example.org'>x</a>&lt;"
    row = tables.Row("NM", evil, (50.0, None), 50.0)
    confused = findings.Confusion([evil, "b"], np.full((2, 2), 50.0), 2, [(evil, "b", 50.0)])
    made = [
        *charts.curves(
            {evil: {f"train/{evil}": ([1, 2], [1.0, 2.0])}, "b": {"train/loss": ([1], [1.0])}}, [evil]
        ),
        charts.cross_view(evil, np.full((2, 2), 50.0), [evil, "b"]),
        charts.per_view(evil, [(evil, row)], [evil, "b"], [evil]),
        charts.confusion(confused),
    ]
    for chart in made:
        text = json.dumps(chart.figure).replace("<extra>", "")
        text = text.replace("</extra>", "")
        assert "<" not in text
        assert "&lt;b&gt;" in text or evil not in chart.text
    assert sum("&amp;lt;" in json.dumps(chart.figure) for chart in made) >= 3


def test_a_name_is_no_path() -> None:
    """A figure is named after its probe set, whose name comes from the folder's config.yaml."""
    assert _file_name("../../canary") == "______canary"
    assert _file_name("NM") == "NM"


@pytest.mark.parametrize("kind", ["pipe", "link", "large", "other"])
def test_the_id_of_a_dashboard_is_made_again(kind: str, tmp_path: Path) -> None:
    """A pipe would be waited for, a link followed."""
    file = tmp_path / "wandb" / "id"
    file.parent.mkdir()
    (tmp_path / "private").write_text("abcd1234")
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to(tmp_path / "private")
    else:
        file.write_bytes(b"a" * 10**6 if kind == "large" else b"\xff\x1b[31m")
    known = wandb_id(tmp_path / "wandb")
    assert known == file.read_text()
    assert re.fullmatch("[0-9a-f]{8}", str(known))
    assert known != "abcd1234"
    assert not file.is_symlink()
    assert wandb_id(tmp_path / "wandb") == known


@pytest.mark.parametrize("content", [None, "a,b\n", f"{','.join(Source._fields)}\n1,2,3,\x1b[31m,5,6\n",
                                     f"{','.join(Source._fields)}\n1,2,3,{'9' * 5000},5,6\n",
                                     ""])  # fmt: skip
def test_what_a_store_was_made_of(content: str | None, store: Store, tmp_path: Path) -> None:
    opened = open_store(shutil.copytree(store.path, tmp_path / "store"), "tiny", 64)
    assert read_sources(opened)
    (opened.path / "sources.csv").unlink()
    if content is None:
        os.mkfifo(opened.path / "sources.csv")
    else:
        (opened.path / "sources.csv").write_text(content)
    with pytest.raises(ValueError, match=r"sources\.csv is damaged") as caught:
        read_sources(opened)
    clear(caught.value)


# --- Raw frames, stores, splits -----------------------------------------------------------------------------


def pickled(shape: Any, data: bytes = b"", code: str = "u1") -> bytes:
    """A pickle as NumPy writes it, with any shape."""
    array = pickle.dumps(np.zeros((1, 2, 3), np.uint8), 2)
    assert array.count(b"K\x01K\x02K\x03\x87") == 1
    inside = pickle.dumps(shape, 2)[2:-1]
    return array.replace(b"K\x01K\x02K\x03\x87", inside).replace(b"U\x02u1", b"U\x02" + code.encode())


@pytest.mark.parametrize("shape",
    [(10**12, 0, 64), (10**12, 64, 0), (0, 0, 0), (10**30, 1, 1), (-1, -2, 3), (1,) * 999,
                                   ("a", "b", "c"), [1, 2, 3], 5, (1.0, 2.0, 3.0), (True, 2, 3)])  # fmt: skip
def test_pickles_whose_shape_takes_for_ever(shape: Any, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickled(shape))
    with pytest.raises(ValueError, match="pickle") as caught:
        read_pickle(str(tmp_path / "x.pkl"))
    clear(caught.value)


@pytest.mark.parametrize("data", [
    b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo of 2³¹ entries
    b"\x80\x05\x96" + (2**60).to_bytes(8, "little") + b".",  # a byte array of an exabyte
    b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b".",
    b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number of two gigabytes
    b"(" * 10**5 + b".",
    b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    b"I" + b"9" * 10**6 + b"\n.",
    b"cos\nmkdir\n(S'canary'\ntR.",
    b"c\x1b[31m\nx\n.",
    b"(ios\nmkdir\n.",
    b"\x82\x01.",
])  # fmt: skip
def test_pickles_that_take_memory(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(ValueError, match="pickle") as caught:
        read_pickle(str(tmp_path / "x.pkl"))
    clear(caught.value)


@given(data=st.binary(max_size=60) | st.lists(st.sampled_from([
    b"(", b"]", b"}", b")", b"t", b"l", b"d", b"a", b"s", b"e", b"u", b"R", b"b", b"0", b"2", b"q\x00",
    b"h\x00",
    b"\x85", b"\x87", b"K\x05", b"N", b"\x88", b"X\x01\x00\x00\x00a", b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"\x81", b"o",
    b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n", b"cos\nmkdir\n",
    b"X\x06\x00\x00\x00canary", b".",
])).map(b"".join))  # fmt: skip
def test_any_pickle(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(data + b".")
    with pytest.raises(ValueError, match="pickle") as caught:
        read_pickle(str(tmp_path / "x.pkl"))
    clear(caught.value)


def test_pictures_that_say_they_are_huge(tmp_path: Path) -> None:
    path = str(tmp_path / "1.png")
    for ending in (".png", ".bmp", ".jpg"):
        whole = cv2.imencode(ending, np.zeros((64, 44), np.uint8))[1].tobytes()
        (tmp_path / "1.png").write_bytes(whole)
        assert isinstance(read_grey(path), np.ndarray)
        sizes = {".png": (b"\x00\x00\x00\x2c\x00\x00\x00\x40", b"\x00\x00\xff\xff\x00\x00\xff\xff")}
        sizes[".bmp"] = (
            (44).to_bytes(4, "little") + (64).to_bytes(4, "little"),
            b"\xff\xff\x00\x00\xff\xff\x00\x00",
        )
        sizes[".jpg"] = (b"\x00\x40\x00\x2c", b"\xff\xff\xff\xff")
        before, after = sizes[ending]
        if before in whole:
            (tmp_path / "1.png").write_bytes(whole.replace(before, after, 1))
            assert read_grey(path) == "more than 67,108,864 pixels"
    for content in (
        b"II*\x00" + bytes(100),
        b"GIF89a" + b"\xff" * 100,
        b"P5 99999 99999 255\n",
        b"\xff\xd8\xff\xd9",
    ):
        (tmp_path / "1.png").write_bytes(content)
        assert read_grey(path) == "unreadable"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "2.png")
        assert read_grey(str(tmp_path / "2.png")) == "unreadable"
        with pytest.raises(ValueError, match="empty pickle"):
            read_pickle(str(tmp_path / "2.png"))


@pytest.mark.parametrize(("name", "content"), [
    ("store.json", "[" * 10_000),
    ("store.json", "[]"),
    ("store.json", '{"format": 1, "height": "64", "width": 44, "dataset": "tiny"}'),
    ("store.json", '{"format": 1, "height": 64, "width": 44, "dataset": ["\\u001b"]}'),
    ("store.json", '{"format": 1, "height": 64, "width": 44, "dataset": "\\u001b[31mred"}'),
    ("sequences.csv", f"{COLUMNS}\n005,nm-01,000,0,{'9' * 5000}\n"),
    ("sequences.csv", f"{COLUMNS}\n005,nm-01,000,{2**62},{2**62}\n"),
    ("sequences.csv", f"{COLUMNS}\n005,nm-01,000,0,{2**63}\n"),
    ("sequences.csv", f"{COLUMNS}\n{'x' * 10**6},nm-01,000,0,5\n" + "a,b,c,0,5\n" * 10**5),
    ("sequences.csv", f"{COLUMNS}\n\x1b[31m,nm-01,000,0,5\n"),
    ("sequences.csv", "\x1b[31m" * 1000),
    ("frames.npy", ""),
    ("frames.npy",
     b"\x93NUMPY\x01\x00\x40\x00{'descr': '|u1', 'fortran_order': False, 'shape': (10**9, 64, 44)}   \n"),
    ("frames.npy",
     b"\x93NUMPY\x01\x00\x40\x00{'descr': '|O', 'fortran_order': False, 'shape': (1, 64, 44)}     \n"),
])  # fmt: skip
def test_stores_from_elsewhere(name: str, content: str | bytes, store: Store, tmp_path: Path) -> None:
    copy = shutil.copytree(store.path, tmp_path / "store")
    (copy / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"damaged|holds the data set") as caught:
        open_store(copy, "tiny", 64)
    message = str(caught.value)
    assert "\x1b" not in message
    assert len(message) < 1000


@pytest.mark.parametrize("entry", ["0-99999999999", "0" * 5000 + "1-5", "1-" + "9" * 10**6, "1-1000000:0",
                                   "\x1b[31m", "a\u202eb", "x" * 10**6])  # fmt: skip
def test_subjects_that_are_too_many_or_no_names(entry: str, protocol: Protocol) -> None:
    with pytest.raises(ValueError, match=r"test: ") as caught:
        replace(protocol, test=(entry,))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@given(content=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["1-9",
        "0-9999999"]
    ),
    lambda inner: st.lists(inner,
        max_size=4) | st.dictionaries(st.sampled_from(["TRAIN_SET", "TEST_SET", "x"]), inner),
))  # fmt: skip
def test_any_split_file(content: Any, tmp_path: Path, protocol: Protocol) -> None:
    (tmp_path / "split.json").write_text(json.dumps(content))
    given = {key: value for key, value in asdict(protocol).items() if key not in ("train", "test")}
    try:
        as_protocol(given | {"split_file": str(tmp_path / "split.json")})
    except ValueError as error:
        clear(error)


@given(
    name=st.text(max_size=30)
    | st.sampled_from(["\x1b[31mred", "a\u202eb", "\x9b2J", "a\nerror: b", "\udc80"])
)
def test_any_name_is_shown_as_text(name: str, protocol: Protocol) -> None:
    assert "\x1b" not in (text := shown(name))
    assert all(sign.isprintable() or sign in "\u00a0\u202f\u2009" for sign in text)
    try:
        replace(protocol, conditions=(*protocol.conditions, name))
    except ValueError as error:
        clear(error)
