"""Whatever an ONNX file looks like, what comes out is one stage's graph that answers as the file did, or a refusal."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onfh_export.onnx_source import model_from_onnx_file
from onfh_export.stage_needs import StageNeeds
from onfh_runtime.bundle import StageInput
from onfh_runtime.errors import UsageError

RNG = np.random.default_rng(3)
WEIGHTS = RNG.standard_normal((64, 2)).astype(np.float32)
KERNEL = RNG.standard_normal((2, 1, 3, 3)).astype(np.float32)


def _needs(stage="classifier", channels=1, size=(8, 8), activation="softmax", positive_class=1):
    window = {"center": 0, "width": 1}
    given = StageInput(size=size, windows=(window,) * channels, mean=(0,) * channels, std=(1,) * channels)
    return StageNeeds(stage, given, activation, positive_class)


def _model(nodes, *, batch="n", rows=(1, 8, 8), outputs=(("y", ["n", 2]),), initializers=(), opset=18, inputs=()):
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *rows]), *inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in {"w": WEIGHTS, **dict(initializers)}.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


FLAT, TIMES = helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])
CONV = helper.make_node("Conv", ["x", "k"], ["y"], pads=[1, 1, 1, 1])


@pytest.fixture
def saved(tmp_path):
    def save(model):
        onnx.save(model, tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    return save


def _shape(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _run(model, pixels, **inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"pixel_values": pixels, **inputs})[0]


def _refused(path, code, *words, needs=None, output=None):
    with pytest.raises(UsageError) as caught:
        model_from_onnx_file(path, needs or _needs(), output)
    assert caught.value.code == code
    for word in words:
        assert word in caught.value.text
    return caught.value


@pytest.mark.parametrize("batch", ["n", 1, 4, None])
def test_the_batch_is_a_symbol_on_both_ends(saved, batch):
    model, notes = model_from_onnx_file(
        saved(_model([FLAT, TIMES], batch=batch, outputs=[("y", [batch, 2])])), _needs()
    )
    assert [_shape(value) for value in (*model.graph.input, *model.graph.output)] == [["batch", 1, 8, 8], ["batch", 2]]
    assert notes == ((f"The batch was fixed at {batch} and is a symbol now.",) if isinstance(batch, int) else ())
    onnx.checker.check_model(model, full_check=True)
    for count in (1, 2, 3, 7):
        pixels = RNG.standard_normal((count, 1, 8, 8)).astype(np.float32)
        np.testing.assert_allclose(_run(model, pixels), pixels.reshape(count, 64) @ WEIGHTS, rtol=1e-4, atol=1e-4)


def test_a_segmenter_keeps_its_map(saved):
    path = saved(_model([CONV], batch=1, outputs=[("y", [1, 2, 8, 8])], initializers={"k": KERNEL}))
    model, _ = model_from_onnx_file(path, _needs("segmenter"))
    assert _shape(model.graph.output[0]) == ["batch", 2, 8, 8]
    assert [value.name for value in model.graph.initializer] == ["k"]


@pytest.mark.parametrize(("batch", "shape"), [(1, [1, 64]), (2, [2, -1]), ("n", [1, -1])])
def test_a_shape_with_the_batch_written_into_it_is_refused(saved, batch, shape):
    reshape = helper.make_node("Reshape", ["x", "s"], ["flat"])
    path = saved(
        _model([reshape, TIMES], batch=batch, outputs=[("y", [batch, 2])], initializers={"s": np.array(shape)})
    )
    error = _refused(path, "batch_is_fixed", "fails at some batch of 1 to 3")
    assert "dynamic batch" in error.fix


def test_rows_that_mix_are_refused(saved):
    nodes = [
        FLAT,
        TIMES,
        helper.make_node("ReduceMean", ["y", "axis"], ["mean"]),
        helper.make_node("Sub", ["y", "mean"], ["z"]),
    ]
    path = saved(_model(nodes, outputs=[("z", ["n", 2])], initializers={"axis": np.array([0])}))
    _refused(path, "batch_is_fixed", "otherwise when it comes with others")


@pytest.mark.parametrize(("rows", "name"), [((1, "h", 8), "height"), ((1, 8, "w"), "width"), (("c", 8, 8), "channels")])
def test_a_symbol_other_than_the_batch_is_refused(saved, rows, name):
    pooled = [helper.make_node("GlobalAveragePool", ["x"], ["flat"]), helper.make_node("Flatten", ["flat"], ["y"])]
    error = _refused(
        saved(_model(pooled, rows=rows, outputs=[("y", ["n", "k"])])), "shape_not_static", f"The {name} of", "symbol"
    )
    assert "only the batch dynamic" in error.fix


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (_needs(channels=3), ("takes 1 channel(s) of 8 x 8", "says 3 channel(s) of 8 x 8")),
        (_needs(size=(8, 16)), ("1 channel(s) of 8 x 8", "1 channel(s) of 8 x 16")),
        (_needs(positive_class=2), ("has 2 class(es)", "positive_class 2 need at least 3")),
        (_needs("segmenter"), ("answers a row with (2,)", "(classes, height, width)")),
    ],
)
def test_a_file_that_is_another_stage_is_refused(saved, needs, words):
    _refused(saved(_model([FLAT, TIMES])), "stage_mismatch", *words, needs=needs)


def test_one_class_needs_a_sigmoid(saved):
    path = saved(_model([FLAT, TIMES], outputs=[("y", ["n", 1])], initializers={"w": WEIGHTS[:, :1]}))
    _refused(path, "stage_mismatch", "has 1 class(es)", "softmax", needs=_needs(positive_class=0))
    model, _ = model_from_onnx_file(path, _needs(activation="sigmoid", positive_class=0))
    assert _shape(model.graph.output[0]) == ["batch", 1]


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize("behind", [(), ("Identity",), ("Unsqueeze", "Squeeze")])
def test_probabilities_are_no_logits(saved, last, behind):
    nodes, name = [FLAT, TIMES, helper.make_node(last, ["y"], ["p"])], "p"
    for kind in behind:
        axes = [] if kind == "Identity" else ["axes"]
        nodes.append(helper.make_node(kind, [name, *axes], [f"{name}_"]))
        name += "_"
    path = saved(_model(nodes, outputs=[(name, ["n", 2])], initializers={"axes": np.array([2])}))
    for activation in ("softmax", "sigmoid"):
        error = _refused(path, "stage_mismatch", last, activation, needs=_needs(activation=activation))
        assert "classifier.activation to none, or export the logits" in error.fix
    model, _ = model_from_onnx_file(path, _needs(activation="none"))
    assert last in {node.op_type for node in model.graph.node}


def test_a_sigmoid_within_is_no_probability(saved):
    nodes = [FLAT, helper.make_node("Sigmoid", ["flat"], ["s"]), helper.make_node("MatMul", ["s", "w"], ["y"])]
    model, _ = model_from_onnx_file(saved(_model(nodes)), _needs())
    assert "Sigmoid" in {node.op_type for node in model.graph.node}


def test_an_answer_that_is_no_float_is_refused(saved):
    nodes = [FLAT, TIMES, helper.make_node("Cast", ["y"], ["z"], to=TensorProto.INT64)]
    model = _model(nodes, outputs=[("z", ["n", 2])])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    _refused(saved(model), "stage_mismatch", "answers with int64")


def test_inputs_that_are_no_slices_are_refused(saved):
    second = helper.make_tensor_value_info("bias", TensorProto.FLOAT, [2])
    nodes = [FLAT, helper.make_node("MatMul", ["flat", "w"], ["z"]), helper.make_node("Add", ["z", "bias"], ["y"])]
    _refused(saved(_model(nodes, inputs=[second])), "stage_mismatch", "takes 2 inputs (x, bias)")
    _refused(saved(_model([FLAT, TIMES], rows=(64,))), "stage_mismatch", "four axes")


def test_an_input_nothing_uses_is_dropped(saved):
    unused = helper.make_tensor_value_info("training", TensorProto.BOOL, [])
    model, _ = model_from_onnx_file(saved(_model([FLAT, TIMES], inputs=[unused])), _needs())
    assert [value.name for value in model.graph.input] == ["pixel_values"]


def test_initializers_listed_as_inputs_are_none(saved):
    listed = helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 2])
    model, _ = model_from_onnx_file(saved(_model([FLAT, TIMES], inputs=[listed])), _needs())
    assert [value.name for value in model.graph.input] == ["pixel_values"]


def test_one_output_is_kept_with_what_it_needs(saved):
    two = [("y", ["n", 2]), ("other", ["n", 3])]
    nodes = [FLAT, TIMES, helper.make_node("MatMul", ["flat", "v"], ["other"])]
    path = saved(_model(nodes, outputs=two, initializers={"v": np.ones((64, 3), np.float32)}))
    error = _refused(path, "output_unknown", "y, other", "none is logits")
    assert "output" in error.fix
    _refused(path, "output_unknown", output="z")
    model, notes = model_from_onnx_file(path, _needs(), "y")
    assert notes == ("Of its outputs y was kept, not other.",)
    assert [value.name for value in model.graph.initializer] == ["w"]
    assert len(model.graph.node) == 2


def test_names_that_are_ours_elsewhere_in_the_file(saved):
    nodes = [
        helper.make_node("Flatten", ["x"], ["pixel_values"]),
        helper.make_node("MatMul", ["pixel_values", "logits"], ["y"]),
    ]  # fmt: skip
    model, _ = model_from_onnx_file(saved(_model(nodes, initializers={"logits": WEIGHTS})), _needs())
    pixels = RNG.standard_normal((2, 1, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(_run(model, pixels), pixels.reshape(2, 64) @ WEIGHTS, rtol=1e-4, atol=1e-4)


def test_an_output_called_logits_is_the_one(saved):
    nodes = [FLAT, TIMES, helper.make_node("Softmax", ["y"], ["p"]), helper.make_node("Identity", ["y"], ["logits"])]
    model, _ = model_from_onnx_file(saved(_model(nodes, outputs=[("p", ["n", 2]), ("logits", ["n", 2])])), _needs())
    assert "Softmax" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("opset", [11, 13, 16, 17, 18, 20, 21, 22])
def test_another_opset_is_converted_and_answers_the_same(saved, opset):
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "s"], ["f"]), helper.make_node("MatMul", ["f", "w2"], ["y"]),
    ]  # fmt: skip
    weights = {"k": KERNEL, "s": np.array([0, -1]), "w2": RNG.standard_normal((128, 2)).astype(np.float32)}
    given = _model(nodes, opset=opset, initializers=weights)
    model, notes = model_from_onnx_file(saved(given), _needs())
    found = model.opset_import[0].version
    assert found == min(max(opset, 17), 20)
    assert notes == (() if found == opset else (f"Converted from opset {opset} to {found}.",))
    pixels = RNG.standard_normal((3, 1, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(given.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(_run(model, pixels), session.run(None, {"x": pixels})[0], rtol=1e-5, atol=1e-5)


def test_what_cannot_be_converted_is_refused(saved):
    flat = helper.make_node("Reshape", ["x", "s"], ["q"])
    attention = helper.make_node("Attention", ["q", "q", "q"], ["a"])
    ends = [helper.make_node("Flatten", ["a"], ["flat"]), TIMES]
    path = saved(_model([flat, attention, *ends], opset=23, initializers={"s": np.array([0, 1, 8, 8])}))
    error = _refused(path, "opset_unsupported", "opset 23")
    assert "17 to 20" in error.fix


def test_weights_that_are_infinite_show_in_the_answer(saved):
    weights = WEIGHTS.copy()
    weights[0] = np.inf
    _refused(saved(_model([FLAT, TIMES], initializers={"w": weights})), "weights_not_finite", "answers NaN or infinity")


def test_nothing_of_the_machine_it_was_made_on_is_kept(saved):
    given = _model([FLAT, TIMES])
    given.doc_string = given.graph.doc_string = "/home/somebody"
    given.metadata_props.add(key="path", value="/home/somebody")
    given.graph.node[0].doc_string = "/home/somebody"
    given.graph.node[0].metadata_props.add(key="stack", value="/home/somebody/train.py")
    model, _ = model_from_onnx_file(saved(given), _needs())
    assert b"somebody" not in model.SerializeToString()
