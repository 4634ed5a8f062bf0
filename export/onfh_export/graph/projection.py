"""From a query, key or value tensor back to the weights that made it, whatever way the source laid out its heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onfh_export.graph.known import Array, Known, constant_of, value_of

__all__ = ["Projection", "projection_of", "without_factor"]

_SAME_ORDER = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_LAYOUT = _SAME_ORDER | {"Gather", "Slice", "Split", "Transpose"}


@dataclass(frozen=True)
class Projection:
    """``scale * (source @ weight + bias)``, its columns in the order (heads, head size).

    Attributes:
        source: what is projected; its last axis is D.
        weight: (D, heads * head size).
        bias: (heads * head size,).
        shape: (rows, heads, tokens, head size) of the projected tensor at the first of ``known.BATCHES``, where a row
            is a window.
        windows: so many rows count as heads of one, as in (images, windows * heads, tokens, head size).
        scale: all constant factors on the way.
    """

    source: ir.Value
    weight: Array
    bias: Array
    shape: tuple[int, int, int, int]
    windows: int
    scale: float


def without_factor(node: ir.Node) -> tuple[ir.Value, float] | None:
    """The other input of a Mul or Div by a number, and the factor; None when it is none."""
    if node.op_type in ("Mul", "Div"):
        left, right = node.inputs[:2]
        number = constant_of(right)
        if number is not None and left is not None:
            return left, (1 / number if node.op_type == "Div" else number)
        number = constant_of(left)
        if node.op_type == "Mul" and number is not None and right is not None:
            return right, number
    return None


def projection_of(value: ir.Value, known: Known, *, transposed: bool = False) -> Projection | None:
    """Find the linear layer behind a tensor of heads.

    The way back may hold any Reshape, Transpose, Split, Gather or Slice. They are not matched one by one: the position
    of every element is sent through them, and the layer's columns are read from where the positions arrive. One fused
    layer for query, key and value is taken apart this way as well.

    Args:
        value: (rows, heads, tokens, head size), or (images, windows * heads, tokens, head size).
        known: of the same graph, made before it was changed.
        transposed: the last two axes are the other way round.

    Returns:
        None when it is no linear layer with constant weights, seen head by head.
    """
    layout: list[tuple[ir.Node, int]] = []
    scale = 1.0
    current = value
    while True:
        node, index = current.producer(), current.index()
        if node is None or index is None or node.domain != "":
            return None
        scaled = without_factor(node)
        if scaled is not None:
            current, scale = scaled[0], scale * scaled[1]
        elif node.op_type in _LAYOUT and node.inputs[0] is not None:
            layout.append((node, index))
            current = node.inputs[0]
        else:
            break
    linear = _linear(node)
    shapes = known.shapes(current)
    if linear is None or shapes is None:
        return None
    source, weight, bias = linear
    places: Array | None = np.arange(np.prod(shapes[0], dtype=np.int64)).reshape(shapes[0])
    for step, index in reversed(layout):
        places = None if places is None else _laid_out(places, step, index, known)
    if places is None or places.ndim != 4:
        return None
    if transposed:
        places = places.swapaxes(2, 3)
    images, heads, tokens, size = places.shape
    row, column = np.divmod(places, weight.shape[1])
    windows = len(np.unique(row[0, :, 0, 0]))
    if heads % windows:
        return None
    shape = (images * windows, heads // windows, tokens, size)
    row, column = row.reshape(shape), column.reshape(shape)
    columns = column[0, :, 0]
    in_order = np.arange(images * windows * tokens).reshape(-1, 1, tokens, 1)
    if not (np.array_equal(row, np.broadcast_to(in_order, shape)) and bool((column == columns[:, None]).all())):
        return None
    picked = columns.reshape(-1)
    return Projection(source, weight[:, picked], bias[picked], shape, windows, scale)


def _linear(node: ir.Node) -> tuple[ir.Value, Array, Array] | None:
    """(source, weight, bias) of MatMul, of MatMul and Add, or of Gemm."""
    bias: Array | None = None
    if node.op_type == "Add":
        for constant, other in ((0, 1), (1, 0)):
            bias, behind = value_of(node.inputs[constant]), node.inputs[other]
            inner = None if behind is None else behind.producer()
            if bias is not None and inner is not None and inner.op_type == "MatMul":
                node = inner
                break
    source, weight = (*node.inputs, None, None)[:2]
    array = value_of(weight)
    if source is None or array is None or array.ndim != 2 or node.op_type not in ("MatMul", "Gemm"):
        return None
    if node.op_type == "Gemm":
        alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
        if alpha != 1 or beta != 1 or node.attributes.get_int("transA", 0) != 0:
            return None
        array = array.T if node.attributes.get_int("transB", 0) == 1 else array
        bias = value_of(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is None and len(node.inputs) > 2 and node.inputs[2] is not None:
            return None
    columns = array.shape[1]
    if bias is None:
        bias = np.zeros(columns, array.dtype)
    if bias.size not in (1, columns) or bias.shape[-1:] not in ((), (1,), (columns,)):
        return None
    return source, array, np.broadcast_to(bias.reshape(-1), (columns,))


def _laid_out(places: Array, node: ir.Node, index: int, known: Known) -> Array | None:
    shapes = known.shapes(node.outputs[index])
    axis = node.attributes.get_int("axis", 0)
    if shapes is None:
        return None
    if node.op_type in _SAME_ORDER:
        return places.reshape(shapes[0])
    if node.op_type == "Transpose":
        return places.transpose(node.attributes.get_ints("perm", tuple(reversed(range(places.ndim)))))
    if node.op_type == "Gather":
        picked = value_of(node.inputs[1])
        return None if picked is None else np.take(places, picked, axis)
    if node.op_type == "Split":
        sizes = [known.shapes(output) for output in node.outputs]
        before = sum(size[0][axis] for size in sizes[:index] if size is not None)
        return None if None in sizes else places.take(range(before, before + shapes[0][axis]), axis)
    starts, ends, axes, steps = (value_of(value) for value in (*node.inputs, None, None)[1:5])
    if starts is None or ends is None or axes is None or (steps is not None and (steps < 1).any()):
        return None
    cut = [slice(None)] * places.ndim
    for place, start, end, step in zip(
        axes, starts, ends, steps if steps is not None else [1] * len(axes), strict=True
    ):
        cut[int(place)] = slice(int(start), int(end), int(step))
    return places[tuple(cut)]
