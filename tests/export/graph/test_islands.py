"""Planted overflows and losses of precision: the ranges or the search protect them, and nothing more than needed."""

import numpy as np
import onnx
import pytest

from onfh_export.graph import islands
from onfh_export.graph.facts import graph_facts
from onfh_export.graph.islands import Verdict, find_islands
from onfh_export.graph.precision import emulated, half_from_float, half_nodes, named
from onfh_runtime.errors import OnfhError

ROWS = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)


@pytest.fixture
def drift_gate(answers):
    """(model, rows, limit) -> a gate on the largest change of an answer, which also keeps what it was asked."""

    def make(model, rows, limit):
        expected = answers(model, rows)
        asked = []

        def passes(candidate):
            drift = np.abs(answers(candidate, rows) - expected).max()
            asked.append(candidate)
            return Verdict(bool(drift <= limit), f"an answer moves by {drift:.3g}, {limit:g} is allowed", float(drift))

        passes.asked = asked
        return passes

    return make


def test_nothing_is_kept_where_nothing_is_lost(onnx_model, drift_gate):
    model = onnx_model("x = Relu(pixel_values) logits = Add(x, x)")
    found = find_islands(model, ROWS, drift_gate(model, ROWS, 0.01), dtype="fp16", io="fp32")
    assert (found.keep, found.trials, found.minimal) == ({}, 1, True)
    assert found.verdict.passed
    assert found.ranges["x"].max_abs == pytest.approx(ROWS.max())


def test_an_overflow_is_protected_by_its_range(onnx_model, answers, drift_gate):
    """Squares of 300 leave half; whoever touches them stays FP32, and nobody else."""
    body = """
        big = Mul(pixel_values, k) square = Mul(big, big) moved = Neg(square)
        small = Div(moved, l) logits = Add(small, small)
    """
    model = named(onnx_model(body, weights={"k": np.float32([300]), "l": np.float32([1e5])}))
    passes = drift_gate(model, ROWS, 0.01)
    naive = answers(emulated(model, dtype="fp16", keep=["Div_0"]), ROWS)
    assert np.isinf(naive).any()
    assert not passes(emulated(model, dtype="fp16", keep=["Div_0"])).passed
    found = find_islands(model, ROWS, passes, dtype="fp16", io="fp32")
    assert list(found.keep) == ["Mul_1", "Neg_0", "Div_0"]
    assert found.trials == 1
    largest = np.square(300 * ROWS).max()
    assert found.keep["Mul_1"] == f"its output square reaches {largest:,.5g}"
    assert found.keep["Div_0"].startswith("its input moved reaches")
    real = half_from_float(model, dtype="fp16", keep=found.keep)
    onnx.checker.check_model(real, full_check=True)
    assert graph_facts(real).casts == 4  # into half, into the island, out of it, out of half


def test_a_patient_may_reach_further_than_the_reference(onnx_model, drift_gate):
    model = onnx_model(
        "big = Mul(pixel_values, k) logits = Div(big, k)", weights={"k": np.float32([40000 / np.abs(ROWS).max()])}
    )
    found = find_islands(model, ROWS, drift_gate(model, ROWS, 0.01), dtype="fp16", io="fp32")
    assert list(found.keep) == ["Mul_0", "Div_0"]  # 40,000 is a half; twice as much is not
    assert not find_islands(model, ROWS, drift_gate(model, ROWS, 0.1), dtype="bf16", io="fp32").keep


def test_an_overflow_inside_a_layer_normalisation_is_protected(onnx_model, drift_gate):
    """One value of 300 among small ones: its tensor fits, the square of its distance from the mean does not."""
    rows = ROWS.copy()
    rows[:, 3] = 300
    weights = {"s": np.ones(8, np.float32), "b": np.zeros(8, np.float32)}
    model = onnx_model("n = LayerNormalization(pixel_values, s, b) logits = Relu(n)", weights=weights)
    found = find_islands(model, rows, drift_gate(model, rows, 0.01), dtype="fp16", io="fp32")
    assert list(found.keep) == ["LayerNormalization_0"]
    assert found.keep["LayerNormalization_0"].startswith("inside LayerNormalization_0: (x - mean)^2 reaches ")


