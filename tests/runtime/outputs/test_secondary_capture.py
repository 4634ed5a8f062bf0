"""Pictures for viewers that cannot show a SEG: read back from their files, and never taken for CT again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from onfh_runtime.dicom import find_series
from onfh_runtime.outputs.secondary_capture import captures_from_mask
from onfh_runtime.result import Result

Mask = np.ndarray[Any, Any]
_ORIENTATIONS = {
    "axial": ["L", "P"],
    "coronal": ["L", "F"],
    "oblique": ["L", "FA"],
    "turned": ["RAH", "ALF"],
    "anisotropic": ["L", "P"],
    "feet first": ["R", "P"],
    "decubitus": ["P", "R"],
    "left-handed": ["L", "A"],
}


@pytest.fixture
def captures(
    bundle: Any, result_of: Callable[..., Result], study_of: Callable[..., Any], stored: Callable[[Dataset], Path]
) -> Callable[..., tuple[Any, list[Path]]]:
    def make(mask: Mask, plane: str = "axial", edit: Any = lambda header: None) -> tuple[Any, list[Path]]:
        images, volume = study_of(plane, edit)
        volume = replace(volume, voxels=np.full(mask.shape, 500, np.int16))
        made = captures_from_mask(mask, volume, images, result=result_of(), bundle=bundle)
        return (images, volume), [stored(item) for item in made]

    return make


def test_one_valid_picture_for_each_slice_with_a_mask(
    plane: str, mask: Mask, captures: Callable[..., Any], errors_of: Callable[..., Any]
) -> None:
    (images, volume), paths = captures(mask, plane)
    filled = [index for index in range(len(mask)) if mask[index].any()]
    read = [pydicom.dcmread(path) for path in paths]
    assert [capture.InstanceNumber for capture in read] == [index + 1 for index in filled]
    assert len({capture.SOPInstanceUID for capture in read}) == len(filled)
    assert len({capture.SeriesInstanceUID for capture in read}) == 1
    assert errors_of(paths[0]) == []
    for capture, index in zip(read, filled, strict=True):
        assert capture.SOPClassUID == SecondaryCaptureImageStorage
        (source,) = capture.SourceImageSequence
        assert source.ReferencedSOPInstanceUID == images[index].sop_instance_uid
        assert list(capture.PatientOrientation) == _ORIENTATIONS[plane]
        height, width = np.multiply(capture.PixelSpacing, (capture.Rows, capture.Columns))
        assert (height, width) == pytest.approx(np.multiply(volume.spacing_mm[1:], mask.shape[1:]))
        assert capture.pixel_array.shape == (capture.Rows, capture.Columns, 3)


def test_it_says_that_it_is_no_diagnosis_and_what_made_it(mask: Mask, captures: Callable[..., Any]) -> None:
    (images, _), paths = captures(mask)
    capture = pydicom.dcmread(paths[0])
    assert capture.DerivationDescription.startswith("Research use only, not for diagnosis.")
    for said in ("onfh-edge 0.1.0", "demo 1.2", "ab" * 32, "onnxruntime fp32"):
        assert said in capture.DerivationDescription
    assert capture.SeriesDescription == "ONFH outline, research use only"
    assert (capture.ImageType, capture.Modality) == (["DERIVED", "SECONDARY"], "OT")
    assert "BurnedInAnnotation" not in capture  # the source does not say
    assert capture.StudyInstanceUID == images[0].header.StudyInstanceUID
    assert capture.SeriesNumber == 9132
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber"):
        assert capture[keyword].value == images[0].header[keyword].value


def test_the_outline_is_the_edge_of_the_mask_and_nothing_else_is_touched(captures: Callable[..., Any]) -> None:
    mask = np.zeros((12, 24, 31), np.uint8)
    mask[6, 12:18, 6:12] = 1
    mask[6, 14:19, 20:24] = 2
    _, (path,) = captures(mask)
    factor = 13  # 31 columns become 403
    picture = pydicom.dcmread(path).pixel_array
    assert picture.shape == (24 * factor, 31 * factor, 3)
    below_the_note = picture[10 * factor :]
    for label, color in ((1, (230, 159, 0)), (2, (86, 180, 233))):
        large = np.kron(mask[6] == label, np.ones((factor, factor), bool))
        inner = large.copy()
        for axis in (0, 1):
            for by in (-1, 1):
                inner &= np.roll(large, by, axis)
        np.testing.assert_array_equal((below_the_note == color).all(-1), (large & ~inner)[10 * factor :])
    colored = np.ptp(below_the_note.astype(int), axis=2) > 0
    assert np.unique(below_the_note[~colored]).tolist() == [128]  # 500 HU, the middle of the window
    assert np.ptp(picture[: 10 * factor].astype(int), axis=2).any(), "a legend in colour"
    assert (picture[: 10 * factor] == 255).all(-1).any(), "the note in white"


def test_wide_slices_are_not_enlarged(result_of: Callable[..., Result], bundle: Any, study_of: Any) -> None:
    images, volume = study_of()
    mask = np.zeros((12, 20, 512), np.uint8)
    mask[3, 5, 100] = 1
    wide = replace(volume, voxels=np.zeros(mask.shape, np.int16))
    (capture,) = captures_from_mask(mask, wide, images, result=result_of(), bundle=bundle)
    assert (capture.Rows, capture.Columns) == (20, 512)


def test_an_empty_mask_gives_no_picture(mask: Mask, captures: Callable[..., Any]) -> None:
    _, paths = captures(np.zeros_like(mask))
    assert paths == []


def test_lossy_pixels_stay_marked_as_lossy(mask: Mask, captures: Callable[..., Any]) -> None:
    def lossy(header: Dataset) -> None:
        header.LossyImageCompression, header.LossyImageCompressionRatio = "01", "12"
        header.LossyImageCompressionMethod = "ISO_10918_1"

    _, paths = captures(mask, edit=lossy)
    assert pydicom.dcmread(paths[0]).LossyImageCompression == "01"


def test_it_is_never_taken_for_ct(mask: Mask, captures: Callable[..., Any]) -> None:
    _, paths = captures(mask)
    candidates, skipped = find_series(paths)
    assert candidates == []
    assert [(series.code, series.images) for series in skipped] == [("secondary_capture", len(paths))]
