"""Putting constants and nodes into an onnx_ir graph, and taking nodes out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onfh_export.graph.known import Array

__all__ = ["bypass", "graph_of", "new_constant", "new_node", "new_nodes"]


def graph_of(node: ir.Node) -> ir.Graph:
    """The main graph a node lives in."""
    if not isinstance(node.graph, ir.Graph):
        raise TypeError(f"{node.name} is in no graph")
    return node.graph


def new_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A new initializer; a number is added to a name that is taken."""
    base, count = name, 0
    while name in graph.initializers:
        count += 1
        name = f"{base}.{count}"
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def new_nodes(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    count: int,
    **attributes: int | float | str | Sequence[int],
) -> Sequence[ir.Value]:
    """Insert a node in front of another and return its ``count`` outputs."""
    node = ir.node(op_type, inputs, attributes, num_outputs=count)
    graph_of(before).insert_before(before, node)
    outputs: Sequence[ir.Value] = node.outputs
    return outputs


def new_node(
    before: ir.Node, op_type: str, *inputs: ir.Value | None, **attributes: int | float | str | Sequence[int]
) -> ir.Value:
    """Insert a node of one output in front of another and return its output."""
    return new_nodes(before, op_type, inputs, 1, **attributes)[0]


def bypass(old: ir.Value, new: ir.Value) -> None:
    """Let whatever reads ``old`` read ``new``; a graph output keeps its name."""
    if old.is_graph_output():
        name, shape, kind = old.name, old.shape, old.type
        old.name = f"{name}.old"
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name, new.shape, new.type = name, shape, kind
    else:
        ir.convenience.replace_all_uses_with(old, new)
