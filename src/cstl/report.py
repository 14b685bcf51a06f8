"""One page of a run, or one that compares several: `python -m cstl.report RUN [RUN …] [--out FILE]`.

The page is one HTML file that needs no network. Of a single run the same plots are written as figures for papers, PDF
and PNG, into its folder.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from cstl.files import shown_lines
from cstl.reporting.comparison_page import compare_runs
from cstl.reporting.page import report_run
from cstl.run_folder import find_runs
from cstl.running.streams import Parser, never_fail


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    never_fail()
    parser = Parser(
        prog="python -m cstl.report",
        description="Write one HTML page of a run, or one that compares several.",
        epilog="example: python -m cstl.report runs/demo",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or the folder of a sweep")
    parser.add_argument("--out", metavar="FILE", help="where it goes; RUN/report.html, of several runs report.html")
    given = parser.parse_args(arguments)
    try:
        folders = [run for folder in given.runs for run in find_runs(Path(folder)) or [Path(folder)]]
        if len(folders) == 1:
            written = report_run(folders[0], given.out)
        elif folders:
            written = compare_runs(folders, given.out or "report.html")
        else:
            raise FileNotFoundError(f"no run in {', '.join(given.runs)}; name folders that cstl.train wrote, runs/NAME")
    except (ValueError, OSError) as error:
        print(f"error: {shown_lines(error)}", file=sys.stderr)
        sys.exit(1)
    print(f"report: {written}")


if __name__ == "__main__":
    main()
