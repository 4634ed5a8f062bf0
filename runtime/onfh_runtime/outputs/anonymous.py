"""Outputs without the patient: what the source says of a person never reaches what is written."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from pydicom.dataset import Dataset

from onfh_runtime.analysis import Analysis
from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.outputs.source import ADOPTED

__all__ = ["anonymised", "pseudonym"]

_METHOD = (
    "Patient and study attributes of the source are not copied",
    "UIDs of the source are kept so that references stay exact",
    "Dates and times are those of the analysis",
)
"""Deidentification Method (0012,0063): free text, because no code says exactly this."""


def anonymised(analysis: Analysis) -> Analysis:
    """The analysis with source headers that say nothing of the patient beyond UIDs and geometry.

    Every attribute that an output copies from its source goes; Patient's Name and Patient ID become the study's
    pseudonym. The headers that were read stay as they are.
    """
    name = pseudonym(analysis.candidate.study_instance_uid)
    candidate = replace(
        analysis.candidate, description="", images=tuple(_stripped(image, name) for image in analysis.candidate.images)
    )
    images = analysis.images
    if images is not None:
        images = replace(images, sources=tuple(_stripped(image, name) for image in images.sources))
    return replace(analysis, candidate=candidate, images=images)


def pseudonym(study_instance_uid: str) -> str:
    """What stands for the patient of a study: the same on every run.

    Made of the Study Instance UID, which the outputs hold anyway. A digest of the Patient ID would tie several studies
    of one patient together, and could be undone by trying every ID.
    """
    return "ANON-" + hashlib.sha256(study_instance_uid.encode()).hexdigest()[:12].upper()


def _stripped(image: SourceImage, name: str) -> SourceImage:
    header = Dataset({tag: image.header.get_item(tag) for tag in image.header.keys()})  # noqa: SIM118
    for keyword in (*ADOPTED, "SpecificCharacterSet"):
        if keyword in header:
            delattr(header, keyword)
    header.PatientName = header.PatientID = name
    header.PatientIdentityRemoved, header.DeidentificationMethod = "YES", list(_METHOD)
    return replace(image, header=header)
