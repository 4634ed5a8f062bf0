"""Ranges are those of the tensors and of what is inside nodes, row by row, and nothing else leaves the session."""

import numpy as np
import onnx
import pytest

from onfh_export.graph.insides import inside
from onfh_export.graph.precision import named
from onfh_export.graph.ranges import activation_ranges
from onfh_export.graph.shapes import tensors_of


def _rows(shape=(5, 8), seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
@pytest.mark.parametrize("batch", [1, 2])
def test_every_float_tensor_of_a_stage_has_the_range_of_its_values(stages, answers, stage, batch):
    model = stages[stage]
    rows = _rows((2, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])))
    ranges = activation_ranges(model, rows, batch=batch)
    weights = {weight.name for weight in model.graph.initializer}
    floats = {name for name, t in tensors_of(model).items() if t.type == onnx.TensorProto.FLOAT}
    assert ranges.keys() >= floats
    watched = onnx.ModelProto.FromString(model.SerializeToString())
    names = sorted(floats - weights - {"pixel_values", "logits"})
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    for name, values in answers(watched, rows, names).items():
        magnitude, found = np.abs(values.astype(np.float64)), ranges[name]
        assert found.max_abs == pytest.approx(magnitude.max(), rel=1e-3), name
        tiny = magnitude[magnitude < 2.0**-14].sum() / max(magnitude.sum(), 1e-30)
        assert found.share_underflow == pytest.approx(tiny, abs=1e-4), name
        assert not found.constant
        assert not found.has_nan
    assert all(ranges[name].constant for name in weights & floats)


def test_the_smallest_magnitude_and_the_share_that_underflows(onnx_model):
    rows = np.float32([[1e-6, 2e-6, 0, 0, 0, 0, 0, 0], [-1e-5, 3, 0, 0, 0, 0, 0, 0]])
    model = onnx_model("tiny = Mul(pixel_values, k) logits = Neg(pixel_values)", weights={"k": np.float32([1e-8])})
    ranges = activation_ranges(model, rows)
    assert ranges["logits"].min_nonzero_abs == pytest.approx(1e-6)
    assert ranges["logits"].share_underflow == pytest.approx(1.3e-5 / 3.000013, rel=1e-3)
    assert ranges["tiny"].share_underflow == pytest.approx(1)
    assert ranges["k"].share_underflow == 1
    nothing = activation_ranges(model, np.zeros((1, 8), np.float32))["logits"]
    assert (nothing.max_abs, nothing.min_nonzero_abs, nothing.share_underflow) == (0, np.inf, 0)


def test_nan_and_infinity_are_told_apart(onnx_model):
    model = onnx_model("root = Sqrt(pixel_values) logits = Exp(pixel_values)")
    ranges = activation_ranges(model, np.float32([[-1, 4, 1, 1, 1, 1, 1, 100]]))
    assert (ranges["root"].has_nan, ranges["root"].max_abs) == (True, np.inf)
    assert (ranges["logits"].has_nan, ranges["logits"].max_abs) == (False, np.inf)
    mask = np.float32([0, -np.inf, 7, 0, 0, 0, 0, 0])
    weight = activation_ranges(onnx_model("logits = Mul(pixel_values, k)", weights={"k": mask}), _rows())["k"]
    assert (weight.max_abs, weight.has_nan) == (7, False)


