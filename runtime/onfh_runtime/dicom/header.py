"""One header: read once, and its values taken from the raw bytes.

The values are parsed here rather than through pydicom's attributes: a damaged value of one file is then None instead
of an exception or a printed warning, and a series of 500 headers is checked in milliseconds.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from onfh_runtime.dicom.elements import PRIVATE, DamagedError, ElementReader
from onfh_runtime.errors import SeriesError

__all__ = ["Elements", "codes", "dataset_of", "decimals", "integer", "printable", "read_header", "transfer_syntax"]

Elements = dict[BaseTag, DataElement | RawDataElement]
"""What a Dataset is made of; here every element is still as it was stored."""

_PREFIX_END = 132
"""A DICOM file starts with 128 free bytes and ``DICM`` (PS3.10, 7.1)."""

_LONGEST = 1 << 16
"""Bytes of a value that is kept. What is longer is a table, a picture or a private matter."""

_LONGEST_GROUPS = 1 << 25
"""The same for functional groups and offset tables: 32 MiB are 5,000 frames with 6 kB each."""

_UID_BYTES = 64

_GROUP_3 = 0x00030000
_MEDIA_CLASS = 0x00020002
_TRANSFER_SYNTAX = 0x00020010
_CHARACTER_SET = 0x00080005
_CURVES = 0x50000000
_FUNCTIONAL_GROUPS = 0x52000000
_OVERLAYS = 0x60000000
_OFFSET_TABLES = 0x7FE00000
_PIXELS = 0x7FE00008
"""Float, Double Float and integer Pixel Data begin here; the extended offset tables come before."""


def read_header(path: Path) -> tuple[Dataset, int]:
    """Read a DICOM file up to its pixel data.

    Private elements, overlays and long values are skipped: nothing here asks for them. A deflated data set is refused
    before it is touched: inflating 0.6 MB may give 1.3 GB.

    Returns:
        The header, and the byte offset of the Pixel Data element (the end of the file when it has none). Its
        ``file_meta`` holds the media storage class and the transfer syntax.

    Raises:
        SeriesError: ``not_dicom``, ``unsupported_transfer_syntax`` or ``unreadable``. The text says what is wrong
            with the file and does not name it.
    """
    try:
        with path.open("rb", buffering=0) as file:
            reader = ElementReader(file)
            if reader.size < _PREFIX_END or reader.value(_PREFIX_END - 4, 4) != b"DICM":
                raise SeriesError("not_dicom", "The file is not DICOM: it has no DICM mark after 128 bytes.")
            meta, start = _file_meta(reader)
            syntax = _syntax_of(meta)
            if syntax == DeflatedExplicitVRLittleEndian:
                raise SeriesError(
                    "unsupported_transfer_syntax",
                    "The file is deflated (Deflated Explicit VR Little Endian), which is not supported.",
                    "Send it uncompressed.",
                )
            reader.big_endian(syntax == ExplicitVRBigEndian)
            elements, end = _kept(reader, start, syntax)
    except OSError as error:
        raise SeriesError("unreadable", f"The file cannot be read: {error.strerror}.") from error
    except DamagedError as error:
        raise SeriesError("unreadable", f"The file is damaged: {error}.") from error
    header = dataset_of(elements)
    header.file_meta = meta
    return header, end


def dataset_of(elements: Elements) -> Dataset:
    """A data set of elements that stay as they are stored until somebody asks for their values."""
    header = Dataset(elements)
    some = next(iter(elements.values()), None)
    if isinstance(some, RawDataElement):
        charset = elements.get(BaseTag(_CHARACTER_SET))
        stored = charset.value if charset is not None and isinstance(charset.value, bytes) else b""
        header.set_original_encoding(some.is_implicit_VR, some.is_little_endian, list(_encodings(stored)))
    return header


def _file_meta(reader: ElementReader) -> tuple[FileMetaDataset, int]:
    """UIDs of the file meta information, and where the data set begins."""
    found: Elements = {}
    at = _PREFIX_END
    for tag, vr, begin, start, length in reader.elements(at, reader.size, reader.is_implicit(at, False), _GROUP_3):
        if tag >> 16 != 2:  # a data set in big endian begins with group 0x0800
            return FileMetaDataset(found), begin
        if tag in (_MEDIA_CLASS, _TRANSFER_SYNTAX) and length <= _UID_BYTES:
            key = BaseTag(tag)
            found[key] = RawDataElement(key, vr, length, reader.value(start, length), start, vr is None, True)
        at = start + length
    return FileMetaDataset(found), at


def _kept(reader: ElementReader, at: int, syntax: str) -> tuple[Elements, int]:
    """The elements that are kept, and where the pixel data begin."""
    implicit = reader.is_implicit(at, syntax == ImplicitVRLittleEndian)
    little = syntax != ExplicitVRBigEndian
    kept: Elements = {}
    for tag, vr, begin, start, length in reader.elements(at, reader.size, implicit, _PIXELS, private=False):
        if tag >= _PIXELS:
            return kept, begin
        if tag & PRIVATE or _CURVES <= tag < _FUNCTIONAL_GROUPS or _OVERLAYS <= tag < _OFFSET_TABLES:
            continue
        if length <= (_LONGEST_GROUPS if tag >= _FUNCTIONAL_GROUPS else _LONGEST):
            make = _shared if length <= _UID_BYTES else _element
            element = make(tag, vr, length, reader.value(start, length), start, implicit, little)
            kept[element.tag] = element
    return kept, reader.size


def _element(
    tag: int, vr: str | None, length: int, value: bytes, start: int, implicit: bool, little: bool
) -> RawDataElement:
    return RawDataElement(BaseTag(tag), vr, length, value, start, implicit, little)


_shared = lru_cache(maxsize=4096)(_element)
"""The images of a series say mostly the same: 400 headers take 3 MB instead of 9, which counts beside 200 of pixels."""


@lru_cache(maxsize=64)
def _encodings(stored: bytes) -> tuple[str, ...]:
    """Python's names of the character sets that (0008,0005) lists; the default one where it makes no sense."""
    names = [name.strip(" \0") for name in stored.decode("latin-1").split("\\")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom comments on misspelt names
        try:
            return tuple(convert_encodings(names))
        except (LookupError, ValueError):
            return (default_encoding,)


def transfer_syntax(header: Dataset) -> str:
    """Transfer Syntax UID of a header that was read from a file, empty when the file does not say."""
    meta = getattr(header, "file_meta", None)
    return _syntax_of(meta) if meta is not None else ""


def decimals(header: Dataset, tag: int, count: int) -> tuple[float, ...] | None:
    """The ``count`` finite numbers of a DS or IS element, or None when they are not there or not readable."""
    try:
        numbers = tuple(float(value) for value in _values(header, tag))
    except (TypeError, ValueError):
        return None
    if len(numbers) != count or not all(abs(number) < float("inf") for number in numbers):
        return None
    return numbers


def integer(header: Dataset, tag: int) -> int | None:
    """The value of a US, SS or ``US or SS`` element, or None.

    A value that was never decoded comes out as unsigned 16 bits, one that was may be negative.
    """
    element = header.get_item(BaseTag(tag))
    if element is None:
        return None
    value: Any = element.value
    if isinstance(value, bytes):
        little = element.is_little_endian if isinstance(element, RawDataElement) else True
        return int.from_bytes(value, "little" if little else "big") if len(value) == 2 else None
    return int(value) if isinstance(value, int) else None


def codes(header: Dataset, tag: int) -> tuple[str, ...]:
    """The values of a CS, SH, LO or UI element without padding, a byte a character; empty values at the end dropped."""
    return tuple(str(value) for value in _values(header, tag))


def printable(header: Dataset, keyword: str) -> str:
    """A text attribute for a reader, decoded with the file's character set, without control characters."""
    try:
        value = header.get(keyword)
    except Exception:  # an undecodable text must not cost the series its analysis
        return ""
    return "".join(char for char in str(value or "") if char.isprintable()).strip()


def _syntax_of(meta: Dataset) -> str:
    values = _values(meta, _TRANSFER_SYNTAX)
    return str(values[0]) if values else ""


def _values(dataset: Dataset, tag: int) -> tuple[Any, ...]:
    element = dataset.get_item(BaseTag(tag))
    if element is None or element.value is None:
        return ()
    value: Any = element.value
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str):
        parts = [part.strip(" \0") for part in value.split("\\")]
        while parts and not parts[-1]:
            parts.pop()
        return tuple(parts)
    return tuple(value) if hasattr(value, "__iter__") else (value,)
