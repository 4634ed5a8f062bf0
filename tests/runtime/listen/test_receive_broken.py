"""Peers that break off, stall or talk nonsense: nothing of them stays, and the others notice nothing."""

from __future__ import annotations

import struct
import time

import pydicom
import pytest
from receiving import ReceivingNode, until
from scanner import CT, EXPLICIT, RawPeer, echo, free_port, pdu, pdv, request, send, store_command

from onfh_runtime.listen import association, receive
from onfh_runtime.phantom import axial_grid, random_spec, render, write_series


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.setattr(association, "REQUEST_S", 0.3)
    monkeypatch.setattr(receive, "REQUEST_S", 0.3)
    with ReceivingNode(tmp_path / "state", node={"port": free_port(), "idle_timeout_s": 0.4}) as running:
        yield running


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    spec = random_spec(3)
    return write_series(render(spec, axial_grid(spec, 3, 64, 64)), tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def one(series):
    """SOP Instance UID and data set of an object."""
    length = pydicom.filereader.read_file_meta_info(series[0]).FileMetaInformationGroupLength
    return pydicom.dcmread(series[0]).SOPInstanceUID, series[0].read_bytes()[132 + 12 + length :]


def begun(peer, one, share=0.5):
    """Associate, and send the first part of an object."""
    assert peer.associate()[0] == 2
    uid, data = one
    peer.socket.sendall(pdu(4, pdv(1, 3, store_command(uid))) + pdu(4, pdv(1, 0, data[: int(len(data) * share)])))


def well(node, series):
    """Nothing of the broken peer is left, and another one is served."""
    node.idle()
    until(lambda: node.files == [])
    assert node.rows == []
    assert node.journal.recent(1) == []
    assert send(node.port, *series).returncode == 0
    assert len(node.files) == len(series)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_a_connection_that_breaks_within_an_object_leaves_nothing(node, series, one, share, reset):
    with RawPeer(node.port) as peer:
        begun(peer, one, share)
        until(lambda: node.receiver.open_associations() == 1)
        if reset:
            peer.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: close with a reset
    well(node, series)
    node.idle()
    assert len(node.released) == 1  # of the whole series; the broken one gave nothing


def test_what_came_before_the_break_is_kept_and_its_release_told(node, series, one):
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(one[1], one[0]) == (0, "")
        peer.socket.sendall(pdu(4, pdv(1, 3, store_command("1.2.3"))))
    node.idle()
    assert [row.sop_uid for row in node.rows] == [one[0]]
    assert node.released == [frozenset({node.rows[0].series_uid})]
    assert node.journal.series(node.rows[0].series_uid).released_s is not None


@pytest.mark.parametrize("rest", [b"", b"\4", b"\4\0\0\0\x10\0", b"\4\0\0\0\x10\0\0\0\0"])
def test_a_peer_that_stalls_is_dropped(node, series, one, rest, caplog):
    with RawPeer(node.port) as stalled, RawPeer(node.port) as good:
        begun(stalled, one)
        stalled.socket.sendall(rest)
        assert good.associate()[0] == 2
        start = time.monotonic()
        assert stalled.hung_up()
        assert 0.3 < time.monotonic() - start < 5
        assert good.hung_up()  # it was silent as long
    assert "nothing came for too long" in caplog.text
    well(node, series)


def test_a_slow_peer_is_not_a_stalled_one(node, series, one):
    uid, data = one
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        message = pdu(4, pdv(1, 3, store_command(uid))) + pdu(4, pdv(1, 2, data))
        step = len(message) // 6
        for at in range(0, len(message), step):
            peer.socket.sendall(message[at : at + step])
            time.sleep(0.12)
        assert peer.status() == (0, "")
        assert peer.release() == 6


def test_a_connection_that_asks_for_nothing_is_dropped(node, series):
    with RawPeer(node.port) as silent, RawPeer(node.port) as slow:
        slow.socket.sendall(request([(CT, (EXPLICIT,))])[:40])
        assert echo(node.port).returncode == 0
        assert silent.hung_up()
        assert slow.hung_up()
    well(node, series)


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
        pdu(4, pdv(1, 3, b"")),
        pdu(1, b""),
        pdu(1, bytes(68)),
        request([(CT, (EXPLICIT,))])[:-1] + b"\xff",
        request([(CT, (EXPLICIT,))], calling="\x07\xff"),
        b"\1\0\xff\xff\xff\xff" + bytes(3000),
        pdu(5, bytes(4)),
        pdu(2, bytes(80)),
    ],
)
def test_noise_instead_of_a_request_ends_the_connection(node, series, noise):
    with RawPeer(node.port) as peer:
        peer.socket.sendall(noise)
        assert peer.hung_up()
    well(node, series)


