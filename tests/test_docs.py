"""The tutorials, followed word for word in an empty folder."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


def test_your_own_data(
    tmp_path: Path, draw_blob: Callable[..., np.ndarray], write_sequence: Callable[[Path, list[np.ndarray]], None]
) -> None:
    for i, subject in enumerate(("anna", "ben", "carl", "dora", "emil", "fay")):
        for j, condition in enumerate(("plain-1", "plain-2", "coat-1")):
            for k, view in enumerate(("left", "right")):
                frames = [draw_blob(i, time + j, k) for time in range(7 + i)]
                write_sequence(tmp_path / "walks" / subject / condition / view, frames)
    for content in blocks("your_own_data.md", "yaml"):
        file = tmp_path / content.partition("\n")[0].removeprefix("# ")
        file.parent.mkdir(parents=True)
        file.write_text(content, encoding="utf-8")
    commands = [line for block in blocks("your_own_data.md", "sh") for line in block.splitlines()]
    assert len(commands) == 4
    for line in commands:
        python, *arguments = shlex.split(line)
        assert python == "python"
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert "My walkers 64×44" in done.stdout
    assert (tmp_path / "runs" / "mine" / "results.json").is_file()
