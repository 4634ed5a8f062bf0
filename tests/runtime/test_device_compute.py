"""Both stages on a device, against the host. The device is the host's memory; the networks are the demo bundle's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from host_device import HostDevice
from scipy.ndimage import label

from onfh_runtime.answer import prepare
from onfh_runtime.backends.ort_cuda_backend import OrtCudaBackend
from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.compute import open_compute
from onfh_runtime.device import DeviceMemoryError
from onfh_runtime.device_compute import DeviceCompute
from onfh_runtime.device_stage import DeviceStage
from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.errors import BackendError
from onfh_runtime.evaluation import dice
from onfh_runtime.phantom import write_demo_study
from onfh_runtime.pipeline import Pipeline
from onfh_runtime.timing import Stopwatch

DRIFT = 2e-5
"""Between the orders in which host and kernel add up float32 values, after a whole network."""


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(demo_bundle())


@pytest.fixture(scope="module")
def studies(bundle, tmp_path_factory):
    """An axial and a coronal series, cut to a few coronal slices: what is compared costs a network's time each."""
    rules = bundle.content.model_copy(update={"coverage": bundle.content.coverage.model_copy(update={"margin_mm": 0})})
    folder = tmp_path_factory.mktemp("study")
    write_demo_study(folder, slices=80, matrix=256)
    candidates, _ = find_series([folder])
    volumes = [read_volume(candidate)[0] for candidate in candidates]
    return [(volume, prepare(volume, rules, Stopwatch())) for volume in volumes]


@pytest.fixture(scope="module")
def expected(bundle, studies):
    compute = open_compute(bundle, "onnxruntime")
    yield [say(compute, study) for study in studies]
    compute.close()


@pytest.fixture
def on_device(bundle):
    """Open the bundle's stages on a device; its rules and the largest batch may be others."""
    opened = []

    def build(*, rows=8, rules=None, **options):
        device = HostDevice(**options)
        rules = rules or bundle.content
        stream = device.stream()
        stages = []
        for stage, spec in (("classifier", rules.classifier), ("segmenter", rules.segmenter)):
            backend = OrtCudaBackend(
                bundle.model_path(stage, "fp32"),
                stage=stage,
                precision="fp32",
                max_rows=rows,
                device=device,
                stream=stream,
                provider="cpu",
            )
            stages.append(DeviceStage(stage, spec.model_copy(update={"max_batch": rows}), backend))
        opened.append(DeviceCompute(device, rules, *stages, stream=stream, warnings=(("noted", "A warning."),)))
        return opened[-1], device

    yield build
    for compute in opened:
        compute.close()


def say(compute, study, known=None):
    volume, prepared = study
    job = compute.load(prepared, volume, known or {}, Stopwatch())
    try:
        compute.start(job)
        return compute.finish(job)
    finally:
        compute.drop(job)


def assert_same(answers, expected):
    for ours, theirs in zip(answers, expected, strict=True):
        assert np.abs(ours.probabilities - theirs.probabilities).max() < DRIFT
        assert np.array_equal(ours.gated, theirs.gated)
        assert dice(ours.mask, theirs.mask) > 0.999
        assert (ours.mask != theirs.mask).mean() < 1e-4


def assert_equal(answers, others):
    for ours, theirs in zip(answers, others, strict=True):
        assert np.array_equal(ours.probabilities, theirs.probabilities)
        assert np.array_equal(ours.mask, theirs.mask)
        assert ours.removed == theirs.removed


@pytest.mark.parametrize("integrated", [False, True])
def test_a_device_says_what_the_host_says(on_device, studies, expected, integrated):
    assert any(answer.mask.any() for answer in expected)
    compute, device = on_device(integrated=integrated)
    assert_same([say(compute, study) for study in studies], expected)
    assert bool(device.copied["upload"]) is not integrated
    assert compute.warnings[0] == ("noted", "A warning.")
    assert compute.engine.device == device.name


def test_only_voxels_the_stages_can_see_go_up_and_only_answers_come_back(on_device, studies):
    compute, device = on_device()
    volume, prepared = studies[0]
    answer = say(compute, (volume, prepared))
    assert device.copied["upload"] < volume.voxels.nbytes / 2
    assert device.copied["download"] < answer.mask.size + 4 * len(answer.probabilities) + 100


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_the_size_of_a_batch_changes_no_answer(on_device, studies, expected, rows):
    compute, _ = on_device(rows=rows)
    assert_same([say(compute, study) for study in studies], expected)


def test_the_order_of_studies_changes_no_bit_and_nothing_is_allocated_after_warm_up(on_device, studies):
    compute, device = on_device()
    first = [say(compute, study) for study in studies]
    for study in (studies[0], *studies, *studies):  # so that every slot has seen every study
        say(compute, study)
    taken = device.allocations
    backwards = [say(compute, study) for study in reversed(studies)]
    assert_equal(first, backwards[::-1])
    assert device.allocations == taken


def test_jobs_that_overlap_do_not_mix(on_device, studies):
    compute, _ = on_device()
    alone = [say(compute, study) for study in studies]
    jobs = [compute.load(prepared, volume, {}, Stopwatch()) for volume, prepared in (*studies, studies[0])]
    compute.start(jobs[0])
    compute.start(jobs[1])
    answers = [compute.finish(jobs[0])]
    compute.drop(jobs[0])
    compute.start(jobs[2])
    answers += [compute.finish(job) for job in jobs[1:]]
    for job in jobs:
        compute.drop(job)
        compute.drop(job)
    assert_equal(answers, [*alone, alone[0]])


