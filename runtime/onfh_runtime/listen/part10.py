"""What comes before a data set in a file (PS3.10, 7.1): made from what was agreed on the wire, never from the data."""

from __future__ import annotations

import struct

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

__all__ = ["file_head"]

_VERSION = struct.pack("<HH2s2xI", 2, 0x0001, b"OB", 2) + b"\x00\x01"


def file_head(sop_class: str, sop_uid: str, transfer_syntax: str, source_ae_title: str) -> bytes:
    """Preamble, DICM and file meta information; the data set follows as it was received.

    Args:
        sop_class: Media Storage SOP Class UID.
        sop_uid: Media Storage SOP Instance UID.
        transfer_syntax: of the accepted presentation context.
        source_ae_title: who sent it; printable ASCII.
    """
    elements = (
        _VERSION,
        _element(0x0002, b"UI", _even(sop_class, b"\0")),
        _element(0x0003, b"UI", _even(sop_uid, b"\0")),
        _element(0x0010, b"UI", _even(transfer_syntax, b"\0")),
        _element(0x0012, b"UI", _even(PYNETDICOM_IMPLEMENTATION_UID, b"\0")),
        _element(0x0013, b"SH", _even(PYNETDICOM_IMPLEMENTATION_VERSION, b" ")),
        _element(0x0016, b"AE", _even(source_ae_title, b" ")),
    )
    meta = b"".join(elements)
    return bytes(128) + b"DICM" + _element(0x0000, b"UL", struct.pack("<I", len(meta))) + meta


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


def _even(text: str, padding: bytes) -> bytes:
    data = text.encode("ascii")
    return data + padding * (len(data) % 2)
