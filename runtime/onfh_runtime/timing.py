"""How long each step took, and when."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import current_thread

from onfh_runtime.result import Timing

__all__ = ["Span", "Stopwatch"]


@dataclass(frozen=True)
class Span:
    """One step of one series: its lane (a thread, or a stream of a GPU) and its times by ``time.perf_counter``, s."""

    step: str
    lane: str
    start_s: float
    stop_s: float


class Stopwatch:
    """Adds up time per step, in ms. A series passes it from lane to lane; no two lanes use it at once."""

    def __init__(self) -> None:
        self._spans: list[Span] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block as part of the step ``name``, one of :class:`Timing`'s fields."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, start, time.perf_counter())

    def add(self, name: str, start_s: float, stop_s: float, *, lane: str | None = None) -> None:
        """Record a step that was timed elsewhere, such as on a GPU; ``lane`` is this thread unless given."""
        self._spans.append(Span(name, lane or current_thread().name, start_s, stop_s))

    @property
    def spans(self) -> tuple[Span, ...]:
        """Every step so far, in the order of their ends."""
        return tuple(self._spans)

    @property
    def timing(self) -> Timing:
        """The steps so far; ``total`` is their sum, so waiting in a queue between lanes is not in it."""
        spent: dict[str, float] = {}
        for span in self._spans:
            spent[span.step] = spent.get(span.step, 0.0) + (span.stop_s - span.start_s) * 1000
        return Timing(**spent, total=sum(spent.values()))
