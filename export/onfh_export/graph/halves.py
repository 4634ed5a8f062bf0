"""FP16 and BF16 numbers in ONNX tensors."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onfh_runtime.errors import OnfhError

__all__ = [
    "HALF_TYPES",
    "LARGEST",
    "SMALLEST_NORMAL",
    "Half",
    "floats_from_half",
    "half_from_floats",
    "half_from_weight",
]

Half = Literal["fp16", "bf16"]

HALF_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST = {"fp16": 65504.0, "bf16": 3.3895313892515355e38}
"""The largest finite number of each type."""
SMALLEST_NORMAL = {"fp16": 2.0**-14, "bf16": 2.0**-126}
"""Below it a number keeps fewer significant bits than its type has."""


def half_from_weight(weight: TensorProto, name: str, kind: int) -> TensorProto:
    """The FP32 ``weight`` as ``kind`` (FLOAT16 or BFLOAT16), rounded to nearest, called ``name``.

    Raises:
        OnfhError: ``weight_overflow`` when a finite value is infinite in half.
    """
    values = numpy_helper.to_array(weight)
    half = half_from_floats(values, name, kind)
    lost = np.isfinite(values) & ~np.isfinite(floats_from_half(half))
    if lost.any():
        raise OnfhError(
            "weight_overflow",
            f"The weight {weight.name} holds {values[lost].flat[0]:g}, beyond what a half can hold.",
            "Keep the nodes that read it in FP32.",
        )
    return half


def half_from_floats(values: NDArray[np.float32], name: str, kind: int) -> TensorProto:
    """An array as ``kind``, rounded to nearest, ties to even; what is too large becomes infinite."""
    if kind == TensorProto.BFLOAT16:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)  # BF16 is the upper half of an FP32
        raw = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    else:
        with np.errstate(over="ignore"):
            raw = values.astype("<f2")
    return TensorProto(name=name, data_type=kind, dims=values.shape, raw_data=raw.tobytes())


def floats_from_half(tensor: TensorProto) -> NDArray[np.float32]:
    """The exact values of an FP16 or BF16 tensor."""
    if tensor.data_type == TensorProto.FLOAT16 or not tensor.raw_data:
        floats: NDArray[np.float32] = numpy_helper.to_array(tensor).astype(np.float32)
        return floats
    bits = np.frombuffer(tensor.raw_data, "<u2").astype(np.uint32) << 16
    return bits.view(np.float32).reshape(tuple(tensor.dims))
