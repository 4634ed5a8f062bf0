"""Which decoder turns a compressed frame into pixels.

imagecodecs (the extra ``codecs``) is asked first: it writes into the volume and works outside the interpreter lock.
Without it, RLE is decoded here and everything else by what pydicom finds.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    AllTransferSyntaxes,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from onfh_runtime.dicom.codestream import Stream, stream_of
from onfh_runtime.dicom.pixels import NATIVE_SYNTAXES, PixelFormat

__all__ = ["CODECS_EXTRA", "can_decode", "compressed_limit", "decode_frame", "decodes_in_parallel"]

_IMAGECODECS: dict[str, str] = {
    RLELossless: "dicomrle",
    **dict.fromkeys((JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), "jpeg8"),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "jpegls"),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), "jpeg2k"),
}
"""Transfer syntax -> codec of imagecodecs."""

CODECS_EXTRA = frozenset(_IMAGECODECS)
"""Transfer syntaxes that the extra ``codecs`` decodes."""

_SLACK = 1 << 16
"""Bytes of tables and markers that a compressed frame may have beyond twice the plain pixels."""

_RLE_SEGMENTS = 2
"""High bytes, then low bytes (PS3.5, annex G)."""


def can_decode(syntax: str) -> bool:
    """Whether this machine reads pixels in this transfer syntax."""
    if syntax in NATIVE_SYNTAXES or syntax == RLELossless or _fast(syntax) is not None:
        return True
    if syntax not in AllTransferSyntaxes:
        return False
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return False
    return bool(decoder.is_encapsulated and decoder.is_available)


def decodes_in_parallel(syntax: str) -> bool:
    """Whether several threads decode faster than one."""
    return syntax in NATIVE_SYNTAXES or _fast(syntax) is not None


def compressed_limit(frame: NDArray[Any]) -> int:
    """The most bytes that a compressed frame may take: an honest one is smaller than its pixels."""
    return 2 * frame.nbytes + _SLACK


def decode_frame(data: bytes, form: PixelFormat, frame: NDArray[Any]) -> None:
    """Decode one compressed frame into ``frame`` (rows, columns), 16-bit integers with the signedness of ``form``.

    Raises:
        Exception: of whatever type the codec raises; ValueError when the stream is not an image of that size.
    """
    stream = stream_of(form.syntax, data)
    if stream is not None and (stream.rows, stream.columns, stream.components) != (*frame.shape, 1):
        raise ValueError("The stream holds an image of another size.")
    if stream is not None and not 1 <= stream.precision <= 16:
        raise ValueError("The stream holds more than 16 bits a sample.")
    fast = _fast(form.syntax)
    if form.syntax == RLELossless:
        _rle(data, frame, fast)
    elif fast is not None and stream is not None and stream.precision > 8:
        fast(data, out=frame)
    else:
        decoded = fast(data) if fast is not None else _by_pydicom(data, form)
        if decoded.shape != frame.shape:
            raise ValueError("The decoded image has another size.")
        frame[...] = decoded.view(frame.dtype) if decoded.itemsize == frame.itemsize else decoded
    if stream is not None:
        _correct_sign(frame, form, stream)


def _correct_sign(frame: NDArray[Any], form: PixelFormat, stream: Stream) -> None:
    """Read the samples with the signedness of the header: JPEG-LS has none, and JPEG 2000 may contradict it."""
    unlike = form.syntax in JPEG2000TransferSyntaxes and stream.signed != form.signed
    if unlike or (form.syntax in JPEGLSTransferSyntaxes and form.signed):
        frame <<= 16 - stream.precision
        frame >>= 16 - stream.precision


def _rle(data: bytes, frame: NDArray[Any], fast: Callable[..., Any] | None) -> None:
    segments, first, second = struct.unpack_from("<3I", data)
    if segments != _RLE_SEGMENTS or not 64 <= first < second <= len(data):
        raise ValueError("There are not two segments.")
    if fast is not None:
        fast(data, "<u2", out=frame.reshape(-1).view(np.uint8))
        return
    plain = frame.reshape(-1).view(np.uint8)
    plain[1::2] = np.frombuffer(_unpacked(data[first:second], frame.size), np.uint8)
    plain[0::2] = np.frombuffer(_unpacked(data[second:], frame.size), np.uint8)


def _unpacked(data: bytes, count: int) -> bytearray:
    """The first ``count`` bytes of one run-length encoded segment (PackBits)."""
    plain, at, end = bytearray(), 0, len(data)
    while at < end and len(plain) < count:
        code = data[at]
        if code < 128:
            plain += data[at + 1 : at + 2 + code]
            at += 2 + code
        else:
            if code > 128:
                plain += data[at + 1 : at + 2] * (257 - code)
            at += 2 if code > 128 else 1
    if len(plain) < count:
        raise ValueError("A segment ends early.")
    return plain[:count]


def _by_pydicom(data: bytes, form: PixelFormat) -> NDArray[Any]:
    """Decode with whatever decoder pydicom finds."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    options: dict[str, Any] = {
        "rows": form.rows,
        "columns": form.columns,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": 16,
        "bits_stored": form.bits_stored,
        "pixel_representation": int(bool(form.signed)),
        "photometric_interpretation": form.photometric,
        "pixel_keyword": "PixelData",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array, _ = get_decoder(form.syntax).as_array(encapsulate([data]), index=0, raw=True, **options)
    return array


@lru_cache(maxsize=64)
def _fast(syntax: str) -> Callable[..., Any] | None:
    """The decoder of imagecodecs, or None when it is not installed or was built without it."""
    if syntax not in CODECS_EXTRA:
        return None
    try:
        import imagecodecs
    except ImportError:
        return None
    name = _IMAGECODECS[syntax]
    if not getattr(imagecodecs, name.upper()).available:
        return None
    decoder: Callable[..., Any] = getattr(imagecodecs, f"{name}_decode")
    return decoder
