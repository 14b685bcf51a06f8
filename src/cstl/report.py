"""Write one HTML page of a run; of several, that of `cstl.compare`.

python -m cstl.report runs/NAME

The page is one file that needs no network. Of a single run the same plots are written as figures for papers,
PDF and PNG, into its folder.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from cstl.files import shown_lines
from cstl.reporting.comparison import compare
from cstl.reporting.comparison_page import write_page
from cstl.reporting.page import report_run
from cstl.run_folder import find_runs
from cstl.running.streams import Parser, never_fail


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page that the command line asks for."""
    never_fail()
    parser = Parser(
        prog="python -m cstl.report",
        description="Write one HTML page of a run, or one that compares several.",
        epilog="example: python -m cstl.report runs/demo",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or the folder of a sweep")
    parser.add_argument(
        "--out", metavar="FILE", help="where it goes; RUN/report.html, of several runs report.html"
    )
    given = parser.parse_args(arguments)
    folders = [Path(folder) for folder in given.runs]
    try:
        runs = [run for folder in folders for run in find_runs(folder)]
        if len(runs) == len(folders) == 1 or (len(folders) == 1 and not runs):
            written = report_run((runs or folders)[0], given.out)
        else:
            written = Path(given.out or "report.html")
            write_page(*compare(folders), written)
    except (ValueError, OSError) as error:
        print(f"error: {shown_lines(error)}", file=sys.stderr)
        sys.exit(1)
    print(f"report: {written}")


if __name__ == "__main__":
    main()
