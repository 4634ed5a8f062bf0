"""Two-class logits as one: the sigmoid of their difference is the softmax of the two, and it needs one channel.

The last layer is linear and takes the difference into its weights; a resize behind it is linear too, commutes with the
difference and then has half the work.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes

__all__ = ["single_logit"]

_Place = tuple[ir.Node, int, int]
"""A node, which of its inputs is constant, and the axis of it that holds the two classes."""


def single_logit(model: onnx.ModelProto, *, positive_class: int = 1) -> onnx.ModelProto | None:
    """Replace the two classes at the end of a graph by the logit of the positive one minus that of the other.

    Args:
        model: its one output is logits: (N, 2) from a Gemm or a MatMul, with Add or without, or (N, 2, H, W) from a
            convolution, with Resize behind it or without; it is left as it was.
        positive_class: 0 or 1.

    Returns:
        A new model whose output has one channel, the sigmoid of which is the probability that softmax gave the
        positive class. None when the graph does not end in such a layer.
    """
    made = ir.from_proto(model)
    output = made.graph.outputs[0]
    shape = list(output.shape or ())
    if len(made.graph.outputs) != 1 or len(shape) < 2 or shape[1] != 2:
        return None
    resize = output.producer()
    if resize is None or resize.op_type != "Resize":
        logits, resize = output, None
    elif _resizes_any_channels(resize) and resize.inputs[0] is not None:
        logits = resize.inputs[0]
    else:
        return None
    places = _class_constants(logits, len(shape))
    if places is None or not {use.node for use in logits.uses() if use.node.op_type != "Shape"} <= {resize}:
        return None

    for node, index, axis in places:
        array = _array(node, index)
        assert array is not None
        wide = array.astype(np.float64)
        difference = wide.take([positive_class], axis) - wide.take([1 - positive_class], axis)
        _replace(made.graph, node, index, difference.astype(array.dtype))
        node.outputs[0].shape = None
    sizes = None if resize is None else _array(resize, 3)
    if resize is not None and sizes is not None:
        _replace(made.graph, resize, 3, np.array([sizes[0], 1, *sizes[2:]]))
    output.shape = ir.Shape([shape[0], 1, *shape[2:]])
    ir_passes.RemoveUnusedNodesPass()(made)
    return ir.to_proto(made)


def _class_constants(logits: ir.Value, rank: int) -> list[_Place] | None:
    """The constants that make two classes of features, or None where the layer is of another kind."""
    node = logits.producer()
    if node is None:
        return None
    if node.op_type == "Conv" and rank == 4 and node.attributes.get_int("group", 1) == 1:
        places = [(node, 1, 0), (node, 2, 0)]
    elif node.op_type == "Gemm" and rank == 2:
        places = [(node, 1, 0 if node.attributes.get_int("transB", 0) else 1), (node, 2, -1)]
    elif node.op_type == "MatMul" and rank == 2:
        places = [(node, 1, 1)]
    elif node.op_type == "Add" and rank == 2:
        makers = [None if value is None else value.producer() for value in node.inputs]
        matmuls = [maker for maker in makers if maker is not None and maker.op_type == "MatMul"]
        if len(matmuls) != 1 or len(matmuls[0].outputs[0].uses()) != 1:
            return None
        places = [(matmuls[0], 1, 1), (node, 1 - makers.index(matmuls[0]), -1)]
    else:
        return None
    present = [place for place in places if place[1] < len(place[0].inputs) and place[0].inputs[place[1]] is not None]
    arrays = [_array(node, index) for node, index, _ in present]
    two = all(a is not None and a.ndim and a.shape[axis] == 2 for a, (_, _, axis) in zip(arrays, present, strict=True))
    return present if two else None


def _resizes_any_channels(resize: ir.Node) -> bool:
    """Whether a Resize is linear in its values and takes one channel where it took two."""
    mode = resize.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if mode == "tf_crop_and_resize" or "axes" in resize.attributes:  # the first extrapolates with a constant
        return False
    sizes = resize.inputs[3] if len(resize.inputs) > 3 else None
    if sizes is None or _array(resize, 3) is not None:
        return True
    # Read at run time: batch and channels from the logits themselves, then a height and width.
    concat = sizes.producer()
    first = concat.inputs[0] if concat is not None and concat.op_type == "Concat" else None
    shape = first.producer() if first is not None else None
    if shape is None or shape.op_type != "Shape" or shape.inputs[0] is not resize.inputs[0]:
        return False
    return (shape.attributes.get_int("start", 0), shape.attributes.get_int("end", 4)) == (0, 2)


def _array(node: ir.Node, index: int) -> np.ndarray | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: np.ndarray) -> None:
    """Give one input of one node a constant of its own; whoever else reads the old one still does."""
    old = node.inputs[index]
    assert old is not None
    tape = ir.tape.Tape()
    value = tape.initializer(ir.tensor(array, name=f"{old.name}.difference"))
    graph.register_initializer(value)
    node.replace_input_with(index, value)
