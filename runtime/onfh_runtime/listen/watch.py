"""Watches the clock for every series: when it is complete, and when its answer is overdue."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from onfh_runtime.listen.arrivals import Arrivals
from onfh_runtime.listen.clock import Clock
from onfh_runtime.listen.complete import deadline_of, seconds_until_complete
from onfh_runtime.listen.config import ListenConfig, Route
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.log import log_event
from onfh_runtime.listen.records import SeriesRow, SeriesState

__all__ = ["Event", "Tell", "Watch", "route_named"]

_log = logging.getLogger(__name__)

_LONGEST_S = 60.0

Event = Literal["result", "deadline_missed", "set_aside"]
Tell = Callable[[Event, SeriesRow], None]
"""Told of an event; returns at once."""


class Watch:
    """One turn looks at every series that waits for something.

    Args:
        config: of the node.
        journal: of the node.
        arrivals: knows when the last image of a series came, however the wall clock was set since.
        on_ready: called when a series became complete.
        tell: told of each missed deadline, once.
        clock: of the node.
    """

    def __init__(
        self,
        config: ListenConfig,
        journal: Journal,
        arrivals: Arrivals,
        *,
        on_ready: Callable[[], None],
        tell: Tell,
        clock: Clock,
    ) -> None:
        self._config, self._journal, self._arrivals = config, journal, arrivals
        self._on_ready, self._tell, self._clock = on_ready, tell, clock
        self._overdue: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def turn(self) -> float:
        """Make complete series ready and report missed deadlines; returns seconds until the next of either."""
        names = self._arrivals.names()
        rows = self._journal.in_state(SeriesState.RECEIVING, SeriesState.READY, SeriesState.WORKING)
        waiting = {row.series_uid for row in rows}
        self._arrivals.forget(names - waiting)
        with self._lock:
            self._overdue = {key for key in self._overdue if key[0] in waiting}
        left = [self._receiving(row) if row.state is SeriesState.RECEIVING else self._due(row) for row in rows]
        return max(0.0, min(left, default=_LONGEST_S))

    def overdue(self, row: SeriesRow) -> bool:
        """Whether the answer to a series comes too late now; the first time, it is told."""
        if row.deadline_at_s is None or self._clock.wall() <= row.deadline_at_s:
            return False
        key = row.series_uid, row.generation
        with self._lock:
            known = key in self._overdue
            self._overdue.add(key)
        if not known:
            log_event(
                _log,
                logging.WARNING,
                "deadline_missed",
                series_uid=row.series_uid,
                route=row.route,
                generation=row.generation,
                seconds=self._clock.wall() - row.last_s,
            )
            self._tell("deadline_missed", replace(row, deadline_missed=True))
        return True

    def _receiving(self, row: SeriesRow) -> float:
        heard_s = self._arrivals.heard_s(row.series_uid)
        quiet_s = self._clock.wall() - row.last_s if heard_s is None else self._clock.monotonic() - heard_s
        left = seconds_until_complete(row, self._config.series, max(0.0, quiet_s))
        deadline_s = deadline_of(row, route_named(row.route, self._config))
        if left > 0:
            return min(left, self._due(replace(row, deadline_at_s=deadline_s)))
        if self._journal.mark_ready(row.series_uid, row.generation, deadline_s, last_s=row.last_s):
            self._on_ready()
        return 0.0

    def _due(self, row: SeriesRow) -> float:
        if row.deadline_at_s is None or self.overdue(row):
            return _LONGEST_S
        return row.deadline_at_s - self._clock.wall()


def route_named(name: str, config: ListenConfig) -> Route:
    """The route of this name; one that the configuration names no more sends nothing on."""
    return next((route for route in config.routes if route.name == name), Route(name=name))
