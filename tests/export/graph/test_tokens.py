"""Class tokens are added to padding, and nothing else is taken for one."""

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import pytest

from onfh_export.graph.tokens import rewrite_tokens

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "cls": RANDOM.standard_normal((1, 1, 4)).astype(np.float32),
    "registers": RANDOM.standard_normal((1, 2, 4)).astype(np.float32),
    "rest": np.array([-1, 4]),
    "places": RANDOM.standard_normal((1, 6, 4)).astype(np.float32),
    "scalar": np.float32(2),
    "one": np.array([1]),
    "minus": np.array([-1]),
}
SPREAD = "size = Shape<end = 1>(pixel_values) to = Concat<axis = 0>(size, one, one) first = Expand(cls, to) "
AFTER = "last = Expand(registers, to) "


@pytest.fixture
def rewritten(onnx_model, answers):
    """Body -> (number of Concat nodes written anew, the operators left); answers are compared."""

    def of(body):
        model = onnx_model(
            body, weights=WEIGHTS, given="float[batch, 3, 4] pixel_values", answer="float[b, t, d] logits"
        )
        work = ir.from_proto(model)
        count = rewrite_tokens(work)
        passes.RemoveUnusedNodesPass()(work)
        passes.NameFixPass()(work)
        found = ir.to_proto(work)
        onnx.checker.check_model(found, full_check=True)
        for batch in (1, 2, 5):
            rows = np.random.default_rng(batch).standard_normal((batch, 3, 4)).astype(np.float32)
            np.testing.assert_allclose(answers(found, rows), answers(model, rows), atol=1e-6)
        return count, [node.op_type for node in found.graph.node]

    return of


def test_a_class_token(rewritten):
    assert rewritten(SPREAD + "logits = Concat<axis = 1>(first, pixel_values)") == (1, ["Pad", "Add"])


def test_tokens_on_both_sides_and_a_position_table(rewritten):
    body = SPREAD + AFTER + "all = Concat<axis = -2>(first, pixel_values, last) logits = Add(places, all)"
    assert rewritten(body) == (1, ["Pad", "Add"])


def test_what_else_reads_the_tokens_still_does(rewritten):
    body = SPREAD + "all = Concat<axis = 1>(first, pixel_values) a = Add(all, scalar) logits = Mul(a, all)"
    assert rewritten(body) == (1, ["Pad", "Add", "Add", "Mul"])


def test_a_scalar_joins_the_table(rewritten):
    body = SPREAD + "all = Concat<axis = 1>(first, pixel_values) logits = Add(all, scalar)"
    assert rewritten(body) == (1, ["Pad", "Add"])


@pytest.mark.parametrize(
    "body",
    [
        "turned = Relu(pixel_values) logits = Concat<axis = 1>(turned, pixel_values)",
        SPREAD + "wide = Concat<axis = 0>(size, one, minus) all = Concat<axis = 2>(pixel_values, pixel_values) "
        "logits = Relu(all)",
    ],
)
def test_other_joins_stay(rewritten, body):
    count, left = rewritten(body)
    assert (count, "Concat" in left) == (0, True)
