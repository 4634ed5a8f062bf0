"""Coded concepts of the SEG and the SR (PS3.16), and the few of our own that DICOM has no code for."""

from __future__ import annotations

from pydicom.sr.coding import Code

__all__ = [
    "ABSENT",
    "ARTIFICIAL_INTELLIGENCE",
    "CENTROID",
    "COMMENT",
    "COMPUTED_TOMOGRAPHY",
    "EVALUATIONS",
    "HEAD_OF_FEMUR",
    "IMPRESSION",
    "LATERALITY",
    "MILLIMETER",
    "MORPHOLOGICALLY_ABNORMAL",
    "NECROSIS",
    "NO_UNITS",
    "OSTEONECROSIS",
    "PRESENCE",
    "PRESENT",
    "PRIVATE_SCHEME",
    "PROBABILITY",
    "REASON",
    "REPORT",
    "SLICES_UNIT",
    "SLICE_COUNT",
    "STATUS",
    "STATUS_FAILED",
    "STATUS_NOT_ATTEMPTED",
    "STATUS_PARTIAL",
    "STATUS_SUCCEEDED",
    "THRESHOLD",
    "UNDETERMINED",
    "VOLUME",
    "VOLUME_UNIT",
]

PRIVATE_SCHEME = "99ONFHEDGE"
"""Coding scheme designator of our own concepts; PS3.16 section 8.2 reserves names that begin with 99 for this."""

# what and where
MORPHOLOGICALLY_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
NECROSIS = Code("6574001", "SCT", "Necrosis")
OSTEONECROSIS = Code("398199007", "SCT", "Osteonecrosis")
HEAD_OF_FEMUR = Code("2812003", "SCT", "Head of Femur")
LATERALITY = {"right": Code("24028007", "SCT", "Right"), "left": Code("7771000", "SCT", "Left")}

# answers
PRESENT = Code("52101004", "SCT", "Present")
ABSENT = Code("272519000", "SCT", "Absent")
UNDETERMINED = Code("373068000", "SCT", "Undetermined")
PRESENCE = {"positive": PRESENT, "negative": ABSENT, "undetermined": UNDETERMINED}
"""State of a patient or a side -> the value of the qualitative evaluation; "not_analysed" has none on purpose."""

# CID 6042 Status of Results
STATUS = Code("111065", "DCM", "Summary of Analyses")
STATUS_SUCCEEDED = Code("111222", "DCM", "Succeeded")
STATUS_PARTIAL = Code("111223", "DCM", "Partially Succeeded")
STATUS_FAILED = Code("111224", "DCM", "Failed")
STATUS_NOT_ATTEMPTED = Code("111225", "DCM", "Not Attempted")

# measurements
PROBABILITY = Code("122157", "DCM", "Probability")
THRESHOLD = Code("122411", "DCM", "Threshold Value")
VOLUME = Code("118565006", "SCT", "Volume")
SLICE_COUNT = Code("SLICES", PRIVATE_SCHEME, "Number of coronal slices with lesion")
CENTROID = tuple(
    Code(f"CENTROID_{axis.upper()}", PRIVATE_SCHEME, f"Centroid, patient coordinate {axis} (LPS)") for axis in "xyz"
)
NO_UNITS = Code("1", "UCUM", "no units")
VOLUME_UNIT = Code("mm3", "UCUM", "cubic millimeter")
MILLIMETER = Code("mm", "UCUM", "millimeter")
SLICES_UNIT = Code("{slices}", "UCUM", "slices")

# document
REPORT = Code("126000", "DCM", "Imaging Measurement Report")
EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
COMMENT = Code("121106", "DCM", "Comment")
IMPRESSION = Code("111033", "DCM", "Impression Description")
REASON = Code("REASON", PRIVATE_SCHEME, "Reason for having no answer")
COMPUTED_TOMOGRAPHY = Code("77477000", "SCT", "Computed Tomography")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
