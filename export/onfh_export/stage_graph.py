"""One stage's FP32 graph: exported, cleaned, made cheaper where that is exact, and held against its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from onfh_export.graph.clean import check_clean, clean
from onfh_export.graph.facts import graph_facts
from onfh_export.graph.islands import Islands
from onfh_export.graph.single_logit import single_logit
from onfh_export.graph.upernet import mix_channels_early
from onfh_export.onnx_export import INPUT_NAME, OUTPUT_NAME, check_onnx, check_same_rows, onnx_from_network
from onfh_export.sources import Source
from onfh_export.torch_backend import TorchBackend
from onfh_runtime.backends import StageBackend
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.bundle import Graph, Island, Stage, StageName

__all__ = ["STAGES", "FloatStage", "float_stage", "graph_of"]

STAGES: tuple[StageName, ...] = ("classifier", "segmenter")


@dataclass(frozen=True)
class FloatStage:
    """A stage's FP32 ONNX file and the source it came from.

    Attributes:
        path: the file.
        spec: the stage of the bundle; its activation is that of the file.
        source_spec: the same for the source, which may have two logits where the file has one.
        source: opens the source as a backend.
        graph: what the file holds.
        notes: what happened to it, one sentence each.
    """

    path: Path
    spec: Stage
    source_spec: Stage
    source: Callable[[], StageBackend]
    graph: Graph
    notes: tuple[str, ...]


def float_stage(
    stage: StageName, source: Source, spec: Stage, path: Path, scratch: Path, *, opset: int, rewrites: bool
) -> FloatStage:
    """Write a stage's FP32 graph.

    Args:
        stage: which.
        source: from :func:`~onfh_export.sources.open_source`.
        spec: the stage as the configuration says.
        path: the file to write.
        scratch: folder that outlives the export; holds the source where that is an ONNX file.
        opset: of the file.
        rewrites: mix channels early and merge two logits where that applies.

    Raises:
        OnfhError: ``onnx_mismatch`` when the file does not answer as its source does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    (scratch / stage).mkdir(parents=True, exist_ok=True)
    shape = (len(spec.input.windows), *spec.input.size)
    given = scratch / stage / "source.onnx"
    if source.network is not None:
        model = onnx_from_network(source.network, shape, opset=opset)
    else:
        assert source.model is not None
        onnx.save(source.model, given)
        model = clean(source.model, opset=opset)
    notes = list(source.notes)
    if left := check_clean(model):
        notes.append(f"{len(left)} node(s) are left that TensorRT does not fuse: {', '.join(left[:5])}.")
    applied: dict[str, str] = {}
    if rewrites:
        model, mixed = mix_channels_early(model)
        if mixed:
            applied["channels mixed before upsampling"] = "; ".join(mixed)
    made = spec
    expected: Callable[[NDArray[np.float32]], NDArray[np.float32]] = np.asarray
    if rewrites and spec.activation == "softmax":
        merged = single_logit(model, positive_class=spec.positive_class)
        if merged is not None:
            model = merged
            made = spec.model_copy(update={"activation": "sigmoid", "positive_class": 0})
            expected = partial(_difference, positive_class=spec.positive_class)
            applied["two logits merged"] = "one output channel instead of two"
    onnx.save(model, path)
    if source.network is not None:
        worst = check_onnx(path, source.network, shape, max_batch=spec.max_batch, expected=expected)
    else:
        worst = check_same_rows(given, path, shape, max_batch=spec.max_batch, expected=expected)
    notes.append(f"The graph and its source differ by at most {worst:.1e} of a logit.")
    notes += [f"{name}: {figure}" for name, figure in applied.items()]

    def opened() -> StageBackend:
        if source.network is not None:
            return TorchBackend(source.network, shape, input_name=INPUT_NAME, output_name=OUTPUT_NAME)
        return OrtBackend(given, precision="fp32")

    return FloatStage(path, made, spec, opened, graph_of(model, rewrites=applied), tuple(notes))


def graph_of(
    model: onnx.ModelProto, *, islands: Islands | None = None, rewrites: dict[str, str] | None = None
) -> Graph:
    """What the bundle says of an ONNX file."""
    facts = graph_facts(model)
    operators = {node.name: node.op_type for node in model.graph.node}
    kept = islands.keep if islands is not None else {}
    return Graph(
        opset=facts.opset,
        nodes=facts.nodes,
        operators=facts.operators,
        parameters=facts.parameters,
        gmac=round(facts.gmac, 4),
        half_share=round(facts.half_share, 4),
        islands=tuple(Island(node=name, operator=operators.get(name, ""), reason=why) for name, why in kept.items()),
        rewrites=rewrites or {},
    )


def _difference(logits: NDArray[np.float32], positive_class: int) -> NDArray[np.float32]:
    """(batch, 2, ...) logits of a softmax -> (batch, 1, ...), the one logit of a sigmoid that says the same."""
    positive, other = logits[:, positive_class], logits[:, 1 - positive_class]
    return (positive - other)[:, None]
