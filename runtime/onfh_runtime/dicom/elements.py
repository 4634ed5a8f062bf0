"""The data elements of a file one after the other, in bounded time and memory.

pydicom's own reader recurses into sequences, keeps every value and goes on for as long as the file does; this one
skips what nobody asked for, counts what it sees, and gives up by name. It reads tags, lengths and places only: what a
value means is left to pydicom.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import SEEK_END
from typing import Protocol

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.valuerep import VR

__all__ = ["PRIVATE", "DamagedError", "Element", "ElementReader"]

MAX_ELEMENTS = 500_000
"""Elements and items of one header, nested ones included: 5,000 frames of an enhanced CT with 100 each."""

MAX_DEPTH = 64
"""Sequences and items inside each other; a real header has a dozen."""

WINDOW = 1 << 14
"""Bytes read at once: more than most headers of a single CT slice."""

SHALLOW = 16 * MAX_DEPTH
"""Bytes that cannot nest deeper: one level takes the head of an element and the head of an item."""

PRIVATE = 0x10000
"""Bit of a tag that makes its group odd."""

_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD
_DELIMITERS = 0xFFFE
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
"""Value representations with a length of four bytes (PS3.5, 7.1.2)."""
_VRS = {vr.value.encode(): vr.value for vr in VR if len(vr.value) == 2}
_SHORT_VRS = {code: vr for code, vr in _VRS.items() if vr not in _LONG_VRS}
_HEAD = 8
"""Bytes of tag, VR and length of a short element."""


class DamagedError(Exception):
    """The bytes are no data set, or a larger one than any CT image has. The text ends a sentence, without a stop."""


Element = tuple[int, str | None, int, int, int]
"""Tag, VR (None in implicit VR), where the element begins, where its value begins, and the value's length."""


class _File(Protocol):
    def read(self, size: int, /) -> bytes | None: ...

    def seek(self, offset: int, whence: int = ..., /) -> int: ...


