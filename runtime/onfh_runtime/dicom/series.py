"""What the search for series hands on: candidates to analyse and everything else, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from onfh_runtime.dicom.header import codes

__all__ = ["Candidate", "Skipped", "SourceImage"]

_SOP_INSTANCE = 0x00080018


@dataclass(frozen=True)
class SourceImage:
    """One DICOM object: its file, and its header without pixel data.

    ``pixel_offset`` is where the Pixel Data element begins in the file, in bytes, or None when it was not looked for.
    """

    path: Path
    header: Dataset
    pixel_offset: int | None = None

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID of the object."""
        return str(self.header.SOPInstanceUID)

    @property
    def label(self) -> str:
        """How texts name it: by its UID, for file names may hold a patient's name and texts leave the machine."""
        values = codes(self.header, _SOP_INSTANCE)
        return f"Image {values[0] if values else 'without a UID'}"


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
    """A series that is no candidate (localizer, dose page, another modality), and why."""

    study_instance_uid: str
    series_instance_uid: str
    description: str
    images: int
    code: str
    text: str
