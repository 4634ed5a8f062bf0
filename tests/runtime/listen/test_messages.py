from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from scanner import element, pdu, pdv, store_command

from onfh_runtime.listen.messages import (
    C_STORE,
    Command,
    PduReader,
    ProtocolError,
    command_from_bytes,
    pdvs_of,
    response_to,
)


@pytest.fixture
def pair():
    """Both ends of a connection."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0.2)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("sizes", [[5], [0, 1, 100, 100, 0], [100] * 30, [99, 1, 50] * 20])
@pytest.mark.parametrize("step", [1, 7, 106, 1_000_000])
def test_pdus_come_out_as_they_went_in(pair, sizes, step):
    ours, theirs = pair
    contents = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    stream = b"".join(pdu(4, content) for content in contents) + pdu(5, bytes(4))
    reader = PduReader(ours, 100)
    got, sent = [], 0
    for content in contents:
        while sent < len(stream) and sent < sum(6 + len(done) for done in [*got, content]):
            theirs.sendall(stream[sent : sent + step])
            sent += step
        got.append(bytes(reader.next()))
    theirs.sendall(stream[sent:])
    assert got == contents
    assert reader.next() is None
    assert pdu(5, bytes(4)).startswith(reader.rest())
    assert len(reader.rest()) >= 6


def test_the_end_and_silence_are_told_apart(pair):
    ours, theirs = pair
    reader = PduReader(ours, 100)
    theirs.sendall(pdu(4, b"abc")[:5])
    with pytest.raises(TimeoutError):
        reader.next()
    theirs.sendall(pdu(4, b"abc")[5:] + b"\4\0")
    assert bytes(reader.next()) == b"abc"
    theirs.close()
    assert reader.next() is None
    assert reader.rest() == b"\4\0"


def test_more_than_was_agreed_is_not_read(pair):
    ours, theirs = pair
    theirs.sendall(pdu(4, bytes(100)) + pdu(4, bytes(101)))
    reader = PduReader(ours, 100)
    assert len(reader.next()) == 100
    with pytest.raises(ProtocolError, match="101 bytes where 100"):
        reader.next()


def test_pdvs_are_told_apart():
    content = pdv(1, 3, b"command") + pdv(3, 0, b"") + pdv(3, 2, b"data")
    found = [(context, command, last, bytes(data)) for context, command, last, data in pdvs_of(memoryview(content))]
    assert found == [(1, True, True, b"command"), (3, False, False, b""), (3, False, True, b"data")]


@given(st.binary(max_size=60))
def test_any_bytes_are_pdvs_or_refused(content):
    try:
        found = list(pdvs_of(memoryview(content)))
    except ProtocolError:
        return
    assert sum(len(data) + 6 for *_, data in found) == len(content)


@given(st.one_of(st.binary(max_size=60), st.integers(0, 200).map(lambda n: store_command("1.2.3")[:n])))
def test_any_bytes_are_a_command_or_refused(data):
    try:
        command = command_from_bytes(data)
    except ProtocolError:
        return
    assert 0 <= command.message_id < 1 << 16


def test_a_command_is_read():
    assert command_from_bytes(store_command("1.2.34", "5.6.7", message=515)) == Command(
        C_STORE, 515, "5.6.7", "1.2.34", True
    )
    assert not command_from_bytes(store_command("1.2.34", data_set=0x101)).has_data


def test_a_uid_without_end_is_cut():
    command = command_from_bytes(store_command("1" * 5000))
    assert command.sop_uid == "1" * 65
    assert len(response_to(command, 1, 0)) < 300


@pytest.mark.parametrize("group", [element(8, 0x100, b"\1\0"), element(0, 0x100, b"\1"), b""])
def test_what_is_no_request_is_refused(group):
    with pytest.raises(ProtocolError):
        command_from_bytes(group)


@pytest.mark.parametrize("comment", ["", "odd", "even", "x" * 70])
def test_a_response_is_read_by_pydicom(comment):
    answer = response_to(Command(C_STORE, 7, "1.2.840", "1.2.3.4", True), 5, 0xA700, comment)
    kind, length, size, context, control = struct.unpack(">BxIIBB", answer[:12])
    assert (kind, length, size, context, control) == (4, len(answer) - 6, len(answer) - 10, 5, 3)
    data = read_dataset(DicomBytesIO(answer[12:]), True, True)
    assert data.CommandGroupLength == len(answer) - 12 - 12
    assert (data.AffectedSOPClassUID, data.AffectedSOPInstanceUID) == ("1.2.840", "1.2.3.4")
    assert (data.CommandField, data.MessageIDBeingRespondedTo) == (0x8001, 7)
    assert (data.CommandDataSetType, data.Status) == (0x101, 0xA700)
    assert data.get("ErrorComment", "") == comment[:64]
