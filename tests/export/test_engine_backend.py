"""An engine as a backend of the parity gate: needs a GPU, and says so without one."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onfh_export.engine_backend import EngineBackend
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.engines import find_flavours, find_gpus, known_targets, plan_from_onnx
from onfh_runtime.errors import BackendError

GPUS = find_gpus()


@pytest.mark.skipif(bool(GPUS), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(BackendError, match="engine_unloadable"):
        EngineBackend(tmp_path / "x.plan", None, precision="fp16", batch_limit=8)


@pytest.mark.gpu
@pytest.mark.skipif(not GPUS and not os.environ.get("ONFH_REQUIRE_GPU"), reason="no NVIDIA GPU")
def test_an_engine_answers_as_onnx_runtime_does(tmp_path):
    weights = np.random.default_rng(0).standard_normal((4, 1, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["pixels", "weights"], ["logits"], pads=[1] * 4)],
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 1, 16, 24])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4, 16, 24])],
        [numpy_helper.from_array(weights, "weights")],
    )
    path = tmp_path / "classifier" / "model.onnx"
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    flavour = next((each for each in find_flavours() if GPUS[0].target in known_targets(each)), None)
    if flavour is None:
        pytest.skip(f"no TensorRT here knows {GPUS[0].target}")
    path.with_suffix(".plan").write_bytes(plan_from_onnx(path, flavour, GPUS[0].target).data)
    rows = np.random.default_rng(1).standard_normal((3, 1, 16, 24)).astype(np.float32)
    answers = []
    for backend in (
        EngineBackend(path.with_suffix(".plan"), flavour, precision="fp32", batch_limit=8),
        OrtBackend(path, precision="fp32"),
    ):
        answers.append(np.empty((3, 4, 16, 24), np.float32))
        backend.run({"pixels": rows}, {"logits": answers[-1]})
        backend.close()
        backend.close()
    np.testing.assert_allclose(*answers, rtol=1e-2, atol=1e-2)
