"""Metal in one femur, and the streaks it throws across the image."""

from __future__ import annotations

import numpy as np

from onfh_runtime.phantom.femur import Femur
from onfh_runtime.phantom.grid import Box
from onfh_runtime.phantom.shapes import Array, Point, cone, coverage, paint
from onfh_runtime.phantom.spec import Hip

__all__ = ["METAL_HU", "paint_metal"]

METAL_HU = 7000.0
"""Steel and titanium lie above what 12 bits can store (3071 HU)."""
STREAK_REACH_MM = 110.0


def paint_metal(hu: Array, box: Box, hip: Hip, femur: Femur, key: tuple[int, ...], width: float) -> None:
    """Paint a lag screw and a nail into ``hu`` (shape of ``box``, hip frame), in place.

    Streaks run through each axial plane the metal crosses.
    """
    rng = np.random.default_rng((*key, 11))
    e, radius = femur.neck_end, hip.head_radius
    tip: Point = tuple(-0.35 * radius * v for v in femur.axis)  # type: ignore[assignment]
    out: Point = (e[0] * 1.35, e[1] * 1.35, e[2] * 1.35)
    near = box.within((-STREAK_REACH_MM, -STREAK_REACH_MM, e[2] - 70), (STREAK_REACH_MM, STREAK_REACH_MM, radius))
    if near is None:
        return
    screw = cone(near, tip, out, 5.0, 5.0)
    nail = cone(near, (e[0], e[1], e[2] + 22), (e[0] - 6, e[1] + 3, e[2] - 130), 6.0, 5.5)
    along = np.clip(near.r / np.float32(e[2]), 0, 1.2)
    p, q = near.p - along * np.float32(e[0]), near.q - along * np.float32(e[1])
    angle = np.arctan2(q, p)
    far = np.sqrt(p * p + q * q)
    pattern = np.zeros(np.broadcast_shapes(angle.shape, near.r.shape), np.float32)
    for k, strength in ((3, 0.8), (7, 1.0), (13, 0.9), (29, 0.7)):
        pattern += np.float32(strength) * np.sin(np.float32(k) * angle + np.float32(rng.uniform(0, 6.3)) + near.r * 0.2)
    reach = np.clip((near.r - np.float32(e[2] - 60)) * np.float32(1 / 10), 0, 1)
    reach = reach * np.clip((np.float32(0.4 * radius) - near.r) * np.float32(1 / 6), 0, 1)
    view = hu[near.index]
    view += (pattern * np.float32(150) * np.exp(far * np.float32(-1 / 28.0)) * reach).astype(np.float32)
    paint(view, coverage(np.minimum(screw, nail), width), METAL_HU)