@pytest.mark.parametrize("opset", [17, 18])
def test_what_is_inside_normalisations_and_means(onnx_model, opset):
    axes = "axes" if opset > 17 else ""
    mean = "ReduceMean(cube, axes)" if axes else "ReduceMean <axes = [2, 3]> (cube)"
    body = f"""
        cube = Reshape(pixel_values, four)
        layer = LayerNormalization <axis = -2> (cube, s, b)
        instance = InstanceNormalization(cube, ones, zeros)
        soft = Softmax <axis = 1> (cube)
        mean = {mean}
        pool = GlobalAveragePool(cube)
        window = AveragePool <kernel_shape = [2, 2]> (cube)
        logits = Reshape(layer, two)
    """
    weights = {"four": np.array([0, 2, 2, 2]), "two": np.array([0, 8]), "s": np.ones((2, 2), np.float32)}
    weights |= {"b": np.zeros((2, 2), np.float32), "ones": np.ones(2, np.float32), "zeros": np.zeros(2, np.float32)}
    weights |= {"axes": np.array([2, 3])} if axes else {}
    rows = _rows(scale=50)
    ranges = activation_ranges(onnx_model(body, weights=weights, opset=opset), rows)
    cube = rows.reshape(5, 2, 2, 2).astype(np.float64)
    squares = (cube - cube.mean((2, 3), keepdims=True)) ** 2
    for node in ("LayerNormalization_0", "InstanceNormalization_0"):
        assert ranges[inside(node, "(x - mean)^2")].max_abs == pytest.approx(squares.max(), rel=1e-4)
        assert ranges[inside(node, "sum of (x - mean)^2")].max_abs == pytest.approx(squares.sum((2, 3)).max(), rel=1e-4)
    powers = np.exp(cube - cube.max(1, keepdims=True)).sum(1)
    assert ranges[inside("Softmax_0", "sum of exp(x - max)")].max_abs == pytest.approx(powers.max(), rel=1e-4)
    for node in ("ReduceMean_0", "GlobalAveragePool_0", "AveragePool_0"):
        total = np.abs(cube.sum((2, 3))).max()
        assert ranges[inside(node, "sum before the mean")].max_abs == pytest.approx(total, rel=1e-4)


def test_what_is_inside_a_group_normalisation(onnx_model):
    body = """
        cube = Reshape(pixel_values, shape)
        normal = GroupNormalization <num_groups = 2> (cube, ones, zeros)
        logits = Reshape(normal, two)
    """
    weights = {"shape": np.array([0, 4, 2]), "two": np.array([0, 8])}
    weights |= {"ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32)}
    rows = _rows(scale=50)
    model = onnx_model(body, weights=weights, opset=21)
    # onnx infers no type for this operator; exporters write it down.
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("normal", onnx.TensorProto.FLOAT, ["batch", 4, 2]))
    ranges = activation_ranges(model, rows)
    groups = rows.reshape(5, 2, 4).astype(np.float64)
    expected = ((groups - groups.mean(2, keepdims=True)) ** 2).sum(2).max()
    found = ranges[inside("GroupNormalization_0", "sum of (x - mean)^2")]
    assert found.max_abs == pytest.approx(expected, rel=1e-4)


def test_what_is_inside_attention_and_rms_normalisation(onnx_model):
    body = """
        q = Reshape(pixel_values, shape)
        y = Attention <scale = 3.0> (q, q, q)
        normal = RMSNormalization(y, gamma)
        logits = Reshape(normal, two)
    """
    weights = {"shape": np.array([0, 1, 2, 4]), "two": np.array([0, 8]), "gamma": np.ones(4, np.float32)}
    rows = _rows(scale=50)
    model = onnx_model(body, weights=weights, opset=23)
    ranges = activation_ranges(model, rows)
    query = rows.reshape(5, 2, 4).astype(np.float64)
    scores = np.abs(3 * query @ query.transpose(0, 2, 1)).max()
    assert ranges[inside("Attention_0", "scaled Q K^T")].max_abs == pytest.approx(scores, rel=1e-4)
    squares = ranges[inside("RMSNormalization_0", "sum of x^2")]
    assert squares.max_abs >= ranges[inside("RMSNormalization_0", "x^2")].max_abs > ranges["y"].max_abs


def test_the_model_is_left_alone(onnx_model):
    model = named(onnx_model("logits = Softmax(pixel_values)"))
    before = model.SerializeToString()
    activation_ranges(model, _rows())
    assert model.SerializeToString() == before
