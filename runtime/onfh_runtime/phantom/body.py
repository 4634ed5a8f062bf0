"""Skin, fat, muscles, bladder and bowel, in the frame between the heads (p to the patient's left)."""

from __future__ import annotations

import numpy as np

from onfh_runtime.phantom.field import Field
from onfh_runtime.phantom.grid import Box
from onfh_runtime.phantom.shapes import Array, Point, cone, coverage, ellipsoid, paint
from onfh_runtime.phantom.spec import PhantomSpec

__all__ = ["paint_body", "paint_muscles"]

FAT_HU, MUSCLE_HU, WATER_HU, GAS_HU = -95.0, 58.0, 8.0, -850.0

MUSCLES: tuple[tuple[Point, Point], ...] = (
    ((32, 6, 40), (20, 40, 48)),
    ((2, 64, 2), (56, 26, 72)),
    ((24, -46, -15), (20, 16, 62)),
    ((46, -16, -92), (30, 42, 70)),
    ((-40, -16, -104), (33, 38, 60)),
    ((-37, 12, -12), (9, 32, 34)),
    ((-22, -6, -44), (30, 22, 13)),
    ((-8, 44, -104), (28, 20, 56)),
    ((14, 30, -14), (30, 9, 11)),
    ((2, -8, 74), (9, 34, 42)),
    ((54, -16, 0), (11, 24, 44)),
)
"""(centre, radii) in the hip frame: glutei, rectus and sartorius, vasti, adductors, obturators, hamstrings, rotators,
iliacus, tensor."""


def _outline(box: Box, half_width: float, half_depth: float, inset: float) -> Array:
    """Distance to the trunk's outline ``inset`` mm under the skin: a superellipse that narrows to the waist."""
    up = box.r
    widest = np.float32(1.0) - np.float32(0.15) * np.clip((up - np.float32(10)) * np.float32(1 / 120.0), 0, 1) ** 1.5
    widest = widest - np.float32(0.05) * np.clip((-up - np.float32(60)) * np.float32(1 / 60.0), 0, 1)
    a = widest * np.float32(half_width) - np.float32(inset)
    b = np.float32(half_depth) * (np.float32(1) - np.float32(0.06) * np.clip(np.abs(up) * np.float32(1 / 120.0), 0, 1))
    b = b - np.float32(0.8 * inset)
    across = (np.abs(box.p) / a) ** np.float32(2.6)
    deep = (np.abs(box.q - np.float32(6)) / b) ** np.float32(2.6)
    result: Array = (across + deep).astype(np.float32)
    result -= np.float32(1.0)
    result *= np.float32(min(half_width, half_depth) / 2.6)
    return result


def _perineum(box: Box) -> Array:
    """Distance to the air between the thighs, positive inside it."""
    result: Array = (np.float32(-92) - box.r) * np.float32(0.35) - np.abs(box.p) + box.q * np.float32(0.0)
    return result


def paint_body(hu: Array, box: Box, spec: PhantomSpec, soft: Field, width: float) -> None:
    """Paint skin, fat, the abdominal wall, bladder and bowel into ``hu`` (shape of ``box``), in place."""
    skin = _outline(box, spec.half_width_mm, spec.half_depth_mm, 0.0)
    np.maximum(skin, _perineum(box), out=skin)
    texture = soft.at(box)
    texture *= np.float32(9.0)
    paint(hu, coverage(skin, width), texture + np.float32(FAT_HU))
    paint(hu, coverage(np.abs(skin + np.float32(1.0)) - np.float32(0.9), width), 10.0)
    upper = box.within((-400, -400, 25), (400, 400, 400))
    if upper is not None:
        wall = _outline(upper, spec.half_width_mm, spec.half_depth_mm, spec.fat_mm)
        cover = coverage(np.abs(wall + np.float32(6)) - np.float32(6), width)
        cover *= np.clip((upper.r - np.float32(30)) * np.float32(1 / 20), 0, 1)
        paint(hu[upper.index], cover, texture[upper.index] + np.float32(MUSCLE_HU - 5))
    rng = np.random.default_rng([spec.seed, 5])
    bladder = rng.uniform(0.75, 1.1)
    _organ(hu, box, (0, -22, 4), (46 * bladder, 36 * bladder, 36 * bladder), 45.0, None, width)
    _organ(hu, box, (0, -22, 4), (43 * bladder, 33 * bladder, 33 * bladder), WATER_HU, None, width)
    _organ(hu, box, (rng.uniform(-6, 6), 58, 2), (18, 16, 34), 35.0, texture, width)
    for _ in range(16):
        centre = (rng.uniform(-70, 70), rng.uniform(-60, 30), rng.uniform(52, 125))
        radii = (rng.uniform(14, 26), rng.uniform(12, 22), rng.uniform(12, 24))
        _organ(hu, box, centre, radii, rng.uniform(15, 50), texture, width)
        if rng.random() < 0.5:
            gas = (centre[0], centre[1] - 0.35 * radii[1], centre[2])
            inner = (0.6 * radii[0], 0.45 * radii[1], 0.6 * radii[2])
            _organ(hu, box, gas, inner, GAS_HU, None, width)


def _organ(hu: Array, box: Box, centre: Point, radii: Point, value: float, texture: Array | None, width: float) -> None:
    near = box.within(
        (centre[0] - radii[0] - 3, centre[1] - radii[1] - 3, centre[2] - radii[2] - 3),
        (centre[0] + radii[0] + 3, centre[1] + radii[1] + 3, centre[2] + radii[2] + 3),
    )
    if near is not None:
        inside = value if texture is None else texture[near.index] + np.float32(value)
        paint(hu[near.index], coverage(ellipsoid(near, centre, radii), width), inside)


def paint_muscles(hu: Array, box: Box, fat_mm: float, soft: Field, scale: float, width: float) -> None:
    """Paint the muscles and vessels of one hip into ``hu``; ``box`` is in the hip frame, ``scale`` grows with size."""
    for centre, radii in MUSCLES:
        grown = (radii[0] * scale, radii[1] * scale, radii[2] * scale)
        near = box.within(
            (centre[0] - grown[0] - 4, centre[1] - grown[1] - 4, centre[2] - grown[2] - 4),
            (centre[0] + grown[0] + 4, centre[1] + grown[1] + 4, centre[2] + grown[2] + 4),
        )
        if near is None:
            continue
        texture = soft.at(near)
        d = ellipsoid(near, centre, grown) + texture * np.float32(1.6)
        paint(hu[near.index], coverage(d, 3 * width), texture * np.float32(11) + np.float32(MUSCLE_HU))
    lines: tuple[tuple[Point, Point, float, float, float], ...] = (
        ((-42, 6, 130), (-2, -36, 4), 19.0, 15.0, MUSCLE_HU),
        ((-2, -36, 4), (2, 2, -52), 15.0, 8.0, MUSCLE_HU),
        ((-24, -38, 60), (-8, -58, -30), 5.0, 4.5, 48.0),
        ((-36, -36, 60), (-18, -56, -40), 6.0, 5.0, 45.0),
    )
    for start, end, r0, r1, value in lines:
        reach = max(r0, r1) + 4
        near = box.within(
            (min(start[0], end[0]) - reach, min(start[1], end[1]) - reach, min(start[2], end[2]) - reach),
            (max(start[0], end[0]) + reach, max(start[1], end[1]) + reach, max(start[2], end[2]) + reach),
        )
        if near is not None:
            paint(hu[near.index], coverage(cone(near, start, end, r0, r1), 2 * width), value)
