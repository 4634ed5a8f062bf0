"""From the files of a series to one :class:`~onfh_runtime.volume.Volume`.

Uncompressed pixels are read from the file straight into their place in the volume: no header is parsed again and no
pixel is copied twice.
"""

from __future__ import annotations

import struct
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRBigEndian

from onfh_runtime.dicom.check import check_candidate
from onfh_runtime.dicom.geometry import order_along_normal, orientation_of, orientations_of, series_affine
from onfh_runtime.dicom.pixels import NATIVE_SYNTAXES, PixelFormat, pixel_format
from onfh_runtime.dicom.series import Candidate, SourceImage
from onfh_runtime.errors import SeriesError
from onfh_runtime.volume import Volume

__all__ = ["read_volume"]

_PIXEL_DATA = (0x7FE0, 0x0010)
_ITEM = (0xFFFE, 0xE000)
_END_OF_ITEMS = (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OW", b"UN")
_FIX = "Send the series again."


def read_volume(candidate: Candidate) -> tuple[Volume, tuple[SourceImage, ...]]:
    """Check a series, order its images and read their pixels.

    Returns:
        The volume (int16 or uint16 stored values, bits above Bits Stored removed), and the images in its slice order.

    Raises:
        SeriesError: everything :func:`~onfh_runtime.dicom.check.check_candidate` refuses, and ``truncated``,
            ``unreadable``, ``unreadable_pixels``, ``unsupported_pixels`` or ``size_limit`` (out of memory).
    """
    warnings = check_candidate(candidate)
    images, _ = order_along_normal(candidate.images)
    formats = [pixel_format(image.header) for image in images]
    padding = next((form.padding for form in formats if form.padding is not None), None)
    shape = (len(images), formats[0].rows or 0, formats[0].columns or 0)
    try:
        voxels: NDArray[Any] = np.empty(shape, np.int16 if formats[0].signed else np.uint16)
    except MemoryError as error:
        raise SeriesError(
            "size_limit", f"There is no memory for {shape[0]} x {shape[1]} x {shape[2]} voxels."
        ) from error
    for image, form, frame in zip(images, formats, voxels, strict=True):
        _read_frame(image, form, frame)
        _keep_stored_bits(frame, form, padding)
    volume = Volume(
        voxels=voxels,
        affine=series_affine(images),
        slope=np.array([form.slope for form in formats], np.float64),
        intercept=np.array([form.intercept for form in formats], np.float64),
        padding=padding,
        acquired=orientation_of(orientations_of(images[:1])[0]),
        warnings=warnings,
    )
    return volume, images


def _read_frame(image: SourceImage, form: PixelFormat, frame: NDArray[Any]) -> None:
    """Fill ``frame`` (rows, columns) with the 16-bit values of the file, byte order corrected."""
    name = image.label
    if image.pixel_offset is None:
        raise SeriesError("missing_attribute", f"{name} was not read from a file, so its pixels cannot be found.")
    big_endian = form.syntax == ExplicitVRBigEndian
    try:
        with image.path.open("rb", buffering=0) as file:
            file.seek(image.pixel_offset)
            length = _open_pixel_data(file, name, ">" if big_endian else "<")
            if form.syntax in NATIVE_SYNTAXES:
                _read_native(file, length, frame, name)
            else:
                frame[...] = _decoded(file.read(), form, frame, name)
    except OSError as error:
        raise SeriesError("unreadable", f"{name} cannot be read: {error.strerror}.", _FIX) from error
    if big_endian:
        frame.byteswap(inplace=True)


def _open_pixel_data(file: FileIO, name: str, order: str) -> int:
    """Read the start of the Pixel Data element, leave the file at its value and return the declared length."""
    start = file.read(12)
    if len(start) < 12:
        raise SeriesError("truncated", f"{name} ends before its pixel data.", _FIX)
    if struct.unpack(f"{order}HH", start[:4]) != _PIXEL_DATA:
        raise SeriesError("unsupported_pixels", f"{name} holds no 16-bit pixel data where its header ends.", _FIX)
    if start[4:6] in _LONG_VRS:
        return int(struct.unpack(f"{order}I", start[8:])[0])
    file.seek(-4, 1)
    return int(struct.unpack(f"{order}I", start[4:8])[0])


def _read_native(file: FileIO, length: int, frame: NDArray[Any], name: str) -> None:
    if length < frame.nbytes:
        raise SeriesError("truncated", f"{name} has {length} bytes of pixel data instead of {frame.nbytes}.", _FIX)
    if length - frame.nbytes >= frame.strides[0]:  # less than a row is padding, which some writers add
        raise SeriesError(
            "unsupported_pixels", f"{name} has {length} bytes of pixel data instead of {frame.nbytes}.", _FIX
        )
    target = frame.data.cast("B")
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            raise SeriesError("truncated", f"{name} ends after {done} of {len(target)} bytes of pixel data.", _FIX)
        done += count


def _decoded(encoded: bytes, form: PixelFormat, frame: NDArray[Any], name: str) -> NDArray[Any]:
    """Decode one encapsulated frame with whatever decoder pydicom finds."""
    from pydicom.pixels.decoders.base import get_decoder

    _check_items(encoded, name)
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
    try:
        array, _ = get_decoder(form.syntax).as_array(encoded, index=0, raw=True, **options)
    except Exception as error:  # each codec raises its own types
        raise SeriesError("unreadable_pixels", f"The compressed pixels of {name} cannot be decoded.", _FIX) from error
    if array.shape != frame.shape or array.dtype.itemsize != 2:
        raise SeriesError("unreadable_pixels", f"The compressed pixels of {name} do not have the size it states.", _FIX)
    return array


def _check_items(encoded: bytes, name: str) -> None:
    """Walk the fragments to their end mark: codecs fill what a cut file lacks with grey, without a word."""
    at = 0
    while at + 8 <= len(encoded):
        group, element, length = struct.unpack_from("<HHI", encoded, at)
        if (group, element) == _END_OF_ITEMS:
            return
        if (group, element) != _ITEM or length == _UNDEFINED:
            raise SeriesError("unreadable_pixels", f"The compressed pixels of {name} are damaged.", _FIX)
        at += 8 + length
    raise SeriesError("truncated", f"{name} ends inside its compressed pixel data.", _FIX)


def _keep_stored_bits(frame: NDArray[Any], form: PixelFormat, padding: tuple[int, int] | None) -> None:
    """Clear or sign-extend the bits above Bits Stored in place: old overlays live there, or garbage.

    A padding value that needs those bits (63536 in 12-bit images, a known habit) is recognised first and kept.
    """
    unused = 16 - (form.bits_stored or 16)
    if not unused:
        return
    low = -(1 << (15 - unused)) if form.signed else 0
    high = low + (1 << (16 - unused)) - 1
    padded = None
    if padding is not None and not (low <= padding[0] and padding[1] <= high):
        padded = (frame >= padding[0]) & (frame <= padding[1])
    frame <<= unused
    frame >>= unused
    if padded is not None:
        frame[padded] = padding[0] if padding is not None else 0
