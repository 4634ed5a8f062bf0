"""Mixing channels before upsampling changes what a convolution costs and not what it answers."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

from onfh_export.graph import upernet
from onfh_export.graph.upernet import mix_channels_early
from onfh_export.onnx_export import onnx_from_network

MODES = ("half_pixel", "pytorch_half_pixel", "align_corners")
WORK = re.compile(r"^(\w+): ([\d.]+) to ([\d.]+) GMAC$")


def decoder(
    maps, size, *, made=4, mode="half_pixel", by="sizes", bias=True, normalized=False, opset=18, conv=None, resize=None
):
    """Concat of maps, each (channels, height, width) and upsampled where it is not of the size, and a 3x3 Conv."""
    random = np.random.default_rng(0)
    given, nodes, constants, joined = [], [], {}, []
    for number, (channels, *low) in enumerate(maps):
        given.append(helper.make_tensor_value_info(f"x{number}", TensorProto.FLOAT, ["batch", channels, *low]))
        joined.append(f"x{number}")
        if tuple(low) == tuple(size):
            continue
        how = {"mode": "linear", "coordinate_transformation_mode": mode, **(resize or {})}
        if by == "sizes":
            nodes += [
                helper.make_node("Shape", [f"x{number}"], [f"shape{number}"], start=0, end=2),
                helper.make_node("Concat", [f"shape{number}", "size"], [f"sizes{number}"], axis=0),
                helper.make_node("Resize", [f"x{number}", "", "", f"sizes{number}"], [f"up{number}"], **how),
            ]
            constants["size"] = np.array(size, np.int64)
        else:
            factors = [(full + 0.4) / part for full, part in zip(size, low, strict=True)]
            constants[f"scales{number}"] = np.array([1, 1, *factors], np.float32)
            nodes.append(helper.make_node("Resize", [f"x{number}", "", f"scales{number}"], [f"up{number}"], **how))
        joined[-1] = f"up{number}"
    inputs = sum(channels for channels, *_ in maps)
    constants["head.mixer.conv.weight"] = random.standard_normal((made, inputs, 3, 3)).astype(np.float32)
    if bias:
        constants["bias"] = random.standard_normal(made).astype(np.float32)
    nodes.append(helper.make_node("Concat", joined, ["joined"], axis=1))
    convolved = ["joined", "head.mixer.conv.weight", *(["bias"] if bias else [])]
    nodes.append(helper.make_node("Conv", convolved, ["mixed"], **{"pads": [1, 1, 1, 1], **(conv or {})}))
    last = "mixed"
    if normalized:
        for name in ("scale", "shift", "mean", "variance"):
            constants[name] = random.uniform(0.5, 2, made).astype(np.float32)
        nodes.append(
            helper.make_node(
                "BatchNormalization", [last, "scale", "shift", "mean", "variance"], ["normal"], epsilon=0.1
            )
        )
        last = "normal"
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", made, None, None])
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "decoder", given, [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def answers(model, *, batch=2, seed=0):
    random = np.random.default_rng(seed)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shapes = {value.name: [batch, *value.shape[1:]] for value in session.get_inputs()}
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return session.run(None, feeds)[0]


def assert_same(rewritten, model, **how):
    expected, found = answers(model, **how), answers(rewritten, **how)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.fixture
def always(monkeypatch):
    """Rewrite whatever can be, pay or not."""
    monkeypatch.setattr(upernet, "LARGEST_SHARE", float("inf"))
    monkeypatch.setattr(upernet, "SMALLEST_SAVING", float("-inf"))


lengths = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def decoders(draw):
    size = draw(lengths)
    # Any size, smaller along one side and larger along the other too.
    maps = draw(st.lists(st.tuples(st.integers(1, 5), *[st.integers(1, 9)] * 2), min_size=1, max_size=4))
    return {
        "maps": maps,
        "size": size,
        "made": draw(st.integers(1, 5)),
        "mode": draw(st.sampled_from(MODES)),
        "by": draw(st.sampled_from(["sizes", "scales"])),
        "bias": draw(st.booleans()),
        "normalized": draw(st.booleans()),
    }


@settings(max_examples=150, deadline=None)
@given(how=decoders())
def test_any_decoder_answers_as_before(how):
    model = decoder(**how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upernet, "LARGEST_SHARE", float("inf"))
        patch.setattr(upernet, "SMALLEST_SAVING", float("-inf"))
        rewritten, lines = mix_channels_early(model)
    upsampled = sum(tuple(low) != tuple(how["size"]) for _, *low in how["maps"])
    assert len(lines) == min(upsampled, 1)
    types = [node.op_type for node in rewritten.graph.node]
    assert "Resize" not in types
    assert "BatchNormalization" not in types or not lines
    onnx.checker.check_model(rewritten, full_check=True)
    for batch in (1, 3):
        assert_same(rewritten, model, batch=batch)


@settings(max_examples=60, deadline=None)
@given(
    low=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    factor=st.floats(1, 8),
    given_channels=st.integers(1, 96),
    made=st.integers(1, 96),
)
def test_no_model_gets_more_to_do(low, factor, given_channels, made):
    size = tuple(int(length * factor) for length in low)
    model = decoder([(given_channels, *low)], size, made=made)
    rewritten, lines = mix_channels_early(model)
    before, after = macs(model, low, size), macs(rewritten, low, size)
    assert (rewritten is model) == (not lines)
    assert after <= (0.5 * before if lines else before)
    for line in lines:
        assert WORK.match(line).group(1) == "mixer"
        assert [float(figure) for figure in WORK.match(line).groups()[1:]] == pytest.approx(
            [before / 1e9, after / 1e9], abs=0.051
        )


def macs(model, low, size):
    """Multiply-accumulates of the model's convolutions and matrix products at batch 1."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    shapes = {value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {weights.name: list(weights.dims) for weights in inferred.initializer}
    total = 0
    for node in inferred.node:
        if node.op_type == "Conv":
            out, kernel = shapes[node.output[0]], shapes[node.input[1]]
            pixels = np.prod(size if out[2:] == [1, 1] and kernel[2:] == [3, 3] else out[2:])
            total += int(pixels * np.prod(kernel))
        elif node.op_type == "MatMul":
            total += int(np.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1])
    return total


