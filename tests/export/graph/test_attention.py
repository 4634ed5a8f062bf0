"""Attention blocks of every make are found; one whose mask could close a whole row keeps its guard."""

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import pytest

from onfh_export.graph.attention import rewrite_attention

TOKENS, HEADS, SIZE = 5, 2, 4
WIDTH = HEADS * SIZE
GIVEN = f"float[batch, {TOKENS}, {WIDTH}] pixel_values"
ANSWER = f"float[batch, {HEADS}, {TOKENS}, {SIZE}] logits"


def linear(name):
    return f"{name}0 = MatMul(pixel_values, W{name}) {name}1 = Add({name}0, B{name}) "


def heads(name):
    return linear(name) + f"{name}2 = Reshape({name}1, to_heads) {name} = Transpose<perm = [0, 2, 1, 3]>({name}2) "


SEPARATE = heads("q") + heads("k") + heads("v")
PLAIN = SEPARATE + "kt = Transpose<perm = [0, 1, 3, 2]>(k) scores = MatMul(q, kt) "
END = "part = Softmax<axis = -1>({}) logits = MatMul(part, v)"
GUARDED = "free = Softmax<axis = -1>({}) odd = IsNaN(free) part = Where(odd, zero, free) logits = MatMul(part, v)"


def weights(**more):
    random = np.random.default_rng(0)
    found = {f"W{name}": random.standard_normal((WIDTH, WIDTH)).astype(np.float32) for name in "qkv"}
    found |= {f"B{name}": random.standard_normal(WIDTH).astype(np.float32) for name in "qkv"}
    found |= {"to_heads": np.array([-1, TOKENS, HEADS, SIZE]), "zero": np.float32(0), "scale": np.float32(0.3)}
    return found | more


@pytest.fixture
def rewritten(onnx_model, answers):
    """(body, **weights) -> how many blocks were rewritten, and the operators after; answers are compared."""

    def of(body, *, given=GIVEN, answer=ANSWER, operator=False, shape=(TOKENS, WIDTH), atol=2e-5, **more):
        model = onnx_model(body, weights=weights(**more), given=given, answer=answer, opset=23 if operator else 18)
        work = ir.from_proto(model)
        count = rewrite_attention(work, operator=operator)
        passes.RemoveUnusedNodesPass()(work)
        passes.NameFixPass()(work)
        found = ir.to_proto(work)
        onnx.checker.check_model(found, full_check=True)
        for batch in (1, 2, 3):
            rows = np.random.default_rng(batch).standard_normal((batch, *shape)).astype(np.float32)
            np.testing.assert_allclose(answers(found, rows), answers(model, rows), rtol=1e-4, atol=atol)
        return count, [node.op_type for node in found.graph.node]

    return of


CANONICAL = ["MatMul", "Add", "Reshape", "Transpose", "Split", "Transpose", "MatMul", "Softmax", "MatMul"]


@pytest.mark.parametrize(
    "body",
    [
        PLAIN + "scaled = Mul(scores, scale) " + END.format("scaled"),
        PLAIN + "scaled = Mul(scale, scores) " + END.format("scaled"),
        PLAIN + "scaled = Div(scores, scale) " + END.format("scaled"),
        SEPARATE + "qs = Mul(q, scale) kt = Transpose<perm = [0, 1, 3, 2]>(k) ks = Mul(kt, scale) "
        "scores = MatMul(qs, ks) " + END.format("scores"),
        SEPARATE.replace("q1 = Add(q0, Bq)", "q5 = Add(Bq, q0) q1 = Mul(q5, scale)")
        + "kt = Transpose<perm = [0, 1, 3, 2]>(k) scores = MatMul(q, kt) " + END.format("scores"),
        PLAIN.replace("v1 = Add(v0, Bv)", "v5 = Add(v0, Bv) v1 = Mul(v5, scale)") + END.format("scores"),
        PLAIN.replace("q1 = Add(q0, Bq)", "q1 = Identity(q0)") + END.format("scores"),
    ],
)  # fmt: skip
def test_the_scale_goes_into_the_weights(rewritten, body):
    assert rewritten(body) == (1, CANONICAL)


