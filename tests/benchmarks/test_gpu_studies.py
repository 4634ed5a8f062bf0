"""Studies through torch and the pipeline on memory of the host: the way the GPU figures are taken."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from gpu_cases import GATED, SLICES, STAGES, flop, open_case, rules_of, torch_opener
from gpu_studies import (
    agreements,
    copied_studies,
    gpu_ms,
    idle_share,
    many_studies,
    phantom_series,
    prepared_series,
    said_of,
    study_times,
)
from host_device import HostDevice

from onfh_runtime.backends import TensorSpec
from onfh_runtime.timing import Span

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return phantom_series(tmp_path_factory.mktemp("phantoms"), 2)


@pytest.fixture(scope="module")
def studies(bundle, folder):
    return prepared_series(folder, bundle.content)


@pytest.fixture
def compute(bundle):
    graphs = {stage: bundle.model_path(stage, "fp32") for stage in STAGES}
    device = HostDevice(deferred=False)
    compute = open_case(device, bundle.content, torch_opener(graphs, precision="fp32", on="cpu"))
    yield compute
    compute.close()
    assert not device.open


def test_other_answers_are_flips(bundle, studies, compute):
    rules = bundle.content.model_copy(
        update={"patient_rule": bundle.content.patient_rule.model_copy(update={"threshold": 0.0})}
    )
    said = said_of(compute, studies[0])
    silent = SimpleNamespace(
        load=lambda *_: None,
        start=lambda _: None,
        drop=lambda _: None,
        finish=lambda _: type(said)(said.probabilities * 0 - 1, said.gated[:0], said.mask[:0]),
    )
    (found,) = agreements(compute, silent, studies[:1], rules)
    assert found.flips >= 2
    assert found.probability_drift >= 1
    assert found.mask_dice == 0


def test_a_study_alone_and_a_run_of_many(bundle, folder, studies, compute, tmp_path):
    times = study_times(compute, studies[0], warm_up=1, runs=2)
    assert len(times) == 2
    assert times[0]["total"] == pytest.approx(sum(ms for step, ms in times[0].items() if step != "total"))
    run = many_studies(compute, bundle, folder, tmp_path)
    assert len(run.clocks) == len(run.written_s) == 2
    assert len(list(tmp_path.rglob("result.json"))) == 2
    end_to_end, busy, idle = run.steady(1)
    assert end_to_end > 0
    assert busy > 0
    assert 0 <= idle < 1


def test_a_series_that_fails_is_no_figure(bundle, folder, compute, tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "start", lambda job: 1 / 0)
    with pytest.raises(RuntimeError, match="2 of 2 series failed"):
        many_studies(compute, bundle, folder, tmp_path)


def span(start, stop, lane="gpu"):
    return Span("classify", lane, start, stop)


def test_time_on_the_gpu_and_gaps_in_it():
    spans = [span(1.0, 2.0), span(1.5, 3.0), span(4.0, 5.0), span(3.0, 4.0, "MainThread"), span(0.0, 9.0, "gpu copies")]
    assert idle_share(spans) == pytest.approx(1 / 4)
    assert idle_share(spans, since_s=2.5) == pytest.approx(1 / 2.5)
    assert idle_share([*spans, span(5.0, 9.0)]) == pytest.approx(1 / 8)
    assert gpu_ms(spans) == {"classify": pytest.approx(3500), "total": pytest.approx(3500)}


def test_a_study_of_a_case_is_25_slices_of_which_10_are_segmented(tmp_path):
    rules = rules_of("b")
    folder = copied_studies(tmp_path, 2, slices=SLICES, side=64)
    assert len({path.parent for path in folder.rglob("*.dcm")}) == 2
    studies = prepared_series(folder, rules)
    assert [prepared.seen.hu.shape for _, prepared in studies] == [(SLICES, 64, 64)] * 2
    named = {"vit": lambda x: x.mean((2, 3))[:, :2], "swin_unet": lambda x: x[:, :2]}

    def opener(stage, spec, device, stream):
        from torch_device import TorchDeviceBackend

        half = np.dtype(np.float16)
        made = (2,) if stage == "classifier" else (2, 224, 224)
        return TorchDeviceBackend(
            named[spec.architecture],
            stage=stage,
            given=TensorSpec("pixel_values", (3, 224, 224), half),
            made=TensorSpec("logits", made, half),
            precision="fp16",
            max_rows=spec.max_batch,
            device=device,
            stream=stream,
            on="cpu",
        )

    compute = open_case(HostDevice(), rules, opener)
    said = said_of(compute, studies[0])
    compute.close()
    assert len(said.probabilities) == SLICES
    assert len(said.gated) == GATED


@pytest.mark.parametrize(("case", "tflop"), [("a", 5.6), ("b", 1.0)])
def test_the_floor_is_that_of_the_published_networks(case, tflop):
    assert flop(case) / 1e12 == pytest.approx(tflop, abs=0.05)
