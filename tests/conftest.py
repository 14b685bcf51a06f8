"""A tiny CASIA-B tree of walking blobs, and the store prepared from it."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from cstl.config import CONFIG_PATH
from cstl.data import Protocol, Store, open_store
from cstl.preparation.plan import Preparation
from cstl.preparation.prepare import prepare

RECIPE = """# @package _global_
trainer: {{max_steps: 6}}
data: {{subjects: 2, sequences: 2, frames: 4}}
model:
  {network}
  batch_norm: replica
  optimizer: {{lr: 1.0e-3}}
  scheduler: {{_target_: torch.optim.lr_scheduler.MultiStepLR, _partial_: true, milestones: [4]}}
evaluate_every: 3
callbacks: {{checkpoints: {{every: 2}}}}
"""
SUBJECTS = ("001", "002", "003", "004", "005", "006")


def _draw_blob(subject: int, time: int, view: int = 0) -> np.ndarray:
    """uint8 (120, 160): a head and a trunk that cross the picture, with two legs that swing."""
    image = np.zeros((120, 160), np.uint8)
    x, swing = 60 + 2 * time, int((8 + subject) * np.sin(0.5 * time) * np.cos(view))
    cv2.circle(image, (x, 22), 7 + subject % 3, 255, -1)
    cv2.ellipse(image, (x, 55), (8 + subject, 27), 0, 0, 360, 255, -1)
    cv2.line(image, (x, 75), (x - swing, 110), 255, 7)
    cv2.line(image, (x, 75), (x + swing, 110), 255, 7)
    return image


def _write_sequence(folder: Path, images: list[np.ndarray]) -> None:
    """Frames 001.png, 002.png, … of one sequence."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images, start=1):
        (folder / f"{number:03d}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())


@pytest.fixture(scope="session")
def draw_blob() -> Callable[..., np.ndarray]:
    """The function (subject, time, view=0) → uint8 (120, 160)."""
    return _draw_blob


@pytest.fixture(scope="session")
def write_sequence() -> Callable[[Path, list[np.ndarray]], None]:
    """The function (folder, images) that writes one sequence."""
    return _write_sequence


@pytest.fixture(scope="session")
def protocol() -> Protocol:
    """Four subjects to train on, two to test on, three conditions, two views."""
    return Protocol(
        views=("000", "090"),
        conditions=("nm-01", "nm-02", "bg-01"),
        gallery=("nm-01",),
        probes={"NM": ("nm-02",), "BG": ("bg-01",)},
        train=("001-004",),
        test=("005-006",),
    )


@pytest.fixture(scope="session")
def raw_tree(tmp_path_factory: pytest.TempPathFactory, protocol: Protocol) -> Path:
    """36 sequences of 6 … 22 good frames, 001/nm-01/000/001.png. Read only: copy it to spoil it."""
    raw = tmp_path_factory.mktemp("raw")
    for i, subject in enumerate(SUBJECTS):
        for j, condition in enumerate(protocol.conditions):
            for k, view in enumerate(protocol.views):
                length = 6 + (7 * i + 5 * j + 3 * k) % 17
                _write_sequence(
                    raw / subject / condition / view, [_draw_blob(i, t + j, k) for t in range(length)]
                )
    return raw


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, raw_tree: Path, protocol: Protocol) -> Store:
    """The tree prepared at 64x44, data set name "tiny". Read only."""
    out = tmp_path_factory.mktemp("data") / "tiny-64"
    prepare(Preparation(raw_tree, out, "tiny", protocol, 64), workers=1)
    return open_store(out, "tiny", 64)


@pytest.fixture(scope="session")
def user_conf(tmp_path_factory: pytest.TempPathFactory, store: Store, protocol: Protocol) -> Path:
    """A user's configuration folder: dataset=tiny, whose store is there, and the recipe of CSTL for it."""
    conf = tmp_path_factory.mktemp("conf")
    for group in ("dataset", "recipe"):
        (conf / group).mkdir()
    (conf / "recipe" / "cstl_tiny.yaml").write_text(RECIPE.format(network="network: {channels: [2, 4, 16]}"))
    tiny = {"name": "tiny", "title": "Tiny", "raw": None, "layout": "casiab", "store": str(store.path)}
    OmegaConf.save(tiny | {"protocol": asdict(protocol)}, conf / "dataset" / "tiny.yaml")
    return conf


@pytest.fixture
def configured(tmp_path: Path, user_conf: Path) -> Iterator[Callable[..., DictConfig]]:
    """The function (command, *overrides, folder="run") → the composed configuration, as the
    command gets it.
    """

    def configure(command: str, *overrides: str, folder: str = "run") -> DictConfig:
        output = tmp_path / folder
        output.mkdir(exist_ok=True)
        fixed = [f"hydra.searchpath=[file://{user_conf}]", f"hydra.runtime.output_dir={output}"]
        if command in ("train", "evaluate"):
            fixed += [f"name={folder}", "report=false"]  # it takes seconds
        with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
            config = compose(command, overrides=[*fixed, *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        return config

    yield configure
    HydraConfig.instance().cfg = None
