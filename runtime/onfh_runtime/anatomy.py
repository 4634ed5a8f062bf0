"""Where the femoral heads are: what is analysed, whether it is whole, which side it is, and whether it is a hip at all.

A volume without a femoral head is refused here, so that it can never be read as negative. The search itself is in
:mod:`onfh_runtime.locate` and :mod:`onfh_runtime.hip_template`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.errors import SeriesError
from onfh_runtime.hip_template import Match, match
from onfh_runtime.locate import (
    LEAST_RADIUS_MM,
    MOST_RADIUS_MM,
    NEVER_MEASURED_HU,
    WorkingGrid,
    fit_sphere,
    hough_peaks,
    working_grid,
)
from onfh_runtime.volume import AIR_HU

__all__ = ["METAL_HU", "Anatomy", "Head", "find_femoral_heads"]

METAL_HU = 2500.0
"""Above the densest cortical bone under a sharp kernel, below steel, cobalt-chromium and titanium."""
METAL_MARGIN_MM = 15.0
"""How far around a head metal counts: its streaks reach the head."""
COVERAGE_MARGIN_MM = 2.0
COVERED_FRACTION = 0.995
"""A sphere of 25 mm loses this when it is cut 2 mm deep, which is the margin alone."""

SURE_MATCH, SURE_MARGIN, SURE_SUM, SURE_OVERLAP = 0.58, 0.16, 0.78, 0.85
"""A hip on its own: correlation with the template of its side, how far the other side's stays behind, their sum, and
how much of the template must be in view.

Hips have 0.60 to 0.80 and 0.18 to 0.30; the likeliest of other bones reach the first or the second, not both, unless
half of the template lies outside the volume.
"""
PAIR_MATCH, PAIR_MARGIN, PAIR_SUM = 0.53, 0.05, 1.40
"""Two hips that face each other at the right distance vouch for each other: least correlation and margin of each, and
the sum of both correlations and margins, which is 1.6 to 2.1 when both heads are whole.
"""
PAIR_APART_MM = (120.0, 240.0)
PAIR_LEVEL_MM = 30.0
"""How much the heads of one patient may differ in height and in depth."""
PAIR_RADIUS_RATIO = 1.5
LEAST_SUPPORT = 0.3
"""Share of full edges on the sphere; heads have 0.5 to 0.95."""
MOST_SHIFT_MM = 10.0
"""How far the fitted centre may lie from where the template fitted best."""
CORE_HU = 90.0
"""The inside of a head is bone: its median is never that of soft tissue."""
SURROUNDINGS_MM = 60.0
MOST_AIR = 0.30
"""Share of air or lung in the surroundings: a tenth around a hip, a third and more in the chest, a knee or a foot."""
AIR_OR_LUNG_HU = -400.0
PADDING_TOLERANCE_HU = 0.01

CANDIDATES, PLACES = 12, 5
TISSUE_HU = -300.0
BODY_WIDTH_MM = (220.0, 650.0)
SINGLE_OFFSET_MM = (50.0, 140.0)
"""How far from the body's midline a head must lie for its side to be told from the body's outline."""


@dataclass(frozen=True)
class Head:
    """One femoral head.

    Attributes:
        centre_mm: LPS mm.
        radius_mm: radius of the fitted sphere, mm; the joint space may make it up to 3 mm too large.
        score: correlation with the hip of its side, 0 to 1.
        coverage: fraction of that sphere, with 2 mm around it, that was measured; of a pair, the larger radius counts
            for both.
        covered: whether the head is whole.
        metal_mm3: volume above 2500 HU in and near the head.
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float
    score: float
    coverage: float
    covered: bool
    metal_mm3: float


@dataclass(frozen=True)
class Anatomy:
    """The femoral heads of a volume; ``unsided`` is a single head whose side cannot be told."""

    right: Head | None
    left: Head | None
    unsided: Head | None
    midline_x_mm: float | None

    @property
    def heads(self) -> tuple[Head, ...]:
        """Those that were found: right, left, unsided."""
        return tuple(head for head in (self.right, self.left, self.unsided) if head is not None)


@dataclass(frozen=True)
class _Found:
    match: Match
    centre: NDArray[np.float64]
    radius: float
    side: str
    margin: float


