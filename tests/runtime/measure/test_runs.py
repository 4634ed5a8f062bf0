from __future__ import annotations

import pytest

from onfh_runtime.errors import BackendError, SeriesError
from onfh_runtime.measure.runs import How, at_once, not_written, samples, written_below
from onfh_runtime.result import Engine


def test_samples_come_from_the_pipeline_with_every_step(workload, tmp_path):
    with How().pipeline(workload.bundle) as pipeline:
        kept = [*samples(pipeline, [workload.candidate] * 2, written_below(tmp_path, workload.bundle))]
    for sample in kept:
        assert {span.step for span in sample.spans} == {
            "read",
            "preprocess",
            "classify",
            "segment",
            "postprocess",
            "write",
        }
        assert sample.begun_s < sample.answered_s
        assert 0 < sample.in_steps_s <= sample.answered_s - sample.begun_s
    assert len([*tmp_path.rglob("result.json")]) == 1


def test_nothing_is_written_where_nothing_is_to_be(workload, tmp_path):
    with How().pipeline(workload.bundle) as pipeline:
        (sample,) = samples(pipeline, [workload.candidate], not_written)
    assert "write" not in {span.step for span in sample.spans}


def test_a_refused_series_is_not_timed(workload, monkeypatch):
    from onfh_runtime import pipeline as module

    def refuse(candidate):
        raise SeriesError("missing_slice", "A slice is missing.")

    monkeypatch.setattr(module, "read_volume", refuse)
    with How().pipeline(workload.bundle) as pipeline, pytest.raises(SeriesError, match="slice is missing"):
        list(samples(pipeline, [workload.candidate], not_written))


def test_a_stage_that_does_not_load_is_not_timed(workload, tmp_path):
    with How(backend="tensorrt").pipeline(workload.bundle) as pipeline, pytest.raises(BackendError) as caught:
        list(samples(pipeline, [workload.candidate], not_written))
    assert caught.value.code in ("no_driver", "no_such_gpu", "missing_extra")


def test_overlap_counts_once_in_the_time_of_steps(timed):
    sample = timed(("read", "a", 0.0, 1.0), ("preprocess", "b", 0.5, 2.0), ("write", "c", 3.0, 4.0), answered=5.0)
    assert sample.in_steps_s == 3.0
    assert sample.step_s("preprocess") == 1.5
    assert sample.step_s("preprocess", "c") == 0.0
    assert sample.lane_s("c") == 1.0


def test_series_that_follow_each_other_are_not_on_their_way_at_once(timed):
    first, second = timed(("read", "a", 0.0, 1.0)), timed(("read", "a", 1.0, 2.0))
    overlapping = timed(("read", "a", 0.5, 0.6), ("write", "a", 1.4, 1.5))
    assert at_once([first, second]) == 1
    assert at_once([first, second, overlapping]) == 2


def test_stages_are_opened_as_asked(workload, monkeypatch):
    asked = []
    monkeypatch.setattr("onfh_runtime.pipeline.open_compute", lambda *given, **how: asked.append((given[1:], how)))
    with How("tensorrt", threads=3, gpu=1, graphs=False).pipeline(workload.bundle) as pipeline:
        pipeline._open()
    assert asked == [(("tensorrt",), {"threads": 3, "gpu": 1, "graphs": False, "progress": None})]


def test_only_a_gpu_backend_has_a_gpu():
    assert How(gpu=1).gpu_of(Engine(backend="tensorrt", precision="fp16", device="x")) == 1
    assert How(gpu=1).gpu_of(Engine(backend="onnxruntime", precision="fp32", device="x")) is None
