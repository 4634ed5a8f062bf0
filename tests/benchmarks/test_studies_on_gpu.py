"""Study after study through both stages of the demo bundle on a GPU, by every backend that runs there.

The same tests run with torch on memory of the host, so that where there is a GPU only the GPU is new.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from gpu_cases import STAGES, bundle_opener, open_case, torch_opener
from gpu_studies import GPU, agreements, idle_share, many_studies, phantom_series, prepared_series, said_of
from host_device import HostDevice
from real_gpu import opened_gpu

from onfh_runtime.backends import DEVICE_BACKENDS, refusal_of
from onfh_runtime.compute import open_compute
from onfh_runtime.device import DeviceMemoryError

pytestmark = pytest.mark.slow

ON_GPU = [pytest.param(name, marks=pytest.mark.gpu) for name in (*DEVICE_BACKENDS, "torch-cuda")]
LIMIT = 1 << 30
"""Bytes that the buffers may take: any GPU has them."""
OF_OTHERS = 1 << 20
"""Bytes that other programs on the GPU may take meanwhile."""


@pytest.fixture(scope="module")
def narrow(bundle):
    """The demo bundle with few slices to look at: a network on the host takes its time for each."""
    coverage = bundle.content.coverage.model_copy(update={"margin_mm": 0.0})
    return replace(bundle, content=bundle.content.model_copy(update={"coverage": coverage}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return phantom_series(tmp_path_factory.mktemp("phantoms"), 2)


@pytest.fixture(scope="module")
def studies(narrow, folder):
    return prepared_series(folder, narrow.content)


@pytest.fixture(scope="module")
def host(narrow):
    compute = open_compute(narrow, "onnxruntime")
    yield compute
    compute.close()


@pytest.fixture(scope="module", params=["host", *ON_GPU])
def on(request, tmp_path_factory):
    """Name of what runs the stages."""
    name = request.param
    if name in DEVICE_BACKENDS:
        if (error := refusal_of(name)) is not None:
            pytest.skip(f"{name}: {error}")
    elif not pytest.importorskip("torch").cuda.is_available() and name == "torch-cuda":
        pytest.skip("torch has no CUDA here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONFH_CACHE_DIR", str(tmp_path_factory.mktemp("engines")))
        yield name


@pytest.fixture
def opened(on, narrow):
    """Opens both stages on a device of so many bytes, in batches of so many rows."""
    computes = []

    def build(*, rows=None, memory_limit=LIMIT):
        update = {} if rows is None else {"max_batch": rows}
        stages = {stage: getattr(narrow.content, stage).model_copy(update=update) for stage in STAGES}
        rules = narrow.content.model_copy(update=stages)
        device = HostDevice(memory_limit=memory_limit) if on == "host" else opened_gpu(memory_limit=memory_limit)
        precision = "fp32" if on == "host" else "fp16"
        graphs = {stage: narrow.model_path(stage, precision) for stage in STAGES}
        if on in DEVICE_BACKENDS:
            opener = bundle_opener(replace(narrow, content=rules), on)
        else:
            opener = torch_opener(graphs, precision=precision, on="cpu" if on == "host" else "cuda")
        computes.append(open_case(device, rules, opener))
        return computes[-1], device

    yield build
    for compute in computes:
        compute.close()


def assert_same(found):
    assert sum(each.flips for each in found) == 0
    assert min(each.mask_dice for each in found) >= 0.995
    assert max(each.probability_drift for each in found) <= 0.02


def test_answers_are_the_cpus(opened, host, studies, narrow):
    compute, _ = opened()
    assert_same(agreements(host, compute, studies, narrow.content))
    assert any(said_of(compute, study).mask.any() for study in studies)


def test_the_size_of_a_batch_changes_no_answer(opened, host, studies, narrow):
    compute, _ = opened(rows=2)
    assert_same(agreements(host, compute, studies, narrow.content))


def test_order_changes_no_bit_and_nothing_is_allocated_after_warm_up(opened, studies):
    compute, device = opened()
    first = [said_of(compute, study) for study in studies]
    for study in studies * 2:  # every slot sees every study
        said_of(compute, study)
    allocations, free = device.memory.allocations, device.free_bytes()
    backwards = [said_of(compute, study) for study in reversed(studies)][::-1]
    assert device.memory.allocations == allocations
    assert device.free_bytes() >= free - OF_OTHERS
    for ours, theirs in zip(first, backwards, strict=True):
        np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
        np.testing.assert_array_equal(ours.mask, theirs.mask)


def test_short_of_memory_it_goes_on_with_smaller_batches_and_then_fails_by_name(opened, host, studies, narrow, caplog):
    compute, device = opened()
    said_of(compute, studies[0])
    taken = LIMIT - device.free_bytes()
    caplog.set_level(logging.WARNING)
    compute, _ = opened(rows=64, memory_limit=taken + (1 << 20))
    assert_same(agreements(host, compute, studies[:1], narrow.content))
    assert "goes on with batches of" in caplog.text
    with pytest.raises(DeviceMemoryError, match="no room"):
        opened(memory_limit=100_000)


def test_a_run_of_many_keeps_its_compute_stream_in_order(opened, folder, narrow, tmp_path):
    compute, _ = opened()
    run = many_studies(compute, narrow, folder, tmp_path)
    assert len(run.clocks) == 2
    for clock in run.clocks:
        assert {"classify", "segment"} & {span.step for span in clock.spans if span.lane == GPU}
    spans = sorted((span for clock in run.clocks for span in clock.spans if span.lane == GPU), key=lambda s: s.start_s)
    for before, after in pairwise(spans):
        assert after.start_s >= before.stop_s - 2e-3  # two clocks are brought together once a study
    assert 0 <= idle_share(spans) < 1
