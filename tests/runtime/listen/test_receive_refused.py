"""Who and what a node refuses: by the proper rejection or status, with a sentence, and without keeping anything."""

from __future__ import annotations

import logging
import struct
import threading
import tracemalloc
from contextlib import ExitStack
from copy import deepcopy

import pydicom
import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid
from receiving import ReceivingNode, until
from scanner import CT, EXPLICIT, RawPeer, echo, free_port, pdu, pdv, send, store_command

from onfh_runtime.errors import UsageError
from onfh_runtime.listen.config import ListenConfig
from onfh_runtime.listen.receive import Receiver
from onfh_runtime.phantom import axial_grid, random_spec, render, write_series

PEERS = [{"name": "scanner", "ae_title": "SCANNER", "addresses": ["127.0.0.2", "127.0.1.0/24"]}]
MIB = 1 << 20
ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"


@pytest.fixture
def start(tmp_path):
    nodes = []

    def started(**options):
        nodes.append(ReceivingNode(tmp_path / f"state{len(nodes)}", **options))
        return nodes[-1]

    yield started
    for node in nodes:
        node.__exit__()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    spec = random_spec(3)
    paths = write_series(render(spec, axial_grid(spec, 1, 64, 64)), tmp_path_factory.mktemp("one"))
    return pydicom.dcmread(paths[0])


def encoded(image: pydicom.Dataset, **changes: object) -> bytes:
    """The bytes of the data set; an attribute that is None is left out."""
    copy = deepcopy(image)
    for keyword, value in changes.items():
        if value is None:
            del copy[keyword]
        else:
            setattr(copy, keyword, value)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, copy)
    return buffer.getvalue()


def rejection(node, source="127.0.0.1", **names) -> tuple[int, int, int] | None:
    """Result, source and reason of A-ASSOCIATE-RJ; None when the association is accepted."""
    with RawPeer(node.port, source) as peer:
        kind, content = peer.associate(**names)
        if kind == 2:
            assert peer.release() == 6
            return None
        assert kind == 3
        assert peer.hung_up()
        return tuple(content[1:4])


def nothing_kept(node) -> bool:
    return node.files == [] and node.rows == [] and node.journal.recent(1) == []


def test_another_called_title_is_rejected(start):
    node = start()
    assert rejection(node, called="ORTHANC") == (1, 1, 7)
    assert node.refused == ["called_ae_title"]
    done = echo(node.port, "-aec", "ORTHANC")
    assert done.returncode != 0
    assert "Called AE Title Not Recognized" in done.stdout + done.stderr


def test_only_listed_titles_from_listed_addresses_are_accepted(start, caplog):
    node = start(peers=PEERS)
    assert rejection(node, "127.0.0.2", calling="SCANNER") is None
    assert rejection(node, "127.0.1.77", calling="SCANNER  ") is None
    assert rejection(node, "127.0.0.1", calling="SCANNER") == (1, 1, 3)
    assert rejection(node, "127.0.0.2", calling="SCANNER2") == (1, 1, 3)
    assert rejection(node, "127.0.0.2", calling="scanner") == (1, 1, 3)
    done = echo(node.port, "-aet", "SCANNER")
    assert "Calling AE Title Not Recognized" in done.stdout + done.stderr
    assert node.refused == ["not_a_peer"] * 4


def test_a_peer_without_a_route_is_rejected(start):
    node = start(
        peers=[*PEERS, {"name": "other", "ae_title": "OTHER", "addresses": ["127.0.0.2"]}],
        routes=[{"name": "ct", "from": ["scanner"]}],
    )
    assert rejection(node, "127.0.0.2", calling="SCANNER") is None
    assert rejection(node, "127.0.0.2", calling="OTHER") == (1, 1, 3)
    assert node.refused == ["no_route"]


def test_peer_and_route_are_noted_by_their_configured_names(start, image):
    node = start(peers=PEERS, routes=[{"name": "night", "from": []}, {"name": "ct", "from": ["scanner"]}])
    with RawPeer(node.port, "127.0.0.2") as peer:
        assert peer.associate()[0] == 2
        assert peer.store(encoded(image), image.SOPInstanceUID) == (0, "")
        assert peer.release() == 6
    assert [(row.peer, row.route) for row in node.rows] == [("scanner", "ct")]


