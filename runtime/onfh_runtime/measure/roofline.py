"""Bytes and operations of each step, held against what the machine can do: which step bounds a study, and by what.

Bytes and operations are the least that a step has to move and do, so a rate is what the step achieves of useful work
and its distance from the ceiling is what could be gained at most:

- read: the files, and the volume once.
- preprocess: the stored voxels once, the coronal stack and the stages' inputs once each; three operations a voxel
  (rescale, sum of the slab) and eight for each pixel of an input (two linear interpolations).
- classify, segment: the multiply-adds that export counted in the graph; weights once for each batch, inputs and logits
  once. What passes between layers is not counted.
- postprocess: the probability maps, and both masks once.
- write: the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from onfh_runtime.analysis import Analysis
from onfh_runtime.backends import DEVICE_BACKENDS
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.bundle import Graph, LoadedBundle, Stage
from onfh_runtime.measure.ceilings import Ceilings
from onfh_runtime.measure.runs import STEPS, Sample
from onfh_runtime.measure.trace import LANES, lane_of
from onfh_runtime.preprocess import plan_coronal
from onfh_runtime.timing import GPU_LANE

__all__ = ["Row", "StepWork", "busy_lanes", "roofline", "work_of_analysis"]

FAR = 0.25
"""Share of the nearer ceiling below which a step is bound by neither: what it waits for lies elsewhere."""

_BYTES: Mapping[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class StepWork:
    """Least bytes moved and operations done by a step on one series; operations are None where nothing was counted."""

    bytes: int
    operations: float | None


@dataclass(frozen=True)
class Row:
    """One step against its ceilings; shares are of 1.

    ``bound`` is ``memory`` or ``arithmetic``, the nearer ceiling, ``neither`` when the step is far from both, and
    ``unknown`` where it ran on another machine, whose ceilings nobody measured.
    """

    step: str
    on: str
    ms: float
    share: float
    gigabytes: float
    gigaoperations: float | None
    gb_s: float
    gflop_s: float | None
    of_copy: float | None
    of_product: float | None
    bound: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def work_of_analysis(
    analysis: Analysis, bundle: LoadedBundle, *, gated: int, file_bytes: int, written_bytes: int
) -> dict[str, StepWork]:
    """Count what each step has to do.

    Args:
        analysis: of the series, with its images.
        bundle: what analysed it.
        gated: slices that stage 2 saw.
        file_bytes: of the series.
        written_bytes: of its outputs.
    """
    images, engine, content = analysis.images, analysis.result.engine, bundle.content
    assert images is not None
    seen, voxels = len(analysis.result.slices), images.volume.voxels
    first, second = engine.precision.split("/")[0], engine.precision.split("/")[-1]
    coronal = math.prod(plan_coronal(images.volume, content.slice_spacing_mm).shape) * 4
    inputs = [_pixels(stage) * rows for stage, rows in ((content.classifier, seen), (content.segmenter, gated))]
    map_bytes = gated * math.prod(content.segmenter.input.size) * 4
    return {
        "read": StepWork(file_bytes + voxels.nbytes, None),
        "preprocess": StepWork(voxels.nbytes + coronal + 4 * sum(inputs), 3.0 * voxels.size + 8.0 * sum(inputs)),
        "classify": _stage_work(content.classifier, seen, 4 * seen, engine.backend, first),
        "segment": _stage_work(content.segmenter, gated, map_bytes, engine.backend, second),
        "postprocess": StepWork(map_bytes + images.mask.nbytes + images.volume_mask.nbytes, None),
        "write": StepWork(written_bytes, None),
    }


def roofline(
    taken: Sequence[Sample], work: Mapping[str, StepWork], host: Ceilings, device: Ceilings | None
) -> list[Row]:
    """Each step's achieved rates against the ceilings of what it ran on, in the order of the steps.

    Args:
        taken: at least one series; medians are used.
        work: from :func:`work_of_analysis`.
        host: ceilings of the host.
        device: ceilings of the GPU, for steps that ran there.
    """
    seconds = {step: median(sample.step_s(step) for sample in taken) for step in STEPS}
    total = sum(seconds.values())
    rows = []
    for step in STEPS:
        if not seconds[step]:
            continue
        on_gpu = device is not None and step in ("classify", "segment") and taken[0].step_s(step, GPU_LANE) > 0
        ceilings = device if on_gpu and device is not None else host
        elsewhere = step in ("classify", "segment") and taken[0].result.engine.backend.startswith("triton")
        rows.append(_row(step, seconds[step], total, work[step], ceilings, elsewhere=elsewhere))
    return rows


def busy_lanes(taken: Sequence[Sample]) -> dict[str, float]:
    """Share of the time, from the first step of all to the last, during which a kind of lane did something.

    The lane that is always busy bounds how many series are answered in a second.
    """
    spans = [(lane_of(span), span.start_s, span.stop_s) for sample in taken for span in sample.spans]
    begun, ended = min(start for _, start, _ in spans), max(stop for _, _, stop in spans)
    busy = {}
    for kind in LANES:
        reached = spent = 0.0
        for start, stop in sorted((start, stop) for lane, start, stop in spans if lane == kind):
            spent += max(0.0, stop - max(start, reached))
            reached = max(reached, stop)
        if spent:
            busy[kind] = spent / (ended - begun)
    return busy


def _row(step: str, seconds: float, total: float, work: StepWork, ceilings: Ceilings, *, elsewhere: bool) -> Row:
    gb_s = work.bytes / seconds / 1e9
    gflop_s = None if work.operations is None else work.operations / seconds / 1e9
    product = None if elsewhere else ceilings.product_gflop_s
    of_copy = None if elsewhere else gb_s / ceilings.copy_gb_s
    of_product = None if gflop_s is None or product is None else gflop_s / product
    return Row(
        step=step,
        on="another machine" if elsewhere else ceilings.of,
        ms=seconds * 1e3,
        share=seconds / total,
        gigabytes=work.bytes / 1e9,
        gigaoperations=None if work.operations is None else work.operations / 1e9,
        gb_s=gb_s,
        gflop_s=gflop_s,
        of_copy=of_copy,
        of_product=of_product,
        bound=_bound(of_copy, of_product),
    )


def _bound(of_copy: float | None, of_product: float | None) -> str:
    if of_copy is None:
        return "unknown"
    if max(of_copy, of_product or 0.0) < FAR:
        return "neither"
    return "arithmetic" if (of_product or 0.0) >= of_copy else "memory"


def _pixels(stage: Stage) -> int:
    return len(stage.input.windows) * math.prod(stage.input.size)


def _stage_work(stage: Stage, rows: int, output_bytes: int, backend: str, precision: str) -> StepWork:
    graph = _graph(stage, precision)
    limit = OrtBackend.batch_limit if backend == OrtBackend.name else None
    batches = math.ceil(rows / min(stage.max_batch, limit or stage.max_batch))
    stored = _BYTES.get(precision, 4)
    item = stored if backend in DEVICE_BACKENDS else 4
    weights = (graph.parameters if graph else 0) * stored * batches
    moved = weights + rows * _pixels(stage) * item + output_bytes
    return StepWork(moved, 2e9 * graph.gmac * rows if graph else None)


def _graph(stage: Stage, precision: str) -> Graph | None:
    """What export says of the graph that ran; another precision of it does the same operations."""
    ran = [graph for name, graph in stage.graphs.items() if name == precision]
    return next(iter([*ran, *stage.graphs.values()]), None)
