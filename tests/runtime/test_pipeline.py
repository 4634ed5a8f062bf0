from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from onfh_runtime import pipeline as module
from onfh_runtime.answer import Prepared, Said
from onfh_runtime.compute import Job
from onfh_runtime.dicom import Candidate
from onfh_runtime.errors import OutputError, SeriesError
from onfh_runtime.pipeline import Pipeline
from onfh_runtime.preprocess import coronal_stack, plan_coronal
from onfh_runtime.result import Engine
from onfh_runtime.volume import CoronalStack, Volume


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


def test_what_writing_needs_is_loaded_in_its_lane_before_the_first_series_is_written(tiny_bundle, monkeypatch):
    monkeypatch.setattr(module, "read_volume", lambda _: nothing_there())
    said = []

    def get_ready():
        said.append(("ready", threading.current_thread().name[:10]))
        raise ImportError("writing will say it")

    def write(analysis):
        said.append(("write", threading.current_thread().name[:10]))
        return analysis

    with Pipeline(tiny_bundle) as pipeline:
        assert len([*pipeline.run([candidate("1", str(i)) for i in range(3)], write, get_ready=get_ready)]) == 3
    assert said == [("ready", "onfh-write"), *[("write", "onfh-write")] * 3]


def test_a_series_is_prepared_while_the_stages_are_opened(tiny_bundle, monkeypatch):
    monkeypatch.setattr(module, "read_volume", lambda _: nothing_there())
    prepared, opened_by = threading.Event(), []

    def opened(*_args, **_words):
        opened_by.append(prepared.wait(10))
        return Recorded(1)

    ready = module.prepare
    monkeypatch.setattr(module, "prepare", lambda *words: (prepared.set(), ready(*words))[1])
    with Pipeline(tiny_bundle) as pipeline:
        pipeline._opened_by = opened
        assert len([*pipeline.run([candidate("1", "2")], lambda analysis: analysis)]) == 1
    assert opened_by == [True]


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


class Recorded:
    """A compute that only notes who asked what of it, and may fail where it is told to."""

    def __init__(self, ahead, fail=None):
        self.engine = Engine(backend="recorded", precision="fp32", device="none")
        self.warnings, self.ahead, self.fail, self.calls, self.held = (("noted", "A warning."),), ahead, fail, [], 0

    def load(self, prepared, volume, known, clock):
        self.held += 1
        job = Job(prepared, known, clock)
        job.number = int(volume.intercept[0])
        return job

    def start(self, job):
        self._note("start", job)

    def finish(self, job):
        self._note("finish", job)
        shape = job.prepared.seen.hu.shape
        return Said(np.zeros(shape[0], np.float32), np.zeros(0, np.int64), np.zeros((0, *shape[1:]), bool))

    def drop(self, job):
        self.held -= 1
        self.calls.append(("drop", job.number))

    def close(self):
        self.calls.append(("close", None))

    def _note(self, call, job):
        self.calls.append((call, job.number))
        if (call, job.number) == self.fail:
            raise RuntimeError("patient name")


@pytest.fixture
def recorded(monkeypatch):
    """A pipeline's run over numbered series on a recorded compute; every room but the lanes themselves is bare."""

    def run(bundle, compute, count):
        stack = CoronalStack(np.zeros((2, 3, 4), np.float32), np.eye(4))
        whole = tuple(slice(0, side) for side in stack.hu.shape)
        prepared = Prepared(None, None, whole, stack, stack)

        def read(asked):
            number = int(asked.series_instance_uid)
            return Volume(np.zeros((2, 3, 4), np.int16), np.eye(4), np.ones(2), np.full(2, float(number))), ()

        monkeypatch.setattr(module, "read_volume", read)
        monkeypatch.setattr(module, "prepare", lambda *_: prepared)
        monkeypatch.setattr(module, "open_compute", lambda *_, **__: compute)
        monkeypatch.setattr(module, "_indices", lambda *_: {})
        monkeypatch.setattr(
            module, "analysed", lambda candidate, *_, bundle, engine, warnings, clock: (candidate, engine, warnings)
        )
        monkeypatch.setattr(module, "without_answer", lambda candidate, error, **_: (candidate, error))
        with Pipeline(bundle) as pipeline:
            return list(pipeline.run((candidate("1", str(number)) for number in range(count)), lambda a: a))

    return run


@pytest.mark.parametrize("ahead", [1, 2])
def test_every_job_is_started_finished_and_dropped_once_in_order(tiny_bundle, recorded, ahead):
    compute = Recorded(ahead)
    written = recorded(tiny_bundle, compute, 6)
    assert [entry[0].series_instance_uid for entry in written] == [str(n) for n in range(6)]
    for call in ("start", "finish", "drop"):
        assert [n for what, n in compute.calls if what == call] == list(range(6))
    assert compute.held == 0
    assert compute.calls[-1] == ("close", None)


@pytest.mark.parametrize("call", ["start", "finish"])
def test_a_job_that_fails_in_the_compute_lane_fails_alone_and_is_dropped(tiny_bundle, recorded, call):
    compute = Recorded(2, fail=(call, 1))
    written = recorded(tiny_bundle, compute, 4)
    assert [isinstance(entry[1], Engine) for entry in written] == [True, False, True, True]
    assert "patient name" not in str(written[1][1])
    assert compute.held == 0


def test_the_next_series_is_started_before_this_one_is_finished_when_it_is_there(tiny_bundle, recorded):
    compute = Recorded(2)
    finish = compute.finish

    def patient_finish(job):
        time.sleep(0.05)  # the read lane has the next one ready by then
        return finish(job)

    compute.finish = patient_finish
    recorded(tiny_bundle, compute, 5)
    order = [call for call in compute.calls if call[0] != "drop"]
    assert order.index(("start", 3)) < order.index(("finish", 2))


def test_a_run_that_is_given_up_drops_what_it_loaded(tiny_bundle, recorded, monkeypatch):
    compute = Recorded(2)
    stop = compute.finish

    def interrupted(job):
        if job.number == 2:
            raise KeyboardInterrupt
        return stop(job)

    compute.finish = interrupted
    with pytest.raises(KeyboardInterrupt):
        recorded(tiny_bundle, compute, 6)
    assert compute.held == 0


def test_what_stage_1_said_before_is_used_for_native_slices_seen_whole(tiny_bundle):
    affine = np.array([[0, 0, 1.0, 0], [3.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])
    volume = Volume(np.zeros((5, 4, 6), np.int16), affine, np.ones(5), np.zeros(5), acquired="coronal")
    plan = plan_coronal(volume, 3.0)
    stack = coronal_stack(volume, plan)
    sources = tuple(SimpleNamespace(sop_instance_uid=str(n)) for n in range(5))
    known = {"1": 0.25, "3": 0.5, "4": 0.75}
    whole = (slice(1, 4), slice(0, 4), slice(0, 6))
    prepared = Prepared(plan, None, whole, stack.part(whole), stack)
    assert module._indices(known, prepared, sources) == {0: 0.25, 2: 0.5}
    boxed = (slice(1, 4), slice(1, 4), slice(0, 6))
    assert module._indices(known, Prepared(plan, None, boxed, stack.part(boxed), stack), sources) == {}