def find_femoral_heads(hu: NDArray[np.float32], affine: NDArray[np.float64]) -> Anatomy:
    """Find the femoral heads of a CT volume.

    Args:
        hu: (slices, rows, columns) float32 HU; slices run front to back, rows head to foot, columns from the patient's
            right to the left, within 30 degrees.
        affine: (4, 4) float64, (slice, row, column, 1) to LPS mm at voxel centres; spacing 0.5 to 6 mm.

    Returns:
        At least one head. Of two, the one with the smaller x is the right one. The side of a single one is told from
        the outline of the body, and only when both flanks are in view and its shape agrees; otherwise it is unsided.

    Raises:
        SeriesError: ``anatomy_not_found``, no femoral head is in view.
    """
    grid = working_grid(hu, affine)
    matches = match(grid, hough_peaks(grid, CANDIDATES), PLACES)
    found = [one for one in (_examined(hu, affine, grid, candidate) for candidate in matches) if one is not None]
    pair = _pair(found)
    if pair is not None:
        # A cut head may be fitted too small; the heads of one patient are of one size, so the larger decides.
        size = max(one.radius for one in pair)
        right, left = (_head(hu, affine, one, size) for one in pair)
        return Anatomy(right, left, None, (right.centre_mm[0] + left.centre_mm[0]) / 2)
    sure = [one for one in found if _sure(one)]
    if not sure:
        raise SeriesError(
            "anatomy_not_found",
            "No femoral head was found in this series.",
            "Send a CT of the hips that shows at least one whole femoral head.",
        )
    single = max(sure, key=lambda one: one.match.best)
    head = _head(hu, affine, single, single.radius)
    midline = _body_midline(grid, single.centre)
    if midline is not None:
        offset = head.centre_mm[0] - midline
        side = "left" if offset > 0 else "right"
        if SINGLE_OFFSET_MM[0] <= abs(offset) <= SINGLE_OFFSET_MM[1] and side == single.side:
            return Anatomy(head, None, None, midline) if side == "right" else Anatomy(None, head, None, midline)
    return Anatomy(None, None, head, midline)


def _examined(
    hu: NDArray[np.float32], affine: NDArray[np.float64], grid: WorkingGrid, candidate: Match
) -> _Found | None:
    """The head at a candidate, or None when what is there is no femoral head."""
    margin = abs(candidate.right - candidate.left)
    if candidate.best < PAIR_MATCH or margin < PAIR_MARGIN:
        return None
    near, near_affine = _cropped(hu, affine, candidate.centre, reach=45.0)
    centre, radius, support = fit_sphere(working_grid(near, near_affine, spacing=2.0), candidate.centre)
    if support < LEAST_SUPPORT or not LEAST_RADIUS_MM < radius < MOST_RADIUS_MM:
        return None
    if float(np.linalg.norm(centre - candidate.centre)) > MOST_SHIFT_MM:
        return None
    around = _ball(grid.hu, grid.affine, centre, SURROUNDINGS_MM)
    # Padding is AIR_HU to the digit, which measured air is not: it tells nothing about what surrounds the head.
    around = around[np.abs(around - AIR_HU) > PADDING_TOLERANCE_HU]
    core = _ball(grid.hu, grid.affine, centre, 0.6 * radius)
    if core.size == 0 or float(np.median(core)) < CORE_HU or float(np.mean(around < AIR_OR_LUNG_HU)) > MOST_AIR:
        return None
    return _Found(candidate, centre, radius, "right" if candidate.right > candidate.left else "left", margin)


def _head(hu: NDArray[np.float32], affine: NDArray[np.float64], found: _Found, size: float) -> Head:
    """Measure a head; ``size`` is the radius in mm for which coverage is judged."""
    x, y, z = (float(v) for v in found.centre)
    coverage = _coverage(hu, affine, found.centre, size + COVERAGE_MARGIN_MM)
    voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    near = _ball(hu, affine, found.centre, found.radius + METAL_MARGIN_MM)
    return Head(
        centre_mm=(x, y, z),
        radius_mm=found.radius,
        score=found.match.best,
        coverage=coverage,
        covered=coverage >= COVERED_FRACTION,
        metal_mm3=float(np.count_nonzero(near > METAL_HU) * voxel_mm3),
    )


