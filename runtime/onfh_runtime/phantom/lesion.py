"""Osteonecrosis and what may be mistaken for it, inside the femoral head, in the hip frame.

The necrosis has no density of its own: it replaces the trabecular pattern by a mottled one of about the same mean,
behind a serpiginous sclerotic rim, and may break under the cartilage.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.phantom.femur import Textures
from onfh_runtime.phantom.grid import Box
from onfh_runtime.phantom.shapes import Array, Point, coverage, sphere
from onfh_runtime.phantom.spec import Hip, Lesion

__all__ = ["add_confounders", "add_lesion", "lesion_radius"]

PLATE_MM = 1.2
"""Depth of the subchondral plate, which stays."""
SOFT_EDGE_MM = 1.0
HEAD_DENSITY = 1.28
"""Mean marrow of the upper head over that of the hip, so that necrosis is as dense as what it replaces."""


def lesion_radius(lesion: Lesion, head_radius: float) -> float:
    """Radius of the sphere whose overlap with the head is the lesion's fraction of the head's volume.

    Method: volume of the lens of two spheres, solved by bisection.
    """
    big, apart = head_radius, lesion.depth * head_radius
    target = lesion.fraction * 4 / 3 * np.pi * big**3
    low, high = 0.0, apart + big
    for _ in range(40):
        r = (low + high) / 2
        if r <= big - apart:
            volume = 4 / 3 * np.pi * r**3
        elif r >= big + apart:
            volume = 4 / 3 * np.pi * big**3
        else:
            volume = (
                np.pi * (big + r - apart) ** 2 * (apart**2 + 2 * apart * (big + r) - 3 * (big - r) ** 2) / (12 * apart)
            )
        low, high = (r, high) if volume < target else (low, r)
    return (low + high) / 2


def _hump(distance: Array, half_width: float) -> Array:
    """1 on a surface, falling to 0 at ``half_width`` mm from it."""
    result: Array = np.maximum(np.float32(1) - np.square(distance * np.float32(1 / half_width)), np.float32(0))
    return result


def add_lesion(hu: Array, head: Array, box: Box, hip: Hip, textures: Textures, lesion: Lesion) -> NDArray[np.bool_]:
    """Turn marrow into osteonecrosis, in place.

    Args:
        hu: float32, marrow of ``box``, changed.
        head: distance to the head's surface, mm.
        box: voxels around the head in the hip frame.
        hip: sizes.
        textures: random fields of this hip.
        lesion: what to add.

    Returns:
        bool mask of the necrosis with its rim, shape of ``box``.
    """
    n = lesion.direction
    at: Point = (
        n[0] * lesion.depth * hip.head_radius,
        n[1] * lesion.depth * hip.head_radius,
        n[2] * lesion.depth * hip.head_radius,
    )
    wave, clump, fine = textures.wave.at(box), textures.clump.at(box), textures.fine.at(box)
    edge = sphere(box, at, lesion_radius(lesion, hip.head_radius))
    edge += np.float32(lesion.waviness_mm) * np.clip(wave + np.float32(0.2) * clump, -1.4, 1.4)
    mask = (edge < 0) & (head < np.float32(-0.4))
    inside = coverage(edge, SOFT_EDGE_MM) * coverage(head + np.float32(PLATE_MM), SOFT_EDGE_MM)
    width = lesion.rim_width_mm
    dead = np.float32(0.4) * hu + np.float32((1 - 0.4) * HEAD_DENSITY * hip.cancellous_hu)
    dead += np.float32(lesion.mottle_hu) * (np.float32(0.85) * clump + np.float32(0.35) * fine)
    dead -= np.float32(lesion.resorption_hu) * _hump(edge + np.float32(width + 2.5), 2.5)
    blend = np.float32(min(1.0, 0.25 + lesion.mottle_hu / 110.0))
    hu += inside * blend * (dead - hu)
    present = np.clip(
        (np.float32(1.0 - 2.0 * lesion.rim_gaps) * np.float32(1.2) + wave * np.float32(0.9) + clump * np.float32(0.3))
        * np.float32(1.4),
        0.0,
        1.0,
    )
    rim = _hump(edge + np.float32(width / 2), width * 0.62) * present
    rim *= coverage(head + np.float32(PLATE_MM), SOFT_EDGE_MM)
    hu += np.float32(lesion.rim_hu) * rim
    if lesion.crescent_hu is not None:
        gap = _hump(head + np.float32(3.4) + wave * np.float32(0.5), 1.3) * coverage(edge + np.float32(3), 2.0)
        gap *= np.clip(np.float32(0.7) + clump, 0, 1)
        hu += gap * (np.float32(lesion.crescent_hu) - hu)
    rng = np.random.default_rng([int(lesion.fraction * 1e6), lesion.cysts])
    for _ in range(lesion.cysts):
        c = (np.asarray(n) * rng.uniform(0.45, 0.8) + rng.normal(0, 0.14, 3)) * hip.head_radius
        _cyst(hu, box, (float(c[0]), float(c[1]), float(c[2])), float(rng.uniform(2.0, 4.5)), 220.0)
    return mask


def _cyst(hu: Array, box: Box, centre: Point, radius: float, wall_hu: float) -> None:
    near = box.around(centre, radius + 4)
    if near is None:
        return
    d = sphere(near, centre, radius)
    view = hu[near.index]
    view += np.float32(wall_hu) * _hump(d - np.float32(0.8), 1.5)
    view += coverage(d, SOFT_EDGE_MM) * (np.float32(35.0) - view)


def add_confounders(hu: Array, head: Array, box: Box, hip: Hip, textures: Textures, key: tuple[int, ...]) -> None:
    """Add to the marrow around one head what is not osteonecrosis but changes it, in place."""
    rng = np.random.default_rng((*key, 9))
    radius = hip.head_radius

    def direction(p: float, q: float, r: float, spread: float) -> Array:
        v = np.array([p, q, r]) + rng.normal(0, spread, 3)
        result: Array = (v / np.linalg.norm(v)).astype(np.float32)
        return result

    def point(v: Array, length: float) -> Point:
        return float(v[0] * length), float(v[1] * length), float(v[2] * length)

    if "transient_osteoporosis" in hip.confounders:
        depth = np.clip((np.float32(0.5) - head) * np.float32(1 / 5.0), 0, 1)
        hu -= np.float32(0.45) * depth * np.maximum(hu, 0)
    if "osteoarthritis" in hip.confounders:
        v = direction(0.45, -0.1, 0.9, 0.12)
        facing = (box.p * v[0] + box.q * v[1]) + box.r * v[2]
        zone = np.clip((facing - np.float32(0.3 * radius)) * np.float32(2.5 / radius), 0, 1)
        depth = float(rng.uniform(5, 12))
        dense = np.clip(np.float32(1) + textures.clump.at(box) * np.float32(0.35), 0.2, 2)
        dense *= zone * np.clip(np.float32(1) + head * np.float32(1 / depth), 0, 1)
        hu += np.float32(rng.uniform(180, 480)) * dense
        for _ in range(int(rng.integers(0, 4))):
            c = direction(0.4, -0.15, 0.9, 0.3)
            _cyst(hu, box, point(c, radius * float(rng.uniform(0.68, 0.88))), float(rng.uniform(1.5, 4.5)), 260.0)
    if "bone_island" in hip.confounders:
        for _ in range(int(rng.integers(1, 3))):
            at = point(direction(0.1, -0.1, 0.2, 0.6), radius * float(rng.uniform(0.2, 0.75)))
            size, density = float(rng.uniform(1.8, 4.5)), float(rng.uniform(600, 950))
            near = box.around(at, size + 4)
            if near is not None:
                d = sphere(near, at, size) + textures.clump.at(near) * np.float32(0.8)
                view = hu[near.index]
                view += coverage(d, 2 * SOFT_EDGE_MM) * (np.float32(density) - view)
    if "insufficiency_fracture" in hip.confounders:
        v = direction(0.2, -0.3, 0.9, 0.15)
        facing = (box.p * v[0] + box.q * v[1]) + box.r * v[2]
        depth = float(rng.uniform(4, 9))
        line = head + np.float32(depth) + textures.wave.at(box) * np.float32(1.3)
        zone = np.clip((facing - np.float32(rng.uniform(0.35, 0.6) * radius)) * np.float32(4 / radius), 0, 1)
        hu += np.float32(rng.uniform(180, 420)) * zone * _hump(line, float(rng.uniform(1.4, 2.6)))
    if "herniation_pit" in hip.confounders:
        pit = (float(rng.uniform(0.5, 0.75) * radius), float(-0.62 * radius), float(rng.uniform(-0.1, 0.3) * radius))
        _cyst(hu, box, pit, float(rng.uniform(2.0, 4.5)), 350.0)
