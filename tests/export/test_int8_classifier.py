"""As many products in eight bits as the limits allow, judged on the slices of the reference."""

import onnx
import pytest

from onfh_export.graph.facts import graph_facts
from onfh_export.int8_classifier import int8_classifier_from_float
from onfh_export.reference import reference_studies
from onfh_runtime.bundle import ParityLimits, load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.errors import UsageError


@pytest.fixture(scope="module")
def demo():
    return load_bundle(demo_bundle())


@pytest.fixture(scope="module")
def studies(demo):
    return reference_studies(None, demo.content, count=2).studies


@pytest.mark.parametrize(("limit", "eight"), [(1.0, 24), (1e-9, 18)])
def test_products_that_contract_are_the_first_to_stay(demo, studies, limit, eight, tmp_path):
    limits = ParityLimits(probability_drift=limit, slice_flips=1.0)
    rules = demo.content.model_copy(update={"parity": limits})
    out = tmp_path / "model.int8.onnx"
    said = int8_classifier_from_float(demo.model_path("classifier", "fp32"), out, rules, studies)
    assert said.startswith(f"{eight} of 24 products")
    assert graph_facts(onnx.load(out)).operators["MatMulInteger"] == eight


def test_a_classifier_without_such_products_is_refused(demo, studies, tmp_path):
    value = onnx.helper.make_tensor_value_info
    given = [value("pixel_values", onnx.TensorProto.FLOAT, ["n", 1])]
    made = [value("logits", onnx.TensorProto.FLOAT, ["n", 1])]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["pixel_values"], ["logits"])], "g", given, made)
    source = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph), source)
    with pytest.raises(UsageError, match="option_unsupported"):
        int8_classifier_from_float(source, tmp_path / "model.int8.onnx", demo.content, studies)
    assert not (tmp_path / "model.int8.onnx").exists()
