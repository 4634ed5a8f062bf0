"""Whatever wrote a graph, the cleaned one has nothing in it that stands in TensorRT's way, and answers the same."""

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from transformers import (
    SwinConfig,
    SwinForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    ViTForImageClassification,
)

from onfh_export.graph.clean import check_clean, clean
from onfh_export.onnx_export import logits_of, raw_onnx_from_network
from onfh_export.swin_unet import swin_unet
from onfh_runtime.errors import OnfhError

SHAPES = {
    "vit": (1, 24, 32),
    "vit_sdpa": (1, 24, 32),
    "swin_padded": (1, 36, 44),
    "upernet": (1, 64, 48),
    "upernet_padded": (1, 40, 48),
    "swin_unet": (1, 64, 64),
}
BLOCKS = {"vit": 2, "vit_sdpa": 2, "swin_padded": 4, "upernet": 4, "upernet_padded": 4, "swin_unet": 5}
"""Attention blocks; every second one of a Swin is shifted, and "padded" sizes are no multiple of the window."""


def vit(attention):
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=(24, 32),
        patch_size=8, num_channels=1, num_labels=2,
    )  # fmt: skip
    return ViTForImageClassification._from_config(config, attn_implementation=attention)


def swin(size):
    config = SwinConfig(
        image_size=size, patch_size=2, num_channels=1, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4,
        num_labels=2,
    )  # fmt: skip
    return SwinForImageClassification._from_config(config, attn_implementation="eager")


def upernet(size, window):
    backbone = SwinConfig(
        image_size=size, patch_size=2, num_channels=1, embed_dim=16, depths=[2, 2], num_heads=[2, 4],
        window_size=window, out_features=["stage1", "stage2"],
    )  # fmt: skip
    config = UperNetConfig(backbone_config=backbone, hidden_size=16, use_auxiliary_head=False, num_labels=2)
    return UperNetForSemanticSegmentation._from_config(config, attn_implementation="eager")


def network_of(kind):
    """One of ``SHAPES``, with weights under which every token matters to the answer."""
    size = SHAPES[kind][1:]
    network = {
        "vit": lambda: vit("eager"),
        "vit_sdpa": lambda: vit("sdpa"),
        "swin_padded": lambda: swin(size),
        "upernet": lambda: upernet(size, 4),
        "upernet_padded": lambda: upernet(size, 5),
        "swin_unet": lambda: swin_unet(
            image_size=size, channels=1, embed_dim=16, depths=(2, 1), heads=(2, 4), window=4
        ),
    }[kind]()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            random = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(random / max(1, weight[0].numel()) ** 0.5)
            else:
                weight.copy_(0.2 * random + ("norm" in name and "weight" in name))
    return network.eval()


@pytest.fixture(scope="module")
def made():
    """kind -> (network, graph as exported, cleaned graph), each made once."""
    found = {}

    def of(kind):
        if kind not in found:
            network = network_of(kind)
            raw = raw_onnx_from_network(network, SHAPES[kind])
            found[kind] = network, raw, clean(raw)
        return found[kind]

    return of


def pixels_for(shape, batch, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, *shape)).astype(np.float32)


def session_of(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def operators(model):
    return [node.op_type for node in model.graph.node]


def answer_of(network, pixels):
    with torch.inference_mode():
        return logits_of(network(torch.from_numpy(pixels))).numpy()


@pytest.mark.parametrize("kind", SHAPES)
def test_nothing_in_the_way_and_the_same_answers(made, kind):
    network, raw, model = made(kind)
    assert check_clean(model) == []
    assert len(model.graph.node) < len(raw.graph.node)
    onnx.checker.check_model(model, full_check=True)
    session = session_of(model)
    for batch in (1, 2, 3, 7, 8):
        pixels = pixels_for(SHAPES[kind], batch, seed=batch)
        (found,) = session.run(["logits"], {"pixel_values": pixels})
        np.testing.assert_allclose(found, answer_of(network, pixels), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("kind", ["vit", "swin_padded", "upernet_padded"])
def test_a_row_is_the_same_in_any_batch(made, kind):
    session = session_of(made(kind)[2])
    pixels = pixels_for(SHAPES[kind], 12)
    alone = np.concatenate([session.run(None, {"pixel_values": row[None]})[0] for row in pixels])

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(0, 11), min_size=1, max_size=12))
    def same(rows):
        np.testing.assert_allclose(session.run(None, {"pixel_values": pixels[rows]})[0], alone[rows], atol=1e-5)

    same()


