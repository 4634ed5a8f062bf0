"""The file that is shipped is the file that was held against its source."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onfh_export.reduction import _check_half
from onfh_export.sources import Source
from onfh_export.stage_graph import float_stage
from onfh_runtime.bundle import Stage
from onfh_runtime.errors import OnfhError


@pytest.fixture
def spec():
    return Stage.model_validate(
        {
            "architecture": "",
            "models": {"fp32": "classifier/model.onnx"},
            "input_name": "pixel_values",
            "output_name": "logits",
            "input": {"size": [4, 4], "windows": [{"center": 0, "width": 1}], "mean": [0], "std": [1]},
        }
    )


@pytest.fixture
def source():
    weights = np.random.default_rng(0).standard_normal((16, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["pixel_values"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([0.5, -0.5], np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return Source("onnx", "ONNX", model=model)


def _made(source, spec, tmp_path, **options):
    return float_stage(
        "classifier", source, spec, tmp_path / "classifier" / "model.onnx", tmp_path, opset=18, rewrites=True, **options
    )


def test_two_logits_become_one_that_says_the_same(source, spec, tmp_path):
    made = _made(source, spec, tmp_path)
    assert (made.spec.activation, made.spec.positive_class) == ("sigmoid", 0)
    assert (made.source_spec.activation, made.source_spec.positive_class) == ("softmax", 1)
    assert onnx.load(made.path).graph.output[0].type.tensor_type.shape.dim[1].dim_value == 1
    assert "two logits merged" in made.graph.rewrites


def test_a_batch_that_merging_bakes_in_is_caught(source, spec, tmp_path, monkeypatch):
    from onfh_export.graph.single_logit import single_logit

    def baked(model, *, positive_class):
        merged = single_logit(model, positive_class=positive_class)
        merged.graph.node[-1].output[0] = "before"
        merged.graph.initializer.append(numpy_helper.from_array(np.array([1, 1], np.int64), "shape"))
        merged.graph.node.append(helper.make_node("Reshape", ["before", "shape"], ["logits"]))
        return merged

    monkeypatch.setattr("onfh_export.stage_graph.single_logit", baked)
    with pytest.raises(OnfhError, match="onnx_mismatch"):
        _made(source, spec, tmp_path)


def test_a_merged_logit_of_the_wrong_sign_is_caught(source, spec, tmp_path, monkeypatch):
    from onfh_export.graph.single_logit import single_logit

    monkeypatch.setattr(
        "onfh_export.stage_graph.single_logit", lambda model, *, positive_class: single_logit(model, positive_class=0)
    )
    with pytest.raises(OnfhError, match="onnx_mismatch"):
        _made(source, spec, tmp_path)


def test_a_half_file_that_does_not_open_is_caught(source, spec, tmp_path):
    made = _made(source, spec, tmp_path)
    _check_half("classifier", made.path, "fp16")
    model = onnx.load(made.path)
    model.graph.node[0].op_type = "Banana"
    onnx.save(model, made.path)
    with pytest.raises(OnfhError, match="onnx_mismatch"):
        _check_half("classifier", made.path, "fp16")
