"""What a graph computes whatever its pixels: shapes and constants, found by evaluating it at two batch sizes.

Everything that depends on nothing but shapes (reshape targets, attention masks, class tokens spread over the batch)
becomes a plain array once the batch is a number. What two batch sizes agree on does not depend on the batch, and what
grows with it grows in proportion. The proof that this holds for every batch is the comparison after the clean-up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

__all__ = ["BATCHES", "Known", "constant_of", "value_of"]

BATCHES = (2, 5)
"""Coprime and above one: one would broadcast where a batch would not."""
_LARGEST = 2**24
"""Elements of a constant worth computing here (64 MB of float32)."""
_SHAPES_ARE_DATA = 64
"""Elements; integer constants up to this size may be shapes and are shown to shape inference."""
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)

Array = NDArray[Any]
Shape = tuple[int, ...]


def value_of(value: ir.Value | None) -> Array | None:
    """The array behind an initializer or a Constant node, else None."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def constant_of(value: ir.Value | None) -> float | None:
    """The number behind a constant of one element, else None."""
    array = value_of(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


class Known:
    """Shapes and constants of a main graph's values at each of ``BATCHES``.

    Args:
        model: any model; unchanged. A symbolic first dimension of an input is the batch; other symbolic dimensions
            leave what depends on them unknown.
    """

    def __init__(self, model: ir.Model) -> None:
        self._at = [_Evaluation(model, batch) for batch in BATCHES]

    def shapes(self, value: ir.Value | None) -> tuple[Shape, Shape] | None:
        """The value's shape at each of ``BATCHES``, or None where it is unknown."""
        own = None if value is None else ir.convenience.get_const_tensor(value)
        if own is not None:
            return tuple(own.shape.numpy()), tuple(own.shape.numpy())
        first, second = (at.shape(value) for at in self._at)
        return None if first is None or second is None or len(first) != len(second) else (first, second)

    def target(self, value: ir.Value | None) -> Shape | None:
        """The value's shape with -1 for the one dimension that grows with the batch; None where there are more."""
        shapes = self.shapes(value)
        if shapes is None:
            return None
        target = tuple(a if a == b else -1 for a, b in zip(*shapes, strict=True))
        return target if target.count(-1) <= 1 and 0 not in target else None

    def symbolic(self, value: ir.Value) -> ir.Shape | None:
        """The value's shape in terms of ``batch``; None where it is unknown."""
        shapes = self.shapes(value)
        return None if shapes is None else ir.Shape([_dimension(a, b) for a, b in zip(*shapes, strict=True)])

    def counts(self, value: ir.Value | None) -> bool:
        """Whether the value is 0, 1, 2, ... in order, at each of ``BATCHES``."""
        arrays = [at.array(value) for at in self._at]
        return all(array is not None and np.array_equal(array.ravel(), np.arange(array.size)) for array in arrays)

    def period(self, value: ir.Value | None) -> Array | None:
        """The constant that the value is, or that it repeats along its first axis as the batch grows; else None.

        A class token spread over the batch gives (1, 1, D); the mask of W shifted windows, repeated for every image,
        gives (W, ...).
        """
        own = value_of(value)
        if own is not None:
            return own
        first, second = (at.constants.get(value) for at in self._at)
        if first is None or second is None or first.dtype != second.dtype or first.shape[1:] != second.shape[1:]:
            return None
        if first.shape == second.shape:
            return first if np.array_equal(first, second) else None
        rows = first.shape[0] // BATCHES[0]
        if (first.shape[0], second.shape[0]) != tuple(rows * batch for batch in BATCHES):
            return None
        once = first[:rows]
        alike = all(
            np.array_equal(block, once) for array in (first, second) for block in np.split(array, len(array) // rows)
        )
        return once if alike else None


def _dimension(first: int, second: int) -> int | str:
    if first == second:
        return first
    times, rest = divmod(first, BATCHES[0])
    if rest or times * BATCHES[1] != second:
        return "unknown"
    return "batch" if times == 1 else f"{times}*batch"


class _Evaluation:
    """One pass over the main graph at one batch size."""

    def __init__(self, model: ir.Model, batch: int) -> None:
        self.types: dict[ir.Value | None, Any] = {}
        self.constants: dict[ir.Value | None, Array] = {}
        self._opset = model.graph.opset_imports.get("", 1)
        self._opsets = [onnx.helper.make_opsetid(*item) for item in model.graph.opset_imports.items()]
        for given in model.graph.inputs:
            dims = [dim if isinstance(dim, int) else None for dim in given.shape or ()]
            if dims and dims[0] is None:
                dims[0] = batch
            if given.dtype is not None:
                self.types[given] = onnx.helper.make_tensor_type_proto(int(given.dtype), dims)
        for weight in model.graph.initializers.values():
            if weight.const_value is not None:
                tensor = weight.const_value
                self.types[weight] = onnx.helper.make_tensor_type_proto(int(tensor.dtype), tensor.shape.numpy())
        for node in model.graph:
            self._visit(node)

    def shape(self, value: ir.Value | None) -> Shape | None:
        known = self.types.get(value)
        if known is None or not known.tensor_type.HasField("shape"):
            return None
        dims = known.tensor_type.shape.dim
        return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None

    def array(self, value: ir.Value | None) -> Array | None:
        found = self.constants.get(value)
        return value_of(value) if found is None else found

    def _visit(self, node: ir.Node) -> None:
        if node.op_type == "Shape" and node.domain == "":
            shape = self.shape(node.inputs[0])
            if shape is not None:
                end = node.attributes.get_int("end", len(shape))
                self._learn(node, [np.array(shape[node.attributes.get_int("start", 0) : end], np.int64)])
                return
        holds_graphs = any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()
        )
        if node.domain != "" or holds_graphs or not onnx.defs.has(node.op_type):
            return
        proto = ir.to_proto(node)
        self._infer(node, proto)
        sizes = [np.prod(self.shape(output) or (0,), dtype=np.float64) for output in node.outputs]
        arrays = [self.array(value) for value in node.inputs]
        missing = any(array is None and value is not None for array, value in zip(arrays, node.inputs, strict=True))
        if not missing and max(sizes) <= _LARGEST and node.op_type not in _RANDOM:
            self._learn(node, self._computed(proto, [array for array in arrays if array is not None]))

    def _learn(self, node: ir.Node, arrays: list[Array]) -> None:
        for output, array in zip(node.outputs, arrays, strict=False):
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            self.constants[output] = array
            self.types[output] = onnx.helper.make_tensor_type_proto(kind, array.shape)

    def _infer(self, node: ir.Node, proto: onnx.NodeProto) -> None:
        inputs = {value.name: value for value in node.inputs if value is not None}
        types = {name: self.types[value] for name, value in inputs.items() if value in self.types}
        arrays = {name: self.array(value) for name, value in inputs.items()}
        data = {
            name: onnx.numpy_helper.from_array(array)
            for name, array in arrays.items()
            if array is not None and array.dtype.kind in "iub" and array.size <= _SHAPES_ARE_DATA
        }
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset)
            found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=self._opsets)
        except (RuntimeError, onnx.shape_inference.InferenceError, onnx.defs.SchemaError):
            return  # unknown here, and so whatever follows from it
        self.types.update((output, found[output.name]) for output in node.outputs if output.name in found)

    def _computed(self, proto: onnx.NodeProto, arrays: list[Array]) -> list[Array]:
        names = [name for name in proto.input if name]
        graph = onnx.GraphProto(
            name="node",
            node=[proto],
            input=[onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names)],
            output=[onnx.ValueInfoProto(name=name) for name in proto.output if name],
        )
        try:
            model = onnx.helper.make_model(graph, opset_imports=self._opsets)
            found = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
        except Exception:  # it lacks some operators and raises what numpy raises: the node then stays as it is
            return []
        return [np.asarray(array) for array in found]