@pytest.mark.parametrize("kind", SHAPES)
def test_attention_is_two_products_around_a_softmax(made, kind):
    model = made(kind)[2]
    maker = {output: node for node in model.graph.node for output in node.output}
    readers = {name: node for node in model.graph.node for name in node.input}
    constants = {weight.name for weight in model.graph.initializer}
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == BLOCKS[kind]
    for softmax in softmaxes:
        scores = maker[softmax.input[0]]
        if scores.op_type == "Add":
            assert scores.input[1] in constants
            scores = maker[scores.input[0]]
        assert scores.op_type == "MatMul"
        assert maker[scores.input[0]].op_type == "Split"
        assert maker[maker[scores.input[1]].input[0]] is maker[scores.input[0]]
        product = readers[softmax.output[0]]
        assert product.op_type == "MatMul"
        assert maker[product.input[1]] is maker[scores.input[0]]


@pytest.mark.parametrize("kind", SHAPES)
def test_opset_23_uses_the_attention_operator(made, kind):
    network, raw, _ = made(kind)
    model = clean(raw, opset=23)
    assert model.opset_import[0].version == 23
    assert operators(model).count("Attention") == BLOCKS[kind]
    assert "Softmax" not in operators(model)
    assert check_clean(model) == []
    pixels = pixels_for(SHAPES[kind], 3)
    (found,) = session_of(model).run(None, {"pixel_values": pixels})
    np.testing.assert_allclose(found, answer_of(network, pixels), rtol=1e-4, atol=5e-5)


def test_the_attention_operator_means_what_onnx_says(made):
    network, raw, _ = made("swin_padded")
    pixels = pixels_for(SHAPES["swin_padded"], 2)
    (found,) = ReferenceEvaluator(clean(raw, opset=23)).run(None, {"pixel_values": pixels})
    np.testing.assert_allclose(found, answer_of(network, pixels), rtol=1e-4, atol=5e-5)


def test_every_exporter_ends_in_the_same_graph(made):
    eager, sdpa = made("vit"), made("vit_sdpa")
    assert operators(sdpa[1]).count("IsNaN") == 2
    traced = clean(_traced(eager[0], SHAPES["vit"]))
    assert sorted(operators(eager[2])) == sorted(operators(sdpa[2])) == sorted(operators(traced))


def test_a_traced_swin_comes_clean(made):
    network = made("swin_padded")[0]
    raw = _traced(network, SHAPES["swin_padded"])
    assert len(check_clean(raw)) > 20
    model = clean(raw)
    assert check_clean(model) == []
    for batch in (1, 3):
        pixels = pixels_for(SHAPES["swin_padded"], batch)
        (found,) = session_of(model).run(None, {"pixel_values": pixels})
        np.testing.assert_allclose(found, answer_of(network, pixels), rtol=1e-4, atol=5e-5)


class Logits(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixel_values):
        return self.network(pixel_values).logits


