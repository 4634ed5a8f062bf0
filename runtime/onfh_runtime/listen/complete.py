"""When a series is complete, when its answer is due, and which series comes next."""

from __future__ import annotations

from collections.abc import Iterable

from onfh_runtime.listen.config import Route, SeriesRule
from onfh_runtime.listen.records import SeriesRow

__all__ = ["deadline_of", "next_series", "seconds_until_complete"]


def seconds_until_complete(row: SeriesRow, rule: SeriesRule, quiet_s: float) -> float:
    """Seconds until a series that receives counts as complete if no further image comes; 0 and less when it does.

    Args:
        row: the series.
        rule: when it is complete.
        quiet_s: seconds since its last image.
    """
    left = rule.max_wait_s - quiet_s
    if rule.complete_when == "count" and rule.count is not None and row.objects >= rule.count:
        # How many images of a series that was complete before come again is not known.
        return 0.0 if row.generation == 1 else min(left, rule.quiet_s - quiet_s)
    if rule.complete_when == "quiet" or (rule.complete_when == "association" and row.released_s is not None):
        return min(left, rule.quiet_s - quiet_s)
    return left


def deadline_of(row: SeriesRow, route: Route) -> float | None:
    """When the answer is due, seconds of wall time: the route's time after the last image. None without a deadline."""
    return None if route.deadline_s is None else row.last_s + route.deadline_s


def next_series(ready: Iterable[SeriesRow], now_s: float) -> SeriesRow | None:
    """The complete series to analyse now: the earliest deadline, then the oldest; one that was put off waits."""
    due = [row for row in ready if row.retry_at_s is None or row.retry_at_s <= now_s]
    return min(due, key=_urgency, default=None)


def _urgency(row: SeriesRow) -> tuple[float, float, str]:
    return row.deadline_at_s if row.deadline_at_s is not None else float("inf"), row.first_s, row.series_uid
