"""A plan on this machine's GPU; without one, a named refusal. The wiring runs on a TensorRT that is stood in for."""

import logging

import numpy as np
import pytest
from host_device import HostDevice
from real_gpu import opened_gpu
from trt_stand_in import BINDINGS, CHANNELS, PIXELS, stand_in_flavour, stand_in_plan

from onfh_runtime.device import DeviceMemoryError
from onfh_runtime.engines import EngineError, EngineOptions, Profile, find_gpus, flavour, known_targets, plan_from_onnx
from onfh_runtime.engines.listening import profiler_from_module
from onfh_runtime.engines.run import PlanRunner, plan_buckets
from onfh_runtime.errors import BackendError, MissingExtraError

GPUS = find_gpus()


@pytest.fixture
def stream():
    return HostDevice().stream()


def no_scratch(nbytes):
    raise AssertionError("nothing is run here")


@pytest.mark.skipif(bool(GPUS), reason="there is a GPU here")
def test_without_a_gpu_a_plan_does_not_open_and_tensorrt_says_why(rtx, onnx_file):
    plan = plan_from_onnx(onnx_file(half=True), rtx, "sm89").data
    with pytest.raises(BackendError, match="engine_unloadable") as caught:
        PlanRunner(plan, rtx, scratch=no_scratch)
    assert "cuda" in str(caught.value).lower()


@pytest.mark.parametrize("plan", [b"", b"no plan at all" * 99], ids=["empty", "garbage"])
def test_what_is_no_plan_is_refused(rtx, plan):
    with pytest.raises(BackendError, match="engine_unloadable"):
        PlanRunner(plan, rtx, scratch=no_scratch)


@pytest.mark.parametrize("binding", BINDINGS)
def test_tensors_and_profiles_are_read(stream, binding):
    plan = stand_in_plan(profiles=((1, 1, 1), (2, 4, 8)), half=True)
    runner = PlanRunner(plan, stand_in_flavour(binding, stream), scratch=no_scratch)
    assert [(spec.name, spec.shape, spec.dtype) for spec in (*runner.inputs, *runner.outputs)] == [
        ("pixels", PIXELS, np.float16),
        ("logits", (CHANNELS,), np.float16),
    ]
    assert runner.profiles == ((1, 1, 1), (2, 4, 8))


@pytest.mark.parametrize(
    ("profiles", "max_rows", "buckets"),
    [
        (((1, 8, 8),), 8, (1, 2, 4, 8)),
        (((1, 8, 8),), 6, (1, 2, 4, 6)),
        (((1, 4, 5),), 8, (1, 2, 4, 5)),
        (((1, 1, 1), (4, 16, 32)), 32, (1, 4, 8, 16, 32)),
        (((2, 2, 2),), 8, (2,)),
        (((16, 16, 16),), 8, ()),
        (((1, 1, 1),), 1, (1,)),
    ],
)
def test_buckets_are_powers_of_two_that_a_profile_takes(profiles, max_rows, buckets):
    assert plan_buckets(profiles, max_rows) == buckets


def test_a_gpu_the_flavour_does_not_know_is_named_before_the_plan_is_opened(stream):
    with pytest.raises(BackendError, match=r"does not know this GPU.*gpu_unsupported"):
        PlanRunner(stand_in_plan(), stand_in_flavour("tensorrt-rtx-1.7.1", stream, gpu="sm90"), scratch=no_scratch)


@pytest.mark.parametrize(
    ("words", "error", "code"),
    [
        ("CUDA error 2: out of memory", DeviceMemoryError, "gpu_out_of_memory"),
        ("Requested amount of GPU memory could not be allocated: OutOfMemory", DeviceMemoryError, "gpu_out_of_memory"),
        ("Serialization assertion failed", EngineError, "engine_unloadable"),
    ],
)
def test_no_memory_for_an_engine_is_told_apart_from_a_plan_that_does_not_fit(stream, words, error, code):
    with pytest.raises(error) as caught:
        PlanRunner(stand_in_plan(opens=words), stand_in_flavour("tensorrt-10.3.0", stream), scratch=no_scratch)
    assert caught.value.code == code


def test_after_close_nothing_runs(stream):
    runner = PlanRunner(stand_in_plan(), stand_in_flavour("tensorrt-10.3.0", stream), scratch=lambda nbytes: 256)
    runner.prepare(4, stream=0)
    runner.close()
    runner.close()
    with pytest.raises(BackendError, match="was closed"):
        runner.enqueue({"pixels": 256, "logits": 256}, 4, stream=0)


def test_rows_outside_every_profile_are_refused(stream):
    runner = PlanRunner(stand_in_plan(), stand_in_flavour("tensorrt-10.3.0", stream), scratch=lambda nbytes: 256)
    with pytest.raises(BackendError, match="No profile of the plan takes a batch of 9"):
        runner.prepare(9, stream=0)


def test_the_real_binding_takes_the_profiler(rtx):
    told = []
    profiler = profiler_from_module(rtx.module, told)
    assert isinstance(profiler, rtx.module.IProfiler)
    profiler.report_layer_time("a layer", 0.5)
    assert told == [("a layer", 0.5)]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_a_plan_runs_here_as_its_onnx_file_says(onnx_file, name, caplog):
    """Two profiles, every bucket, against ONNX Runtime on the CPU."""
    import onnxruntime

    device = opened_gpu()
    try:
        chosen = flavour(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    if device.target not in known_targets(chosen):
        pytest.skip(f"{name} does not know {device.target}")
    path = onnx_file()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    stream, memory = device.stream(), device.workspace()
    caplog.set_level(logging.INFO)

    def scratch(nbytes):
        stream.synchronize()
        return memory.device("scratch", (nbytes,), np.uint8).address

    try:
        with device.current():
            options = EngineOptions(profiles=(Profile(1, 1, 1), Profile(2, 4, 4)))
            runner = PlanRunner(plan_from_onnx(path, chosen, device.target, options).data, chosen, scratch=scratch)
        pixels, logits = runner.inputs[0], runner.outputs[0]
        for rows in plan_buckets(runner.profiles, 4):
            values = np.random.default_rng(rows).random((rows, *pixels.shape), np.float32)
            host = memory.pinned("in", values.shape, values.dtype)
            host[:] = values
            answer = memory.pinned("out", (rows, *logits.shape), np.float32)
            on_device = memory.device("pixels", values.shape, values.dtype)
            written = memory.device("logits", answer.shape, answer.dtype)
            stream.upload(on_device, host)
            with device.current():
                addresses = {pixels.name: on_device.address, logits.name: written.address}
                runner.enqueue(addresses, rows, stream=stream.handle)
            stream.download(answer, written)
            stream.synchronize()
            (expected,) = session.run(None, {pixels.name: values})
            np.testing.assert_allclose(answer, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
        with device.current():
            runner.close()
    finally:
        device.close()
