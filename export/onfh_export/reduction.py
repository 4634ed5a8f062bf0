"""Both stages in a reduced precision, searched on a few rows and judged on whole studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from onfh_export.graph.islands import Islands, find_islands
from onfh_export.graph.precision import Io, emulated, half_from_float
from onfh_export.parity import Column, Parity, compare
from onfh_export.parity_limits import breaches
from onfh_export.phases import Phases
from onfh_export.reference import Reference, ReferenceStudy, sample_rows
from onfh_export.row_gate import row_gate
from onfh_export.stage_graph import STAGES, FloatStage
from onfh_runtime.backends import StageBackend
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.bundle import Bundle, ModelPrecision, Stage, StageName
from onfh_runtime.errors import BackendError, OnfhError
from onfh_runtime.preprocess import stage_input
from onfh_runtime.stages import StageRunner

__all__ = ["INT8_COLUMN", "Half", "Reduced", "compared", "reduced_and_compared"]

Half = Literal["fp16", "bf16"]
_ROWS_GMAC = 600.0
_ROWS = (4, 24)
"""Rows the search looks at: as many as so much work allows, within these bounds."""
_SEED = 0
INT8_COLUMN = "onnx int8/fp32"
"""What a CPU runs of a bundle with an INT8 classifier: that, and the FP32 segmenter."""


@dataclass(frozen=True)
class Reduced:
    """Both stages in a half precision.

    Attributes:
        precision: which.
        paths: the files in the bundle.
        emulations: the graphs that stand in for them on this CPU.
        islands: what stays FP32 in each.
    """

    precision: Half
    paths: dict[StageName, Path]
    emulations: dict[StageName, Path]
    islands: dict[StageName, Islands]


def reduced_and_compared(
    folder: Path,
    scratch: Path,
    stages: Mapping[StageName, FloatStage],
    rules: Bundle,
    reference: Reference,
    *,
    precision: Half,
    io: Io,
    int8: Path | None = None,
    phases: Phases,
) -> tuple[Reduced, Parity]:
    """Find the islands of both stages, write their half graphs, and take the reference through every column.

    The search sees a sample of rows. If whole studies breach a limit nevertheless, their rows are added and the search
    is run once more.

    Args:
        folder: of the bundle; gets ``<stage>/model.<precision>.onnx``.
        scratch: for the graphs that stand in for them on this CPU.
        stages: the FP32 graphs.
        rules: thresholds, and the limits the search has to keep.
        reference: the studies.
        precision: of everything that is no island.
        io: of the half graphs' inputs and outputs.
        int8: see :func:`compared`.
        phases: told of every phase.
    """
    rows = {stage: _rows(stage, stages, reference.studies) for stage in STAGES}
    before: dict[StageName, set[str]] = {}
    for last in (False, True):
        found: dict[StageName, Islands] = {}
        paths: dict[StageName, Path] = {}
        emulations: dict[StageName, Path] = {}
        for stage in STAGES:
            with phases.phase(f"{stage}: {precision} islands"):
                model = onnx.load(stages[stage].path)
                found[stage] = _islands(stage, model, rows[stage], stages[stage].spec, rules, precision, io, phases)
                keep = found[stage].keep
                paths[stage] = folder / stage / f"model.{precision}.onnx"
                emulations[stage] = scratch / stage / "emulated.onnx"
                emulations[stage].parent.mkdir(exist_ok=True)
                onnx.save(half_from_float(model, dtype=precision, keep=keep, io=io), paths[stage])
                _check_half(stage, paths[stage], precision)
                onnx.save(emulated(model, dtype=precision, keep=keep, io=io), emulations[stage])
        kept = {stage: set(islands.keep) for stage, islands in found.items()}
        if kept == before:  # the same graphs, so the same answers
            break
        before = kept
        with phases.phase("parity on the reference"):
            parity = compared(stages, rules, reference, phases, emulations=emulations, precision=precision, int8=int8)
        worst = _worth_another_search(parity, rules, reference)
        if last or not worst:
            break
        phases.say("  a limit is breached; the search is run again with slices of those studies")
        rows = {stage: np.concatenate([rows[stage], _rows(stage, stages, worst)]) for stage in STAGES}
    return Reduced(precision, paths, emulations, found), parity


def compared(
    stages: Mapping[StageName, FloatStage],
    rules: Bundle,
    reference: Reference,
    phases: Phases,
    *,
    emulations: Mapping[StageName, Path] | None = None,
    precision: Half = "fp16",
    int8: Path | None = None,
    engines: Mapping[str, Mapping[StageName, StageBackend]] | None = None,
) -> Parity:
    """Take the reference through every column: the sources, ONNX FP32, what stands in for the half graphs, and engines.

    Args:
        stages: the FP32 graphs and the sources they came from.
        rules: thresholds.
        reference: the studies.
        phases: told of the progress.
        emulations: for each stage the graph that stands in for its half graph on this CPU, if there is one.
        precision: of those.
        int8: the classifier with INT8 weights, if there is one.
        engines: for each column's name both stages, opened on this machine's GPU; closed at the end.
    """
    with ExitStack() as opened:
        sources = {
            stage: opened.enter_context(_running(stage, s.source_spec, s.source())) for stage, s in stages.items()
        }
        kinds = {runner.backend.name for runner in sources.values()}
        name = "torch fp32" if kinds == {"torch"} else "source fp32"
        columns = [Column(name, "reference", sources["classifier"], sources["segmenter"])]

        def on_cpu(stage: StageName, path: Path, precision: ModelPrecision) -> StageRunner:
            return opened.enter_context(_running(stage, stages[stage].spec, OrtBackend(path, precision=precision)))

        full = {stage: on_cpu(stage, made.path, "fp32") for stage, made in stages.items()}
        columns.append(Column("onnx fp32", "computed", full["classifier"], full["segmenter"]))
        if emulations is not None:
            half = {stage: on_cpu(stage, path, precision) for stage, path in emulations.items()}
            columns.append(Column(f"onnx {precision}", "emulated", half["classifier"], half["segmenter"]))
        if int8 is not None:
            eight = on_cpu("classifier", int8, "int8")
            columns.append(Column(INT8_COLUMN, "computed", eight, full["segmenter"]))
        for name, backends in (engines or {}).items():
            runners = {
                stage: opened.enter_context(_running(stage, stages[stage].spec, backend))
                for stage, backend in backends.items()
            }
            columns.append(Column(name, "engine", runners["classifier"], runners["segmenter"]))
        return compare(reference.studies, rules, columns, progress=phases.step)


@contextmanager
def _running(stage: StageName, spec: Stage, backend: StageBackend) -> Iterator[StageRunner]:
    try:
        yield StageRunner(stage, spec, backend)
    finally:
        backend.close()


def _rows(
    stage: StageName, stages: Mapping[StageName, FloatStage], studies: Sequence[ReferenceStudy]
) -> NDArray[np.float32]:
    """Rows of the stage's input; of studies without truth, those that stage 1 finds most positive come first."""
    made = stages[stage]
    least, most = _ROWS
    count = int(np.clip(_ROWS_GMAC / max(made.graph.gmac, 1e-3), least, most))
    scores = None
    if all(study.truth is None for study in studies):
        first = stages["classifier"]
        with _running("classifier", first.spec, OrtBackend(first.path, precision="fp32")) as runner:
            scores = [runner.probabilities(stage_input(study.prepared.seen, first.spec.input)) for study in studies]
    return sample_rows(studies, made.spec.input, count, _SEED, scores=scores)