@pytest.mark.parametrize(("address", "loopback"), [("127.0.0.9", True), ("::1", True), ("::ffff:127.0.0.1", True)])
@pytest.mark.parametrize("stranger", ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"])
def test_without_a_list_only_this_machine_may_send(start, address, loopback, stranger):
    node = start()
    assert node.receiver._judged("ANY", "ONFH", address)[0] is None
    refused, reason, _ = node.receiver._judged("ANY", "ONFH", stranger)
    assert ((refused.result, refused.source, refused.reason), reason) == ((1, 1, 3), "not_loopback")


def test_one_association_too_many_may_come_later(start):
    node = start(node={"max_associations": 2, "port": free_port()})
    with RawPeer(node.port) as first, RawPeer(node.port) as second:
        assert first.associate()[0] == second.associate()[0] == 2
        assert rejection(node) == (2, 3, 2)
        done = echo(node.port)
        assert "Local Limit Exceeded" in done.stdout + done.stderr
        assert node.refused == ["too_many_associations"] * 2
        assert first.release() == 6
        until(lambda: node.receiver.open_associations() == 1)
        assert rejection(node) is None
        assert second.release() == 6


def test_more_connections_than_can_be_rejected_are_closed_at_once(start):
    node = start(node={"max_associations": 1, "port": free_port()})
    silent = [RawPeer(node.port) for _ in range(17)]
    with RawPeer(node.port) as one_more:
        assert one_more.hung_up()
    for peer in silent:
        peer.socket.close()


def test_an_object_over_the_limit_is_refused_and_the_next_one_taken(start, image):
    node = start(node={"max_object_bytes": MIB, "port": free_port()})
    large = encoded(image, PixelData=bytes(3 * MIB), Rows=1024, Columns=1536)
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(large, image.SOPInstanceUID) == (0xA700, f"More than {MIB} bytes.")
        assert node.refused == ["too_large"]
        assert nothing_kept(node)
        assert peer.store(encoded(image), image.SOPInstanceUID) == (0, "")
        assert peer.release() == 6


def test_a_large_object_is_never_in_memory(start, image):
    node = start(node={"max_object_bytes": 24 * MIB, "port": free_port()})
    start_of = encoded(image, PixelData=None)
    piece = pdu(4, pdv(1, 0, bytes(250_000)))
    for megabytes, status in ((20, 0), (40, 0xA700)):
        with RawPeer(node.port) as peer:
            assert peer.associate()[0] == 2
            tracemalloc.start()
            begin = pdv(1, 3, store_command(image.SOPInstanceUID)) + pdv(1, 0, start_of)
            end = struct.pack("<HH2s2xI", 0x7FE0, 0x10, b"OW", 250_000 * 4 * megabytes)
            for part in [pdu(4, begin + pdv(1, 0, end)), *[piece] * (4 * megabytes), pdu(4, pdv(1, 2, b""))]:
                peer.socket.sendall(part)
            assert peer.status()[0] == status
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 4 * MIB
        node.idle()
    assert len(node.files) == 1


def test_the_watermark_is_told_to_the_sender(start, image, tmp_path, caplog):
    node = start(refuse_below_free_bytes=1 << 60)
    image.save_as(tmp_path / "one.dcm")
    done = send(node.port, tmp_path / "one.dcm")
    assert "Refused: OutOfResources" in done.stdout + done.stderr
    assert nothing_kept(node)
    assert "was refused with status 0xA700: The disk of" in caplog.text
    assert node.refused == ["spool_low"]


@pytest.mark.parametrize(
    ("changes", "command", "status", "code"),
    [
        ({"SOPInstanceUID": "1.2.3"}, {}, 0xA900, "wrong_instance"),
        ({"SOPClassUID": ENHANCED}, {}, 0xA900, "wrong_class"),
        ({}, {"sop_class": ENHANCED}, 0xA900, "wrong_class"),
        ({}, {"sop_class": ""}, 0xA900, "wrong_class"),
        ({}, {"sop_uid": "1.2.3"}, 0xA900, "wrong_instance"),
        ({}, {"sop_uid": "../../etc/passwd"}, 0x0117, "wrong_uid"),
        ({}, {"sop_uid": "1..2"}, 0x0117, "wrong_uid"),
        ({}, {"sop_uid": ""}, 0x0117, "wrong_uid"),
        ({}, {"sop_uid": "1." * 40 + "1"}, 0x0117, "wrong_uid"),
        ({"SOPInstanceUID": None}, {}, 0xA900, "wrong_instance"),
        ({"SeriesInstanceUID": None}, {}, 0xC000, "wrong_uid"),
        ({"StudyInstanceUID": None}, {}, 0xC000, "wrong_uid"),
        ({"StudyInstanceUID": ""}, {}, 0xC000, "wrong_uid"),
    ],
)
def test_objects_that_are_not_what_the_request_says_are_refused(start, image, changes, command, status, code):
    node = start()
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        names = {"sop_uid": image.SOPInstanceUID} | command
        got, comment = peer.store(encoded(image, **changes), **names)
        assert got == status, comment
        assert comment
        assert node.refused == [code]
        assert nothing_kept(node)
        assert peer.store(encoded(image), image.SOPInstanceUID) == (0, "")
        assert peer.release() == 6
    assert len(node.files) == 1


@pytest.mark.parametrize("hostile", [b"..\\..\\x", b"a/b", b"1.2\0/../3", b"1.2 \n3"])
def test_no_uid_of_a_data_set_that_is_none_gets_anywhere(start, image, hostile):
    node = start()
    good = str(image.SeriesInstanceUID).encode()
    data = encoded(image)
    data = data.replace(good, (hostile * 20)[: len(good)], 1)
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(data, image.SOPInstanceUID)[0] == 0xC000
        assert nothing_kept(node)


@pytest.mark.parametrize("data", [b"\0", b"\x08\0\x16\0UI\xff\xff1.2", bytes(200_000), b"\x08\0\x05\0CS\x04\0ISO_"])
def test_bytes_that_are_no_data_set_are_refused(start, data):
    node = start()
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        status, _ = peer.store(data, generate_uid())
        assert status in (0xA900, 0xC000)
        assert set(node.refused) <= {"damaged", "wrong_class", "wrong_uid"}
        assert len(node.refused) == 1
        assert nothing_kept(node)


def test_uids_behind_long_private_elements_are_found(start, image):
    node = start()
    copy = deepcopy(image)
    copy.private_block(0x0019, "TEST", create=True).add_new(1, "OB", bytes(600_000))
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(encoded(copy), image.SOPInstanceUID) == (0, "")
        copy.private_block(0x0019, "TEST").add_new(1, "OB", bytes(17 * MIB))
        copy.SOPInstanceUID = "1.2.3"
        assert peer.store(encoded(copy), "1.2.3")[0] == 0xC000
    assert len(node.files) == 1


def test_a_fault_of_ours_is_never_a_success(start, image, caplog):
    node = start()

    def broken(row):
        raise RuntimeError("SECRET^NAME")

    node.journal.record_object = broken
    with RawPeer(node.port) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(encoded(image), image.SOPInstanceUID) == (0x0110, "The node failed.")
        assert node.refused == ["internal_error"]
        assert node.files == []
    assert "a fault of ours, RuntimeError" in caplog.text
    assert "SECRET" not in caplog.text


def test_logs_hold_nothing_of_a_peer_but_its_address_and_a_plain_name(start, image, caplog):
    node = start(peers=PEERS)
    with caplog.at_level(logging.DEBUG):
        assert rejection(node, calling="DOE^JOHN;{}%s") == (1, 1, 3)
        with RawPeer(node.port, "127.0.0.2") as peer:
            assert peer.associate()[0] == 2
            assert peer.store(encoded(image, PatientName="DOE^JOHN", PatientID="12345"), "9.9.9")[0] == 0xA900
            assert peer.release() == 6
        node.idle()
    ours = [record for record in caplog.records if record.name.startswith("onfh_runtime")]
    said = [record.getMessage() + str(getattr(record, "onfh_fields", "")) for record in ours]
    assert len(said) >= 4
    assert not any(word in line for line in said for word in ("DOE^", "12345", "9.9.9", "\x07"))


def test_a_port_in_use_is_said_at_start(start, tmp_path):
    node = start()
    config = ListenConfig.model_validate({"state_dir": tmp_path, "node": {"port": node.port}})
    with pytest.raises(UsageError) as caught:
        Receiver(config, node.spool, node.journal, on_object=print, on_released=print, on_refused=print)
    assert caught.value.code == "address_unusable"
    assert str(node.port) in caught.value.text


def test_the_status_of_an_echo_with_a_class_that_was_not_accepted_is_an_abort(start):
    node = start()
    with RawPeer(node.port) as peer:
        assert peer.associate([("1.2.840.10008.1.1", (EXPLICIT,)), (CT, ("1.2.3",))])[0] == 2
        peer.socket.sendall(pdu(4, pdv(3, 3, store_command("1.2", field=0x30, data_set=0x101))))
        assert peer.hung_up()


def test_strangers_leave_room_for_peers_and_are_told(start):
    node = start(peers=PEERS)
    with ExitStack() as open_peers:
        for _ in range(40):
            open_peers.enter_context(RawPeer(node.port, "127.0.0.9"))
        until(lambda: 1 <= node.associating() <= 4 and not node.receiver._server._greeting, timeout_s=5.0)
        assert rejection(node, "127.0.0.2", calling="SCANNER") is None
    until(lambda: node.associating() == 0)
    assert rejection(node, "127.0.0.9", calling="SCANNER") == (1, 1, 3)


def test_a_connection_without_a_thread_takes_no_place(start, monkeypatch):
    node = start()
    real = threading.Thread.start

    def refused(thread):
        if thread.name.endswith("(process_request_thread)"):
            raise RuntimeError("can't start new thread")
        real(thread)

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refused)
        with RawPeer(node.port) as peer:
            assert peer.hung_up()
    assert not node.receiver._server._greeting
    assert rejection(node) is None
