"""A 3x3 convolution over concatenated upsampled maps, rewritten to mix channels before it upsamples.

UperNet's decoder concatenates maps of several resolutions, each upsampled to the largest, and convolves the lot. Mixing
channels and bilinear interpolation commute, so of an upsampled map

    conv3x3(upsample(x)) = sum over taps of shift(upsample(W_tap x))

and the costly product with the weights may run at the map's own resolution. The nine taps then meet in two matrix
products, first over rows, then over columns: shift, border padding and interpolation of a row of taps are one constant
matrix each. The sums are those of the original in another order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes

__all__ = ["mix_channels_early"]

Array = npt.NDArray[np.float64]

LARGEST_SHARE = 0.5
"""A map is rewritten when its multiply-accumulates fall to this share or below, interpolation included. Measured with
ONNX Runtime's CPU provider, 8 to 256 channels: between a half and the whole it is a toss-up, because constant matrices
are less efficient than a convolution and the taps are copied once."""
SMALLEST_SAVING = 10_000_000
"""Multiply-accumulates a map must save: a tenth of a millisecond, what seven more nodes cost on a small map."""
_MODES = ("half_pixel", "pytorch_half_pixel", "align_corners")


def mix_channels_early(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Rewrite every 3x3 convolution over a concatenation of upsampled maps that becomes cheaper by it.

    A convolution qualifies with stride 1, padding 1, no dilation, one group and constant FP32 weights; a batch
    normalization behind it is folded in. A map qualifies when a bilinear Resize of a static height and width makes it
    and it meets :data:`LARGEST_SHARE` and :data:`SMALLEST_SAVING`. Other maps stay as they are.

    Args:
        model: an FP32 graph; it is left as it was. The batch may be symbolic.

    Returns:
        The model to use from here on (``model`` itself where nothing pays), and a line per rewritten convolution such
        as "fpn_bottleneck: 154.6 to 57.3 GMAC", interpolation included.
    """
    rewritten = ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))
    lines: list[str] = []
    for node in list(rewritten.graph):
        concat = _concatenation(node)
        if concat is not None:
            lines += _rewrite(rewritten.graph, concat, node, f"early{len(lines)}_{_label(node)}")
    if not lines:
        return model, ()
    ir_passes.RemoveUnusedNodesPass()(rewritten)
    return ir.to_proto(rewritten), tuple(lines)


@dataclass(frozen=True)
class _Upsampled:
    """A map before its upsampling.

    Attributes:
        source: (N, C, h, w).
        rows, columns: interpolation matrices, (H, h) and (W, w).
    """

    source: ir.Value
    rows: Array
    columns: Array

    def macs(self, given: int, made: int) -> int:
        """Multiply-accumulates of ``made`` output channels from ``given``: taps, rows, columns."""
        (height, low_height), (width, low_width) = self.rows.shape, self.columns.shape
        taps = 9 * given * low_height * low_width
        return made * int(taps + 9 * height * low_height * low_width + 3 * height * low_width * width)


def _rewrite(graph: ir.Graph, concat: ir.Node, conv: ir.Node, prefix: str) -> list[str]:
    """Rewrite one convolution; no line where nothing pays."""
    maps = [value for value in concat.inputs if value is not None]
    channels, size = [_channels(value) for value in maps], _size(conv.outputs[0])
    weights, bias = _constant(conv, 1), _constant(conv, 2)
    if weights is None or size is None or sum(channels) != weights.shape[1]:
        return []
    last, scale, shift = _folded_normalization(conv)
    weights, made = weights * scale[:, None, None, None], len(weights)
    bias = shift if bias is None else bias * scale + shift

    kept: list[tuple[ir.Value, Array]] = []
    early: list[tuple[_Upsampled, Array]] = []
    before = after = 0
    for value, part in zip(maps, np.split(weights, np.cumsum(channels)[:-1], axis=1), strict=True):
        direct = part.size * size[0] * size[1]
        upsampled = _upsampled(value)
        macs = direct if upsampled is None else upsampled.macs(part.shape[1], made)
        pays = macs <= LARGEST_SHARE * direct and direct - macs >= SMALLEST_SAVING
        if upsampled is not None and pays:
            early.append((upsampled, part))
        else:
            kept.append((value, part))
        before, after = before + direct, after + (macs if pays else direct)
    if not early:
        return []

    tape = ir.tape.Tape()
    shares = _direct(tape, kept, bias, prefix)
    for number, (upsampled, part) in enumerate(early):
        shares.append(_mixed_then_upsampled(tape, upsampled, part, f"{prefix}/{number}"))
    total = shares[0]
    for number, share in enumerate(shares[1:]):
        total = tape.op("Add", [total, share], name=f"{prefix}/sum{number}")
    for initializer in tape.initializers:
        graph.register_initializer(initializer)
    digits = 1 if after >= 1e9 else 3
    line = f"{_label(conv)}: {before / 1e9:.{digits}f} to {after / 1e9:.{digits}f} GMAC"
    replaced = [conv] if last is conv else [last, conv]
    ir.convenience.replace_nodes_and_values(graph, conv, replaced, tape.nodes, [last.outputs[0]], [total])
    return [line]


