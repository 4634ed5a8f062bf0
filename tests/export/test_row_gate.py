"""The cheap gate passes what is exact, scores what is worse higher, and never takes NaN for an answer."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onfh_export.row_gate import row_gate
from onfh_runtime.bundle import ParityLimits
from onfh_runtime.errors import BackendError

LIMITS = ParityLimits()
SIZE = (24, 40)


def classifier(bias=0.0, gain=4.0):
    """Logit ``gain * (mean + bias)``."""
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["column"]),
        helper.make_node("Add", ["column", "bias"], ["moved"]),
        helper.make_node("Mul", ["moved", "gain"], ["logits"]),
    ]
    return _model(nodes, bias, gain, (1,))


def segmenter(bias=0.0, gain=4.0):
    """Logit ``gain * (pixel + bias)``."""
    nodes = [
        helper.make_node("Add", ["pixel_values", "bias"], ["moved"]),
        helper.make_node("Mul", ["moved", "gain"], ["logits"]),
    ]
    return _model(nodes, bias, gain, (1, *SIZE))


def _model(nodes, bias, gain, made):
    constants = {
        "axes": np.array([1, 2, 3], np.int64),
        "axis": np.array([1], np.int64),
        "bias": np.float32(bias),
        "gain": np.float32(gain),
    }
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "stage",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 1, *SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *made])],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def rows():
    """Rows of one grey each, from -1 to 1 around the threshold of the classifier, none on it."""
    return np.broadcast_to(np.linspace(-1, 1, 8, dtype=np.float32)[:, None, None, None], (8, 1, *SIZE)).copy()


def test_the_classifier_is_judged_by_drift(rules, rows):
    judge = row_gate(rows, rules.classifier, "classifier", classifier(), LIMITS, 0.5)
    same, near, far = (judge(classifier(bias)) for bias in (0.0, 0.005, 0.05))
    assert (same.passed, same.score) == (True, 0)
    assert near.passed
    assert not far.passed
    assert 0 < near.score <= 1 < far.score
    assert "moves by 4." in far.reason


def test_half_of_the_limit_is_all_a_sample_may_use(rules, rows):
    judge = row_gate(rows, rules.classifier, "classifier", classifier(), LIMITS, 0.5)
    steepest = 0.015  # of a probability, for a bias of that over the gain / 4
    assert not judge(classifier(steepest)).passed
    assert row_gate(rows, rules.classifier, "classifier", classifier(), ParityLimits(probability_drift=0.04), 0.5)(
        classifier(steepest)
    ).passed


def test_one_row_may_flip_and_two_may_not(rules, rows):
    rows[:3] = np.array([-1e-4, -2e-4, -3e-4], np.float32)[:, None, None, None]
    judge = row_gate(rows, rules.classifier, "classifier", classifier(), LIMITS, 0.5)
    assert judge(classifier(1.5e-4)).passed
    assert "1 of 8 rows flip" in judge(classifier(1.5e-4)).reason
    assert not judge(classifier(2.5e-4)).passed


def test_the_segmenter_is_judged_by_its_masks(rules):
    rows = np.linspace(-1, 1, 2 * SIZE[0] * SIZE[1], dtype=np.float32).reshape(2, 1, *SIZE)
    judge = row_gate(rows, rules.segmenter, "segmenter", segmenter(), LIMITS, 0.5)
    steeper, near, far = judge(segmenter(gain=8.0)), judge(segmenter(0.004)), judge(segmenter(0.05))
    assert (steeper.passed, steeper.score) == (True, 0)  # pixels move, the outline does not
    assert near.passed
    assert not far.passed
    assert "Dice" in far.reason


def test_where_nothing_is_outlined_a_pixel_decides(rules, rows):
    judge = row_gate(rows - 3, rules.segmenter, "segmenter", segmenter(), LIMITS, 0.5)
    assert judge(segmenter(0.01)).passed
    assert not judge(segmenter(0.9)).passed


def test_nan_fails_and_a_model_that_does_not_load_is_an_error(rules, rows):
    judge = row_gate(rows, rules.classifier, "classifier", classifier(), LIMITS, 0.5)
    verdict = judge(classifier(np.nan))
    assert not verdict.passed
    assert verdict.score == np.inf
    assert "NaN" in verdict.reason
    with pytest.raises(BackendError, match="model_unloadable"):
        judge(onnx.ModelProto())


def test_a_limit_of_nothing_allows_nothing(rules, rows):
    strict = ParityLimits(probability_drift=0, mask_dice=1)
    judge = row_gate(rows, rules.classifier, "classifier", classifier(), strict, 0.5)
    assert judge(classifier()).passed
    assert not judge(classifier(1e-5)).passed
