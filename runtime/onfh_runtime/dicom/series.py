"""What the search for series hands on: candidates to analyse and everything else, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom.dataset import Dataset

from onfh_runtime.dicom.header import codes
from onfh_runtime.dicom.pixels import PixelFormat, pixel_format

__all__ = ["Candidate", "Decoded", "Skipped", "SourceImage"]

Decoded = Callable[[tuple[int, int] | None], NDArray[Any] | None]
"""Asked with the padding range of the series: pixels that were decoded before for that range, or None."""

_SOP_INSTANCE = 0x00080018


@dataclass(frozen=True)
class SourceImage:
    """One DICOM object, or one frame of a multi-frame one: its file, and its header without pixel data.

    Attributes:
        path: the file.
        header: of the object; for a frame, the header that a CT Image object of this one frame would have, except for
            its SOP class, SOP Instance UID and Number of Frames, which are the object's.
        pixel_offset: where the Pixel Data element begins in the file, in bytes; None when it was not looked for.
        frame: number of the frame in its object, from 1; None for an object whose frames were not told apart.
        decoded: asked for its pixels before they are read from the file.
    """

    path: Path
    header: Dataset
    pixel_offset: int | None = None
    frame: int | None = None
    decoded: Decoded | None = field(default=None, compare=False, repr=False)

    @cached_property
    def form(self) -> PixelFormat:
        """How its pixels are stored; looked up once."""
        return pixel_format(self.header)

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID of the object."""
        return str(self.header.SOPInstanceUID)

    @property
    def label(self) -> str:
        """How texts name it: by its UID, for file names may hold a patient's name and texts leave the machine."""
        values = codes(self.header, _SOP_INSTANCE)
        part = "" if self.frame is None else f" frame {self.frame}"
        return f"Image {values[0] if values else 'without a UID'}{part}"


@dataclass(frozen=True)
class Candidate:
    """A CT series (or one part of a split one) that should be analysed; images are in no order yet.

    ``warnings`` are (code, text) pairs found while searching.
    """

    study_instance_uid: str
    series_instance_uid: str
    part: int | None
    description: str
    images: tuple[SourceImage, ...]
    warnings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A series, or a part of one, that is not analysed (localizer, dose page, outside the bundle's rules), and why."""

    study_instance_uid: str
    series_instance_uid: str
    description: str
    images: int
    code: str
    text: str
    part: int | None = None
