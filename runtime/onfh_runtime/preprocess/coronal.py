"""From stored voxels to the coronal stack, and a mask back again.

The stack keeps the volume's own axes: the array axis nearest to each patient axis is taken and flipped where needed, so
no voxel is interpolated in plane. Front to back, thin planes are averaged over slabs of the bundle's slice spacing with
exact overlap weights, as a scanner's thick reformat does; the first slab starts at the front face of the volume. Planes
that are already that thick (a native coronal series) are taken as they are.

A tilted gantry shears axial slices: the planes of one row of every slice are coronal all the same, but each begins a
little higher or lower than the one before. Only then is a plane interpolated, linearly and along its rows (head to
foot).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.bundle import Coverage
from onfh_runtime.cpu import over_cores
from onfh_runtime.errors import SeriesError
from onfh_runtime.preprocess.bands import Bands
from onfh_runtime.volume import AIR_HU, CoronalStack, Volume, is_tilted, spacing_from_affine, stack_axes

__all__ = ["CoronalPlan", "coronal_stack", "head_box", "mask_to_volume", "plan_coronal"]

THICK_ENOUGH = 0.99
"""Planes at least this share of the wanted spacing count as thick enough: headers round spacings to 0.01 mm."""

TOGETHER = 32
"""Slices whose rows are averaged at once: those of one slab are a megabyte or two."""

MOSTLY_MEASURED = 0.5
"""Share of a sheared slab's row that must come from voxels: at the ends the planes of a slab end apart."""


class _Sphere(Protocol):
    @property
    def centre_mm(self) -> tuple[float, float, float]: ...

    @property
    def radius_mm(self) -> float: ...


