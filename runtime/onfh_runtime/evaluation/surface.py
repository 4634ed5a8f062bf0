"""Distances between the boundaries of two masks, in mm.

The boundary of a mask is those of its voxels with a face neighbour (4 in a plane, 6 in a volume) outside it; what lies
beyond the edge of the array is outside. A directed distance goes from the centre of a boundary voxel of one mask to the
nearest boundary voxel of the other. Figures of planes and of volumes are not comparable.

The 95% Hausdorff distance has two common definitions, which differ, so both are given by name: the larger of the two
directed 95th percentiles (MONAI; Maier-Hein et al., Metrics Reloaded, Nature Methods 21 (2024) 195-212), and the 95th
percentile of both directions pooled (MedPy). The average distance is that of all distances of both directions pooled
(ASSD of Metrics Reloaded, of MONAI and of MedPy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.errors import MissingExtraError
from onfh_runtime.evaluation.overlap import checked_masks

__all__ = ["SurfaceDistances", "hd95_mm", "surface_distances"]

_TABLE = 1 << 17
"""Pairs of boundary voxels up to which a table of all distances is faster than a search tree."""


@dataclass(frozen=True)
class SurfaceDistances:
    """Directed distances in mm, float64, one for each boundary voxel of the mask they start from; none is empty."""

    from_prediction: NDArray[np.float64]
    from_truth: NDArray[np.float64]

    @property
    def hd95_mm(self) -> float:
        """The larger of the two directed 95th percentiles (MONAI, Metrics Reloaded)."""
        return float(max(np.percentile(self.from_prediction, 95), np.percentile(self.from_truth, 95)))

    @property
    def hd95_pooled_mm(self) -> float:
        """The 95th percentile of both directions pooled (MedPy)."""
        return float(np.percentile(np.concatenate([self.from_prediction, self.from_truth]), 95))

    @property
    def assd_mm(self) -> float:
        """The mean of both directions pooled (ASSD)."""
        count = len(self.from_prediction) + len(self.from_truth)
        return float((self.from_prediction.sum() + self.from_truth.sum()) / count)


def surface_distances(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> SurfaceDistances | None:
    """Measure two masks against each other.

    Args:
        prediction: (rows, columns) or (slices, rows, columns) bool.
        truth: the same shape.
        spacing_mm: one for each axis, between the centres of neighbouring voxels.

    Returns:
        None when a mask is empty.

    Raises:
        ValueError: shapes that differ, masks that are not bool, or a spacing that is not one positive number an axis.
        MissingExtraError: ``missing_extra``, SciPy is not installed.
    """
    checked_masks(prediction, truth)
    spacing = np.asarray(spacing_mm, np.float64)
    if spacing.shape != (prediction.ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"the spacing must be {prediction.ndim} positive numbers in mm, not {tuple(spacing_mm)}")
    tree = _search_tree()
    one, other = _boundary_mm(prediction, spacing), _boundary_mm(truth, spacing)
    if not one.shape[1] or not other.shape[1]:
        return None
    if one.shape[1] * other.shape[1] <= _TABLE:
        return SurfaceDistances(*_from_table(one, other))
    return SurfaceDistances(tree(other.T).query(one.T)[0], tree(one.T).query(other.T)[0])


def hd95_mm(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float | None:
    """95% Hausdorff distance, the larger of the two directed 95th percentiles; None when a mask is empty.

    Arguments and errors are those of :func:`surface_distances`.
    """
    found = surface_distances(prediction, truth, spacing_mm)
    return None if found is None else found.hd95_mm


def _boundary_mm(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """(axes, boundary voxels) float64 positions in mm; no column for an empty mask."""
    start, box = _box(mask)
    padded = np.zeros([length + 2 for length in box.shape], bool)
    padded[(slice(1, -1),) * mask.ndim] = box
    inner = box.copy()
    for axis in range(mask.ndim):
        for shift in (slice(0, -2), slice(2, None)):
            neighbour = [slice(1, -1)] * mask.ndim
            neighbour[axis] = shift
            inner &= padded[tuple(neighbour)]
    inner ^= box
    places = np.unravel_index(np.flatnonzero(inner), inner.shape)
    return (np.stack(places) + start[:, None]) * spacing[:, None]


def _box(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The smallest box that holds the mask: where it starts, and what is in it."""
    start = np.zeros(mask.ndim, np.int64)
    for axis in range(mask.ndim):
        rest = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=rest))
        if not len(filled):
            return start, mask[(slice(0, 0),) * mask.ndim]
        start[axis] = filled[0]
        mask = mask[(slice(None),) * axis + (slice(filled[0], filled[-1] + 1),)]
    return start, mask


def _from_table(
    one: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nearest distances both ways from one table of all pairs; (axes, points) each."""
    squares = np.zeros((one.shape[1], other.shape[1]))
    for here, there in zip(one, other, strict=True):
        apart = np.subtract.outer(here, there)
        apart *= apart
        squares += apart
    return np.sqrt(squares.min(axis=1)), np.sqrt(squares.min(axis=0))


@cache
def _search_tree() -> Any:
    try:
        from scipy.spatial import KDTree
    except ImportError as error:
        raise MissingExtraError(
            "missing_extra", "SciPy cannot be imported.", "Run: pip install 'onfh-edge[evaluate]'"
        ) from error
    return KDTree
