"""The bytes of C-STORE and C-ECHO: PDUs and PDVs (PS3.8, 9.3.5 and annex E), command sets (PS3.7, 6.3.1 and 9.3).

pynetdicom negotiates, releases and aborts; what moves images is here, because its general way through queues and data
sets takes more than twice the processor time per object.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["C_ECHO", "C_STORE", "Command", "PduReader", "ProtocolError", "command_from_bytes", "pdvs_of", "response_to"]

C_STORE = 0x0001
C_ECHO = 0x0030
_RESPONSE = 0x8000
_NO_DATA_SET = 0x0101

_P_DATA = 4
_HEAD = 6
"""Bytes before the content of a PDU: type, a free byte, length."""
_PDV_HEAD = 6
"""Bytes before the content of a PDV: length, context, control."""

_SOP_CLASS = 0x0002
_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_RESPONDED_TO = 0x0120
_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_COMMENT = 0x0902
_SOP_INSTANCE = 0x1000

_UID_LENGTH = 64
_COMMENT_LENGTH = 64
"""Characters of an error comment: an LO."""


class ProtocolError(Exception):
    """A peer broke the protocol. The text ends a sentence, without a stop, and quotes nothing."""


class _Socket(Protocol):
    def recv_into(self, buffer: memoryview, /) -> int: ...


@dataclass(frozen=True)
class Command:
    """What a request asks for; UIDs are as the peer sent them, unchecked, without padding, cut where none goes on."""

    field: int
    message_id: int
    sop_class: str
    sop_uid: str
    has_data: bool


class PduReader:
    """Reads P-DATA-TF PDUs from a connected socket, as much at once as there is. The socket is borrowed."""

    def __init__(self, socket: _Socket, max_pdu: int) -> None:
        """Prepare.

        Args:
            socket: with a timeout, which is the longest a peer may be silent.
            max_pdu: bytes that the content of a PDU may have.
        """
        self._socket = socket
        self._max = max_pdu
        self._view = memoryview(bytearray(2 * (max_pdu + _HEAD)))
        self._start = self._end = 0

    def next(self) -> memoryview | None:
        """The content of the next P-DATA-TF PDU, valid until the next call; None where another PDU or the end comes.

        Raises:
            ProtocolError: the PDU is larger than was agreed.
            OSError: of the socket; TimeoutError when the peer is silent.
        """
        if not self._have(_HEAD) or self._view[self._start] != _P_DATA:
            return None
        (length,) = struct.unpack_from(">I", self._view, self._start + 2)
        if length > self._max:
            raise ProtocolError(f"it sent a PDU of {length} bytes where {self._max} were agreed")
        if not self._have(_HEAD + length):
            return None
        start = self._start + _HEAD
        self._start = start + length
        return self._view[start : self._start]

    def rest(self) -> bytes:
        """What was read and not given out: the beginning of another PDU."""
        return bytes(self._view[self._start : self._end])

    def _have(self, count: int) -> bool:
        """Read until ``count`` bytes are there; False when the peer is gone before."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start + count > len(self._view):
            kept = self._end - self._start
            self._view[:kept] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, kept
        while self._end - self._start < count:
            got = self._socket.recv_into(self._view[self._end :])
            if got == 0:
                return False
            self._end += got
        return True


def pdvs_of(pdu: memoryview) -> Iterator[tuple[int, bool, bool, memoryview]]:
    """Context, whether it is of a command, whether it is the last one, and content of each PDV of a PDU.

    Raises:
        ProtocolError: the lengths do not fit.
    """
    at = 0
    while at < len(pdu):
        if at + _PDV_HEAD > len(pdu):
            raise ProtocolError("a PDV of it ends early")
        length, context, control = struct.unpack_from(">IBB", pdu, at)
        end = at + 4 + length
        if length < 2 or end > len(pdu):
            raise ProtocolError("a PDV of it has a wrong length")
        yield context, bool(control & 1), bool(control & 2), pdu[at + _PDV_HEAD : end]
        at = end


def command_from_bytes(data: bytes) -> Command:
    """Read a command set (implicit VR, little endian).

    Raises:
        ProtocolError: it is no request.
    """
    values: dict[int, bytes] = {}
    at = 0
    while at + 8 <= len(data):
        group, element, length = struct.unpack_from("<HHI", data, at)
        if group != 0 or at + 8 + length > len(data):
            raise ProtocolError("a command of it is damaged")
        values[element] = data[at + 8 : at + 8 + length]
        at += 8 + length
    return Command(
        field=_number(values, _FIELD),
        message_id=_number(values, _MESSAGE_ID),
        sop_class=_uid(values, _SOP_CLASS),
        sop_uid=_uid(values, _SOP_INSTANCE),
        has_data=_number(values, _DATA_SET_TYPE) != _NO_DATA_SET,
    )


def response_to(command: Command, context: int, status: int, comment: str = "") -> bytes:
    """The P-DATA-TF PDU that answers a request.

    Args:
        command: the request.
        context: its presentation context.
        status: 0x0000 success, or what went wrong (PS3.4, table B.2-1; PS3.7, annex C).
        comment: ASCII for the peer's log; cut to 64 characters.
    """
    elements = [
        _element(_SOP_CLASS, _padded(command.sop_class, "\0")),
        _element(_FIELD, struct.pack("<H", command.field | _RESPONSE)),
        _element(_RESPONDED_TO, struct.pack("<H", command.message_id)),
        _element(_DATA_SET_TYPE, struct.pack("<H", _NO_DATA_SET)),
        _element(_STATUS, struct.pack("<H", status)),
    ]
    if comment:
        elements.append(_element(_COMMENT, _padded(comment[:_COMMENT_LENGTH], " ")))
    if command.sop_uid:
        elements.append(_element(_SOP_INSTANCE, _padded(command.sop_uid, "\0")))
    body = b"".join(elements)
    body = _element(0, struct.pack("<I", len(body))) + body
    return struct.pack(">BBIIBB", _P_DATA, 0, len(body) + 6, len(body) + 2, context, 3) + body


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def _padded(text: str, padding: str) -> bytes:
    return (text + padding * (len(text) % 2)).encode("latin-1")


def _number(values: dict[int, bytes], element: int) -> int:
    value = values.get(element, b"")
    if len(value) != 2:
        raise ProtocolError("a command of it lacks an element")
    return int.from_bytes(value, "little")


def _uid(values: dict[int, bytes], element: int) -> str:
    return values.get(element, b"")[: _UID_LENGTH + 1].decode("latin-1").strip(" \0")
