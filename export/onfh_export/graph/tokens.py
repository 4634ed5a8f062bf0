"""Class tokens without Expand and Concat: the patches are padded by rows of zeros, and the tokens added to those."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onfh_export.graph.edit import bypass, graph_of, new_constant, new_node
from onfh_export.graph.known import Known, value_of

__all__ = ["rewrite_tokens"]


def rewrite_tokens(model: ir.Model) -> int:
    """Rewrite, in place, every Concat of one (batch, tokens, D) tensor with constants repeated for each image.

    Zero plus a constant is that constant, so this is exact. A position table added next joins the constant.

    Returns:
        The number of Concat nodes written anew.
    """
    known = Known(model)
    return sum(_rewrite(node, known) for node in list(model.graph) if node.op_type == "Concat")


def _rewrite(node: ir.Node, known: Known) -> bool:
    shapes = known.shapes(node.outputs[0])
    parts = [known.period(value) for value in node.inputs]
    moving = [index for index, part in enumerate(parts) if part is None]
    if shapes is None or len(shapes[0]) != 3 or shapes[0][0] == shapes[1][0] or len(moving) != 1:
        return False
    if node.attributes["axis"].as_int() not in (1, -2) or any(part is not None and len(part) != 1 for part in parts):
        return False
    _, tokens, width = shapes[0]
    front = sum(part.shape[1] for part in parts[: moving[0]] if part is not None)
    back = sum(part.shape[1] for part in parts[moving[0] + 1 :] if part is not None)
    kind = next(part.dtype for part in parts if part is not None)
    gap = np.zeros((1, tokens - front - back, width), kind)
    table = np.concatenate([gap if part is None else part for part in parts], axis=1)
    old = node.outputs[0]
    users = list(old.consumers())
    if len(users) == 1 and users[0].op_type == "Add":
        position = next((array for array in map(value_of, users[0].inputs) if array is not None), None)
        if position is not None and np.broadcast_shapes(position.shape, table.shape) == table.shape:
            old, table = users[0].outputs[0], table + position
    pads = new_constant(graph_of(node), f"{old.name}.pads", np.array([0, front, 0, 0, back, 0], np.int64))
    padded = new_node(node, "Pad", node.inputs[moving[0]], pads)
    bypass(old, new_node(node, "Add", padded, new_constant(graph_of(node), f"{old.name}.tokens", table)))
    return True
