"""How far long work is: a bar in a terminal, a line every half minute where the output goes to a file."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

EVERY = 30.0  # seconds between two lines


class Steps(Progress):
    """rich's bar on standard error where it is a terminal, and lines on a standard output that is none.

    Args:
        unit: what is counted.
        shown: False: neither.
    """

    def __init__(self, unit: str, shown: bool = True) -> None:
        console = Console(stderr=True)
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self.unit, self.lines = unit, shown and not sys.stdout.isatty()
        self.last_line = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._print_line(task_id)

    def update(self, task_id: TaskID, **news: Any) -> None:
        super().update(task_id, **news)
        self._print_line(task_id)

    def _print_line(self, task_id: TaskID) -> None:
        if not self.lines or time.monotonic() - self.last_line < EVERY:
            return
        self.last_line = time.monotonic()
        task = self._tasks[task_id]
        say(f"{task.description}: {task.completed:,.0f} of {task.total or 0:,.0f} {self.unit}")


def steps(items: Sequence[Any], description: str, unit: str, shown: bool) -> Iterator[Any]:
    """Iterate over a sequence, and show how far it is."""
    with Steps(unit, shown) as bar:
        task = bar.add_task(description, total=len(items))
        for item in items:
            yield item
            bar.advance(task)


def say(line: str) -> None:
    """Print a line that is seen at once; an output that is closed or full stops nothing."""
    with suppress(OSError, ValueError):
        print(line, flush=True)
