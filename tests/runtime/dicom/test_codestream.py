"""What a compressed stream claims is read before a decoder believes it."""

from __future__ import annotations

import struct

import pytest
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from onfh_runtime.dicom.codestream import Stream, begins_stream, stream_of


def jpeg(frame, rows=20, columns=30, precision=12, components=1, before=b""):
    head = struct.pack(">BBHBHHB", 0xFF, frame, 11, precision, rows, columns, components)
    return b"\xff\xd8" + before + head + b"\1\x11\0"


def jpeg_2000(width=30, height=20, left=0, top=0, tile=(30, 20), depth=11, step=1, layers=1, components=1):
    size = struct.pack(">8I", width, height, left, top, *tile, 0, 0)
    siz = b"\xff\x51" + struct.pack(">HH", 41, 0) + size + struct.pack(">HBBB", components, depth, step, step)
    cod = b"\xff\x52" + struct.pack(">HBBHB", 12, 0, 0, layers, 0) + b"\5\4\4\0\1"
    return b"\xff\x4f" + siz + cod + b"\xff\x90\0\x0a"


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [(JPEGBaseline8Bit, 0xC0), (JPEGExtended12Bit, 0xC1), (JPEGLosslessSV1, 0xC3), (JPEGLSLossless, 0xF7)],
)
def test_a_jpeg_frame_says_its_size(syntax, frame):
    comment = b"\xff\xfe\0\4ab\xff"
    assert stream_of(syntax, jpeg(frame, before=comment)) == Stream(20, 30, 1, 12)


@pytest.mark.parametrize("frame", [0xC2, 0xC6, 0xCA, 0xC0, 0xCB])
def test_progressive_and_other_frames_are_refused(frame):
    """A progressive image of a megabyte may hold a hundred thousand passes over all its pixels."""
    with pytest.raises(ValueError, match="does not allow"):
        stream_of(JPEGLosslessSV1, jpeg(frame))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\0\0\0\0", b"\xff\xd8\xff\xda\0\4ab", jpeg(0xC3)[:8], b"\0" * 30]
)
def test_damaged_jpeg_is_refused(data):
    with pytest.raises(ValueError, match=r"."):
        stream_of(JPEGLosslessSV1, data)


def test_a_jpeg_2000_image_says_its_size():
    assert stream_of(JPEG2000Lossless, jpeg_2000()) == Stream(20, 30, 1, 12, False)
    assert stream_of(JPEG2000Lossless, jpeg_2000(depth=0x80 | 15)) == Stream(20, 30, 1, 16, True)
    assert stream_of(JPEG2000Lossless, jpeg_2000(left=10, top=5)) == Stream(15, 20, 1, 12, False)
    assert stream_of(JPEG2000Lossless, b"\0\0\0\x0cjP  \r\n\x87\n" + jpeg_2000()) == Stream(20, 30, 1, 12, False)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tile": (0, 20)}, "contradict"),
        ({"left": 30}, "contradict"),
        ({"tile": (1, 1), "width": 2048, "height": 2048}, "tiles"),
        ({"layers": 65535}, "layers"),
        ({"step": 2}, "samples"),
    ],
)
def test_expensive_jpeg_2000_is_refused(change, why):
    with pytest.raises(ValueError, match=why):
        stream_of(JPEG2000Lossless, jpeg_2000(**change))


def test_a_jpeg_2000_image_that_ends_early_is_refused():
    for length in range(len(jpeg_2000()) - 4):
        with pytest.raises(ValueError, match=r"."):
            stream_of(JPEG2000Lossless, jpeg_2000()[:length])


def test_run_lengths_say_nothing():
    assert stream_of(RLELossless, b"\2\0\0\0") is None


def test_the_start_of_an_image_is_known():
    assert begins_stream(jpeg(0xC3)[:4])
    assert begins_stream(jpeg_2000()[:4])
    assert not begins_stream(b"\xff\xd9\xff\xd8")
    assert not begins_stream(b"\xff")
