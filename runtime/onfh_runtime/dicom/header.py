"""One header: read once, and its values taken from the raw bytes.

The values are parsed here rather than through pydicom's attributes: a damaged value of one file is then None instead
of an exception or a printed warning, and a series of 500 headers is checked in milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from onfh_runtime.errors import SeriesError

__all__ = ["codes", "decimals", "integer", "printable", "read_header", "transfer_syntax"]

_PREFIX_END = 132
"""A DICOM file starts with 128 free bytes and ``DICM`` (PS3.10, 7.1)."""

_TRANSFER_SYNTAX = 0x00020010


def read_header(path: Path) -> tuple[Dataset, int]:
    """Read a DICOM file up to its pixel data.

    A deflated data set is refused before it is touched: inflating 0.6 MB may give 1.3 GB.

    Returns:
        The header, and the byte offset of the Pixel Data element (the end of the file when it has none).

    Raises:
        SeriesError: ``not_dicom``, ``unsupported_transfer_syntax`` or ``unreadable``. The text says what is wrong
            with the file and does not name it.
    """
    try:
        with path.open("rb") as file:
            if file.read(_PREFIX_END)[-4:] != b"DICM":
                raise SeriesError("not_dicom", "The file is not DICOM: it has no DICM mark after 128 bytes.")
            meta = read_dataset(file, False, True, stop_when=_after_file_meta)
            if DeflatedExplicitVRLittleEndian in _values(meta, _TRANSFER_SYNTAX):
                raise SeriesError(
                    "unsupported_transfer_syntax",
                    "The file is deflated (Deflated Explicit VR Little Endian), which is not supported.",
                    "Send it uncompressed.",
                )
            file.seek(0)
            header = dcmread(file, stop_before_pixels=True)
            return header, file.tell()
    except SeriesError:
        raise
    except OSError as error:
        reason = error.strerror or "its sequences are damaged"
        raise SeriesError("unreadable", f"The file cannot be read: {reason}.") from error
    except Exception as error:
        # pydicom raises a dozen types on hostile or damaged bytes; whichever it is, this one file is unreadable.
        raise SeriesError("unreadable", f"The file is damaged: its header cannot be read ({_kind(error)}).") from error


def transfer_syntax(header: Dataset) -> str:
    """Transfer Syntax UID of a header that was read from a file, empty when the file does not say."""
    meta = getattr(header, "file_meta", None)
    values = _values(meta, _TRANSFER_SYNTAX) if meta is not None else ()
    return str(values[0]) if values else ""


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


def _after_file_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2


def _kind(error: Exception) -> str:
    return type(error).__name__