def _direct(tape: ir.tape.Tape, kept: list[tuple[ir.Value, Array]], bias: Array, prefix: str) -> list[ir.Value]:
    """The convolution over the maps that stay, bias included; where none stays only the bias, if there is one."""
    if not kept:
        return [_initializer(tape, f"{prefix}/bias", bias.reshape(1, -1, 1, 1))] if bias.any() else []
    values = [value for value, _ in kept]
    joined = values[0] if len(values) == 1 else tape.op("Concat", values, {"axis": 1}, name=f"{prefix}/kept")
    inputs: list[ir.Value | None] = [joined]
    inputs.append(_initializer(tape, f"{prefix}/weight", np.concatenate([part for _, part in kept], axis=1)))
    if bias.any():
        inputs.append(_initializer(tape, f"{prefix}/bias", bias))
    return [tape.op("Conv", inputs, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, name=f"{prefix}/conv")]


def _mixed_then_upsampled(tape: ir.tape.Tape, upsampled: _Upsampled, weights: Array, prefix: str) -> ir.Value:
    """The share of one map, (N, made, H, W), from its weights (made, given, 3, 3)."""
    (height, low_height), (_, low_width) = upsampled.rows.shape, upsampled.columns.shape
    made, given = weights.shape[:2]
    # Output channels in the order (x tap, channel, y tap): the y taps of a channel and its rows are then one axis.
    taps = weights.transpose(3, 0, 2, 1).reshape(9 * made, given, 1, 1)
    value = tape.op(
        "Conv",
        [upsampled.source, _initializer(tape, f"{prefix}/taps", taps)],
        {"kernel_shape": [1, 1]},
        name=f"{prefix}/mix",
    )
    value = _reshape(tape, value, (3 * made, 3 * low_height, low_width), f"{prefix}/stack_rows")
    rows = _shifted(upsampled.rows).transpose(1, 0, 2).reshape(height, 3 * low_height)
    value = tape.op("MatMul", [_initializer(tape, f"{prefix}/rows", rows), value], name=f"{prefix}/upsample_rows")
    value = _reshape(tape, value, (3, made * height, low_width), f"{prefix}/split_taps")
    value = tape.op("Transpose", [value], {"perm": [0, 2, 1, 3]}, name=f"{prefix}/gather_taps")
    value = _reshape(tape, value, (made, height, 3 * low_width), f"{prefix}/stack_columns")
    columns = _shifted(upsampled.columns).transpose(0, 2, 1).reshape(3 * low_width, -1)
    columns_value = _initializer(tape, f"{prefix}/columns", columns)
    return tape.op("MatMul", [value, columns_value], name=f"{prefix}/upsample_columns")


def _shifted(interpolation: Array) -> Array:
    """(3, out, in): what output pixel ``i`` sees of output pixels i - 1, i and i + 1; zero beyond the border."""
    length = len(interpolation)
    padded = np.pad(interpolation, ((1, 1), (0, 0)))
    return np.stack([padded[tap : tap + length] for tap in range(3)])


def _upsampled(value: ir.Value | None) -> _Upsampled | None:
    node = value.producer() if value is not None else None
    if node is None or value is None or node.op_type != "Resize" or node.inputs[0] is None:
        return None
    attributes = node.attributes
    mode = attributes.get_string("coordinate_transformation_mode", "half_pixel")
    plain = not attributes.get_int("antialias", 0) and "axes" not in attributes
    plain = plain and attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
    source, before, after = node.inputs[0], _size(node.inputs[0]), _size(value)
    if attributes.get_string("mode", "nearest") != "linear" or mode not in _MODES or not plain:
        return None
    if before is None or after is None or _channels(source) != _channels(value):
        return None
    if len(node.inputs) > 3 and node.inputs[3] is not None:  # the size is given, not the factor
        factors = (after[0] / before[0], after[1] / before[1])
    else:
        scales = _constant(node, 2)
        if scales is None or len(scales) != 4 or scales[0] != 1:
            return None
        factors = (float(scales[2]), float(scales[3]))
    rows, columns = (_interpolation(*axis, mode) for axis in zip(before, after, factors, strict=True))
    return _Upsampled(source, rows, columns)


