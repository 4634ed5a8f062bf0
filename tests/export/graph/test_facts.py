"""Figures of a graph, against counts made by hand."""

import importlib.util

import numpy as np
import pytest

from onfh_export.graph.facts import graph_facts
from onfh_export.graph.precision import half_from_float, named


def _weights(**shapes):
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def test_macs_by_hand(onnx_model):
    body = """
        image = Reshape(pixel_values, four)
        conv = Conv <group = 2, pads = [1, 1, 1, 1]> (image, kernel)
        up = ConvTranspose <strides = [2, 2]> (conv, spread)
        flat = Flatten(up)
        dense = Gemm <transB = 1> (flat, matrix, bias)
        logits = MatMul(dense, last)
    """
    weights = _weights(kernel=(6, 2, 3, 3), spread=(6, 1, 2, 2), matrix=(5, 64), bias=5, last=(5, 8))
    model = onnx_model(body, weights=weights | {"four": np.array([0, 4, 4, 4])}, given="float[n,64] pixel_values")
    facts = graph_facts(model)
    conv, up, dense, last = 6 * 4 * 4 * 2 * 9, 6 * 4 * 4 * 4, 5 * 64, 5 * 8
    assert facts.gmac == pytest.approx((conv + up + dense + last) / 1e9)
    assert facts.parameters == 6 * 2 * 9 + 6 * 4 + 5 * 64 + 5 + 5 * 8
    assert (facts.opset, facts.nodes, facts.casts, facts.half_share) == (18, 6, 0, 0)
    assert list(facts.operators.items())[:2] == [("Conv", 1), ("ConvTranspose", 1)]


@pytest.mark.parametrize("folded", [False, True])
def test_macs_of_attention(onnx_model, folded):
    # 6 queries, 6 keys; 2 heads of 4 for Q and K, of 4 for V: scores 2 x 6 x 6 x 4, and as many again for the values.
    shape = [0, 6, 8] if folded else [0, 2, 6, 4]
    heads = "<q_num_heads = 2, kv_num_heads = 2>" if folded else ""
    body = f"q = Reshape(pixel_values, s) y = Attention {heads} (q, q, q) logits = Reshape(y, t)"
    weights = {"s": np.array(shape), "t": np.array([0, 48])}
    model = onnx_model(body, weights=weights, opset=23, given="float[n,48] pixel_values", answer="float[n,48] logits")
    assert graph_facts(model).gmac == pytest.approx(2 * (2 * 6 * 6 * 4) / 1e9)


def test_half_share_is_by_elements(onnx_model):
    model = named(
        onnx_model(
            "grown = MatMul(pixel_values, w) logits = ReduceSum(grown, last)",
            weights=_weights(w=(8, 31)) | {"last": np.array([-1])},
            answer="float[n,1] logits",
        )
    )
    facts = graph_facts(half_from_float(model, dtype="fp16", keep=["ReduceSum_0"]))
    # Half: the input's copy (8) and the product (31). FP32: the product's copy (31) and the answer (1).
    assert facts.half_share == pytest.approx(39 / 71)
    assert facts.casts == 2
    assert graph_facts(half_from_float(model, dtype="bf16", io="fp16")).half_share == 1


def test_the_demo_vit_by_hand(stages):
    # 72 x 216 in patches of 12 make 108 + 1 tokens of width 128; 6 blocks of 12 w^2 weights and 2 t w of attention.
    config = {weight.name: weight.dims for weight in stages["classifier"].graph.initializer}
    (kernel,) = [dims for name, dims in config.items() if name.endswith("projection.weight")]
    width, patch = kernel[0], kernel[-1]
    blocks = sum(name.endswith("fc1.bias") for name in config)
    tokens = (72 // patch) * (216 // patch) + 1
    macs = (tokens - 1) * width * patch**2 + blocks * tokens * (12 * width**2 + 2 * tokens * width) + 2 * width
    facts = graph_facts(stages["classifier"])
    assert facts.gmac == pytest.approx(macs / 1e9, rel=1e-3)
    assert facts.operators["Softmax"] == blocks


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_vit_base(tmp_path):
    import onnx
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    from onfh_export.onnx_export import onnx_from_network

    network = ViTForImageClassification(ViTConfig(num_labels=2, attn_implementation="eager")).eval()
    with torch.inference_mode():
        onnx_from_network(network, (3, 224, 224), tmp_path / "model.onnx")
    facts = graph_facts(onnx.load(tmp_path / "model.onnx"))
    assert facts.gmac == pytest.approx(17.56, abs=0.03)  # 17.58 where norms are counted too
    assert facts.parameters == pytest.approx(85.8e6, rel=2e-3)
