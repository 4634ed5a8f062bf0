"""An ONNX file is read whole and safely, or refused by name."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onfh_export.onnx_file import fp32_model_from_file, opset_of
from onfh_runtime.errors import UsageError

WEIGHTS = np.arange(128, dtype=np.float32).reshape(64, 2)


def _model(nodes=None, initializers=None, opset=18, functions=(), domains=()):
    """(N, 1, 8, 8) -> flattened times 64 x 2 weights."""
    nodes = nodes or [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        initializers if initializers is not None else [numpy_helper.from_array(WEIGHTS, "w")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def _refused(path, code, *words):
    with pytest.raises(UsageError) as caught:
        fp32_model_from_file(path)
    assert caught.value.code == code
    assert path.name in caught.value.text
    for word in words:
        assert word in caught.value.text
    return caught.value


@pytest.fixture
def external(tmp_path):
    """A model in ``in/`` whose weights lie in ``in/weights.bin``; call with another place to name that instead."""
    folder = tmp_path / "in"
    folder.mkdir()
    onnx.save(_model(), folder / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)

    def placed(name=None):
        model = onnx.load(folder / "m.onnx", load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location" and name is not None:
                entry.value = name
        onnx.save(model, folder / "m.onnx")
        return folder / "m.onnx"

    return placed


def test_weights_beside_the_file_are_taken_in(external):
    path = external()
    model = fp32_model_from_file(path)
    (path.parent / "weights.bin").unlink()
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHTS)


@pytest.mark.parametrize("name", ["../weights.bin", "/etc/passwd", "sub/../../weights.bin", "C:\\weights.bin", "..\\w"])
def test_weights_outside_the_folder_are_not_touched(external, tmp_path, name):
    path = external(name)
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    _refused(path, "onnx_path_escapes", repr(name), "w")


def test_a_link_that_leads_outside_is_not_followed(external, tmp_path):
    path = external()
    (path.parent / "weights.bin").rename(tmp_path / "weights.bin")
    (path.parent / "weights.bin").symlink_to(tmp_path / "weights.bin")
    _refused(path, "onnx_path_escapes")


def test_external_weights_inside_a_constant_node_are_checked_too(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64, 2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../weights.bin")
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]  # fmt: skip
    (tmp_path / "m.onnx").write_bytes(_model(nodes, []).SerializeToString())
    _refused(tmp_path / "m.onnx", "onnx_path_escapes")


def test_weights_that_are_missing_or_cut_short(external):
    path = external()
    whole = (path.parent / "weights.bin").read_bytes()
    (path.parent / "weights.bin").write_bytes(whole[:100])
    _refused(path, "onnx_unreadable")
    (path.parent / "weights.bin").unlink()
    _refused(path, "onnx_unreadable", "weights.bin")


def test_what_is_no_onnx_file(tmp_path):
    path = tmp_path / "m.onnx"
    _refused(path, "onnx_unreadable")
    raw = _model().SerializeToString()
    for content in (b"", b"not a model", raw[: len(raw) // 2], raw[:-7], b"\x80\x04pickle"):
        path.write_bytes(content)
        _refused(path, "onnx_unreadable")


def test_a_graph_that_is_not_connected(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(_model([helper.make_node("Flatten", ["nowhere"], ["y"])]).SerializeToString())
    _refused(path, "onnx_unreadable")


def test_operators_of_others_are_named(tmp_path):
    path = tmp_path / "m.onnx"
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["h"], domain="com.microsoft"),
        helper.make_node("Blur", ["h"], ["y"]),
    ]
    path.write_bytes(_model(nodes, domains=["com.microsoft"]).SerializeToString())
    _refused(path, "operator_unsupported", "Blur", "com.microsoft.FusedMatMul", "opset 18")


def test_an_operator_inside_a_branch_is_seen(tmp_path):
    path = tmp_path / "m.onnx"
    branch = helper.make_graph(
        [helper.make_node("Blur", ["flat"], ["out"])],
        "b",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]  # fmt: skip
    path.write_bytes(_model(nodes, [numpy_helper.from_array(np.array(True), "c")]).SerializeToString())
    _refused(path, "operator_unsupported", "Blur")


def test_an_operator_newer_than_the_opset(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(_model([helper.make_node("Gelu", ["x"], ["y"])], opset=18).SerializeToString())
    _refused(path, "operator_unsupported", "Gelu")


def test_functions_of_the_file_are_inlined(tmp_path):
    function = helper.make_function(
        "mine", "Flat", ["a"], ["b"], [helper.make_node("Flatten", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    nodes = [helper.make_node("Flat", ["x"], ["flat"], domain="mine"), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    path = tmp_path / "m.onnx"
    path.write_bytes(_model(nodes, functions=[function], domains=["mine"]).SerializeToString())
    model = fp32_model_from_file(path)
    assert [node.op_type for node in model.graph.node] == ["Flatten", "MatMul"]
    assert not model.functions


def test_a_newer_onnx_than_ours(tmp_path):
    model = _model()
    model.opset_import[0].version = 999
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    _refused(tmp_path / "m.onnx", "opset_unsupported", "999")
    assert opset_of(model) == 999


HALF = numpy_helper.from_array(WEIGHTS.astype(np.float16), "w")
TWO = numpy_helper.from_array(np.zeros(1, np.float32), "s")


@pytest.mark.parametrize(
    ("nodes", "initializers", "word"),
    [
        ([helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Cast", ["w"], ["v"], to=TensorProto.FLOAT),
          helper.make_node("MatMul", ["f", "v"], ["y"])], [HALF], "FLOAT16"),
        ([helper.make_node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16),
          helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)], [], "BFLOAT16"),
        ([helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
          helper.make_node("DequantizeLinear", ["q", "s"], ["y"])],
         [TWO], "DequantizeLinear, QuantizeLinear"),
    ],
)  # fmt: skip
def test_another_precision_is_refused(tmp_path, nodes, initializers, word):
    path = tmp_path / "m.onnx"
    path.write_bytes(_model(nodes, initializers).SerializeToString())
    _refused(path, "onnx_not_fp32", word)


def test_a_half_input_is_refused(tmp_path):
    model = _model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    _refused(tmp_path / "m.onnx", "onnx_not_fp32", "FLOAT16")


def test_not_a_number_is_named_and_a_mask_of_infinity_passes(tmp_path):
    path, weights = tmp_path / "m.onnx", WEIGHTS.copy()
    weights[3, 1] = -np.inf
    path.write_bytes(_model(initializers=[numpy_helper.from_array(weights, "w")]).SerializeToString())
    fp32_model_from_file(path)
    weights[3, 1] = np.nan
    path.write_bytes(_model(initializers=[numpy_helper.from_array(weights, "w")]).SerializeToString())
    _refused(path, "weights_not_finite", "NaN in w")
