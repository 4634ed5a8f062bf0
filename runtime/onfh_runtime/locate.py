"""Finding balls in bone: where they may be, and where exactly their surface is.

:func:`hough_peaks` asks where joint lines curve around one point: a generalised Hough transform (D. H. Ballard, Pattern
Recognition 13, 1981) in which every dark voxel between two bones votes along its normal. :func:`fit_sphere` fits a
sphere to edges along rays. Points are LPS mm unless a name says voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEAST_RADIUS_MM",
    "MOST_RADIUS_MM",
    "NEVER_MEASURED_HU",
    "WorkingGrid",
    "clipped",
    "fit_sphere",
    "hough_peaks",
    "working_grid",
]

Floats = NDArray[np.float32]
Points = NDArray[np.float64]

WORKING_MM = 3.0
"""Coarse enough to search a pelvis in tenths of a second, fine enough to show a joint space of 3 to 5 mm."""
NEVER_MEASURED_HU = -900.0
"""Padding is air; no part of a hip is, and gas in a joint is small."""
SOFTEST_HU, HARDEST_HU = -150.0, 700.0
"""HU are clipped to this: neither air nor metal may outvote bone."""
VALLEY_HU = 30.0
"""Second derivative across a dark sheet, HU per squared voxel, from which it votes; smoothed noise stays below."""
BONE_HU = 130.0
VALLEY_RADII_MM = tuple(range(18, 34, 2))
"""Where joint lines lie around the centre: head radius 17 to 30 mm and half a joint space."""
LEAST_RADIUS_MM, MOST_RADIUS_MM = 17.0, 31.0


@dataclass(frozen=True)
class WorkingGrid:
    """A volume on a grid of cubes of ``spacing`` mm: (slice, row, column) float32 HU and its affine to LPS mm."""

    hu: Floats
    affine: NDArray[np.float64]
    spacing: float

    def points(self, voxels: Points) -> Points:
        """(n, 3) voxel coordinates to LPS mm."""
        return voxels @ self.affine[:3, :3].T + self.affine[:3, 3]

    def voxels(self, points: Points) -> Points:
        """(..., 3) LPS mm to voxel coordinates."""
        inverse = np.linalg.inv(self.affine)
        flat = points.reshape(-1, 3) @ inverse[:3, :3].T  # one product, where a stack would be many small ones
        flat += inverse[:3, 3]
        result: Points = flat.reshape(points.shape)
        return result


def working_grid(hu: Floats, affine: NDArray[np.float64], spacing: float = WORKING_MM) -> WorkingGrid:
    """Block means, then linear interpolation where the blocks do not fill ``spacing`` exactly.

    Args:
        hu: (slice, row, column) float32.
        affine: (4, 4) voxel indices to LPS mm, with orthogonal axes.
        spacing: mm.
    """
    volume = hu
    first, step = np.zeros(3), np.ones(3)
    for axis, size in enumerate(np.linalg.norm(affine[:3, :3], axis=0)):
        count = volume.shape[axis]
        block = min(max(1, round(spacing / float(size))), count)
        if block > 1:
            whole = count // block * block
            parts = [volume[(slice(None),) * axis + (slice(k, whole, block),)] for k in range(block)]
            total = parts[0].astype(np.float32)
            for part in parts[1:]:
                total += part
            volume = total
            volume *= np.float32(1 / block)
        first[axis], step[axis] = (block - 1) / 2, block
        width = block * float(size)
        count = volume.shape[axis]
        if count > 1 and abs(width / spacing - 1) > 0.01:
            at = np.arange(int((count - 1) * width / spacing) + 1) * (spacing / width)
            low = np.minimum(at.astype(np.intp), count - 2)
            share = (at - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
            below = np.take(volume, low, axis)
            volume = below + share * (np.take(volume, low + 1, axis) - below)
            step[axis] = block * spacing / width
    out = affine.copy()
    out[:3, :3] = affine[:3, :3] * step
    out[:3, 3] = affine[:3, 3] + affine[:3, :3] @ first
    return WorkingGrid(np.ascontiguousarray(volume, np.float32), out, spacing)


def clipped(grid: WorkingGrid, times: int) -> WorkingGrid:
    """The grid with air and metal clipped to soft tissue and bone, smoothed ``times`` times."""
    return WorkingGrid(smooth(np.clip(grid.hu, SOFTEST_HU, HARDEST_HU), times), grid.affine, grid.spacing)


def smooth(volume: Floats, times: int = 1) -> Floats:
    """Binomial 1-2-1 smoothing along every axis, with the edge voxels repeated outside."""
    for _ in range(times):
        for axis in range(3):
            lines = np.moveaxis(volume, axis, 0)
            out = lines * np.float32(2)
            out[1:] += lines[:-1]
            out[:-1] += lines[1:]
            out[0] += lines[0]
            out[-1] += lines[-1]
            out *= np.float32(0.25)
            volume = np.moveaxis(out, 0, axis)
    return volume


def sample(volume: Floats, voxels: NDArray[np.floating]) -> Floats:
    """Trilinear interpolation at (..., 3) voxel coordinates; coordinates outside are moved to the border."""
    flat = np.ascontiguousarray(volume).ravel()
    steps = (volume.shape[1] * volume.shape[2], volume.shape[2], 1)
    base: Any = 0
    share, beyond = [], []  # of each axis: how far behind the voxel before it, and where the voxel behind it is
    for axis, (count, step) in enumerate(zip(volume.shape, steps, strict=True)):
        at = np.clip(voxels[..., axis], 0, count - 1).astype(np.float32)
        low = np.minimum(at.astype(np.intp), max(count - 2, 0))
        share.append(at - low)
        beyond.append(step if count > 1 else 0)
        base = base + low * step
    before = [1 - each for each in share]
    faces = []
    for offset in (0, beyond[0]):
        edges = []
        for corner in (offset, offset + beyond[1]):
            edge = flat[corner:].take(base) * before[2]
            edge += flat[corner + beyond[2] :].take(base) * share[2]
            edges.append(edge)
        edges[0] *= before[1]
        edges[1] *= share[1]
        edges[0] += edges[1]
        faces.append(edges[0])
    faces[0] *= before[0]
    faces[1] *= share[0]
    faces[0] += faces[1]
    result: Floats = faces[0]
    return result


@cache
def fibonacci_sphere(count: int) -> NDArray[np.float64]:
    """(count, 3) unit vectors spread evenly over the sphere (spherical Fibonacci lattice)."""
    k = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * k / count), np.pi * (1 + np.sqrt(5)) * k
    return np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], axis=1)


def hough_peaks(grid: WorkingGrid, count: int) -> Points:
    """Centres around which joint lines curve, strongest first.

    Args:
        grid: the whole volume.
        count: how many at most; they are at least 12 mm apart.

    Returns:
        (n, 3) LPS mm.
    """
    if min(grid.hu.shape) < 5:
        return np.empty((0, 3))
    volume = clipped(grid, times=1).hu
    field = smooth(_votes(volume.shape, *_valleys(volume), grid.spacing), 2)
    reach = round(12 / grid.spacing)
    peaks = []
    for _ in range(count):
        top = np.unravel_index(int(np.argmax(field)), field.shape)
        if field[top] <= 0:
            break
        peaks.append(top)
        field[tuple(slice(max(0, int(i) - reach), int(i) + reach + 1) for i in top)] = 0
    return grid.points(np.array(peaks, np.float64).reshape(-1, 3))


def _votes(shape: tuple[int, ...], where: Floats, normal: Floats, weight: Floats, spacing: float) -> Floats:
    """What every voxel of a volume gets from the valleys whose normals meet in it, of ``shape``."""
    radii = np.array(VALLEY_RADII_MM, np.float64)
    steps = np.concatenate([radii, -radii])[:, None] / spacing
    # A sphere of twice the radius has four times the voxels; 1/r weighs against large radii without drowning them.
    shares = np.tile(LEAST_RADIUS_MM / radii, 2)[:, None].astype(np.float32) * weight
    inside: Any = True
    target: Any = 0
    for count, start, along in zip(shape, where.T, normal.T, strict=True):
        at = np.rint(start + along * steps.astype(np.float32)).astype(np.int32)
        inside = inside & (at >= 0) & (at < count)
        target = target * count + at
    # The sums are exact in float64, in whatever order: shares are float32, and none is small beside another.
    votes = np.bincount(target[inside], shares[inside], math.prod(shape))
    return votes.astype(np.float32).reshape(shape)


def _valleys(volume: Floats) -> tuple[Floats, Floats, Floats]:
    """Voxels of dark sheets between bones: (n, 3) voxels, (n, 3) unit normals, (n,) weights 0 to 1."""
    centre = volume[1:-1, 1:-1, 1:-1]
    second = (
        np.diff(volume[:, 1:-1, 1:-1], 2, axis=0),
        np.diff(volume[1:-1, :, 1:-1], 2, axis=1),
        np.diff(volume[1:-1, 1:-1, :], 2, axis=2),
    )
    sheet = second[0] + second[1] + second[2] > VALLEY_HU
    sheet &= centre > -60
    sheet &= centre < 450
    at = np.unravel_index(np.flatnonzero(sheet), sheet.shape)
    where = np.stack(at, axis=1) + 1
    flat, stride = volume.ravel(), (volume.shape[1] * volume.shape[2], volume.shape[2], 1)
    base = where @ np.array(stride)
    hessian = np.empty((len(where), 3, 3), np.float32)
    for i in range(3):
        hessian[:, i, i] = second[i][at]
        for j in range(i):
            a, b = stride[i], stride[j]
            mixed = flat[base + a + b] + flat[base - a - b] - flat[base + a - b] - flat[base - a + b]
            hessian[:, i, j] = hessian[:, j, i] = mixed / 4
    # Repeated squaring of the shifted matrix leaves the eigenvector of the largest eigenvalue in every column.
    power = hessian + (np.abs(hessian).sum(axis=(1, 2)) / 3)[:, None, None] * np.eye(3, dtype=np.float32)
    for _ in range(3):
        power = power @ power
        largest = reduce(np.maximum, np.abs(power).reshape(-1, 9).T)
        power /= largest[:, None, None] + np.float32(1e-9)
    column = np.argmax(np.einsum("nii->ni", power), axis=1)
    normal = power[np.arange(len(where)), :, column]
    normal /= np.linalg.norm(normal, axis=1)[:, None] + np.float32(1e-9)
    strength = np.einsum("ni,nij,nj->n", normal, hessian, normal)
    keep = strength > VALLEY_HU
    place, normal, strength = where[keep].astype(np.float32), normal[keep], strength[keep]
    bottom = sample(volume, place)
    for sign in (1, -1):
        wall = np.max([sample(volume, place + np.float32(sign * t) * normal) for t in (1.0, 1.5, 2.0, 2.5)], axis=0)
        keep = (wall > BONE_HU) & (wall - bottom > 20)
        place, normal, strength, bottom = place[keep], normal[keep], strength[keep], bottom[keep]
    return place, normal, np.minimum(strength / 100, 1)


RAYS = 400
RAY_STEP_MM = 1.0
WEAKEST_EDGE = 6.0
"""HU per mm; a fall of bone into cartilage, blurred by 3 mm voxels, is 10 to 60."""
STEEPEST_EDGE = 40.0
"""HU per mm, from which on an edge counts no more."""
MOST_DRIFT_MM = 12.0
START_RADII_MM = (21.0, 24.0, 27.0)
METAL_LIKE_HU = 1300.0
"""Denser than bone in voxels of 2 mm."""
INSIDE_HU = 300.0
"""What metal is replaced by: cancellous bone, so that a screw has no surface of its own."""
RIM_DEPTH_MM = 1.5
"""How far the middle of the subchondral plate lies below the surface."""


def fit_sphere(surroundings: WorkingGrid, centre: Points) -> tuple[Points, float, float]:
    """Fit a sphere to the outer surface of a head.

    Along every ray from the centre the steepest fall of HU near the expected radius is taken for the surface; weighted
    least squares moves centre and radius; the search narrows with every round. Metal is taken for bone.

    Args:
        surroundings: the volume around one head, in voxels of about 2 mm.
        centre: (3,) LPS mm, within about 8 mm.

    Returns:
        Centre in LPS mm, radius in mm, and the share of rays that end near that sphere.
    """
    rays = fibonacci_sphere(RAYS)
    plain, metal = surroundings.hu, surroundings.hu > METAL_LIKE_HU
    if metal.any():
        plain = np.where(smooth(metal.astype(np.float32)) > 0, np.float32(INSIDE_HU), plain)
    local = clipped(WorkingGrid(plain, surroundings.affine, surroundings.spacing), times=1)
    fits = [_fit_from(local, rays, centre, start) for start in START_RADII_MM]
    centre, radius, support = max(fits, key=lambda fit: fit[2])
    # The back of the cup is concentric and often steeper; the head ends just outside the brightest layer before it.
    radii = np.arange(radius - 7, radius + 1, RAY_STEP_MM)
    shells = sample(local.hu, local.voxels(centre + rays[:, None, :] * radii[:, None])).mean(axis=0)
    brightest = int(shells.argmax())
    if brightest > 0:
        radius = min(radius, float(radii[brightest]) + RIM_DEPTH_MM)
    return centre, radius, support


def _fit_from(
    local: WorkingGrid, rays: NDArray[np.float64], start: Points, radius: float
) -> tuple[Points, float, float]:
    radii = np.arange(8, 40, RAY_STEP_MM)
    begin, centre = start, start
    for width in (6.0, 5.0, 4.0, 3.0, 2.5, 2.0):
        # Further from the expected radius even the steepest edge counts for less than the weakest.
        reach = width * math.sqrt(2 * math.log(STEEPEST_EDGE / WEAKEST_EDGE)) + RAY_STEP_MM
        shells = radii[(radii >= radius - reach - RAY_STEP_MM) & (radii <= radius + reach + RAY_STEP_MM)]
        along = local.voxels(centre + rays[:, None, :] * shells[:, None])
        profile = sample(local.hu, along)
        fall = np.where(_inside(along[:, 2:], local), (profile[:, :-2] - profile[:, 2:]) / (2 * RAY_STEP_MM), 0)
        middle = shells[1:-1]
        near = np.minimum(fall, STEEPEST_EDGE) * np.exp(-0.5 * ((middle - radius) / width) ** 2)
        best = near.argmax(axis=1)
        weight = near[np.arange(RAYS), best]
        weight = np.where(weight > WEAKEST_EDGE, weight, 0)
        if np.count_nonzero(weight) < RAYS // 8:
            return centre, radius, 0.0
        design = np.concatenate([rays, np.ones((RAYS, 1))], axis=1)
        # The ridge on the centre keeps a head that shows only one side from sliding away along the unseen direction.
        normal = design.T @ (design * weight[:, None]) + np.diag([0.1, 0.1, 0.1, 0]) * weight.sum()
        change = np.linalg.solve(normal, design.T @ (weight * (middle[best] - radius)))
        seen_from = centre
        centre = centre + np.clip(change[:3], -4, 4)
        radius = float(np.clip(radius + change[3], LEAST_RADIUS_MM, MOST_RADIUS_MM))
        drift = float(np.linalg.norm(centre - begin))
        if drift > MOST_DRIFT_MM:
            centre = begin + (centre - begin) * (MOST_DRIFT_MM / drift)
    known = int(np.count_nonzero(_inside(local.voxels(seen_from + rays * radii[-1]), local)))
    return centre, radius, float(weight.sum() / (STEEPEST_EDGE * max(known, RAYS // 4)))


def _inside(voxels: Points, grid: WorkingGrid) -> NDArray[np.bool_]:
    """Which of (..., 3) voxel coordinates lie in a voxel of the grid."""
    inside: NDArray[np.bool_] = np.ones(voxels.shape[:-1], np.bool_)
    for axis, count in enumerate(grid.hu.shape):
        at = voxels[..., axis]
        inside &= (at >= -0.5) & (at <= count - 0.5)
    return inside
