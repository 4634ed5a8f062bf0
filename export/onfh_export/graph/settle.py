"""Shape arithmetic out of a graph: whatever depends on no pixel becomes a constant, and the batch a single -1."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onfh_export.graph.edit import bypass, graph_of, new_constant, new_node
from onfh_export.graph.known import Array, Known, Shape, value_of

__all__ = ["settle"]

_BROADCAST = frozenset(
    {
        "Add",
        "And",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Mul",
        "Or",
        "Pow",
        "Sub",
        "Where",
    }
)


def settle(model: ir.Model) -> None:
    """Replace, in place, shape arithmetic by constants; exact for the batches that :class:`Known` looks at.

    Reshape targets become constants with -1 for the batch, the sizes of a Resize become its scales, constants that
    were spread over the batch are left to broadcasting, and nodes that do nothing are taken out.
    """
    known = Known(model)
    for node in list(model.graph):
        if _does_nothing(node, known) and _may_go(node):
            bypass(node.outputs[0], node.inputs[0])
            continue
        for output in node.outputs:
            _settle_constant(node, output, known)
        if node.op_type in ("Flatten", "Reshape", "Squeeze", "Unsqueeze"):
            _settle_reshape(node, known)
        elif node.op_type == "Resize":
            _settle_resize(node, known)
        elif node.op_type == "Gather":
            _settle_gather(node, known)
        elif node.op_type == "Slice":
            _settle_slice(node)
        elif node.op_type in _BROADCAST:
            _settle_broadcast(node, known)


def _settle_constant(node: ir.Node, output: ir.Value, known: Known) -> None:
    shapes = known.shapes(output)
    if not output.uses() or shapes is None or shapes[0] != shapes[1] or node.op_type == "Constant":
        return
    array = known.period(output)
    if array is not None and not output.is_graph_output():
        bypass(output, new_constant(graph_of(node), f"{output.name}.constant", array))


def _settle_reshape(node: ir.Node, known: Known) -> None:
    """One operator and one form for all of them."""
    target = known.target(node.outputs[0])
    given = value_of(node.inputs[1]) if node.op_type == "Reshape" else None
    if target is None:
        return
    if given is not None and tuple(given) == target:
        node.attributes.pop("allowzero", None)  # there is no zero in it
        return
    shape = new_constant(graph_of(node), f"{node.outputs[0].name}.shape", np.array(target, np.int64))
    bypass(node.outputs[0], new_node(node, "Reshape", node.inputs[0], shape))


def _settle_resize(node: ir.Node, known: Known) -> None:
    before, after = known.shapes(node.inputs[0]), known.shapes(node.outputs[0])
    if len(node.inputs) < 4 or before is None or after is None or "axes" in node.attributes:
        return
    if before[0][0] != after[0][0] or before[1][0] != after[1][0] or before[0][1:] != before[1][1:]:
        return
    scales = np.ones(len(before[0]), np.float32)
    for axis, (old, new) in enumerate(zip(before[0][1:], after[0][1:], strict=True), 1):
        scales[axis] = new / old
        if old * float(scales[axis]) < new:  # 16 / 3 is no float: what will be rounded down must not fall short
            scales[axis] = np.nextafter(scales[axis], np.float32(np.inf))
    node.resize_inputs(3)
    node.replace_input_with(2, new_constant(graph_of(node), f"{node.outputs[0].name}.scales", scales))
    node.attributes.pop("keep_aspect_ratio_policy", None)


def _settle_gather(node: ir.Node, known: Known) -> None:
    """A Gather of everything in order (how as_strided is written) only reshapes."""
    shapes, target = known.shapes(node.inputs[0]), known.target(node.outputs[0])
    indices = known.shapes(node.inputs[1])
    if shapes is None or indices is None or target is None or not known.counts(node.inputs[1]):
        return
    axis = node.attributes.get_int("axis", 0)
    if all(shape[axis] == np.prod(index, dtype=np.int64) for shape, index in zip(shapes, indices, strict=True)):
        shape = new_constant(graph_of(node), f"{node.outputs[0].name}.shape", np.array(target, np.int64))
        bypass(node.outputs[0], new_node(node, "Reshape", node.inputs[0], shape))


def _settle_slice(node: ir.Node) -> None:
    """A Slice of a Slice along other axes is one Slice."""
    source = node.inputs[0]
    inner = None if source is None else source.producer()
    if inner is None or inner.op_type != "Slice":
        return
    first, second = _cuts(inner), _cuts(node)
    if first is None or second is None or set(first[2]) & set(second[2]):
        return
    node.replace_input_with(0, inner.inputs[0])
    node.resize_inputs(5)
    for index, name in enumerate(("starts", "ends", "axes", "steps")):
        joined = np.concatenate([first[index], second[index]])
        node.replace_input_with(index + 1, new_constant(graph_of(node), f"{node.outputs[0].name}.{name}", joined))


def _cuts(node: ir.Node) -> tuple[Array, Array, Array, Array] | None:
    """Starts, ends, axes and steps, where they are constants and the axes count from the front."""
    starts, ends, axes, steps = (value_of(value) for value in (*node.inputs, None, None)[1:5])
    if starts is None or ends is None or axes is None or (axes < 0).any() or (steps is None and len(node.inputs) > 4):
        return None
    return starts, ends, axes, np.ones_like(starts) if steps is None else steps


def _settle_broadcast(node: ir.Node, known: Known) -> None:
    """Read a constant itself where the node read its copies, one for each image."""
    after = known.shapes(node.outputs[0])
    for index, value in enumerate(node.inputs):
        shapes, once = known.shapes(value), known.period(value)
        if value is None or after is None or shapes is None or shapes[0] == shapes[1] or once is None:
            continue
        others = [known.shapes(other) for place, other in enumerate(node.inputs) if place != index]
        if once.shape[0] == 1 and all(_together(others, once.shape, which) == after[which] for which in (0, 1)):
            node.replace_input_with(index, new_constant(graph_of(node), f"{value.name}.constant", once))


def _together(others: list[tuple[Shape, Shape] | None], once: Shape, which: int) -> Shape | None:
    shapes = [other[which] for other in others if other is not None]
    return np.broadcast_shapes(once, *shapes) if len(shapes) == len(others) else None


def _may_go(node: ir.Node) -> bool:
    """Whether what feeds the node can take its place: an output of the graph is neither an input nor two outputs."""
    source = node.inputs[0]
    free = source is not None and source.producer() is not None and not source.is_graph_output()
    return free or not node.outputs[0].is_graph_output()


def _does_nothing(node: ir.Node, known: Known) -> bool:
    if not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type in ("Identity", "Dropout"):
        return not any(output.uses() for output in node.outputs[1:])
    before, after = known.shapes(node.inputs[0]), known.shapes(node.outputs[0])
    if before is None or before != after:
        return False
    if node.op_type == "Pad":
        pads = value_of(node.inputs[1])
        return pads is not None and not pads.any()
    if node.op_type == "Slice":
        steps = value_of(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
        return steps is not None and bool((steps == 1).all())
    return node.op_type in ("Expand", "Flatten", "Reshape", "Squeeze", "Unsqueeze")
