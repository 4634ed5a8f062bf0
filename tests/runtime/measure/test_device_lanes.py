"""What is measured of a GPU, on a device without one: its memory is the host's, its kernels are compiled as C++."""

from __future__ import annotations

import functools
import json
from collections import Counter

import numpy as np
import pytest
from host_device import HostDevice
from trt_stand_in import LAYERS_MS, stand_in_flavour, stand_in_plan

from onfh_runtime.backends import on_device
from onfh_runtime.backends.ort_cuda_backend import OrtCudaBackend
from onfh_runtime.device_compute import DeviceCompute
from onfh_runtime.device_stage import DeviceStage
from onfh_runtime.engines import BuiltPlan, EngineOptions, HalfShare, Profile
from onfh_runtime.engines.cache import FoundPlan
from onfh_runtime.engines.plan_files import plan_facts
from onfh_runtime.measure import profile as module
from onfh_runtime.measure.ceilings import device_ceilings, host_ceilings
from onfh_runtime.measure.energy import Energy
from onfh_runtime.measure.profile import layers_of, profile
from onfh_runtime.measure.roofline import busy_lanes
from onfh_runtime.measure.runs import How, samples, written_below
from onfh_runtime.measure.scenarios import Scenario, single_stream_figures
from onfh_runtime.measure.trace import LANES, trace_from_samples
from onfh_runtime.measure.words import bench_table, profile_table
from onfh_runtime.result import Engine

STAGES = ("classifier", "segmenter")


@pytest.fixture
def on_host_device(workload, monkeypatch):
    """Have every pipeline of the tiny bundle compute on a host device, as ONNX Runtime's CUDA backend."""
    bundle, asked = workload.bundle, []

    def opened(*given, **options):
        asked.append(options)
        device = HostDevice()
        stream = device.stream()
        stages = []
        for stage in STAGES:
            path, spec = bundle.model_path(stage, "fp32"), getattr(bundle.content, stage)
            backend = OrtCudaBackend(
                path, stage=stage, precision="fp32", max_rows=4, device=device, stream=stream, provider="cpu"
            )
            backend.name = "onnxruntime-cuda"
            stages.append(DeviceStage(stage, spec, backend))
        return DeviceCompute(device, bundle.content, *stages, stream=stream)

    monkeypatch.setattr("onfh_runtime.pipeline.open_compute", opened)
    return asked


def test_a_series_crosses_every_lane_of_a_gpu(workload, on_host_device, tmp_path):
    with How(graphs=False).pipeline(workload.bundle) as pipeline:
        taken = [*samples(pipeline, [workload.candidate] * 3, written_below(tmp_path, workload.bundle))]
        assert pipeline.captured() == {"classifier": (), "segmenter": ()}
    assert on_host_device[0]["graphs"] is False
    trace = trace_from_samples(taken)["traceEvents"]
    events = [event for event in trace if event["ph"] == "X"]
    named = {e["tid"]: e["args"]["name"].split(" ")[0] for e in trace if e["name"] == "thread_name"}
    assert sorted(set(named.values()), key=LANES.index) == list(LANES)
    for number in range(3):
        mine = [(named[event["tid"]], event["name"]) for event in events if event["args"]["series"] == number]
        assert Counter(mine) >= Counter(
            [
                ("read", "read"),
                ("read", "preprocess"),
                ("upload", "preprocess"),
                ("enqueue", "preprocess"),
                *[("enqueue", "classify")] * 2,
                ("compute", "classify"),
                ("download", "classify"),
                ("compute", "segment"),
                ("compute", "postprocess"),
                ("download", "postprocess"),
                ("write", "write"),
            ]
        )
    assert set(busy_lanes(taken)) == set(LANES) - {"enqueue"}
    for sample in taken:  # the sums of lanes and of steps are of the same time
        of_lanes = sum(sample.lane_s(lane) for lane in {span.lane for span in sample.spans})
        assert of_lanes == pytest.approx(sum(sample.step_s(step) for step in {span.step for span in sample.spans}))
        assert sample.result.timing_ms.total == pytest.approx(1e3 * of_lanes)
    figures = single_stream_figures(Scenario(taken, [sample.answered_s - sample.begun_s for sample in taken], Energy()))
    gpu = figures["gpu_ms"]
    assert min(gpu.values()) > 0
    assert gpu["latency"] >= max(gpu["h2d"], gpu["gpu_compute"], gpu["d2h"])


def test_a_profile_holds_the_stages_against_the_gpus_ceilings(workload, on_host_device, monkeypatch, tmp_path):
    monkeypatch.setattr("onfh_runtime.device.open_device", lambda gpu: HostDevice())
    small = {"copy_bytes": 1 << 20, "side": 64, "goes": 1}
    monkeypatch.setattr(module, "device_ceilings", functools.partial(device_ceilings, **small))
    monkeypatch.setattr(module, "host_ceilings", functools.partial(host_ceilings, **small))
    found, trace = profile(
        workload, How(), tmp_path, command="onfh profile STUDY", runs=1, told=lambda what, done: None
    )
    json.dumps(trace, allow_nan=False)
    results = found["results"]
    on = {row["step"]: row["on"] for row in results["roofline"]}
    assert on == {step: HostDevice().name if step in ("classify", "segment") else "host" for step in on}
    assert [each["precision"] for each in results["ceilings"]] == ["float32", "float32"]  # the bundle has no FP16
    assert results["study"]["enqueue_ms"] > 0
    assert "onnxruntime-cuda" in results["layers"]["absent"]
    said = profile_table(found)
    assert "up " in said
    assert "batches captured: classifier none; segmenter none" in said


