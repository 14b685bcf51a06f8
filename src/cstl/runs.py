"""List runs with their state: finished, running, stopped, damaged; a sweep is one line.

python -m cstl.runs
python -m cstl.runs runs/SWEEP
"""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean

from rich.console import Console

from cstl.files import shown, shown_lines
from cstl.reporting.leaderboard import state
from cstl.reporting.published import method_of_files
from cstl.reporting.tables import decimal, render
from cstl.run_folder import CONFIG, RESULTS, Run, find_runs, is_run
from cstl.running.streams import Parser, never_fail

COLUMNS = ("run", "state", "network", "data set", "rank-1", "when")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the list; return the exit code."""
    never_fail()
    parser = Parser(
        prog="python -m cstl.runs",
        description="List runs with their state, network, data set and mean rank-1; a sweep is one line.",
        epilog="example: python -m cstl.runs runs",
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="where runs lie (default: runs)")
    given = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        for folder in map(Path, given.folders or ["runs"]):
            if not folder.is_dir() and given.folders:
                raise FileNotFoundError(
                    f"{folder} is no folder (from {Path.cwd()}); name one with runs in it"
                )
            if lines := list_runs(folder):
                console.print(render(COLUMNS, lines, "terminal", words=(0, 1, 2, 3, 5)))
            else:
                print(f"no run in {shown(folder)} yet; python -m cstl.train experiment=demo makes one")
    except (ValueError, OSError) as error:
        print(f"error: {shown_lines(error)}", file=sys.stderr)
        return 1
    return 0


def list_runs(folder: Path) -> list[list[str]]:
    """Return a line of cells for each run in a folder and for each sweep; of a sweep's, for each job."""
    if not folder.is_dir():
        return []
    children = [folder] if is_run(folder) else sorted(child for child in folder.iterdir() if child.is_dir())
    if any(child.name.isdecimal() for child in children):  # a sweep, whose jobs have numbers
        children = find_runs(folder, depth=1)
    return [line for child in children for line in ([_line(Run(child))] if is_run(child) else _sweep(child))]


def _sweep(folder: Path) -> list[list[str]]:
    runs = [Run(path) for path in find_runs(folder, depth=1)]
    if not runs:
        return []
    counts = Counter(run.state for run in runs)
    states = f"sweep: {', '.join(f'{count} {each}' for each, count in counts.items())}"
    lines = [_line(run) for run in runs]
    networks, datasets = (_all(line[i] for line in lines) for i in (2, 3))
    best = max((mean for run in runs if (mean := _mean(run)) is not None), default=None)
    return [
        [f"{shown(folder.name)}/", states, networks, datasets, decimal(best), max(line[5] for line in lines)]
    ]


def _all(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _line(run: Run) -> list[str]:
    settings = run.config or run.composed
    data = run.dataset or settings.get("dataset", {}).get("name", "")
    return [
        run.name, state(run), method_of_files(run.results, settings) if settings or run.results else "",
        shown(data), decimal(_mean(run)), _when(run),
    ]  # fmt: skip


def _mean(run: Run) -> float | None:
    """Return the mean over the probe sets, None where one has none."""
    means = [row["mean"] for row in run.results.get("rank1", {}).values()]
    return fmean(means) if means and None not in means else None


def _when(run: Run) -> str:
    """Return when the results were written, else the settings or the folder."""
    paths = (run.folder / RESULTS, run.folder / CONFIG, run.folder)
    time = next(path for path in paths if path.exists()).stat().st_mtime
    return f"{datetime.fromtimestamp(time):%Y-%m-%d %H:%M}"


if __name__ == "__main__":
    sys.exit(main())
