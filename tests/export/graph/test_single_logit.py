"""One channel says what two said: its sigmoid is the softmax of the positive class."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onfh_export.graph.single_logit import single_logit
from onfh_export.onnx_export import onnx_from_network

FEATURES, SIDE = 5, 4
SIZES = {"sizes": np.array([2, 2, 7, 9], np.int64), "scales": np.array([1, 1, 2, 1.5], np.float32)}


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


def flat_head(kind, classes=2):
    """A classifier's last layer: (N, features) to (N, classes)."""
    across, down = ["features", "across"], ["features", "down"]
    return {
        "gemm": [node("Gemm", [*across, "bias"], "logits", alpha=0.5, beta=2.0)],
        "gemm, transposed": [node("Gemm", [*down, "bias"], "logits", transB=1)],
        "gemm, no bias": [node("Gemm", across, "logits")],
        "matmul": [node("MatMul", across, "logits")],
        "matmul, add": [node("MatMul", across, "product"), node("Add", ["product", "bias"], "logits")],
        "add, matmul": [node("MatMul", across, "product"), node("Add", ["bias", "product"], "logits")],
    }[kind]


def map_head(resize=None, bias=True, mode="linear", coordinates="half_pixel"):
    """A segmenter's last layer: (N, features, H, W) to (N, 2, H', W')."""
    made = "logits" if resize is None else "small"
    nodes = [node("Conv", ["features", "kernel", *(["bias"] if bias else [])], made)]
    how = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if resize == "run time":
        nodes += [
            node("Shape", [made], "shape", start=0, end=2),
            node("Concat", ["shape", "size"], "target", axis=0),
            node("Resize", [made, "", "", "target"], "logits", **how),
        ]
    elif resize == "sizes":
        nodes.append(node("Resize", [made, "", "", "sizes"], "logits", **how))
    elif resize == "scales":
        nodes.append(node("Resize", [made, "", "scales"], "logits", **how))
    return nodes


def network(nodes, *, flat, classes=2, outputs=("logits",)):
    random = np.random.default_rng(0)
    constants = {
        "across": random.standard_normal((FEATURES, classes)).astype(np.float32),
        "down": random.standard_normal((classes, FEATURES)).astype(np.float32),
        "kernel": random.standard_normal((classes, FEATURES, 1, 1)).astype(np.float32),
        "bias": random.standard_normal(classes).astype(np.float32),
        "size": np.array([7, 9], np.int64),
        "roi": np.array([0, 0, 0, 0, 1, 1, 2, 2], np.float32),
        **SIZES,
    }
    read = {name for each in nodes for name in each.input}
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items() if name in read]
    shape, made = (["batch", FEATURES], ["batch", classes])
    if not flat:
        shape, made = [*shape, SIDE, SIDE], [*made, None, None]
    given = helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, made) for name in outputs]
    graph = helper.make_graph(nodes, "head", [given], results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def answers(model, features):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: features})[0]


def assert_sigmoid_is_softmax(model, features, positive_class):
    before = model.SerializeToString()
    single = single_logit(model, positive_class=positive_class)
    assert model.SerializeToString() == before
    onnx.checker.check_model(single, full_check=True)
    assert single.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 1
    two, one = answers(model, features).astype(np.float64), answers(single, features).astype(np.float64)
    assert one.shape == (*two.shape[:1], 1, *two.shape[2:])
    wide = np.exp(two - two.max(axis=1, keepdims=True))
    softmax = (wide / wide.sum(axis=1, keepdims=True))[:, [positive_class]]
    np.testing.assert_allclose(1 / (1 + np.exp(-one)), softmax, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["gemm", "gemm, transposed", "gemm, no bias", "matmul", "matmul, add", "add, matmul"]),
    batch=st.integers(1, 5),
    positive_class=st.sampled_from([0, 1]),
    seed=st.integers(0, 1000),
)
def test_a_classifier(kind, batch, positive_class, seed):
    features = np.random.default_rng(seed).standard_normal((batch, FEATURES)).astype(np.float32)
    assert_sigmoid_is_softmax(network(flat_head(kind), flat=True), features, positive_class)


