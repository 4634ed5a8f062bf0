"""A timeline in the Trace Event Format (JSON object form), which Perfetto and chrome://tracing open.

One process, one track for each lane: what reads, copies up, queues, computes, copies down and writes. Every step of a
series is a complete event (``X``), times in microseconds from the first one; an arrow (``s``, ``t``, ``f``) follows
each series from lane to lane; a counter (``C``) says how many are on their way. The format: "Trace Event Format" by the
Chromium authors, 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from onfh_runtime.measure.runs import Sample
from onfh_runtime.timing import DOWNLOAD_LANE, GPU_LANE, UPLOAD_LANE, Span

__all__ = ["LANES", "lane_of", "trace_from_samples"]

LANES = ("read", "upload", "enqueue", "compute", "download", "write")
"""Kinds of lanes, in the order of their tracks. ``enqueue`` holds no steps: there the host queues those of a GPU."""

_PID = 1
_Point = tuple[int, float]
"""A track, and a time on it in microseconds."""


def lane_of(span: Span) -> str:
    """The kind of lane a step ran in."""
    of_gpu = {UPLOAD_LANE: "upload", GPU_LANE: "compute", DOWNLOAD_LANE: "download"}
    if span.lane in of_gpu:
        return of_gpu[span.lane]
    if span.lane.startswith("onfh-read"):
        return "read"
    return "write" if span.lane.startswith("onfh-write") else "compute"


def trace_from_samples(samples: Sequence[Sample]) -> dict[str, object]:
    """The trace of some series, as the document to be written as JSON.

    Args:
        samples: at least one, in the order in which they were given.
    """
    begun = min(sample.begun_s for sample in samples)
    events: list[dict[str, object]] = [{"ph": "M", "pid": _PID, "name": "process_name", "args": {"name": "onfh"}}]
    placed = [
        (kind, span, number)
        for number, sample in enumerate(samples)
        for kind, span in (
            *((lane_of(span), span) for span in sample.spans),
            *(("enqueue", span) for span in sample.enqueues),
        )
    ]
    tracks = _tracks({(kind, span.lane) for kind, span, _ in placed})
    for (kind, lane), tid in tracks.items():
        named = kind if lane in (UPLOAD_LANE, GPU_LANE, DOWNLOAD_LANE) else f"{kind} ({lane})"
        events.append({"ph": "M", "pid": _PID, "tid": tid, "name": "thread_name", "args": {"name": named}})
        events.append({"ph": "M", "pid": _PID, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}})
    reached: dict[int, float] = {}
    arrows: list[list[_Point]] = [[] for _ in samples]
    for kind, span, number in sorted(placed, key=lambda each: each[1].start_s):
        tid = tracks[kind, span.lane]
        # Times of a GPU are put on the host's clock once for each series, so neighbours may meet a few us too early.
        start = max((span.start_s - begun) * 1e6, reached.get(tid, 0.0))
        stop = reached[tid] = max((span.stop_s - begun) * 1e6, start)
        where: dict[str, object] = {"ph": "X", "pid": _PID, "tid": tid, "ts": start, "dur": stop - start}
        category = "enqueue" if kind == "enqueue" else "step"
        events.append({**where, "name": span.step, "cat": category, "args": {"series": number}})
        if category == "step":
            arrows[number].append((tid, (start + stop) / 2))
    for number, points in enumerate(arrows):
        events += _flow(number, points)
    return {
        "traceEvents": [*events, *_in_flight(samples, begun)],
        "displayTimeUnit": "ms",
        "otherData": {"schema": "onfh-trace/1", "series": len(samples)},
    }


def _tracks(lanes: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Track numbers from 1 by kind and lane, in the order of :data:`LANES`."""
    ordered = sorted(lanes, key=lambda track: (LANES.index(track[0]), track[1]))
    return {track: number for number, track in enumerate(ordered, start=1)}


def _flow(number: int, points: Sequence[_Point]) -> list[dict[str, object]]:
    """An arrow through the steps of a series, bound to the slice that each point lies in."""
    if len(points) < 2:
        return []
    phases = ["s", *["t"] * (len(points) - 2), "f"]
    events: list[dict[str, object]] = []
    for phase, (tid, at) in zip(phases, points, strict=True):
        event: dict[str, object] = {"ph": phase, "pid": _PID, "tid": tid, "ts": at, "id": number}
        events.append({**event, "name": "series", "cat": "series", **({"bp": "e"} if phase == "f" else {})})
    return events


def _in_flight(samples: Sequence[Sample], begun: float) -> list[dict[str, object]]:
    moments = [(sample.begun_s, 1) for sample in samples]
    moments += [(max(span.stop_s for span in sample.spans), -1) for sample in samples]
    events: list[dict[str, object]] = []
    now = 0
    for moment, change in sorted(moments, key=itemgetter(0, 1)):
        now += change
        ts = (moment - begun) * 1e6
        events.append({"ph": "C", "pid": _PID, "ts": ts, "name": "series on their way", "args": {"series": now}})
    return events
