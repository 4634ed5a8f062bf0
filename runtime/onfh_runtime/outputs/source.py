"""What an output object takes over from the source series: patient, study and character set."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pydicom.valuerep import format_number_as_ds

from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.outputs.uids import result_uid
from onfh_runtime.result import Result

__all__ = ["ADOPTED", "adopt", "blank", "decimal", "equipment", "fit", "reference_to", "references", "series_number"]

_REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""Type 2 attributes of the Patient and General Study modules: written empty where the source lacks them."""

_OPTIONAL = (
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "PatientBirthTime",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "QualityControlSubject",
    "StudyDescription",
    "IssuerOfAccessionNumberSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "TimezoneOffsetFromUTC",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
)

ADOPTED = (*_REQUIRED, *_OPTIONAL)
"""Every attribute that an output copies from its source; nothing else of a patient ever gets into one."""

_FIRST_SERIES_NUMBER = {"seg": 9100, "sr": 9101, "sc": 9102}
"""High, so that a viewer lists results behind what was acquired; a source series number is added ten times over."""

_LARGEST_SOURCE_NUMBER = 99_999
"""Larger series numbers are machine-made (timestamps); ten times such a number would not fit an IS."""


def reference_to(result: Result, sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """The least of an object that highdicom needs to refer to it.

    Source headers are not handed to highdicom: it raises on what real archives hold (a missing type 2 attribute, an
    unknown sex, an unusual character set) and on refused series without geometry.
    """
    reference = Dataset()
    reference.SOPClassUID = sop_class_uid
    reference.SOPInstanceUID = sop_instance_uid
    reference.StudyInstanceUID = result.study_instance_uid
    reference.SeriesInstanceUID = result.series_instance_uid
    reference.Modality = "CT"
    return reference


def references(images: Iterable[SourceImage], *, frames: bool = True) -> list[Dataset]:
    """Items that name source images, one for each object, in order.

    Args:
        images: objects, or frames of objects.
        frames: whether to say which frames of an object are meant; False where an item may name the object only.
    """
    objects: dict[str, list[SourceImage]] = {}
    for image in images:
        objects.setdefault(image.sop_instance_uid, []).append(image)
    items = []
    for uid, parts in objects.items():
        item = Dataset()
        item.ReferencedSOPClassUID = str(parts[0].header.get("SOPClassUID") or CTImageStorage)
        item.ReferencedSOPInstanceUID = uid
        numbers = [part.frame for part in parts if part.frame is not None]
        if frames and numbers:
            item.ReferencedFrameNumber = numbers
        items.append(item)
    return items


def decimal(value: Any) -> str:
    """A number as a decimal string; anything below a nanometre is rounding noise of an affine."""
    return format_number_as_ds(round(float(value), 9) + 0.0)


def blank(reference: Dataset) -> None:
    """Add the patient and study attributes, empty, that highdicom copies from the first of several references.

    The real ones come from :func:`adopt`.
    """
    for keyword in _REQUIRED:
        setattr(reference, keyword, "")


def adopt(dataset: Dataset, header: Dataset, texts: Iterable[str]) -> None:
    """Give an output object the patient, study and character set of its source.

    Attributes are copied as they are stored, valid or not, so that an archive files both under one patient.

    Args:
        dataset: the object, changed in place.
        header: header of a source image.
        texts: every free text in ``dataset`` that is not from the source. Where one of them goes beyond ASCII, the
            whole object is encoded as UTF-8 (ISO_IR 192) instead of in the source's character set.
    """
    with warnings.catch_warnings():
        # pydicom comments on every invalid value of the source; the source was accepted as it is
        warnings.simplefilter("ignore", UserWarning)
        for keyword in ADOPTED:
            element = _element(header, keyword)
            if element is not None:
                dataset.add(element)
            elif keyword in _REQUIRED:
                setattr(dataset, keyword, None)
        character_set = _element(header, "SpecificCharacterSet")
        if not all(text.isascii() for text in texts):
            dataset.SpecificCharacterSet = "ISO_IR 192"
        elif character_set is not None:
            dataset.add(character_set)


def _element(header: Dataset, keyword: str) -> Any:
    """A copy of a data element, or None where it is missing or cannot be read at all."""
    try:
        return copy.deepcopy(header[keyword]) if keyword in header else None
    except (AttributeError, LookupError, TypeError, ValueError, NotImplementedError):
        return None


def series_number(kind: str, header: Dataset) -> int:
    """Series Number of an output: SEG 9100, SR 9101, capture 9102, plus ten times the source's where that is usable."""
    try:
        number = int(header.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return _FIRST_SERIES_NUMBER[kind] + (10 * number if 0 < number <= _LARGEST_SOURCE_NUMBER else 0)


def equipment(result: Result) -> dict[str, str]:
    """General Equipment arguments of highdicom; the serial number of this software device is its bundle's hash."""
    return {
        "manufacturer": fit(result.software.name),
        "manufacturer_model_name": fit(result.software.name),
        "software_versions": fit(result.software.version),
        "device_serial_number": fit(result.bundle.sha256) or result_uid("device", result.bundle.name),
    }


def fit(text: str, length: int = 64) -> str:
    """A text for a VR that allows neither backslash nor control characters, cut to ``length`` (64 for LO)."""
    return re.sub(r"[\\\x00-\x1f\x7f]", " ", text)[:length].strip()
