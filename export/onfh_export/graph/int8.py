"""Weights in eight bits, activations rounded to eight bits as they come: matrix products a CPU does faster."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from onfh_runtime.errors import UsageError

__all__ = ["int8_from_float"]


def int8_from_float(source: Path, out: Path) -> onnx.ModelProto:
    """Write a graph whose matrix products with constant weights are DynamicQuantizeLinear and MatMulInteger.

    Each column of a weight has a scale of its own; so has each activation, found whenever it is computed, over all rows
    of the batch: a row answers as it does alone only when it is alone. Everything else stays FP32, products of two
    activations (attention) and convolutions too. Inputs and outputs are FP32.

    Weights use seven of the eight bits: processors without VNNI add pairs of products in 16 bits, which full weights
    would overflow. So the integers are the same on every processor.

    Args:
        source: an FP32 ONNX file, cleaned.
        out: the file to write.

    Returns:
        What was written.

    Raises:
        UsageError: ``option_unsupported`` when no product has constant weights.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load(source)
    add_pre_process_metadata(model)  # cleaned it is: without this mark, the library asks for it
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.onnx"
        quantize_dynamic(
            model,
            made,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        quantized = onnx.load(made)
    if not any(node.op_type == "MatMulInteger" for node in quantized.graph.node):
        raise UsageError(
            "option_unsupported",
            f"{source.parent.name} has no matrix product with constant weights, so INT8 weights would change nothing.",
            "Leave out --classifier-int8.",
        )
    del quantized.metadata_props[:]
    onnx.checker.check_model(quantized)
    onnx.save(quantized, out)
    return quantized
