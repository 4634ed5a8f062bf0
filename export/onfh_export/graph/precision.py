"""Strongly typed FP16 or BF16: precision written into the graph, with FP32 islands where they are needed.

A tensor is half in the finished graph or it is not, and that graph is the only place where this is decided:
:func:`emulated` is derived from it, tensor by tensor, so the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper, version_converter

from onfh_export.graph.halves import HALF_TYPES, Half, floats_from_half, half_from_weight
from onfh_export.graph.shapes import skeleton, tensors_of
from onfh_runtime.errors import OnfhError, UsageError

__all__ = ["Io", "emulated", "half_from_float", "half_nodes", "half_tensors", "named"]

Io = Literal["fp32", "fp16"]

BF16_OPSET = 22
"""The first whose convolutions, poolings and instance normalisations take BF16."""
_FLOAT = TensorProto.FLOAT
_EXACT = "_exact"
_SUFFIX = {_FLOAT: "_float", TensorProto.FLOAT16: "_half", TensorProto.BFLOAT16: "_half"}
_ALLOWED = {TensorProto.FLOAT16: "tensor(float16)", TensorProto.BFLOAT16: "tensor(bfloat16)"}
_STAYS = {("Resize", "roi")}
"""Coordinates, not activations, although the schema would take them in half."""
_SETS_TYPE = {"Cast": "to", "ConstantOfShape": "value"}
"""Operators that choose their output's type by an attribute."""


def named(model: ModelProto) -> ModelProto:
    """Give every node a name of its own, in place, and return the same model.

    Names that exist are kept (a repeated one by its first node); the others become ``Operator_3``, counted per operator
    in graph order, so that the same graph always gets the same names.
    """
    taken = {node.name for node in model.graph.node}
    seen = {""}
    counts: dict[str, int] = {}
    for node in model.graph.node:
        while node.name in seen:
            counts[node.op_type] = counts.get(node.op_type, -1) + 1
            candidate = f"{node.op_type}_{counts[node.op_type]}"
            if candidate not in taken:
                node.name = candidate
        seen.add(node.name)
    return model


def half_from_float(model: ModelProto, *, dtype: Half, keep: Collection[str] = (), io: Io = "fp32") -> ModelProto:
    """A new, strongly typed model: every node that may be half is, except those named in ``keep``.

    A node is half where its operator's schema allows it; integers, and floats the schema pins (the scales of Resize),
    stay as they are. A Cast stands where a half tensor meets an FP32 node or the reverse, once per tensor: none between
    two FP32 nodes. A weight that both kinds read is stored twice.

    Args:
        model: FP32, unchanged; nodes without a name are called as by :func:`named`.
        dtype: ``bf16`` raises the opset to at least 22: before, convolutions do not take it.
        keep: names of the nodes that stay FP32.
        io: type of the graph's inputs and outputs; ``fp16`` means the half type that was asked for.

    Raises:
        OnfhError: ``subgraph_unsupported`` (If, Loop, Scan, local functions), ``weight_overflow`` when a weight of a
            half node is finite and its half is not.
        UsageError: ``unknown_node`` for a name in ``keep`` that no node has.
    """
    half = HALF_TYPES[dtype]
    typed = _prepared(model, dtype)
    unknown = set(keep) - {node.name for node in typed.graph.node}
    if unknown:
        raise UsageError("unknown_node", f"No node is called {min(unknown)}, so it cannot stay FP32.")
    conversion = _Conversion(typed, half, frozenset(keep), io)
    conversion.run()
    return conversion.finished({weight.name: weight for weight in model.graph.initializer})


def half_nodes(model: ModelProto, *, dtype: Half) -> list[str]:
    """Names of the nodes that :func:`half_from_float` makes half when none is kept, in the order of the graph.

    Nodes without a floating-point output, a comparison for one, are not among them: they take what they are given.
    """
    conversion = _Conversion(_prepared(model, dtype), HALF_TYPES[dtype], frozenset(), "fp32")
    conversion.run()
    return conversion.halved


def half_tensors(model: ModelProto) -> frozenset[str]:
    """Names of the half tensors of a strongly typed model: inputs, weights, node outputs."""
    halves = HALF_TYPES.values()
    return frozenset(name for name, tensor in tensors_of(model).items() if tensor.type in halves)


