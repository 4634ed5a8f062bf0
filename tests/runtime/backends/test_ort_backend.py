from __future__ import annotations

import hashlib

import numpy as np
import pytest

from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.errors import BackendError


@pytest.fixture
def classifier(bundle_folder):
    return OrtBackend(bundle_folder / "classifier" / "model.onnx", precision="fp32")


def tensors(batch=2):
    return (
        {"pixel_values": np.random.default_rng(0).random((batch, 1, 32, 48)).astype(np.float32)},
        {"logits": np.full((batch, 2), np.nan, np.float32)},
    )


def test_outputs_are_written_into_the_callers_buffer(classifier):
    inputs, outputs = tensors()
    buffer = outputs["logits"]
    classifier.run(inputs, outputs)
    np.testing.assert_allclose(buffer[:, 1], 40 * inputs["pixel_values"].mean(axis=(1, 2, 3)), rtol=1e-5)


def test_the_door_is_checked(classifier):
    inputs, outputs = tensors()
    for bad_inputs, bad_outputs in (
        ({}, outputs),
        ({"pixel_values": inputs["pixel_values"].astype(np.float64)}, outputs),
        ({"pixel_values": inputs["pixel_values"][..., ::-1]}, outputs),
        ({"pixel_values": inputs["pixel_values"][:, :, :16]}, outputs),
        (inputs, {"logits": np.empty((2, 3), np.float32)}),
    ):
        with pytest.raises(BackendError, match="wrong_tensor"):
            classifier.run(bad_inputs, bad_outputs)


def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(BackendError, match="model_unloadable"):
        OrtBackend(path, precision="fp32")


def test_the_same_bytes_run_after_run(classifier):
    inputs, outputs = tensors(7)
    digests = set()
    for _ in range(3):
        classifier.run(inputs, outputs)
        digests.add(hashlib.sha256(outputs["logits"].tobytes()).hexdigest())
    assert len(digests) == 1


def test_close_twice_and_then_no_more(classifier):
    classifier.close()
    classifier.close()
    with pytest.raises(BackendError, match="was closed"):
        classifier.run(*tensors())
