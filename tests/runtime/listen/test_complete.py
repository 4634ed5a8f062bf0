from __future__ import annotations

from dataclasses import replace

import pytest

from onfh_runtime.listen.complete import deadline_of, next_series, seconds_until_complete
from onfh_runtime.listen.config import Route, SeriesRule
from onfh_runtime.listen.latency import latencies_of
from onfh_runtime.listen.records import SeriesRow, SeriesState

ROW = SeriesRow(
    series_uid="1.2.3",
    study_uid="1.2",
    route="default",
    state=SeriesState.RECEIVING,
    generation=1,
    objects=40,
    missing=0,
    nbytes=1,
    first_s=100.0,
    last_s=120.0,
    released_s=None,
    tries=0,
    retry_at_s=None,
    deadline_at_s=None,
    code=None,
    text=None,
    outcome=None,
    folder=None,
    latency_ms=None,
    outside_engine_ms=None,
    deadline_missed=False,
    answered_s=None,
)
RELEASED = replace(ROW, released_s=121.0)


@pytest.mark.parametrize(
    ("row", "rule", "quiet_s", "left"),
    [
        (ROW, {}, 10.0, 590.0),  # the association is still open
        (ROW, {}, 600.0, 0.0),  # for too long
        (RELEASED, {}, 3.0, 2.0),
        (RELEASED, {}, 5.0, 0.0),
        (RELEASED, {"quiet_s": 700.0}, 3.0, 597.0),
        (ROW, {"complete_when": "quiet"}, 3.0, 2.0),
        (ROW, {"complete_when": "count", "count": 41}, 3.0, 597.0),
        (ROW, {"complete_when": "count", "count": 40}, 0.0, 0.0),
        (RELEASED, {"complete_when": "count", "count": 41}, 3.0, 597.0),
        # Nobody said how many images of a series that was complete come again.
        (replace(ROW, generation=2), {"complete_when": "count", "count": 40}, 3.0, 2.0),
        (replace(ROW, generation=2), {"complete_when": "count", "count": 41}, 3.0, 597.0),
    ],
)
def test_when_a_series_is_complete(row, rule, quiet_s, left):
    assert seconds_until_complete(row, SeriesRule(**rule), quiet_s) == pytest.approx(left)


def test_a_deadline_counts_from_the_last_image():
    assert deadline_of(ROW, Route(name="a", deadline_s=30.0)) == 150.0
    assert deadline_of(ROW, Route(name="a")) is None


def test_what_was_put_off_waits_and_keeps_nobody_waiting():
    put_off = replace(ROW, series_uid="1", deadline_at_s=1.0, retry_at_s=200.0)
    late, soon = replace(ROW, series_uid="2", deadline_at_s=160.0), replace(ROW, series_uid="3", deadline_at_s=150.0)
    free = replace(ROW, series_uid="4", first_s=1.0)
    rows = [put_off, late, free, soon]
    assert next_series(rows, 199.0) is soon
    assert next_series(rows, 200.0) is put_off
    assert next_series([free, ROW], 0.0) is free
    assert next_series([put_off], 0.0) is None


def test_quantiles_of_latencies():
    rows = [replace(ROW, latency_ms=float(k), outside_engine_ms=k / 2, deadline_missed=k > 98) for k in range(101)]
    figures = latencies_of([ROW, *rows])
    assert figures.answers == 101
    assert figures.latency_ms == (50.0, 90.0, 99.0)
    assert figures.outside_engine_ms == (25.0, 45.0, 49.5)
    assert figures.deadlines_missed == 2
    assert latencies_of([ROW]) is None
