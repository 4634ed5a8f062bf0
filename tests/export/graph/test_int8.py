"""Weights in eight bits: which products change, how far answers move, and what is left as it was."""

import numpy as np
import onnx
import onnxruntime
import pytest

from onfh_export.graph.facts import graph_facts
from onfh_export.graph.int8 import int8_from_float
from onfh_runtime.errors import UsageError


def _answers(path, rows):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"pixel_values": rows})[0]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "classifier").mkdir()
    return tmp_path / "classifier" / "model.onnx", tmp_path / "classifier" / "model.int8.onnx"


def test_only_products_with_constant_weights_change(onnx_model, files):
    source, out = files
    rng = np.random.default_rng(0)
    body = """
        four = Reshape(pixel_values, square)
        turned = Transpose <perm = [0, 2, 1]> (four)
        scores = MatMul(four, turned)
        flat = Reshape(scores, row)
        logits = MatMul(flat, w)
    """
    weights = {"square": np.array([0, 2, 4]), "row": np.array([0, 4]), "w": rng.normal(size=(4, 8)).astype(np.float32)}
    onnx.save(onnx_model(body, weights=weights), source)
    made = int8_from_float(source, out)
    operators = graph_facts(made).operators
    assert (operators["MatMulInteger"], operators["MatMul"], operators["DynamicQuantizeLinear"]) == (1, 1, 1)
    assert not made.metadata_props
    # Seven bits: products of two bytes, added in pairs, fit 16 bits.
    (eight,) = (onnx.numpy_helper.to_array(w) for w in made.graph.initializer if w.dims == [4, 8])
    assert eight.dtype == np.int8
    assert np.abs(eight.astype(int)).max() <= 64


def test_it_says_nearly_the_same_of_a_trained_classifier(stages, files, caplog):
    source, out = files
    onnx.save(stages["classifier"], source)
    made = int8_from_float(source, out)
    assert "pre-processing" not in caplog.text
    before, after = graph_facts(stages["classifier"]), graph_facts(made)
    assert after.gmac == pytest.approx(before.gmac)
    assert after.parameters == pytest.approx(before.parameters, rel=0.05)
    assert out.stat().st_size < source.stat().st_size / 3
    shape = [dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim][1:]
    rows = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    expected = _answers(source, rows)
    alone = np.concatenate([_answers(out, rows[k : k + 1]) for k in range(len(rows))])
    moved = np.abs(alone - expected).max()
    assert 0 < moved < 0.1 * np.abs(expected).max()


def test_nothing_to_quantize_is_refused(onnx_model, files):
    source, out = files
    onnx.save(onnx_model("logits = Relu(pixel_values)"), source)
    with pytest.raises(UsageError, match="option_unsupported") as raised:
        int8_from_float(source, out)
    assert "classifier" in raised.value.text
    assert not out.exists()
