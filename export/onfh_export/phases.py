"""The phases of an export: announced, timed, and summed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Phases"]


class Phases:
    """Says what is being done and how long each phase took.

    Args:
        say: takes one line, when a phase ends.
        begin: takes the name of a phase when it begins.
        step: takes (done, total) of the running phase.
    """

    def __init__(
        self,
        say: Callable[[str], None] = lambda _: None,
        *,
        begin: Callable[[str], None] = lambda _: None,
        step: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self.say, self.step = say, step
        self._begin = begin
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the body under ``name``; a phase that is entered again adds up."""
        self._begin(name)
        start = time.monotonic()
        yield
        spent = time.monotonic() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + spent
        self.say(f"{name:<44} {spent:7.1f} s")