def _traced(network, shape):
    """The graph that the older, tracing exporter writes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits(network).eval(), (torch.zeros(2, *shape),), file, input_names=["pixel_values"],
            output_names=["logits"], dynamic_axes={"pixel_values": {0: "n"}}, opset_version=17, dynamo=False,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("kind", ["vit", "swin_padded", "swin_unet"])
def test_a_clean_graph_stays_as_it_is(made, kind, opset):
    model = made(kind)[2] if opset == 18 else clean(made(kind)[1], opset=23)
    again = clean(made(kind)[2], opset=opset)
    assert sorted(operators(again)) == sorted(operators(model))


def test_the_source_is_left_alone_and_leaves_no_notes(made):
    raw = made("vit")[1]
    before = raw.SerializeToString()
    assert b"site-packages" in before
    model = clean(raw)
    assert raw.SerializeToString() == before
    assert b"site-packages" not in model.SerializeToString()


def test_shapes_are_recorded_in_terms_of_the_batch(made):
    model = made("swin_padded")[2]
    known = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    first = {str(dims[0].dim_param) for dims in known.values() if len(dims) and dims[0].dim_param}
    assert {"batch", "30*batch"} <= first
    assert {name for node in model.graph.node for name in node.output} - set(known) == {"logits"}


def test_nodes_that_stay_are_named(onnx_model):
    model = onnx_model("chosen = Greater(pixel_values, zero) logits = Where(chosen, pixel_values, zero)",
                       weights={"zero": np.zeros((), np.float32)})  # fmt: skip
    (left,) = check_clean(clean(model))
    assert left.startswith("Where ")


def test_a_branch_that_shapes_decide_is_taken(onnx_model, answers):
    model = onnx_model(
        """size = Shape(pixel_values) width = Gather(size, one) wide = Greater(width, four)
        logits = If(wide) <then_branch = yes () => (float[batch, 8] a) { a = Relu(pixel_values) },
                           else_branch = no () => (float[batch, 8] b) { b = Neg(pixel_values) }>""",
        weights={"one": np.array(1, np.int64), "four": np.array(4, np.int64)},
    )
    cleaned = clean(model)
    assert operators(cleaned) == ["Relu"]
    rows = pixels_for((8,), 3)
    np.testing.assert_array_equal(answers(cleaned, rows), answers(model, rows))


def test_older_graphs_are_brought_up(onnx_model, answers):
    model = onnx_model("one = Constant<value_ints = [1]>() mean = ReduceMean<axes = [1]>(pixel_values) "
                       "logits = Sub(pixel_values, mean)", opset=13)  # fmt: skip
    cleaned = clean(model)
    assert cleaned.opset_import[0].version == 18
    rows = pixels_for((8,), 3)
    np.testing.assert_allclose(answers(cleaned, rows), answers(model, rows), atol=1e-6)


def test_an_operator_without_an_older_form_is_refused(onnx_model):
    with pytest.raises(OnfhError, match="opset_unsupported") as raised:
        clean(onnx_model("logits = Gelu(pixel_values)", opset=20), opset=18)
    assert "--opset 20" in raised.value.fix
    assert "/" not in raised.value.text  # the converter's own words name the source files it was built from


@pytest.mark.slow
def test_vit_b_16_has_at_most_330_nodes():
    torch.manual_seed(0)
    network = ViTForImageClassification._from_config(ViTConfig(image_size=224), attn_implementation="eager").eval()
    model = clean(raw_onnx_from_network(network, (3, 224, 224)))
    assert len(model.graph.node) <= 330
    assert check_clean(model) == []
    pixels = pixels_for((3, 224, 224), 1)
    (found,) = session_of(model).run(None, {"pixel_values": pixels})
    np.testing.assert_allclose(found, answer_of(network, pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_upernet_swin_t_at_512_comes_clean():
    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = SwinConfig(image_size=512, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], out_features=stages)
    config = UperNetConfig(backbone_config=backbone, use_auxiliary_head=False, num_labels=2)
    network = UperNetForSemanticSegmentation._from_config(config, attn_implementation="eager").eval()
    model = clean(raw_onnx_from_network(network, (3, 512, 512)))
    assert check_clean(model) == []
    assert operators(model).count("Softmax") == 12
    pixels = pixels_for((3, 512, 512), 1)
    (found,) = session_of(model).run(None, {"pixel_values": pixels})
    np.testing.assert_allclose(found, answer_of(network, pixels), rtol=1e-4, atol=1e-4)
