"""A CSV table with named columns, whose errors say the line."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from onfh_runtime.errors import UsageError

__all__ = ["CsvRow", "CsvTable", "read_csv"]


@dataclass(frozen=True)
class CsvRow:
    """One line. ``where`` names file and line; no value of a line is ever quoted, for it may name a patient."""

    path: Path
    line: int
    code: str
    values: dict[str, str]

    @property
    def where(self) -> str:
        """File and line, for a message."""
        return f"{self.path}, line {self.line}"

    def text(self, column: str) -> str:
        """What stands in a column; empty where there is nothing, or no such column."""
        return self.values.get(column, "")

    def needed(self, column: str) -> str:
        """The same; UsageError where it is empty."""
        if not self.text(column):
            raise UsageError(self.code, f"{self.where}: {column} is empty.")
        return self.text(column)

    def number(self, column: str) -> float:
        """A finite number, NaN where the column is empty; UsageError for anything else."""
        text = self.text(column)
        if not text:
            return math.nan
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UsageError(self.code, f"{self.where}: {column} is no number.")
        return value

    def probability(self, column: str) -> float:
        """A number within 0..1; NaN where there is none: empty, nan or infinite. UsageError for anything else."""
        text = self.text(column)
        try:
            value = float(text) if text else math.nan
        except ValueError:
            raise UsageError(self.code, f"{self.where}: {column} is no number.") from None
        if math.isinf(value):
            return math.nan
        if not math.isnan(value) and not 0 <= value <= 1:
            raise UsageError(self.code, f"{self.where}: {column} lies outside 0..1.")
        return value

    def flag(self, column: str) -> bool | None:
        """True for 1, False for 0, None where it is empty; UsageError for anything else."""
        text = self.text(column).lower()
        if text in ("", "1", "0", "true", "false"):
            return None if not text else text in ("1", "true")
        raise UsageError(self.code, f"{self.where}: {column} is neither 0 nor 1.")

    def file(self, column: str) -> Path:
        """A path, relative to the table's folder."""
        return self.path.parent / self.text(column)


@dataclass(frozen=True)
class CsvTable:
    """Lines and the names of their columns."""

    columns: frozenset[str]
    rows: tuple[CsvRow, ...]


def read_csv(path: Path, code: str, *, needed: tuple[str, ...]) -> CsvTable:
    """Read a comma-separated UTF-8 file with a header line; blanks around values do not count.

    Args:
        path: the file.
        code: of the errors.
        needed: columns without which there is no reading it.

    Raises:
        UsageError: ``code``.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            lacking = [name for name in needed if name not in names]
            if lacking:
                raise UsageError(
                    code, f"{path} lacks the column(s) {', '.join(lacking)}.", "docs/evaluate.md lists the columns."
                )
            rows = []
            for values in reader:
                if None in values or None in values.values():
                    raise UsageError(code, f"{path}, line {reader.line_num}: as many values as columns are needed.")
                cells = {name: value.strip() for name, value in values.items() if name}
                if any(cells.values()):
                    rows.append(CsvRow(path, reader.line_num, code, cells))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            code, f"{path} cannot be read as CSV ({type(error).__name__}).", "Save it as UTF-8."
        ) from error
    return CsvTable(frozenset(names), tuple(rows))
