"""ONNX operators in torch against ONNX Runtime; whole graphs are in test_gpu_studies.py."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

CASES = {
    "AveragePool": ({"kernel_shape": [2, 2], "strides": [2, 2]}, []),
    "Conv": ({"pads": [1, 1, 1, 1], "strides": [2, 2], "group": 2}, [np.ones((4, 2, 3, 3), np.float32)]),
    "Gather": ({"axis": 1}, [np.array([[3, 0], [1, 1]])]),
    "Pad": ({}, [np.array([0, 0, 1, 0, 0, 0, 2, 1])]),
    "ReduceMean": ({"keepdims": 0}, [np.array([-1, -2])]),
    "Reshape": ({}, [np.array([0, -1, 2])]),
    "Resize": ({"mode": "linear"}, [None, np.array([1, 1, 1.5, 2], np.float32)]),
    "Slice": ({}, [np.array([-3, 1]), np.array([np.iinfo(np.int64).max, -1]), np.array([2, 1]), np.array([2, 1])]),
    "Softmax": ({"axis": 1}, []),
    "Transpose": ({"perm": [0, 2, 3, 1]}, []),
}


def saved(path, operator, attributes, constants, outputs=1):
    names = ["" if value is None else f"c{index}" for index, value in enumerate(constants)]
    made = [f"made{index}" for index in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *names], made, **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 4])],
        [helper.make_tensor_value_info(made[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for value, name in zip(constants, names, strict=True) if name],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize("operator", CASES)
def test_an_operator_answers_as_onnx_runtime_does(tmp_path, operator):
    from onnx_torch import OnnxInTorch

    path = saved(tmp_path / "one.onnx", operator, *CASES[operator])
    values = np.random.default_rng(0).random((3, 4, 6, 4), np.float32)
    (expected,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": values})
    with torch.inference_mode():
        answer = OnnxInTorch(path, "cpu")(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6, strict=True)


@pytest.mark.parametrize(
    ("operator", "attributes", "constants"),
    [
        ("Selu", {}, []),
        ("Conv", {"pads": [0, 0, 1, 1]}, [np.ones((4, 4, 3, 3), np.float32)]),
        ("Resize", {"mode": "nearest"}, [None, np.array([1, 1, 2, 2], np.float32)]),
    ],
)
def test_what_is_not_known_is_refused_by_name(tmp_path, operator, attributes, constants):
    from onnx_torch import OnnxInTorch

    with pytest.raises(NotImplementedError, match=operator):
        OnnxInTorch(saved(tmp_path / "one.onnx", operator, attributes, constants), "cpu")
