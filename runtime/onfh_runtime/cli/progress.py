"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

__all__ = ["Progress"]

BAR = 30


class Progress:
    """Counts finished items. On a terminal the bar is redrawn below the lines printed; elsewhere it is not drawn."""

    def __init__(self, label: str, *, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._label, self._total, self._done = label, 0, 0
        self._live = self._stream.isatty()

    def start(self, total: int) -> None:
        """Set how many items there are."""
        self._total = total
        self._draw()

    def begin(self, label: str) -> None:
        """Turn to another job, whose number of items is not known yet."""
        self._clear()
        self._label, self._total, self._done = label, 0, 0
        if self._live:
            self._stream.write(f"\r{label} ...")
            self._stream.flush()

    def at(self, done: int, total: int) -> None:
        """Set how many items there are and how many are finished."""
        self._done, self._total = done, total
        self._draw()

    def line(self, text: str, *, file: TextIO | None = None) -> None:
        """Print a line above the bar, to stdout unless ``file`` is given."""
        self._clear()
        print(text, file=file or sys.stdout, flush=True)
        self._draw()

    def advance(self) -> None:
        """Count one item as done."""
        self._done += 1
        self._draw()

    def close(self) -> None:
        """Take the bar away."""
        self._clear()

    def _draw(self) -> None:
        if self._live and self._total:
            filled = BAR * self._done // self._total
            bar = "#" * filled + "-" * (BAR - filled)
            self._stream.write(f"\r{self._label} [{bar}] {self._done}/{self._total}")
            self._stream.flush()

    def _clear(self) -> None:
        if self._live:
            self._stream.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
