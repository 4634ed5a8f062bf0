"""What every tensor of an ONNX graph is: its element type and its shape."""

from __future__ import annotations

import math
from typing import NamedTuple

import onnx
from onnx import GraphProto, ModelProto, TensorProto

__all__ = ["FLOATS", "Tensor", "skeleton", "tensors_of"]

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
"""Element types that count as floating point here."""
_WEIGHTS = FLOATS | {TensorProto.INT8, TensorProto.UINT8}
_SMALL = 64
"""Elements; the values of such constants (scales, sizes) decide shapes, those of larger ones are weights."""


class Tensor(NamedTuple):
    """Element type (a value of ``TensorProto.DataType``) and shape; ``shape`` is None, or has None, where unknown."""

    type: int
    shape: tuple[int | None, ...] | None

    @property
    def size(self) -> int | None:
        """Elements, where the whole shape is known."""
        if self.shape is None or None in self.shape:
            return None
        return math.prod(dim or 0 for dim in self.shape)


def skeleton(model: ModelProto) -> ModelProto:
    """A copy of the model without the values of its large weights: cheap to make, to change and to infer shapes on."""
    source = model.graph
    copy = ModelProto(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        opset_import=model.opset_import,
        metadata_props=model.metadata_props,
        functions=model.functions,
        graph=GraphProto(
            name=source.name,
            node=source.node,
            input=source.input,
            output=source.output,
            value_info=source.value_info,
            sparse_initializer=source.sparse_initializer,
        ),
    )
    for weight in source.initializer:
        if weight.data_type in _WEIGHTS and math.prod(weight.dims) > _SMALL:
            copy.graph.initializer.add(name=weight.name, data_type=weight.data_type, dims=weight.dims)
        else:
            copy.graph.initializer.append(weight)
    return copy


def tensors_of(model: ModelProto, *, batch: int | None = None) -> dict[str, Tensor]:
    """Element type and shape of every input, constant and node output whose type can be inferred.

    Args:
        model: any ONNX model; unchanged.
        batch: what the symbolic dimensions of the inputs stand for; None leaves them unknown.
    """
    light = skeleton(model)
    graph = light.graph
    if batch is not None:
        symbols = set()
        for value in graph.input:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    symbols.add(dim.dim_param)
                    dim.dim_value = batch
        for value in (*graph.value_info, *graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in symbols:
                    dim.dim_value = batch
                elif dim.dim_param:  # an expression such as "49*batch": to be inferred anew
                    dim.Clear()
    graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    found = {weight.name: Tensor(weight.data_type, tuple(weight.dims)) for weight in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type"):
            kind = value.type.tensor_type
            shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
            found[value.name] = Tensor(kind.elem_type, shape if kind.HasField("shape") else None)
    return found