def _interpolation(before: int, after: int, scale: float, mode: str) -> Array:
    """The matrix (after, before) of ONNX's linear Resize along one axis; outside the map its border repeats."""
    positions = np.arange(after, dtype=np.float64)
    if mode == "align_corners":
        positions *= (before - 1) / max(after - 1, 1)
    elif mode == "pytorch_half_pixel" and after == 1:
        positions[:] = 0
    else:
        positions = (positions + 0.5) / scale - 0.5
    positions = positions.clip(0, before - 1)
    low = np.floor(positions).astype(np.intp)
    matrix = np.zeros((after, before))
    matrix[np.arange(after), low] = 1 - (positions - low)
    matrix[np.arange(after), np.minimum(low + 1, before - 1)] += positions - low
    return matrix


def _folded_normalization(conv: ir.Node) -> tuple[ir.Node, Array, Array]:
    """The node whose output is replaced, and a scale and shift per output channel of ``conv`` that lead there."""
    made = _channels(conv.outputs[0])
    consumers = [use.node for use in conv.outputs[0].uses()]
    if len(consumers) == 1 and consumers[0].op_type == "BatchNormalization" and not conv.outputs[0].is_graph_output():
        node = consumers[0]
        parameters = [_constant(node, index) for index in range(1, 5)]
        if all(p is not None for p in parameters) and not node.attributes.get_int("training_mode", 0):
            scale, shift, mean, variance = (p for p in parameters if p is not None)
            scale = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
            return node, scale, shift - mean * scale
    return conv, np.ones(made), np.zeros(made)


def _concatenation(conv: ir.Node) -> ir.Node | None:
    """The Concat of channels that a plain 3x3 convolution with constant FP32 weights reads; None of other nodes."""
    if conv.op_type != "Conv":
        return None
    given, weights, bias = conv.inputs[0], conv.inputs[1], conv.inputs[2] if len(conv.inputs) > 2 else None
    if _constant(conv, 1) is None or (bias is not None and _constant(conv, 2) is None):
        return None
    concat = given.producer() if given is not None else None
    attributes = conv.attributes
    steps = [*attributes.get_ints("strides", ()), *attributes.get_ints("dilations", ())]
    padded = list(attributes.get_ints("pads", ())) == [1] * 4
    automatic = attributes.get_string("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    plain = attributes.get_int("group", 1) == 1 and all(step == 1 for step in steps) and (padded or automatic)
    if concat is None or concat.op_type != "Concat" or concat.attributes.get_int("axis", 0) not in (1, -3):
        return None
    if not plain or weights is None or weights.dtype != ir.DataType.FLOAT or weights.shape is None:
        return None
    return concat if tuple(weights.shape[2:]) == (3, 3) else None


def _constant(node: ir.Node, index: int) -> Array | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy().astype(np.float64)


def _initializer(tape: ir.tape.Tape, name: str, array: Array) -> ir.Value:
    return tape.initializer(ir.tensor(np.ascontiguousarray(array, dtype=np.float32), name=name))


def _reshape(tape: ir.tape.Tape, value: ir.Value, shape: tuple[int, ...], name: str) -> ir.Value:
    """Reshape to (N, *shape); the batch stays a symbol."""
    target = tape.initializer(ir.tensor(np.array([0, *shape], dtype=np.int64), name=f"{name}/shape"))
    return tape.op("Reshape", [value, target], name=name)


def _channels(value: ir.Value | None) -> int:
    """Channels of (N, C, H, W); 0 where unknown."""
    shape = value.shape if value is not None else None
    return shape[1] if shape is not None and len(shape) == 4 and isinstance(shape[1], int) else 0


def _size(value: ir.Value) -> tuple[int, int] | None:
    """Static height and width of (N, C, H, W)."""
    if value.shape is None or len(value.shape) != 4:
        return None
    height, width = value.shape[2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _label(conv: ir.Node) -> str:
    """The convolution as its network calls it: "fpn_bottleneck" of "decode_head.fpn_bottleneck.conv.weight"."""
    weights = conv.inputs[1]
    names = (weights.name or "").split(".") if weights is not None else []
    told = [name for name in names if name not in ("conv", "weight")]
    return told[-1] if len(names) > 1 and told else conv.name or "Conv"
