"""An exported ONNX graph run by torch, node by node: for GPUs on which neither TensorRT nor ONNX Runtime runs.

It takes the operators that `onfh export` leaves in ViT, Swin, UperNet and Swin-Unet, in the precision of the graph, and
refuses any other by name. It is made for measuring, not for serving: nothing is fused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

Step = tuple[Callable[..., Any], list[str], list[str]]
_TYPES = {1: torch.float32, 7: torch.int64, 10: torch.float16, 16: torch.bfloat16}


class OnnxInTorch:
    """A graph with one input and one output.

    Args:
        path: the ONNX file.
        device: torch's name of where it runs; weights go there.

    Raises:
        NotImplementedError: an operator, or a form of it, that is not known here.
    """

    def __init__(self, path: Path, device: str) -> None:
        graph = onnx.load(path).graph
        (given,), (made,) = graph.input, graph.output
        self._given, self._made = given.name, made.name
        self._constants: dict[str, Any] = {}
        for tensor in graph.initializer:
            array = numpy_helper.to_array(tensor)
            whole = np.issubdtype(array.dtype, np.integer)  # shapes and indices, which the host needs
            self._constants[tensor.name] = array if whole else torch.from_numpy(array.copy()).to(device)
        self._steps = [self._step(node) for node in graph.node]

    def __call__(self, values: Tensor) -> Tensor:
        """(batch, C, H, W) -> logits, each of the graph's types."""
        known: dict[str, Any] = {**self._constants, self._given: values}
        for function, inputs, outputs in self._steps:
            result = function(*(known[name] if name else None for name in inputs))
            if len(outputs) == 1:
                known[outputs[0]] = result
            else:
                known.update(zip(outputs, result, strict=True))
        answer: Tensor = known[self._made]
        return answer

    def _step(self, node: onnx.NodeProto) -> Step:
        maker = _MAKERS.get(node.op_type)
        if maker is None:
            raise NotImplementedError(f"the operator {node.op_type}")
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        return maker(attributes, len(node.output)), list(node.input), list(node.output)


def _plain(function: Callable[..., Any]) -> Callable[[dict[str, Any], int], Callable[..., Any]]:
    return lambda attributes, outputs: function


def _gather(attributes: dict[str, Any], _: int) -> Callable[..., Any]:
    axis = attributes.get("axis", 0)

    def run(values: Tensor, indices: np.ndarray) -> Tensor:
        if indices.ndim == 0:
            return values.select(axis, int(indices))
        flat = torch.from_numpy(indices.reshape(-1).astype(np.int64)).to(values.device)
        shape = (*values.shape[:axis], *indices.shape, *values.shape[axis % values.ndim + 1 :])
        return values.index_select(axis, flat).reshape(shape)

    return run


def _average_pool(attributes: dict[str, Any], _: int) -> Callable[..., Any]:
    if any(attributes.get("pads", ())) or attributes.get("ceil_mode", 0):
        raise NotImplementedError(f"AveragePool with {attributes}")
    size = attributes["kernel_shape"]
    return lambda values: functional.avg_pool2d(values, size, attributes.get("strides", [1] * len(size)))