def test_a_benchs_table_has_trtexecs_words(timed):
    spans = [
        ("read", "r", 0.0, 0.1),
        ("preprocess", "gpu upload", 0.1, 0.11),
        ("classify", "gpu", 0.11, 0.15),
        ("postprocess", "gpu download", 0.15, 0.16),
    ]
    sample = timed(*spans, answered=0.2, enqueues=[("classify", "m", 0.1, 0.105)])
    energy = Energy({"nvml": 12.0}, {"rapl": "Only root."}, 0.2)
    single = single_stream_figures(Scenario([sample] * 2, [0.2, 0.2], energy))
    offline = {
        **{key: single[key] for key in ("latency_ms", "step_share", "gpu_ms", "energy")},
        "studies": 2,
        "seconds": 0.4,
        "studies_per_s": 5.0,
        "slices_per_s": 10.0,
        "in_flight_most": 1,
    }
    series = {"images": 1, "rows": 2, "columns": 3, "file_mb": 4.0, "bundle": "tiny 1"}
    settings = {
        "series": series,
        "slices": 2,
        "gated": 1,
        "positive_fraction": None,
        "engine": {"backend": "tensorrt", "precision": "fp16", "device": "x"},
        "threads": 0,
        "graphs": True,
        "graphs_captured": {"classifier": (1, 8), "segmenter": ()},
        "in_flight": None,
        "warm_up_s": 0,
        "duration_s": 0,
        "iterations": 1,
        "outputs_written": True,
    }
    machine = {"cpu": {"name": "c", "cores_usable": 2}, "gpus": [{"name": "x"}]}
    results = {"single_stream": single, "offline": offline, "cold_start_s": None}
    said = bench_table({"settings": settings, "results": results, "machine": machine, "does_not_measure": []})
    assert "graphs    on; batches captured: classifier 1, 8; segmenter none" in said
    lines = said.splitlines()
    header = next(index for index, line in enumerate(lines) if "GPU compute" in line)
    assert lines[header].split() == ["H2D", "GPU", "compute", "D2H", "their", "sum", "enqueue"]
    assert lines[header + 1].split() == ["single", "stream", "10.00", "40.00", "10.00", "60.00", "5.00"]
    assert "no rapl: Only root." in said
    assert next(line for line in lines if line.startswith("  nvml")).split() == ["nvml", "6.0", "60.0", "6.0", "60.0"]


def test_a_tensorrt_stage_is_opened_for_its_layers_alone(workload, monkeypatch):
    device = HostDevice(target="sm89")
    stream = device.stream()
    device.stream = lambda: stream
    chosen = stand_in_flavour("tensorrt-10.3.0", stream)

    def plan_for(bundle, stage, *given, **options):
        built = BuiltPlan(
            memoryview(b""), chosen.name, chosen.version, "sm89", EngineOptions(profiles=(Profile(1, 4, 4),)), 3,
            HalfShare(1, 1), None, (), 1.0,
        )  # fmt: skip
        facts = plan_facts(stage, built, onnx="model.onnx", onnx_sha256="", precision="fp32")
        plan = stand_in_plan(profiles=((1, 4, 4),))
        return FoundPlan(plan, facts, workload.bundle.root, built_now=False, warnings=())

    monkeypatch.setattr(on_device, "flavour", lambda name: chosen)
    monkeypatch.setattr(on_device, "plan_for", plan_for)
    monkeypatch.setattr("onfh_runtime.device.open_device", lambda gpu: device)
    engine = Engine(backend="tensorrt", precision="fp32", device="x")
    found = layers_of(workload.bundle, How(), engine, {"classifier": 25, "segmenter": 2})
    assert not device.open
    assert {stage: said["rows"] for stage, said in found.items()} == {"classifier": 4, "segmenter": 2}
    for said in found.values():
        assert said["kernels_ms"] == pytest.approx(said["rows"] * sum(LAYERS_MS.values()))
        assert [node["node"] for node in said["nodes"]] == ["times ten + join", "mean"]
        assert [node["share"] for node in said["nodes"]] == pytest.approx([0.75, 0.25])
    assert np.isfinite(found["classifier"]["kernels_ms"])


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "triton:http://x"])
def test_backends_that_do_not_say_are_named(workload, backend):
    engine = Engine(backend=backend, precision="fp16", device="x")
    assert backend in layers_of(workload.bundle, How(), engine, {"classifier": 1, "segmenter": 1})["absent"]
