"""From stored voxels to the coronal stack, and a mask back again.

The stack keeps the volume's own axes: the array axis nearest to each patient axis is taken and flipped where needed, so
no voxel is interpolated in plane. Front to back, thin planes are averaged over slabs of the bundle's slice spacing with
exact overlap weights, as a scanner's thick reformat does; the first slab starts at the front face of the volume. Planes
that are already that thick (a native coronal series) are taken as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.bundle import Coverage
from onfh_runtime.errors import SeriesError
from onfh_runtime.volume import CoronalStack, Volume, spacing_from_affine

__all__ = ["CoronalPlan", "coronal_stack", "head_box", "mask_to_volume", "plan_coronal"]

THICK_ENOUGH = 0.99
"""Planes at least this share of the wanted spacing count as thick enough: headers round spacings to 0.01 mm."""

CANONICAL_AXES = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
"""Directions in LPS of the stack's (slice, row, column) axes: to the back, to the feet, to the patient's left."""


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
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    weights: NDArray[np.float64]
    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    slab_of_plane: NDArray[np.int64]

    @property
    def native(self) -> bool:
        """True when every stack slice is one stored slice, unchanged."""
        return self.axes[0] == 0 and self.weights.shape[0] == self.weights.shape[1]

    def canonical(self, array: NDArray[Any]) -> NDArray[Any]:
        """View of a volume-shaped array in stack orientation (planes not yet averaged)."""
        view = np.transpose(array, self.axes)
        return np.flip(view, tuple(axis for axis, flip in enumerate(self.flips) if flip))

    def source_slice(self, index: int) -> int:
        """The stored slice that native stack slice ``index`` shows."""
        return len(self.slab_of_plane) - 1 - index if self.flips[0] else index


def plan_coronal(volume: Volume, slice_spacing_mm: float) -> CoronalPlan:
    """Plan the coronal stack of a volume.

    Args:
        volume: any axis-aligned or oblique orthogonal volume.
        slice_spacing_mm: wanted distance between stack slices, mm.

    Raises:
        SeriesError: ``too_few_slices`` when the volume is thinner than one slab.
    """
    axes, flips = _nearest_axes(volume.affine)
    canonical = _reoriented(volume.affine, volume.voxels.shape, axes, flips)
    planes, rows, columns = (volume.voxels.shape[axis] for axis in axes)
    plane_mm = spacing_from_affine(canonical)[0]
    if plane_mm >= slice_spacing_mm * THICK_ENOUGH:
        return CoronalPlan(axes, flips, np.eye(planes), canonical, (planes, rows, columns), np.arange(planes))
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
    return CoronalPlan(axes, flips, weights, affine, (slabs, rows, columns), slab_of_plane)


def coronal_stack(volume: Volume, plan: CoronalPlan) -> CoronalStack:
    """Average the stored slices into the coronal stack, one stored slice at a time.

    Returns:
        The stack, HU float32, canonical orientation; see :class:`CoronalStack`.
    """
    out = np.empty(plan.shape, np.float32)
    weights = plan.weights.astype(np.float32)
    moved = plan.axes.index(0)
    order = np.arange(volume.voxels.shape[0])[:: -1 if plan.flips[moved] else 1]
    if moved == 0 and plan.native:
        for target, source in enumerate(order):
            out[target] = _in_plane(volume.hounsfield(int(source)), plan)
    elif moved == 0:
        for target in range(plan.shape[0]):
            total = np.zeros(plan.shape[1:], np.float32)
            for plane in np.flatnonzero(weights[target]):
                total += weights[target, plane] * _in_plane(volume.hounsfield(int(order[plane])), plan)
            out[target] = total
    else:
        for target, source in enumerate(order):
            np.matmul(weights, _in_plane(volume.hounsfield(int(source)), plan), out=_plane_of(out, moved, target))
    return CoronalStack(out, plan.affine)


def mask_to_volume(mask: NDArray[np.uint8], plan: CoronalPlan, volume: Volume) -> NDArray[np.uint8]:
    """Put a mask on the coronal stack back onto the volume's own voxels.

    Every stored plane takes the mask of the slab its centre lies in, so the volume in mm3 differs from the stack's by
    at most the rounding of planes to slabs.

    Args:
        mask: (slices, rows, columns) uint8 on the stack.
        plan: the plan the stack was made with.
        volume: the volume it was made from.

    Returns:
        uint8, the shape of ``volume.voxels``.
    """
    planes = np.zeros((len(plan.slab_of_plane), *plan.shape[1:]), np.uint8)
    inside = plan.slab_of_plane >= 0
    planes[inside] = mask[plan.slab_of_plane[inside]]
    flipped = np.flip(planes, tuple(axis for axis, flip in enumerate(plan.flips) if flip))
    return np.ascontiguousarray(np.transpose(flipped, np.argsort(plan.axes)))


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


def _nearest_axes(affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Volume axis for each stack axis, and whether it is flipped, for the best total agreement."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    agreement = CANONICAL_AXES @ directions
    best = max(permutations(range(3)), key=lambda p: sum(abs(agreement[i, p[i]]) for i in range(3)))
    return best, tuple(bool(agreement[i, best[i]] < 0) for i in range(3))  # type: ignore[return-value]


def _reoriented(
    affine: NDArray[np.float64], shape: tuple[int, ...], axes: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> NDArray[np.float64]:
    result = affine.copy()
    for target, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        result[:3, target] = -affine[:3, axis] if flip else affine[:3, axis]
        if flip:
            result[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
    return result


def _in_plane(image: NDArray[np.float32], plan: CoronalPlan) -> NDArray[np.float32]:
    """A stored slice (rows, columns) turned so that its two axes run as the two remaining stack axes do."""
    kept = [(axis, flip) for axis, flip in zip(plan.axes, plan.flips, strict=True) if axis != 0]
    view = image if kept[0][0] < kept[1][0] else image.T
    turned: NDArray[np.float32] = np.flip(view, tuple(i for i, (_, flip) in enumerate(kept) if flip))
    return turned


def _plane_of(out: NDArray[np.float32], axis: int, index: int) -> NDArray[np.float32]:
    return out[:, index, :] if axis == 1 else out[:, :, index]
