"""Shape arithmetic becomes constants, and the answers stay."""

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import pytest

from onfh_export.graph.settle import settle

IMAGE = "float[batch, 2, 3, 4] pixel_values"


@pytest.fixture
def settled(onnx_model, answers):
    """(body, given=, weights=, rank=) -> the operators left and the graph; answers are compared at batch 1, 3 and 4."""

    def of(body, *, given="float[batch, 8] pixel_values", weights=None, rank=2):
        dims = ", ".join("abcd"[:rank])
        model = onnx_model(body, given=given, weights=weights, answer=f"float[{dims}] logits")
        work = ir.from_proto(model)
        settle(work)
        passes.RemoveUnusedNodesPass()(work)
        passes.NameFixPass()(work)
        found = ir.to_proto(work)
        onnx.checker.check_model(found, full_check=True)
        shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
        for batch in (1, 3, 4):
            rows = np.random.default_rng(batch).standard_normal((batch, *shape)).astype(np.float32)
            np.testing.assert_allclose(answers(found, rows), answers(model, rows), rtol=1e-5, atol=2e-6)
        return [node.op_type for node in found.graph.node], found

    return of


def test_reshape_targets(settled):
    left, model = settled(
        "size = Shape<end = 1>(pixel_values) to = Concat<axis = 0>(size, two, rest) logits = Reshape(pixel_values, to)",
        weights={"two": np.array([2]), "rest": np.array([4])},
        rank=3,
    )
    assert left == ["Reshape"]
    assert onnx.numpy_helper.to_array(model.graph.initializer[0]).tolist() == [-1, 2, 4]


def test_squeezes_and_flattenings_are_reshapes(settled):
    body = (
        "a = Unsqueeze(pixel_values, one) b = Relu(a) c = Squeeze(b, one) d = Relu(c) e = Flatten(d) logits = Relu(e)"
    )
    assert settled(body, weights={"one": np.array([1])})[0] == ["Reshape", "Relu", "Reshape", "Relu", "Relu"]


@pytest.mark.parametrize("size", [(3, 4), (6, 8), (16, 16), (5, 19), (11, 13)])
def test_resize_takes_scales(settled, size):
    left, _ = settled(
        "size = Shape<end = 2>(pixel_values) sizes = Concat<axis = 0>(size, plane) "
        'logits = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(pixel_values, , , sizes)',
        given=IMAGE,
        weights={"plane": np.array(size)},
        rank=4,
    )
    assert left == ["Resize"]


def test_a_constant_is_broadcast_instead_of_spread(settled):
    left, _ = settled(
        "size = Shape(pixel_values) table = Expand(row, size) logits = Add(table, pixel_values)",
        weights={"row": np.arange(8, dtype=np.float32)[None]},
    )
    assert left == ["Add"]


def test_a_constant_that_makes_the_batch_stays_spread(settled):
    left, _ = settled(
        "size = Shape(pixel_values) table = Expand(row, size) sum = ReduceSum(pixel_values, axis) "
        "mean = ReduceMean(sum, none) all = Add(table, mean) logits = Relu(all)",
        weights={"row": np.arange(8, dtype=np.float32)[None], "axis": np.array([1]), "none": np.array([0])},
    )
    assert "Expand" in left


def test_a_gather_of_everything_in_order_reshapes(settled):
    body = """flat = Reshape(pixel_values, all) size = Shape<end = 1>(pixel_values) count = Squeeze(size)
    rows = Range(zero, count, one) starts = Mul(rows, eight) column = Unsqueeze(starts, axis)
    places = Add(column, steps) logits = Gather(flat, places)"""
    weights = {
        "all": np.array([-1]), "zero": np.array(0), "one": np.array(1), "eight": np.array(8), "axis": np.array([1]),
        "steps": np.arange(8)[None],
    }  # fmt: skip
    assert "Gather" not in settled(body, weights=weights)[0]
    weights["steps"] = weights["steps"][:, ::-1].copy()
    assert "Gather" in settled(body, weights=weights)[0]


SLICES = "a = Slice(pixel_values, one, five, {}, two) logits = Slice(a, one, two, {})"
NUMBERS = {
    "one": np.array([1]),
    "two": np.array([2]),
    "three": np.array([3]),
    "five": np.array([5]),
    "zero": np.array([0]),
}


def test_slices_along_two_axes_are_one(settled):
    assert settled(SLICES.format("two", "three"), given=IMAGE, weights=NUMBERS, rank=4)[0] == ["Slice"]


def test_slices_along_one_axis_stay(settled):
    assert settled(SLICES.format("two", "two"), given=IMAGE, weights=NUMBERS, rank=4)[0] == ["Slice", "Slice"]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("a = Identity(pixel_values) logits = Relu(a)", ["Relu"]),
        ("a = Dropout(pixel_values) logits = Relu(a)", ["Relu"]),
        ("a = Reshape(pixel_values, same) logits = Relu(a)", ["Relu"]),
        ("a = Pad(pixel_values, zeros) logits = Relu(a)", ["Relu"]),
        ("a = Pad(pixel_values, aside) logits = Relu(a)", ["Pad", "Relu"]),
        ("a = Slice(pixel_values, zero, end, axis) logits = Relu(a)", ["Relu"]),
        ("a = Slice(pixel_values, end, start, axis, back) logits = Relu(a)", ["Slice", "Relu"]),
        ("logits = Identity(pixel_values)", ["Identity"]),
        ("a = Relu(pixel_values) logits = Identity(a)", ["Relu"]),
        ("logits = Relu(pixel_values) a = Identity(logits)", ["Relu"]),
    ],
)
def test_what_does_nothing_goes(settled, body, left):
    weights = {
        "same": np.array([0, 8]), "zeros": np.zeros(4, np.int64), "aside": np.array([0, 1, 0, -1]),
        "zero": np.array([0]), "end": np.array([100]), "start": np.array([-100]), "axis": np.array([1]),
        "back": np.array([-1]),
    }  # fmt: skip
    assert settled(body, weights=weights)[0] == left
