"""What depends on no pixel is found, and what grows with the batch is told from what does not."""

import numpy as np
import onnx_ir as ir
import pytest

from onfh_export.graph.known import Known, constant_of, value_of


@pytest.fixture
def looked_at(onnx_model):
    """(body, **model) -> (Known, values by name)."""

    def of(body, **rest):
        model = ir.from_proto(onnx_model(body, **rest))
        values = {value.name: value for node in model.graph for value in node.outputs}
        return Known(model), {**values, **model.graph.initializers, **{v.name: v for v in model.graph.inputs}}

    return of


def test_shapes_at_both_batches(looked_at):
    known, values = looked_at("size = Shape(pixel_values) twice = Concat<axis = 0>(pixel_values, pixel_values) "
                              "logits = Transpose(twice)")  # fmt: skip
    assert known.shapes(values["twice"]) == ((4, 8), (10, 8))
    assert known.target(values["twice"]) == (-1, 8)
    assert [str(dim) for dim in known.symbolic(values["twice"])] == ["2*batch", "8"]
    assert known.target(values["logits"]) == (8, -1)
    assert known.shapes(values["size"]) == ((2,), (2,))


def test_two_dimensions_that_grow_have_no_target(looked_at):
    known, values = looked_at("turned = Transpose(pixel_values) logits = MatMul(pixel_values, turned)")
    assert known.shapes(values["logits"]) == ((2, 2), (5, 5))
    assert known.target(values["logits"]) is None


def test_another_symbol_is_unknown(looked_at):
    known, values = looked_at("logits = Relu(pixel_values)", given="float[batch, width] pixel_values")
    assert known.shapes(values["logits"]) is None
    assert known.symbolic(values["logits"]) is None


SPREAD = """size = Shape<end = 1>(pixel_values) whole = Concat<axis = 0>(size, rest)
spread = Expand(token, whole) seen = Reshape(spread, folded) logits = Relu(pixel_values)"""


def test_a_constant_spread_over_the_batch_is_found_once(looked_at):
    token = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    weights = {"token": token, "rest": np.array([3, 4]), "folded": np.array([-1, 4])}
    known, values = looked_at(SPREAD, weights=weights)
    np.testing.assert_array_equal(known.period(values["spread"]), token)
    np.testing.assert_array_equal(known.period(values["seen"]), token[0])
    assert known.period(values["logits"]) is None
    np.testing.assert_array_equal(known.period(values["token"]), value_of(values["token"]))


def test_rows_that_differ_are_no_copies(looked_at):
    known, values = looked_at("size = Shape<end = 1>(pixel_values) end = Squeeze(size) "
                              "numbers = Range(zero, end, one) logits = Relu(pixel_values)",
                              weights={"zero": np.array(0), "one": np.array(1)})  # fmt: skip
    assert known.period(values["numbers"]) is None
    assert known.counts(values["numbers"])
    assert not known.counts(values["size"])


def test_chance_is_no_constant(looked_at):
    known, values = looked_at("noise = RandomNormal<shape = [1, 8]>() logits = Add(pixel_values, noise)")
    assert known.period(values["noise"]) is None
    assert known.shapes(values["logits"]) == ((2, 8), (5, 8))


def test_numbers(looked_at):
    _, values = looked_at("logits = Relu(pixel_values)", weights={"one": np.float32(0.5), "two": np.zeros(2)})
    assert constant_of(values["one"]) == 0.5
    assert constant_of(values["two"]) is None
    assert constant_of(values["logits"]) is None
