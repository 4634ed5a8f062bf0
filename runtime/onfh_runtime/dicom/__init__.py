"""DICOM in: finding, checking and reading CT series."""

from onfh_runtime.dicom.decode import read_volume
from onfh_runtime.dicom.find import find_series
from onfh_runtime.dicom.series import Candidate, Skipped, SourceImage

__all__ = ["Candidate", "Skipped", "SourceImage", "find_series", "read_volume"]
