"""How large and how small the values of a graph get on reference inputs: what half precision would lose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onfh_export.graph.halves import SMALLEST_NORMAL
from onfh_export.graph.insides import probes
from onfh_export.graph.precision import named
from onfh_export.graph.shapes import tensors_of

__all__ = ["Range", "activation_ranges"]

_TINY = SMALLEST_NORMAL["fp16"]
_SAME_VALUES = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that only move what they read: the range of their input is theirs."""

_PARTS = ("/max", "/min", "/sum", "/tiny")


@dataclass(frozen=True)
class Range:
    """What one tensor held, over all rows; of a weight, its finite values."""

    max_abs: float
    """The largest magnitude; infinite where there is an infinity or a NaN."""
    min_nonzero_abs: float
    """The smallest magnitude that is not zero; infinite when all are."""
    share_underflow: float
    """How much of the sum of all magnitudes lies in values below FP16's smallest normal number, 0..1.

    By magnitude and not by count: the many tiny probabilities of a sharp Softmax weigh nothing, while a tensor that
    lives at 1e-6 altogether has 1.
    """
    has_nan: bool
    constant: bool = False
    """A weight, the same for every patient."""


def activation_ranges(model: ModelProto, rows: NDArray[np.float32], *, batch: int = 1) -> dict[str, Range]:
    """The range of every FP32 tensor of a graph: inputs, weights, node outputs, and what is inside nodes.

    The latter have the keys of :func:`onfh_export.graph.insides.inside`, the others their names.

    The magnitudes are reduced within the graph, so only scalars leave ONNX Runtime, and one pass serves all tensors.

    Args:
        model: FP32, with one input; unchanged.
        rows: (N, C, H, W) float32, scaled and normalised as the stage reads them.
        batch: how many rows are run at once.
    """
    probed = ModelProto()
    probed.CopyFrom(model)
    named(probed)
    graph = probed.graph
    opset = next(entry.version for entry in probed.opset_import if entry.domain in ("", "ai.onnx"))
    tensors = {name: tensor for name, tensor in tensors_of(probed).items() if tensor.type == TensorProto.FLOAT}
    weights = {weight.name for weight in graph.initializer}
    origin: dict[str, str] = {}  # a moved tensor -> where its values come from
    measured = {value.name: value.name for value in graph.input if value.name in tensors.keys() - weights}
    for node in list(graph.node):
        for name in node.output:
            source = origin.get(node.input[0], node.input[0]) if node.input else ""
            if name in tensors and node.op_type in _SAME_VALUES and source in measured:
                origin[name] = source
            elif name in tensors:
                measured[name] = name
        given = tensors.get(node.input[0]) if node.input else None
        if given is not None and given.shape is not None:
            nodes, opened = probes(node, given.shape, opset)
            graph.node.extend(nodes)
            measured |= opened
    for name in measured.values():
        graph.node.extend(_reductions(name))
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(f"{name}{part}", TensorProto.FLOAT, [])
        for name in measured.values()
        for part in _PARTS
    )
    graph.initializer.extend(
        [_constant("range/tiny", _TINY), _constant("range/zero", 0.0), _constant("range/infinite", np.inf)]
    )
    found = _run(probed, rows, batch).reshape(-1, len(measured), len(_PARTS))
    ranges = {key: _range(found[:, place]) for place, key in enumerate(measured)}
    ranges |= {name: ranges[source] for name, source in origin.items()}
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            ranges[weight.name] = _range_of_weight(numpy_helper.to_array(weight))
    return ranges


def _run(model: ModelProto, rows: NDArray[np.float32], batch: int) -> NDArray[np.float64]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # A tensor is reduced soon after it is made and then freed: UperNet-Swin-T at 512 peaks at 2.4 GB instead of 4.2.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    found = [session.run(None, {given.name: rows[start : start + batch]}) for start in range(0, len(rows), batch)]
    return np.array(found, np.float64)


def _reductions(name: str) -> list[NodeProto]:
    """Four scalars of one tensor: largest and smallest nonzero magnitude, sum of magnitudes, and of the tiny ones."""
    magnitude, part = f"{name}/abs", f"{name}/part"
    return [
        helper.make_node("Abs", [name], [magnitude]),
        helper.make_node("ReduceMax", [magnitude], [f"{name}/max"], keepdims=0),
        helper.make_node("ReduceSum", [magnitude], [f"{name}/sum"], keepdims=0),
        helper.make_node("Equal", [magnitude, "range/zero"], [f"{name}/none"]),
        helper.make_node("Where", [f"{name}/none", "range/infinite", magnitude], [f"{name}/some"]),
        helper.make_node("ReduceMin", [f"{name}/some"], [f"{name}/min"], keepdims=0),
        helper.make_node("Less", [magnitude, "range/tiny"], [f"{name}/small"]),
        helper.make_node("Where", [f"{name}/small", magnitude, "range/zero"], [part]),
        helper.make_node("ReduceSum", [part], [f"{name}/tiny"], keepdims=0),
    ]


def _range(found: NDArray[np.float64], *, constant: bool = False) -> Range:
    """From (runs, 4) scalars, in the order of ``_PARTS``."""
    largest, smallest, total, tiny = found.T
    whole = total.sum()
    share = float(tiny.sum() / whole) if np.isfinite(whole) and whole > 0 else 0.0
    has_nan = bool(np.isnan(whole))
    return Range(
        max_abs=np.inf if has_nan else float(largest.max()),  # ReduceMax leaves open what it makes of a NaN
        min_nonzero_abs=float(np.nanmin(smallest, initial=np.inf)),
        share_underflow=share,
        has_nan=has_nan,
        constant=constant,
    )


def _range_of_weight(values: NDArray[np.float32]) -> Range:
    magnitude = np.abs(values[np.isfinite(values)].astype(np.float64))
    smallest = magnitude[magnitude > 0].min(initial=np.inf)
    tiny = magnitude[magnitude < _TINY].sum()
    parts = np.array([[magnitude.max(initial=0.0), smallest, magnitude.sum(), tiny]])
    return replace(_range(parts, constant=True), has_nan=bool(np.isnan(values).any()))


def _constant(name: str, value: float) -> TensorProto:
    return numpy_helper.from_array(np.array(value, np.float32), name)
