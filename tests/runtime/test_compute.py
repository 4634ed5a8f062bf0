from __future__ import annotations

import json

import numpy as np
import pytest

from onfh_runtime import compute as module
from onfh_runtime.answer import prepare
from onfh_runtime.backends import choice as choice_module
from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.compute import open_compute
from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.errors import BackendError
from onfh_runtime.phantom import write_demo_study
from onfh_runtime.timing import Stopwatch


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_demo_study(folder)
    candidates, _ = find_series([folder])
    volume, _ = read_volume(candidates[0])
    return volume, prepare(volume, load_bundle(demo_bundle()).content, Stopwatch())


@pytest.fixture(scope="module")
def compute():
    opened = open_compute(load_bundle(demo_bundle()), "onnxruntime")
    yield opened
    opened.close()


def said(compute, prepared, known):
    volume, ready = prepared
    clock = Stopwatch()
    job = compute.load(ready, volume, known, clock)
    compute.start(job)
    result = compute.finish(job)
    compute.drop(job)
    return result, clock


def test_what_is_known_is_neither_asked_again_nor_changed(compute, prepared):
    all_asked, _ = said(compute, prepared, {})
    known = {0: float(all_asked.probabilities[0]), 3: 0.125}
    some_asked, _ = said(compute, prepared, known)
    assert some_asked.probabilities[3] == 0.125
    rest = [index for index in range(len(all_asked.probabilities)) if index != 3]
    assert np.array_equal(some_asked.probabilities[rest], all_asked.probabilities[rest])
    everything = dict(enumerate(all_asked.probabilities.tolist()))
    none_asked, _ = said(compute, prepared, everything)
    assert np.array_equal(none_asked.probabilities, all_asked.probabilities)
    assert np.array_equal(none_asked.gated, all_asked.gated)
    assert np.array_equal(none_asked.mask, all_asked.mask)


def test_results_say_which_graph_each_stage_ran(bundle_folder):
    path = bundle_folder / "bundle.json"
    document = json.loads(path.read_text())
    document["classifier"]["models"]["int8"] = "classifier/model.onnx"
    for models, precision in (
        (document["classifier"]["models"], "int8/fp32"),
        ({"fp32": "classifier/model.onnx"}, "fp32"),
    ):
        document["classifier"]["models"] = models
        path.write_text(json.dumps(document))
        opened = open_compute(load_bundle(bundle_folder), "onnxruntime")
        assert opened.engine.precision == precision
        opened.close()


def test_the_clock_knows_every_step_and_its_lane(compute, prepared):
    result, clock = said(compute, prepared, {})
    assert len(result.gated)
    assert result.mask.any()
    steps = [span.step for span in clock.spans]
    assert steps == ["preprocess", "classify", "preprocess", "segment", "postprocess"]
    assert {span.lane for span in clock.spans} == {"MainThread"}
    ends = [moment for span in clock.spans for moment in (span.start_s, span.stop_s)]
    assert ends == sorted(ends)
    timing = clock.timing
    assert timing.total == pytest.approx(timing.preprocess + timing.classify + timing.segment + timing.postprocess)


def test_auto_goes_on_with_the_next_best_and_says_why_in_every_result(monkeypatch):
    tried = []

    def on_device(bundle, choice, gpu, *, graphs, progress):
        tried.append(choice.backend)
        raise BackendError("engine_unloadable", f"{choice.backend} does not open.")

    monkeypatch.setattr(module, "_on_device", on_device)
    monkeypatch.setattr(choice_module, "refusal_of", lambda backend, ordinal: None)
    monkeypatch.setattr(choice_module, "_need_gpu", lambda ordinal: None)
    bundle = load_bundle(demo_bundle())
    opened = open_compute(bundle, "auto")
    opened.close()
    assert tried == ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda"]
    assert opened.engine.backend == "onnxruntime"
    ((code, text),) = opened.warnings
    assert code == "backend_fallback"
    assert all(f"{name} does not open" in text for name in tried)
    with pytest.raises(BackendError, match="tensorrt-rtx does not open"):
        open_compute(bundle, "tensorrt-rtx")