def _islands(
    stage: StageName,
    model: onnx.ModelProto,
    rows: NDArray[np.float32],
    spec: Stage,
    rules: Bundle,
    precision: Half,
    io: Io,
    phases: Phases,
) -> Islands:
    threshold = rules.slice_threshold if stage == "classifier" else rules.mask_threshold
    gate = row_gate(rows, spec, stage, model, rules.parity, threshold)
    return find_islands(
        model, rows, gate, dtype=precision, io=io, progress=lambda line: phases.say(f"  {stage}: {line}")
    )


def _check_half(stage: StageName, path: Path, precision: Half) -> None:
    """See that the half file itself is valid, and for FP16 that it opens: only its stand-in is run on a CPU."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
        if precision == "fp16":  # the CPU provider has kernels for few BF16 operators
            OrtBackend(path, precision=precision).close()
    except (BackendError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise OnfhError("onnx_mismatch", f"The {precision} graph of the {stage} is not valid: {error}") from error


def _worth_another_search(parity: Parity, rules: Bundle, reference: Reference) -> list[ReferenceStudy]:
    """Studies whose breach by the half column more rows could show the search; an AUC belongs to no row."""
    half = {comparison.column.name for comparison in parity.comparisons if comparison.column.kind == "emulated"}
    names = {
        name
        for breach in breaches(parity, rules.parity)
        if breach.column in half and breach.limit != "auc_change"
        for name in breach.studies
    }
    return [study for study in reference.studies if study.label in names]
