"""TensorRT's wiring: contexts, activations and CUDA graphs by row count, on a TensorRT that is stood in for."""

from __future__ import annotations

import hashlib
import json
import logging

import numpy as np
import pytest
from host_device import HostDevice, HostStream
from trt_stand_in import BINDINGS, BYTES_PER_ROW, CHANNELS, LAYERS_MS, PIXELS, stand_in_flavour, stand_in_plan

from onfh_runtime.backends.trt_backend import TrtBackend
from onfh_runtime.device import DeviceMemoryError
from onfh_runtime.engines import BuiltPlan, EngineOptions, HalfShare, Profile
from onfh_runtime.engines.cache import FoundPlan
from onfh_runtime.engines.plan_files import plan_facts
from onfh_runtime.errors import BackendError

RTX = "tensorrt-rtx-1.7.1"


class Bench:
    """A backend on a host device, its buffers, and what its TensorRT was asked."""

    def __init__(
        self, binding=BINDINGS[0], *, device=None, captures=True, onnx=None, max_rows=8, cache=None, graphs=True, **plan
    ):
        self.device = device or HostDevice()
        self.stream = self.device.stream()
        self.memory = self.device.workspace()
        flavour = stand_in_flavour(binding, self.stream, captures=captures)
        self.told, self.module = flavour.module.told, flavour.module
        options = EngineOptions(
            profiles=tuple(Profile(*rows) for rows in plan.get("profiles", ((1, 4, 8),))),
            strip_weights=plan.get("stripped", False),
        )
        data = stand_in_plan(**plan)
        built = BuiltPlan(
            memoryview(data), flavour.name, flavour.version, "sm89", options, 3, HalfShare(1, 1), None, (), 1.0
        )
        facts = plan_facts("classifier", built, onnx="model.onnx", onnx_sha256="", precision="fp16")
        found = FoundPlan(data, facts, onnx, built_now=False, warnings=(("engine_rebuilt", "why"),))
        self.backend = TrtBackend(
            found,
            flavour,
            stage="classifier",
            max_rows=max_rows,
            device=self.device,
            stream=self.stream,
            graphs=graphs,
            runtime_cache=cache,
            warnings=(("precision_fallback", "so"),),
        )

    def buffers(self, rows, name="a"):
        dtype = self.backend.inputs[0].dtype
        pixels = self.memory.device(f"pixels {name}", (16, *PIXELS), dtype).rows(0, rows)
        return pixels, self.memory.device(f"logits {name}", (16, CHANNELS), dtype).rows(0, rows)

    def run(self, rows, *, name="a", seed=0, stream=None):
        """One run; the logits, after checking them."""
        dtype = self.backend.inputs[0].dtype
        pixels, logits = self.buffers(rows, name)
        source = self.memory.pinned("source", pixels.shape, dtype)
        source[:] = np.random.default_rng(seed).random(source.shape)
        answer = self.memory.pinned("answer", logits.shape, dtype)
        self.stream.upload(pixels, source)
        self.stream.zero(logits)
        self.backend.run({"pixels": pixels}, {"logits": logits}, stream=stream or self.stream)
        self.stream.download(answer, logits)
        self.stream.synchronize()
        mean = source.astype(np.float32).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(answer, np.stack([mean, 10 * mean], axis=1), rtol=1e-3)
        return answer


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("binding", BINDINGS)
def test_every_flavour_answers_plainly_and_by_graph(binding, half):
    bench = Bench(binding, half=half)
    assert bench.backend.buckets == (1, 2, 4, 8)
    assert bench.backend.precision == "fp16"
    for rows in (8, 4, 8, 1, 8):
        for seed in range(3):
            bench.run(rows, seed=seed)
    # A plain run and a capture for each of three row counts; the other nine runs launched graphs.
    assert bench.told["executions"] == 6
    assert bench.told["contexts"] == 3
    assert bench.backend.captured == (1, 4, 8)
    bench.backend.close()
    assert bench.backend.captured == ()
    bench.device.close()


def test_warnings_are_its_own_and_the_plans():
    assert [code for code, _ in Bench().backend.warnings] == ["precision_fallback", "engine_rebuilt"]


