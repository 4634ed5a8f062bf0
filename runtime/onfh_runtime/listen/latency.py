"""How long answers took: from the last image of a series, received, to its result, written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onfh_runtime.listen.records import SeriesRow

__all__ = ["Latencies", "latencies_of"]

SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Latencies:
    """Quantiles (p50, p90, p99) over some answers, ms.

    ``outside_engine_ms`` is the part in which no stage was running: waiting for completeness and for a turn, reading,
    preprocessing, postprocessing, writing. ``deadlines_missed`` counts among these answers.
    """

    answers: int
    latency_ms: tuple[float, float, float]
    outside_engine_ms: tuple[float, float, float]
    deadlines_missed: int


def latencies_of(rows: Iterable[SeriesRow]) -> Latencies | None:
    """The latencies of the answers among some series; None when none is known.

    The latency of an answer given after a restart is not known, and left out.
    """
    known = [
        (row.latency_ms, row.outside_engine_ms, row.deadline_missed)
        for row in rows
        if row.latency_ms is not None and row.outside_engine_ms is not None
    ]
    if not known:
        return None
    figures = np.array([(latency, outside) for latency, outside, _ in known], np.float64)
    total, outside = np.quantile(figures, SHARES, axis=0).T.tolist()
    return Latencies(len(known), tuple(total), tuple(outside), sum(missed for *_, missed in known))
