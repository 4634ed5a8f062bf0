"""The kernel benchmarks: on memory of the host what they launch, count and compare, on a GPU how fast it is too."""

from __future__ import annotations

import gpu_kernels
import numpy as np
import pytest
from gpu_kernels import (
    copy_gb_s,
    mask_times,
    random_volume,
    stage_input_error,
    stage_input_times,
    times_ms,
    whole_source,
)
from host_device import HostDevice
from real_gpu import opened_gpu


@pytest.fixture
def device():
    device = HostDevice(deferred=False)
    yield device
    device.close()


@pytest.mark.parametrize(("shape", "acquired", "slices"), [((62, 60, 64), "axial", 14), ((12, 48, 64), "coronal", 12)])
def test_every_launch_has_voxels_and_output_of_its_own(device, shape, acquired, slices):
    volume = random_volume(shape)
    source, seen = whole_source(volume)
    assert (volume.acquired, len(seen.hu)) == (acquired, slices)
    before = device.launches["stage_input"]
    found = stage_input_times(device, source, 32, np.float16, spread_bytes=1 << 20)
    sets = -(-(1 << 20) // found.moved)
    assert sets > 1
    assert found.moved >= slices * 3 * 32 * 32 * 2 + volume.voxels.nbytes / 2
    assert device.launches["stage_input"] - before == sets * (1 + 1 + gpu_kernels.RUNS)
    assert len(found.gb_s) == gpu_kernels.RUNS
    assert device.memory.held == 0


@pytest.mark.parametrize("shape", [(62, 60, 64), (12, 48, 64)])
def test_the_kernel_is_held_against_the_reference(device, shape, monkeypatch):
    single, half = stage_input_error(device, random_volume(shape), 32)
    assert single <= 1e-5
    assert half <= 1
    original = gpu_kernels.stage_input
    monkeypatch.setattr(gpu_kernels, "stage_input", lambda *args: original(*args) + np.float32(0.01))
    wrong, off = stage_input_error(device, random_volume(shape), 32)
    assert wrong == pytest.approx(0.01, abs=1e-5)
    assert off > 1


@pytest.mark.gpu
def test_a_gpu_reads_and_writes_at_seventy_percent_of_its_copies():
    device = opened_gpu()
    copies = copy_gb_s(device)
    times = stage_input_times(device, whole_source(random_volume((400, 512, 512)))[0], 512, np.float16)
    errors = stage_input_error(device, random_volume((121, 96, 128)), 96)
    device.close()
    share = np.median(times.gb_s) / np.median(copies)
    assert 0.7 <= share < 1.1, f"{share:.2f}"  # more would be bytes that came from a cache
    assert errors[0] <= 1e-5
    assert errors[1] <= 1


def test_a_copy_has_a_bandwidth(device):
    rates = copy_gb_s(device, 1 << 20)
    assert len(rates) == gpu_kernels.RUNS
    assert min(rates) > 0


def test_masks_are_held_against_the_reference(device, monkeypatch):
    steps = mask_times(device, 64, 3)
    assert tuple(steps) == gpu_kernels.MASK_STEPS
    assert all(min(times) > 0 for times in steps.values())
    monkeypatch.setattr(gpu_kernels, "without_small_components", lambda mask, *_: (~mask, 0))
    with pytest.raises(RuntimeError, match="not those the reference leaves"):
        mask_times(device, 64, 3)


def test_the_time_is_that_of_one_thing_from_a_graph_or_without(device, monkeypatch):
    stream, done = device.stream(), []
    array = device.workspace().device("x", (4,), np.uint8)

    def work():
        stream.call(lambda: done.append(1), array)

    assert len(times_ms(stream, work, 1, runs=3)) == 3
    assert len(done) == 1 + 4  # once before it is captured, and the first run does not count
    monkeypatch.setattr(stream, "capture", lambda work: None)
    assert len(times_ms(stream, work, 1, runs=3)) == 3
    assert len(done) == 2 * 5
