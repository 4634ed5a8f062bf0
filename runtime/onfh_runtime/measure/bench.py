"""``onfh bench``: latency, throughput and cold start of one series, as one record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onfh_runtime.measure.cold import cold_start
from onfh_runtime.measure.fingerprint import machine_fingerprint
from onfh_runtime.measure.record import record
from onfh_runtime.measure.runs import How, not_written, samples, written_below
from onfh_runtime.measure.scenarios import (
    Load,
    gated_count,
    offline,
    offline_figures,
    single_stream,
    single_stream_figures,
)
from onfh_runtime.measure.statistics import spread
from onfh_runtime.measure.workload import Workload

__all__ = ["bench"]

DOES_NOT_MEASURE = (
    "A cold page cache: every file was read before.",
    "Several different series: one is analysed again and again, and what caches learn of it is learnt.",
    "The search for series and the check of the bundle's hashes, except in a cold start.",
    "This program's share of the energy: a meter counts all that it is attached to, idle power too.",
)


def bench(
    workload: Workload,
    how: How,
    load: Load,
    *,
    command: str,
    study: Path,
    positive_fraction: float | None = None,
    cold_starts: int = 3,
    out: Path | None = None,
    told: Callable[[str, float], None],
) -> dict[str, object]:
    """Measure a series and return the record.

    Args:
        workload: the series, with its bundle's own gate.
        how: the stages are opened.
        load: for how long.
        command: as the record names it.
        study: where the series was found, for a fresh process to find it again.
        positive_fraction: share of the slices that an overridden gate lets through, or None for the bundle's gate.
        cold_starts: fresh processes to time.
        out: folder that outputs are written to, or None to leave answers in memory.
        told: given what is measured and the share that is done, 0 to 1.

    Raises:
        OnfhError: the series is refused or fails, or the stages cannot be opened.
    """
    share: tuple[float, int] | None = None
    if positive_fraction is not None:
        told("counting slices", 0.0)
        with how.pipeline(workload.bundle) as pipeline:
            (first,) = samples(pipeline, [workload.candidate], not_written)
        share = positive_fraction, len(first.result.slices)
        workload = workload.with_positive_fraction(*share)
    write = not_written if out is None else written_below(out, workload.bundle)
    with how.pipeline(workload.bundle) as pipeline:
        told("opening the stages", 0.0)
        (first,) = samples(pipeline, [workload.candidate], write)
        engine, captured = first.result.engine, pipeline.captured()
        gpu, candidate = how.gpu_of(engine), workload.candidate
        alone = single_stream(pipeline, candidate, write, load, gpu=gpu, told=lambda done: told("single stream", done))
        many = offline(pipeline, candidate, write, load, gpu=gpu, told=lambda done: told("offline", done))
        machine = machine_fingerprint()  # clocks as the work left them, not those of a GPU that idles
    cold = []
    for number in range(cold_starts):
        told("cold start", number / cold_starts)
        cold.append(cold_start(study, workload.bundle.root, how=how, share=share, out=out))
    return record(
        "onfh bench",
        command,
        settings={
            "series": workload.described(),
            "slices": len(first.result.slices),
            "gated": gated_count(first.result, workload.bundle.content.gate),
            "positive_fraction": positive_fraction,
            "engine": engine.model_dump(),
            "threads": how.threads,
            "graphs": how.graphs,
            "graphs_captured": captured,
            "in_flight": load.in_flight,
            "warm_up_s": load.warm_up_s,
            "duration_s": load.duration_s,
            "iterations": load.iterations,
            "outputs_written": out is not None,
        },
        results={
            "single_stream": single_stream_figures(alone),
            "offline": offline_figures(many),
            "cold_start_s": {name: spread([each[name] for each in cold]) for name in cold[0]} if cold else None,
        },
        does_not_measure=DOES_NOT_MEASURE if out else (*DOES_NOT_MEASURE, "Outputs: none are written."),
        machine=machine,
    )
