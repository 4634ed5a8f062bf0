"""An ONNX file from anywhere as a stage's FP32 graph: read safely, reduced to one input and one output, proved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_ir.passes import common

from onfh_export.onnx_export import INPUT_NAME, OUTPUT_NAME, TOLERANCE
from onfh_export.onnx_file import fp32_model_from_file, opset_of, unreadable
from onfh_export.stage_needs import StageNeeds
from onfh_runtime.errors import UsageError

__all__ = ["model_from_onnx_file"]

_OPSETS = range(17, 21)
"""What every parser this project targets reads; JetPack 6's TensorRT 10.3 ends at 20."""
_PROBABILITIES = frozenset({"Sigmoid", "Softmax"})
_PASSES_ON = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that move numbers and change none."""
_MAX_IR = 10
"""ONNX Runtime 1.20, the oldest the runtime takes, reads no newer file format."""


def model_from_onnx_file(
    path: Path, needs: StageNeeds, output: str | None = None
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Read an ONNX file as a stage.

    The graph that comes back has one float input ``pixel_values`` (batch, C, H, W) and one float output ``logits``,
    opset 17 to 20, no functions, its weights inside, no notes of the machine it was made on. Its batch is a symbol,
    also where the file fixed it, and rows answer alone as they do in batches of 2 and 3.

    Args:
        path: the file; weights beside it must lie in its folder or below.
        needs: what the configuration says.
        output: which output to keep; ``logits``, or the only one, when None.

    Returns:
        The graph, and one sentence for each thing that was changed.

    Raises:
        UsageError: what :func:`~onfh_export.onnx_file.fp32_model_from_file` raises; ``opset_unsupported``,
            ``weights_not_finite``, ``shape_not_static``, ``output_unknown``, ``stage_mismatch`` or ``batch_is_fixed``.
    """
    model = fp32_model_from_file(path)
    model, notes = _single_output(model, path, output)
    batch = _check_input(model, path, needs)
    _check_logits(model, path, needs)
    rows = np.random.default_rng(0).standard_normal((max(batch, 2), *needs.shape), np.float32)
    asked = rows[: batch or 1]
    before = _answer(_session(model, path), asked, path)
    if before.dtype != np.float32:
        raise needs.mismatch(f"{path} answers with {before.dtype}, a {needs.stage} with float32")
    if not np.isfinite(before).all():
        raise UsageError("weights_not_finite", f"{path} answers NaN or infinity.", "Name an earlier checkpoint.")
    needs.check_output(str(path), before.shape[1:])
    converted = _converted(model, path)
    if converted is not model:
        notes = (*notes, f"Converted from opset {opset_of(model)} to {opset_of(converted)}.")
        if not _alike(_answer(_session(converted, path), asked, path), before):
            raise _opset_unsupported(path, opset_of(model))
    free = _with_symbolic_batch(converted, before.shape[1:])
    _prove(free, path, rows[:1], rows[1:2], before[:1])
    return free, (*notes, f"The batch was fixed at {batch} and is a symbol now.") if batch else notes


def _single_output(model: onnx.ModelProto, path: Path, output: str | None) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The part of the graph that one output needs, under our names."""
    names = [value.name for value in model.graph.output]
    wanted = output or (names[0] if len(names) == 1 else OUTPUT_NAME)
    if wanted not in names:
        raise UsageError(
            "output_unknown",
            f"{path} has the outputs {', '.join(names)}, none is {wanted}.",
            "Set the stage's output in the configuration to one of them.",
        )
    graph_of = onnx_ir.from_proto(model)
    graph = graph_of.graph
    (kept,) = (value for value in graph.outputs if value.name == wanted)
    graph.outputs[:] = [kept]
    common.RemoveInitializersFromInputsPass()(graph_of)
    common.RemoveUnusedNodesPass()(graph_of)
    common.RemoveUnusedOpsetsPass()(graph_of)
    common.ClearMetadataAndDocStringPass()(graph_of)
    graph.inputs[:] = [value for value in graph.inputs if value.uses()]
    if len(graph.inputs) == 1:
        ours = {id(graph.inputs[0]): INPUT_NAME, id(kept): OUTPUT_NAME}
        for value in _values(graph):
            if id(value) not in ours and value.name in (INPUT_NAME, OUTPUT_NAME):
                value.name = f"{value.name}_inside"
        graph.inputs[0].name, kept.name = INPUT_NAME, OUTPUT_NAME
    graph_of.metadata_props.clear()
    graph_of.doc_string = None
    single = onnx_ir.to_proto(graph_of)
    single.ir_version = min(max(single.ir_version, 8), _MAX_IR)
    dropped = [name for name in names if name != wanted]
    return single, (f"Of its outputs {wanted} was kept, not {', '.join(dropped)}.",) if dropped else ()


def _check_input(model: onnx.ModelProto, path: Path, needs: StageNeeds) -> int:
    """The batch the file fixes, 0 for a symbol."""
    if len(model.graph.input) != 1:
        names = ", ".join(value.name for value in model.graph.input) or "none"
        raise needs.mismatch(f"{path} takes {len(model.graph.input)} inputs ({names}), a stage takes one")
    given = model.graph.input[0].type.tensor_type
    dims = given.shape.dim
    if given.elem_type != TensorProto.FLOAT or len(dims) != 4:
        raise needs.mismatch(f"{path} does not take floats of four axes (batch, channels, height, width)")
    for name, dim in zip(("channels", "height", "width"), dims[1:], strict=False):
        if not dim.dim_value:
            raise UsageError(
                "shape_not_static",
                f"The {name} of {path} is the symbol {dim.dim_param or '?'}, not a number.",
                "Export it again with only the batch dynamic.",
            )
    needs.check_input(str(path), [dim.dim_value for dim in dims[1:]])
    return int(dims[0].dim_value)


def _check_logits(model: onnx.ModelProto, path: Path, needs: StageNeeds) -> None:
    """Refuse probabilities where the runtime would take them for logits and squeeze them once more."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(OUTPUT_NAME)
    while node is not None and node.op_type in _PASSES_ON:
        node = makers.get(node.input[0])
    if node is not None and node.op_type in _PROBABILITIES and needs.activation != "none":
        raise needs.mismatch(
            f"{path} answers with probabilities (its last operator is a {node.op_type}), and the configuration's "
            f"{needs.stage}.activation {needs.activation} takes logits",
            f"Set {needs.stage}.activation to none, or export the logits.",
        )


