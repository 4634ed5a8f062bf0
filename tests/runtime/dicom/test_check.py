from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, JPEGLSNearLossless

from onfh_runtime.dicom.check import MAX_SIDE, check_candidate
from onfh_runtime.errors import SeriesError


def refusal(written) -> SeriesError:
    with pytest.raises(SeriesError) as error:
        check_candidate(written.candidate())
    found = error.value
    assert "Secret" not in str(found)
    assert "SECRET" not in str(found)
    assert found.text.endswith(".")
    return found


def only(number, change):
    """Apply ``change`` to one image."""

    def edit(index, ds):
        if index == number:
            change(ds)

    return edit


def every(change):
    return lambda index, ds: change(ds)


def put(**attributes):
    def change(ds):
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)

    return change


def drop(keyword):
    return lambda ds: delattr(ds, keyword)


def move(axis, millimetres):
    def change(ds):
        position = [float(x) for x in ds.ImagePositionPatient]
        position[axis] += millimetres
        ds.ImagePositionPatient = [round(x, 4) for x in position]

    return change


CASES = {
    "one image without position": (only(2, drop("ImagePositionPatient")), "missing_position"),
    "no image with position": (every(drop("ImagePositionPatient")), "missing_position"),
    "one image without orientation": (only(2, drop("ImageOrientationPatient")), "missing_position"),
    "one image turned": (only(2, put(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])), "mixed_orientation"),
    "cosines of length two": (every(put(ImageOrientationPatient=[2, 0, 0, 0, 1, 0])), "unsupported_orientation"),
    "sagittal": (every(put(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])), "unsupported_orientation"),
    "one pixel spacing": (only(3, put(PixelSpacing=[0.75, 0.51])), "mixed_spacing"),
    "no pixel spacing": (every(drop("PixelSpacing")), "missing_attribute"),
    "one size": (only(1, put(Rows=8, Columns=6)), "mixed_size"),
    "giant": (every(put(Rows=65535, Columns=65535)), "size_limit"),
    "duplicate position": (only(2, move(2, -2.5)), "duplicate_position"),
    "variable spacing": (only(2, move(2, 0.4)), "variable_spacing"),
    "one slice sideways": (only(2, move(0, 5.0)), "shifted_slice"),
    "sheared sideways": (lambda index, ds: move(0, index * 0.5)(ds), "gantry_tilt"),
    "sheared by 39 degrees": (lambda index, ds: move(1, index * 2.0)(ds), "gantry_tilt"),
    "iodine map": (every(put(ImageType=["DERIVED", "PRIMARY", "AXIAL", "CT_SOM7 IODINE"])), "not_hounsfield"),
    "electron density": (every(put(ImageType=["DERIVED", "PRIMARY", "AXIAL", "ELECTRON_DENSITY"])), "not_hounsfield"),
    "maximum projection": (every(put(ImageType=["DERIVED", "SECONDARY", "MIP"])), "not_hounsfield"),
    "milligrams": (every(put(RescaleType="MGML")), "not_hounsfield"),
    "slope of zero": (only(0, put(RescaleSlope=0)), "not_hounsfield"),
    "a table instead of a slope": (every(put(ModalityLUTSequence=[Dataset()])), "not_hounsfield"),
    "two padding values": (lambda index, ds: ds.add_new("PixelPaddingValue", "SS", -2000 - index), "mixed_pixels"),
    "no slope": (only(4, drop("RescaleSlope")), "missing_attribute"),
    "no rows": (only(4, drop("Rows")), "missing_attribute"),
    "eight bits": (every(put(BitsAllocated=8, BitsStored=8, HighBit=7)), "unsupported_pixels"),
    "inverted": (every(put(PhotometricInterpretation="MONOCHROME1")), "unsupported_pixels"),
    "bits at the top": (every(put(BitsStored=12, HighBit=15)), "unsupported_pixels"),
    "mixed signedness": (only(1, put(PixelRepresentation=0)), "mixed_pixels"),
    "enhanced": (every(put(SOPClassUID=EnhancedCTImageStorage)), "multiframe"),
    "several frames": (every(put(NumberOfFrames=2)), "multiframe"),
    "two patients": (only(1, put(PatientID="SECRET-OTHER")), "mixed_patient"),
    "one UID for all": (every(put(SOPInstanceUID="1.2.3")), "duplicate_uid"),
}


