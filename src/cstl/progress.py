"""How far a long piece of work is: a bar in a terminal; a line every half minute where the output goes to a file."""

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
    """rich's bar, on the terminal of standard error; beside it lines on a standard output that is no terminal.

    Args:
        unit: what is counted.
        wanted: False: neither.
    """

    def __init__(self, unit: str, wanted: bool = True) -> None:
        console = Console(stderr=True)
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (wanted and console.is_terminal),
        )
        self.unit, self.lines = unit, wanted and not sys.stdout.isatty()
        self.told = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """So much further."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def update(self, task_id: TaskID, **news: Any) -> None:
        """What is new."""
        super().update(task_id, **news)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        if not self.lines or time.monotonic() - self.told < EVERY:
            return
        self.told = time.monotonic()
        task = self._tasks[task_id]
        say(f"{task.description}: {task.completed:,.0f} of {task.total or 0:,.0f} {self.unit}")


def steps(over: Sequence[Any], about: str, unit: str, wanted: bool) -> Iterator[Any]:
    """Goes through a sequence, and says how far it is."""
    with Steps(unit, wanted) as bar:
        task = bar.add_task(about, total=len(over))
        for one in over:
            yield one
            bar.advance(task)


def say(line: str) -> None:
    """Prints a line that is seen at once; an output that is closed or full stops nothing."""
    with suppress(OSError, ValueError):
        print(line, flush=True)
