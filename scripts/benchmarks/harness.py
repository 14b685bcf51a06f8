"""How benchmarks measure: in alternating pairs with a floor, medians only, so that a noisy machine does
little harm.

A module of benchmarks has two generators, `rows(quick) -> Iterator[Row]` and
`curves(quick) -> Iterator[Curve]`; with `quick` they take tiny sizes. They measure what is `wanted` and
nothing else:

    if wanted(name := "evaluation, one thread"):
        yield Row(name, *paired_ratio(ours, floor), …)
"""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal

AT_MOST: Literal["at most"] = "at most"
AT_LEAST: Literal["at least"] = "at least"


@dataclass(frozen=True)
class Row:
    """A figure beside its floor.

    `ratio` is how many times the floor it takes ("at most" `ask`), or how many times faster it is
    ("at least" `ask`). `seconds` and `floor_seconds` are of one call; NaN where the row is not about time,
    and `detail` then has the figures.
    """

    name: str
    ratio: float
    ask: float
    direction: str
    seconds: float
    floor_seconds: float
    detail: str = ""

    def __post_init__(self) -> None:
        if self.direction not in (AT_MOST, AT_LEAST):
            raise ValueError(
                f"{self.name}: direction is {self.direction!r}, expected {AT_MOST!r} or {AT_LEAST!r}"
            )

    @property
    def met(self) -> bool:
        """Whether the ratio is what was asked for."""
        return self.ratio <= self.ask if self.direction == AT_MOST else self.ratio >= self.ask


@dataclass(frozen=True)
class Curve:
    """A cost over a size: points such as `{"frames": 30, "seconds": 1.2, "MB": 410}`; `axis` is
    the size's key.
    """

    name: str
    axis: str
    points: list[dict[str, Any]] = field(default_factory=list)


only: tuple[str, ...] = ()  # what the user asked for; nothing: everything


def wanted(name: str) -> bool:
    """Whether a row or curve of this name is to be measured."""
    return not only or any(part.casefold() in name.casefold() for part in only)


def paired_ratio(
    ours: Callable[[], Any],
    floor: Callable[[], Any],
    pairs: int = 7,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float, float]:
    """Time two functions in turn, one directly after the other, and compare them pair by pair.

    What slows the machine down for a while slows both of a pair, so the median of the pairs' ratios holds
    where the ratio of the medians would not. Which of a pair comes first alternates.

    Args:
        ours, floor: what to call.
        pairs: how often.
        warmup: pairs before them that are not counted.
        clock: seconds; `time.process_time` for CPU time.

    Returns:
        The median of the ratios ours / floor, and the median seconds of ours and of the floor.
    """
    taken = []
    for pair in range(-warmup, pairs):
        if pair % 2:
            theirs, own = _seconds(floor, clock), _seconds(ours, clock)
        else:
            own, theirs = _seconds(ours, clock), _seconds(floor, clock)
        if pair >= 0:
            taken.append((own / theirs, own, theirs))
    ratio, own, theirs = (median(column) for column in zip(*taken, strict=True))
    return ratio, own, theirs


def median_seconds(
    function: Callable[[], Any],
    repeats: int = 3,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The median time of some calls, for curves."""
    return median([_seconds(function, clock) for _ in range(warmup + repeats)][warmup:])


def _seconds(function: Callable[[], Any], clock: Callable[[], float]) -> float:
    started = clock()
    function()
    return clock() - started


def peak_memory(function: Callable[..., Any], *arguments: Any) -> int:
    """Run a function alone in a fresh process: by how many bytes its resident memory grew at the most.

    The function is one of a module, imported before the measurement starts; its arguments are small and can
    be pickled.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_growth, function, arguments).result()


def _growth(function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    before = _resident("VmRSS")
    function(*arguments)
    return _resident("VmHWM") - before


def _resident(which: str) -> int:
    """Resident memory in bytes, now (VmRSS) or at its highest (VmHWM).

    Not `getrusage` on Linux: the highest of a new process begins at that of the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines[which].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def duration(seconds: float) -> str:
    """For a table: 1.25 s, 38.2 ms, 210 µs, or – for NaN."""
    if math.isnan(seconds):
        return "–"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def figure(name: str, value: Any) -> str:
    """A value of a curve for a table: a duration where its name speaks of seconds, else a number."""
    if name.startswith("seconds"):
        return duration(value)
    return (
        f"{value:,.{2 if value < 10 else 1}f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replace_marked(page: Path, name: str, text: str) -> None:
    """Put text between `<!-- NAME -->` and `<!-- /NAME -->` of a page, in place of what is there.

    Raises:
        ValueError: the page has no such markers.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(first)
    _, ended, after = rest.partition(last)
    if not (found and ended):
        raise ValueError(
            f"{page}: expected a line {first} and, after it, a line {last}; put them where the table goes"
        )
    page.write_text(f"{before}{first}\n{text}\n{last}{after}", encoding="utf-8")
