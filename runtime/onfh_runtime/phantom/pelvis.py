"""One half of the pelvis and the sacrum, in the hip frame."""

from __future__ import annotations

import numpy as np

from onfh_runtime.phantom.grid import Box
from onfh_runtime.phantom.shapes import Array, merge, merge_cone, merge_ellipsoid, smooth_min, sphere
from onfh_runtime.phantom.spec import Hip

__all__ = ["innominate_distance", "sacrum_distance", "wing_centre"]

OPENING = (0.70, -0.28, -0.66)
"""Where the acetabulum looks: lateral, to the front and down."""


def wing_centre(box: Box) -> Array:
    """P of the middle of the iliac wing at each (q, r): it leans outwards, more so at the front."""
    q = np.clip(box.q, -45, 60)
    lean = np.float32(0.46) - np.float32(0.0042) * q - np.float32(0.00003) * q * q
    back = np.square(np.maximum(q - np.float32(12), 0)) * np.clip((box.r - np.float32(10)) * np.float32(1 / 30.0), 0, 1)
    middle: Array = np.float32(-4.0) + (box.r - np.float32(18)) * lean - np.float32(0.10) * q - np.float32(0.018) * back
    return middle


def _wing(box: Box) -> Array:
    up = box.r
    half = (
        np.float32(3.6)
        + np.float32(13)
        * np.exp(-np.maximum(up - np.float32(18), 0) * np.float32(1 / 16.0))
        * np.exp(-np.square(box.q * np.float32(1 / 30.0)))
        + np.float32(3.5) * np.exp(-np.square((up - np.float32(112)) * np.float32(1 / 14.0)))
        + np.float32(5.0) * np.clip((box.q - np.float32(20)) * np.float32(1 / 30.0), 0, 1)
    )
    d: Array = np.abs(box.p - wing_centre(box)) * np.float32(0.9) - half
    q, r = (box.q - np.float32(9)) * np.float32(1 / 66.0), (up - np.float32(62)) * np.float32(1 / 58.0)
    outline = (np.sqrt(q * q + r * r) - np.float32(1)) * np.float32(60)
    result: Array = np.maximum(d, outline)
    return result


def innominate_distance(distance: Array, box: Box, hip: Hip, gap: float) -> None:
    """Join ilium, pubis and ischium to ``distance`` (shape of ``box``), in place, and hollow the socket.

    Args:
        distance: float32, signed mm.
        box: voxels in the hip frame.
        hip: sizes.
        gap: mm from the head centre to the midline.
    """
    radius = hip.head_radius
    socket = radius + hip.joint_space
    merge(distance, box, (-65, -60, 4), (75, 78, 128), _wing)

    def cup(near: Box) -> Array:
        d = sphere(near, (-3.5, 3.0, 4.0), socket + 5.0)
        o = OPENING
        face = (near.p * np.float32(o[0]) + near.q * np.float32(o[1])) + near.r * np.float32(o[2])
        result: Array = np.maximum(d, face - np.float32(1.0))
        return result

    reach = socket + 14
    merge(distance, box, (-reach,) * 3, (reach,) * 3, cup, 6.0)
    inner = 4.0 - gap
    merge_cone(distance, box, (-radius * 0.9, -19, -6), (inner + 10, -40, -42), 10.0, 8.0, 6.0)
    merge_ellipsoid(distance, box, (inner + 9, -40, -50), (9, 9, 18), 5.0)
    merge_cone(distance, box, (inner + 9, -36, -62), (-gap * 0.38, 8, -82), 6.0, 7.0, 4.0)
    merge_cone(distance, box, (-radius * 0.75, 24, -6), (-gap * 0.30, 27, -76), 13.0, 14.0, 6.0)
    near = box.around((0, 0, 0), reach)
    if near is not None:
        hollow = -sphere(near, (0, 0, 0), socket)
        view = distance[near.index]
        fossa = -sphere(near, (-socket + 1.0, 1.0, -9.0), 9.0)
        np.maximum(view, -smooth_min(-hollow, -fossa, 2.0), out=view)
        o = OPENING
        face = (near.p * np.float32(o[0]) + near.q * np.float32(o[1])) + near.r * np.float32(o[2])
        rim = sphere(near, (0, 0, 0), socket + 7.0)
        np.maximum(view, np.minimum(face - np.float32(3.0), -rim), out=view)
    _cut_midline(distance, box, inner)


def _cut_midline(distance: Array, box: Box, inner: float) -> None:
    low = box.within((-200, -80, -110), (inner + 12, 0, 0))
    if low is not None:
        view = distance[low.index]
        np.maximum(view, np.float32(inner - 1.5) - low.p, out=view)


def sacrum_distance(distance: Array, box: Box) -> None:
    """Join the sacrum and the lowest lumbar vertebra to ``distance``; ``box`` is centred between the heads."""
    merge_ellipsoid(distance, box, (0, 42, 88), (48, 22, 22))
    merge_cone(distance, box, (0, 40, 92), (0, 72, 45), 26.0, 18.0, 10.0)
    merge_cone(distance, box, (0, 72, 45), (0, 74, 5), 15.0, 5.0, 8.0)
    merge_cone(distance, box, (0, 22, 118), (0, 18, 150), 24.0, 25.0, 0.0)
    for side in (-1.0, 1.0):
        for level, depth in ((82.0, 52.0), (62.0, 64.0)):
            near = box.around((side * 20, depth, level), 12)
            if near is not None:
                view = distance[near.index]
                np.maximum(view, -sphere(near, (side * 20, depth, level), 6.0), out=view)
