from __future__ import annotations

import threading

import numpy as np
import pytest

from onfh_runtime import pipeline as module
from onfh_runtime.dicom import Candidate
from onfh_runtime.errors import OutputError, SeriesError
from onfh_runtime.pipeline import Pipeline
from onfh_runtime.volume import Volume


def candidate(study, series):
    return Candidate(study, series, None, "", ())


def nothing_there(shape=(40, 30, 50)):
    affine = np.array([[0, 0, 3.0, 0], [0, 3.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    return Volume(np.full(shape, 24, np.int16), affine, np.ones(shape[0]), np.full(shape[0], -1024.0)), ()


def run(bundle, outcomes, write=lambda analysis: analysis, monkeypatch=None):
    """Run one candidate per outcome: an exception is what reading raises, None an empty room."""
    reads = iter(outcomes)

    def read(_):
        outcome = next(reads)
        if isinstance(outcome, Exception):
            raise outcome
        return nothing_there()

    monkeypatch.setattr(module, "read_volume", read)
    with Pipeline(bundle) as pipeline:
        return [a.result for a in pipeline.run([candidate("1.2", f"1.2.{i}") for i in range(len(outcomes))], write)]


def test_a_series_that_fails_fails_alone_and_order_is_kept(tiny_bundle, monkeypatch):
    results = run(
        tiny_bundle,
        [SeriesError("missing_slice", "A slice is missing."), RuntimeError("patient name"), None],
        monkeypatch=monkeypatch,
    )
    assert [r.series_instance_uid for r in results] == ["1.2.0", "1.2.1", "1.2.2"]
    assert [r.status for r in results] == ["not_analysed", "failed", "not_analysed"]
    assert [r.reason.code for r in results] == ["missing_slice", "internal_error", "anatomy_not_found"]
    assert "patient name" not in results[1].model_dump_json()
    assert all(r.patient is None and r.sides is None and not r.preferred for r in results)


def test_writing_happens_beside_computing_and_its_error_ends_the_run(tiny_bundle, monkeypatch):
    def write(analysis):
        assert threading.current_thread().name.startswith("onfh-write")
        raise OutputError("unwritable", "The disk is full.")

    with pytest.raises(OutputError, match="disk is full"):
        run(tiny_bundle, [None, None, None], write, monkeypatch=monkeypatch)


def test_a_stage_that_does_not_load_fails_every_series(bundle_folder, tiny_bundle, monkeypatch):
    (bundle_folder / "segmenter" / "model.onnx").write_bytes(b"broken after it was checked")
    results = run(tiny_bundle, [None, None], monkeypatch=monkeypatch)
    assert [r.reason.code for r in results] == ["model_unloadable"] * 2
    assert {r.status for r in results} == {"failed"}


def test_no_candidates(tiny_bundle, monkeypatch):
    assert run(tiny_bundle, [], monkeypatch=monkeypatch) == []


def test_nothing_is_read_before_it_is_needed(tiny_bundle, monkeypatch):
    read = []
    monkeypatch.setattr(module, "read_volume", lambda c: read.append(c.series_instance_uid) or nothing_there())
    with Pipeline(tiny_bundle) as pipeline:
        outcomes = pipeline.run((candidate("1", str(i)) for i in range(20)), lambda a: a)
        next(outcomes)
        assert len(read) <= 4
        outcomes.close()


def test_a_closed_pipeline_opens_its_stages_again(tiny_bundle, monkeypatch):
    monkeypatch.setattr(module, "read_volume", lambda _: nothing_there())
    pipeline = Pipeline(tiny_bundle)
    for _ in range(2):
        (analysis,) = pipeline.run([candidate("1.2", "1.2.3")], lambda analysis: analysis)
        assert analysis.result.engine.backend == "onnxruntime"
        pipeline.close()
        pipeline.close()
