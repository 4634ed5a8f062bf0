"""Two trained stages become a bundle: the order of an export."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from pydantic import JsonValue

from onfh_export.config import SOURCE_FIELDS
from onfh_export.export_card import export_card
from onfh_export.graph.precision import Io
from onfh_export.int8_classifier import int8_classifier_from_float
from onfh_export.onnx_export import INPUT_NAME, OUTPUT_NAME
from onfh_export.parity import Parity
from onfh_export.parity_limits import Breach, breaches
from onfh_export.parity_plot import parity_plot
from onfh_export.parity_report import (
    breach_line,
    parity_document,
    parity_section,
    parity_table,
    says_little,
)
from onfh_export.phases import Phases
from onfh_export.plans import engines_here, requested_plans, write_plans
from onfh_export.reduction import INT8_COLUMN, Reduced, compared, reduced_and_compared
from onfh_export.reference import Reference, reference_studies
from onfh_export.sources import Source, open_source
from onfh_export.stage_graph import STAGES, FloatStage, float_stage, graph_of
from onfh_export.write_bundle import new_bundle, seal_bundle, validated
from onfh_runtime.bundle import (
    SCHEMA,
    Bundle,
    Graph,
    LoadedBundle,
    ModelPrecision,
    Precision,
    StageName,
    load_bundle,
)
from onfh_runtime.engines import EngineOptions
from onfh_runtime.errors import BackendError, OnfhError

__all__ = ["ExportOptions", "StageRequest", "bundle_from_stages", "draft_bundle", "open_stage_source"]

_SLICES, _GATED = 25, 10
"""Of a study: what is classified and what reaches stage 2, to estimate what a study costs."""
_PARITY_GMAC = 4000.0
"""Work of one column of the parity gate that is worth its minutes on two cores."""
_PHANTOMS = (2, 12)
_MOSTLY = 0.5
"""Least share of half activations of a graph that is called half."""
_PICTURE = "parity.png"


@dataclass(frozen=True)
class StageRequest:
    """A stage as its user names it; see :func:`~onfh_export.sources.open_source`."""

    source: str
    weights: Path | None = None


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        precision: of the reduced graph; "fp32" makes none.
        io: type of the reduced graph's input and output.
        opset: of the ONNX files.
        rewrites: whether to make stages cheaper by exact rewrites.
        reference: folder of studies for the parity gate; None for phantoms.
        phantoms: how many; None for 12, or fewer when the stages are large.
        classifier_int8: whether to write the classifier with INT8 weights as well, which a CPU then runs.
        accept_drift: write the bundle even if a parity limit is breached; it is recorded.
        flavours: TensorRT flavours to build plans with.
        targets: compute capabilities to build for; empty for the GPU of this machine.
        engine: how to build them; None for one profile from 1 to each stage's largest batch.
        force: replace a bundle that is already there.
    """

    precision: Precision = "fp16"
    io: Io = "fp32"
    opset: int = 18
    rewrites: bool = True
    classifier_int8: bool = False
    reference: Path | None = None
    phantoms: int | None = None
    accept_drift: bool = False
    flavours: Sequence[str] = ()
    targets: Sequence[str] = ()
    engine: EngineOptions | None = None
    force: bool = False


