from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from onfh_runtime.outputs.seg import seg_from_mask
from onfh_runtime.result import Result

Mask = np.ndarray[Any, Any]


@pytest.fixture
def make(result_of: Callable[..., Result], bundle: Any, stored: Callable[[Dataset], Path]) -> Callable[..., Path]:
    def write(mask: Mask, study: Any, **changes: Any) -> Path:
        images, volume = study
        return stored(seg_from_mask(mask, volume, images, result=result_of(**changes), bundle=bundle))

    return write


def _frames(path: Path) -> dict[tuple[str, int | None, int], Mask]:
    """{(source object, source frame, segment): pixels}, by pydicom alone."""
    seg = pydicom.dcmread(path)
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    found = {}
    for frame, group in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        identification = group if "SegmentIdentificationSequence" in group else shared
        number = int(identification.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        found[str(source.ReferencedSOPInstanceUID), source.get("ReferencedFrameNumber"), number] = frame
    return found


def test_every_frame_is_the_mask_of_its_source_image_at_its_place(
    plane: str, study_of: Callable[..., Any], mask: Mask, make: Callable[..., Path], errors_of: Callable[..., Any]
) -> None:
    images, volume = study_of(plane)
    path = make(mask, (images, volume))
    assert errors_of(path) == []
    expected = {
        (image.sop_instance_uid, None, label): mask[index] == label
        for index, image in enumerate(images)
        for label in (1, 2)
        if (mask[index] == label).any()
    }
    frames = _frames(path)
    assert frames.keys() == expected.keys()
    for key, pixels in frames.items():
        np.testing.assert_array_equal(pixels, expected[key])

    seg = highdicom.seg.segread(path)
    uids = [image.sop_instance_uid for image in images]
    by_source = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(by_source, mask)
    back = seg.get_volume(combine_segments=True).match_geometry(
        highdicom.VolumeGeometry(volume.affine, mask.shape, "PATIENT", images[0].header.FrameOfReferenceUID)
    )
    np.testing.assert_array_equal(back.array, mask)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-5)
    for group in seg.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        header = images[uids.index(source)].header
        assert group.PlanePositionSequence[0].ImagePositionPatient == header.ImagePositionPatient


def test_slices_of_a_tilted_gantry_stay_where_they_are(
    study_of: Callable[..., Any], mask: Mask, make: Callable[..., Path], errors_of: Callable[..., Any]
) -> None:
    shift = np.array([0.0, 0.4, 1.5])

    def edit(header: Dataset) -> None:
        index = int(header.SOPInstanceUID.rpartition(".")[2]) - 1
        header.ImagePositionPatient = [f"{value:.10g}" for value in np.array([-100, -90, -300]) + index * shift]

    images, volume = study_of(edit=edit)
    affine = volume.affine.copy()
    affine[:3, 0] = shift
    path = make(mask, (images, replace(volume, affine=affine)))
    assert errors_of(path) == []
    seg = pydicom.dcmread(path)
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices == 1.5
    places = {image.sop_instance_uid: image.header.ImagePositionPatient for image in images}
    for group in seg.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert group.PlanePositionSequence[0].ImagePositionPatient == places[source]
    assert {key[0]: frame.any() for key, frame in _frames(path).items()}.keys() == {
        image.sop_instance_uid for index, image in enumerate(images) if mask[index].any()
    }


