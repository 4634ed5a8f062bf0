"""Voxels and where they are in the patient.

Axis order is (slice, row, column) everywhere. An affine maps homogeneous array indices (slice, row, column, 1) of
voxel centres to millimetres in the DICOM patient system: LPS, +x to the patient's left, +y to the back, +z to the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AIR_HU", "CoronalStack", "Volume", "spacing_from_affine"]

AIR_HU = -1000.0
"""What a voxel that was never measured (PixelPaddingValue) is taken to be."""


def spacing_from_affine(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Distances between neighbouring voxel centres along (slice, row, column), in mm."""
    s, r, c = np.linalg.norm(affine[:3, :3], axis=0)
    return float(s), float(r), float(c)


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
        stored = self.voxels[index]
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
