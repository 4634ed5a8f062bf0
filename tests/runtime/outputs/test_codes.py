import pytest
from pydicom.sr.codedict import codes as dictionary
from pydicom.sr.coding import Code

from onfh_runtime.outputs import codes

_KNOWN = {
    "MORPHOLOGICALLY_ABNORMAL": dictionary.SCT.MorphologicallyAbnormalStructure,
    "NECROSIS": dictionary.SCT.Necrosis,
    "HEAD_OF_FEMUR": dictionary.SCT.HeadOfFemur,
    "PRESENT": dictionary.SCT.Present,
    "ABSENT": dictionary.SCT.Absent,
    "UNDETERMINED": dictionary.SCT.Undetermined,
    "STATUS": dictionary.DCM.SummaryOfAnalyses,
    "STATUS_SUCCEEDED": dictionary.cid6042.Succeeded,
    "STATUS_PARTIAL": dictionary.cid6042.PartiallySucceeded,
    "STATUS_FAILED": dictionary.cid6042.Failed,
    "STATUS_NOT_ATTEMPTED": dictionary.cid6042.NotAttempted,
    "PROBABILITY": dictionary.DCM.Probability,
    "THRESHOLD": dictionary.DCM.ThresholdValue,
    "VOLUME": dictionary.SCT.Volume,
    "NO_UNITS": dictionary.UCUM.NoUnits,
    "VOLUME_UNIT": dictionary.UCUM.CubicMillimeter,
    "REPORT": dictionary.DCM.ImagingMeasurementReport,
    "COMMENT": dictionary.DCM.Comment,
    "IMPRESSION": dictionary.DCM.ImpressionDescription,
    "ARTIFICIAL_INTELLIGENCE": dictionary.DCM.ArtificialIntelligence,
}


@pytest.mark.parametrize("name", _KNOWN)
def test_a_standard_code_is_the_one_of_the_dictionary(name: str) -> None:
    ours, theirs = getattr(codes, name), _KNOWN[name]
    assert (ours.value, ours.scheme_designator) == (theirs.value, theirs.scheme_designator)
    assert ours.meaning.lower() == theirs.meaning.lower()


def test_right_and_left_are_not_swapped() -> None:
    assert codes.LATERALITY["right"] == dictionary.SCT.Right
    assert codes.LATERALITY["left"] == dictionary.SCT.Left
    assert set(codes.LATERALITY) == {"right", "left"}


def test_no_state_without_an_answer_has_a_presence_code() -> None:
    assert codes.PRESENCE == {"positive": codes.PRESENT, "negative": codes.ABSENT, "undetermined": codes.UNDETERMINED}


def test_every_code_fits_its_attribute_and_every_name_is_exported() -> None:
    found = {name for name in vars(codes) if name.isupper()}
    assert found == set(codes.__all__)
    for name in found:
        value = getattr(codes, name)
        several = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
        for code in [value] if isinstance(value, Code) else several:
            if isinstance(code, Code):
                assert len(code.value) <= 16
                assert len(code.meaning) <= 64
