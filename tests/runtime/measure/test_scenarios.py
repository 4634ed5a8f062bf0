from __future__ import annotations

import pytest

from onfh_runtime.measure.energy import Energy
from onfh_runtime.measure.runs import How, not_written
from onfh_runtime.measure.scenarios import (
    Load,
    Scenario,
    gated_count,
    offline,
    offline_figures,
    single_stream,
    single_stream_figures,
)


def opened(workload, scenario, load):
    told = []
    with How().pipeline(workload.bundle) as pipeline:
        found = scenario(pipeline, workload.candidate, not_written, load, gpu=None, told=told.append)
    assert told == sorted(told)
    assert all(0 <= share <= 1 for share in told)
    return found


def test_single_stream_gives_one_after_the_other(workload):
    found = opened(workload, single_stream, Load(warm_up_s=0, duration_s=0, iterations=4))
    assert len(found.taken) == 4
    for before, after in zip(found.taken, found.taken[1:], strict=False):
        assert after.begun_s >= before.answered_s
    for sample, latency in zip(found.taken, found.latencies_s, strict=True):
        assert latency >= sample.answered_s - sample.begun_s
    assert sum(found.latencies_s) <= found.energy.seconds


def test_duration_and_number_must_both_be_reached(workload):
    found = opened(workload, single_stream, Load(warm_up_s=0, duration_s=1.5, iterations=1))
    assert found.energy.seconds >= 1.5
    assert len(found.taken) > 1


def test_offline_overlaps_series_and_counts_all_of_them(workload):
    found = opened(workload, offline, Load(warm_up_s=0, duration_s=0, iterations=4))
    figures = offline_figures(found)
    assert figures["studies"] == 4
    assert figures["in_flight_most"] > 1
    assert figures["studies_per_s"] == pytest.approx(4 / found.energy.seconds)
    slices = len(found.taken[0].result.slices)
    assert figures["slices_per_s"] == pytest.approx(slices * figures["studies_per_s"])


def test_offline_with_one_in_flight_overlaps_nothing(workload):
    found = opened(workload, offline, Load(warm_up_s=0, duration_s=0, iterations=3, in_flight=1))
    assert offline_figures(found)["in_flight_most"] == 1
    burst = opened(workload, offline, Load(warm_up_s=0, duration_s=0, iterations=3, in_flight=2))
    assert len(burst.taken) == 4  # whole bursts
    assert offline_figures(burst)["in_flight_most"] == 2


def test_shares_and_the_time_between_steps(timed):
    spans = [("read", "r", 0.0, 1.0), ("classify", "m", 1.5, 4.5)]
    found = Scenario([timed(*spans, answered=5.0)] * 3, [5.0, 5.0, 5.0], Energy({"rapl": 30.0}, {"nvml": "no"}, 15.0))
    figures = single_stream_figures(found)
    assert figures["step_share"] == {
        "read": 0.25,
        "preprocess": 0,
        "classify": 0.75,
        "segment": 0,
        "postprocess": 0,
        "write": 0,
    }
    assert figures["in_no_step_ms"] == pytest.approx(1000)
    assert figures["latency_ms"] == {
        "min": 5000, "p50": 5000, "p90": None, "p95": None, "p99": None, "max": 5000, "mean": 5000, "count": 3
    }  # fmt: skip
    assert figures["gpu_ms"] is None
    assert figures["energy"] == {
        "joules_per_study": {"rapl": 10.0},
        "mean_w": {"rapl": 2.0},
        "absent": {"nvml": "no"},
    }


def test_times_of_a_gpu_are_told_apart(timed):
    spans = [
        ("preprocess", "onfh-read_0", 0.0, 0.2),
        ("preprocess", "gpu upload", 0.2, 0.21),
        ("classify", "gpu", 0.21, 0.25),
        ("segment", "gpu", 0.25, 0.35),
        ("postprocess", "gpu download", 0.35, 0.36),
    ]
    enqueues = [("classify", "MainThread", 0.2, 0.203), ("segment", "MainThread", 0.25, 0.252)]
    sample = timed(*spans, answered=0.4, enqueues=enqueues)
    figures = single_stream_figures(Scenario([sample], [0.4], Energy(seconds=0.4)))
    wanted = {"h2d": 10, "gpu_compute": 140, "d2h": 10, "latency": 160, "enqueue": 5}
    assert figures["gpu_ms"] == pytest.approx(wanted)
    assert figures["steps_ms"]["classify"] == pytest.approx(40)  # queueing is no part of a step


def test_gated_slices_are_those_the_gate_lets_through(timed, workload):
    gate = workload.bundle.content.gate
    assert gated_count(timed(probabilities=(0.39, 0.41, 0.9)).result, gate) == 2
