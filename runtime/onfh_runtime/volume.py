"""Voxels and where they are in the patient.

Axis order is (slice, row, column) everywhere. An affine maps homogeneous array indices (slice, row, column, 1) of
voxel centres to millimetres in the DICOM patient system: LPS, +x to the patient's left, +y to the back, +z to the head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.errors import SeriesError

__all__ = [
    "AIR_HU",
    "MAX_SHEAR_MM",
    "MAX_TILT_DEG",
    "CoronalStack",
    "Volume",
    "is_tilted",
    "spacing_from_affine",
    "stack_axes",
]

AIR_HU = -1000.0
"""What a voxel that was never measured (PixelPaddingValue) is taken to be."""

CANONICAL_AXES = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
"""Directions in LPS of a coronal stack's (slice, row, column) axes: to the back, to the feet, to the patient's left."""

MAX_SHEAR_MM = 0.5
"""Sideways shift of the last slice against the first: less than the pixel of any body CT, more than rounding gives."""

MAX_TILT_DEG = 30.0
"""Gantries tilt no further."""


def spacing_from_affine(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Distances between neighbouring voxel centres along (slice, row, column), in mm."""
    s, r, c = np.linalg.norm(affine[:3, :3], axis=0)
    return float(s), float(r), float(c)


def stack_axes(affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """For each axis of a coronal stack, the volume axis nearest to it, and whether that one runs the other way."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    agreement = CANONICAL_AXES @ directions
    best = max(permutations(range(3)), key=lambda p: sum(abs(agreement[i, p[i]]) for i in range(3)))
    return best, tuple(bool(agreement[i, best[i]] < 0) for i in range(3))  # type: ignore[return-value]


def is_tilted(affine: NDArray[np.float64], slices: int) -> bool:
    """Whether axial slices are shifted front to back against each other, as a tilted gantry leaves them.

    Raises:
        SeriesError: ``gantry_tilt``, the slices are sheared in a way that no coronal stack is made of: sideways, by
            more than :data:`MAX_TILT_DEG`, or against a coronal plane.
    """
    travel = affine[:3, 0] * (slices - 1)
    shear = [float(travel @ affine[:3, axis] / np.linalg.norm(affine[:3, axis])) for axis in (1, 2)]
    across = math.hypot(*shear)
    if across <= MAX_SHEAR_MM:
        return False
    angle = math.degrees(math.asin(min(1.0, across / float(np.linalg.norm(travel)))))
    (_, down, sideways), _ = stack_axes(affine)
    if down == 0 and abs(shear[sideways - 1]) <= MAX_SHEAR_MM and angle <= MAX_TILT_DEG:
        return True
    raise SeriesError(
        "gantry_tilt",
        f"The slices are sheared by {angle:.1f} degrees ({across:.1f} mm between the first and the last), which is not "
        f"what a tilted gantry does: axial slices shifted front to back, at {MAX_TILT_DEG:.0f} degrees at most.",
        "Send an axial series without tilt, or a coronal reformat.",
    )


@dataclass(frozen=True)
class Volume:
    """One series as it was stored.

    Attributes:
        voxels: (slices, rows, columns), int16 or uint16, stored values before rescale.
        affine: (4, 4) float64, (slice, row, column, 1) -> LPS mm at voxel centres.
        slope: (slices,) float64, RescaleSlope of each slice.
        intercept: (slices,) float64, RescaleIntercept of each slice, HU.
        padding: inclusive range of stored values that mean "not measured", or None.
        acquired: "axial" or "coronal", the plane of the stored slices.
        warnings: (code, text) pairs found while reading.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]
    padding: tuple[int, int] | None = None
    acquired: str = "axial"
    warnings: tuple[tuple[str, str], ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing in mm."""
        return spacing_from_affine(self.affine)

    def hounsfield(self, index: Any = slice(None)) -> NDArray[np.float32]:
        """HU of the slices named by ``index`` (an int, a slice or an index array over axis 0), float32.

        Padding becomes :data:`AIR_HU`; arithmetic is in float32, so metal above 3071 HU does not overflow.
        """
        return self.rescaled(self.voxels[index], index)

    def rescaled(self, stored: NDArray[Any], index: Any) -> NDArray[np.float32]:
        """HU of stored values of slices, (rows, columns) or (slices, rows, columns); they may be turned, or a part."""
        shape = (-1, 1, 1) if stored.ndim == 3 else ()
        slope = np.asarray(self.slope[index], np.float32).reshape(shape)
        intercept = np.asarray(self.intercept[index], np.float32).reshape(shape)
        hu: NDArray[np.float32] = stored.astype(np.float32)
        hu *= slope
        hu += intercept
        if self.padding is not None:
            low, high = self.padding
            hu[(stored >= low) & (stored <= high)] = AIR_HU
        return hu


@dataclass(frozen=True)
class CoronalStack:
    """The coronal slices that are analysed, in canonical orientation.

    Attributes:
        hu: (slices, rows, columns) float32 HU; slices run front to back (+y), rows head to foot (-z), columns from the
            patient's right to the left (+x), as a radiologist sees a coronal image.
        affine: (4, 4) float64, (slice, row, column, 1) -> LPS mm at voxel centres.
    """

    hu: NDArray[np.float32]
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing in mm."""
        return spacing_from_affine(self.affine)

    @property
    def positions_mm(self) -> NDArray[np.float64]:
        """(slices,) float64, LPS y of each slice at the centre of its image, in mm."""
        _, rows, columns = self.hu.shape
        centre = self.affine @ np.array([0.0, (rows - 1) / 2, (columns - 1) / 2, 1.0])
        result: NDArray[np.float64] = centre[1] + self.affine[1, 0] * np.arange(len(self.hu))
        return result

    def part(self, box: tuple[slice, slice, slice]) -> CoronalStack:
        """The voxels of a box (step 1) as a stack of their own, shared, not copied."""
        affine = self.affine.copy()
        affine[:3, 3] += self.affine[:3, :3] @ np.array([side.start or 0 for side in box], float)
        return CoronalStack(self.hu[box], affine)
