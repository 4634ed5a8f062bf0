"""Shapes and types are inferred without the values of large weights, for one row where asked."""

import numpy as np
import onnx

from onfh_export.graph.shapes import Tensor, skeleton, tensors_of

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def test_shapes_that_hang_on_the_batch(onnx_model):
    body = "size = Shape(pixel_values) grown = MatMul(pixel_values, w) logits = Reshape(grown, flat)"
    weights = {"w": np.ones((8, 32), np.float32), "flat": np.array([-1, 16])}
    model = onnx_model(body, weights=weights, answer="float[n,16] logits")
    found = tensors_of(model, batch=3)
    assert found["grown"] == Tensor(FLOAT, (3, 32))
    assert found["logits"] == Tensor(FLOAT, (6, 16))
    assert found["size"] == Tensor(INT64, (2,))
    assert (found["w"].size, tensors_of(model)["grown"].size) == (256, None)


def test_a_skeleton_has_no_large_weights_and_the_model_keeps_them(onnx_model):
    body = "grown = MatMul(pixel_values, w) logits = Reshape(grown, flat)"
    model = onnx_model(body, weights={"w": np.ones((8, 32), np.float32), "flat": np.array([-1, 8])})
    before = model.SerializeToString()
    light = skeleton(model)
    assert {weight.name: len(weight.raw_data) for weight in light.graph.initializer} == {"w": 0, "flat": 16}
    assert [node.op_type for node in light.graph.node] == ["MatMul", "Reshape"]
    assert model.SerializeToString() == before