@dataclass(frozen=True)
class CoronalPlan:
    """How one volume becomes a coronal stack; made once, used by every implementation.

    Attributes:
        axes: for each stack axis (slice, row, column), the volume axis it is taken from.
        flips: for each stack axis, whether it runs against the volume axis.
        weights: (stack slices, coronal planes) float64, rows sum to 1.
        affine: (4, 4) float64, stack (slice, row, column, 1) -> LPS mm.
        shape: (slices, rows, columns) of the stack.
        slab_of_plane: (coronal planes,) int64, the slab that holds each plane's centre, -1 for none.
        offset: (coronal planes,) float64, the stack row at which each plane begins; 0 unless the gantry was tilted.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    weights: NDArray[np.float64]
    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    slab_of_plane: NDArray[np.int64]
    offset: NDArray[np.float64]

    @property
    def tilted(self) -> bool:
        """True when the planes are interpolated, because the slices are sheared."""
        return bool(self.offset.any())

    @property
    def native(self) -> bool:
        """True when every stack slice is one stored slice, unchanged."""
        return self.axes[0] == 0 and self.weights.shape[0] == self.weights.shape[1]

    def source_slice(self, index: int) -> int:
        """The stored slice that native stack slice ``index`` shows."""
        return len(self.slab_of_plane) - 1 - index if self.flips[0] else index


def plan_coronal(volume: Volume, slice_spacing_mm: float) -> CoronalPlan:
    """Plan the coronal stack of a volume.

    Args:
        volume: axial or coronal slices, oblique or not; axial ones may be sheared by a tilted gantry.
        slice_spacing_mm: wanted distance between stack slices, mm.

    Raises:
        SeriesError: ``too_few_slices`` when the volume is thinner than one slab; ``gantry_tilt``, see
            :func:`~onfh_runtime.volume.is_tilted`.
    """
    axes, flips = stack_axes(volume.affine)
    canonical = _reoriented(volume.affine, volume.voxels.shape, axes, flips)
    planes, rows, columns = (volume.voxels.shape[axis] for axis in axes)
    offset = np.zeros(planes)
    if is_tilted(volume.affine, len(volume.voxels)):
        canonical, offset, rows = _upright(canonical, planes, rows)
    plane_mm = spacing_from_affine(canonical)[0]
    if plane_mm >= slice_spacing_mm * THICK_ENOUGH:
        shape = (planes, rows, columns)
        return CoronalPlan(axes, flips, np.eye(planes), canonical, shape, np.arange(planes), offset)
    slabs = int(np.floor(planes * plane_mm / slice_spacing_mm + 1e-6))
    if slabs < 1:
        raise SeriesError(
            "too_few_slices",
            f"The series is {planes * plane_mm:.1f} mm deep, less than one coronal slice of {slice_spacing_mm:g} mm.",
        )
    edges = np.arange(planes + 1) * plane_mm
    starts = np.arange(slabs)[:, None] * slice_spacing_mm
    overlap = np.minimum(edges[1:], starts + slice_spacing_mm) - np.maximum(edges[:-1], starts)
    weights = np.clip(overlap, 0, None) / slice_spacing_mm
    weights /= weights.sum(axis=1, keepdims=True)
    slab_of_plane = np.floor((np.arange(planes) + 0.5) * plane_mm / slice_spacing_mm).astype(np.int64)
    slab_of_plane[slab_of_plane >= slabs] = -1
    affine = canonical.copy()
    affine[:3, 0] *= slice_spacing_mm / plane_mm
    affine[:3, 3] += canonical[:3, 0] * (slice_spacing_mm / plane_mm - 1) / 2
    return CoronalPlan(axes, flips, weights, affine, (slabs, rows, columns), slab_of_plane, offset)


def coronal_stack(volume: Volume, plan: CoronalPlan) -> CoronalStack:
    """Average the stored slices into the coronal stack, one stored slice at a time on every core.

    Returns:
        The stack, HU float32, canonical orientation; see :class:`CoronalStack`.
    """
    out = np.empty(plan.shape, np.float32)
    moved = plan.axes.index(0)
    order = np.arange(volume.voxels.shape[0])[:: -1 if plan.flips[moved] else 1]
    if plan.tilted:
        _stack_tilted(volume, plan, order, out)
    elif moved == 0 and plan.native:
        for target, source in enumerate(order):
            out[target] = _in_plane(volume.hounsfield(int(source)), plan)
    elif moved == 0:
        for target in range(plan.shape[0]):
            total = np.zeros(plan.shape[1:], np.float32)
            for plane in np.flatnonzero(plan.weights[target]):
                weight = np.float32(plan.weights[target, plane])
                total += weight * _in_plane(volume.hounsfield(int(order[plane])), plan)
            out[target] = total
    else:
        _stack_across(volume, plan, order, out)
    return CoronalStack(out, plan.affine)


def mask_to_volume(mask: NDArray[np.uint8], plan: CoronalPlan, volume: Volume) -> NDArray[np.uint8]:
    """Put a mask on the coronal stack back onto the volume's own voxels.

    Every stored plane takes the mask of the slab its centre lies in, so the volume in mm3 differs from the stack's by
    at most the rounding of planes to slabs. Of sheared planes every voxel takes the mask of the nearest row.

    Args:
        mask: (slices, rows, columns) uint8 on the stack.
        plan: the plan the stack was made with.
        volume: the volume it was made from.

    Returns:
        uint8, the shape of ``volume.voxels``.
    """
    result = np.zeros(volume.voxels.shape, np.uint8)
    flipped = np.transpose(result, plan.axes)
    planes = np.flip(flipped, tuple(axis for axis, flip in enumerate(plan.flips) if flip))
    marked = [slab.any() for slab in mask]  # few slabs are, and what is not written need not be touched
    for plane, slab in enumerate(plan.slab_of_plane):
        if slab < 0 or not marked[slab]:
            continue
        if plan.tilted:
            rows = np.rint(plan.offset[plane] + np.arange(len(volume.voxels))).astype(np.intp)
            planes[plane] = mask[slab, rows]
        else:
            planes[plane] = mask[slab]
    return result


def head_box(stack: CoronalStack, heads: tuple[_Sphere, ...], coverage: Coverage) -> tuple[slice, slice, slice]:
    """The part of the whole stack that the stages see: (slices, rows, columns).

    Args:
        stack: the whole coronal stack.
        heads: spheres in LPS mm, at least one.
        coverage: how far beyond the heads, mm along the stack's axes.
    """
    to_index = np.linalg.inv(stack.affine)
    box = []
    for axis, margin in enumerate((coverage.margin_mm, coverage.in_plane_mm, coverage.in_plane_mm)):
        count, step = stack.hu.shape[axis], stack.spacing_mm[axis]
        if margin is None:
            box.append(slice(0, count))
            continue
        centres = [float((to_index @ np.array([*head.centre_mm, 1.0]))[axis]) for head in heads]
        reaches = [(head.radius_mm + margin) / step for head in heads]
        first = min(c - r for c, r in zip(centres, reaches, strict=True))
        last = max(c + r for c, r in zip(centres, reaches, strict=True))
        start = min(max(0, int(np.ceil(first))), count - 1)
        box.append(slice(start, max(start + 1, min(count, int(np.floor(last)) + 1))))
    return box[0], box[1], box[2]


def _reoriented(
    affine: NDArray[np.float64], shape: tuple[int, ...], axes: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> NDArray[np.float64]:
    result = affine.copy()
    for target, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        result[:3, target] = -affine[:3, axis] if flip else affine[:3, axis]
        if flip:
            result[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
    return result


def _upright(
    canonical: NDArray[np.float64], planes: int, rows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """The orthogonal grid that holds every sheared plane: its affine, where in its rows each plane begins, its rows."""
    down = canonical[:3, 1]
    shift = float(canonical[:3, 0] @ down / (down @ down))  # rows from one plane to the next
    offset: NDArray[np.float64] = shift * np.arange(planes, dtype=np.float64)
    first = float(np.floor(offset.min()))
    affine = canonical.copy()
    affine[:3, 0] -= shift * down
    affine[:3, 3] += first * down
    return affine, offset - first, rows + int(np.ceil(offset.max() - first))


def _stack_across(volume: Volume, plan: CoronalPlan, order: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Average rows of stored slices that cross the slabs into ``out``, slices shared out among every core."""
    bands, moved = Bands(plan.weights), plan.axes.index(0)
    slabs, across = plan.weights.shape[0], plan.shape[3 - moved]
    stored = _in_plane(volume.voxels, plan)[:: -1 if plan.flips[moved] else 1]
    target = np.moveaxis(out, moved, 0)

    def average(part: slice) -> None:
        averaged = np.empty((TOGETHER, slabs, across), np.float32)
        for begin in range(part.start, part.stop, TOGETHER):
            some = slice(begin, min(begin + TOGETHER, part.stop))
            sources, made = order[some], averaged[: some.stop - some.start]
            # Rescaling commutes with averaging, and fewer rows are left behind it. Air in place of padding does not.
            if volume.padding is not None:
                bands.times(stored[some], made, partial(volume.rescaled, index=sources))
            else:
                bands.times(stored[some], made)
                made *= volume.slope[sources].astype(np.float32)[:, None, None]
                made += volume.intercept[sources].astype(np.float32)[:, None, None]
            target[some] = made

    over_cores(average, len(order))


