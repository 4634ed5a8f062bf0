"""An FP32 graph as TensorRT likes it: static shapes, constant masks, plain attention, and the same answers."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import optimizer

from onfh_export.graph.attention import rewrite_attention
from onfh_export.graph.known import Known
from onfh_export.graph.pooling import rewrite_pooling
from onfh_export.graph.settle import settle
from onfh_export.graph.tokens import rewrite_tokens
from onfh_runtime.errors import OnfhError

__all__ = ["ATTENTION_OPSET", "FORBIDDEN", "check_clean", "clean"]

ATTENTION_OPSET = 23
"""From here on attention is the standard operator; TensorRT reads it from 10.14 on."""
FORBIDDEN = frozenset(
    {
        "ConstantOfShape",
        "Dropout",
        "Equal",
        "Expand",
        "GatherND",
        "Identity",
        "If",
        "IsNaN",
        "Loop",
        "Not",
        "Shape",
        "Where",
    }
)
"""What a classifier or segmenter of static height and width can do without."""
_FOLDABLE = 2**24
"""Elements of a constant that folding may read or make (64 MB of float32)."""
_ROUNDS = 4


def clean(model: onnx.ModelProto, *, opset: int = 18) -> onnx.ModelProto:
    """Clean an FP32 graph, exactly up to the rounding of FP32 sums in another order.

    Args:
        model: any classifier or segmenter whose inputs are (batch, channels, height, width), only the batch symbolic;
            unchanged.
        opset: the version to write; from ``ATTENTION_OPSET`` on, attention becomes the Attention operator.

    Returns:
        A new model: the batch is called ``batch``, every shape that can be known is recorded, weights are inside,
        notes about its making are not.

    Raises:
        OnfhError: ``opset_unsupported`` when the model cannot be brought to ``opset``.
    """
    source = _opset_of(model)
    work = ir.from_proto(_converted(model, opset) if source < opset else model)
    _name_batch(work)
    optimizer.optimize(work, input_size_limit=_FOLDABLE, output_size_limit=_FOLDABLE)
    for _ in range(_ROUNDS):  # a settled shape may decide an If, whose branch holds further shapes
        count = work.graph.num_nodes()
        _tidy(work)
        settle(work)
        if work.graph.num_nodes() == count:
            break
    _tidy(work)
    rewrite_pooling(work)
    rewrite_tokens(work)
    rewrite_attention(work, operator=opset >= ATTENTION_OPSET)
    _tidy(work)
    settle(work)
    optimizer.optimize(work, input_size_limit=_FOLDABLE, output_size_limit=_FOLDABLE)
    _tidy(work)
    passes.ClearMetadataAndDocStringPass()(work)  # the exporter notes stack traces, with paths of its machine
    _record_shapes(work)
    result = ir.to_proto(work)
    return _converted(result, opset) if source > opset else result


def check_clean(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes, subgraphs apart, whose operators a clean graph does without; best empty."""
    return [f"{node.op_type} {node.name or node.output[0]}" for node in model.graph.node if node.op_type in FORBIDDEN]


def _opset_of(model: onnx.ModelProto) -> int:
    return next((int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # RuntimeError, ConvertError or a checker's error, by operator
        raise OnfhError(
            "opset_unsupported",
            f"A graph of opset {_opset_of(model)} cannot be brought to opset {opset}: "
            "the converter knows no way for one of its operators.",
            f"Ask for the graph's own: --opset {_opset_of(model)}.",
        ) from error


def _name_batch(model: ir.Model) -> None:
    for value in model.graph.inputs:
        if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
            value.shape = ir.Shape(["batch", *value.shape[1:]])


def _tidy(model: ir.Model) -> None:
    """Fold constants, merge what is equal, drop what nothing reads."""
    optimizer.fold_constants(model, input_size_limit=_FOLDABLE, output_size_limit=_FOLDABLE)
    for step in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True),
        passes.IdentityEliminationPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.NameFixPass(),
    ):
        step(model)


def _record_shapes(model: ir.Model) -> None:
    known = Known(model)
    for node in model.graph:
        for output in node.outputs:
            shape = known.symbolic(output)
            if shape is not None:
                output.shape = shape
