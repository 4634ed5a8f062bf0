"""TensorRT-RTX, which builds without a GPU, and tiny ONNX files for it to build."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onfh_runtime.engines import flavour
from onfh_runtime.errors import MissingExtraError

CHANNELS = 96


@pytest.fixture(scope="session")
def rtx():
    """The TensorRT-RTX flavour; skips where it is not installed, which CI does not allow."""
    try:
        return flavour("tensorrt-rtx")
    except MissingExtraError as error:
        if os.environ.get("ONFH_REQUIRE_TOOLS"):
            pytest.fail(f"ONFH_REQUIRE_TOOLS is set: {error}")
        pytest.skip(str(error))


@pytest.fixture
def onnx_file(tmp_path):
    """Writes an ONNX file: two convolutions in one floating-point type, or the nodes that are given instead."""

    def write(name="model.onnx", *, half=False, nodes=None, shape=("batch", 1, 16, 24), output=None, domain=""):
        kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        random = np.random.default_rng(0)
        weights = {"first": (CHANNELS, 1, 3, 3), "second": (CHANNELS, CHANNELS, 3, 3)}
        given = nodes or [
            helper.make_node("Conv", ["pixels", "first"], ["a"], name="first_conv", pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["b"], name="relu"),
            helper.make_node("Conv", ["b", "second"], ["logits"], name="second_conv", pads=[1] * 4),
        ]
        used = {name for node in given for name in node.input}
        graph = helper.make_graph(
            given,
            "tiny",
            [helper.make_tensor_value_info("pixels", kind, shape)],
            [helper.make_tensor_value_info("logits", kind, output)],
            [
                numpy_helper.from_array(random.standard_normal(size).astype(np.float16 if half else np.float32), name)
                for name, size in weights.items()
                if name in used
            ],
        )
        opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / name)
        return tmp_path / name

    return write