@pytest.mark.parametrize(("edit", "code"), CASES.values(), ids=CASES.keys())
def test_a_series_that_could_be_silently_wrong_is_refused_by_name(write_ct, edit, code):
    assert refusal(write_ct(edit)).code == code


def test_a_sound_series_has_no_warning(write_ct):
    assert check_candidate(write_ct().candidate()) == ()


def test_a_hole_is_named_with_its_place_and_the_spacing(write_ct):
    written = write_ct(count=6, step=3.0)
    written.paths[2].unlink()
    found = refusal(written)
    assert found.code == "missing_slice"
    assert found.text == (
        "Between slices at 36.0 mm and 42.0 mm one or more slices are missing (spacing is 3.0 mm elsewhere)."
    )


def test_two_images_are_too_few(write_ct):
    assert refusal(write_ct(count=2)).code == "too_few_slices"


def test_a_size_of_the_limit_passes(write_ct):
    assert check_candidate(write_ct(count=3, shape=(1, MAX_SIDE)).candidate()) == ()


@pytest.mark.parametrize(("limit", "value"), [("MAX_SLICES", 4), ("MAX_VOXELS", 5 * 6 * 8 - 1)])
def test_too_many_slices_or_voxels_are_refused(write_ct, monkeypatch, limit, value):
    monkeypatch.setattr(f"onfh_runtime.dicom.check.{limit}", value)
    assert refusal(write_ct()).code == "size_limit"


def test_a_lossy_transfer_syntax_is_a_warning_whatever_the_header_says(write_ct):
    pytest.importorskip("jpeg_ls")
    candidate = write_ct().candidate()
    for image in candidate.images:
        image.header.file_meta.TransferSyntaxUID = JPEGLSNearLossless
    assert [code for code, _ in check_candidate(candidate)] == ["lossy_compression"]


def test_positions_rounded_to_a_tenth_are_even(write_ct):
    def edit(index, ds):
        ds.ImagePositionPatient = [round(float(x), 1) for x in ds.ImagePositionPatient]

    assert check_candidate(write_ct(edit, count=12, step=0.625).candidate()) == ()


def test_an_undecodable_transfer_syntax_is_named(write_ct):
    written = write_ct()
    candidate = written.candidate()
    for image in candidate.images:
        image.header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
    with pytest.raises(SeriesError, match="MPEG2") as error:
        check_candidate(candidate)
    assert error.value.code == "unsupported_transfer_syntax"


def _oblique(index: int, ds: Dataset) -> None:
    angle = np.radians(10)
    iop = [1, 0, 0, 0, np.cos(angle), np.sin(angle)]
    ds.ImageOrientationPatient = [round(float(x), 6) for x in iop]
    ds.ImagePositionPatient = [round(float(x), 4) for x in index * 2.5 * np.cross(iop[:3], iop[3:])]


def test_an_oblique_stack_is_a_warning_with_its_angle(write_ct):
    ((code, text),) = check_candidate(write_ct(_oblique).candidate())
    assert code == "oblique"
    assert "10.0 degrees" in text


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (only(1, put(FrameOfReferenceUID="1.2.3")), "mixed_frame_of_reference"),
        (every(drop("FrameOfReferenceUID")), "missing_frame_of_reference"),
        (only(1, put(LossyImageCompression="01")), "lossy_compression"),
        (every(lambda ds: ds.add_new("PixelPaddingValue", "SS", 1024)), "padding_in_tissue_range"),
    ],
)
def test_what_a_reader_must_know_is_a_warning(write_ct, edit, code):
    assert [found for found, _ in check_candidate(write_ct(edit).candidate())] == [code]


def test_an_empty_sop_class_is_taken_as_ct_with_a_warning(write_ct):
    candidate = write_ct().candidate()
    for image in candidate.images:
        image.header.SOPClassUID = ""
    assert [code for code, _ in check_candidate(candidate)] == ["missing_sop_class"]
