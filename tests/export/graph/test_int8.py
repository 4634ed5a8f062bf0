"""Weights in eight bits: which products change, how far answers move, and what is left as it was."""

import numpy as np
import onnx
import pytest

from onfh_export.graph.facts import graph_facts
from onfh_export.graph.int8 import int8_from_float, products
from onfh_runtime.backends.ort_backend import OrtBackend

BODY = """
    four = Reshape(pixel_values, square)
    turned = Transpose <perm = [0, 2, 1]> (four)
    scores = MatMul(four, turned)
    flat = Reshape(scores, row)
    same = Gemm(flat, one)
    wide = MatMul(same, w)
    logits = MatMul(wide, v)
"""


@pytest.fixture
def model(onnx_model):
    rng = np.random.default_rng(0)
    weights = {"square": np.array([0, 2, 4]), "row": np.array([0, 4]), "one": np.eye(4, dtype=np.float32)}
    weights |= {"w": rng.normal(size=(4, 16)).astype(np.float32), "v": rng.normal(size=(16, 8)).astype(np.float32)}
    made = onnx_model(BODY, weights=weights)
    for node in made.graph.node:
        node.name = f"node_{node.output[0]}"
    return made


def _answers(path, rows):
    """As the runtime computes them, one row at a time."""
    backend = OrtBackend(path, precision="int8", threads=1)
    out = np.empty((len(rows), *backend.outputs[0].shape), np.float32)
    for k in range(len(rows)):
        backend.run({"pixel_values": rows[k : k + 1]}, {"logits": out[k : k + 1]})
    return out


def test_only_products_with_constant_weights_are_counted(model):
    assert products(model) == {"node_wide": False, "node_logits": True}


@pytest.mark.parametrize(("keep", "eight"), [((), 2), (("node_logits",), 1)])
def test_only_they_change_and_not_those_to_keep(model, keep, eight, tmp_path):
    before = model.SerializeToString()
    int8_from_float(model, tmp_path / "model.onnx", keep=keep)
    made = onnx.load(tmp_path / "model.onnx")
    operators = graph_facts(made).operators
    assert operators["MatMulInteger"] == eight
    assert not made.metadata_props
    assert model.SerializeToString() == before
    assert graph_facts(made).gmac == pytest.approx(graph_facts(model).gmac)


def test_it_says_nearly_the_same_of_a_trained_classifier(stages, tmp_path, caplog):
    onnx.save(stages["classifier"], tmp_path / "model.onnx")
    int8_from_float(stages["classifier"], tmp_path / "model.int8.onnx")
    assert "pre-processing" not in caplog.text
    before, after = graph_facts(stages["classifier"]), graph_facts(onnx.load(tmp_path / "model.int8.onnx"))
    assert after.parameters == pytest.approx(before.parameters, rel=0.05)
    assert (tmp_path / "model.int8.onnx").stat().st_size < (tmp_path / "model.onnx").stat().st_size / 3
    shape = [dim.dim_value for dim in stages["classifier"].graph.input[0].type.tensor_type.shape.dim][1:]
    rows = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    expected = _answers(tmp_path / "model.onnx", rows)
    moved = np.abs(_answers(tmp_path / "model.int8.onnx", rows) - expected).max()
    assert 0 < moved < 0.1 * np.abs(expected).max()
