"""Small graphs as text, the demo bundle's stages, and ONNX Runtime to run them."""

import onnx
import onnxruntime
import pytest

from onfh_runtime.cli.infer import demo_bundle


def _model(body, *, weights=None, opset=18, given="float[batch,8] pixel_values", answer="float[batch,8] logits"):
    text = f'<ir_version: 10, opset_import: ["" : {opset}]>\ngraph ({given}) => ({answer}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items())
    return model


def _answers(model, rows, outputs=("logits",)):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(list(outputs), {"pixel_values": rows})
    return found[0] if len(found) == 1 else dict(zip(outputs, found, strict=True))


@pytest.fixture(scope="session")
def onnx_model():
    """(body, weights=, opset=, given=, answer=) -> a checked-by-nobody FP32 model in the ONNX text format."""
    return _model


@pytest.fixture(scope="session")
def answers():
    """(model, rows, outputs) -> what ONNX Runtime answers: one array, or a dict of several."""
    return _answers


@pytest.fixture(scope="session")
def stages():
    """Both stages of the demo bundle, FP32 ONNX with trained weights; tests must not change them."""
    return {stage: onnx.load(demo_bundle() / stage / "model.onnx") for stage in ("classifier", "segmenter")}