class ElementReader:
    """Walks the elements of one file or of one value. The file is borrowed; it must be able to seek."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self.size = file.seek(0, SEEK_END)
        self._seen = 0
        self.big_endian(False)
        self._load(0)

    def big_endian(self, big: bool) -> None:
        """Set the byte order; little endian at first."""
        order = ">" if big else "<"
        self._explicit = struct.Struct(f"{order}HH2sH").unpack_from
        self._long = struct.Struct(f"{order}I").unpack_from

    def value(self, start: int, length: int) -> bytes:
        """The bytes of a value; the caller has bounded ``length``."""
        offset = start - self._base
        if offset < 0 or offset + length > len(self._data):
            if start + length > self.size:
                raise DamagedError("it ends inside a value")
            if length > WINDOW:
                self._file.seek(start)
                return self._file.read(length) or b""
            self._load(start)
            offset = 0
        return self._data[offset : offset + length]

    def is_implicit(self, at: int, assumed: bool) -> bool:
        """Whether the data set at ``at`` has no VRs, whatever its transfer syntax says: that is a known mistake."""
        if at + 6 > self.size:
            return assumed
        return self.value(at + 4, 2) not in _VRS

    def elements(
        self, at: int, end: int, implicit: bool, stop: int = _UNDEFINED, *, private: bool = True
    ) -> Iterator[Element]:
        """The elements of one data set, up to the first whose tag is at least ``stop``, which is the last one given.

        Where ``private`` is false, most private elements are left out: the short ones, which are the many. The length
        of a sequence without one is found; its value ends before the delimiter. Of the last one it is not.

        Raises:
            DamagedError: these bytes are no data set.
        """
        unpack = self._explicit
        while at < end:
            # Most elements are short and within the window: here without a call, which halves the time of a header.
            offset = at - self._base
            if not implicit and 0 <= offset <= len(self._data) - _HEAD and self._seen < MAX_ELEMENTS:
                group, number, code, length = unpack(self._data, offset)
                tag, vr, start = group << 16 | number, _SHORT_VRS.get(code), at + _HEAD
                if vr is not None and tag < stop and start + length <= end:
                    self._seen += 1
                    if private or not tag & PRIVATE:
                        yield tag, vr, at, start, length
                    at = start + length
                    continue
            tag, vr, start, length = self._head(at, implicit)
            after = start + length
            if tag >= stop:
                yield tag, vr, at, start, length
                return
            if tag >> 16 == _DELIMITERS:
                raise DamagedError("an item begins or ends where an element should")
            if length == _UNDEFINED:
                after = self._after_items(start, None, implicit or vr == "UN")
                length = after - 8 - start
            elif length > SHALLOW and _is_sequence(tag, vr):
                self._after_items(start, min(after, end), implicit or vr == "UN")
            if after > end:
                raise DamagedError("it ends inside an element")
            yield tag, vr, at, start, length
            at = after

    def items(self, at: int, end: int, implicit: bool) -> Iterator[tuple[int, int]]:
        """Start and end of each item of a sequence's value.

        Raises:
            DamagedError: these bytes are no items.
        """
        while at < end:
            tag, _, start, length = self._head(at, implicit)
            if tag != _ITEM:
                raise DamagedError("a sequence holds something else than items")
            after = stop = start + length
            if length == _UNDEFINED:
                after = self._after_items(start, None, self.is_implicit(start, implicit), in_item=True)
                stop = after - 8
            if after > end:
                raise DamagedError("an item ends after its sequence")
            yield start, stop
            at = after

    def _after_items(self, at: int, end: int | None, implicit: bool, in_item: bool = False) -> int:
        """The place behind a sequence (or an item) that begins at ``at`` and ends at ``end`` or with a delimiter."""
        inside: list[tuple[bool, int | None, bool]] = [(in_item, end, implicit)]
        while inside:
            item, end, implicit = inside[-1]
            if at == end:
                inside.pop()
                continue
            tag, vr, start, length = self._head(at, implicit)
            at, after = start, start + length
            if tag == (_ITEM_END if item else _SEQUENCE_END):
                inside.pop()
            elif item != (tag >> 16 != _DELIMITERS) or (not item and tag != _ITEM):
                raise DamagedError(
                    "a sequence holds something else than items, or an item something else than elements"
                )
            elif length != _UNDEFINED and (length <= SHALLOW or (item and not _is_sequence(tag, vr))):
                at = after
            elif item:
                inside.append((False, None if length == _UNDEFINED else after, implicit or vr == "UN"))
            else:
                inside.append((True, None if length == _UNDEFINED else after, self.is_implicit(start, implicit)))
            if len(inside) > MAX_DEPTH:
                raise DamagedError(f"its sequences are nested more than {MAX_DEPTH} deep")
        return at

    def _head(self, at: int, implicit: bool) -> tuple[int, str | None, int, int]:
        """Tag, VR, start and length of what begins at ``at``."""
        self._seen += 1
        if self._seen > MAX_ELEMENTS:
            raise DamagedError(f"it has more than {MAX_ELEMENTS} elements")
        offset = at - self._base
        if offset < 0 or offset + 12 > len(self._data):
            self._load(at)
            offset = 0
        try:
            group, number, vr, short = self._explicit(self._data, offset)
            name = _VRS.get(vr)
            if implicit or group == _DELIMITERS:
                return group << 16 | number, None, at + 8, self._long(self._data, offset + 4)[0]
            if name in _LONG_VRS:
                return group << 16 | number, name, at + 12, self._long(self._data, offset + 8)[0]
            return group << 16 | number, name, at + 8, short
        except struct.error:
            raise DamagedError("it ends inside an element") from None

    def _load(self, at: int) -> None:
        self._file.seek(at)
        self._data = self._file.read(WINDOW) or b""
        self._base = at


def _is_sequence(tag: int, vr: str | None) -> bool:
    return vr == "SQ" or (vr in (None, "UN") and dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ")