def emulated(model: ModelProto, *, dtype: Half, keep: Collection[str] = (), io: Io = "fp32") -> ModelProto:
    """An FP32 model that stores every tensor with the precision it has in ``half_from_float(model, ...)``.

    ONNX Runtime's CPU provider computes FP16 graphs in FP32 and rounds nothing in between, so running the real graph
    there proves nothing. Here each half tensor passes through Cast to half and back, and half weights are rounded.

    Emulated: the precision in which every tensor between two nodes is stored, with its overflow to infinity and its
    underflow. Not emulated: what happens inside a kernel, above all the type in which it accumulates, and kernels that
    a compiler fuses and that keep more than half between two nodes (the emulation is the more pessimistic there). What
    could overflow inside normalisations, Softmax and means is covered by :mod:`onfh_export.graph.ranges`.

    Args and errors: see :func:`half_from_float`. Inputs and outputs are FP32 whatever ``io`` says, and rounded where
    the real ones are half.
    """
    real = half_from_float(model, dtype=dtype, keep=keep, io=io)
    halves = half_tensors(real)
    half = HALF_TYPES[dtype]
    graph = real.graph
    inputs = {value.name for value in graph.input} & halves
    for value in (*graph.input, *graph.output):
        if value.name in halves:
            value.type.tensor_type.elem_type = _FLOAT
    del graph.value_info[:]
    for weight in graph.initializer:
        if weight.data_type == half:
            weight.CopyFrom(numpy_helper.from_array(floats_from_half(weight), weight.name))
    nodes: list[NodeProto] = []
    for name in sorted(inputs):
        nodes.extend(_pair(name, name + _SUFFIX[half], half))
    for node in list(graph.node):
        _rename(node.input, {name: name + _SUFFIX[half] for name in inputs})
        made = [name for name in node.output if name in halves]
        _rename(node.output, {name: name + _EXACT for name in made})
        _set_type(node, half, _FLOAT)
        nodes.append(node)
        for name in made:
            nodes.extend(_pair(name + _EXACT, name, half))
    del graph.node[:]
    graph.node.extend(nodes)
    return real


class _Conversion:
    """State of one :func:`half_from_float`: the graph, its types, and the type each tensor has from now on."""

    def __init__(self, model: ModelProto, half: int, keep: frozenset[str], io: Io) -> None:
        self.model = model
        self.half = half
        self.keep = keep
        self.edge = half if io == "fp16" else _FLOAT
        self.opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.types = {name: tensor.type for name, tensor in tensors_of(model).items()}
        self.constants = {weight.name: weight for weight in model.graph.initializer}
        self.home: dict[str, int] = {}
        """Type in which an activation that was FP32 is produced."""
        self.casts: dict[tuple[str, int], str] = {}
        self.stored: dict[str, tuple[str, int]] = {}
        """Weight of the finished graph -> weight of the source, and its type from now on."""
        self.halved: list[str] = []
        self.nodes: list[NodeProto] = []

    def run(self) -> None:
        """Type every node; the weights' values are not needed yet."""
        graph = self.model.graph
        for value in graph.input:
            if self.types.get(value.name) == _FLOAT:
                self.home[value.name] = self.edge
                value.type.tensor_type.elem_type = self.edge
        answers = {value.name for value in graph.output if self.types.get(value.name) == _FLOAT}
        inner: dict[str, str] = {}  # an answer that is produced in the other type than the graph's edge has
        for node in graph.node:
            _rename(node.input, inner)
            inputs, outputs = self._half_places(node)
            for place, name in enumerate(node.input):
                if self.types.get(name) == _FLOAT:
                    node.input[place] = self._read(name, self.half if place in inputs else _FLOAT)
                elif name in self.constants:
                    self.stored[name] = name, self.types[name]
            for place, name in enumerate(node.output):
                if self.types.get(name) != _FLOAT:
                    continue
                kind = self.half if place in outputs else _FLOAT
                if name in answers and kind != self.edge:
                    inner[name] = node.output[place] = name + _SUFFIX[kind]
                    self.types[inner[name]] = _FLOAT
                self.home[node.output[place]] = kind
            if outputs:
                self.halved.append(node.name)
                _set_type(node, _FLOAT, self.half)
            self.nodes.append(node)
            for name in node.output:
                if name in inner.values():
                    answer = name.removesuffix(_SUFFIX[self.home[name]])
                    self.casts[name, self.edge] = self._cast(name, self.edge, answer)
        for value in graph.output:
            if value.name in answers:
                value.type.tensor_type.elem_type = self.edge

    def finished(self, weights: dict[str, TensorProto]) -> ModelProto:
        """The typed model, with its weights' values."""
        graph = self.model.graph
        for value in graph.value_info:
            if value.name in self.home:
                value.type.tensor_type.elem_type = self.home[value.name]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self.nodes)
        for name, (source, kind) in self.stored.items():
            weight = weights.get(source, self.constants[source])
            graph.initializer.append(weight if kind == self.types[source] else half_from_weight(weight, name, kind))
        return self.model

    def _half_places(self, node: NodeProto) -> tuple[set[int], set[int]]:
        """Which inputs and outputs of a node are half: by place."""
        if node.name in self.keep or not defs.has(node.op_type, self.opset, node.domain):
            return set(), set()
        schema = defs.get_schema(node.op_type, self.opset, node.domain)
        allowed = {c.type_param_str for c in schema.type_constraints if _ALLOWED[self.half] in c.allowed_type_strs}
        free: dict[str, bool] = {}  # type variable -> all that it stands for here is FP32 today
        places: list[list[tuple[int, str]]] = [[], []]
        for side, (formals, names) in enumerate(((schema.inputs, node.input), (schema.outputs, node.output))):
            for place, name in enumerate(names):
                formal = formals[min(place, len(formals) - 1)]
                if not name or formal.type_str not in allowed or (node.op_type, formal.name) in _STAYS:
                    continue
                free[formal.type_str] = free.get(formal.type_str, True) and self.types.get(name) == _FLOAT
                places[side].append((place, formal.type_str))
        inputs = {place for place, variable in places[0] if free[variable]}
        read = {variable for place, variable in places[0] if place in inputs}
        chosen = _SETS_TYPE.get(node.op_type)
        outputs = {place for place, variable in places[1] if free[variable] and (chosen or variable in read)}
        if not outputs:
            # Comparisons, shapes, casts to integer: nothing is gained by rounding what they look at, so they follow it.
            activations = [node.input[place] for place in inputs if node.input[place] in self.home]
            if not activations or any(self.home[name] != self.half for name in activations):
                return set(), set()
        return inputs, outputs

    def _read(self, name: str, kind: int) -> str:
        """The name under which an FP32 tensor of the source is read as ``kind``."""
        if name not in self.home:
            return self._weight(name, kind)
        if self.home[name] == kind:
            return name
        if (name, kind) not in self.casts:
            self.casts[name, kind] = self._cast(name, kind, name + _SUFFIX[kind])
        return self.casts[name, kind]

    def _cast(self, name: str, kind: int, target: str) -> str:
        self.nodes.append(helper.make_node("Cast", [name], [target], name=f"Cast_{target}", to=kind))
        return target

    def _weight(self, name: str, kind: int) -> str:
        target = name if kind == _FLOAT else name + _SUFFIX[kind]
        self.stored[target] = name, kind
        return target


