"""The wheel: built as a release is, installed into an empty environment, and it brings its configuration."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

COMPOSE = """
import pathlib, sys
from hydra import compose, initialize_config_dir
from cstl.config import CONFIG_PATH
conf = pathlib.Path(CONFIG_PATH)
assert conf.is_relative_to(sys.prefix), conf
with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
    for file in sorted(conf.rglob("*.yaml")):
        group = file.parent.relative_to(conf).as_posix()
        if not group.startswith(("hydra/launcher", "hparams_search")):  # they need extras
            compose(*(("train", [f"{group}={file.stem}"]) if group != "." else (file.stem,)))
        print(file.relative_to(conf).as_posix())
"""


def output(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    output(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=ROOT)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    output(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    composed = output(python, "-c", COMPOSE, cwd=tmp_path).split()
    assert composed == sorted(
        p.relative_to(ROOT / "conf").as_posix() for p in (ROOT / "conf").rglob("*.yaml")
    )
    shown = output(python, "-m", "cstl.train", "dataset=casiab", "res=128", "--cfg", "job", cwd=tmp_path)
    assert "height: ${res}" in shown
    output(python, "-c", "import cstl.train", cwd=tmp_path)
    (tmp_path / "my" / "dataset").mkdir(parents=True)
    (tmp_path / "my" / "dataset" / "mine.yaml").write_text("defaults: [casiab]\nname: mine\n")
    shown = output(
        python, "-m", "cstl.train", "--config-dir=my", "dataset=mine", "--cfg", "job", cwd=tmp_path
    )
    assert "name: mine" in shown


def test_versions_are_pinned_and_ranges_wide() -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert pinned["torch"] == "2.13.0"
    project = (ROOT / "pyproject.toml").read_text()
    wanted = [
        line.strip() for line in project.split("\ndependencies = [\n")[1].split("\n]\n")[0].splitlines()
    ]
    for line in wanted:
        requirement, _, reason = line.partition("#")
        assert reason.strip(), f"{requirement} gives no reason"
        assert requirement.strip('", ').split(">=")[0].lower() in {name.lower() for name in pinned}