def _converted(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """``model`` itself where its opset will do, else a copy in the nearest that does."""
    nearest = min(max(opset_of(model), _OPSETS[0]), _OPSETS[-1])
    if nearest == opset_of(model):
        return model
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, nearest)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter raises bare RuntimeErrors, the checker its own
        raise _opset_unsupported(path, opset_of(model)) from error
    converted.ir_version = model.ir_version
    return converted


def _with_symbolic_batch(model: onnx.ModelProto, answer: tuple[int, ...]) -> onnx.ModelProto:
    """A copy whose batch is a symbol on both ends; ``answer`` is the shape of one row of the output."""
    free = onnx.ModelProto()
    free.CopyFrom(model)
    del free.graph.value_info[:]
    rows = [dim.dim_value for dim in free.graph.input[0].type.tensor_type.shape.dim[1:]]
    for value, shape in ((free.graph.input[0], rows), (free.graph.output[0], answer)):
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["batch", *shape]))
    return onnx.shape_inference.infer_shapes(free, data_prop=True)


def _prove(
    model: onnx.ModelProto,
    path: Path,
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    before: NDArray[np.float32],
) -> None:
    """Refuse a graph in which two rows answer otherwise than alone, or the first otherwise than ``before``."""
    try:
        session = _session(model, path)
        one, two = _answer(session, first, path), _answer(session, second, path)
        pair = _answer(session, np.concatenate([first, second]), path)
        three = _answer(session, np.concatenate([second, first, second]), path)
    except UsageError as error:
        raise _batch_is_fixed(path, "fails at some batch of 1 to 3") from error
    expected = ((one, before), (pair, np.concatenate([one, two])), (three, np.concatenate([two, one, two])))
    if not all(_alike(found, wanted) for found, wanted in expected):
        raise _batch_is_fixed(path, "answers a row otherwise when it comes with others")


def _session(model: onnx.ModelProto, path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own, undocumented classes
        raise unreadable(path, error) from error


def _answer(session: onnxruntime.InferenceSession, rows: NDArray[np.float32], path: Path) -> NDArray[Any]:
    try:
        answer: NDArray[Any] = session.run([OUTPUT_NAME], {INPUT_NAME: rows})[0]
    except Exception as error:  # onnxruntime raises its own, undocumented classes
        raise unreadable(path, error) from error
    return answer


def _alike(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def _values(graph: onnx_ir.Graph) -> Iterator[onnx_ir.Value]:
    """Every named value, those of branches and loops too."""
    yield from graph.inputs
    yield from list(graph.initializers.values())
    for node in graph.all_nodes():
        yield from node.outputs
        for attribute in node.attributes.values():
            if attribute.type == onnx_ir.AttributeType.GRAPH:
                inner = attribute.as_graph()
                yield from inner.inputs
                yield from list(inner.initializers.values())


def _batch_is_fixed(path: Path, what: str) -> UsageError:
    return UsageError(
        "batch_is_fixed",
        f"{path} {what}: its batch is baked in.",
        "Export it again with a dynamic batch (torch.onnx.export with dynamic_shapes).",
    )


def _opset_unsupported(path: Path, version: int) -> UsageError:
    return UsageError(
        "opset_unsupported",
        f"{path} is written in opset {version} and cannot be converted to {_OPSETS[0]} to {_OPSETS[-1]}.",
        f"Export it again at opset {_OPSETS[0]} to {_OPSETS[-1]}.",
    )