def test_contexts_are_made_when_their_row_count_comes_and_take_the_nearest_profile():
    bench = Bench(profiles=((1, 8, 8), (1, 2, 2), (1, 1, 1)))
    assert bench.told["contexts"] == 0
    bench.run(8)
    assert (bench.told["contexts"], bench.told["profile 0"]) == (1, 1)
    bench.run(1)
    bench.run(2)
    assert [bench.told[f"profile {index}"] for index in range(3)] == [1, 1, 1]
    bench.run(4)
    assert bench.told["profile 1"] == 1
    assert bench.told["profile 0"] == 2


def test_contexts_share_their_activations():
    bench = Bench()
    before = bench.device.allocations
    bench.run(8)
    first = bench.device.allocations
    for rows in (4, 2, 1):
        bench.run(rows)
    assert bench.device.allocations == first
    assert bench.backend._scratch.nbytes == 8 * BYTES_PER_ROW
    assert first > before


def test_activations_that_move_take_the_graphs_with_them():
    bench = Bench()
    bench.run(1)
    bench.run(1)
    assert bench.told["executions"] == 2
    bench.run(8)  # the host device refuses a graph whose memory was taken back
    bench.run(1)
    assert bench.told["executions"] == 6
    bench.run(1)
    assert bench.told["executions"] == 6


def test_other_buffers_get_graphs_of_their_own_and_a_bounded_number_of_them(monkeypatch):
    graphs, capture = [], HostStream.capture
    monkeypatch.setattr(HostStream, "capture", lambda *given: graphs.append(capture(*given)) or graphs[-1])
    bench = Bench(max_rows=2)
    assert bench.backend.buckets == (1, 2)
    for _ in range(2):
        for name in "ab":
            bench.run(2, name=name)
            bench.run(1, name=name)
    assert bench.told["executions"] == 8  # four graphs, each launched once
    for number in range(9):
        bench.run(2, name=f"more {number}")
    assert len(bench.backend._graphs) == 4
    bench.run(2, name="more 8")
    assert bench.told["executions"] == 8 + 18
    assert [graph.open for graph in graphs] == [False] * 9 + [True] * 4
    bench.backend.close()
    assert not any(graph.open for graph in graphs)


def test_a_run_that_cannot_be_captured_is_queued_each_time(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "onfh_runtime.backends.trt_backend")
    monkeypatch.setattr(HostStream, "capture", lambda self, work: None)
    bench = Bench()
    for seed in range(3):
        bench.run(4, seed=seed)
    assert bench.told["executions"] == 3
    assert [record.message for record in caplog.records] == ["the classifier is queued without a CUDA graph at 4 rows"]


@pytest.mark.parametrize("binding", BINDINGS)
def test_without_graphs_every_run_is_queued(binding, tmp_path, monkeypatch):
    monkeypatch.setattr(HostStream, "capture", lambda self, work: pytest.fail("a capture"))
    bench = Bench(binding, graphs=False, cache=tmp_path / "classifier.kernels")
    for seed in range(3):
        bench.run(4, seed=seed)
        bench.run(1, seed=seed)
    assert bench.told["executions"] == 6
    assert bench.backend.captured == ()
    assert (tmp_path / "classifier.kernels").exists() == (binding == RTX)


@pytest.mark.parametrize("binding", BINDINGS)
def test_layers_are_timed_by_tensorrts_own_profiler(binding):
    bench = Bench(binding, graphs=False)
    bench.run(4)
    for rows in (4, 2, 4):
        pixels, logits = bench.buffers(rows)
        bench.stream.zero(pixels)
        told = bench.backend.layer_times({"pixels": pixels}, {"logits": logits}, stream=bench.stream)
        assert told == tuple((layer, rows * ms) for layer, ms in LAYERS_MS.items())
    pixels, logits = bench.buffers(3)
    with pytest.raises(BackendError, match="runs 1, 2, 4, 8 rows at once, not 3"):
        bench.backend.layer_times({"pixels": pixels}, {"logits": logits}, stream=bench.stream)
    bench.backend.close()
    bench.device.close()


def test_tensorrt_rtx_is_asked_whether_it_can_be_captured():
    bench = Bench(RTX, captures=False)
    for seed in range(3):
        bench.run(4, seed=seed)
    assert bench.told["executions"] == 3


