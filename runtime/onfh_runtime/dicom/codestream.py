"""What a compressed frame says of itself, read before a decoder is let at it.

Decoders believe the stream, not the DICOM header: a stream that claims 60000 x 60000 pixels, or scans without end,
takes gigabytes or minutes. The few bytes that say so are read here first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pydicom.uid import (
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

__all__ = ["Stream", "begins_stream", "stream_of"]

MAX_TILES = 4096
"""Tiles of a JPEG 2000 image: 2048 x 2048 in tiles of 32; OpenJPEG takes 6 kB for each."""

MAX_LAYERS = 256
"""Quality layers of a JPEG 2000 image; every layer is a walk over the whole image."""

_FRAMES: dict[str, set[int]] = {
    JPEGBaseline8Bit: {0xC0},
    JPEGExtended12Bit: {0xC0, 0xC1},
    JPEGLossless: {0xC3},
    JPEGLosslessSV1: {0xC3},
    JPEGLSLossless: {0xF7},
    JPEGLSNearLossless: {0xF7},
}
"""Start Of Frame markers that a transfer syntax allows (PS3.5, 8.2 and annex A.4); progressive ones are not among
them, which keeps the number of scans at one."""

_OTHER_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_SOC_SIZ = b"\xff\x4f\xff\x51"
_COD, _SOT, _SOD = 0x52, 0x90, 0x93
_JP2_BOXES = 4096
"""Bytes that the boxes of a JP2 file may take before its codestream."""


@dataclass(frozen=True)
class Stream:
    """Size of the decoded image, bits of a sample, and whether the samples are signed."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False


def stream_of(syntax: str, data: bytes) -> Stream | None:
    """Read what a frame of this transfer syntax says of itself; None where its coding says nothing (RLE).

    Raises:
        ValueError: it is damaged, of another coding, or made to be expensive.
    """
    try:
        if syntax in _FRAMES:
            return _jpeg(data, _FRAMES[syntax])
        if syntax in JPEG2000TransferSyntaxes:
            return _jpeg_2000(data)
    except struct.error:
        raise ValueError("the stream ends inside its header") from None
    return None


def begins_stream(data: bytes) -> bool:
    """Whether bytes (4 at least) are the start of a JPEG, JPEG-LS or JPEG 2000 image."""
    return data.startswith((b"\xff\xd8\xff", _SOC_SIZ))


def _jpeg(data: bytes, allowed: set[int]) -> Stream:
    at = 2
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG image begins here")
    while True:
        mark, code, length = struct.unpack_from(">BBH", data, at)
        if mark != 0xFF:
            raise ValueError("a marker is missing")
        if code == 0xFF:  # a fill byte
            at += 1
            continue
        if code in _OTHER_FRAMES:
            if code not in allowed:
                raise ValueError(f"the transfer syntax does not allow frames of kind {code:#x}")
            precision, rows, columns, components = struct.unpack_from(">BHHB", data, at + 4)
            return Stream(rows, columns, components, precision)
        if code == 0xDA or length < 2:
            raise ValueError("a scan begins before its frame")
        at += 2 + length


def _jpeg_2000(data: bytes) -> Stream:
    at = data.find(_SOC_SIZ, 0, _JP2_BOXES)
    if at < 0:
        raise ValueError("no JPEG 2000 image begins here")
    width, height, left, top, tile_width, tile_height, tile_left, tile_top = struct.unpack_from(">8I", data, at + 8)
    components, depth, step_x, step_y = struct.unpack_from(">HBBB", data, at + 40)
    if not (tile_width and tile_height and width > left >= tile_left and height > top >= tile_top):
        raise ValueError("the sizes in the stream contradict each other")
    if (step_x, step_y) != (1, 1):
        raise ValueError("the samples are not those of the pixels")
    if -(-(width - tile_left) // tile_width) * -(-(height - tile_top) // tile_height) > MAX_TILES:
        raise ValueError(f"the image has more than {MAX_TILES} tiles")
    at += 2
    while True:
        mark, code, length = struct.unpack_from(">BBH", data, at)
        if mark != 0xFF or code in (_SOT, _SOD) or length < 2:
            break
        if code == _COD and struct.unpack_from(">H", data, at + 6)[0] > MAX_LAYERS:
            raise ValueError(f"the image has more than {MAX_LAYERS} layers")
        at += 2 + length
    return Stream(height - top, width - left, components, (depth & 0x7F) + 1, bool(depth & 0x80))
