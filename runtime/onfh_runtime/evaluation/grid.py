"""Two masks on one grid, so that their voxels can be compared.

The grid is the truth's own: the truth is not interpolated, and whatever is compared with it (two engines, a model and
its readers) is compared on the same voxels. The axes are put in the order of a coronal stack, so that a slice is a
coronal plane whatever plane the truth was drawn in. The grid is cut, or extended by whole voxels, to what either mask
outlines. The other mask takes the voxel nearest to each centre. A sheared truth (a tilted gantry) gets an upright grid
of its spacing, and both masks are looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.masks import Mask
from onfh_runtime.volume import spacing_from_affine, stack_axes

__all__ = ["OnOneGrid", "SharedGrid", "boxes_meet", "on_one_grid", "on_shared_grid"]

_TIE = 1e-6
"""A centre midway between two voxels goes to the lower one, and rounding must not decide otherwise from row to row."""

_SHEAR = 1e-3
"""Cosine between two axes of a grid up to which they count as upright: 0.06 degrees."""

_MOST_VOXELS = 1 << 29
"""No lesion is this large: masks that need a larger common grid lie far apart."""


@dataclass(frozen=True)
class OnOneGrid:
    """(planes, rows, columns) bool each, coronal order, and the (3,) spacing in mm."""

    prediction: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class SharedGrid:
    """(planes, rows, columns) bool each, coronal order, and the (3,) spacing in mm."""

    masks: tuple[NDArray[np.bool_], ...]
    spacing_mm: tuple[float, float, float]


def on_one_grid(prediction: Mask | None, truth: Mask | None) -> OnOneGrid | None:
    """Put two masks on the truth's grid, on the prediction's where there is no true mask.

    None stands for a mask in which nothing is outlined.

    Returns:
        None when neither outlines anything, or when the two lie too far apart to share a grid.
    """
    base = truth or prediction
    shared = None if base is None else on_shared_grid((prediction, truth), base)
    if shared is None:
        return None
    first, second = shared.masks
    return OnOneGrid(first, second, shared.spacing_mm)


def on_shared_grid(masks: Sequence[Mask | None], base: Mask) -> SharedGrid | None:
    """Put any number of masks on the grid of ``base``, as :func:`on_one_grid` does with two.

    Returns:
        None when nothing is outlined in any, or when they lie too far apart to share a grid.
    """
    outlined = [mask for mask in masks if mask is not None and mask.voxels.any()]
    if not outlined:
        return None
    affine = _canonical(_upright(base.affine))
    inverse = np.asarray(np.linalg.inv(affine), np.float64)
    corners = np.concatenate([_corners(mask, inverse) for mask in outlined])
    low = np.floor(corners.min(axis=0) + 0.5 - _TIE).astype(np.int64)
    high = np.floor(corners.max(axis=0) + 0.5 + _TIE).astype(np.int64)
    n, rows, columns = (int(length) for length in high - low + 1)
    if n * rows * columns > _MOST_VOXELS:
        return None
    placed = affine.copy()
    placed[:3, 3] += affine[:3, :3] @ low
    sampled = tuple(_sampled(mask, placed, (n, rows, columns)) for mask in masks)
    return SharedGrid(sampled, spacing_from_affine(affine))


def boxes_meet(one: Mask, other: Mask) -> bool:
    """Whether the two grids, not only what is outlined in them, share any space; if not, they show different places."""
    inverse = np.asarray(np.linalg.inv(one.affine), np.float64)
    shape = np.array(other.voxels.shape)
    corners = _transformed(np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in shape])).reshape(3, -1).T, inverse, other)
    return bool((corners.max(axis=0) > -0.5).all() and (corners.min(axis=0) < np.array(one.voxels.shape) - 0.5).all())


def _upright(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine itself when its axes are at right angles; else with slices straight above each other."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(unit.T @ unit - np.eye(3)).max() <= _SHEAR:
        return affine
    result = affine.copy()
    row, column = affine[:3, 1], affine[:3, 2]
    column = column - row * (row @ column) / (row @ row)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    result[:3, 0], result[:3, 2] = normal * (normal @ affine[:3, 0]), column
    return result


def _canonical(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same lattice with its axes in the order and the direction of a coronal stack; the origin stays."""
    axes, flips = stack_axes(affine)
    result = affine.copy()
    for target, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        result[:3, target] = -affine[:3, axis] if flip else affine[:3, axis]
    return result


def _corners(mask: Mask, inverse: NDArray[np.float64]) -> NDArray[np.float64]:
    """(8, 3) corners, voxel centres, of the box around what is outlined, in the grid's indices."""
    ends = []
    for axis in range(3):
        rest = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(mask.voxels.any(axis=rest))
        ends.append((float(filled[0]), float(filled[-1])))
    return _transformed(np.array(np.meshgrid(*ends)).reshape(3, -1).T, inverse, mask)


def _transformed(indices: NDArray[np.float64], inverse: NDArray[np.float64], mask: Mask) -> NDArray[np.float64]:
    matrix = inverse @ mask.affine
    result: NDArray[np.float64] = indices @ matrix[:3, :3].T + matrix[:3, 3]
    return result


def _sampled(mask: Mask | None, affine: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """The mask at the centres of a grid, plane by plane; False outside it."""
    out = np.zeros(shape, bool)
    if mask is None:
        return out
    matrix = np.linalg.inv(mask.affine) @ affine
    rows, columns = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
    in_plane = matrix[:3, 1, None, None] * rows + matrix[:3, 2, None, None] * columns + matrix[:3, 3, None, None]
    size = np.array(mask.voxels.shape)[:, None, None]
    for plane in range(shape[0]):
        index = np.floor(in_plane + (matrix[:3, 0] * plane)[:, None, None] + (0.5 - _TIE)).astype(np.int64)
        inside = ((index >= 0) & (index < size)).all(axis=0)
        out[plane][inside] = mask.voxels[tuple(index[:, inside])]
    return out
