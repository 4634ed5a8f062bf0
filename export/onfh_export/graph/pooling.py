"""Adaptive average pooling as one matrix, where an exporter wrote it as GatherND, Where and a sum of Gathers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onfh_export.graph.edit import bypass, graph_of, new_constant, new_node
from onfh_export.graph.known import BATCHES, Array, Known

__all__ = ["rewrite_pooling"]

_LINEAR = frozenset(
    {
        "Add",
        "Div",
        "Gather",
        "Mul",
        "ReduceMean",
        "ReduceSum",
        "Reshape",
        "Squeeze",
        "Sum",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
_CLOSE = 1e-5


def rewrite_pooling(model: ir.Model) -> int:
    """Rewrite, in place, what follows each GatherND of an image plane as a product with a constant matrix.

    The nodes from there to the next (batch, channels, h, w) tensor through which all of them flow are run on unit
    images, which gives the matrix, and on random ones, which shows that it is all there is to them.

    Returns:
        The number of GatherND nodes written anew.
    """
    known = Known(model)
    return sum(_rewrite(node, known) for node in list(model.graph) if node.op_type == "GatherND")


def _rewrite(gather: ir.Node, known: Known) -> bool:
    source, nodes = gather.inputs[0], [gather]
    turn = None if source is None else source.producer()
    if turn is not None and turn.op_type == "Transpose" and turn.inputs[0] is not None:
        source, nodes = turn.inputs[0], [turn, gather]
    end = _region(gather, nodes, known)
    before, after = known.shapes(source), known.shapes(end)
    if source is None or end is None or before is None or after is None or not _are_planes(before[0], after[0]):
        return False
    (_, channels, *plane), (*_, height, width) = before[0], after[0]
    pixels = int(np.prod(plane))
    images = -(-pixels // (BATCHES[0] * channels))
    units = np.zeros((images * BATCHES[0] * channels, pixels), np.float32)
    units[:pixels] = np.eye(pixels, dtype=np.float32)
    stacks = units.reshape(images, BATCHES[0], channels, *plane)
    found = np.concatenate([_run(nodes, source, end, stack, known) for stack in stacks])
    matrix = found.reshape(-1, height * width)[:pixels]
    random = np.random.default_rng(0).standard_normal(before[0]).astype(np.float32)
    expected = _run(nodes, source, end, random, known)
    if not np.allclose((random.reshape(-1, pixels) @ matrix).reshape(after[0]), expected, rtol=_CLOSE, atol=_CLOSE):
        return False
    graph, at, name = graph_of(gather), gather, end.name

    def shaped(value: ir.Value, *shape: int) -> ir.Value:
        return new_node(at, "Reshape", value, new_constant(graph, f"{name}.shape", np.array(shape, np.int64)))

    made = new_node(at, "MatMul", shaped(source, -1, channels, pixels), new_constant(graph, f"{name}.pool", matrix))
    bypass(end, shaped(made, -1, channels, height, width))
    return True


def _are_planes(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    return len(before) == len(after) == 4 and before[:2] == after[:2]


def _region(gather: ir.Node, nodes: list[ir.Node], known: Known) -> ir.Value | None:
    """Collect into ``nodes`` what reads the gathered pixels, up to the one value that everything else reads."""
    inside = set(gather.outputs)
    for node in _after(gather):
        touched = [value for value in node.inputs if value in inside]
        if not touched:
            continue
        constant = all(value in inside or value is None or known.period(value) is not None for value in node.inputs)
        if node.op_type not in _LINEAR or not constant or (node.op_type == "Div" and node.inputs[1] in inside):
            return None
        nodes.append(node)
        inside.update(node.outputs)
        open_ends = [value for value in inside if value.is_graph_output() or not set(value.consumers()) <= set(nodes)]
        shapes = known.shapes(node.outputs[0])
        if open_ends == [node.outputs[0]] and shapes is not None and len(shapes[0]) == 4:
            users = list(node.outputs[0].consumers())
            if any(user.op_type not in _LINEAR for user in users):
                return node.outputs[0]
    return None


def _after(start: ir.Node) -> list[ir.Node]:
    nodes = list(graph_of(start))
    return nodes[nodes.index(start) + 1 :]


def _run(nodes: list[ir.Node], source: ir.Value, end: ir.Value, pixels: Array, known: Known) -> Array:
    """The region's answer to (batch, channels, H, W) pixels, with the first of ``BATCHES`` images."""
    inside = {output for node in nodes for output in node.outputs}
    outside = {value for node in nodes for value in node.inputs if value is not None and value not in inside}
    feeds = {value.name: known.period(value) for value in outside if value is not source}
    graph = onnx.GraphProto(
        name="region",
        node=[ir.to_proto(node) for node in nodes],
        input=[onnx.ValueInfoProto(name=value.name) for value in outside],
        output=[onnx.ValueInfoProto(name=end.name)],
    )
    opset = onnx.helper.make_opsetid("", graph_of(nodes[0]).opset_imports[""])
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[opset]))
    (found,) = evaluator.run(None, {**feeds, source.name: pixels})
    return np.asarray(found)
