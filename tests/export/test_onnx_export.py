"""An exported stage answers as its network does, at every batch size, or export says so."""

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from onfh_export.networks import checkpoint_from_folder, vit_from_shape
from onfh_export.onnx_export import check_onnx
from onfh_export.recipe import smoke_recipe
from onfh_runtime.errors import OnfhError

SHAPE = (1, *smoke_recipe().size)


def _shape(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize(("stage", "made"), [("classifier", ["batch", 2]), ("segmenter", ["batch", 2, *SHAPE[1:]])])
def test_only_the_batch_is_symbolic(bundle, stage, made):
    graph = onnx.load(bundle / stage / "model.onnx").graph
    (given,), (output,) = graph.input, graph.output
    assert (given.name, output.name) == ("pixel_values", "logits")
    assert _shape(given) == ["batch", *SHAPE]
    assert _shape(output) == made
    assert [p.name for p in (bundle / stage).iterdir()] == ["model.onnx"]


def test_padded_and_shifted_windows_keep_images_apart(bundle):
    # The smoke segmenter's windows of 5 neither divide its 16 x 24 tokens nor stay unshifted.
    pixels = np.random.default_rng(0).standard_normal((5, *SHAPE)).astype(np.float32)
    session = onnxruntime.InferenceSession(bundle / "segmenter" / "model.onnx", providers=["CPUExecutionProvider"])
    (together,) = session.run(None, {"pixel_values": pixels})
    assert together.shape == (5, 2, *SHAPE[1:])
    for image, expected in zip(pixels, together, strict=True):
        np.testing.assert_allclose(session.run(None, {"pixel_values": image[None]})[0][0], expected, atol=1e-5)


def test_it_answers_as_its_checkpoint(bundle, checkpoints):
    for stage in ("classifier", "segmenter"):
        network = checkpoint_from_folder(checkpoints / stage)
        assert check_onnx(bundle / stage / "model.onnx", network, SHAPE) < 1e-5


def test_other_weights_are_noticed(bundle):
    torch.manual_seed(7)
    other = vit_from_shape(smoke_recipe().classifier, SHAPE[1:]).eval()
    with pytest.raises(OnfhError, match="other logits"):
        check_onnx(bundle / "classifier" / "model.onnx", other, SHAPE)


def test_a_baked_batch_is_noticed(bundle, checkpoints, tmp_path):
    path = shutil.copy(bundle / "classifier" / "model.onnx", tmp_path)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, path)
    with pytest.raises(OnfhError, match="onnx_mismatch"):
        check_onnx(tmp_path / "model.onnx", checkpoint_from_folder(checkpoints / "classifier"), SHAPE)
