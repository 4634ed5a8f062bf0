"""Adaptive average pooling is one matrix for every output size, whatever divides what."""

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime
import pytest
import torch
from torch import nn

from onfh_export.graph.clean import check_clean
from onfh_export.graph.pooling import rewrite_pooling
from onfh_export.onnx_export import onnx_from_network, raw_onnx_from_network


class Pools(nn.Module):
    """One adaptive pooling, used twice over: its answer, and what a convolution makes of it."""

    def __init__(self, size, channels):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(size)
        self.mix = nn.Conv2d(channels, 3, 1)

    def forward(self, pixels):
        return self.mix(self.pool(pixels.relu()))


@pytest.mark.parametrize(
    ("plane", "size", "channels"), [((16, 16), 3, 2), ((10, 7), 6, 5), ((4, 5), (6, 3), 40), ((9, 16), (4, 5), 1)]
)
def test_the_same_means(plane, size, channels):
    torch.manual_seed(0)
    network = Pools(size, channels).eval()
    shape = (channels, *plane)
    assert any("GatherND" in left for left in check_clean(raw_onnx_from_network(network, shape)))
    model = onnx_from_network(network, shape)
    assert check_clean(model) == []
    assert [node.op_type for node in model.graph.node] == ["Relu", "Reshape", "MatMul", "Reshape", "Conv"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 4):
        pixels = torch.randn(batch, *shape)
        (found,) = session.run(None, {"pixel_values": pixels.numpy()})
        np.testing.assert_allclose(found, network(pixels).detach().numpy(), atol=1e-5)


IMAGE = "float[batch, 2, 4, 4] pixel_values"
PICKED = "turned = Transpose<perm = [2, 3, 0, 1]>(pixel_values) picked = GatherND(turned, places) "
BACK = "plane = Transpose<perm = [2, 3, 0, 1]>(picked) "
PLACES = np.stack(np.meshgrid([0, 2, 3], [1, 3], indexing="ij"), axis=-1)


@pytest.mark.parametrize(
    "rest",
    [
        "a = Mul(plane, plane) logits = Relu(a)",  # no linear map
        "a = Div(one, plane) logits = Relu(a)",
        "a = Mul(plane, two) logits = Mul(a, other)",  # depends on further pixels
        "across = ReduceMean<keepdims = 1>(plane, channels) a = Add(plane, across) logits = Relu(a)",
    ],
)
def test_what_is_no_matrix_stays(onnx_model, answers, rest):
    """Whatever part is rewritten, the answers stay."""
    body = PICKED + BACK + "mean = ReduceMean<keepdims = 1>(pixel_values) other = Relu(mean) " + rest
    weights = {"places": PLACES, "one": np.float32(1), "two": np.float32(2), "channels": np.array([1])}
    model = onnx_model(body, weights=weights, given=IMAGE, answer="float[b, c, h, w] logits")
    work = ir.from_proto(model)
    rewrite_pooling(work)
    rows = np.random.default_rng(0).standard_normal((3, 2, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(answers(named(work), rows), answers(model, rows), rtol=1e-5, atol=1e-5)


def named(work):
    passes.RemoveUnusedNodesPass()(work)
    passes.NameFixPass()(work)
    model = ir.to_proto(work)
    onnx.checker.check_model(model)
    return model
