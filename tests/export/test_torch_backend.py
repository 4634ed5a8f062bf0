"""A network behind the backend contract answers as the network does."""

import numpy as np
import pytest
import torch
from torch import nn

from onfh_export.networks import segmenter_from_shape, vit_from_shape
from onfh_export.recipe import smoke_recipe
from onfh_export.torch_backend import TorchBackend
from onfh_runtime.errors import BackendError

RECIPE = smoke_recipe()
SIZE = RECIPE.size
NAMES = {"input_name": "pixels", "output_name": "scores"}


@pytest.mark.parametrize(
    ("network", "made"),
    [
        (vit_from_shape(RECIPE.classifier, SIZE), (2,)),
        (segmenter_from_shape(RECIPE.segmenter, SIZE), (2, *SIZE)),
    ],
    ids=["classifier", "segmenter"],
)
def test_it_answers_as_its_network(network, made):
    backend = TorchBackend(network, (1, *SIZE), **NAMES)
    assert (backend.inputs[0].shape, backend.outputs[0].shape) == ((1, *SIZE), made)
    pixels = np.random.default_rng(0).standard_normal((3, 1, *SIZE)).astype(np.float32)
    scores = np.empty((3, *made), np.float32)
    backend.run({"pixels": pixels}, {"scores": scores})
    with torch.inference_mode():
        np.testing.assert_array_equal(scores, network(torch.from_numpy(pixels)).logits.numpy())


def test_a_module_that_answers_a_tensor_is_put_into_evaluation_mode():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(4, 2)).train()
    backend = TorchBackend(network, (1, 2, 2), **NAMES)
    assert not network.training
    pixels, scores = np.ones((1, 1, 2, 2), np.float32), np.empty((2, 1, 2), np.float32)
    for out in scores:
        backend.run({"pixels": pixels}, {"scores": out})
    np.testing.assert_array_equal(scores[0], scores[1])


def test_wrong_tensors_and_a_closed_network_are_refused():
    backend = TorchBackend(nn.Flatten(), (1, 2, 2), **NAMES)
    with pytest.raises(BackendError, match="wrong_tensor"):
        backend.run({"pixels": np.zeros((1, 1, 2, 3), np.float32)}, {"scores": np.zeros((1, 4), np.float32)})
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run({"pixels": np.zeros((1, 1, 2, 2), np.float32)}, {"scores": np.zeros((1, 4), np.float32)})
