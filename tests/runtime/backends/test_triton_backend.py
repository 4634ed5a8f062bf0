"""Against a real Triton server: nvidia-pytriton ships one, with the Python backend, that runs on a CPU."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from onfh_export.triton_repository import write_triton_repository  # noqa: TID251 - the repository is the exporter's
from onfh_runtime.backends import open_stage, triton_backend
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.backends.triton_backend import TritonBackend
from onfh_runtime.bundle import load_bundle, sha256_of
from onfh_runtime.cli.main import main
from onfh_runtime.errors import BackendError, MissingExtraError, UsageError

STAGES = ("classifier", "segmenter")
SCHEMES = ("http", "grpc")


@pytest.fixture
def half_bundle(bundle_folder):
    """The tiny bundle with both stages in half precision too, tensors at the door included."""
    document = json.loads((bundle_folder / "bundle.json").read_text())
    for stage in STAGES:
        model = onnx.load(bundle_folder / stage / "model.onnx")
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        for weight in model.graph.initializer:
            if weight.data_type == TensorProto.FLOAT:
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
        path = bundle_folder / stage / "model.fp16.onnx"
        onnx.save(model, path)
        document[stage]["models"]["fp16"] = f"{stage}/model.fp16.onnx"
        document["files"][f"{stage}/model.fp16.onnx"] = sha256_of(path)
    (bundle_folder / "bundle.json").write_text(json.dumps(document))
    return load_bundle(bundle_folder)


def tensors(backend, batch, seed=0):
    (taken,), (given,) = backend.inputs, backend.outputs
    values = np.random.default_rng(seed).standard_normal((batch, *taken.shape)).astype(taken.dtype)
    return {taken.name: values}, {given.name: np.full((batch, *given.shape), np.nan, given.dtype)}


def row_by_row(backend, inputs, outputs):
    """What the pipeline does on a CPU."""
    ((taken, values),), ((given, buffer),) = inputs.items(), outputs.items()
    answers = {given: np.full_like(buffer, np.nan)}
    for row in range(len(values)):
        backend.run({taken: values[row : row + 1]}, {given: answers[given][row : row + 1]})
    return answers


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("stage", STAGES)
def test_answers_equal_the_local_backend(urls, demo, installed, scheme, stage):
    # One version gives one answer to the bit; another may sum in another order.
    tolerance = 0 if installed.onnxruntime == onnxruntime.__version__ else 1e-6
    local, remote = open_stage(demo, stage, "onnxruntime"), open_stage(demo, stage, f"triton:{urls[scheme]}")
    assert (remote.inputs, remote.outputs, remote.precision) == (local.inputs, local.outputs, "fp32")
    assert remote.name == "triton"
    assert remote.batch_limit == 8
    assert remote.device.startswith(urls[scheme].split("//")[1] + " (triton 2.")
    for batch in (1, 2, 3, 7, 8):
        inputs, outputs = tensors(remote, batch, seed=batch)
        (buffer,) = outputs.values()
        remote.run(inputs, outputs)
        ((_, expected),) = row_by_row(local, inputs, outputs).items()
        np.testing.assert_allclose(buffer, expected, rtol=0, atol=tolerance)
    remote.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_any_thread_may_run_it_and_none_once_it_is_closed(urls, demo, scheme):
    backend = TritonBackend(urls[scheme], "classifier", bundle=demo)
    inputs, outputs = tensors(backend, 1)
    thread = threading.Thread(target=backend.run, args=(inputs, outputs))
    thread.start()
    thread.join()
    assert np.isfinite(outputs["logits"]).all()
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="was closed"):
        backend.run(inputs, outputs)


def test_open_and_close_leave_nothing_behind(urls, demo):
    def open_files():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count

    TritonBackend(urls["http"], "classifier", bundle=demo).close()
    before = open_files(), threading.active_count()
    for _ in range(5):
        TritonBackend(urls["http"], "classifier", bundle=demo).close()
    assert (open_files(), threading.active_count()) == before


def test_the_door_is_checked_before_anything_is_sent(urls, demo):
    backend = TritonBackend(urls["grpc"], "classifier", bundle=demo)
    inputs, outputs = tensors(backend, 1)
    with pytest.raises(BackendError, match="wrong_tensor"):
        backend.run({"pixel_values": inputs["pixel_values"].astype(np.float64)}, outputs)
    inputs, outputs = tensors(backend, 9)
    with pytest.raises(BackendError, match=r"batch-size must be <= 8.*\[stage_failed\]"):
        backend.run(inputs, outputs)
    backend.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_model_of_another_bundle_is_refused(urls, tiny_bundle, scheme):
    with pytest.raises(BackendError, match="was not made from the fp32 segmenter of the bundle in use"):
        TritonBackend(urls[scheme], "segmenter", bundle=tiny_bundle)


@pytest.mark.slow
def test_a_study_has_the_same_answer_through_triton(urls, phantom_study, tmp_path):
    found = {}
    for backend in ("onnxruntime", f"triton:{urls['grpc']}"):
        out = tmp_path / backend[:6]
        assert main(["infer", str(phantom_study), "--out", str(out), "--backend", backend]) == 0
        found[backend] = {path.parent.name: json.loads(path.read_text()) for path in out.rglob("result.json")}
    local, remote = found.values()
    assert len(remote) == 2
    for series, result in remote.items():
        assert result["engine"]["backend"] == "triton"
        for key in ("status", "patient", "sides", "slices", "warnings", "bundle"):
            assert result[key] == local[series][key]


@pytest.mark.slow
def test_half_precision_and_a_model_that_changes_while_in_use(serve, half_bundle):
    """One server, from open to stopped; over both transports at every step."""
    import tritonclient.http
    from tritonclient.utils import InferenceServerException

    options = ("--model-control-mode=explicit", "--load-model=onfh_classifier")
    server, repository = serve(half_bundle, *options, precision="fp16")
    local = OrtBackend(half_bundle.model_path("classifier", "fp16"), precision="fp16")
    remotes = [TritonBackend(url, "classifier", bundle=half_bundle) for url in server.urls.values()]
    inputs, outputs = tensors(local, 3)
    expected = row_by_row(local, inputs, outputs)["logits"]
    for remote in remotes:
        assert (remote.inputs, remote.outputs, remote.precision) == (local.inputs, local.outputs, "fp16")
        remote.run(inputs, outputs)
        np.testing.assert_allclose(outputs["logits"], expected, rtol=0, atol=1e-6)
    for url in server.urls.values():
        with pytest.raises(BackendError, match="triton_model_missing"):
            TritonBackend(url, "segmenter", bundle=half_bundle)

    # The model of another bundle takes its place.
    path = half_bundle.root / "classifier" / "model.fp16.onnx"
    model = onnx.load(path)
    model.producer_name = "someone else"
    onnx.save(model, path)
    write_triton_repository(half_bundle, repository, platform="python", precision="fp16", force=True)
    with tritonclient.http.InferenceServerClient(server.urls["http"].removeprefix("http://")) as client:
        client.load_model("onfh_classifier")
        for remote in remotes:
            outputs["logits"][:] = np.nan
            with pytest.raises(BackendError, match="triton_model_differs"):
                remote.run(inputs, outputs)
            assert np.isnan(outputs["logits"]).all()

        # A damaged file is not served, and what was served before is gone.
        (repository / "onfh_classifier" / "1" / "model.onnx").write_bytes(b"")
        client.unload_model("onfh_classifier")
        with pytest.raises(InferenceServerException, match=r"not the file that config\.pbtxt was written for"):
            client.load_model("onfh_classifier")
    for remote in remotes:
        with pytest.raises(BackendError, match="triton_model_missing"):
            remote.run(inputs, outputs)

    server.stop()
    for remote, url in zip(remotes, server.urls.values(), strict=True):
        with pytest.raises(BackendError, match="triton_unreachable"):
            remote.run(inputs, outputs)
        remote.close()
        with pytest.raises(BackendError, match="triton_unreachable"):
            TritonBackend(url, "classifier", bundle=half_bundle)


@pytest.mark.parametrize("scheme", ["http", "https", "grpc", "grpcs"])
def test_a_server_that_never_answers(demo, scheme, monkeypatch):
    monkeypatch.setattr(triton_backend, "_CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(BackendError, match="triton_unreachable"):
        TritonBackend(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}", "classifier", bundle=demo)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_batch_that_takes_too_long(urls, demo, scheme):
    def run():
        backend = TritonBackend(urls[scheme], "segmenter", bundle=demo, timeout_s=0.01)
        backend.run(*tensors(backend, 8))

    with pytest.raises(BackendError, match=r"(?i)(timed out|deadline).*stage_failed"):
        run()


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_certificate_nobody_vouches_for_is_refused(secure_port, demo, scheme):
    with pytest.raises(BackendError, match=r"(?i)certificate.*triton_unreachable"):
        TritonBackend(f"{scheme}://127.0.0.1:{secure_port}", "classifier", bundle=demo)


def test_a_trusted_certificate(secure_port, certificate, demo, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    backend = TritonBackend(f"https://127.0.0.1:{secure_port}", "classifier", bundle=demo)
    inputs, outputs = tensors(backend, 2)
    backend.run(inputs, outputs)
    assert np.isfinite(outputs["logits"]).all()
    backend.close()


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "http://127.0.0.1", "ftp://h:1", "http://h:99999", "http://h:1/v2", "http://user:word@h:1"],
)
def test_a_url_that_names_no_server(demo, url):
    with pytest.raises(UsageError, match="triton_url_invalid") as raised:
        open_stage(demo, "classifier", f"triton:{url}")
    assert "word" not in str(raised.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_the_extra(demo, scheme, monkeypatch):
    monkeypatch.setitem(sys.modules, f"tritonclient.{scheme}", None)
    with pytest.raises(MissingExtraError, match=r"onfh-edge\[triton\]"):
        open_stage(demo, "classifier", f"triton:{scheme}://127.0.0.1:1")
