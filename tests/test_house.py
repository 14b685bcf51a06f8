"""The house: what may import what, and that the core stands without what is around it (docs/the_code.md)."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf

import cstl
from cstl.models import AblatedCSTL

ROOT = Path(cstl.__file__).parent
FLOORS = (  # from the ground up; what stands on one floor imports from it and from those below
    {"files", "tensor_files", "config", "distributed", "owner", "run_folder", "workers", "progress"},
    {"models", "losses", "metrics", "data"},
    {"recognizer", "checkpoint", "trained"},
    {"preparation", "walkers"},
    {"reporting"},
    {"running"},
)
HEAVY = {"pytorch_lightning", "lightning", "hydra", "rich", "wandb", "plotly"}


def imported() -> dict[str, set[str]]:
    """Module of ours → modules it imports, the whole file through: `models.cstl.ata` →
    `models.layers.parts`, …
    """
    files = {
        ".".join(("cstl", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")
    }
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    found = {}
    for name, path in files.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                names |= {word if word in files else node.module for word in full}
        found[name] = {word for word in names if word.partition(".")[0] == "cstl"} - {name}
    return found


def floor(module: str) -> int:
    """The number of a module's floor; commands are above all others, `cstl` itself is below."""
    if module == "cstl":
        return -1
    room = module.split(".")[1]
    return next((i for i, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


def test_nothing_imports_upwards() -> None:
    up = [f"{a} imports {b}" for a, names in imported().items() for b in sorted(names) if floor(b) > floor(a)]
    assert not up


def test_there_is_no_circle() -> None:
    left = {name: set(names) for name, names in imported().items()}
    for name, names in left.items():  # a package's own __init__ re-exports what is in it
        names -= {other for other in names if name.startswith(f"{other}.")}
    while ready := [name for name, names in left.items() if not names & left.keys()]:
        for name in ready:
            del left[name]
    assert not left


def test_models_losses_and_metrics_are_plain_pytorch() -> None:
    """In a process of their own: no Lightning, no Hydra, no rich, not even through another module of ours."""
    code = (
        "import sys, cstl.models, cstl.models.reference, cstl.losses, cstl.metrics.retrieval, "
        "cstl.metrics.probes; "
    )
    code += f"print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_about_the_code_is_true() -> None:
    """Each file and name that it mentions is there."""
    page = (ROOT.parents[1] / "docs" / "the_code.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:src|tests|conf|scripts)/[\w./]+)`", page):
        assert "NAME" in path or (ROOT.parents[1] / path).exists(), path
    for name in re.findall(r"`(cstl(?:\.\w+)+)`", page):
        module = name if name in imported() else name.rpartition(".")[0]
        assert module == name or hasattr(importlib.import_module(module), name.rpartition(".")[2]), name


def test_an_aggregation_is_added_as_the_page_says() -> None:
    page = (ROOT.parents[1] / "docs" / "the_code.md").read_text(encoding="utf-8")
    python, yaml = (re.search(rf"```{kind}\n(.*?)```", page, re.S) for kind in ("python", "yaml"))
    assert python is not None
    assert yaml is not None
    names = {"torch": torch} | vars(importlib.import_module("cstl.models.cstl.ablations"))
    exec(python[1], names)
    settings = OmegaConf.to_container(OmegaConf.create(yaml[1]))
    assert isinstance(settings, dict)
    try:
        network = AblatedCSTL(64, 3, (2, 4, 8), 4, 4, aggregation=settings["aggregation"]).eval()
        x = torch.rand(2, 5, 64, 44)
        padded = network(torch.cat([x, torch.rand(2, 2, 64, 44)], 1), torch.tensor([5, 5])).embeddings
        torch.testing.assert_close(padded, network(x).embeddings)
    finally:
        del names["AGGREGATIONS"]["last"]
