"""The terminal, in which the first process of a run alone writes."""

import sys
from typing import Any

from rich.console import Console

from cstl.files import shown_lines
from cstl.running.processes import is_first


class _PlainConsole(Console):
    """Print text as it is: markup, or what would do something to a terminal, is seen and does nothing."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(shown_lines(item) if isinstance(item, str) else item for item in objects), **options)


CONSOLE = _PlainConsole(width=None if sys.stdout.isatty() else 80, quiet=not is_first(), markup=False)


def say(line: object) -> None:
    """Print a line as it is, however long it is."""
    CONSOLE.print(str(line), highlight=False, soft_wrap=True)
