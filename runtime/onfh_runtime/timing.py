"""How long each step took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from onfh_runtime.result import Timing

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up wall time per step, in ms."""

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block as part of the step ``name``, one of :class:`Timing`'s fields."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._ms[name] = self._ms.get(name, 0.0) + (time.perf_counter() - start) * 1000

    @property
    def timing(self) -> Timing:
        """The steps so far; ``total`` is their sum, so waiting in a queue between lanes is not in it."""
        return Timing(**self._ms, total=sum(self._ms.values()))
