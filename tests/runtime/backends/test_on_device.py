"""A bundle's stage is opened on a GPU backend: which file, which plan, what is told."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from host_device import HostDevice
from trt_stand_in import stand_in_flavour, stand_in_plan

from onfh_runtime.backends import on_device, ort_cuda_backend
from onfh_runtime.backends.on_device import open_device_stage, precision_on_device
from onfh_runtime.bundle import LoadedBundle, load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.engines import BuiltPlan, EngineError, EngineOptions, HalfShare, Profile, find_gpus
from onfh_runtime.engines.cache import FoundPlan
from onfh_runtime.engines.plan_files import plan_facts
from onfh_runtime.errors import BundleError, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONFH_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def demo():
    return load_bundle(demo_bundle())


def with_models(bundle, *precisions):
    models = dict.fromkeys(precisions, "segmenter/model.onnx")
    segmenter = bundle.content.segmenter.model_copy(update={"models": models})
    return LoadedBundle(bundle.root, bundle.content.model_copy(update={"segmenter": segmenter}), bundle.sha256)


@pytest.mark.parametrize(
    ("held", "bf16", "precision"),
    [
        (("fp32", "fp16", "bf16"), True, "fp16"),
        (("fp32", "bf16"), True, "bf16"),
        (("fp32", "bf16"), False, "fp32"),
        (("fp32",), True, "fp32"),
        (("fp32", "int8"), True, "fp32"),
    ],
)
def test_half_where_the_bundle_has_it_and_a_warning_where_not(tiny_bundle, held, bf16, precision):
    found, warnings = precision_on_device(with_models(tiny_bundle, *held), "segmenter", bf16=bf16)
    assert found == precision
    assert [code for code, _ in warnings] == (["precision_fallback"] if precision == "fp32" else [])


def test_a_bundle_of_bf16_alone_is_not_for_every_backend(tiny_bundle):
    with pytest.raises(BundleError, match="precision_missing"):
        precision_on_device(with_models(tiny_bundle, "bf16"), "segmenter", bf16=False)


def test_onnx_runtime_takes_the_half_file_and_the_bundles_batch(demo, monkeypatch):
    cpu = functools.partial(ort_cuda_backend.OrtCudaBackend, provider="cpu")
    monkeypatch.setattr(ort_cuda_backend, "OrtCudaBackend", cpu)
    device = HostDevice()
    backend = open_device_stage(demo, "segmenter", "onnxruntime-cuda", device, device.stream())
    assert (backend.precision, backend.warnings) == ("fp16", ())
    assert backend.buckets[-1] == demo.content.segmenter.max_batch


def test_a_backend_of_the_host_is_not_opened_here(demo):
    device = HostDevice()
    with pytest.raises(UsageError, match="unknown_backend"):
        open_device_stage(demo, "segmenter", "onnxruntime", device, device.stream())


@pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU here")
def test_a_plan_that_does_not_open_is_built_once_more_and_then_it_is_an_error(rtx, tiny_bundle):
    device, told = HostDevice(target="sm89"), []
    with pytest.raises(EngineError, match="engine_unloadable"):
        open_device_stage(
            tiny_bundle,
            "segmenter",
            "tensorrt-rtx",
            device,
            device.stream(),
            progress=lambda phase, done, total: told.append((phase, done)),
        )
    assert told.count(("Building engine", 0)) == 2


def found_plan(bundle, flavour, opens):
    built = BuiltPlan(
        memoryview(b""), flavour.name, flavour.version, "sm89", EngineOptions(profiles=(Profile(1, 4, 4),)), 3,
        HalfShare(1, 1), None, (), 1.0,
    )  # fmt: skip
    facts = plan_facts("segmenter", built, onnx="segmenter/model.onnx", onnx_sha256="", precision="fp32")
    plan = stand_in_plan(profiles=((1, 4, 4),), opens=opens)
    return FoundPlan(plan, facts, bundle.root / facts.onnx, built_now=opens is True, warnings=(("w", "t"),))


@pytest.mark.parametrize("words", ["the plan is of another GPU", None])
def test_a_plan_is_built_anew_when_the_one_at_hand_does_not_open(tiny_bundle, monkeypatch, words):
    device = HostDevice(target="sm89")
    stream = device.stream()
    flavour = stand_in_flavour("tensorrt-10.3.0", stream)
    asked, answers = [], itertools.chain([words] if words else [], itertools.repeat(True))

    def plan_for(*given, unopened, **options):
        asked.append(unopened)
        return found_plan(tiny_bundle, flavour, next(answers))

    monkeypatch.setattr(on_device, "flavour", lambda name: flavour)
    monkeypatch.setattr(on_device, "plan_for", plan_for)
    backend = open_device_stage(tiny_bundle, "segmenter", "tensorrt", device, stream, graphs=words is None)
    assert asked == (["", "tensorrt 10.3.0 cannot open the plan on this machine"] if words else [""])
    assert backend.buckets == (1, 2, 4)
    assert [code for code, _ in backend.warnings] == ["precision_fallback", "w"]
    assert backend.inputs[0].dtype == np.float32
    made = backend.outputs[0]
    given = {"pixels": device.workspace().device("pixels", (4, *backend.inputs[0].shape), np.float32)}
    backend.run(given, {made.name: device.workspace().device("logits", (4, *made.shape), np.float32)}, stream=stream)
    assert backend.captured == ((4,) if words is None else ())


def test_want_of_memory_is_no_reason_to_build_anew(tiny_bundle, monkeypatch):
    device = HostDevice(target="sm89")
    flavour = stand_in_flavour("tensorrt-10.3.0", device.stream())
    asked = []
    monkeypatch.setattr(on_device, "flavour", lambda name: flavour)
    monkeypatch.setattr(
        on_device,
        "plan_for",
        lambda *_, **options: asked.append(options) or found_plan(tiny_bundle, flavour, "out of memory"),
    )
    with pytest.raises(Exception, match="gpu_out_of_memory"):
        open_device_stage(tiny_bundle, "segmenter", "tensorrt", device, device.streams[0])
    assert len(asked) == 1
