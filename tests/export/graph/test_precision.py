"""Precision is in the graph, the emulation stores what the graph says, and TensorRT reads the same types."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from onfh_export.graph.precision import emulated, half_from_float, half_nodes, half_tensors, named
from onfh_export.graph.shapes import tensors_of
from onfh_runtime.errors import OnfhError

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
FORMS = [("fp16", "fp32"), ("fp16", "fp16"), ("bf16", "fp32")]


def _operators(model):
    return [node.op_type for node in model.graph.node]


def _node(model, operator):
    (node,) = [node for node in model.graph.node if node.op_type == operator]
    return node


def _too_large(model):
    """Nodes of an uncleaned stage that read a masking constant of -3.4e38."""
    large = {
        weight.name
        for weight in model.graph.initializer
        if weight.data_type == TensorProto.FLOAT and np.abs(onnx.numpy_helper.to_array(weight)).max() > 65504
    }
    return [node.name for node in named(model).graph.node if large & set(node.input)]


def _some_islands(model):
    return _too_large(model) + [n.name for n in model.graph.node if n.op_type in ("LayerNormalization", "Softmax")][1:]


def _rounded(values, dtype):
    torch = pytest.importorskip("torch")
    return torch.tensor(values).to({"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]).float().numpy()


# --- names


def test_every_node_gets_a_name_of_its_own_and_the_same_one_each_time(onnx_model):
    body = "a = Relu(pixel_values) b = Relu(a) c = Relu(b) logits = Neg(c)"
    model = onnx_model(body)
    model.graph.node[0].name = model.graph.node[3].name = "Relu_0"
    assert named(model) is model
    assert [node.name for node in model.graph.node] == ["Relu_0", "Relu_1", "Relu_2", "Neg_0"]
    before = model.SerializeToString()
    assert named(model).SerializeToString() == before


# --- the strongly typed graph


@pytest.mark.parametrize(("dtype", "io"), FORMS)
@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
def test_a_stage_is_half_but_for_its_islands(stages, stage, dtype, io):
    model = stages[stage]
    keep = _some_islands(model)
    real = half_from_float(model, dtype=dtype, keep=keep, io=io)
    onnx.checker.check_model(real, full_check=True)
    edge = TensorProto.FLOAT if io == "fp32" else HALF[dtype]
    ends = (*real.graph.input, *real.graph.output)
    assert [(value.name, value.type.tensor_type.elem_type) for value in ends] == [
        ("pixel_values", edge),
        ("logits", edge),
    ]
    assert len({node.name for node in real.graph.node}) == len(real.graph.node)
    halves = half_tensors(real)
    floats = {name for name, tensor in tensors_of(model).items() if tensor.type == TensorProto.FLOAT}
    for node in real.graph.node:
        made = [name for name in node.output if name in floats]
        if made and node.op_type != "Cast" and made != ["logits"]:
            assert (node.name in keep) == (not halves.issuperset(made)), node.name


def test_neighbouring_islands_share_one_boundary(onnx_model):
    body = """a = Relu(pixel_values) b = Exp(a) c = Neg(b) d = Abs(b) e = Add(c, d) logits = Relu(e)"""
    model = named(onnx_model(body))
    real = half_from_float(model, dtype="fp16", keep=["Exp_0", "Neg_0", "Abs_0"], io="fp16")
    assert _operators(real) == ["Relu", "Cast", "Exp", "Neg", "Abs", "Cast", "Cast", "Add", "Relu"]
    alone = half_from_float(model, dtype="fp16", keep=["Exp_0"], io="fp16")
    assert _operators(alone) == ["Relu", "Cast", "Exp", "Cast", "Neg", "Abs", "Add", "Relu"]


def test_a_weight_read_by_both_kinds_is_stored_twice_and_never_cast(onnx_model):
    model = named(onnx_model("a = Mul(pixel_values, w) logits = Add(a, w)", weights={"w": np.float32([1 / 3] * 8)}))
    real = half_from_float(model, dtype="fp16", keep=["Add_0"])
    stored = {weight.name: onnx.numpy_helper.to_array(weight) for weight in real.graph.initializer}
    assert {name: array.dtype for name, array in stored.items()} == {"w": np.float32, "w_half": np.float16}
    assert _operators(real) == ["Cast", "Mul", "Cast", "Add"]


def test_what_the_schema_pins_stays_float(onnx_model):
    body = """
        wide = Resize <mode = "linear"> (pixel_values, , scales)
        count = Shape(wide)
        zeros = ConstantOfShape(count)
        one = Constant <value_float = 1.0> ()
        flags = Greater(wide, one)
        picked = Where(flags, wide, zeros)
        counted = Cast <to = 1> (flags)
        best, place = TopK <axis = 3> (picked, k)
        places = Cast <to = 1> (place)
        logits = Add(best, places)
    """
    weights = {"scales": np.float32([1, 1, 2, 2]), "k": np.array([3])}
    shapes = {"given": "float[batch,1,4,4] pixel_values", "answer": "float[batch,1,8,3] logits"}
    model = onnx_model(body, weights=weights, **shapes)
    real = half_from_float(model, dtype="fp16")
    onnx.checker.check_model(real, full_check=True)
    types = {name: tensor.type for name, tensor in tensors_of(real).items()}
    assert types["scales"] == TensorProto.FLOAT
    for name in ("wide", "zeros", "picked", "best", "counted", "places", "one_half"):
        assert types[name] == TensorProto.FLOAT16, name
    assert (types["count"], types["place"], types["flags"]) == (TensorProto.INT64, TensorProto.INT64, TensorProto.BOOL)
    assert half_nodes(model, dtype="fp16") == [
        *("Resize_0", "ConstantOfShape_0", "Where_0", "Cast_0", "TopK_0", "Cast_1", "Add_0")
    ]


def test_a_comparison_looks_at_what_is_there(onnx_model):
    body = "a = Exp(pixel_values) flags = Less(a, limit) b = Cast <to = 1> (flags) logits = Mul(b, b)"
    model = named(onnx_model(body, weights={"limit": np.float32([0.1])}))
    kept = half_from_float(model, dtype="fp16", keep=["Exp_0"])
    assert list(_node(kept, "Less").input) == ["a", "limit"]
    assert list(_node(half_from_float(model, dtype="fp16"), "Less").input) == ["a", "limit_half"]
    counts = onnx_model("n = Cast <to = 7> (w) logits = Gather(pixel_values, n)", weights={"w": np.float32([2049])})
    assert list(_node(half_from_float(counts, dtype="fp16", io="fp16"), "Cast").input) == ["w"]  # a half has no 2049


def test_an_operator_without_a_half_form_stays_float(onnx_model):
    body = "a = Relu(pixel_values) b = Det(a) c = Range(b, b, b) logits = Relu(c)"
    model = onnx_model(body, given="float[4,4] pixel_values", answer="float[n] logits")
    real = half_from_float(model, dtype="fp16")
    assert _operators(real) == ["Cast", "Relu", "Det", "Cast", "Range", "Cast", "Relu", "Cast"]
    onnx.checker.check_model(real, full_check=True)


def test_bf16_takes_an_opset_whose_convolutions_know_it(stages):
    real = half_from_float(stages["segmenter"], dtype="bf16")
    assert [entry.version for entry in real.opset_import] == [22]
    assert {tensors_of(real)[node.output[0]].type for node in real.graph.node if node.op_type == "Conv"} == {
        TensorProto.BFLOAT16
    }
    assert half_from_float(stages["segmenter"], dtype="fp16").opset_import == stages["segmenter"].opset_import


def test_what_cannot_be_typed_is_refused(onnx_model):
    branch = """
        flag = Constant <value = bool {1}> ()
        logits = If (flag) <
            then_branch = yes () => (float[batch,8] y) { y = Relu(pixel_values) },
            else_branch = no () => (float[batch,8] z) { z = Neg(pixel_values) }
        >
    """
    with pytest.raises(OnfhError, match=r"If node .*subgraph_unsupported"):
        half_from_float(onnx_model(branch), dtype="fp16")
    large = named(onnx_model("logits = Mul(pixel_values, w)", weights={"w": np.float32([1, 1e6])}))
    with pytest.raises(OnfhError, match=r"w holds 1e\+06.*weight_overflow"):
        half_from_float(large, dtype="fp16")
    assert _operators(half_from_float(large, dtype="fp16", keep=["Mul_0"])) == ["Mul"]
    with pytest.raises(OnfhError, match=r"Mul_7.*unknown_node"):
        half_from_float(large, dtype="fp16", keep=["Mul_7"])


def test_the_source_is_left_alone(stages):
    before = stages["segmenter"].SerializeToString()
    emulated(stages["segmenter"], dtype="fp16", io="fp16")
    assert stages["segmenter"].SerializeToString() == before


@pytest.mark.parametrize(("dtype", "io"), FORMS)
@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
def test_tensorrt_reads_the_same_types(stages, stage, dtype, io):
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    model = stages[stage]
    real = half_from_float(model, dtype=dtype, keep=_some_islands(model), io=io)
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(real.SerializeToString()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    kinds = {trt.float32: TensorProto.FLOAT, trt.float16: TensorProto.FLOAT16, trt.bfloat16: TensorProto.BFLOAT16}
    layers = [network.get_layer(place) for place in range(network.num_layers)]
    made = [layer.get_output(place) for layer in layers for place in range(layer.num_outputs)]
    read = {tensor.name: kinds[tensor.dtype] for tensor in made if tensor.dtype in kinds}
    types = {name: tensor.type for name, tensor in tensors_of(real).items()}
    said = {name: kind for name, kind in types.items() if name in read}
    assert {name: read[name] for name in said} == said
    floating = [name for node in real.graph.node for name in node.output if types[name] in kinds.values()]
    assert len(said) > 0.9 * len(floating)
    assert set(said.values()) == {TensorProto.FLOAT, HALF[dtype]}


# --- the emulation


@pytest.mark.parametrize(("dtype", "io"), FORMS)
@pytest.mark.parametrize("stage", ["classifier", "segmenter"])
def test_exactly_the_half_tensors_hold_half_numbers(stages, stage, dtype, io):
    """Values, not names: what ONNX Runtime, with all its fusions, has in every tensor of the emulation."""
    model = stages[stage]
    keep = _some_islands(model)
    real, twin = (make(model, dtype=dtype, keep=keep, io=io) for make in (half_from_float, emulated))
    types = tensors_of(real)
    produced = {name for node in twin.graph.node for name in node.output}
    shared = [n for node in real.graph.node for n in node.output if n in produced and types[n].type in (1, HALF[dtype])]
    assert set(shared) >= half_tensors(real) - {w.name for w in real.graph.initializer} - {"pixel_values"}
    onnx.checker.check_model(twin, full_check=True)
    twin.graph.output.extend(onnx.ValueInfoProto(name=name) for name in shared if name != "logits")
    shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(twin.SerializeToString(), providers=["CPUExecutionProvider"])
    held = dict(zip(shared, session.run(shared, {"pixel_values": rows}), strict=True))
    exact = {name for name, values in held.items() if np.array_equal(values, _rounded(values, dtype), equal_nan=True)}
    assert exact >= {name for name in shared if types[name].type == HALF[dtype]}
    islands = {name for node in real.graph.node if node.name in keep for name in node.output} & set(shared)
    assert len(islands) == len(keep)
    masks = {name for name in islands if "where" in name or "masked" in name}  # of zeros, which are exact anyhow
    assert not exact & (islands - masks)
    halves = half_tensors(real)
    for weight in twin.graph.initializer:
        if weight.name in halves:
            values = onnx.numpy_helper.to_array(weight)
            np.testing.assert_array_equal(values, _rounded(values, dtype))


def test_each_step_is_rounded_as_numpy_rounds(onnx_model, answers):
    weights = {"a": np.float32([0.1]), "b": np.float32([3000.3])}
    model = onnx_model("x = Mul(pixel_values, a) y = Add(x, b) logits = Sub(y, b)", weights=weights)
    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    a, b = np.float16(0.1), np.float16(3000.3)
    expected = ((rows.astype(np.float16) * a + b) - b).astype(np.float32)
    np.testing.assert_array_equal(answers(emulated(model, dtype="fp16"), rows), expected)
    np.testing.assert_allclose(answers(model, rows), rows * 0.1, atol=1e-3)
    assert np.abs(expected - rows * 0.1).max() > 0.3  # at 3000 a half steps by 2


def test_overflow_shows_in_the_emulation_and_not_in_the_real_graph_on_a_cpu(onnx_model, answers):
    model = named(
        onnx_model("x = Mul(pixel_values, pixel_values) logits = Div(x, k)", weights={"k": np.float32([1e3])})
    )
    rows = np.full((1, 8), 400, np.float32)
    assert np.all(np.isinf(answers(emulated(model, dtype="fp16"), rows)))
    assert answers(half_from_float(model, dtype="fp16"), rows).max() == pytest.approx(160)  # why there is an emulation
    kept = emulated(model, dtype="fp16", keep=["Mul_0", "Div_0"])
    np.testing.assert_allclose(answers(kept, rows), 160, rtol=1e-6)
    half_in = answers(emulated(model, dtype="fp16", keep=["Mul_0"]), rows)
    assert np.all(np.isinf(half_in))  # the boundary behind the island is too small for it
    assert np.all(np.isfinite(answers(emulated(model, dtype="bf16"), rows)))


def test_underflow_shows(onnx_model, answers):
    model = onnx_model("x = Mul(pixel_values, k) logits = Div(x, k)", weights={"k": np.float32([2**-12])})
    rows = np.full((1, 8), 1e-5, np.float32)
    assert answers(model, rows).max() == pytest.approx(1e-5)
    assert answers(emulated(model, dtype="fp16"), rows).max() == 0


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_fusions_do_not_eat_the_rounding(onnx_model, answers, dtype):
    """GELU and LayerNormalization written out, which ONNX Runtime fuses in FP32, still round at every step."""
    body = """
        scaled = Div(pixel_values, root) e = Erf(scaled) up = Add(e, one) both = Mul(pixel_values, up)
        gelu = Mul(both, half)
        mean = ReduceMean <keepdims = 1> (gelu, last) centred = Sub(gelu, mean) square = Pow(centred, two)
        variance = ReduceMean <keepdims = 1> (square, last) safe = Add(variance, eps) deviation = Sqrt(safe)
        normal = Div(centred, deviation) scaled_up = Mul(normal, gamma) logits = Add(scaled_up, beta)
    """
    scalars = {"root": math.sqrt(2), "one": 1, "half": 0.5, "two": 2, "eps": 1e-5}
    weights = {name: np.float32(value) for name, value in scalars.items()}
    weights |= {"gamma": np.ones(8, np.float32), "beta": np.zeros(8, np.float32), "last": np.array([-1])}
    model = onnx_model(body, weights=weights)
    rows = 3 * np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    twin = emulated(model, dtype=dtype)
    names = [node.output[0] for node in model.graph.node][:-1]
    plain = answers(twin, rows)
    watched = onnx.ModelProto.FromString(twin.SerializeToString())
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    step = answers(watched, rows, ("logits", *names))  # nothing can be fused across a tensor that is looked at
    np.testing.assert_array_equal(plain, step["logits"])
    expected = _rounded(step["scaled_up"], dtype)
    np.testing.assert_array_equal(plain, expected)
    for name in names:
        np.testing.assert_array_equal(step[name], _rounded(step[name], dtype))