def _prepared(model: ModelProto, dtype: Half) -> ModelProto:
    """A skeleton with named nodes, constants as initializers, and an opset that knows the type."""
    light = named(skeleton(model))
    if light.functions or light.graph.sparse_initializer:
        raise OnfhError("subgraph_unsupported", "The graph has local functions or sparse weights.")
    for node in light.graph.node:
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise OnfhError(
                "subgraph_unsupported",
                f"The graph has a {node.op_type} node ({node.name}), whose branches cannot be typed.",
                "Export the network without control flow.",
            )
    nodes = list(light.graph.node)
    del light.graph.node[:]
    light.graph.node.extend(node for node in nodes if node.op_type != "Constant")
    light.graph.initializer.extend(_constant(node) for node in nodes if node.op_type == "Constant")
    if dtype == "bf16" and any(e.domain in ("", "ai.onnx") and e.version < BF16_OPSET for e in light.opset_import):
        light = version_converter.convert_version(light, BF16_OPSET)
    return light


def _constant(node: NodeProto) -> TensorProto:
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        held = TensorProto()
        held.CopyFrom(value)
        held.name = node.output[0]
        return held
    kind = np.int64 if attribute.name.startswith("value_int") else np.float32
    return numpy_helper.from_array(np.array(value, kind), node.output[0])


def _pair(source: str, target: str, half: int) -> list[NodeProto]:
    stored = target + "_stored"
    return [
        helper.make_node("Cast", [source], [stored], name=f"Cast_{stored}", to=half),
        helper.make_node("Cast", [stored], [target], name=f"Cast_{target}_back", to=_FLOAT),
    ]


def _rename(names: list[str], renamed: dict[str, str]) -> None:
    for place, name in enumerate(names):
        names[place] = renamed.get(name, name)


def _set_type(node: NodeProto, old: int, new: int) -> None:
    """Turn the attribute that sets a node's output type, if it has one and it says ``old``."""
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float32))))
    for attribute in node.attribute:
        if attribute.name != _SETS_TYPE.get(node.op_type):
            continue
        if attribute.type == AttributeProto.INT and attribute.i == old:
            attribute.i = new
        elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type == old:
            if new == _FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(floats_from_half(attribute.t)))
            else:
                attribute.t.CopyFrom(half_from_weight(attribute.t, "", new))
