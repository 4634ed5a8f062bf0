"""Weights in eight bits, activations rounded to eight bits as they come: matrix products a CPU does faster."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import onnx

from onfh_export.graph.precision import named

__all__ = ["int8_from_float", "products"]


def products(model: onnx.ModelProto) -> dict[str, bool]:
    """Matrix products with constant weights, by name: whether each has fewer columns out than in.

    Those that do follow an activation function in a transformer, and what they read has outliers that a common scale
    for all of it rounds everything else away for.
    """
    weights = {weight.name: list(weight.dims) for weight in model.graph.initializer if len(weight.dims) == 2}
    return {
        node.name: weights[node.input[1]][1] < weights[node.input[1]][0]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights
    }


def int8_from_float(model: onnx.ModelProto, out: Path, *, keep: Collection[str] = ()) -> None:
    """Write a graph whose matrix products with constant weights are DynamicQuantizeLinear and MatMulInteger.

    Each column of a weight has a scale of its own; so has each activation, found whenever it is computed, over all rows
    of the batch: a row answers as it does alone only when it is alone. Everything else stays FP32, products of two
    activations (attention) and convolutions too. Inputs and outputs are FP32.

    Args:
        model: FP32, cleaned, unchanged; nodes without a name are called as by
            :func:`~onfh_export.graph.precision.named`.
        out: the file to write.
        keep: names of products that stay FP32; not all of them.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    named(marked)
    add_pre_process_metadata(marked)  # cleaned it is: without this mark, the library asks for it
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.onnx"
        quantize_dynamic(
            marked,
            made,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[name for name in products(marked) if name not in keep],
        )
        quantized = onnx.load(made)
    del quantized.metadata_props[:]
    onnx.checker.check_model(quantized)
    onnx.save(quantized, out)
