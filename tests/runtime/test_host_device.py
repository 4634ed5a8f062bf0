"""The tests' own device notices what CUDA would forgive or answer with silence."""

from __future__ import annotations

import numpy as np
import pytest
from host_device import HostDevice, seen_by_host


@pytest.fixture
def device():
    device = HostDevice()
    yield device
    device.close()


@pytest.fixture
def workspace(device):
    return device.workspace()


@pytest.fixture
def stream(device):
    return device.stream()


def test_nothing_runs_before_somebody_waits(device, workspace, stream):
    host, array = workspace.pinned("a", (3,), np.float32), workspace.device("a", (3,), np.float32)
    host[:] = 1
    stream.upload(array, host)
    assert device.copied == {}
    host[:] = 2  # too early: the copy takes what is there when it runs
    stream.synchronize()
    assert seen_by_host(array).tolist() == [2, 2, 2]
    assert device.copied == {"upload": 12}


def test_a_missing_wait_shows(device, workspace, stream):
    host, array = workspace.pinned("a", (1,), np.float32), workspace.device("a", (1,), np.float32)
    other, host[:] = device.stream(), 1
    stream.upload(array, host)
    other.download(host, array)
    other.synchronize()
    assert np.isnan(host[0])


def test_an_array_is_stale_once_its_name_has_grown(workspace, stream):
    array = workspace.device("a", (3,), np.float32)
    stream.zero(array)
    workspace.device("a", (1000,), np.float32)
    with pytest.raises(AssertionError, match="taken back"):
        stream.zero(array)
    with pytest.raises(AssertionError, match="taken back"):
        stream.launch("probability_float", (1, 1, 1), (1, 1, 1), [array])


def test_an_array_is_stale_once_its_name_is_smaller(workspace, stream):
    array = workspace.device("a", (3,), np.float32)
    stream.zero(workspace.device("a", (2,), np.float32))
    with pytest.raises(AssertionError, match="taken back"):
        stream.zero(array)


def test_a_graph_is_stale_with_its_arrays(workspace, stream):
    array = workspace.device("a", (3,), np.float32)
    graph = stream.capture(lambda: stream.zero(array) is None)
    graph.launch(stream)
    workspace.device("a", (1000,), np.float32)
    with pytest.raises(AssertionError, match="taken back"):
        graph.launch(stream)
    graph.close()
    with pytest.raises(AssertionError, match="closed"):
        graph.launch(stream)


def test_only_page_locked_memory_is_copied(workspace, stream):
    array, host = workspace.device("a", (3,), np.float32), workspace.pinned("a", (3,), np.float32)
    with pytest.raises(AssertionError, match="source on the host is not pinned"):
        stream.upload(array, np.zeros(3, np.float32))
    with pytest.raises(AssertionError, match="target on the host is not pinned"):
        stream.download(np.zeros(3, np.float32), array)
    workspace.close()
    with pytest.raises(AssertionError, match="taken back"):
        stream.upload(array, host)


def test_a_copy_onto_itself_is_refused(workspace, stream):
    array = workspace.device("a", (4,), np.float32)
    with pytest.raises(AssertionError, match="onto itself"):
        stream.copy(array.rows(0, 3), array.rows(1, 4))


def test_writing_behind_a_buffer_is_noticed(device, workspace, stream):
    array = workspace.device("a", (256,), np.uint8)
    behind = type(array)(array.address + 256, (1,), array.dtype)
    stream.call(lambda: seen_by_host(behind).fill(0), array)
    with pytest.raises(AssertionError, match="wrote behind a device buffer of 256 bytes"):
        stream.synchronize()
    seen_by_host(behind).fill(0xEE)


@pytest.mark.parametrize("what", ["allocate", "free", "wait", "record", "follow", "capture"])
def test_some_things_cannot_be_captured(device, workspace, stream, what):
    event = device.stream().record()
    done = {
        "allocate": lambda: workspace.device("b", (1,), np.uint8),
        "free": workspace.close,
        "wait": stream.synchronize,
        "record": stream.record,
        "follow": lambda: stream.wait(event),
        "capture": lambda: stream.capture(lambda: True),
    }[what]
    workspace.device("a", (1,), np.uint8)
    with pytest.raises(AssertionError, match="during a capture"):
        stream.capture(lambda: done() is None)


def test_work_of_another_stream_is_not_captured(device, workspace, stream):
    array, other = workspace.device("a", (2,), np.uint8), device.stream()
    graph = stream.capture(lambda: other.zero(array) is None)
    assert graph.captured == []
    other.synchronize()
    assert seen_by_host(array).tolist() == [0, 0]


def test_a_closed_device_does_nothing(device, workspace, stream):
    array, event = workspace.device("a", (3,), np.float32), stream.record()
    device.close()
    for call in (lambda: stream.zero(array), stream.synchronize, event.synchronize, device.stream, device.workspace):
        with pytest.raises(AssertionError, match="closed"):
            call()


def test_launches_are_counted_and_their_faults_come_late(device, workspace, stream):
    array = workspace.device("a", (1,), np.float32)
    sizes = map(np.int32, (1, 1, 1, 0, 0))
    stream.launch("probability_float", (1, 1, 1), (1, 2, 1), [array, array, array, *sizes])
    with pytest.raises(AssertionError, match="cannot be launched"):
        stream.synchronize()
    assert device.launches == {"probability_float": 1}
