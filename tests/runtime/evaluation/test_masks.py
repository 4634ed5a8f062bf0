"""Every format against a mask of known place, and DICOM SEG against highdicom's own reading."""

from __future__ import annotations

import sys

import highdicom
import numpy as np
import pydicom
import pytest

from onfh_runtime.errors import MissingExtraError, UsageError
from onfh_runtime.evaluation.masks import read_mask
from onfh_runtime.outputs import codes

LPS = np.array([1.0, 1.0, 1.0])
RAS = np.array([-1.0, -1.0, 1.0])


def centroid(mask):
    """LPS mm, voxel by voxel and without the code under test."""
    index = np.argwhere(mask.voxels)
    return np.mean([mask.affine @ [*map(float, one), 1.0] for one in index], axis=0)[:3]


def refused(path):
    with pytest.raises(UsageError) as caught:
        read_mask(path)
    return caught.value.code


@pytest.fixture
def voxels():
    mask = np.zeros((4, 6, 8), np.uint8)
    mask[1:3, 2, 3:6] = 2
    return mask


def test_npz(tmp_path, voxels):
    affine = np.diag([3.0, 0.5, 0.7, 1.0])
    affine[:3, 3] = 10, 20, 30
    np.savez(tmp_path / "m.npz", mask=voxels, affine=affine)
    found = read_mask(tmp_path / "m.npz")
    assert np.array_equal(found.voxels, voxels > 0)
    assert np.array_equal(found.affine, affine)
    assert found.volume_mm3 == pytest.approx(6 * 3.0 * 0.5 * 0.7)


def test_nifti_leads_to_ras_and_comes_back_in_lps(tmp_path, voxels, peer):
    nibabel = peer("nibabel")
    ras = np.array([[0.0, -0.6, 0.3, 5.0], [0.8, 0.0, 0.0, -7.0], [0.0, 0.3, 1.9, 11.0], [0.0, 0.0, 0.0, 1.0]])
    image = nibabel.Nifti1Image(voxels, ras)
    nibabel.save(image, tmp_path / "m.nii.gz")
    found = read_mask(tmp_path / "m.nii.gz")
    assert found.voxels.shape == (8, 6, 4)  # the slowest axis of the file first
    places = np.argwhere(voxels)
    expected = nibabel.affines.apply_affine(ras, places).mean(axis=0) * RAS
    assert centroid(found) == pytest.approx(expected, abs=1e-4)


def test_nifti_without_a_place_or_with_probabilities_is_refused(tmp_path, voxels, peer):
    nibabel = peer("nibabel")
    image = nibabel.Nifti1Image(voxels, None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(image, tmp_path / "placeless.nii")
    assert refused(tmp_path / "placeless.nii") == "mask_without_geometry"
    nibabel.save(nibabel.Nifti1Image(voxels / 3.0, np.eye(4)), tmp_path / "soft.nii")
    assert refused(tmp_path / "soft.nii") == "mask_not_binary"
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32)[..., None], np.eye(4)), tmp_path / "float.nii")
    assert read_mask(tmp_path / "float.nii").voxels.sum() == 6


def test_nifti_without_nibabel_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "m.nii").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtraError, match="onfh-edge\\[evaluate\\]"):
        read_mask(tmp_path / "m.nii")


@pytest.mark.parametrize("name", ["m.npz", "m.dcm"])
def test_damaged_files_are_refused(tmp_path, name):
    assert refused(tmp_path / name) == "mask_not_found"
    (tmp_path / name).write_bytes(b"PK\x03\x04 no file at all")
    assert refused(tmp_path / name) == "mask_unreadable"


def test_a_damaged_nifti_is_refused(tmp_path, peer):
    peer("nibabel")
    (tmp_path / "m.nii").write_bytes(b"nothing")
    assert refused(tmp_path / "m.nii") == "mask_unreadable"


def test_npz_must_be_three_axes_with_a_place(tmp_path, voxels):
    np.savez(tmp_path / "flat.npz", mask=voxels[0], affine=np.eye(4))
    np.savez(tmp_path / "placeless.npz", mask=voxels, affine=np.zeros((4, 4)))
    np.savez(tmp_path / "other.npz", seg=voxels)
    assert refused(tmp_path / "flat.npz") == "mask_unreadable"
    assert refused(tmp_path / "placeless.npz") == "mask_without_geometry"
    assert refused(tmp_path / "other.npz") == "mask_unreadable"


@pytest.fixture(scope="module")
def series(phantom_study):
    def read(plane):
        images = [pydicom.dcmread(path) for path in sorted((phantom_study / plane).glob("*.dcm"))]
        axis = 2 if plane == "axial" else 1
        return sorted(images, key=lambda image: float(image.ImagePositionPatient[axis]))

    return read