FUSED = "qkv0 = MatMul(pixel_values, W) qkv = Add(qkv0, B) "
TAIL = "kt = Transpose<perm = [0, 1, 3, 2]>(k) scores = MatMul(q, kt) scaled = Mul(scores, scale) " + END.format(
    "scaled"
)


@pytest.mark.parametrize(
    "split",
    [
        "five = Reshape(qkv, in_three) turned = Transpose<perm = [2, 0, 3, 1, 4]>(five) "
        "q = Gather(turned, i0) k = Gather(turned, i1) v = Gather(turned, i2) ",
        "five = Reshape(qkv, in_three) turned = Transpose<perm = [2, 0, 3, 1, 4]>(five) "
        "q9, k9, v9 = Split<axis = 0>(turned, ones) axis = Constant<value_ints = [0]>() "
        "q = Squeeze(q9, axis) k = Squeeze(k9, axis) v = Squeeze(v9, axis) ",
        "q1, k1, v1 = Split<axis = -1>(qkv, eights) "
        + "".join(f"{n}2 = Reshape({n}1, to_heads) {n} = Transpose<perm = [0, 2, 1, 3]>({n}2) " for n in "qkv"),
        "".join(
            f"{n}1 = Slice(qkv, from{n}, to{n}, last) {n}2 = Reshape({n}1, to_heads) "
            f"{n} = Transpose<perm = [0, 2, 1, 3]>({n}2) "
            for n in "qkv"
        ),
    ],
)
def test_a_fused_projection_is_taken_apart(rewritten, split):
    random = np.random.default_rng(1)
    more = {
        "W": random.standard_normal((WIDTH, 3 * WIDTH)).astype(np.float32),
        "in_three": [-1, TOKENS, 3, HEADS, SIZE],
    }
    more |= {"B": random.standard_normal(3 * WIDTH).astype(np.float32), "eights": [8] * 3, "ones": [1] * 3, "last": [2]}
    more |= {f"i{index}": index for index in range(3)}
    more |= {f"from{name}": [index * WIDTH] for index, name in enumerate("qkv")}
    more |= {f"to{name}": [index * WIDTH + WIDTH] for index, name in enumerate("qkv")}
    more = {name: np.asarray(value) for name, value in more.items()}
    assert rewritten(FUSED + split + TAIL, **more) == (1, CANONICAL)


def test_a_linear_layer_over_flat_tokens(rewritten):
    body = "flat = Reshape(pixel_values, to_flat) " + PLAIN + "scaled = Mul(scores, scale) " + END.format("scaled")
    for name in "qkv":
        body = body.replace(f"{name}0 = MatMul(pixel_values, W{name}) {name}1 = Add({name}0, B{name})",
                            f"{name}1 = Gemm<transB = 1>(flat, W{name}, B{name})")  # fmt: skip
    assert rewritten(body, to_flat=np.array([-1, WIDTH])) == (1, ["Reshape", *CANONICAL])


def masked(rows):
    mask = np.zeros((1, 1, TOKENS, TOKENS), np.float32)
    mask[..., 1:] = np.random.default_rng(2).standard_normal((TOKENS, TOKENS - 1))
    mask[:, :, :rows] = -np.inf
    return mask


def test_a_guard_without_need_goes(rewritten):
    body = PLAIN + "scaled = Mul(scores, scale) masked = Add(scaled, mask) " + GUARDED.format("masked")
    mask = masked(0)
    mask[..., 1] = -np.inf
    assert rewritten(body, mask=mask) == (1, [*CANONICAL[:-2], "Add", *CANONICAL[-2:]])


def test_a_guard_that_is_needed_stays(rewritten):
    body = PLAIN + "scaled = Mul(scores, scale) masked = Add(scaled, mask) " + GUARDED.format("masked")
    count, left = rewritten(body, mask=masked(2))
    assert "IsNaN" in left
    assert count == 0


def test_a_mask_of_nothing_goes(rewritten):
    body = PLAIN + "masked = Add(zeros, scores) " + GUARDED.format("masked")
    assert rewritten(body, zeros=np.zeros((1, 1, TOKENS, TOKENS), np.float32)) == (1, CANONICAL)


