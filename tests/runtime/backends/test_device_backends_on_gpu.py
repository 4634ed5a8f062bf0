"""The GPU backends on a real GPU, held against ONNX Runtime on the CPU; each that cannot run skips and says why."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
from real_gpu import opened_gpu

from onfh_runtime.backends import DEVICE_BACKENDS, refusal_of
from onfh_runtime.backends.on_device import open_device_stage
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.engines import EngineOptions, Profile, flavour, plan_from_onnx, read_plans, write_plan
from onfh_runtime.measure.layers import tensorrt_layers
from onfh_runtime.stages import positive_probability

pytestmark = pytest.mark.gpu
STAGES = ("classifier", "segmenter")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONFH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gpu():
    device = opened_gpu()
    yield device
    device.close()


@pytest.fixture(scope="module")
def demo():
    return load_bundle(demo_bundle())


def need(backend):
    error = refusal_of(backend)
    if error is not None:
        pytest.skip(f"{backend}: {error}")


class Runs:
    """Runs of one backend with the buffers of the pipeline: made once for the largest bucket."""

    def __init__(self, gpu, stream, backend):
        self.stream, self.backend, self.memory = stream, backend, gpu.workspace()
        (self.given,), (self.made,), most = backend.inputs, backend.outputs, backend.buckets[-1]
        self.source = self.memory.pinned("source", (most, *self.given.shape), self.given.dtype)
        self.answer = self.memory.pinned("answer", (most, *self.made.shape), self.made.dtype)
        self.values = self.memory.device("values", self.source.shape, self.given.dtype)
        self.logits = self.memory.device("logits", self.answer.shape, self.made.dtype)

    def __call__(self, values):
        rows = len(values)
        self.source[:rows] = values
        self.stream.upload(self.values.rows(0, rows), self.source[:rows])
        self.stream.zero(self.logits)
        given, made = {self.given.name: self.values.rows(0, rows)}, {self.made.name: self.logits.rows(0, rows)}
        self.backend.run(given, made, stream=self.stream)
        self.stream.download(self.answer[:rows], self.logits.rows(0, rows))
        self.stream.synchronize()
        return self.answer[:rows].copy()


def spec_of(bundle, stage):
    return bundle.content.classifier if stage == "classifier" else bundle.content.segmenter


def images(spec, rows):
    return np.random.default_rng(rows).random((rows, *spec.shape), np.float32)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", DEVICE_BACKENDS)
def test_every_bucket_answers_as_the_cpu_does_run_after_run(gpu, demo, name, stage, caplog):
    need(name)
    caplog.set_level(logging.INFO)
    stream = gpu.stream()
    backend = open_device_stage(demo, stage, name, gpu, stream)
    host, spec, run = OrtBackend(demo.model_path(stage, "fp32"), precision="fp32"), spec_of(demo, stage)
    run = Runs(gpu, stream, backend)
    assert backend.precision == "fp16"
    assert backend.buckets[-1] == spec.max_batch
    assert {code for code, _ in backend.warnings} <= {"engine_rebuilt"}
    for rows in reversed(backend.buckets):
        values = images(host.inputs[0], rows).astype(backend.inputs[0].dtype)
        expected = np.empty((rows, *host.outputs[0].shape), np.float32)
        host.run({spec.input_name: values.astype(np.float32)}, {spec.output_name: expected})
        answers = [run(values) for _ in range(4)]
        drift = np.abs(positive_probability(answers[0], spec) - positive_probability(expected, spec))
        assert drift.max() < demo.content.parity.probability_drift, f"{rows} rows"
        for answer in answers[1:]:
            np.testing.assert_array_equal(answer, answers[0])
    assert "without a CUDA graph" not in caplog.text
    backend.close()


@pytest.mark.parametrize("name", DEVICE_BACKENDS)
def test_a_row_answers_alike_in_any_batch(gpu, demo, name):
    need(name)
    stream = gpu.stream()
    backend = open_device_stage(demo, "classifier", name, gpu, stream)
    run = Runs(gpu, stream, backend)
    values = images(backend.inputs[0], backend.buckets[-1]).astype(backend.inputs[0].dtype)
    together = positive_probability(run(values), demo.content.classifier)
    alone = np.concatenate([positive_probability(run(values[i : i + 1]), demo.content.classifier) for i in range(4)])
    assert np.abs(together[:4] - alone).max() < 0.01
    backend.close()


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_layers_are_timed_and_graphs_can_be_left_out(gpu, demo, name):
    need(name)
    stream = gpu.stream()
    plain = open_device_stage(demo, "classifier", name, gpu, stream, graphs=False)
    run = Runs(gpu, stream, plain)
    values = images(plain.inputs[0], 8).astype(plain.inputs[0].dtype)
    before = run(values)
    np.testing.assert_array_equal(run(values), before)
    assert plain.captured == ()
    layers = tensorrt_layers(plain, 8, device=gpu, stream=stream)
    assert layers["rows"] == 8
    assert layers["kernels_ms"] > 0 or not layers["nodes"]
    if name == "tensorrt":
        assert layers["nodes"]
    plain.close()
    captured = open_device_stage(demo, "classifier", name, gpu, stream)
    np.testing.assert_array_equal(Runs(gpu, stream, captured)(values), before)
    assert captured.captured == (8,)
    captured.close()


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_nothing_is_built_or_allocated_twice(gpu, demo, name, cache):
    need(name)
    stream = gpu.stream()
    first = open_device_stage(demo, "classifier", name, gpu, stream)
    assert [code for code, _ in first.warnings] == ["engine_rebuilt"]
    run = Runs(gpu, stream, first)
    values = images(first.inputs[0], 8).astype(first.inputs[0].dtype)
    before = run(values)
    free = gpu.free_bytes()
    for _ in range(20):
        run(values)
    assert gpu.free_bytes() > free - (1 << 20)  # of which other programs may take a little
    first.close()
    (kept,) = read_plans(cache / demo.sha256)
    assert kept.facts.engine_half_share is None or kept.facts.engine_half_share > 0.5
    compiled = list(kept.path.parent.glob("*.kernels"))
    assert len(compiled) == (name == "tensorrt-rtx")
    second = open_device_stage(demo, "classifier", name, gpu, stream)
    assert second.warnings == ()
    np.testing.assert_array_equal(Runs(gpu, stream, second)(values), before)
    second.close()


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_a_plan_without_weights_gets_them_back(gpu, name, tmp_path):
    need(name)
    root = tmp_path / "bundle"
    shutil.copytree(demo_bundle(), root)
    bundle, chosen, stream = load_bundle(root), flavour(name), gpu.stream()
    options = EngineOptions(profiles=(Profile(1, 1, 1), Profile(2, 8, 8)), strip_weights=True)
    with gpu.current():
        built = plan_from_onnx(bundle.model_path("classifier", "fp16"), chosen, gpu.target, options)
    write_plan(root, "classifier", built, onnx=bundle.content.classifier.models["fp16"], precision="fp16")
    backend = open_device_stage(bundle, "classifier", name, gpu, stream)
    assert backend.warnings == ()
    host, spec = OrtBackend(bundle.model_path("classifier", "fp32"), precision="fp32"), bundle.content.classifier
    run = Runs(gpu, stream, backend)
    for rows in (1, 8):
        values = images(host.inputs[0], rows).astype(backend.inputs[0].dtype)
        expected = np.empty((rows, *host.outputs[0].shape), np.float32)
        host.run({spec.input_name: values.astype(np.float32)}, {spec.output_name: expected})
        drift = np.abs(positive_probability(run(values), spec) - positive_probability(expected, spec))
        assert drift.max() < bundle.content.parity.probability_drift
    backend.close()