def _sure(one: _Found) -> bool:
    return (
        one.match.best >= SURE_MATCH
        and one.margin >= SURE_MARGIN
        and one.match.best + one.margin >= SURE_SUM
        and one.match.overlap >= SURE_OVERLAP
    )


def _pair(found: list[_Found]) -> tuple[_Found, _Found] | None:
    """The two that look most like the hips of one patient: (right, left)."""
    pair, highest = None, PAIR_SUM
    for a in found:
        for b in found:
            x, y, z = (float(v) for v in b.centre - a.centre)
            level = max(abs(y), abs(z)) <= PAIR_LEVEL_MM and PAIR_APART_MM[0] <= x <= PAIR_APART_MM[1]
            alike = max(a.radius, b.radius) <= PAIR_RADIUS_RATIO * min(a.radius, b.radius)
            likeness = a.match.best + a.margin + b.match.best + b.margin
            if (a.side, b.side) == ("right", "left") and level and alike and likeness > highest:
                pair, highest = (a, b), likeness
    return pair


def _cropped(
    hu: NDArray[np.float32], affine: NDArray[np.float64], centre: NDArray[np.float64], reach: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A view of the voxels within ``reach`` mm of a point along every axis of the array, and its affine."""
    at = np.linalg.inv(affine) @ np.append(centre, 1)
    half = reach / np.linalg.norm(affine[:3, :3], axis=0)
    last = np.array(hu.shape) - 1
    low = np.clip(np.floor(at[:3] - half), 0, last).astype(int)
    high = np.clip(np.ceil(at[:3] + half), 0, last).astype(int) + 1
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ low + affine[:3, 3]
    return hu[low[0] : high[0], low[1] : high[1], low[2] : high[2]], moved


def _ball(
    hu: NDArray[np.float32], affine: NDArray[np.float64], centre: NDArray[np.float64], radius: float
) -> NDArray[np.float32]:
    """The values of all voxels within ``radius`` mm of a point, (n,)."""
    near, moved = _cropped(hu, affine, centre, radius)
    axes = [moved[:3, k, None] * np.arange(count) for k, count in enumerate(near.shape)]
    offset = moved[:3, 3] - centre
    squared = np.zeros(near.shape)
    for k in range(3):
        squared += (axes[0][k][:, None, None] + axes[1][k][None, :, None] + axes[2][k] + offset[k]) ** 2
    inside: NDArray[np.float32] = near[squared <= radius * radius]
    return inside


def _coverage(
    hu: NDArray[np.float32], affine: NDArray[np.float64], centre: NDArray[np.float64], radius: float
) -> float:
    """The fraction of a ball that lies in measured voxels."""
    axis = np.linspace(-radius, radius, 31)
    points = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    points = points[np.linalg.norm(points, axis=1) <= radius] + centre
    inverse = np.linalg.inv(affine)
    index = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    inside = ((index >= 0) & (index < np.array(hu.shape))).all(axis=1)
    s, r, c = index[inside].T
    return float(np.count_nonzero(hu[s, r, c] > NEVER_MEASURED_HU) / len(points))


def _body_midline(grid: WorkingGrid, centre: NDArray[np.float64]) -> float | None:
    """LPS x of the middle of the body at a head's level, or None when not both flanks are in view."""
    at = grid.voxels(centre)
    rows = np.abs(np.arange(grid.hu.shape[1]) - at[1]) <= 30 / grid.spacing
    # A column belongs to the body when a hand's breadth of tissue lies in it: neither a table nor a tube does.
    tissue = np.count_nonzero(grid.hu[:, rows] > TISSUE_HU, axis=(0, 1)) / max(int(np.count_nonzero(rows)), 1)
    filled = tissue * grid.spacing >= min(20.0, 0.5 * grid.hu.shape[0] * grid.spacing)
    column = int(np.clip(round(float(at[2])), 0, len(filled) - 1))
    empty = np.flatnonzero(~filled)
    before, behind = empty[empty < column], empty[empty > column]
    if not filled[column] or before.size == 0 or behind.size == 0:
        return None
    width = float(behind[0] - before[-1] - 1) * grid.spacing
    if not BODY_WIDTH_MM[0] <= width <= BODY_WIDTH_MM[1]:
        return None
    middle = np.array([[at[0], at[1], (before[-1] + behind[0]) / 2]])
    return float(grid.points(middle)[0, 0])
