"""Half numbers in ONNX tensors are those that PyTorch would make."""

import numpy as np
import onnx
import pytest
import torch

from onfh_export.graph.halves import HALF_TYPES, LARGEST, SMALLEST_NORMAL, floats_from_half, half_from_weight
from onfh_runtime.errors import OnfhError

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_it_rounds_as_torch_does(dtype):
    values = np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32) * np.float32(10) ** np.arange(
        -20, 20
    )
    values = np.where(np.abs(values) < LARGEST[dtype], values, 1).astype(np.float32)
    values[0, :4] = [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, -(1 + 3 * 2**-8)]  # ties of either type
    half = half_from_weight(onnx.numpy_helper.from_array(values, "w"), "w_half", HALF_TYPES[dtype])
    expected = torch.from_numpy(values).to(TORCH[dtype])
    assert (half.name, list(half.dims), half.data_type) == ("w_half", [50, 40], HALF_TYPES[dtype])
    assert half.raw_data == expected.view(torch.int16).numpy().tobytes()
    np.testing.assert_array_equal(floats_from_half(half), expected.float().numpy())


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_its_limits_are_those_of_torch(dtype):
    assert LARGEST[dtype] == torch.finfo(TORCH[dtype]).max
    assert SMALLEST_NORMAL[dtype] == torch.finfo(TORCH[dtype]).smallest_normal


def test_a_weight_that_becomes_infinite_is_refused_and_one_that_is_infinite_is_not():
    weight = onnx.numpy_helper.from_array(np.array([1, 65519, -np.inf], np.float32), "mask")
    half = half_from_weight(weight, "half", HALF_TYPES["fp16"])
    np.testing.assert_array_equal(floats_from_half(half), [1, 65504, -np.inf])
    with pytest.raises(OnfhError, match="mask holds 65520"):
        half_from_weight(onnx.numpy_helper.from_array(np.array([65520], np.float32), "mask"), "half", 10)
