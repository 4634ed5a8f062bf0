"""The face of a device, on memory of the host and, where there is one, on a GPU."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from host_device import HostDevice, seen_by_host
from hypothesis import given
from hypothesis import strategies as st
from real_gpu import opened_gpu

from onfh_runtime.device import DeviceArray, DeviceMemoryError
from onfh_runtime.device_memory import rounded_up

LIMIT = 1 << 22


@pytest.fixture(params=["host", "host at once", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "gpu":
        device = opened_gpu(memory_limit=LIMIT)
    else:
        device = HostDevice(memory_limit=LIMIT, deferred=request.param == "host")
    yield device
    device.close()


def uploaded(workspace, stream, name, values):
    pinned = workspace.pinned(name, values.shape, values.dtype)
    pinned[...] = values
    array = workspace.device(name, values.shape, values.dtype)
    stream.upload(array, pinned)
    return array


def downloaded(workspace, stream, array, name="down"):
    host = workspace.pinned(name, array.shape, array.dtype)
    stream.download(host, array)
    stream.synchronize()
    return host


def doubled(stream, array, out, bad):
    """Logits of a stage with one class and no activation are its probabilities: a kernel that copies and checks."""
    sizes = map(np.int32, (array.shape[0], 1, 1, 0, 0))
    stream.launch("probability_float", (1, 1, 1), (32, 1, 1), [array, out, bad, *sizes])


def test_what_is_uploaded_comes_back(device):
    workspace, stream = device.workspace(), device.stream()
    for dtype in (np.uint8, np.int16, np.float16, np.float32, np.int32):
        values = np.arange(60).reshape(3, 4, 5).astype(dtype)
        np.testing.assert_array_equal(
            downloaded(workspace, stream, uploaded(workspace, stream, "up", values)), values, strict=True
        )


def test_rows_are_copied_and_zeroed_in_place(device):
    workspace, stream = device.workspace(), device.stream()
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    array = uploaded(workspace, stream, "up", values)
    stream.copy(array.rows(0, 1), array.rows(3, 4))
    stream.zero(array.rows(1, 3))
    values[0], values[1:3] = values[3], 0
    np.testing.assert_array_equal(downloaded(workspace, stream, array), values)


def test_nothing_is_nothing(device):
    workspace, stream = device.workspace(), device.stream()
    array = uploaded(workspace, stream, "none", np.empty((0, 3), np.float32))
    stream.zero(array)
    assert downloaded(workspace, stream, array).shape == (0, 3)


def test_a_stream_waits_for_another(device):
    workspace, first, second = device.workspace(), device.stream(), device.stream()
    values = np.linspace(0, 1, 7, dtype=np.float32)
    array = uploaded(workspace, first, "up", values)
    second.wait(first.record())
    np.testing.assert_array_equal(downloaded(workspace, second, array), values)


def test_events_tell_how_long_it_took(device):
    workspace, stream = device.workspace(), device.stream()
    start = stream.record()
    uploaded(workspace, stream, "up", np.zeros(1000, np.float32))
    end = stream.record()
    assert 0 < end.elapsed_ms(start) < 1e4
    assert start.elapsed_ms(start) == 0


def test_a_kernel_runs_and_a_graph_runs_it_again(device):
    workspace, stream = device.workspace(), device.stream()
    array = uploaded(workspace, stream, "logits", np.full((5, 1), 0.25, np.float32))
    out, bad = workspace.device("out", (5,), np.float32), workspace.device("bad", (1,), np.int32)
    stream.zero(bad)
    doubled(stream, array, out, bad)
    np.testing.assert_array_equal(downloaded(workspace, stream, out), np.full(5, 0.25, np.float32))

    def work():
        stream.zero(out)
        doubled(stream, array, out, bad)
        return True

    graph = stream.capture(work)
    assert graph is not None
    np.testing.assert_array_equal(downloaded(workspace, stream, out), np.full(5, 0.25, np.float32))
    uploaded(workspace, stream, "logits", np.full((5, 1), 2, np.float32))
    graph.launch(stream)
    np.testing.assert_array_equal(downloaded(workspace, stream, out), np.full(5, 2, np.float32))
    assert downloaded(workspace, stream, bad, "bad")[0] == 1
    graph.close()
    graph.close()


def test_what_is_not_kept_of_a_capture_does_not_run(device):
    workspace, stream = device.workspace(), device.stream()
    array = uploaded(workspace, stream, "up", np.ones(3, np.float32))

    def work():
        stream.zero(array)
        return False

    assert stream.capture(work) is None
    with pytest.raises(ZeroDivisionError):
        stream.capture(lambda: stream.zero(array) or 1 // 0)
    np.testing.assert_array_equal(downloaded(workspace, stream, array), np.ones(3))


def test_two_threads_use_a_device_and_nothing_is_allocated_after_the_first_round(device):
    faults = []

    def lane(workspace, stream, seed, rounds):
        try:
            for number in range(rounds):
                values = np.random.default_rng(seed + number).random((50, 20)).astype(np.float32)
                with device.current():
                    array = uploaded(workspace, stream, "up", values)
                np.testing.assert_array_equal(downloaded(workspace, stream, array), values)
        except BaseException as error:
            faults.append(error)

    workspaces, streams = [device.workspace() for _ in range(2)], [device.stream() for _ in range(2)]
    allocations = []
    for rounds in (1, 10):
        threads = [
            threading.Thread(target=lane, args=(*pair, rounds))
            for pair in zip(workspaces, streams, range(2), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        allocations.append(device.memory.allocations)
    assert faults == []
    assert allocations == [6, 6]


def test_a_name_keeps_its_address_until_it_grows(device):
    workspace = device.workspace()
    first = workspace.device("a", (1000,), np.float32)
    assert workspace.device("a", (10, 7), np.int16).address == first.address
    assert workspace.device("a", (1000,), np.float32) == first
    assert device.memory.allocations == 1
    assert workspace.device("a", (2000,), np.float32).shape == (2000,)
    assert device.memory.allocations == 2
    assert workspace.nbytes == rounded_up(8000)


def test_there_is_a_limit_and_less_still_fits(device):
    workspace, other = device.workspace(), device.workspace()
    free = device.free_bytes()
    assert free <= LIMIT
    workspace.device("half", (LIMIT // 2,), np.uint8)
    assert device.free_bytes() == LIMIT // 2
    with pytest.raises(DeviceMemoryError, match=r"no room for 4\.2 MB more: 2\.1 MB") as caught:
        other.device("a", (LIMIT,), np.uint8)
    assert caught.value.code == "gpu_out_of_memory"
    with pytest.raises(DeviceMemoryError):
        workspace.device("half", (LIMIT + 1,), np.uint8)
    assert device.free_bytes() == LIMIT  # what was to grow is gone
    assert other.device("a", (LIMIT // 4,), np.uint8).nbytes == LIMIT // 4
    if not device.integrated:
        workspace.pinned("more", (2 * LIMIT,), np.uint8)
        with pytest.raises(ValueError, match="mapped"):
            workspace.mapped("a", (1,), np.uint8)


def test_bad_calls_are_told_apart_from_a_failing_gpu(device):
    workspace, stream = device.workspace(), device.stream()
    array, host = workspace.device("a", (4, 4), np.float32), workspace.pinned("a", (4, 4), np.float32)
    with pytest.raises(ValueError, match="64 bytes into 16"):
        stream.upload(array.rows(0, 1), host)
    with pytest.raises(ValueError, match="16 bytes into 64"):
        stream.download(host, array.rows(0, 1))
    with pytest.raises(ValueError, match="64 bytes into 16"):
        stream.copy(array.rows(0, 1), array)
    with pytest.raises(ValueError, match="not C-contiguous"):
        stream.upload(array, host.T)
    with pytest.raises(ValueError, match="rows 3 to 5 of 4"):
        array.rows(3, 5)
    with pytest.raises(ValueError, match="no kernel 'nothing'"):
        stream.launch("nothing", (1, 1, 1), (1, 1, 1), [])


def test_a_closed_workspace_gives_nothing(device):
    workspace = device.workspace()
    workspace.device("a", (100,), np.float32)
    workspace.pinned("a", (100,), np.float32)
    workspace.close()
    workspace.close()
    assert workspace.nbytes == 0
    assert device.free_bytes() <= LIMIT
    with pytest.raises(ValueError, match="closed"):
        workspace.device("a", (1,), np.float32)


def test_closing_twice_is_closing_once(device):
    workspace = device.workspace()
    workspace.device("a", (100,), np.float32)
    device.stream().zero(workspace.device("a", (100,), np.float32))
    device.close()
    device.close()
    assert workspace.nbytes == 0


def test_an_integrated_gpu_shares_its_memory():
    device = HostDevice(integrated=True, memory_bytes=1 << 16)
    workspace, stream = device.workspace(), device.stream()
    host, array = workspace.mapped("both", (3, 5), np.float32)
    host[:] = 1
    stream.zero(array.rows(1, 2))
    assert host[1].tolist() == [1] * 5
    stream.synchronize()
    assert host.sum(1).tolist() == [5, 0, 5]
    with pytest.raises(DeviceMemoryError):
        workspace.pinned("host", (1 << 16,), np.uint8)
    device.close()


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_a_block_is_little_larger_than_asked_for(a, b):
    for nbytes in (a, b):
        assert nbytes <= rounded_up(nbytes) <= max(256, nbytes + max(255, nbytes // 8))
        assert rounded_up(nbytes) % 256 == 0
        assert rounded_up(rounded_up(nbytes)) == rounded_up(nbytes)
    assert (rounded_up(a) <= rounded_up(b)) == (a <= b) or rounded_up(a) == rounded_up(b)


def test_an_array_knows_its_bytes():
    array = DeviceArray(1000, (4, 3, 2), np.dtype(np.int16))
    assert array.nbytes == 48
    assert array.rows(1, 3) == DeviceArray(1012, (2, 3, 2), np.dtype(np.int16))


def test_the_host_sees_an_array():
    device = HostDevice()
    array = device.workspace().device("a", (2, 3), np.float32)
    assert np.isnan(seen_by_host(array)).all()
    device.close()
