"""What a stage's graph costs: nodes, operators, weights, multiply-adds, and how much of it is half."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, helper

from onfh_export.graph.shapes import FLOATS, Tensor, tensors_of

__all__ = ["GraphFacts", "graph_facts"]

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_WEIGHTS = FLOATS | {TensorProto.INT8, TensorProto.UINT8}


@dataclass(frozen=True)
class GraphFacts:
    """Figures of one graph; those that depend on the batch are for one row."""

    opset: int
    nodes: int
    operators: dict[str, int]
    """How often each operator occurs, the most frequent first; equals by name."""
    parameters: int
    """Elements of all constants of floating point or eight bits: the weights, and tables such as attention masks."""
    gmac: float
    """Multiply-adds of matrix products, convolutions and attention, in 1e9 a row; nothing else is counted."""
    half_share: float
    """FP16 and BF16 among the elements of all floating-point node outputs, 0..1."""
    casts: int


def graph_facts(model: ModelProto) -> GraphFacts:
    """Count what is in ``model`` (unchanged), with every symbolic dimension of its inputs at 1."""
    graph = model.graph
    tensors = tensors_of(model, batch=1)
    operators = Counter(node.op_type for node in graph.node)
    made = [tensors[name] for node in graph.node for name in node.output if name in tensors]
    floating = [(tensor.type, tensor.size or 0) for tensor in made if tensor.type in FLOATS]
    total = sum(size for _, size in floating)
    return GraphFacts(
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        nodes=len(graph.node),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        parameters=sum(math.prod(weight.dims) for weight in _constants(model) if weight.data_type in _WEIGHTS),
        gmac=sum(_macs(node, tensors) for node in graph.node) / 1e9,
        half_share=sum(size for kind, size in floating if kind in _HALVES) / total if total else 0.0,
        casts=operators["Cast"],
    )


def _constants(model: ModelProto) -> list[TensorProto]:
    held = [
        attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    return [*model.graph.initializer, *held]


def _macs(node: NodeProto, tensors: dict[str, Tensor]) -> int:
    """Multiply-adds of one node; 0 for an operator that is not counted or a shape that is not known."""
    if node.op_type not in ("MatMul", "MatMulInteger", "Gemm", "Conv", "ConvTranspose", "Attention"):
        return 0
    shapes = [_known(tensors.get(name)) for name in (*node.input[:3], node.output[0])]
    first, second, out = shapes[0], shapes[1], shapes[-1]
    if not first or not second or not out:
        return 0
    if node.op_type in ("MatMul", "MatMulInteger"):
        return math.prod(out) * first[-1]
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(out) * first[0 if transposed else 1]
    if node.op_type == "Attention":
        return _attention_macs(node, first, second, shapes[2])
    # A kernel (M, C / groups, k...): each output element sums over the latter; transposed, each input element spreads.
    return math.prod(first if node.op_type == "ConvTranspose" else out) * math.prod(second[1:])


def _attention_macs(node: NodeProto, query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]) -> int:
    """Scores and their product with the values; (batch, heads, length, head size) or (batch, length, all heads)."""
    if len(query) == 4:
        return math.prod(query[:3]) * key[2] * (query[3] + value[3])
    heads: dict[str, int] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    # Each query head reads as wide a slice of V as its group's head has.
    width = value[2] // heads["kv_num_heads"] * heads["q_num_heads"]
    return query[0] * query[1] * key[1] * (query[2] + width)


def _known(tensor: Tensor | None) -> tuple[int, ...]:
    """The whole shape, or () where any of it is unknown."""
    if tensor is None or tensor.shape is None:
        return ()
    shape = tuple(dim for dim in tensor.shape if dim is not None)
    return shape if len(shape) == len(tensor.shape) else ()