def test_a_written_out_layer_normalisation_overflows_and_is_protected(onnx_model, answers, drift_gate):
    body = """
        mean = ReduceMean <keepdims = 1> (pixel_values, last) centred = Sub(pixel_values, mean)
        square = Pow(centred, two) variance = ReduceMean <keepdims = 1> (square, last)
        deviation = Sqrt(variance) logits = Div(centred, deviation)
    """
    rows = ROWS.copy()
    rows[:, 3] = 300
    model = named(onnx_model(body, weights={"last": np.array([-1]), "two": np.float32(2)}))
    passes = drift_gate(model, rows, 0.01)
    assert not passes(emulated(model, dtype="fp16")).passed
    found = find_islands(model, rows, passes, dtype="fp16", io="fp32")
    assert list(found.keep) == ["Pow_0", "ReduceMean_1"]
    assert "its output square reaches" in found.keep["Pow_0"]


def test_values_that_vanish_in_half_are_protected(onnx_model, drift_gate):
    model = onnx_model("x = Mul(pixel_values, k) y = Neg(x) logits = Div(y, k)", weights={"k": np.float32([1e-7])})
    found = find_islands(model, ROWS, drift_gate(model, ROWS, 0.01), dtype="fp16", io="fp32")
    assert list(found.keep) == ["Mul_0", "Neg_0", "Div_0"]
    assert found.keep["Neg_0"] == "100% of its output y lies below 6.1e-05"


def test_a_cancellation_is_found_by_the_search(onnx_model, drift_gate):
    """(x + 2048) - 2048 loses x in half, within half's range; the nodes around it are not to blame."""
    body = """
        a = Relu(pixel_values) up = Add(a, k) moved = Neg(up) back = Add(moved, k) b = Neg(back)
        c = Mul(b, b) d = Add(c, a) e = Exp(d) logits = Add(e, e)
    """
    model = named(onnx_model(body, weights={"k": np.float32([2048])}))
    passes = drift_gate(model, ROWS, 0.1)
    assert not passes(emulated(model, dtype="fp16")).passed
    lines = []
    found = find_islands(model, ROWS, passes, dtype="fp16", io="fp32", progress=lines.append)
    assert list(found.keep) == ["Add_0", "Neg_0", "Add_1"]
    assert all(reason.startswith("without it, an answer moves by ") for reason in found.keep.values())
    assert found.minimal
    assert len([line for line in lines if line.startswith("trial")]) == found.trials < 20
    final = emulated(model, dtype="fp16", keep=found.keep)
    assert passes(final) == found.verdict
    for name in found.keep:
        assert not passes(emulated(model, dtype="fp16", keep=set(found.keep) - {name})).passed
    again = find_islands(model, ROWS, passes, dtype="fp16", io="fp32")
    assert (again.keep, again.trials) == (found.keep, found.trials)


def test_a_stage_under_a_gate_that_is_too_fine_for_half(stages, drift_gate):
    model = stages["classifier"]
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    rows = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    bare = find_islands(model, rows, drift_gate(model, rows, np.inf), dtype="fp16", io="fp32")
    passes = drift_gate(model, rows, 0.5 * bare.verdict.score)
    assert bare.verdict.score > 0
    found = find_islands(model, rows, passes, dtype="fp16", io="fp32")
    assert found.verdict.passed
    assert found.keep.keys() > bare.keep.keys()
    assert graph_facts(half_from_float(model, dtype="fp16", keep=found.keep)).half_share > 0.5


def test_a_search_that_may_not_go_on_returns_what_passes(onnx_model, drift_gate, monkeypatch):
    body = "up = Add(pixel_values, k) back = Sub(up, k) " + "".join(
        f"x{i} = Neg({'back' if not i else f'x{i - 1}'}) " for i in range(8)
    )
    model = named(onnx_model(f"{body} logits = Neg(x7)", weights={"k": np.float32([2048])}))
    monkeypatch.setattr(islands, "MAX_TRIALS", 4)
    found = find_islands(model, ROWS, drift_gate(model, ROWS, 0.01), dtype="fp16", io="fp32")
    assert found.verdict.passed
    assert not found.minimal
    assert {"Add_0", "Sub_0"} <= found.keep.keys()
    assert "the gate passes with it, and was not asked without it" in found.keep.values()


def test_a_gate_that_not_even_fp32_passes_is_named(onnx_model, drift_gate):
    model = named(onnx_model("logits = Mul(pixel_values, k)", weights={"k": np.float32([1 / 3])}))
    passes = drift_gate(model, ROWS, 1e-9)
    with pytest.raises(OnfhError, match=r"with every node in FP32, an answer moves by .*precision_unreachable"):
        find_islands(model, ROWS, passes, dtype="fp16", io="fp16")
    assert list(find_islands(model, ROWS, passes, dtype="fp16", io="fp32").keep) == half_nodes(model, dtype="fp16")
