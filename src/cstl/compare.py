"""Compare runs: what differs, a leaderboard with intervals over the test subjects, and its page.

python -m cstl.compare runs/SWEEP
python -m cstl.compare runs/A runs/B

Runs that differ in nothing but the seed are one row: mean ± standard deviation, best first, the difference to
a baseline with an interval from resampling the test subjects, and of the settings only those that differ.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cstl.files import shown_lines
from cstl.reporting.comparison import compare
from cstl.reporting.comparison_page import write_page
from cstl.reporting.leaderboard import to_terminal, wrapped, write
from cstl.run_folder import find_runs
from cstl.running.streams import Parser, never_fail


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, write files and page; return the exit code."""
    never_fail()
    parser = Parser(prog="python -m cstl.compare", description=(__doc__ or "").rpartition("\n\n")[2])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or sweeps: runs/NAME")
    parser.add_argument(
        "--baseline", action="append", default=[], metavar="WHICH",
        help="what is compared with: settings such as 'model.triplet.margin=0.2', or a run's folder; "
        "without it the first row with the paper's model, else the first",
    )  # fmt: skip
    parser.add_argument("--resamples", type=int, default=2000, help="of the test subjects (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default: 0)")
    parser.add_argument("--out", type=Path, help="where to write; without it the sweep's folder, or this one")
    given = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 80)
    try:
        tables, remarks = compare(given.runs, given.baseline, given.resamples, given.seed)
        for table in tables:
            for part in (Text(), *to_terminal(table, console.width)):
                console.print(part, highlight=False)
        for remark in wrapped(remarks, console.width):
            console.print(Text(remark), highlight=False)
        rows = [row for table in tables for row in table.rows]
        if not any(row.finished for row in rows):
            states = Counter(
                "trained" if row.runs[0].state == "finished" else row.runs[0].state for row in rows
            )
            there = ", ".join(f"{count} {state}" for state, count in states.items())
            raise ValueError(
                f"no finished run in {', '.join(map(str, given.runs))}: {there}; nothing to compare yet"
            )
        one = given.runs[0]
        out = given.out or (one if len(given.runs) == 1 and find_runs(one) != [one] else Path())
        write(tables, remarks, out)
        write_page(tables, remarks, out / "comparison.html")
        console.print(
            f"\nwritten: {out / 'comparison.html'}, .csv, .md, .png, .pdf", highlight=False, soft_wrap=True
        )
    except (ValueError, OSError) as error:
        print(f"error: {shown_lines(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
