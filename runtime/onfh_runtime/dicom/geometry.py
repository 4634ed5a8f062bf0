"""Where the images of a series are, from Image Position and Image Orientation (Patient) alone.

Instance Number, Slice Thickness, Patient Position and Gantry/Detector Tilt are never consulted: each is known to
contradict the positions. Coordinates are LPS in mm, array axes (slice, row, column).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.dicom.header import decimals
from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.errors import SeriesError

__all__ = [
    "MAX_OBLIQUITY_DEG",
    "MIN_OBLIQUITY_DEG",
    "UNIT_TOLERANCE",
    "from_axis_deg",
    "obliquity_deg",
    "order_along_normal",
    "orientation_of",
    "orientations_of",
    "positions_of",
    "series_affine",
    "slice_normal",
    "spacings_of",
    "tilt_deg",
]

UNIT_TOLERANCE = 2e-3
"""Direction cosines written with three decimals are off by this much; over a 400 mm field that is 0.8 mm at most."""

MIN_OBLIQUITY_DEG = 1.0
"""Below this the plane is what it is called: a reader would not see the difference."""

MAX_OBLIQUITY_DEG = 30.0
"""Beyond this a slice shows too much of the next plane to be called by one name."""

_IMAGE_POSITION = 0x00200032
_IMAGE_ORIENTATION = 0x00200037
_PIXEL_SPACING = 0x00280030
_PLANES = ("sagittal", "coronal", "axial")
_FIX_POSITION = "Send the original series from the scanner or the PACS."


def positions_of(images: Sequence[SourceImage]) -> NDArray[np.float64]:
    """Image Position (Patient) of each image, (images, 3) float64, LPS mm, centre of the first pixel.

    Raises:
        SeriesError: ``missing_position``.
    """
    return _table(images, _IMAGE_POSITION, 3, "missing_position", "Image Position (Patient)")


def orientations_of(images: Sequence[SourceImage]) -> NDArray[np.float64]:
    """Image Orientation (Patient) of each image, (images, 6) float64: along a row, then along a column.

    Raises:
        SeriesError: ``missing_position`` or ``unsupported_orientation`` (not two perpendicular unit vectors).
    """
    iop = _table(images, _IMAGE_ORIENTATION, 6, "missing_position", "Image Orientation (Patient)")
    row, column = iop[:, :3], iop[:, 3:]
    length = np.linalg.norm(iop.reshape(-1, 2, 3), axis=2)
    bad = (np.abs(length - 1).max(axis=1) > UNIT_TOLERANCE) | (np.abs((row * column).sum(axis=1)) > UNIT_TOLERANCE)
    if bad.any():
        raise SeriesError(
            "unsupported_orientation",
            f"The Image Orientation of {images[int(bad.argmax())].label} is not two perpendicular unit vectors.",
            _FIX_POSITION,
        )
    return iop


def spacings_of(images: Sequence[SourceImage]) -> NDArray[np.float64]:
    """Pixel Spacing of each image, (images, 2) float64 mm: between rows, then between columns.

    Raises:
        SeriesError: ``missing_attribute`` (absent, zero or negative).
    """
    spacing = _table(images, _PIXEL_SPACING, 2, "missing_attribute", "Pixel Spacing")
    if spacing.min() <= 0:
        name = images[int(spacing.min(axis=1).argmin())].label
        raise SeriesError("missing_attribute", f"The Pixel Spacing of {name} is not positive.", _FIX_POSITION)
    return spacing


def slice_normal(iop: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit normal of a slice, (3,) float64: row direction x column direction (PS3.3, C.7.6.2.1.1)."""
    cosines = np.asarray(iop, np.float64)
    normal: NDArray[np.float64] = np.cross(cosines[:3], cosines[3:])
    return normal / np.linalg.norm(normal)


def obliquity_deg(iop: Sequence[float] | NDArray[np.float64]) -> float:
    """Angle in degrees between the slice normal and the nearest patient axis."""
    return from_axis_deg(slice_normal(iop))


def from_axis_deg(direction: NDArray[np.float64]) -> float:
    """Angle in degrees between a direction and the nearest patient axis."""
    largest = float(np.abs(direction).max() / np.linalg.norm(direction))
    return float(np.degrees(np.arccos(min(1.0, largest))))


def orientation_of(iop: Sequence[float] | NDArray[np.float64]) -> str:
    """``axial``, ``coronal`` or ``sagittal`` within :data:`MAX_OBLIQUITY_DEG`, otherwise ``oblique``."""
    if obliquity_deg(iop) > MAX_OBLIQUITY_DEG:
        return "oblique"
    return _PLANES[int(np.abs(slice_normal(iop)).argmax())]


def order_along_normal(
    images: Sequence[SourceImage],
) -> tuple[tuple[SourceImage, ...], NDArray[np.float64]]:
    """Sort images by their position along the slice normal.

    Returns:
        The images, and their positions along the normal, (images,) float64 mm, ascending.

    Raises:
        SeriesError: see :func:`positions_of` and :func:`orientations_of`.
    """
    distance = positions_of(images) @ slice_normal(orientations_of(images[:1])[0])
    order = np.argsort(distance, kind="stable")
    return tuple(images[int(i)] for i in order), distance[order]


def series_affine(images: Sequence[SourceImage]) -> NDArray[np.float64]:
    """Affine of sorted images, (4, 4) float64: (slice, row, column, 1) -> LPS mm at voxel centres.

    The slice axis is the mean step between the image positions, so a residual tilt is in the affine (PS3.3,
    C.7.6.2.1.1, equation C.7.6.2.1-1, with rows before columns).

    Raises:
        SeriesError: ``too_few_slices`` for a single image; see also :func:`positions_of`.
    """
    if len(images) < 2:
        raise SeriesError("too_few_slices", "A single image has no slice direction.")
    ends = positions_of((images[0], images[-1]))
    iop = orientations_of(images[:1])[0]
    between_rows, between_columns = spacings_of(images[:1])[0]
    affine = np.eye(4)
    affine[:3, 0] = (ends[1] - ends[0]) / (len(images) - 1)
    affine[:3, 1] = iop[3:] * between_rows
    affine[:3, 2] = iop[:3] * between_columns
    affine[:3, 3] = ends[0]
    return affine


def tilt_deg(images: Sequence[SourceImage]) -> tuple[float, float]:
    """Gantry tilt of sorted images: the angle in degrees between the line of positions and the slice normal.

    Returns:
        The angle, and how far in mm the last image is shifted sideways against the first.
    """
    ends = positions_of((images[0], images[-1]))
    normal = slice_normal(orientations_of(images[:1])[0])
    travel = ends[1] - ends[0]
    along = float(travel @ normal)
    across = float(np.linalg.norm(travel - along * normal))
    return float(np.degrees(np.arctan2(across, abs(along)))), across


def _table(images: Sequence[SourceImage], tag: int, count: int, code: str, name: str) -> NDArray[np.float64]:
    rows = [decimals(image.header, tag, count) for image in images]
    missing = [image for image, row in zip(images, rows, strict=True) if row is None]
    if missing:
        raise SeriesError(
            code,
            f"{len(missing)} of {len(images)} images have no usable {name}, the first is {missing[0].label}.",
            _FIX_POSITION,
        )
    return np.array(rows, np.float64).reshape(-1, count)
