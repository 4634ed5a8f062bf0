"""How long each step took, and when."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from threading import current_thread

from onfh_runtime.result import Timing

__all__ = ["DOWNLOAD_LANE", "GPU_LANE", "UPLOAD_LANE", "Span", "Stopwatch", "nvtx_range"]

UPLOAD_LANE, GPU_LANE, DOWNLOAD_LANE = "gpu upload", "gpu", "gpu download"
"""Lanes of a GPU, whose spans are by its own events."""


@dataclass(frozen=True)
class Span:
    """One step of one series: its lane (a thread, or one of a GPU) and its times by ``time.perf_counter``, s."""

    step: str
    lane: str
    start_s: float
    stop_s: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.stop_s - self.start_s


class Stopwatch:
    """Adds up time per step, in ms. A series passes it from lane to lane; no two lanes use it at once."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._enqueues: list[Span] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block as part of the step ``name``, one of :class:`Timing`'s fields."""
        start = time.perf_counter()
        try:
            with nvtx_range(name):
                yield
        finally:
            self.add(name, start, time.perf_counter())

    @contextmanager
    def enqueue(self, name: str) -> Iterator[None]:
        """Time a block that queues a step on a GPU: it is kept apart, for the step's time is what the GPU takes."""
        start = time.perf_counter()
        try:
            with nvtx_range(name):
                yield
        finally:
            self._enqueues.append(Span(name, current_thread().name, start, time.perf_counter()))

    def add(self, name: str, start_s: float, stop_s: float, *, lane: str | None = None) -> None:
        """Record a step that was timed elsewhere, such as on a GPU; ``lane`` is this thread unless given."""
        self._spans.append(Span(name, lane or current_thread().name, start_s, stop_s))

    @property
    def spans(self) -> tuple[Span, ...]:
        """Every step so far, in the order of their ends."""
        return tuple(self._spans)

    @property
    def enqueues(self) -> tuple[Span, ...]:
        """What the host did to queue steps on a GPU."""
        return tuple(self._enqueues)

    @property
    def timing(self) -> Timing:
        """The steps so far; ``total`` is their sum, so waiting in a queue between lanes is not in it."""
        spent: dict[str, float] = {}
        for span in self._spans:
            spent[span.step] = spent.get(span.step, 0.0) + span.seconds * 1000
        return Timing(**spent, total=sum(spent.values()))


def nvtx_range(name: str) -> AbstractContextManager[object]:
    """A range on this thread for a profiler such as Nsight Systems, in the domain ``onfh``; nothing without nvtx."""
    return _nvtx_range()(name)


@cache
def _nvtx_range() -> Callable[[str], AbstractContextManager[object]]:
    try:
        nvtx = import_module("nvtx")
    except ImportError:
        return lambda name: nullcontext()
    return lambda name: nvtx.annotate(name, domain="onfh")
