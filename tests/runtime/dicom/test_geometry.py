from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from onfh_runtime.dicom.geometry import (
    from_axis_deg,
    obliquity_deg,
    order_along_normal,
    orientation_of,
    positions_of,
    series_affine,
    spacings_of,
    tilt_deg,
)
from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.errors import SeriesError

AXIAL = (1, 0, 0, 0, 1, 0)
CORONAL = (1, 0, 0, 0, 0, -1)


def images(iop, positions, spacing=(0.75, 0.5)):
    result = []
    for index, position in enumerate(positions):
        ds = Dataset()
        ds.ImagePositionPatient = [float(x) for x in position]
        ds.ImageOrientationPatient = [float(x) for x in iop]
        ds.PixelSpacing = list(spacing)
        ds.InstanceNumber = 50 - index
        result.append(SourceImage(Path(f"{index}.dcm"), ds))
    return result


def rotated(degrees: float) -> tuple[float, ...]:
    """An axial plane turned about x."""
    angle = np.radians(degrees)
    return (1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle)))


@pytest.mark.parametrize(
    ("iop", "plane"),
    [
        (AXIAL, "axial"),
        (CORONAL, "coronal"),
        ((0, 1, 0, 0, 0, -1), "sagittal"),
        ((-1, 0, 0, 0, 1, 0), "axial"),
        ((0, 1, 0, -1, 0, 0), "axial"),
        (rotated(29), "axial"),
        (rotated(31), "oblique"),
        (rotated(59), "oblique"),
        (rotated(61), "coronal"),
    ],
)
def test_planes_are_named_by_their_normal(iop, plane):
    assert orientation_of(iop) == plane


def test_obliquity_is_measured_to_the_nearest_axis():
    assert obliquity_deg(rotated(20)) == pytest.approx(20)
    assert obliquity_deg(rotated(75)) == pytest.approx(15)


def test_the_angle_to_an_axis_knows_no_direction():
    assert from_axis_deg(np.array([0, 0, -3.0])) == pytest.approx(0)
    assert from_axis_deg(np.array([0, 1.0, -1.0])) == pytest.approx(45)


def test_images_are_ordered_by_position():
    found, along = order_along_normal(images(AXIAL, [(0, 0, 5), (0, 0, -5), (0, 0, 0)]))
    assert [image.path.name for image in found] == ["1.dcm", "2.dcm", "0.dcm"]
    assert along.tolist() == [-5, 0, 5]


def test_a_mirrored_plane_runs_the_other_way():
    found, _ = order_along_normal(images((-1, 0, 0, 0, 1, 0), [(0, 0, 5), (0, 0, -5)]))
    assert [image.path.name for image in found] == ["0.dcm", "1.dcm"]


def test_the_axial_affine_puts_row_spacing_along_rows_index():
    affine = series_affine(images(AXIAL, [(-10, -20, 30), (-10, -20, 32), (-10, -20, 34)]))
    # voxel (2, 3, 4): two slices up, three rows of 0.75 mm to the back, four columns of 0.5 mm to the left
    assert affine @ [2, 3, 4, 1] == pytest.approx([-10 + 4 * 0.5, -20 + 3 * 0.75, 34, 1])
    # the outer edge of the first voxel lies half a voxel before its centre
    assert affine @ [-0.5, -0.5, -0.5, 1] == pytest.approx([-10.25, -20.375, 29, 1])


def test_the_coronal_affine_runs_rows_to_the_feet():
    affine = series_affine(images(CORONAL, [(-10, -20, 30), (-10, -17, 30)]))
    assert affine @ [1, 2, 4, 1] == pytest.approx([-8, -17, 28.5, 1])


def test_tilt_comes_from_positions():
    angle, across = tilt_deg(images(AXIAL, [(0, 0, 0), (0, 1, 10)]))
    assert angle == pytest.approx(np.degrees(np.arctan(0.1)))
    assert across == pytest.approx(1)


def test_a_missing_position_is_counted():
    found = images(AXIAL, [(0, 0, 0), (0, 0, 1)])
    del found[1].header.ImagePositionPatient
    with pytest.raises(SeriesError, match="1 of 2 images") as error:
        positions_of(found)
    assert error.value.code == "missing_position"


def test_spacing_must_be_positive():
    with pytest.raises(SeriesError) as error:
        spacings_of(images(AXIAL, [(0, 0, 0)], spacing=(0.5, 0.0)))
    assert error.value.code == "missing_attribute"


def test_one_image_has_no_affine():
    with pytest.raises(SeriesError) as error:
        series_affine(images(AXIAL, [(0, 0, 0)]))
    assert error.value.code == "too_few_slices"