def description(number, kind=codes.NECROSIS):
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"segment {number}",
        segmented_property_category=codes.MORPHOLOGICALLY_ABNORMAL,
        segmented_property_type=kind,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
    )


def write_seg(path, images, labels, kinds, how="BINARY", **more):
    seg = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=labels,
        segmentation_type=highdicom.seg.SegmentationTypeValues[how],
        segment_descriptions=[description(number, kind) for number, kind in enumerate(kinds, 1)],
        series_instance_uid="1.2.3",
        series_number=9,
        sop_instance_uid="1.2.3.4",
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="x",
        device_serial_number="x",
        **more,
    )
    seg.save_as(path)
    return path


def places(mask):
    """Every voxel's LPS position, rounded to 0.01 mm."""
    index = np.argwhere(mask.voxels)
    return {tuple(place) for place in np.round(index @ mask.affine[:3, :3].T + mask.affine[:3, 3], 2)}


def expected_places(images, labels, wanted):
    """The same from the headers of the images, image by image (PS3.3 C.7.6.2.1.1)."""
    found = set()
    for image, plane in zip(images, labels, strict=True):
        origin = np.array(image.ImagePositionPatient, float)
        cosines, spacing = np.array(image.ImageOrientationPatient, float), np.array(image.PixelSpacing, float)
        for row, column in np.argwhere(np.isin(plane, wanted)):
            place = origin + cosines[:3] * spacing[1] * column + cosines[3:] * spacing[0] * row
            found.add(tuple(np.round(place, 2)))
    return found


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_seg_puts_both_sides_where_the_images_are_with_a_gap_between(tmp_path, series, plane):
    images = series(plane)
    labels = np.zeros((len(images), images[0].Rows, images[0].Columns), np.uint8)
    labels[3, 10:14, 20:25] = 1
    labels[7:9, 30:33, 40:42] = 2
    path = write_seg(tmp_path / "seg.dcm", images, labels, [codes.NECROSIS, codes.NECROSIS])
    found = read_mask(path)
    assert found.voxels.shape[0] == 6
    assert places(found) == expected_places(images, labels, [1, 2])
    assert found.frame_of_reference == images[0].FrameOfReferenceUID
    whole = highdicom.seg.segread(path).get_volume(combine_segments=True, allow_missing_positions=True)
    index = np.argwhere(whole.array > 0)
    theirs = index @ whole.affine[:3, :3].T + whole.affine[:3, 3]
    assert {tuple(place) for place in np.round(theirs, 2)} == places(found)


def test_seg_of_several_structures_counts_necrosis_only(tmp_path, series):
    images = series("coronal")
    labels = np.zeros((len(images), images[0].Rows, images[0].Columns), np.uint8)
    labels[3, 10, 10], labels[3, 11, 11] = 1, 2
    both = write_seg(tmp_path / "both.dcm", images, labels, [codes.HEAD_OF_FEMUR, codes.NECROSIS])
    assert places(read_mask(both)) == expected_places(images, labels, [2])
    neither = write_seg(tmp_path / "neither.dcm", images, labels, [codes.HEAD_OF_FEMUR, codes.HEAD_OF_FEMUR])
    assert refused(neither) == "mask_ambiguous"
    labels[labels == 2] = 1
    one = write_seg(tmp_path / "one.dcm", images, labels, [codes.HEAD_OF_FEMUR])
    assert len(places(read_mask(one))) == 2


def test_seg_with_fractions_counts_from_one_half(tmp_path, series):
    images = series("coronal")
    values = np.zeros((len(images), images[0].Rows, images[0].Columns), np.float32)
    values[4, 5, 5], values[4, 6, 6], values[5, 7, 7] = 0.4, 0.6, 1.0
    path = write_seg(tmp_path / "f.dcm", images, values, [codes.NECROSIS], "FRACTIONAL")
    assert places(read_mask(path)) == expected_places(images, values >= 0.5, [True])


def test_seg_as_a_label_map(tmp_path, series):
    images = series("coronal")
    labels = np.zeros((len(images), images[0].Rows, images[0].Columns), np.uint8)
    labels[3, 10:14, 20:25], labels[5, 1, 1] = 1, 2
    path = write_seg(tmp_path / "l.dcm", images, labels, [codes.NECROSIS, codes.HEAD_OF_FEMUR], "LABELMAP")
    assert places(read_mask(path)) == expected_places(images, labels, [1])


def test_a_picture_is_no_seg(tmp_path, phantom_study):
    assert refused(next((phantom_study / "coronal").glob("*.dcm"))) == "mask_unreadable"
