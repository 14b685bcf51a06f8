"""Measures this software beside its floors, on the machine at hand: prints a table and writes JSON.

    python scripts/benchmark.py --out benchmark.json
    python scripts/benchmark.py --out batches.json --only batches
    python scripts/benchmark.py --out benchmark.json --markdown docs/benchmarks.md

Some minutes on two cores; Linux or macOS. What the rows mean: docs/benchmarks.md.
"""

import argparse
import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from benchmarks import harness
from benchmarks.harness import Curve, Row
from rich.console import Console
from rich.table import Table

from cstl.running.memory import keep_freed_memory

MODULES = ("training", "networks", "loading", "embedding", "evaluation", "preparation", "store")
PACKAGES = ("cstl", "torch", "pytorch-lightning", "torchmetrics", "numpy", "opencv-python-headless")
COLUMNS = ("what", "takes", "floor", "ratio", "ask", "met")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="NAME", help="rows and curves whose name contains it"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it runs, the figures mean nothing"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="PAGE", help="also put the tables between the page's markers"
    )
    options = parser.parse_args(arguments)
    if not options.out.parent.is_dir():
        parser.error(f"--out {options.out}: no folder {options.out.parent}")
    harness.only = tuple(options.only)
    keep_freed_memory()  # as the commands do; for ours, the floors and the plain version alike

    console = Console(width=100)
    rows, curves = [], []
    for name in MODULES:
        module = import_module(f"benchmarks.{name}")
        for row in filter(lambda row: harness.wanted(row.name), module.rows(options.quick)):
            rows.append(row)
            console.print(f"{row.name}: {row.ratio:.2f} ×, {row.detail}", highlight=False)
        curves += [curve for curve in module.curves(options.quick) if harness.wanted(curve.name)]
    if not rows and not curves:
        parser.error(f"--only {' '.join(options.only)}: no row or curve has such a name")
    found = {
        "quick": options.quick,
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "threads": torch.get_num_threads(),
        "rows": [as_json(row) for row in rows],
        "curves": [asdict(curve) for curve in curves],
    }
    options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    console.print(table(rows, quick=options.quick))
    for curve in curves:
        console.print(curve_table(curve))
    if options.markdown:
        harness.replace_marked(options.markdown, "benchmark", markdown(found, rows, curves))


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, and memory in GB."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
    }


def as_json(row: Row) -> dict[str, Any]:
    """A row with its verdict; what is no number is null."""
    values = asdict(row) | {"met": row.met}
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of `COLUMNS`."""
    ask = f"{'≤' if row.direction == harness.AT_MOST else '≥'} {row.ask:g} ×"
    times = harness.duration(row.seconds), harness.duration(row.floor_seconds)
    return row.name, *times, f"{row.ratio:.2f} ×", ask, "yes" if row.met else "no"


def table(rows: Sequence[Row], quick: bool) -> Table:
    """For the terminal."""
    title = "Benchmark at tiny sizes (--quick): these figures mean nothing" if quick else "Benchmark"
    shown = Table(*COLUMNS[:1], title=title, box=None)
    for column in COLUMNS[1:]:
        shown.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*cells(row))
    return shown


def curve_table(curve: Curve) -> Table:
    """For the terminal: a column for each figure."""
    shown = Table(title=curve.name, box=None)
    for column in curve.points[0]:
        shown.add_column(column, justify="right")
    for point in curve.points:
        shown.add_row(*(harness.figure(key, value) for key, value in point.items()))
    return shown


def markdown(found: dict[str, Any], rows: Sequence[Row], curves: Sequence[Curve]) -> str:
    """Machine, rows and curves as they stand in the docs."""
    where, versions = found["machine"], found["versions"]
    lines = [
        f"{where['cpu']} ({where['instructions']}), {where['cores']} cores, {where['memory_gb']:g} GB; "
        f"{found['threads']} threads; Python {versions['python']}, PyTorch {versions['torch']}."
    ]
    if found["quick"]:
        lines.append("\n**Tiny sizes (`--quick`): these figures mean nothing.**")
    lines += ["", harness.markdown_table(COLUMNS, map(cells, rows)), "", "What was measured:", ""]
    lines += [f"- {row.name}: {row.detail}" for row in rows]
    for curve in curves:
        points = [[harness.figure(key, value) for key, value in point.items()] for point in curve.points]
        lines += ["", f"**{curve.name}**", "", harness.markdown_table(list(curve.points[0]), points)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