@pytest.mark.parametrize("mode", MODES)
def test_a_map_that_shrinks_to_one_row(mode, always):
    # half_pixel and pytorch_half_pixel differ here alone.
    model = decoder([(4, 3, 2)], (1, 9), mode=mode)
    rewritten, lines = mix_channels_early(model)
    assert len(lines) == 1
    assert_same(rewritten, model)


def test_it_pays_where_it_should():
    wide = [(64, 32, 32), (64, 16, 16), (64, 8, 8)]
    rewritten, (line,) = mix_channels_early(decoder(wide, (32, 32), made=64))
    direct = 9 * 64 * 64 * 32 * 32
    taps = 9 * 64 * 64 * (16 * 16 + 8 * 8)
    rows = 64 * 3 * 32 * 3 * (16 * 16 + 8 * 8)
    columns = 64 * 32 * 3 * (16 + 8) * 32
    assert line == f"mixer: {3 * direct / 1e9:.3f} to {(direct + taps + rows + columns) / 1e9:.3f} GMAC"
    assert sum(node.op_type == "Resize" for node in rewritten.graph.node) == 0
    few_channels = decoder([(2, 32, 32), (2, 16, 16)], (32, 32), made=2)
    assert mix_channels_early(few_channels) == (few_channels, ())


def test_the_given_model_stays_as_it_was(always):
    model = decoder([(2, 4, 4), (3, 2, 2)], (4, 4), normalized=True)
    before = model.SerializeToString()
    rewritten, lines = mix_channels_early(model)
    assert lines
    assert rewritten is not model
    assert model.SerializeToString() == before


def test_what_others_read_stays(always):
    # The upsampled map is an output too, and so is the convolution in front of the normalization.
    model = decoder([(2, 4, 4), (3, 2, 2)], (4, 4), normalized=True)
    for name, channels in (("up1", 3), ("mixed", 4)):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, 4, 4]))
    rewritten, lines = mix_channels_early(model)
    assert len(lines) == 1
    assert [value.name for value in rewritten.graph.output] == ["normal", "up1", "mixed"]
    feeds = {
        "x0": np.random.default_rng(0).standard_normal((2, 2, 4, 4)).astype(np.float32),
        "x1": np.random.default_rng(1).standard_normal((2, 3, 2, 2)).astype(np.float32),
    }
    expected, found = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
        for m in (model, rewritten)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    "how",
    [
        {"conv": {"strides": [2, 2]}},
        {"conv": {"pads": [0, 0, 0, 0]}},
        {"conv": {"pads": [2, 2, 2, 2], "dilations": [2, 2]}},
        {"resize": {"mode": "nearest"}},
        {"resize": {"mode": "cubic"}},
        {"mode": "asymmetric"},
        {"resize": {"antialias": 1}},
    ],
    ids=str,
)
def test_other_layers_are_left_alone(how, always):
    model = decoder([(4, 8, 8), (4, 4, 4)], (8, 8), **how)
    assert mix_channels_early(model) == (model, ())


def test_a_symbolic_height_is_left_alone(always):
    model = decoder([(4, 8, 8), (4, 4, 4)], (8, 8))
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[2].dim_param = "height"
    assert mix_channels_early(model) == (model, ())


def tiny_upernet(size, align_corners, hidden_size):
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=size,
        num_channels=1,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=3,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=hidden_size, pool_scales=[1, 2, 3], use_auxiliary_head=False, num_labels=2
    )
    network = UperNetForSemanticSegmentation._from_config(config, attn_implementation="eager").eval()
    for module in network.modules():
        if hasattr(module, "align_corners"):
            module.align_corners = align_corners
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    # Transformers asks for the last upsampling with align_corners=False, whatever its head is told.
    return network


@pytest.fixture(scope="module", params=[((96, 160), False), ((224, 224), True)], ids=["half_pixel", "align_corners"])
def whole(request, tmp_path_factory):
    size, align_corners = request.param
    path = tmp_path_factory.mktemp("upernet") / "model.onnx"
    onnx_from_network(tiny_upernet(size, align_corners, 64), (1, *size), path)
    model = onnx.load(path)
    attributes = [a for node in model.graph.node if node.op_type == "Resize" for a in node.attribute]
    modes = {a.s for a in attributes if a.name == "coordinate_transformation_mode"}
    assert (b"align_corners" in modes) == align_corners
    return model


@pytest.mark.slow
def test_a_whole_upernet_answers_as_before(whole):
    rewritten, lines = mix_channels_early(whole)
    (work,) = [WORK.match(line) for line in lines if line.startswith("fpn_bottleneck:")]
    assert float(work.group(3)) < 0.6 * float(work.group(2))
    for batch in (1, 3):
        assert_same(rewritten, whole, batch=batch)


@pytest.mark.slow
def test_pooled_maps_of_a_whole_upernet_too(whole, always):
    rewritten, lines = mix_channels_early(whole)
    assert [line.split(":")[0] for line in lines] == ["bottleneck", "fpn_bottleneck"]
    assert_same(rewritten, whole, batch=2)
