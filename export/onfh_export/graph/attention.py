"""Attention in the form TensorRT fuses: one projection, then MatMul, Softmax and MatMul with nothing between.

Every block is found once, whatever its source wrote between its tensors, and written anew, either as plain nodes with
the scale in the projection's weights, or as the standard Attention operator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onfh_export.graph.edit import bypass, graph_of, new_constant, new_node, new_nodes
from onfh_export.graph.known import Array, Known, constant_of
from onfh_export.graph.projection import Projection, projection_of, without_factor

__all__ = ["rewrite_attention"]

_OPEN = -1e30
"""A mask that adds more than this somewhere in each row leaves something to attend to."""
_BEYOND = ("is_causal", "q_num_heads", "softcap")
"""Attributes of the Attention operator that are left alone when they are in use."""


@dataclass(frozen=True)
class _Scores:
    """``scale * query @ key^T + mask``.

    ``mask`` is (windows, 1 or heads, tokens, tokens) or broadcasts to it; images repeat it, window by window.
    """

    query: ir.Value
    key: ir.Value
    scale: float
    mask: Array


def rewrite_attention(model: ir.Model, *, operator: bool) -> int:
    """Rewrite, in place, every self-attention whose mask depends on no pixel.

    A guard against rows without anything to attend to (IsNaN and Where after the Softmax) is dropped where the mask
    proves that there is no such row. Where the pixels themselves hold NaN, such a guard gave zeros; now NaN comes out.

    Args:
        model: with shapes settled.
        operator: write Attention (opset 23) in place of MatMul, Softmax, MatMul.

    Returns:
        The number of blocks written anew.
    """
    known = Known(model)
    count = 0
    for node in list(model.graph):
        if node.op_type == "Softmax" and node.attributes.get_int("axis", -1) in (-1, 3):
            scores = _scores_of(node.inputs[0], known)
            end = None if scores is None else _end_of(node, scores.mask)
            value = None if end is None else end.inputs[1]
            transposed = True
        elif node.op_type == "Attention" and node.domain == "":
            scores, end, value, transposed = _scores_of_operator(node, known), node, node.inputs[2], False
        else:
            continue
        if scores is None or end is None or value is None:
            continue
        query = projection_of(scores.query, known)
        key = projection_of(scores.key, known, transposed=transposed)
        third = projection_of(value, known)
        if query is not None and key is not None and third is not None:
            count += _rewrite(end, scores, (query, key, third), operator=operator)
    return count


def _scores_of(value: ir.Value | None, known: Known) -> _Scores | None:
    """Walk from a Softmax back to the product of query and key."""
    scale = 1.0
    masks: list[Array | None] = []
    node = None if value is None else value.producer()
    while node is not None and node.op_type != "MatMul":
        scaled = without_factor(node)
        if scaled is not None:
            value, scale = scaled[0], scale * scaled[1]
        elif node.op_type in ("Add", "Reshape"):
            value, mask = _without_mask(node, known) if node.op_type == "Add" else _without_window_mask(node, known)
            masks.append(None if mask is None else scale * mask)
        else:
            return None
        node = None if value is None else value.producer()
    if node is None:
        return None
    query, key = node.inputs
    return None if query is None or key is None else _Scores(query, key, scale, _sum(masks))


def _scores_of_operator(node: ir.Node, known: Known) -> _Scores | None:
    query, key = node.inputs[:2]
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    plain = not any(node.attributes[name].value for name in _BEYOND if name in node.attributes)
    shapes, spread = known.shapes(query), known.period(mask)
    if query is None or key is None or shapes is None or not plain or any(node.inputs[4:]) or len(node.outputs) > 1:
        return None
    if spread is not None and spread.dtype.kind == "b":
        spread = np.where(spread, 0, -np.inf).astype(np.float32)
    if mask is not None and (spread is None or not bool((spread.max(-1) > _OPEN).all())):
        return None
    scale = node.attributes.get_float("scale", float(shapes[0][-1]) ** -0.5)
    return _Scores(query, key, scale, _sum([] if spread is None else [_four(spread)]))


def _sum(masks: list[Array | None]) -> Array:
    total: Array = np.zeros((1, 1, 1, 1), np.float32)
    for mask in masks:
        total = total if mask is None else total + mask.astype(np.float32)
    return total


def _four(mask: Array) -> Array:
    return mask.reshape((1,) * (4 - mask.ndim) + mask.shape)


def _without_mask(node: ir.Node, known: Known) -> tuple[ir.Value | None, Array | None]:
    for other, constant in ((0, 1), (1, 0)):
        mask = known.period(node.inputs[constant])
        if mask is not None and mask.ndim <= 4:
            return node.inputs[other], _four(mask)
    return None, None


def _without_window_mask(node: ir.Node, known: Known) -> tuple[ir.Value | None, Array | None]:
    """Swin as published: scores seen as (images, windows, heads, tokens, tokens), masked, and seen as before."""
    add = None if node.inputs[0] is None else node.inputs[0].producer()
    if add is None or add.op_type != "Add":
        return None, None
    for other, constant in ((0, 1), (1, 0)):
        mask, seen = known.period(add.inputs[constant]), add.inputs[other]
        view = None if seen is None else seen.producer()
        if mask is None or mask.ndim != 5 or len(mask) != 1 or view is None or view.op_type != "Reshape":
            continue
        if known.shapes(view.inputs[0]) == known.shapes(node.outputs[0]):
            return view.inputs[0], mask[0]
    return None, None


def _end_of(softmax: ir.Node, mask: Array) -> ir.Node | None:
    """The product of attention and value; a guard against rows of NaN between the two is taken out."""
    attention = softmax.outputs[0]
    for user in attention.consumers():
        guard = user.inputs[0].producer() if user.op_type == "Where" and user.inputs[0] is not None else None
        guarded = guard is not None and guard.op_type == "IsNaN" and guard.inputs[0] is attention
        if guarded and constant_of(user.inputs[1]) == 0 and bool((mask.max(-1) > _OPEN).all()):
            bypass(user.outputs[0], attention)
    ends = [user for user in attention.consumers() if user.op_type == "MatMul" and user.inputs[0] is attention]
    return ends[0] if len(ends) == 1 else None


def _rewrite(end: ir.Node, scores: _Scores, parts: tuple[Projection, ...], *, operator: bool) -> bool:
    query, key, value = parts
    if any((part.source, part.shape, part.windows) != (query.source, query.shape, query.windows) for part in parts):
        return False
    rows, heads, tokens, size = query.shape
    windows, mask = query.windows, scores.mask
    if windows == 1 and len(mask) > 1:  # The windows of an image become heads: its masks are one constant then.
        windows = len(mask)
        mask = np.broadcast_to(mask, (windows, heads, *mask.shape[2:])).reshape(1, -1, *mask.shape[2:])
    if rows % windows or len(mask) > 1:
        return False
    graph, name = graph_of(end), end.outputs[0].name
    scale = scores.scale * query.scale * key.scale
    factors = (1.0 if operator else scale, 1.0, value.scale)
    weight = np.concatenate([part.weight * np.float32(by) for part, by in zip(parts, factors, strict=True)], axis=1)
    bias = np.concatenate([part.bias * np.float32(by) for part, by in zip(parts, factors, strict=True)])
    made = new_node(end, "MatMul", query.source, new_constant(graph, f"{name}.qkv.weight", weight))
    made = new_node(end, "Add", made, new_constant(graph, f"{name}.qkv.bias", bias))

    def shaped(tensor: ir.Value, *shape: int) -> ir.Value:
        return new_node(end, "Reshape", tensor, new_constant(graph, f"{name}.shape", np.array(shape, np.int64)))

    if windows == 1:
        made = new_node(end, "Transpose", shaped(made, -1, tokens, 3 * heads, size), perm=[0, 2, 1, 3])
    else:
        made = shaped(made, -1, windows, tokens, 3, heads, size)
        made = new_node(end, "Transpose", made, perm=[0, 3, 1, 4, 2, 5])
        made = shaped(made, -1, 3 * windows * heads, tokens, size)
    lengths = new_constant(graph, f"{name}.qkv.split", np.full(3, windows * heads, np.int64))
    q, k, v = new_nodes(end, "Split", [made, lengths], 3, axis=1)
    added = new_constant(graph, f"{name}.mask", mask) if mask.any() else None
    if operator:
        made = new_node(end, "Attention", q, k, v, *([] if added is None else [added]), scale=scale)
    else:
        made = new_node(end, "MatMul", q, new_node(end, "Transpose", k, perm=[0, 1, 3, 2]))
        made = made if added is None else new_node(end, "Add", made, added)
        made = new_node(end, "MatMul", new_node(end, "Softmax", made, axis=-1), v)
    bypass(end.outputs[0], made if windows == query.windows else shaped(made, -1, heads, tokens, size))
    return True
