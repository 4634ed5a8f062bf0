"""The sums inside a node that half could not hold if a kernel kept them in half: probes that lay them open.

That is pessimistic, most kernels sum in FP32, but a graph cannot tell a compiler to. GELU needs no probe: where its
cube overflows, its tanh is 1 all the same. Matrix products and convolutions need none either: tensor cores add in FP32,
and what they store is an output, which is measured as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from onnx import NodeProto, helper

__all__ = ["inside", "probes"]

Shape = tuple[int | None, ...]


class _Probe:
    """Nodes appended to a graph; every method returns the name of what it computes."""

    def __init__(self, node: NodeProto, opset: int) -> None:
        self.node = node
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._numbers = count()

    def add(self, operator: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        made = outputs or [f"{self.node.name}/probe_{next(self._numbers)}"]
        self.nodes.append(helper.make_node(operator, inputs, made, **attributes))
        return made[-1]

    def reduce(self, operator: str, name: str, axes: Sequence[int]) -> str:
        """Over ``axes``, which stay as 1; an attribute before opset 18, save for ReduceSum."""
        if self.opset < 18 and operator != "ReduceSum":
            return self.add(operator, name, axes=axes)
        return self.add(operator, name, self.add("Constant", value_ints=axes))

    def square_sums(self, name: str, axes: Sequence[int], *, centred: bool = True) -> dict[str, str]:
        what = "(x - mean)^2" if centred else "x^2"
        if centred:
            name = self.add("Sub", name, self.reduce("ReduceMean", name, axes))
        squares = self.add("Mul", name, name)
        return {what: squares, f"sum of {what}": self.reduce("ReduceSum", squares, axes)}


def probes(node: NodeProto, shape: Shape, opset: int) -> tuple[list[NodeProto], dict[str, str]]:
    """Nodes that compute what is inside ``node``, and the tensors to measure: :func:`inside` key -> name.

    Args:
        node: any node of the graph, with a name of its own.
        shape: of its first input.
        opset: of the graph.
    """
    build = _BUILDERS.get(node.op_type)
    if build is None or node.domain not in ("", "ai.onnx"):
        return [], {}
    probe = _Probe(node, opset)
    found = build(probe, shape)
    return probe.nodes, {inside(node.name, what): name for what, name in found.items()}


def inside(node: str, what: str = "") -> str:
    """The key under which the range of something inside a node is kept; all of a node's start with ``inside(node)``."""
    return f"inside {node}: {what}"


def _layer(probe: _Probe, shape: Shape) -> dict[str, str]:
    axis = probe.attributes.get("axis", -1) % len(shape)
    axes = range(axis, len(shape))
    return probe.square_sums(probe.node.input[0], axes, centred=probe.node.op_type == "LayerNormalization")


def _instance(probe: _Probe, shape: Shape) -> dict[str, str]:
    return probe.square_sums(probe.node.input[0], range(2, len(shape)))


def _group(probe: _Probe, shape: Shape) -> dict[str, str]:
    target = probe.add("Constant", value_ints=[0, probe.attributes["num_groups"], -1])
    return probe.square_sums(probe.add("Reshape", probe.node.input[0], target), [2])


def _softmax(probe: _Probe, shape: Shape) -> dict[str, str]:
    axes = [probe.attributes.get("axis", -1)]
    name = probe.node.input[0]
    powers = probe.add("Exp", probe.add("Sub", name, probe.reduce("ReduceMax", name, axes)))
    return {"sum of exp(x - max)": probe.reduce("ReduceSum", powers, axes)}


def _mean(probe: _Probe, shape: Shape) -> dict[str, str]:
    if "axes" in probe.attributes:
        total = probe.reduce("ReduceSum", probe.node.input[0], probe.attributes["axes"])
    else:
        total = probe.add("ReduceSum", *probe.node.input)
    return {"sum before the mean": total}


def _global_pool(probe: _Probe, shape: Shape) -> dict[str, str]:
    return {"sum before the mean": probe.reduce("ReduceSum", probe.node.input[0], range(2, len(shape)))}


def _pool(probe: _Probe, shape: Shape) -> dict[str, str]:
    window = probe.add("Constant", value_float=float(math.prod(probe.attributes["kernel_shape"])))
    return {"sum before the mean": probe.add("Mul", probe.node.output[0], window)}


def _attention(probe: _Probe, shape: Shape) -> dict[str, str]:
    # The operator's fourth output: its scores before the mask, which is what a kernel that is not fused would store.
    chosen = {name: value for name, value in probe.attributes.items() if name != "qk_matmul_output_mode"}
    outputs = [f"{probe.node.name}/probe_{part}" for part in ("answer", "key", "value", "scores")]
    if len(probe.node.input) < 5:  # without a cache there is none to return
        outputs[1:3] = ["", ""]
    return {"scaled Q K^T": probe.add("Attention", *probe.node.input, outputs=outputs, **chosen)}


_BUILDERS: dict[str, Callable[[_Probe, Shape], dict[str, str]]] = {
    "Attention": _attention,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LayerNormalization": _layer,
    "RMSNormalization": _layer,
    "ReduceMean": _mean,
    "Softmax": _softmax,
}