@pytest.mark.parametrize(
    "noise",
    [
        b"\4\0\xff\xff\xff\xf0" + bytes(3000),
        pdu(4, bytes(300_000)),
        pdu(4, b"\0\0"),
        pdu(4, struct.pack(">IBB", 1, 1, 3)),
        pdu(4, struct.pack(">IBB", 500, 1, 3) + b"x"),
        pdu(4, pdv(9, 3, store_command("1.2"))),
        pdu(4, pdv(3, 3, store_command("1.2")) + pdv(1, 0, b"x")),
        pdu(4, pdv(1, 0, b"data")),
        pdu(4, pdv(1, 3, b"no command")),
        pdu(4, pdv(1, 3, b"")),
        pdu(4, pdv(1, 3, store_command("1.2")) * 2),
        pdu(4, pdv(1, 3, store_command("1.2", field=0x20))),
        pdu(4, pdv(1, 3, store_command("1.2", field=0x8001))),
        pdu(4, pdv(1, 1, bytes(60_000))) * 2,
        pdu(9, b"unknown"),
        request([(CT, (EXPLICIT,))]),
        pdu(7, bytes(4)),
    ],
)
def test_nonsense_within_an_association_aborts_it(node, series, noise):
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        peer.socket.sendall(noise)
        assert peer.hung_up()
    well(node, series)


def test_a_request_without_a_data_set_is_answered(node, one):
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        peer.socket.sendall(pdu(4, pdv(1, 3, store_command(one[0], data_set=0x101))))
        assert peer.status() == (0xC000, "There is no data set.")
        assert peer.store(one[1], one[0]) == (0, "")
        assert peer.release() == 6


def test_stopping_waits_for_the_object_under_way(tmp_path, one):
    from threading import Thread

    uid, data = one
    with ReceivingNode(tmp_path / "state") as node, RawPeer(node.port) as peer, RawPeer(node.port) as idle:
        assert idle.associate()[0] == 2
        begun(peer, one, 0.5)
        stopping = Thread(target=node.receiver.stop)
        stopping.start()
        time.sleep(0.3)
        peer.socket.sendall(pdu(4, pdv(1, 2, data[int(len(data) * 0.5) :])))
        assert peer.status() == (0, "")
        assert peer.hung_up()
        assert idle.hung_up()
        stopping.join(10)
        assert not stopping.is_alive()
        assert [row.sop_uid for row in node.rows] == [uid]
        assert node.released == [frozenset({node.rows[0].series_uid})]
        with pytest.raises(ConnectionRefusedError):
            RawPeer(node.port)


def test_stopping_does_not_wait_for_ever(tmp_path, one):
    with ReceivingNode(tmp_path / "state") as node, RawPeer(node.port) as peer, RawPeer(node.port) as silent:
        begun(peer, one)
        start = time.monotonic()
        node.receiver.stop(timeout_s=0.3)
        assert time.monotonic() - start < 5
        assert peer.hung_up()
        assert silent.hung_up()
        assert node.files == []


def test_a_node_that_never_started_stops(tmp_path, node):
    from onfh_runtime.listen.config import ListenConfig

    config = ListenConfig.model_validate({"state_dir": tmp_path, "node": {"port": free_port()}})
    other = receive.Receiver(config, node.spool, node.journal, on_object=print, on_released=print, on_refused=print)
    other.stop()


@pytest.mark.parametrize("reads", [False, True], ids=["reads-nothing", "unknown-pdu"])
def test_a_peer_that_lets_nobody_go_is_left(tmp_path, reads):
    slow = {"port": free_port(), "idle_timeout_s": 20.0}
    with ReceivingNode(tmp_path / "state", node=slow) as node, RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        if reads:
            peer.socket.sendall(pdu(0x99, bytes(4)))
            time.sleep(0.2)
        else:
            asked = pdu(4, pdv(3, 3, store_command("1.2", field=0x30, data_set=0x101))) * 100_000
            peer.socket.settimeout(1.0)
            with pytest.raises(TimeoutError):
                peer.socket.sendall(asked)
        start = time.monotonic()
        node.receiver.stop(timeout_s=0.5)
        assert time.monotonic() - start < 4
        assert node.receiver.open_associations() == 0


def test_a_connection_that_comes_and_goes_takes_no_place(tmp_path):
    with ReceivingNode(tmp_path / "state") as node:
        with RawPeer(node.port):
            until(lambda: node.associating() == 1)
        until(lambda: node.associating() == 0, timeout_s=3.0)
