"""Where the frames of compressed pixel data are in their file.

Compressed pixel data are a list of fragments behind an offset table that may be empty (PS3.5, annex A.4). A frame is
usually one fragment, but may be several.
"""

from __future__ import annotations

import itertools
import struct
from io import FileIO

from onfh_runtime.dicom.codestream import begins_stream
from onfh_runtime.errors import SeriesError

__all__ = ["Fragment", "frame_bytes", "frame_fragments"]

Fragment = tuple[int, int]
"""Where the bytes of a fragment begin in the file, and how many there are."""

MAX_FRAGMENTS = 100_000
"""Fragments of one object: 5,000 frames of twenty."""

_ITEM = (0xFFFE, 0xE000)
_END_OF_ITEMS = (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_HEAD = 8
_FIX = "Send the series again."


def frame_fragments(file: FileIO, frames: int, extended: bytes, name: str) -> list[list[Fragment]]:
    """The fragments of each frame of the compressed pixel data at whose value ``file`` stands.

    Every fragment is walked to the end mark: codecs fill what a cut file lacks with grey, without a word.

    Args:
        file: open for reading; left anywhere.
        frames: how many frames the header promises.
        extended: the value of the Extended Offset Table, empty when there is none.
        name: of the image, for texts.

    Raises:
        SeriesError: ``truncated`` or ``unreadable_pixels``.
    """
    table, fragments = _items(file, name)
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    if frames == 1 and fragments:
        return [fragments]
    if extended or table:
        size, data = (8, extended) if extended else (4, table)
        offsets = [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]
        first = fragments[0][0] if fragments else 0
        begins = [first + offset for offset in offsets]
    else:
        begins = [start for start, length in fragments if begins_stream(_at(file, start, min(length, 4)))]
    starts = [start for start, _ in fragments]
    if len(begins) != frames or begins != sorted(set(begins)) or starts[:1] != begins[:1] or not {*begins} <= {*starts}:
        raise SeriesError(
            "unreadable_pixels", f"The {len(fragments)} fragments of {name} do not make {frames} frames.", _FIX
        )
    edges = [starts.index(begin) for begin in begins] + [len(starts)]
    return [fragments[low:high] for low, high in itertools.pairwise(edges)]


def frame_bytes(file: FileIO, fragments: list[Fragment], limit: int, name: str) -> bytes:
    """The compressed bytes of one frame.

    Raises:
        SeriesError: ``unreadable_pixels``, they are more than ``limit``; ``truncated``.
    """
    total = sum(length for _, length in fragments)
    if total > limit:
        raise SeriesError(
            "unreadable_pixels", f"The compressed pixels of {name} take {total} bytes, more than plain ones.", _FIX
        )
    data = b"".join(_at(file, start, length) for start, length in fragments)
    if len(data) < total:
        raise SeriesError("truncated", f"{name} ends inside its compressed pixel data.", _FIX)
    return data


def _items(file: FileIO, name: str) -> tuple[bytes, list[Fragment]]:
    """The basic offset table and the fragments."""
    table: bytes | None = None
    fragments: list[Fragment] = []
    at = file.tell()
    while True:
        head = _at(file, at, _HEAD)
        if len(head) < _HEAD:
            raise SeriesError("truncated", f"{name} ends inside its compressed pixel data.", _FIX)
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) == _END_OF_ITEMS:
            return table or b"", fragments
        if (group, element) != _ITEM or length == _UNDEFINED or len(fragments) == MAX_FRAGMENTS:
            raise SeriesError("unreadable_pixels", f"The compressed pixels of {name} are damaged.", _FIX)
        at += _HEAD
        if table is None:
            table = _at(file, at, min(length, 4 * MAX_FRAGMENTS))
        else:
            fragments.append((at, length))
        at += length


def _at(file: FileIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)