def test_frames_of_one_object_are_referred_to_by_number(
    study_of: Callable[..., Any], mask: Mask, make: Callable[..., Path], errors_of: Callable[..., Any]
) -> None:
    def edit(header: Dataset) -> None:
        header.SOPClassUID = EnhancedCTImageStorage

    images, volume = study_of(edit=edit)
    uid = images[0].sop_instance_uid
    for image in images:
        image.header.SOPInstanceUID = uid
    frames = tuple(replace(image, frame=number) for number, image in enumerate(images, 1))
    path = make(mask, (frames, volume))
    assert errors_of(path) == []
    for (source, number, label), pixels in _frames(path).items():
        assert source == uid
        np.testing.assert_array_equal(pixels, mask[number - 1] == label)
    seg = pydicom.dcmread(path)
    (listed,) = seg.SourceImageSequence
    assert listed.ReferencedFrameNumber == [4, 5, 6, 7, 8, 9]
    (named,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert (named.ReferencedSOPInstanceUID, named.ReferencedSOPClassUID) == (uid, EnhancedCTImageStorage)
    assert "ReferencedFrameNumber" not in named


def test_a_segment_says_what_where_on_which_side_and_by_whom(
    study_of: Callable[..., Any], mask: Mask, make: Callable[..., Path]
) -> None:
    seg = highdicom.seg.segread(make(mask, study_of()))
    assert (seg.SegmentationType, seg.Modality, seg.SeriesNumber) == ("BINARY", "SEG", 9130)
    assert "research use only" in seg.SeriesDescription
    sides = []
    for number in seg.segment_numbers:
        segment = seg.get_segment_description(number)
        assert segment.segmented_property_category.value == "49755003"
        assert segment.segmented_property_type.value == "6574001"
        assert segment.algorithm_type.value == "AUTOMATIC"
        assert segment.algorithm_identification[0].AlgorithmVersion == "0.1.0"
        assert f"bundle_sha256={'ab' * 32}" in segment.algorithm_identification[0].AlgorithmParameters
        (region,) = segment.anatomic_regions
        assert region.value == "2812003"
        sides.append(region.AnatomicRegionModifierSequence[0].CodeValue)
    assert sides == ["24028007", "7771000"]
    assert seg.get_segment_description(1).tracking_uid != seg.get_segment_description(2).tracking_uid


@pytest.mark.parametrize(("label", "modifier"), [(1, "24028007"), (2, "7771000"), (3, None)])
def test_one_lesion_gives_one_segment(
    label: int,
    modifier: str | None,
    study_of: Callable[..., Any],
    mask: Mask,
    make: Callable[..., Path],
    errors_of: Callable[..., Any],
) -> None:
    one = np.where(mask == 1, np.uint8(label), np.uint8(0))
    images, volume = study_of()
    path = make(one, (images, volume))
    assert errors_of(path) == []
    seg = highdicom.seg.segread(path)
    assert list(seg.segment_numbers) == [1]
    region = seg.get_segment_description(1).anatomic_regions[0]
    assert ("AnatomicRegionModifierSequence" in region) == (modifier is not None)
    if modifier:
        assert region.AnatomicRegionModifierSequence[0].CodeValue == modifier
    for (uid, _, _), pixels in _frames(path).items():
        index = [image.sop_instance_uid for image in images].index(uid)
        np.testing.assert_array_equal(pixels, one[index] == label)
    assert seg.number_of_frames == 4


def test_a_lesion_on_a_single_slice(
    study_of: Callable[..., Any], mask: Mask, make: Callable[..., Path], errors_of: Callable[..., Any]
) -> None:
    one = np.zeros_like(mask)
    one[-1, -1, -1] = 2
    path = make(one, study_of())
    assert errors_of(path) == []
    ((key, pixels),) = _frames(path).items()
    assert key[0].endswith(".12")
    np.testing.assert_array_equal(pixels, one[-1] != 0)


def test_the_same_content_gives_the_same_bytes_and_anything_else_another_uid(
    study_of: Callable[..., Any], mask: Mask, make: Callable[..., Path]
) -> None:
    first = make(mask, study_of())
    assert first.read_bytes() == make(mask, study_of()).read_bytes()
    other = mask.copy()
    other[4, 6, 3] = 0 if other[4, 6, 3] else 1
    again = pydicom.dcmread(make(other, study_of()))
    seg = pydicom.dcmread(first)
    assert again.SOPInstanceUID != seg.SOPInstanceUID
    assert again.SeriesInstanceUID != seg.SeriesInstanceUID
    later = pydicom.dcmread(make(mask, study_of(), created="2026-11-24T00:00:00Z"))
    assert later.SOPInstanceUID == seg.SOPInstanceUID
    assert later.ContentDate != seg.ContentDate


def test_an_empty_mask_gives_no_object(study_of: Callable[..., Any], mask: Mask, make: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="empty"):
        make(np.zeros_like(mask), study_of())


@pytest.mark.parametrize("case", ["shape", "label", "other images", "too few images"])
def test_what_does_not_belong_together_is_refused(
    case: str, study_of: Callable[..., Any], mask: Mask, make: Callable[..., Path]
) -> None:
    images, volume = study_of()
    if case == "shape":
        mask = mask[1:]
    elif case == "label":
        mask[0, 0, 0] = 4
    elif case == "too few images":
        images = images[:5]
    else:
        moved = volume.affine.copy()
        moved[:3, 3] += moved[:3, 0]
        volume = replace(volume, affine=moved)
    with pytest.raises(ValueError, match=r"mask|images"):
        make(mask, (images, volume))


def test_lossy_pixels_stay_marked_as_lossy(study_of: Callable[..., Any], mask: Mask, make: Callable[..., Path]) -> None:
    def lossy(header: Dataset) -> None:
        header.LossyImageCompression, header.LossyImageCompressionRatio = "01", "12"
        header.LossyImageCompressionMethod = "ISO_10918_1"

    seg = pydicom.dcmread(make(mask, study_of(edit=lossy)))
    assert (seg.LossyImageCompression, seg.LossyImageCompressionRatio) == ("01", 12)
