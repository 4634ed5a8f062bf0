"""The I/O binding runs for real, with the CPU provider on a device whose memory is the host's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from host_device import HostDevice
from onnx import TensorProto, helper

from onfh_runtime.backends import ort_cuda_backend
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.backends.ort_cuda_backend import OrtCudaBackend
from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.device import DeviceMemoryError
from onfh_runtime.errors import BackendError


class Bench:
    """A backend on a host device and its buffers."""

    def __init__(self, path, *, max_rows=4, **options):
        self.device = HostDevice()
        self.stream, self.memory = self.device.stream(), self.device.workspace()
        self.backend = OrtCudaBackend(
            path,
            stage="classifier",
            precision="fp32",
            max_rows=max_rows,
            device=self.device,
            stream=self.stream,
            provider="cpu",
            **options,
        )
        (self.given,), (self.made,) = self.backend.inputs, self.backend.outputs

    def run(self, values, stream=None):
        given = self.memory.device("in", (16, *self.given.shape), self.given.dtype).rows(0, len(values))
        made = self.memory.device("out", (16, *self.made.shape), self.made.dtype).rows(0, len(values))
        source = self.memory.pinned("source", given.shape, given.dtype)
        answer = self.memory.pinned("answer", made.shape, made.dtype)
        source[:] = values
        self.stream.upload(given, source)
        self.stream.zero(made)
        self.backend.run({self.given.name: given}, {self.made.name: made}, stream=stream or self.stream)
        self.stream.download(answer, made)
        self.stream.synchronize()
        return answer.copy()


@pytest.fixture
def bench(bundle_folder):
    return Bench(bundle_folder / "classifier" / "model.onnx")


def rows_of(count, shape=(1, 32, 48)):
    return np.random.default_rng(count).random((count, *shape), np.float32)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_it_answers_what_the_host_backend_answers(bench, bundle_folder, rows):
    host = OrtBackend(bundle_folder / "classifier" / "model.onnx", precision="fp32")
    assert bench.backend.inputs == host.inputs
    assert bench.backend.outputs == host.outputs
    values, expected = rows_of(rows), np.empty((rows, 2), np.float32)
    host.run({"pixel_values": values}, {"logits": expected})
    np.testing.assert_allclose(bench.run(values), expected, rtol=1e-5)


def test_what_was_queued_before_is_done_first(bench):
    values = rows_of(2)  # the upload is put off until somebody waits
    np.testing.assert_allclose(bench.run(values)[:, 1], 40 * values.mean(axis=(1, 2, 3)), rtol=1e-5)


def test_half_files_run():
    bundle = load_bundle(demo_bundle())
    half = Bench(bundle.model_path("classifier", "fp16"), max_rows=bundle.content.classifier.max_batch)
    full = Bench(bundle.model_path("classifier", "fp32"), max_rows=bundle.content.classifier.max_batch)
    assert half.backend.buckets == (1, 2, 4, 8)
    values = rows_of(2, full.given.shape)
    np.testing.assert_allclose(half.run(values), full.run(values), atol=0.05)


def test_the_door_is_checked(bench):
    with pytest.raises(BackendError, match=r"runs 1, 2, 4 rows at once, not 3.*wrong_tensor"):
        bench.run(rows_of(3))
    with pytest.raises(BackendError, match="another stream"):
        bench.run(rows_of(2), stream=bench.device.stream())
    wrong = bench.memory.device("wrong", (2, 1, 32, 48), np.float16)
    with pytest.raises(BackendError, match="wrong_tensor"):
        bench.backend.run({"pixel_values": wrong}, {"logits": wrong}, stream=bench.stream)


def test_close_twice_and_then_no_more(bench):
    bench.run(rows_of(1))
    bench.backend.close()
    bench.backend.close()
    with pytest.raises(BackendError, match="was closed"):
        bench.run(rows_of(1))


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(BackendError, match="model_unloadable"):
        Bench(tmp_path / "model.onnx")


def test_a_model_that_fails_when_it_runs_is_told(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["pixels", "shape"], ["logits"])],
        "fails",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    bench = Bench(tmp_path / "model.onnx")
    with pytest.raises(BackendError, match=r"The classifier failed: .*stage_failed"):
        bench.run(np.zeros((2, 4), np.float32))


def test_warnings_are_the_openers(bundle_folder):
    given = (("precision_fallback", "so"),)
    assert Bench(bundle_folder / "classifier" / "model.onnx", warnings=given).backend.warnings == given


def test_nodes_left_to_the_cpu_are_told_but_for_those_on_shapes(bench):
    # Asked as if the session had been for a GPU: then all of it was left to the CPU.
    ((code, text),) = ort_cuda_backend._left_to_the_cpu(bench.backend._session, "classifier", "CUDAExecutionProvider")
    assert code == "cpu_nodes"
    assert "2 nodes of the classifier (Gemm, ReduceMean) run on the CPU" in text
    assert bench.backend.warnings == ()


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_an_onnx_runtime_without_a_gpu_never_answers_for_one(bundle_folder):
    device = HostDevice()
    with pytest.raises(BackendError, match=r"cannot use the GPU for the segmenter.*model_unloadable"):
        OrtCudaBackend(
            bundle_folder / "segmenter" / "model.onnx",
            stage="segmenter",
            precision="fp32",
            max_rows=4,
            device=device,
            stream=device.stream(),
        )


def test_the_provider_gets_the_callers_stream_and_leaves_memory_to_others():
    device = HostDevice(memory_bytes=1000_000)
    stream = device.stream()
    stream.handle = 0x7F00
    name, options = ort_cuda_backend._provider(device, stream, "cuda")
    assert name == "CUDAExecutionProvider"
    assert (options["user_compute_stream"], options["device_id"]) == (str(0x7F00), "0")
    assert int(options["gpu_mem_limit"]) == 900_000


@pytest.mark.parametrize(
    "words",
    [
        "bfc_arena.cc:376 Available memory of 1024 is smaller than requested bytes of 4096",
        "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 99",
        "CUDA failure 2: out of memory ; GPU=0",
    ],
)
def test_no_memory_is_told_apart(words):
    assert isinstance(ort_cuda_backend._failed("stage_failed", "it failed", RuntimeError(words)), DeviceMemoryError)
    assert type(ort_cuda_backend._failed("stage_failed", "it failed", RuntimeError("else"))) is BackendError
