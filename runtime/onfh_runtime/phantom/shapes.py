"""Signed distances to simple solids (negative inside, mm) and how they cover voxels.

Method: constructive solid geometry on distance fields with a polynomial smooth minimum (I. Quilez, "Smooth minimum").
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.phantom.grid import Box

__all__ = ["FAR_MM", "Array", "Point", "cone", "coverage", "ellipsoid", "merge", "paint", "smooth_min", "sphere"]

Array = NDArray[np.float32]
Point = tuple[float, float, float]

FAR_MM = 50.0
"""Distance given to voxels no solid has come near."""
MARGIN_MM = 6.0
"""How far around a solid its distance is computed: more than any smooth joint and voxel."""


def sphere(box: Box, centre: Point, radius: float) -> Array:
    """Distance to a sphere, float32, shape of ``box``."""
    p, q, r = box.p - np.float32(centre[0]), box.q - np.float32(centre[1]), box.r - np.float32(centre[2])
    result: Array = np.sqrt((p * p + q * q) + r * r)
    result -= np.float32(radius)
    return result


def ellipsoid(box: Box, centre: Point, radii: Point) -> Array:
    """Approximate distance to an axis-aligned ellipsoid, exact to first order on a sphere."""
    p = (box.p - np.float32(centre[0])) / np.float32(radii[0])
    q = (box.q - np.float32(centre[1])) / np.float32(radii[1])
    r = (box.r - np.float32(centre[2])) / np.float32(radii[2])
    result: Array = np.sqrt((p * p + q * q) + r * r)
    result -= np.float32(1.0)
    result *= np.float32(np.prod(radii) ** (1 / 3))
    return result


def cone(box: Box, start: Point, end: Point, radius: float, end_radius: float) -> Array:
    """Approximate distance to a capsule whose radius changes linearly from start to end."""
    a = np.asarray(start, np.float64)
    axis = np.asarray(end, np.float64) - a
    length2 = float(axis @ axis)
    p, q, r = (v - np.float32(o) for v, o in zip((box.p, box.q, box.r), a, strict=True))
    k = (axis / length2).astype(np.float32)
    t: Array = (p * k[0] + q * k[1]) + r * k[2]
    np.clip(t, 0, 1, out=t)
    along = axis.astype(np.float32)
    d = np.square(p - t * along[0])
    d += np.square(q - t * along[1])
    d += np.square(r - t * along[2])
    result: Array = np.sqrt(d, out=d)
    t *= np.float32(end_radius - radius)
    t += np.float32(radius)
    result -= t
    return result


def smooth_min(a: Array, b: Array, k: float) -> Array:
    """Smooth union of two distances, rounded over ``k`` mm."""
    if k <= 0:
        return np.minimum(a, b)
    h = np.maximum(np.float32(k) - np.abs(a - b), np.float32(0))
    result: Array = np.minimum(a, b) - h * h * np.float32(0.25 / k)
    return result


def merge(distance: Array, box: Box, low: Point, high: Point, solid: Callable[[Box], Array], k: float = 0.0) -> None:
    """Join a solid that lies between two corners to ``distance`` (shape of ``box``), in place."""
    near = box.within(
        (low[0] - MARGIN_MM, low[1] - MARGIN_MM, low[2] - MARGIN_MM),
        (high[0] + MARGIN_MM, high[1] + MARGIN_MM, high[2] + MARGIN_MM),
    )
    if near is not None:
        distance[near.index] = smooth_min(distance[near.index], solid(near), k)


def merge_cone(
    distance: Array, box: Box, start: Point, end: Point, radius: float, end_radius: float, k: float = 0.0
) -> None:
    """Join a :func:`cone` to ``distance``, in place."""
    reach = max(radius, end_radius)
    low = (min(start[0], end[0]) - reach, min(start[1], end[1]) - reach, min(start[2], end[2]) - reach)
    high = (max(start[0], end[0]) + reach, max(start[1], end[1]) + reach, max(start[2], end[2]) + reach)
    merge(distance, box, low, high, lambda near: cone(near, start, end, radius, end_radius), k)


def merge_ellipsoid(distance: Array, box: Box, centre: Point, radii: Point, k: float = 0.0) -> None:
    """Join an :func:`ellipsoid` to ``distance``, in place."""
    low = (centre[0] - radii[0], centre[1] - radii[1], centre[2] - radii[2])
    high = (centre[0] + radii[0], centre[1] + radii[1], centre[2] + radii[2])
    merge(distance, box, low, high, lambda near: ellipsoid(near, centre, radii), k)


def coverage(distance: Array, width: float) -> Array:
    """Share of a voxel of ``width`` mm that lies inside, 0 to 1: the partial volume of a flat face."""
    result: Array = np.float32(0.5) - distance * np.float32(1 / width)
    np.clip(result, 0, 1, out=result)
    return result


def paint(hu: Array, cover: Array, value: Array | float) -> None:
    """Mix ``value`` into ``hu`` by ``cover``, in place."""
    hu += cover * (np.asarray(value, np.float32) - hu)