def _stack_tilted(volume: Volume, plan: CoronalPlan, order: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Average sheared planes into ``out``: every voxel is shared by the two stack rows it lies between.

    Rows of a slab that few of its planes reach become air, which is how the rest of the program knows what was never
    measured.
    """
    whole = np.floor(plan.offset)
    share = plan.offset - whole
    parts = []
    for step in range(int(whole.max()) + 2):
        part = plan.weights * np.where(whole == step, 1 - share, np.where(whole == step - 1, share, 0))
        if part.any():
            box = _span(part.sum(axis=1)), _span(part.sum(axis=0))
            parts.append((step, *box, part[box].astype(np.float32)))
    out[:] = 0
    reached = np.zeros(out.shape[:2], np.float32)
    for target, source in enumerate(order):
        image = _in_plane(volume.hounsfield(int(source)), plan)
        for step, slabs, planes, weights in parts:
            out[slabs, target + step] += weights @ image[planes]
            reached[slabs, target + step] += weights.sum(axis=1)
    measured = reached >= MOSTLY_MEASURED
    out /= np.where(measured, reached, 1)[:, :, None]
    out[~measured] = AIR_HU


def _span(weights: NDArray[np.float64]) -> slice:
    """From the first to the last that is not zero."""
    places = np.flatnonzero(weights)
    return slice(int(places[0]), int(places[-1]) + 1)


def _in_plane(images: NDArray[Any], plan: CoronalPlan) -> NDArray[Any]:
    """A view of stored slices (..., rows, columns), turned so that both axes run as the two remaining stack axes do."""
    kept = [(axis, flip) for axis, flip in zip(plan.axes, plan.flips, strict=True) if axis != 0]
    view = images if kept[0][0] < kept[1][0] else images.swapaxes(-1, -2)
    turned: NDArray[Any] = np.flip(view, tuple(i for i, (_, flip) in zip((-2, -1), kept, strict=True) if flip))
    return turned