def test_tensorrt_rtx_compiles_for_our_graphs_and_its_kernels_are_kept(tmp_path):
    kept = tmp_path / "classifier.kernels"
    first = Bench(RTX, cache=kept)
    first.run(8)
    assert first.module.given == {"graphs": "DISABLED", "shapes": "EAGER"}
    assert json.loads(kept.read_bytes())["kernels"] == ["8 rows"]  # there before close: a killed process loses nothing
    first.run(2)
    assert first.told["compilations"] == 2
    written = kept.stat().st_mtime_ns
    first.run(2, name="b")
    assert kept.stat().st_mtime_ns == written
    second = Bench(RTX, cache=kept)
    second.run(8)
    second.run(2)
    assert second.told["compilations"] == 0
    digest = hashlib.sha256(kept.read_bytes()).hexdigest()
    second.run(1)
    assert (second.told["compilations"], hashlib.sha256(kept.read_bytes()).hexdigest() != digest) == (1, True)
    assert sorted(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize("content", [b"garbage", b'{"gpu": "sm75", "kernels": ["8 rows"]}'], ids=["garbage", "other"])
def test_kernels_of_another_machine_are_compiled_and_written_anew(tmp_path, content):
    kept = tmp_path / "classifier.kernels"
    kept.write_bytes(content)
    bench = Bench(RTX, cache=kept)
    bench.run(8)
    assert bench.told["compilations"] == 1
    assert json.loads(kept.read_bytes()) == {"gpu": "sm89", "kernels": ["8 rows"]}


def test_kernels_that_cannot_be_kept_are_no_error(tmp_path, caplog):
    caplog.set_level(logging.INFO, "onfh_runtime.engines.runtime_cache")
    bench = Bench(RTX, cache=tmp_path / "no folder" / "classifier.kernels")
    bench.run(8)
    assert "compiled kernels are not kept" in caplog.text


def test_tensorrt_rtx_without_a_file_compiles_for_our_graphs_all_the_same():
    bench = Bench(RTX)
    bench.run(8)
    assert bench.module.given == {"graphs": "DISABLED", "shapes": "EAGER"}


def test_a_plan_without_weights_gets_them_from_its_onnx_file(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    Bench(stripped=True, onnx=tmp_path / "model.onnx").run(4)  # NaN without them
    device = HostDevice()
    with pytest.raises(BackendError, match="engine_not_refitted"):
        Bench(stripped=True, onnx=tmp_path / "gone.onnx", device=device)
    device.close()


def test_no_room_for_the_largest_bucket_leaves_the_smaller_ones():
    bench = Bench(device=HostDevice(memory_limit=9_000))
    bench.run(4)
    with pytest.raises(DeviceMemoryError, match="gpu_out_of_memory"):
        bench.run(8)
    for seed in range(2):
        bench.run(4, seed=seed)
        bench.run(1, seed=seed)
    bench.backend.close()
    bench.device.close()


def test_the_door_is_checked():
    bench = Bench(profiles=((1, 4, 4),))
    with pytest.raises(BackendError, match=r"runs 1, 2, 4 rows at once, not 3.*wrong_tensor"):
        bench.run(3)
    with pytest.raises(BackendError, match="wrong_tensor"):
        bench.run(8)
    pixels = bench.memory.device("p", (4, *PIXELS), np.float32)
    logits = bench.memory.device("l", (4, CHANNELS), np.float32)
    for inputs, outputs in (
        ({}, {"logits": logits}),
        ({"pixels": bench.memory.device("h", (4, *PIXELS), np.float16)}, {"logits": logits}),
        ({"pixels": pixels}, {"logits": logits.rows(0, 2)}),
        ({"pixels": pixels}, {}),
    ):
        with pytest.raises(BackendError, match="wrong_tensor"):
            bench.backend.run(inputs, outputs, stream=bench.stream)
    with pytest.raises(BackendError, match="another stream"):
        bench.run(4, stream=bench.device.stream())


def test_a_plan_whose_least_batch_is_too_large_is_refused():
    with pytest.raises(BackendError, match=r"none of them of up to 8 rows.*engine_unloadable"):
        Bench(profiles=((16, 16, 16),))


def test_close_twice_and_then_no_more():
    bench = Bench()
    bench.run(4)
    bench.run(4)
    held = bench.device.memory.held
    bench.backend.close()
    bench.backend.close()
    assert bench.device.memory.held < held
    with pytest.raises(BackendError, match="was closed"):
        bench.run(4)