@settings(max_examples=60, deadline=None)
@given(
    resize=st.sampled_from([None, "run time", "sizes", "scales"]),
    bias=st.booleans(),
    mode=st.sampled_from(["linear", "nearest"]),
    coordinates=st.sampled_from(["half_pixel", "align_corners", "asymmetric"]),
    positive_class=st.sampled_from([0, 1]),
    seed=st.integers(0, 1000),
)
def test_a_segmenter(resize, bias, mode, coordinates, positive_class, seed):
    features = np.random.default_rng(seed).standard_normal((2, FEATURES, SIDE, SIDE)).astype(np.float32)
    model = network(map_head(resize, bias, mode, coordinates), flat=False)
    assert_sigmoid_is_softmax(model, features, positive_class)


def test_a_weight_that_others_read_stays_for_them():
    nodes = [
        node("Conv", ["features", "kernel", "bias"], "first"),
        node("Concat", ["first", "features"], "joined", axis=1),
        node("Slice", ["joined", "zeros", "fives", "axes"], "taken"),
        node("Conv", ["taken", "kernel", "bias"], "logits"),
    ]
    model = network(nodes, flat=False)
    for name, value in (("zeros", 0), ("fives", FEATURES), ("axes", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    features = np.random.default_rng(0).standard_normal((2, FEATURES, SIDE, SIDE)).astype(np.float32)
    assert_sigmoid_is_softmax(model, features, 1)


def run_time_weights():
    return [node("Mul", ["kernel", "kernel"], "squared"), node("Conv", ["features", "squared"], "logits")]


OTHERS = {
    "three classes": lambda: network(flat_head("gemm", 3), flat=True, classes=3),
    "probabilities": lambda: network(
        [node("Gemm", ["features", "across", "bias"], "raw"), node("Softmax", ["raw"], "logits", axis=1)], flat=True
    ),
    "two outputs": lambda: network(
        [*flat_head("gemm"), node("Neg", ["logits"], "also")], flat=True, outputs=("logits", "also")
    ),
    "logits read elsewhere": lambda: network(
        [node("Conv", ["features", "kernel"], "small"), node("Add", ["small", "small"], "logits")], flat=False
    ),
    "a small map read elsewhere": lambda: network(
        [*map_head("scales"), node("Neg", ["small"], "also")], flat=False, outputs=("logits", "also")
    ),
    "extrapolation": lambda: network(
        [
            node("Conv", ["features", "kernel"], "small"),
            node(
                "Resize",
                ["small", "roi", "scales"],
                "logits",
                mode="linear",
                coordinate_transformation_mode="tf_crop_and_resize",
                extrapolation_value=5.0,
            ),
        ],
        flat=False,
    ),
    "weights made at run time": lambda: network(run_time_weights(), flat=False),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_tails_are_left_alone(kind):
    model = OTHERS[kind]()
    onnx.checker.check_model(model)
    assert single_logit(model) is None


class Stage(torch.nn.Module):
    """The tail of a Transformers stage: a linear layer, or a 1x1 convolution and bilinear interpolation."""

    def __init__(self, maps):
        super().__init__()
        torch.manual_seed(0)
        self.maps = maps
        self.classifier = torch.nn.Conv2d(3, 2, 1) if maps else torch.nn.Linear(3, 2)

    def forward(self, pixel_values):
        if not self.maps:
            return SimpleNamespace(logits=self.classifier(pixel_values.mean((2, 3))))
        small = self.classifier(torch.nn.functional.avg_pool2d(pixel_values, 4))
        size = pixel_values.shape[2:]
        return SimpleNamespace(
            logits=torch.nn.functional.interpolate(small, size=size, mode="bilinear", align_corners=False)
        )


@pytest.mark.parametrize("maps", [False, True], ids=["classifier", "segmenter"])
def test_what_the_exporter_writes(maps, tmp_path):
    onnx_from_network(Stage(maps).eval(), (3, 16, 12), tmp_path / "model.onnx")
    pixels = np.random.default_rng(0).standard_normal((3, 3, 16, 12)).astype(np.float32)
    assert_sigmoid_is_softmax(onnx.load(tmp_path / "model.onnx"), pixels, 1)