def _conv(attributes: dict[str, Any], _: int) -> Callable[..., Any]:
    pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
    if pads[:2] != pads[2:]:
        raise NotImplementedError(f"Conv with the pads {pads}")

    def run(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.conv2d(
            values, weight, bias, strides, pads[:2], attributes.get("dilations", [1, 1]), attributes.get("group", 1)
        )

    return run


def _gemm(attributes: dict[str, Any], _: int) -> Callable[..., Any]:
    if (attributes.get("alpha", 1.0), attributes.get("beta", 1.0), attributes.get("transA", 0)) != (1.0, 1.0, 0):
        raise NotImplementedError(f"Gemm with {attributes}")
    turned = attributes.get("transB", 0)
    return lambda values, weight, bias=None: functional.linear(values, weight if turned else weight.T, bias)


def _layer_norm(attributes: dict[str, Any], _: int) -> Callable[..., Any]:
    if attributes.get("axis", -1) != -1:
        raise NotImplementedError(f"LayerNormalization over axis {attributes['axis']}")
    small = attributes.get("epsilon", 1e-5)
    return lambda values, scale, bias=None: functional.layer_norm(values, scale.shape, scale, bias, small)


def _reshape(attributes: dict[str, Any], _: int) -> Callable[..., Any]:
    def run(values: Tensor, shape: np.ndarray) -> Tensor:
        keeps = not attributes.get("allowzero", 0)
        sizes = [values.shape[at] if size == 0 and keeps else size for at, size in enumerate(shape.tolist())]
        return values.reshape(sizes)

    return run


def _resize(attributes: dict[str, Any], _: int) -> Callable[..., Any]:
    form = (attributes["mode"], attributes.get("coordinate_transformation_mode", b"half_pixel"))
    if form != (b"linear", b"half_pixel") or attributes.get("antialias", 0):
        raise NotImplementedError(f"Resize with {form}")

    def run(values: Tensor, _: Any = None, scales: Any = None, sizes: np.ndarray | None = None) -> Tensor:
        if sizes is not None:
            size = sizes.tolist()[2:]
        else:
            factors = scales.tolist()[2:]
            size = [int(side * factor) for side, factor in zip(values.shape[2:], factors, strict=True)]
        return functional.interpolate(values, size, mode="bilinear", align_corners=False)

    return run


def _slice(
    values: Tensor, starts: np.ndarray, ends: np.ndarray, axes: np.ndarray | None = None, steps: Any = None
) -> Tensor:
    along = np.arange(len(starts)) if axes is None else axes
    strides = np.ones(len(starts), int) if steps is None else steps
    if (strides < 1).any():
        raise NotImplementedError(f"Slice with the steps {strides}")
    chosen = [slice(None)] * values.ndim
    for axis, *part in zip(along.tolist(), starts.tolist(), ends.tolist(), strides.tolist(), strict=True):
        chosen[axis] = slice(*part)
    return values[tuple(chosen)]


def _split(attributes: dict[str, Any], outputs: int) -> Callable[..., Any]:
    axis = attributes.get("axis", 0)

    def run(values: Tensor, sizes: np.ndarray | None = None) -> Any:
        given = sizes.tolist() if sizes is not None else -(-values.shape[axis] // outputs)
        return torch.split(values, given, axis)

    return run


def _pad(attributes: dict[str, Any], _: int) -> Callable[..., Any]:
    if attributes.get("mode", b"constant") != b"constant":
        raise NotImplementedError(f"Pad with {attributes['mode']}")

    def run(values: Tensor, pads: np.ndarray, value: Tensor | None = None, axes: np.ndarray | None = None) -> Tensor:
        if axes is not None:
            raise NotImplementedError("Pad with axes")
        count = values.ndim
        both = [int(side) for axis in reversed(range(count)) for side in (pads[axis], pads[axis + count])]
        return functional.pad(values, both, value=0.0 if value is None else float(value))

    return run


def _mean(attributes: dict[str, Any], _: int) -> Callable[..., Any]:
    keeps = bool(attributes.get("keepdims", 1))
    return lambda values, axes: values.mean(axes.tolist(), keepdim=keeps)


def _softmax(attributes: dict[str, Any], _: int) -> Callable[..., Any]:
    return lambda values: values.softmax(attributes.get("axis", -1))


_MAKERS: dict[str, Callable[[dict[str, Any], int], Callable[..., Any]]] = {
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "Cast": lambda attributes, _: lambda values: values.to(_TYPES[attributes["to"]]),
    "Concat": lambda attributes, _: lambda *values: torch.cat(values, attributes["axis"]),
    "Conv": _conv,
    "Div": _plain(torch.div),
    "Erf": _plain(torch.erf),
    "Gather": _gather,
    "Gemm": _gemm,
    "Identity": _plain(lambda values: values),
    "LayerNormalization": _layer_norm,
    "MatMul": _plain(torch.matmul),
    "Mul": _plain(torch.mul),
    "Pad": _pad,
    "ReduceMean": _mean,
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _plain(_slice),
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Sub": _plain(torch.sub),
    "Transpose": lambda attributes, _: lambda values: values.permute(attributes["perm"]),
}
