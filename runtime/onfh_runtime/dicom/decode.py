"""From the files of a series to one :class:`~onfh_runtime.volume.Volume`.

Pixels go from the file straight into their place in the volume: no header is parsed again, uncompressed pixels are not
copied, and frames are read and decoded by several threads where the decoder lets go of the interpreter. A thread holds
one compressed frame at a time, so the volume is nearly all the memory this takes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRBigEndian

from onfh_runtime.cpu import cores
from onfh_runtime.dicom.check import check_candidate, check_pixels
from onfh_runtime.dicom.codecs import compressed_limit, decode_frame, decodes_in_parallel
from onfh_runtime.dicom.encapsulated import Fragment, frame_bytes, frame_fragments
from onfh_runtime.dicom.frames import number_of_frames
from onfh_runtime.dicom.geometry import order_along_normal, orientation_of, orientations_of, series_affine
from onfh_runtime.dicom.pixels import MAY_LOSE, NATIVE_SYNTAXES, PixelFormat
from onfh_runtime.dicom.series import Candidate, SourceImage
from onfh_runtime.errors import SeriesError
from onfh_runtime.volume import Volume

__all__ = ["decode_image", "read_volume"]

MAX_THREADS = 8
"""More threads wait for memory, not for the processor."""

FRAMES_AT_ONCE = 4
"""Frames between two visits of a thread to the queue, which costs as much as a fifth of an uncompressed frame."""

_PIXEL_DATA = (0x7FE0, 0x0010)
_EXTENDED_OFFSETS = 0x7FE00001
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OW", b"UN")
_FIX = "Send the series again."

Fragments = dict[Path, list[list[Fragment]]]
"""For each multi-frame file, the fragments of each of its frames."""


def read_volume(candidate: Candidate) -> tuple[Volume, tuple[SourceImage, ...]]:
    """Check a series, order its images and read their pixels.

    Returns:
        The volume (int16 or uint16 stored values; bits above Bits Stored are removed, except that what a lossy coding
        adds above the largest value stays), and the images in its slice order.

    Raises:
        SeriesError: everything :func:`~onfh_runtime.dicom.check.check_candidate` refuses, and ``truncated``,
            ``unreadable``, ``unreadable_pixels``, ``unsupported_pixels`` or ``size_limit`` (out of memory).
    """
    warnings = check_candidate(candidate)
    images, _ = order_along_normal(candidate.images)
    formats = [image.form for image in images]
    padding = next((form.padding for form in formats if form.padding is not None), None)
    shape = (len(images), formats[0].rows or 0, formats[0].columns or 0)
    try:
        voxels: NDArray[Any] = np.empty(shape, np.int16 if formats[0].signed else np.uint16)
        _fill(voxels, images, formats, padding)
    except MemoryError as error:
        raise SeriesError(
            "size_limit", f"There is no memory for {shape[0]} x {shape[1]} x {shape[2]} voxels."
        ) from error
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


def decode_image(image: SourceImage) -> NDArray[Any]:
    """The pixels of one image, as :func:`read_volume` would put them into a volume of its own padding.

    Returns:
        (rows, columns) int16 or uint16 stored values.

    Raises:
        SeriesError: what :func:`~onfh_runtime.dicom.check.check_pixels` refuses, and ``truncated``, ``unreadable`` or
            ``unreadable_pixels``.
    """
    check_pixels([image])
    form = image.form
    frame: NDArray[Any] = np.empty((form.rows or 0, form.columns or 0), np.int16 if form.signed else np.uint16)
    _read_frame(image, form, frame, fragments=_fragments_of_files([image], [form]), padding=form.padding)
    return frame


def _fill(
    voxels: NDArray[Any],
    images: Sequence[SourceImage],
    formats: Sequence[PixelFormat],
    padding: tuple[int, int] | None,
) -> None:
    fragments = _fragments_of_files(images, formats)
    parallel = all(decodes_in_parallel(syntax) for syntax in {form.syntax for form in formats})
    read = partial(_read_frame, fragments=fragments, padding=padding)

    def read_some(first: int) -> None:
        some = slice(first, first + FRAMES_AT_ONCE)
        for image, form, frame in zip(images[some], formats[some], voxels[some], strict=True):
            read(image, form, frame)

    with ThreadPoolExecutor(min(cores(), MAX_THREADS) if parallel else 1, "onfh-decode") as pool:
        for _ in pool.map(read_some, range(0, len(images), FRAMES_AT_ONCE)):  # the first error cancels the rest
            pass


def _fragments_of_files(images: Sequence[SourceImage], formats: Sequence[PixelFormat]) -> Fragments:
    found: Fragments = {}
    for image, form in zip(images, formats, strict=True):
        if form.syntax not in NATIVE_SYNTAXES and image.path not in found and number_of_frames(image.header) > 1:
            with _opened(image) as file:
                _open_pixel_data(file, image, "<")
                found[image.path] = _fragments(file, image)
    return found


def _fragments(file: FileIO, image: SourceImage) -> list[list[Fragment]]:
    extended = image.header.get_item(_EXTENDED_OFFSETS) if _EXTENDED_OFFSETS in image.header else None
    table = extended.value if extended is not None and isinstance(extended.value, bytes) else b""
    return frame_fragments(file, number_of_frames(image.header), table, image.label)


def _read_frame(
    image: SourceImage,
    form: PixelFormat,
    frame: NDArray[Any],
    *,
    fragments: Fragments,
    padding: tuple[int, int] | None,
) -> None:
    """Fill ``frame`` (rows, columns) with the 16-bit values of the file, in the byte order of this machine."""
    known = image.decoded(padding) if image.decoded is not None else None
    if known is not None:
        frame[...] = known
        return
    big_endian = form.syntax == ExplicitVRBigEndian
    try:
        with _opened(image) as file:
            length = _open_pixel_data(file, image, ">" if big_endian else "<")
            if form.syntax in NATIVE_SYNTAXES:
                _read_native(file, length, frame, image)
            else:
                frames = fragments.get(image.path) or _fragments(file, image)
                data = frame_bytes(file, frames[(image.frame or 1) - 1], compressed_limit(frame), image.label)
                _decode(data, form, frame, image)
    except OSError as error:
        raise SeriesError("unreadable", f"{image.label} cannot be read: {error.strerror}.", _FIX) from error
    if big_endian:
        frame.byteswap(inplace=True)
    if form.syntax not in MAY_LOSE:
        _keep_stored_bits(frame, form, padding)


def _opened(image: SourceImage) -> FileIO:
    if image.pixel_offset is None:
        raise SeriesError("missing_attribute", f"{image.label} was not read from a file, so its pixels are not known.")
    file = image.path.open("rb", buffering=0)
    file.seek(image.pixel_offset)
    return file


def _open_pixel_data(file: FileIO, image: SourceImage, order: str) -> int:
    """Read the start of the Pixel Data element, leave the file at its value and return the declared length."""
    start = file.read(12)
    if len(start) < 12:
        raise SeriesError("truncated", f"{image.label} ends before its pixel data.", _FIX)
    if struct.unpack(f"{order}HH", start[:4]) != _PIXEL_DATA:
        raise SeriesError(
            "unsupported_pixels", f"{image.label} holds no 16-bit pixel data where its header ends.", _FIX
        )
    if start[4:6] in _LONG_VRS:
        return int(struct.unpack(f"{order}I", start[8:])[0])
    file.seek(-4, os.SEEK_CUR)
    return int(struct.unpack(f"{order}I", start[4:8])[0])


def _read_native(file: FileIO, length: int, frame: NDArray[Any], image: SourceImage) -> None:
    expected = frame.nbytes * (1 if image.frame is None else number_of_frames(image.header))
    if length < expected or length - expected >= frame.strides[0]:  # less than a row is padding, which some writers add
        code = "truncated" if length < expected else "unsupported_pixels"
        raise SeriesError(code, f"{image.label} has {length} bytes of pixel data instead of {expected}.", _FIX)
    file.seek(frame.nbytes * ((image.frame or 1) - 1), os.SEEK_CUR)
    target = frame.data.cast("B")
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])
        if not count:
            text = f"{image.label} ends after {done} of {len(target)} bytes of pixel data."
            raise SeriesError("truncated", text, _FIX)
        done += count


def _decode(data: bytes, form: PixelFormat, frame: NDArray[Any], image: SourceImage) -> None:
    try:
        decode_frame(data, form, frame)
    except MemoryError:
        raise
    except Exception as error:  # each codec raises its own types
        text = f"The compressed pixels of {image.label} cannot be decoded."
        raise SeriesError("unreadable_pixels", text, _FIX) from error


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