def test_a_mask_made_of_pixels_is_left_alone(rewritten):
    body = PLAIN + "mean = ReduceMean(scores) masked = Add(scores, mean) " + GUARDED.format("masked")
    count, left = rewritten(body)
    assert (count, "IsNaN" in left) == (0, True)


def test_two_sources_are_not_fused(rewritten):
    body = PLAIN.replace("v0 = MatMul(pixel_values", "other = Relu(pixel_values) v0 = MatMul(other")
    assert rewritten(body + END.format("scores"))[0] == 0


def test_heads_out_of_order_are_put_in_order(rewritten):
    body = PLAIN.replace("q2 = Reshape(q1, to_heads) q = Transpose<perm = [0, 2, 1, 3]>(q2)",
                         "q2 = Reshape(q1, crossed) q = Transpose<perm = [0, 3, 1, 2]>(q2)")  # fmt: skip
    crossed = np.array([-1, TOKENS, SIZE, HEADS])
    assert rewritten(body + END.format("scores"), crossed=crossed) == (1, CANONICAL)


def test_tokens_out_of_order_are_left_alone(rewritten):
    body = PLAIN.replace("q2 = Reshape(q1, to_heads) q = Transpose<perm = [0, 2, 1, 3]>(q2)",
                         "q = Reshape(q1, straight)")  # fmt: skip
    straight = np.array([-1, HEADS, TOKENS, SIZE])
    assert rewritten(body + END.format("scores"), straight=straight)[0] == 0


WINDOWS = 3
MASKS = np.random.default_rng(3).standard_normal((WINDOWS, 1, TOKENS, TOKENS)).astype(np.float32)
BIAS = np.random.default_rng(4).standard_normal((1, HEADS, TOKENS, TOKENS)).astype(np.float32)
PUBLISHED = (
    "biased = Add(scores, bias) seen = Reshape(biased, by_image) masked = Add(seen, masks) "
    "back = Reshape(masked, by_window) "
)
SPREAD = (
    "size = Shape<start = 0, end = 1>(pixel_values) shape = Concat<axis = 0>(size, rest) many = Expand(masks, shape) "
    "mask = Reshape(many, by_one) both = Add(bias, mask) back = Add(scores, both) "
)


@pytest.mark.parametrize("operator", [False, True])
@pytest.mark.parametrize("masking", [PUBLISHED, SPREAD])
def test_windows_become_heads(rewritten, masking, operator):
    body = PLAIN.replace("pixel_values", "window") + masking + END.format("back")
    count, left = rewritten(
        "window = Reshape(pixel_values, in_windows) " + body,
        given=f"float[batch, {WINDOWS * TOKENS}, {WIDTH}] pixel_values",
        answer=f"float[windows, {HEADS}, {TOKENS}, {SIZE}] logits",
        operator=operator,
        shape=(WINDOWS * TOKENS, WIDTH),
        bias=BIAS,
        masks=MASKS[None],
        in_windows=np.array([-1, TOKENS, WIDTH]),
        by_image=np.array([-1, WINDOWS, HEADS, TOKENS, TOKENS]),
        by_window=np.array([-1, HEADS, TOKENS, TOKENS]),
        rest=np.array([WINDOWS, 1, TOKENS, TOKENS]),
        by_one=np.array([-1, 1, TOKENS, TOKENS]),
    )
    assert count == 1
    assert left.count("Add") == (1 if operator else 2)
    assert ("Softmax" in left, "Attention" in left) == (not operator, operator)


@pytest.mark.parametrize(
    ("end", "count"),
    [
        ("logits = Attention(q, k, v)", 1),
        ("logits = Attention<scale = 0.7>(q, k, v, mask)", 1),
        ("logits = Attention(q, k, v, open)", 1),
        ("logits = Attention<is_causal = 1>(q, k, v)", 0),
        ("logits = Attention<softcap = 3.0>(q, k, v)", 0),
    ],
)
def test_the_operator_is_read_too(rewritten, end, count):
    more = {"mask": BIAS, "open": np.eye(TOKENS, dtype=bool)[None, None]}
    found, left = rewritten(SEPARATE + end, operator=True, **more)
    assert (found, left.count("MatMul")) == (count, 1 if count else 3)
