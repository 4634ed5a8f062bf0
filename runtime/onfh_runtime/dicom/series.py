"""What the search for series hands on: candidates to analyse and everything else, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

__all__ = ["Candidate", "Skipped", "SourceImage"]


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


@dataclass(frozen=True)
class Candidate:
    """A CT series (or one part of a split one) that should be analysed; images are in no order yet."""

    study_instance_uid: str
    series_instance_uid: str
    part: int | None
    description: str
    images: tuple[SourceImage, ...]


@dataclass(frozen=True)
class Skipped:
    """A series that is no candidate (localizer, dose page, another modality), and why."""

    study_instance_uid: str
    series_instance_uid: str
    description: str
    images: int
    code: str
    text: str