def test_what_is_known_is_not_asked_again(on_device, studies, expected):
    compute, device = on_device()
    known = dict(enumerate(expected[0].probabilities.tolist()))
    before = say(compute, studies[0])
    del known[2]
    launches = device.launches["probability_float"]
    answer = say(compute, studies[0], known)
    assert answer.probabilities[2] == before.probabilities[2]
    assert np.array_equal(answer.mask, before.mask)
    assert device.launches["probability_float"] - launches < launches
    known[2] = float(before.probabilities[2])
    assert np.array_equal(say(compute, studies[0], known).mask, before.mask)


def test_small_components_go_on_both_sides_alike(bundle, on_device, studies, expected):
    _, prepared = studies[0]
    pieces, _ = label(expected[0].mask, np.ones((3, 3, 3)))  # the gated slices of this study are neighbours
    smallest = np.bincount(pieces.ravel())[1:].min() * np.prod(prepared.seen.spacing_mm)
    rules = bundle.content.model_copy(update={"minimum_component_mm3": float(smallest) * 1.01})
    host = open_compute(replace(bundle, content=rules), "onnxruntime")
    try:
        wanted = [say(host, study) for study in studies]
    finally:
        host.close()
    compute, _ = on_device(rules=rules)
    answers = [say(compute, study) for study in studies]
    assert any(answer.removed for answer in wanted)
    for ours, theirs in zip(answers, wanted, strict=True):
        assert abs(ours.removed - theirs.removed) <= 2
        assert dice(ours.mask, theirs.mask) > 0.999


def test_times_of_the_gpu_lie_in_the_job_and_in_order(on_device, studies):
    compute, _ = on_device(deferred=False)
    clock = Stopwatch()
    volume, prepared = studies[0]
    job = compute.load(prepared, volume, {}, clock)
    compute.start(job)
    compute.finish(job)
    compute.drop(job)
    lanes = {span.lane for span in clock.spans}
    assert lanes == {"MainThread", "gpu upload", "gpu", "gpu download"}
    assert [span.step for span in clock.spans if span.lane == "gpu"] == ["classify", "segment", "postprocess"]
    assert [span.step for span in clock.spans if span.lane == "gpu download"] == ["classify", "postprocess"]
    begun = min(span.start_s for span in clock.spans if span.lane == "MainThread")
    for span in clock.spans:
        assert begun <= span.start_s <= span.stop_s
    # Work runs here as it is queued, so each of the GPU's times lies in that of its queueing.
    steps = ["preprocess", "classify", "classify", "segment", "postprocess", "postprocess"]
    assert [span.step for span in clock.enqueues] == steps
    on_gpu = sorted((span for span in clock.spans if span.lane != "MainThread"), key=lambda span: span.start_s)
    for span, enqueue in zip(on_gpu, clock.enqueues, strict=True):
        assert enqueue.start_s - 1e-3 <= span.start_s <= span.stop_s <= enqueue.stop_s + 1e-3
    assert clock.timing.total == pytest.approx(sum(span.seconds for span in clock.spans) * 1e3)


def test_a_device_short_of_room_runs_smaller_batches(on_device, studies, expected):
    compute, ample = on_device()
    say(compute, studies[0])
    full = ample.memory.held
    compute, device = on_device(rows=64, memory_limit=full + (1 << 20))
    assert_same([say(compute, studies[0])], expected[:1])
    assert device.memory.held <= full + (1 << 20)


def test_a_device_without_room_says_so_and_keeps_its_slots(on_device, studies):
    with pytest.raises(DeviceMemoryError, match="no room"):
        on_device(memory_limit=100_000)
    compute, device = on_device()
    device.memory_bytes = device.memory.held + 100_000
    for _ in range(6):  # more often than there are slots
        with pytest.raises(DeviceMemoryError, match="no room"):
            say(compute, studies[0])


def test_a_stage_that_answers_no_probability_fails_by_name(bundle, on_device, studies):
    without = bundle.content.segmenter.model_copy(update={"activation": "none"})
    rules = bundle.content.model_copy(update={"segmenter": without})
    compute, _ = on_device(rules=rules)
    for _ in range(6):
        with pytest.raises(BackendError, match="segmenter answered NaN") as caught:
            say(compute, studies[0])
    assert caught.value.code == "not_a_probability"


def test_the_lanes_give_the_same_results_through_a_device(bundle, on_device, monkeypatch, tmp_path):
    write_demo_study(tmp_path, slices=80, matrix=256)
    candidates, _ = find_series([tmp_path])
    compute, device = on_device()
    with Pipeline(bundle, backend="onnxruntime") as pipeline:
        wanted = [analysis.result for analysis in pipeline.run(candidates, lambda analysis: analysis)]
    monkeypatch.setattr("onfh_runtime.pipeline.open_compute", lambda *_, **__: compute)
    with Pipeline(bundle) as pipeline:
        results = [analysis.result for analysis in pipeline.run(candidates * 3, lambda analysis: analysis)]
    assert not device.open
    assert len(results) == 3 * len(wanted)
    for ours, theirs in zip(results, wanted * 3, strict=True):
        assert ours.status == theirs.status == "succeeded"
        assert ours.engine.device == device.name
        assert ours.patient.state == theirs.patient.state
        assert abs(ours.patient.probability - theirs.patient.probability) < DRIFT
        assert [(side.state, side.slices) for side in (ours.sides.right, ours.sides.left)] == [
            (side.state, side.slices) for side in (theirs.sides.right, theirs.sides.left)
        ]
        assert ours.sides.right.volume_mm3 == pytest.approx(theirs.sides.right.volume_mm3, rel=1e-3)
        assert "noted" in {warning.code for warning in ours.warnings}
