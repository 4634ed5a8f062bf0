"""Who an object says it is, read from its first elements; the pixels are not touched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO

from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from onfh_runtime.dicom.elements import DamagedError, ElementReader

__all__ = ["Identity", "identity_in", "is_uid"]

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH = 64
"""PS3.5, 9.1. UIDs name files, so nothing else may pass (leading zeros do: they are common and harmless)."""

_SOP_CLASS = 0x00080016
_SOP_INSTANCE = 0x00080018
_STUDY = 0x0020000D
_SERIES = 0x0020000E
_WANTED = frozenset({_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES})


@dataclass(frozen=True)
class Identity:
    """UIDs of an object; empty where it has none, or none that is valid."""

    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str


def is_uid(text: str) -> bool:
    """Whether a text is a UID: numbers between dots, at most 64 characters."""
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


def identity_in(data: bytes, transfer_syntax: str, *, whole: bool) -> Identity | None:
    """Read the UIDs of a data set.

    Args:
        data: the first bytes of the data set, in a transfer syntax that is not deflated.
        transfer_syntax: of the presentation context.
        whole: whether nothing follows.

    Returns:
        None when more bytes are needed.

    Raises:
        DamagedError: these bytes are no data set.
    """
    reader = ElementReader(BytesIO(data))
    reader.big_endian(transfer_syntax == ExplicitVRBigEndian)
    implicit = reader.is_implicit(0, transfer_syntax == ImplicitVRLittleEndian)
    found = dict.fromkeys(_WANTED, "")
    tag = 0
    try:
        for tag, _, _, start, length in reader.elements(0, reader.size, implicit, _SERIES + 1, private=False):
            if tag in _WANTED and length <= _UID_LENGTH:
                text = reader.value(start, length).decode("latin-1").strip(" \0")
                found[tag] = text if is_uid(text) else ""
    except DamagedError:
        if whole:
            raise
        return None
    if tag <= _SERIES and not whole:
        return None
    return Identity(found[_SOP_CLASS], found[_SOP_INSTANCE], found[_STUDY], found[_SERIES])
