from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
from scanner import RawPeer

from onfh_runtime import pipeline
from onfh_runtime.errors import BackendError, BundleError
from onfh_runtime.listen import retention
from onfh_runtime.listen.config import ListenConfig
from onfh_runtime.listen.journal_view import JournalView
from onfh_runtime.listen.lane import Lane
from onfh_runtime.listen.lock import FolderLock, is_locked
from onfh_runtime.listen.node import Node
from onfh_runtime.listen.records import SeriesState, StorageError
from onfh_runtime.result import Result


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def config(tmp_path):
    return ListenConfig.model_validate(
        {
            "state_dir": tmp_path / "state",
            "threads": 1,
            "node": {"port": free_port()},
            "http": {"port": free_port()},
            "series": {"quiet_s": 0.1},
            "disk": {"refuse_below_free_bytes": 0},
        }
    )


def wait_for(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)
    return found


def send(port, folder):
    tool = shutil.which("dcmsend")  # pynetdicom has a storescu of its own
    if tool is None:
        pytest.skip("dcmsend is not installed: apt install dcmtk")
    subprocess.run([tool, "-aec", "ONFH", "127.0.0.1", str(port), "--scan-directories", folder], check=True, timeout=60)


@contextlib.contextmanager
def running(config, bundle):
    node = Node(config, bundle)
    node.start()
    try:
        yield node
    finally:
        assert node.stop()


def answered(node):
    return node._journal.in_state(SeriesState.ANSWERED)


def own_threads():
    return {thread.name for thread in threading.enumerate() if thread is not threading.main_thread()}


def test_a_series_sent_by_another_program_is_answered(config, tiny_bundle, phantom_study):
    before = own_threads()
    with running(config, tiny_bundle) as node:
        send(node.port, phantom_study / "coronal")
        (row,) = wait_for(lambda: answered(node))
        assert row.outcome == "succeeded"
        assert Result.model_validate_json((row.folder / "result.json").read_bytes()).status == "succeeded"
        assert 100 < row.latency_ms < 60_000
        assert row.outside_engine_ms <= row.latency_ms
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/health") as response:
            assert json.load(response)["ready"]
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics") as response:
            assert f"onfh_objects_received_total {row.objects}.0" in response.read().decode()
    assert own_threads() <= before
    assert not is_locked(config.state_dir)


def test_what_is_refused_and_open_is_counted(config, tiny_bundle):
    def metrics():
        with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics") as response:
            return response.read().decode()

    with running(config, tiny_bundle) as node, RawPeer(node.port) as stranger, RawPeer(node.port) as peer:
        assert stranger.associate(called="OTHER")[0] == 3
        assert peer.associate()[0] == 2
        assert peer.store(b"\0" * 100, "1.2..3")[0] == 0x0117
        said = metrics()
        assert "onfh_associations 1.0" in said
        assert 'onfh_rejected_total{reason="called_ae_title"} 1.0' in said
        assert 'onfh_rejected_total{reason="wrong_uid"} 1.0' in said
        assert peer.release() == 6
        wait_for(lambda: "onfh_associations 0.0" in metrics())


def test_what_a_stopped_node_left_is_taken_up_by_the_next(config, tiny_bundle, phantom_study):
    patient = config.model_copy(update={"series": config.series.model_copy(update={"quiet_s": 600.0})})
    with running(patient, tiny_bundle) as node:
        send(node.port, phantom_study / "coronal")
    (row,) = JournalView(config.state_dir / "journal.sqlite").recent(5)
    assert row.state is SeriesState.RECEIVING
    with running(config, tiny_bundle) as node:
        (row,) = wait_for(lambda: answered(node))
        assert (row.outcome, row.latency_ms) == ("succeeded", None)


def test_a_stop_leaves_what_takes_too_long_to_the_next_start(config, tiny_bundle, phantom_study):
    node = Node(config, tiny_bundle)
    going_on = threading.Event()
    plain = node._worker._analyse
    node._worker._analyse = lambda candidate, known: going_on.wait(60) and plain(candidate, known)
    node.start()
    try:
        send(node.port, phantom_study / "coronal")
        wait_for(lambda: node._journal.in_state(SeriesState.WORKING))
        assert not node.stop(grace_s=0.1)
        assert is_locked(config.state_dir)
    finally:
        node._opened.close()  # as the end of the process would
        going_on.set()
    assert node._working.join(30)
    with running(config, tiny_bundle) as node:
        (row,) = wait_for(lambda: answered(node))
        assert (row.outcome, row.tries) == ("succeeded", 2)


@pytest.mark.parametrize(("said", "gpu"), [({}, 0), ({"gpu": None}, 0), ({"gpu": 3}, 3)])
def test_it_computes_on_the_gpu_it_is_told(config, tiny_bundle, monkeypatch, said, gpu):
    asked, opened = [], pipeline.open_compute

    def open_compute(*args, **options):
        asked.append(options["gpu"])
        return opened(*args, **options)

    monkeypatch.setattr(pipeline, "open_compute", open_compute)
    told = ListenConfig.model_validate({**config.model_dump(exclude={"gpu"}), **said})
    with running(told, tiny_bundle):
        assert asked == [gpu]


def test_one_node_per_folder(config, tiny_bundle):
    with running(config, tiny_bundle):
        assert is_locked(config.state_dir)
        with pytest.raises(StorageError, match="state_dir_in_use"):
            Node(config, tiny_bundle)
    FolderLock(config.state_dir).release()


def test_a_node_that_cannot_compute_does_not_start_and_leaves_no_lock(config, tiny_bundle, bundle_folder):
    (bundle_folder / "segmenter" / "model.onnx").write_bytes(b"broken after it was checked")
    with pytest.raises((BackendError, BundleError)):
        Node(config, tiny_bundle)
    assert not is_locked(config.state_dir)


def test_a_lane_survives_what_its_turn_raises(caplog):
    turns = []

    def turn():
        turns.append(len(turns))
        if len(turns) == 1:
            raise ZeroDivisionError("Doe^Jane")
        return 60.0

    lane = Lane("lane", turn)
    lane.start()
    wait_for(lambda: turns)
    lane.wake()
    wait_for(lambda: len(turns) == 2)
    lane.ask_to_stop()
    assert lane.join(5.0)
    assert not lane.alive
    assert "ZeroDivisionError" in caplog.text
    assert "Doe" not in caplog.text


def test_a_series_that_never_ends_is_a_problem(config, tiny_bundle):
    node = Node(config, tiny_bundle)
    assert node._worker.busy_s() == 0.0
    node._working.start()
    node._watching.start()
    assert node.problems() == []
    node._worker._began_s = time.monotonic() - 599.0
    assert node.problems() == []
    node._worker._began_s -= 2.0
    assert node.problems() == ["not_working"]
    assert node.stop()


@pytest.mark.parametrize("sign", ["an object", "a refusal"])
def test_room_is_made_as_soon_as_it_gets_short(config, tiny_bundle, phantom_study, sign, monkeypatch):
    monkeypatch.setattr(retention, "_GOES_ON_S", 0.0)
    with running(config, tiny_bundle) as node:
        send(node.port, phantom_study / "coronal")
        (row,) = wait_for(lambda: answered(node))
        (image, *_) = node._journal.objects_of(row.series_uid)
        node._spool._max_bytes = node._spool.used_bytes  # full
        node._receiver._on_refused("damaged")
        if sign == "an object":
            node._on_object(image)
        else:
            node._receiver._on_refused("spool_low")
        wait_for(lambda: answered(node)[0].missing == row.objects, seconds=40.0)  # it looks each minute anyway
        wait_for(lambda: node._spool.used_bytes == 0)
