"""Scalars in a table on disk, which a resumed run continues exactly."""

import csv
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

Row = dict[str, float]


class CSVLog(Logger):
    """Writes `metrics.csv`: a row for each logged iteration, a column for each name, `step` the first.

    Lightning's own logger deletes the file when a run goes on, and a process killed while it rewrites the file leaves
    neither the old nor the new one. Here a new column replaces the file as a whole, and `resume` keeps what belongs to
    the steps before it.

    Args:
        folder: where the file lies.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.file = Path(folder) / "metrics.csv"
        self.columns: list[str] = []  # of the file as it is
        self.waiting: list[Row] = []

    @property
    def name(self) -> str:  # noqa: D102
        return ""

    @property
    def version(self) -> str:  # noqa: D102
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # noqa: D102
        self.waiting.append({"step": float(step or 0), **metrics})
        if len(self.waiting) >= 100:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Writes what waits."""
        new = {name for row in self.waiting for name in row} - set(self.columns)
        if new:
            self._replace(read_rows(self.file) + self.waiting)
        elif self.waiting:
            with self.file.open("a", newline="", encoding="utf-8") as file:
                self._write(file, self.waiting)
        self.waiting = []

    @rank_zero_only
    def finalize(self, status: str) -> None:  # noqa: D102
        self.save()

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Keeps the rows up to an iteration; those after it are about to come again."""
        self.columns = []
        if rows := [row for row in read_rows(self.file) if row["step"] <= step]:
            self._replace(rows)
        else:
            self.file.unlink(missing_ok=True)

    def _replace(self, rows: list[Row]) -> None:
        self.columns = ["step", *sorted({name for row in rows for name in row} - {"step"})]
        part = self.file.with_name(self.file.name + ".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(self.columns)
            self._write(file, rows)
        os.replace(part, self.file)

    def _write(self, file: Any, rows: list[Row]) -> None:
        writer = csv.DictWriter(file, self.columns, lineterminator="\n")
        writer.writerows(row | {"step": int(row["step"])} for row in rows)


def read_rows(file: Path) -> list[Row]:
    """The rows of a `metrics.csv`, each with the values it has; a last line that was cut short is left out."""
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]
