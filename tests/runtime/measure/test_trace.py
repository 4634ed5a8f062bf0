"""The timeline against the published format, field by field, and Perfetto's own reading of it where that is at hand."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest

from onfh_runtime.measure.runs import How, samples, written_below
from onfh_runtime.measure.trace import LANES, lane_of, trace_from_samples
from onfh_runtime.timing import Span

FIELDS = {
    "M": {"ph", "pid", "name", "args"},
    "X": {"ph", "pid", "tid", "ts", "dur", "name", "cat", "args"},
    "C": {"ph", "pid", "ts", "name", "args"},
    "s": {"ph", "pid", "tid", "ts", "id", "name", "cat"},
    "t": {"ph", "pid", "tid", "ts", "id", "name", "cat"},
    "f": {"ph", "pid", "tid", "ts", "id", "name", "cat", "bp"},
}
"""Fields of each phase used, as the Trace Event Format has them; ``tid`` of a metadata event is optional."""


def check(trace):
    """Hold a trace against the format; returns its events by phase."""
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace
    assert set(trace) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    by_phase = {phase: [] for phase in FIELDS}
    for event in trace["traceEvents"]:
        phase = event["ph"]
        by_phase[phase].append(event)
        assert set(event) - ({"tid"} if phase == "M" else set()) == FIELDS[phase], event
        assert all(isinstance(event[key], int) for key in ("pid", "tid", "id") if key in event)
        assert all(event[key] >= 0 for key in ("ts", "dur") if key in event)
    named = {e["tid"]: e["args"]["name"] for e in by_phase["M"] if e["name"] == "thread_name"}
    assert {event["name"] for event in by_phase["M"]} == {"process_name", "thread_name", "thread_sort_index"}
    slices = {}
    for event in by_phase["X"]:
        assert event["tid"] in named
        slices.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    for on_track in slices.values():  # slices of one track may nest and must never straddle
        on_track.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(on_track))
    for phase in "stf":
        for event in by_phase[phase]:  # an arrow is bound to the slice its point lies in
            assert any(start <= event["ts"] <= stop for start, stop in slices[event["tid"]])
    ends = [Counter(event["id"] for event in by_phase[phase]) for phase in "sf"]
    assert ends[0] == ends[1]
    assert set(ends[0].values()) <= {1}
    assert by_phase["f"] == [event for event in by_phase["f"] if event["bp"] == "e"]
    return by_phase, named


@pytest.fixture(scope="module")
def real(workload, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    with How().pipeline(workload.bundle) as pipeline:
        taken = [*samples(pipeline, [workload.candidate] * 3, written_below(out, workload.bundle))]
    return taken, trace_from_samples(taken)


def test_a_run_of_the_pipeline_makes_a_valid_trace(real):
    taken, trace = real
    by_phase, named = check(trace)
    assert len(by_phase["X"]) == sum(len(sample.spans) for sample in taken)
    assert min(event["ts"] for event in by_phase["X"]) == 0
    lanes = {name.split(" ")[0] for name in named.values()}
    assert lanes == {"read", "compute", "write"}
    assert {event["id"] for event in by_phase["s"]} == {0, 1, 2}
    counts = [event["args"]["series"] for event in by_phase["C"]]
    assert counts[-1] == 0
    assert max(counts) > 1


def test_slices_are_the_spans(real):
    taken, trace = real
    begun = min(sample.begun_s for sample in taken)
    for number, sample in enumerate(taken):
        slices = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["args"]["series"] == number]
        for event, span in zip(slices, sorted(sample.spans, key=lambda s: s.start_s), strict=True):
            assert event["name"] == span.step
            assert event["ts"] == pytest.approx((span.start_s - begun) * 1e6, abs=1)
            assert event["dur"] == pytest.approx((span.stop_s - span.start_s) * 1e6, abs=1)


@pytest.mark.parametrize(
    ("lane", "step", "kind"),
    [
        ("onfh-read_1", "read", "read"),
        ("onfh-read_1", "preprocess", "read"),
        ("gpu upload", "preprocess", "upload"),
        ("gpu", "classify", "compute"),
        ("gpu", "postprocess", "compute"),
        ("gpu download", "postprocess", "download"),
        ("MainThread", "segment", "compute"),
        ("onfh-write_0", "postprocess", "write"),
    ],
)
def test_lanes(lane, step, kind):
    assert lane_of(Span(step, lane, 0.0, 1.0)) == kind
    assert kind in LANES


def test_a_gpu_has_every_lane_and_its_clock_may_be_off_by_a_little(timed):
    def one(at):
        return timed(
            ("read", "onfh-read_0", at, at + 1),
            ("preprocess", "gpu upload", at + 1, at + 1.2),
            ("classify", "gpu", at + 1.2 - 1e-5, at + 1.5),
            ("segment", "gpu", at + 1.5 - 1e-5, at + 2),
            ("postprocess", "gpu download", at + 2, at + 2.1),
            ("write", "onfh-write_0", at + 2.1, at + 2.2),
            enqueues=[("classify", "MainThread", at + 1, at + 1.1), ("segment", "MainThread", at + 1.5, at + 1.6)],
        )

    by_phase, named = check(trace_from_samples([one(10.0), one(11.0)]))
    assert [name.split(" ")[0] for _, name in sorted(named.items())] == list(LANES)
    assert len(by_phase["t"]) == 2 * 4
    assert [event["name"] for event in by_phase["X"] if event["cat"] == "enqueue"] == ["classify", "segment"] * 2
    assert sorted(named.values()) == [
        "compute", "download", "enqueue (MainThread)", "read (onfh-read_0)", "upload", "write (onfh-write_0)"
    ]  # fmt: skip


def test_one_step_alone_has_no_arrow(timed):
    by_phase, _ = check(trace_from_samples([timed(("read", "onfh-read_0", 0.0, 1.0))]))
    assert by_phase["s"] == by_phase["f"] == []
