from __future__ import annotations

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from onfh_runtime.dicom.elements import DamagedError
from onfh_runtime.listen.identity import Identity, identity_in, is_uid

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
WHO = Identity("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4", "1.2.3", "1.2.3.5")


def data_set(syntax: str = EXPLICIT, **changes: object) -> bytes:
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (
        WHO.sop_class,
        WHO.sop_uid,
        WHO.study_uid,
        WHO.series_uid,
    )
    nested = pydicom.Dataset()
    nested.ReferencedSOPInstanceUID = "9.9.9"
    nested.StudyInstanceUID = "9.9.8"
    ds.ReferencedImageSequence = Sequence([nested])
    ds.InstanceNumber = 4
    ds.Rows = 2
    for keyword, value in changes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax != BIG, syntax == IMPLICIT
    write_dataset(buffer, ds)
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_the_object_says_who_it_is(syntax):
    assert identity_in(data_set(syntax), syntax, whole=True) == WHO
    assert identity_in(data_set(syntax), syntax, whole=False) == WHO


def test_the_encoding_is_that_of_the_bytes():
    assert identity_in(data_set(IMPLICIT), RLE, whole=True) == WHO


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_a_part_says_who_it_is_or_that_more_is_needed(syntax):
    data = data_set(syntax)
    found = [identity_in(data[:size], syntax, whole=False) for size in range(len(data) + 1)]
    first = found.index(WHO)
    assert found == [None] * first + [WHO] * (len(found) - first)
    assert first < len(data)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"SOPClassUID": None}, "sop_class"),
        ({"SOPInstanceUID": None}, "sop_uid"),
        ({"StudyInstanceUID": None}, "study_uid"),
        ({"SeriesInstanceUID": None}, "series_uid"),
    ],
)
def test_what_is_missing_or_no_uid_is_empty(changes, missing):
    found = identity_in(data_set(**changes), EXPLICIT, whole=True)
    assert {name for name, value in vars(found).items() if not value} == {missing}
    damaged = data_set().replace(getattr(WHO, missing).encode().ljust(8, b"\0"), b"../../ab", 1)
    found = identity_in(damaged, EXPLICIT, whole=True)
    assert all(is_uid(value) or not value for value in vars(found).values())


def test_an_object_that_ends_before_its_series_is_whole():
    ds = data_set(Rows=None, InstanceNumber=None)
    assert identity_in(ds, EXPLICIT, whole=True) == WHO
    assert identity_in(ds, EXPLICIT, whole=False) is None


@given(st.binary(max_size=80), st.sampled_from([IMPLICIT, EXPLICIT, BIG]))
def test_any_bytes_are_read_or_damaged(data, syntax):
    identity_in(data, syntax, whole=False)
    try:
        found = identity_in(data, syntax, whole=True)
    except DamagedError:
        return
    assert all(is_uid(value) or not value for value in vars(found).values())


@pytest.mark.parametrize("text", ["1", "1.2.840", "0.01", "1" * 64])
def test_uids(text):
    assert is_uid(text)


@pytest.mark.parametrize("text", ["", ".", "1.", ".1", "1..2", "1.a", "1 ", "1\n", "1/2", "..", "1" * 65, "\u0661"])
def test_what_is_no_uid(text):
    assert not is_uid(text)