def bundle_from_stages(
    requests: Mapping[StageName, StageRequest],
    config: Mapping[str, Any],
    out: Path,
    options: ExportOptions | None = None,
    *,
    card: str | None = None,
    phases: Phases | None = None,
) -> LoadedBundle:
    """Export two stages, prove that no clinical answer changed, and write the bundle.

    Everything is made in a temporary folder beside ``out`` and renamed when it is whole; on any failure, what was at
    ``out`` is left as it was.

    Args:
        requests: both stages.
        config: from :func:`~onfh_export.config.read_config`.
        out: the bundle's folder.
        options: how; None for all defaults.
        card: text of the model card, to which the parity section is added; None writes a short one.
        phases: told of every phase.

    Raises:
        UsageError: an input is unusable.
        OutputError: ``bundle_exists`` or ``output_unwritable``.
        MissingExtraError: ``flavour_missing``.
        BackendError: a plan could not be built.
        OnfhError: ``onnx_mismatch``, ``precision_unreachable`` or ``parity_breached``.
    """
    options, phases = options or ExportOptions(), phases or Phases()
    out = out.resolve()
    plans = requested_plans(options.flavours, options.targets)
    rules = draft_bundle(config)
    with new_bundle(out, force=options.force) as folder, tempfile.TemporaryDirectory(prefix="onfh-export-") as work:
        scratch = Path(work)
        with phases.phase("read both sources"):
            sources = {stage: open_stage_source(stage, requests[stage], config, rules) for stage in STAGES}
        stages: dict[StageName, FloatStage] = {}
        for stage in STAGES:
            with phases.phase(f"{stage}: FP32 graph"):
                stages[stage] = float_stage(
                    stage,
                    sources[stage],
                    rules.classifier if stage == "classifier" else rules.segmenter,
                    folder / stage / "model.onnx",
                    scratch,
                    opset=options.opset,
                    rewrites=options.rewrites,
                )
            for note in stages[stage].notes:
                phases.say(f"  {note}")
        rules = rules.model_copy(update={stage: made.spec for stage, made in stages.items()})
        with phases.phase("reference studies"):
            count = options.phantoms or _phantoms(stages)
            reference = reference_studies(options.reference, rules, count=count, progress=phases.step)
        phases.say(f"  {_described(reference)}")
        int8 = None
        if options.classifier_int8:
            int8 = folder / "classifier" / "model.int8.onnx"
            with phases.phase("classifier: INT8 weights"):
                said = int8_classifier_from_float(stages["classifier"].path, int8, rules, reference.studies)
            phases.say(f"  {said}")
        reduced = None
        if options.precision == "fp32":
            with phases.phase("parity on the reference"):
                parity = compared(stages, rules, reference, phases, int8=int8)
        else:
            reduced, parity = reduced_and_compared(
                folder,
                scratch,
                stages,
                rules,
                reference,
                precision=options.precision,
                io=options.io,
                int8=int8,
                phases=phases,
            )
        found = _judged(parity, rules, options, phases)
        rules = _finished(rules, sources, stages, reduced, int8)
        _require_half(rules, options.precision)
        if reduced is not None:
            for stage, islands in reduced.islands.items():
                more = "" if islands.minimal else "; the search ran out of trials, fewer might do"
                phases.say(f"{stage}: {len(islands.keep)} node(s) stay FP32, found in {islands.trials} trial(s){more}")
        write_plans(folder, plans, rules, options.precision, options.engine, phases)
        asked = _with_engines(folder, stages, rules, reference, reduced, int8, phases)
        if asked is not None:
            parity = asked
            found = _judged(parity, rules, options, phases)
        if found:
            notice = "Exported although parity limits were breached; parity.json says which."
            rules = rules.model_copy(update={"notices": (*rules.notices, notice)})
        with phases.phase("model card and hashes"):
            document = parity_document(parity, reference, rules, found, drift_accepted=options.accept_drift)
            _write_json(folder / "parity.json", document)
            parity_plot(parity, rules, folder / _PICTURE)
            section = parity_section(
                parity, reference, rules.parity, found, drift_accepted=options.accept_drift, picture=_PICTURE
            )
            text = f"{(card or export_card(rules)).rstrip()}\n\n{section}"
            (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")
            seal_bundle(folder, rules.model_dump(mode="json", by_alias=True))
    return load_bundle(out)


def draft_bundle(config: Mapping[str, Any]) -> Bundle:
    """The bundle as far as the configuration knows it, FP32 graphs where export puts them.

    Raises:
        UsageError: ``config_invalid``.
    """
    content = {**config, "schema": SCHEMA, "files": {}}
    for stage in STAGES:
        given = {name: value for name, value in config[stage].items() if name not in SOURCE_FIELDS}
        content[stage] = {
            **given,
            "architecture": "",
            "models": {"fp32": f"{stage}/model.onnx"},
            "input_name": INPUT_NAME,
            "output_name": OUTPUT_NAME,
        }
    return validated(content)


def open_stage_source(stage: StageName, request: StageRequest, config: Mapping[str, Any], rules: Bundle) -> Source:
    """Read a stage's source and hold it against the configuration; raises what :func:`open_source` raises."""
    spec = rules.classifier if stage == "classifier" else rules.segmenter
    return open_source(
        request.source,
        stage=stage,
        spec=spec.input,
        activation=spec.activation,
        positive_class=spec.positive_class,
        output=config[stage].get("output"),
        weights=request.weights,
        factory_arguments=config[stage].get("factory_arguments"),
    )


def _phantoms(stages: Mapping[StageName, FloatStage]) -> int:
    """Twelve, or fewer where one column would take too long; even, so that half of them have a lesion."""
    study = _SLICES * stages["classifier"].graph.gmac + _GATED * stages["segmenter"].graph.gmac
    return int(np.clip(_PARITY_GMAC / max(study, 1e-3), *_PHANTOMS)) // 2 * 2


def _described(reference: Reference) -> str:
    slices = sum(len(study.prepared.seen.hu) for study in reference.studies)
    refused = sum(reference.refused.values())
    what = (
        "phantoms (--phantoms N for more, --reference DIR for studies)" if reference.kind == "phantoms" else "studies"
    )
    return f"{len(reference.studies)} {what}, {slices} slices" + (f", {refused} series refused" if refused else "")


def _judged(parity: Parity, rules: Bundle, options: ExportOptions, phases: Phases) -> tuple[Breach, ...]:
    """Show the comparison and return its breaches; raise them unless they are accepted."""
    phases.say(parity_table(parity, rules.parity).rstrip())
    for sentence in says_little(parity, rules.parity):
        phases.say(f"! {sentence}")
    found = breaches(parity, rules.parity)
    if found and not options.accept_drift:
        raise _breached(found, options.precision)
    return found


def _with_engines(
    folder: Path,
    stages: Mapping[StageName, FloatStage],
    rules: Bundle,
    reference: Reference,
    reduced: Reduced | None,
    int8: Path | None,
    phases: Phases,
) -> Parity | None:
    """The comparison once more with the engines that run on this machine; None where there is none, or none opens."""
    try:
        engines = engines_here(folder)
        if not engines:
            return None
        with phases.phase("parity of the engines"):
            emulations = reduced.emulations if reduced is not None else None
            precision = reduced.precision if reduced is not None else "fp16"
            return compared(
                stages,
                rules,
                reference,
                phases,
                emulations=emulations,
                precision=precision,
                int8=int8,
                engines=engines,
            )
    except BackendError as error:
        phases.say(f"! The engines were not asked: {error}")
        return None


def _breached(found: Sequence[Breach], precision: Precision) -> OnfhError:
    lines = " ".join(breach_line(breach) for breach in found)
    columns = {breach.column for breach in found}
    return OnfhError(
        "parity_breached",
        f"The export changed answers beyond the limits of the configuration, and no bundle was written. {lines}",
        ("Leave out --classifier-int8. " if INT8_COLUMN in columns else "")
        + ("Try --precision fp32. " if precision != "fp32" and columns != {INT8_COLUMN} else "")
        + "Change the limits under `parity`, or take it with --accept-drift, which is recorded.",
    )


def _require_half(rules: Bundle, precision: Precision) -> None:
    """Refuse a half graph that is half in name only."""
    for name, stage in (("classifier", rules.classifier), ("segmenter", rules.segmenter)):
        if precision != "fp32" and (share := stage.graphs[precision].half_share) < _MOSTLY:
            raise OnfhError(
                "not_mostly_half",
                f"To keep the parity limits, {1 - share:.0%} of the {name}'s activations had to stay FP32.",
                "Relax the limits under `parity`, try --precision bf16, or export --precision fp32.",
            )


def _finished(
    rules: Bundle,
    sources: Mapping[StageName, Source],
    stages: Mapping[StageName, FloatStage],
    reduced: Reduced | None,
    int8: Path | None,
) -> Bundle:
    """The bundle's content with what export found out."""
    changes: dict[str, Any] = {}
    for stage in STAGES:
        models: dict[ModelPrecision, str] = {"fp32": f"{stage}/model.onnx"}
        graphs: dict[ModelPrecision, Graph] = {"fp32": stages[stage].graph}
        rewrites = stages[stage].graph.rewrites
        if reduced is not None:
            models[reduced.precision] = f"{stage}/{reduced.paths[stage].name}"
            half = onnx.load(reduced.paths[stage])
            graphs[reduced.precision] = graph_of(half, islands=reduced.islands[stage], rewrites=rewrites)
        if stage == "classifier" and int8 is not None:
            models["int8"] = f"{stage}/{int8.name}"
            graphs["int8"] = graph_of(onnx.load(int8), rewrites=rewrites)
        changes[stage] = stages[stage].spec.model_copy(
            update={"architecture": sources[stage].architecture, "models": models, "graphs": graphs}
        )
    return rules.model_copy(update=changes)


def _write_json(path: Path, content: Mapping[str, JsonValue]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
