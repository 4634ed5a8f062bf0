"""Single stream and offline, as MLPerf Inference calls them, on one series.

Single stream: the next series is given when the last was answered; what counts is the latency of each. Offline: there
is always another one; what counts is how many are answered in a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from statistics import fmean, median

import numpy as np

from onfh_runtime.bundle import Gate
from onfh_runtime.dicom import Candidate
from onfh_runtime.findings import gated_slices
from onfh_runtime.measure.energy import Energy, metered
from onfh_runtime.measure.runs import STEPS, Sample, Write, at_once, samples
from onfh_runtime.measure.statistics import percentiles
from onfh_runtime.pipeline import Pipeline
from onfh_runtime.result import Result
from onfh_runtime.timing import DOWNLOAD_LANE, GPU_LANE, UPLOAD_LANE

__all__ = ["Load", "Scenario", "gated_count", "offline", "offline_figures", "single_stream", "single_stream_figures"]

Told = Callable[[float], None]


@dataclass(frozen=True)
class Load:
    """How long to measure: at least so many seconds and so many series, after a warm-up of at least one series.

    ``in_flight`` series are handed over at once, and the next when all are answered; None hands over one after another
    without end.
    """

    warm_up_s: float = 2.0
    duration_s: float = 10.0
    iterations: int = 10
    in_flight: int | None = None


@dataclass(frozen=True)
class Scenario:
    """What a scenario saw; ``energy.seconds`` reach from the first series given to the last one answered."""

    taken: list[Sample]
    latencies_s: list[float]
    energy: Energy


def single_stream(
    pipeline: Pipeline, candidate: Candidate, write: Write, load: Load, *, gpu: int | None, told: Told
) -> Scenario:
    """One series after the other, each alone.

    Args:
        pipeline: opened by the warm-up at the latest.
        candidate: the series.
        write: from :mod:`onfh_runtime.measure.runs`.
        load: how long.
        gpu: the GPU whose energy is metered, or None.
        told: given the share that is done, 0 to 1.

    Raises:
        OnfhError: the series is refused or fails.
    """

    def one() -> Sample:
        (sample,) = samples(pipeline, [candidate], write)
        return sample

    _warm_up(one, load)
    taken, latencies = [], []
    with metered(gpu) as energy:
        for _ in _until(load, told):
            given = time.perf_counter()
            taken.append(one())
            latencies.append(taken[-1].answered_s - given)
    return Scenario(taken, latencies, energy)


def offline(
    pipeline: Pipeline, candidate: Candidate, write: Write, load: Load, *, gpu: int | None, told: Told
) -> Scenario:
    """Series without end, or ``load.in_flight`` at once and again. Arguments and errors as in :func:`single_stream`.

    The latencies are from a series' first step to its answer.
    """
    burst = load.in_flight
    _warm_up(lambda: [*samples(pipeline, repeat(candidate, burst or 2), write)], load)
    taken: list[Sample] = []
    with metered(gpu) as energy:
        if burst is None:
            taken += samples(pipeline, (candidate for _ in _until(load, told)), write)
        else:
            for _ in _until(load, told, each=burst):
                taken += samples(pipeline, repeat(candidate, burst), write)
    return Scenario(taken, [sample.answered_s - sample.begun_s for sample in taken], energy)


def single_stream_figures(scenario: Scenario) -> dict[str, object]:
    """Latencies, and where they come from; times in ms."""
    taken, latencies = scenario.taken, scenario.latencies_s
    outside = [latency - sample.in_steps_s for latency, sample in zip(latencies, taken, strict=True)]
    return {
        "latency_ms": _latencies(latencies),
        "steps_ms": {step: median(sample.step_s(step) for sample in taken) * 1e3 for step in STEPS},
        "step_share": _shares(taken),
        "in_no_step_ms": median(outside) * 1e3,
        "gpu_ms": _gpu_times(taken),
        "energy": _energy(scenario),
    }


def offline_figures(scenario: Scenario) -> dict[str, object]:
    """Series and slices in a second, from the first given to the last answered, with run-in and run-out in it."""
    taken, seconds = scenario.taken, scenario.energy.seconds
    return {
        "studies": len(taken),
        "seconds": seconds,
        "studies_per_s": len(taken) / seconds,
        "slices_per_s": sum(len(sample.result.slices) for sample in taken) / seconds,
        "in_flight_most": at_once(taken),
        "latency_ms": _latencies(scenario.latencies_s),
        "step_share": _shares(taken),
        "gpu_ms": _gpu_times(taken),
        "energy": _energy(scenario),
    }


def gated_count(result: Result, gate: Gate) -> int:
    """How many slices of a series went on to stage 2."""
    scores = np.array([each.probability for each in result.slices], np.float32)
    return len(gated_slices(scores, gate))


def _latencies(seconds: Sequence[float]) -> dict[str, float | None]:
    """In trtexec's terms, but for its median: that is p50."""
    ms = [each * 1e3 for each in seconds]
    return {"min": min(ms), **percentiles(ms), "max": max(ms), "mean": fmean(ms), "count": len(ms)}


def _shares(taken: Sequence[Sample]) -> dict[str, float]:
    """Of the time in steps, summed over series; steps of several lanes count one by one."""
    spent = {step: sum(sample.step_s(step) for sample in taken) for step in STEPS}
    return {step: each / sum(spent.values()) for step, each in spent.items()}


def _gpu_times(taken: Sequence[Sample]) -> dict[str, float] | None:
    """Medians of a series in trtexec's words, or None where no GPU took part; all but enqueue by the GPU's events."""
    if not any(span.lane == GPU_LANE for span in taken[0].spans):
        return None
    of_lanes = {"h2d": UPLOAD_LANE, "gpu_compute": GPU_LANE, "d2h": DOWNLOAD_LANE}
    return {
        **{name: median(sample.lane_s(lane) for sample in taken) * 1e3 for name, lane in of_lanes.items()},
        "latency": median(sum(sample.lane_s(lane) for lane in of_lanes.values()) for sample in taken) * 1e3,
        "enqueue": median(sample.enqueue_s for sample in taken) * 1e3,
    }


def _energy(scenario: Scenario) -> dict[str, object]:
    energy = scenario.energy
    return {
        "joules_per_study": {name: each / len(scenario.taken) for name, each in energy.joules.items()},
        "mean_w": {name: each / energy.seconds for name, each in energy.joules.items()},
        "absent": energy.absent,
    }


def _warm_up(once: Callable[[], object], load: Load) -> None:
    begun = time.perf_counter()
    once()
    while time.perf_counter() - begun < load.warm_up_s:
        once()


def _until(load: Load, told: Told, *, each: int = 1) -> Iterator[None]:
    """Go on until both the time and the number of series are reached; a turn gives ``each`` of them."""
    begun, given = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < load.duration_s or given < load.iterations:
        told(min(1.0, spent / load.duration_s if load.duration_s else 1.0, given / max(1, load.iterations)))
        yield
        given += each
