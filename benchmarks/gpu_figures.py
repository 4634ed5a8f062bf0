"""Figures of the GPU benchmarks: written one by one as they come, so that a run that is cut short keeps its first."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One line of the table. ``absent`` says why there is no value; ``low`` and ``high`` are the spread of it."""

    part: str
    name: str
    value: float | None = None
    unit: str = ""
    least: float | None = None
    most: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    absent: str = ""

    @property
    def target(self) -> str:
        """What is wanted, in words."""
        bounds = [f">= {self.least:g}"] if self.least is not None else []
        return " and ".join(bounds + ([f"<= {self.most:g}"] if self.most is not None else []))

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None where there is none, or no value."""
        if self.value is None or not self.target:
            return None
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


class Recorder:
    """Appends the figures of one part to a file, a line each.

    What is planned and never said is found absent by :func:`read_figures`.
    """

    def __init__(self, path: Path, part: str) -> None:
        self._path, self._part = path, part

    def plan(self, *names: str) -> None:
        """Name figures that are to come."""
        self._write({"planned": list(names)})

    def say(
        self,
        name: str,
        value: float | Sequence[float],
        unit: str,
        *,
        least: float | None = None,
        most: float | None = None,
        note: str = "",
    ) -> None:
        """Record a figure; of several values the median, with the lowest and the highest."""
        low = high = None
        if isinstance(value, Sequence):
            ordered = sorted(value)
            low, value, high = ordered[0], ordered[len(ordered) // 2], ordered[-1]
        self._write(asdict(Figure(self._part, name, float(value), unit, least, most, low, high, note)))

    def absent(self, why: str, *names: str) -> None:
        """Record that figures cannot be had."""
        for name in names:
            self._write(asdict(Figure(self._part, name, absent=why)))

    @contextmanager
    def or_absent(self, *names: str) -> Iterator[None]:
        """What fails inside costs these figures and no others."""
        self.plan(*names)
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            self.absent(f"{type(error).__name__}: {lines[0]}", *(set(names) - _said(self._path, self._part)))

    def _write(self, line: dict[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_figures(path: Path, part: str, why_not: str) -> list[Figure]:
    """The figures of a part in order; what was planned and is not there is absent because of ``why_not``."""
    lines = _lines(path)
    said = [Figure(**line) for line in lines if "name" in line]
    names = {figure.name for figure in said}
    planned = dict.fromkeys(name for line in lines for name in line.get("planned", ()))
    return said + [Figure(part, name, absent=why_not) for name in planned if name not in names]


def table(figures: Iterable[Figure]) -> str:
    """The figures in columns, absent ones with their reason."""
    rows = [("figure", "value", "lowest to highest", "target", "")]
    for figure in figures:
        name = f"{figure.part}: {figure.name}"
        if figure.value is None:
            rows.append((name, "-", "", figure.target, f"not taken: {figure.absent}"))
            continue
        spread = "" if figure.low is None or figure.high is None else f"{figure.low:.4g} to {figure.high:.4g}"
        verdict = {True: "met", False: "MISSED", None: ""}[figure.met]
        rows.append((name, f"{figure.value:.4g} {figure.unit}".strip(), spread, figure.target, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
    )


def _said(path: Path, part: str) -> set[str]:
    return {line["name"] for line in _lines(path) if line.get("part") == part}


def _lines(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]
