"""The grids on which phantoms are usually rendered, and native coronal slices as a scanner's console makes them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.phantom.anatomy import LABELS, Phantom
from onfh_runtime.phantom.grid import Grid
from onfh_runtime.phantom.spec import PhantomSpec

__all__ = ["axial_grid", "coronal_from", "coronal_grid", "slab_weights"]

SINGLE_HIP_MM = 190.0
"""Field of view of one hip."""
COLUMNS = 512
"""The matrix for which a scanner's pixel spacing is given."""
FRONT_BACK_MM = 45.0
"""How far coronal slices reach before and behind the head centres."""
CORONAL_WIDTH_MM, CORONAL_HEIGHT_MM = 380.0, 220.0
ABOVE_MM = 22.0
"""How far the middle of an image lies above the head centres."""


def _view_centre(spec: PhantomSpec) -> tuple[float, float, float]:
    if spec.field_of_view == "both":
        return spec.centre
    return spec.hip(spec.field_of_view).centre


def axial_grid(spec: PhantomSpec, slices: int = 120, rows: int = 512, columns: int = 512) -> Grid:
    """Axial slices at the scanner's spacing, centred a little above the heads; the field of view is always whole.

    Args:
        spec: the patient; one hip alone is imaged in a field of 190 mm.
        slices: number of slices.
        rows: fewer rows give larger pixels.
        columns: fewer columns give larger pixels.
    """
    scanner = spec.scanner
    field = COLUMNS * scanner.pixel_spacing_mm if spec.field_of_view == "both" else SINGLE_HIP_MM
    x, y, z = _view_centre(spec)
    dr, dc, ds = field / rows, field / columns, scanner.slice_spacing_mm
    above = ABOVE_MM * min(1.0, slices * ds / 180.0)
    origin = (x - dc * (columns - 1) / 2, y - dr * (rows - 1) / 2, z + above - ds * (slices - 1) / 2)
    return Grid("axial", origin, (slices, rows, columns), (ds, dr, dc))


def coronal_grid(spec: PhantomSpec, slab_mm: float = 1.5, pixel_mm: float | None = None) -> Grid:
    """Thin coronal slices through the heads and 45 mm before and behind them.

    Args:
        spec: the patient; one hip alone is imaged in a field of 190 mm.
        slab_mm: thickness and distance of the slices.
        pixel_mm: size of the square pixels; None takes the scanner's.
    """
    pixel = spec.scanner.coronal_spacing_mm if pixel_mm is None else pixel_mm
    both = spec.field_of_view == "both"
    columns = round((CORONAL_WIDTH_MM if both else SINGLE_HIP_MM) / pixel)
    rows = round((CORONAL_HEIGHT_MM if both else SINGLE_HIP_MM) / pixel)
    slices = round(2 * FRONT_BACK_MM / slab_mm)
    x, y, z = _view_centre(spec)
    origin = (
        x - pixel * (columns - 1) / 2,
        y - slab_mm * (slices - 1) / 2,
        z + ABOVE_MM + pixel * (rows - 1) / 2,
    )
    return Grid("coronal", origin, (slices, rows, columns), (slab_mm, pixel, pixel))


def slab_weights(count: int, step: float, slab: float) -> NDArray[np.float64]:
    """Weights of ``count`` voxels of ``step`` mm in slabs of ``slab`` mm that start at the first voxel's front face.

    Returns:
        (slabs, count) float64, the share of each slab every voxel fills; only whole slabs are made.
    """
    slabs = math.floor(count * step / slab + 1e-6)
    low = np.arange(slabs)[:, None] * slab
    front = np.arange(count)[None, :] * step
    overlap = np.minimum(low + slab, front + step) - np.maximum(low, front)
    result: NDArray[np.float64] = np.clip(overlap, 0, None) / slab
    return result


def coronal_from(phantom: Phantom, spacing_mm: float = 3.0) -> Phantom:
    """Average a rendered volume into native coronal slices.

    The first slab starts at the front face of the volume. A voxel of the truth belongs to a side that fills more than
    half of it. Pixels keep their size in the image plane.

    Args:
        phantom: rendered on an axial or coronal grid.
        spacing_mm: thickness and distance of the slices.
    """
    grid = phantom.grid
    axial = grid.plane == "axial"
    axis = 1 if axial else 0
    weights = slab_weights(grid.shape[axis], grid.spacing[axis], spacing_mm)
    hu = np.moveaxis(phantom.hu, axis, 0)
    truth = np.moveaxis(phantom.truth, axis, 0)
    if axial:
        hu, truth = hu[:, ::-1], truth[:, ::-1]
    shape = (len(weights), hu.shape[1], hu.shape[2])
    mean, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for k, row in enumerate(weights):
        used = np.flatnonzero(row)
        part = slice(int(used[0]), int(used[-1]) + 1)
        share = row[part].astype(np.float32)
        for weight, image in zip(share, hu[part], strict=True):
            mean[k] += weight * image
        for value in LABELS.values():
            if (truth[part] == value).any():
                label[k][np.tensordot(share, (truth[part] == value).astype(np.float32), 1) > 0.5] = value
    x, y, z = grid.origin
    top = z + grid.spacing[0] * (grid.shape[0] - 1) if axial else z
    origin = (x, y - grid.spacing[axis] / 2 + spacing_mm / 2, top)
    pixel = (grid.spacing[0] if axial else grid.spacing[1], grid.spacing[2])
    out = Grid("coronal", origin, shape, (spacing_mm, *pixel))
    return Phantom(mean, label, out, phantom.heads, phantom.spec)
