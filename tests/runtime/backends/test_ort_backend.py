from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from onfh_runtime.backends import ort_backend
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.cpu import cores
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


def test_threads_are_those_asked_for_or_the_cores_this_process_may_use(monkeypatch):
    monkeypatch.setattr(ort_backend.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(ort_backend, "cores", lambda: 2)
    assert ort_backend.session_options(0).intra_op_num_threads == 2
    assert ort_backend.session_options(3).intra_op_num_threads == 3
    monkeypatch.setattr(ort_backend, "cores", lambda: 64)
    assert ort_backend.session_options(0).intra_op_num_threads == 0  # one for each core that is not half of another


def test_int8_products_never_saturate(monkeypatch):
    monkeypatch.setattr(ort_backend, "multiplies_bytes_exactly", lambda: False)
    assert ort_backend.session_options(0).get_session_config_entry("session.x64quantprecision") == "1"
    monkeypatch.setattr(ort_backend, "multiplies_bytes_exactly", lambda: True)
    with pytest.raises(RuntimeError, match="x64quantprecision"):
        ort_backend.session_options(0).get_session_config_entry("session.x64quantprecision")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or cores() < 2, reason="no second core to leave out")
def test_a_process_on_one_core_gets_no_second_thread(bundle_folder):
    script = f"""
import os
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from pathlib import Path
import onnxruntime
from onfh_runtime.backends.ort_backend import OrtBackend
before = len(os.listdir("/proc/self/task"))
OrtBackend(Path({str(bundle_folder)!r}) / "classifier" / "model.onnx", precision="fp32")
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]
