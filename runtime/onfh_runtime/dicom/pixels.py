"""How the pixels of one image are stored, and which forms of storage this runtime reads."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.config import IGNORE
from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from onfh_runtime.dicom.header import codes, decimals, integer, transfer_syntax

__all__ = ["LOSSY_SYNTAXES", "MAY_LOSE", "NATIVE_SYNTAXES", "PixelFormat", "pixel_format", "syntax_name"]

NATIVE_SYNTAXES = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
"""Uncompressed: one run of pixels in the file."""

LOSSY_SYNTAXES = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless})
"""Always lossy. JPEG 2000 and HTJ2K may be either, which Lossy Image Compression tells."""

MAY_LOSE = LOSSY_SYNTAXES | {JPEG2000, HTJ2K}
"""Codings that may put a value above the largest stored one; cutting its upper bits off would turn metal into air."""

_ROWS = 0x00280010
_COLUMNS = 0x00280011
_BITS_ALLOCATED = 0x00280100
_BITS_STORED = 0x00280101
_HIGH_BIT = 0x00280102
_PIXEL_REPRESENTATION = 0x00280103
_SAMPLES_PER_PIXEL = 0x00280002
_PHOTOMETRIC = 0x00280004
_PADDING_VALUE = 0x00280120
_PADDING_LIMIT = 0x00280121
_INTERCEPT = 0x00281052
_SLOPE = 0x00281053


@dataclass(frozen=True)
class PixelFormat:
    """The Image Pixel, Modality LUT and padding attributes of one image; None where the header does not say.

    ``padding`` is an inclusive range of 16-bit stored values, read with the signedness of the pixels.
    """

    syntax: str
    rows: int | None
    columns: int | None
    bits_allocated: int | None
    bits_stored: int | None
    high_bit: int | None
    signed: bool | None
    samples: int | None
    photometric: str
    slope: float | None
    intercept: float | None
    padding: tuple[int, int] | None

    def missing(self) -> list[str]:
        """Names of the attributes the image cannot be read without and lacks."""
        needed = {
            "Rows": self.rows,
            "Columns": self.columns,
            "Bits Allocated": self.bits_allocated,
            "Bits Stored": self.bits_stored,
            "High Bit": self.high_bit,
            "Pixel Representation": self.signed,
            "Samples per Pixel": self.samples,
            "Photometric Interpretation": self.photometric or None,
            "Rescale Slope": self.slope,
            "Rescale Intercept": self.intercept,
        }
        return [name for name, value in needed.items() if value is None]


def pixel_format(header: Dataset) -> PixelFormat:
    """Read the :class:`PixelFormat` of a header; never raises."""
    representation = integer(header, _PIXEL_REPRESENTATION)
    signed = None if representation not in (0, 1) else representation == 1
    photometric = codes(header, _PHOTOMETRIC)
    slope, intercept = decimals(header, _SLOPE, 1), decimals(header, _INTERCEPT, 1)
    return PixelFormat(
        syntax=transfer_syntax(header),
        rows=integer(header, _ROWS),
        columns=integer(header, _COLUMNS),
        bits_allocated=integer(header, _BITS_ALLOCATED),
        bits_stored=integer(header, _BITS_STORED),
        high_bit=integer(header, _HIGH_BIT),
        signed=signed,
        samples=integer(header, _SAMPLES_PER_PIXEL),
        photometric=photometric[0] if photometric else "",
        slope=None if slope is None else slope[0],
        intercept=None if intercept is None else intercept[0],
        padding=_padding(header, bool(signed)),
    )


def syntax_name(uid: str) -> str:
    """Name of a transfer syntax for a sentence: ``JPEG 2000 Image Compression (1.2.840.10008.1.2.4.91)``."""
    if not uid:
        return "an unnamed transfer syntax"
    name = UID(uid, validation_mode=IGNORE).name
    return uid if name == uid else f"{name} ({uid})"


def _padding(header: Dataset, signed: bool) -> tuple[int, int] | None:
    value = integer(header, _PADDING_VALUE)
    if value is None:
        return None
    limit = integer(header, _PADDING_LIMIT)
    first = _as_stored(value, signed)
    second = first if limit is None else _as_stored(limit, signed)
    return min(first, second), max(first, second)


def _as_stored(value: int, signed: bool) -> int:
    # The VR of the element (US or SS) may contradict Pixel Representation; its 16 bits are what the pixels hold.
    bits = value & 0xFFFF
    return bits - 0x10000 if signed and bits & 0x8000 else bits
