"""Reading an ONNX file that anyone may have made: whole, of known operators, FP32, nothing outside its folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from onfh_runtime.errors import UsageError

__all__ = ["fp32_model_from_file", "opset_of", "unreadable"]

_REDUCED = {
    value: name
    for name, value in TensorProto.DataType.items()
    if name.startswith(("FLOAT", "BFLOAT")) and value != TensorProto.FLOAT
}
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
_NAMED = 5
"""Operators an error lists by name."""


def fp32_model_from_file(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its weights inside and its functions inlined.

    Raises:
        UsageError: ``onnx_unreadable``, ``onnx_path_escapes`` for weights outside the file's folder,
            ``operator_unsupported`` for what ONNX itself does not define, ``opset_unsupported`` for a newer ONNX than
            the one installed, ``onnx_not_fp32`` or ``weights_not_finite``.
    """
    model = _read(path)
    _refuse_unknown_operators(model, path)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker's own class, or ValueError above 2 GB
        raise unreadable(path, error) from error
    _refuse_other_precisions(model, path)
    _refuse_not_a_number(model, path)
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that the model is written in."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def unreadable(path: Path, error: object) -> UsageError:
    """The error ``onnx_unreadable``; ``error`` says why in its first line."""
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return UsageError("onnx_unreadable", f"{path} is no usable ONNX file ({reason}).", "Copy or export it again.")


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises its own classes
        raise unreadable(path, error) from error
    if not model.graph.node or not model.opset_import:
        raise unreadable(path, "it holds no graph")
    folder = path.parent.resolve()
    for tensor in filter(uses_external_data, _tensors(model)):
        name = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        pure = (PurePosixPath(name), PureWindowsPath(name))
        outside = any(part.is_absolute() or part.drive or ".." in part.parts for part in pure)
        if outside or not (folder / name).resolve().is_relative_to(folder):
            raise UsageError(
                "onnx_path_escapes",
                f"{path} keeps {tensor.name} in {name!r}, outside its own folder.",
                "Save the model with its weights inside or beside it.",
            )
        try:
            load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:  # onnx raises its own classes beside OSError and ValueError
            raise unreadable(path, f"its weights in {name!r} cannot be read") from error
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as error:
            raise unreadable(path, error) from error
    return model


def _refuse_unknown_operators(model: onnx.ModelProto, path: Path) -> None:
    version = opset_of(model)
    if version > onnx.defs.onnx_opset_version():
        raise UsageError(
            "opset_unsupported",
            f"{path} is written in opset {version}, the installed ONNX ends at {onnx.defs.onnx_opset_version()}.",
            "Export it again at opset 17 to 20.",
        )
    unknown = set()
    for node in _nodes(model):
        if node.domain not in ("", "ai.onnx"):
            unknown.add(f"{node.domain}.{node.op_type}")
        elif not onnx.defs.has(node.op_type, version):
            unknown.add(node.op_type)
    if unknown:
        raise UsageError(
            "operator_unsupported",
            f"{path} uses {', '.join(sorted(unknown)[:_NAMED])}, which ONNX at opset {version} does not define.",
            "Export it again with operators of ONNX itself, before any optimizer.",
        )


def _refuse_other_precisions(model: onnx.ModelProto, path: Path) -> None:
    """Whole numbers and booleans index and mask; every other number must be a 32-bit float."""
    types = {tensor.data_type for tensor in _tensors(model)}
    types |= {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    types |= {a.i for node in _nodes(model) if node.op_type == "Cast" for a in node.attribute if a.name == "to"}
    found = {_REDUCED[value] for value in types & set(_REDUCED)}
    found |= {
        node.op_type for node in _nodes(model) if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear")
    }
    if found:
        raise UsageError(
            "onnx_not_fp32",
            f"{path} is not an FP32 graph (it holds {', '.join(sorted(found))}).",
            "Export it in FP32: onfh finds out what may run in half precision.",
        )


def _refuse_not_a_number(model: onnx.ModelProto, path: Path) -> None:
    """Infinity passes: masks hold it. A weight that is infinite shows in the answer."""
    for tensor in _tensors(model):
        if tensor.data_type == TensorProto.FLOAT and np.isnan(numpy_helper.to_array(tensor)).any():
            raise UsageError(
                "weights_not_finite",
                f"{path} holds NaN in {tensor.name or 'a constant'}.",
                "Its training diverged: name an earlier checkpoint.",
            )


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of branches, loops and functions too."""
    waiting = [model.graph.node, *(function.node for function in model.functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                waiting += [graph.node for graph in (attribute.g, *attribute.graphs) if graph.node]


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant, those of branches, loops and functions too."""
    yield from _initializers([model.graph])
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            yield from attribute.tensors
            yield from _initializers([attribute.g, *attribute.graphs])


def _initializers(graphs: Iterable[onnx.GraphProto]) -> Iterator[onnx.TensorProto]:
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
