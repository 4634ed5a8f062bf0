"""``onfh profile``: a timeline of some studies in a row, layers of the stages, and each step against its ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from onfh_runtime.analysis import Analysis
from onfh_runtime.backends import DEVICE_BACKENDS
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.cpu import cores
from onfh_runtime.measure.advice import Facts, advice
from onfh_runtime.measure.ceilings import Ceilings, device_ceilings, host_ceilings
from onfh_runtime.measure.fingerprint import machine_fingerprint
from onfh_runtime.measure.layers import ort_layers, tensorrt_layers
from onfh_runtime.measure.record import record
from onfh_runtime.measure.roofline import StepWork, busy_lanes, roofline, work_of_analysis
from onfh_runtime.measure.runs import How, Sample, not_written, samples, written_below
from onfh_runtime.measure.scenarios import gated_count
from onfh_runtime.measure.trace import trace_from_samples
from onfh_runtime.measure.workload import Workload
from onfh_runtime.outputs.series_folder import series_folder

if TYPE_CHECKING:
    from onfh_runtime.bundle import LoadedBundle, StageName
    from onfh_runtime.result import Engine

__all__ = ["layers_of", "profile"]

DOES_NOT_MEASURE = (
    "A cold page cache: every file was read before.",
    "Bytes and operations that no step needs to move or do: what is counted is the least there is.",
    "The search for the femoral heads, in the operations of preprocess.",
    "What passes between the layers of a stage, in its bytes.",
    "Layers as they overlap in a stage: a profiler holds them apart, so their sum is not the stage's time.",
)


def profile(
    workload: Workload,
    how: How,
    out: Path,
    *,
    command: str,
    runs: int = 5,
    positive_fraction: float | None = None,
    told: Callable[[str, float], None],
) -> tuple[dict[str, object], dict[str, object]]:
    """Analyse a series some times alone and some times in a row, outputs written, and say what bounds it.

    Args:
        workload: the series, with its bundle's own gate.
        how: the stages are opened.
        out: folder for the outputs.
        command: as the record names it.
        runs: of either kind.
        positive_fraction: share of the slices that an overridden gate lets through, or None for the bundle's gate.
        told: given what is measured and the share that is done, 0 to 1.

    Returns:
        The record, and the trace of the series in a row.

    Raises:
        OnfhError: the series is refused or fails, or the stages cannot be opened.
    """
    if positive_fraction is not None:
        told("counting slices", 0.0)
        with how.pipeline(workload.bundle) as pipeline:
            (first,) = samples(pipeline, [workload.candidate], not_written)
        workload = workload.with_positive_fraction(positive_fraction, len(first.result.slices))
    bundle, candidate = workload.bundle, workload.candidate
    write = written_below(out, bundle)
    with how.pipeline(bundle) as pipeline:
        told("opening the stages", 0.0)
        counted: list[tuple[dict[str, StepWork], int]] = []

        def counting(analysis: Analysis) -> Analysis:
            written = write(analysis)
            if written.images is not None:
                counted.append(_counted(written, workload, out))
            return written

        (warm,) = samples(pipeline, [candidate], counting)
        captured = pipeline.captured()
        alone: list[Sample] = []
        latencies: list[float] = []
        for number in range(runs):
            told("one study at a time", number / runs)
            given = time.perf_counter()
            alone += samples(pipeline, [candidate], write)
            latencies.append(alone[-1].answered_s - given)
        told("studies in a row", 0.0)
        row = [*samples(pipeline, [candidate] * runs, write)]
        machine = machine_fingerprint()
    (work, gated) = counted[0]
    engine = warm.result.engine
    told("ceilings of this machine", 0.0)
    host, device = host_ceilings(), _device_ceilings(how, engine)
    rows, busy = roofline(alone, work, host, device), busy_lanes(row)
    slices = len(warm.result.slices)
    facts = Facts(
        slices,
        gated,
        workload.transfer_syntax,
        median(sample.enqueue_s for sample in alone) * 1e3,
        how.threads,
        cores(),
    )
    told("layers", 0.0)
    found = record(
        "onfh profile",
        command,
        settings={
            "series": workload.described(),
            "slices": slices,
            "gated": gated,
            "positive_fraction": positive_fraction,
            "engine": engine.model_dump(),
            "threads": how.threads,
            "graphs": how.graphs,
            "graphs_captured": captured,
            "runs": runs,
            "outputs_written": True,
        },
        results={
            "ceilings": [each.as_dict() for each in (host, device) if each is not None],
            "study": _study(alone, latencies),
            "roofline": [each.as_dict() for each in rows],
            "busy_lanes": busy,
            "bound": advice(rows, busy, engine, facts),
            "layers": layers_of(bundle, how, engine, {"classifier": slices, "segmenter": gated}),
        },
        does_not_measure=DOES_NOT_MEASURE,
        machine=machine,
    )
    return found, trace_from_samples(row)


def _study(alone: Sequence[Sample], latencies: Sequence[float]) -> dict[str, float]:
    """Where the time of one study alone goes; medians in ms."""
    return {
        "latency_ms": median(latencies) * 1e3,
        "in_steps_ms": median(sample.in_steps_s for sample in alone) * 1e3,
        "sum_of_steps_ms": median(sum(span.seconds for span in sample.spans) for sample in alone) * 1e3,
        "enqueue_ms": median(sample.enqueue_s for sample in alone) * 1e3,
    }


def _counted(analysis: Analysis, workload: Workload, out: Path) -> tuple[dict[str, StepWork], int]:
    """Bytes and operations of each step, and the slices that stage 2 saw."""
    gated = gated_count(analysis.result, workload.bundle.content.gate)
    folder = series_folder(out, analysis.result)
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    work = work_of_analysis(
        analysis, workload.bundle, gated=gated, file_bytes=workload.file_bytes, written_bytes=written
    )
    return work, gated


def _device_ceilings(how: How, engine: Engine) -> Ceilings | None:
    gpu = how.gpu_of(engine)
    if gpu is None:
        return None
    from onfh_runtime.device import open_device

    device = open_device(gpu)
    try:
        return device_ceilings(device, half=engine.precision != "fp32")
    finally:
        device.close()


def layers_of(bundle: LoadedBundle, how: How, engine: Engine, rows: Mapping[StageName, int]) -> dict[str, Any]:
    """Times of layers, from stages that are opened once more for this.

    Args:
        bundle: what is run.
        how: it was opened.
        engine: what computed.
        rows: slices that each stage saw.

    Returns:
        :func:`ort_layers` or :func:`tensorrt_layers` by stage, or why there are none, as ``absent``.

    Raises:
        BackendError: a stage cannot be opened or run.
    """
    if engine.backend == OrtBackend.name:
        return {stage: ort_layers(bundle, stage, threads=how.threads) for stage in rows}
    if engine.backend not in DEVICE_BACKENDS[:2]:
        return {"absent": f"{engine.backend} does not say what a layer takes where it runs."}
    from onfh_runtime.backends.on_device import open_device_stage
    from onfh_runtime.backends.trt_backend import TrtBackend
    from onfh_runtime.device import open_device

    found: dict[str, Any] = {}
    device = open_device(how.gpu)
    try:
        stream = device.stream()
        for stage, count in rows.items():
            with closing(open_device_stage(bundle, stage, engine.backend, device, stream, graphs=False)) as backend:
                assert isinstance(backend, TrtBackend)
                found[stage] = tensorrt_layers(backend, count, device=device, stream=stream)
    finally:
        device.close()
    return found
