"""The proximal femur: its shape and what is inside, in the hip frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onfh_runtime.phantom.field import Field, random_field
from onfh_runtime.phantom.grid import Box
from onfh_runtime.phantom.shapes import Array, Point, coverage, merge, merge_cone, merge_ellipsoid, sphere
from onfh_runtime.phantom.spec import Hip

__all__ = ["Femur", "Textures", "femur_distance", "femur_of", "marrow"]

SUBCHONDRAL_MM = 1.1
"""Thickness of the plate under the cartilage."""
TEXTURE_REACH_MM = 90.0


@dataclass(frozen=True)
class Textures:
    """The random fields of one hip: trabeculae (fine), density (coarse), clumps and the winding of a boundary."""

    fine: Field
    coarse: Field
    clump: Field
    wave: Field


@dataclass(frozen=True)
class Femur:
    """Landmarks of one femur in the hip frame."""

    axis: Point
    neck_end: Point
    shaft_end: Point
    flat_normal: Point
    flat_at: float


def femur_of(hip: Hip) -> Femur:
    """Landmarks from sizes and angles."""
    down = math.radians(180 - hip.neck_shaft_deg)
    turn = math.radians(hip.version_deg)
    axis = (math.sin(down) * math.cos(turn), math.sin(down) * math.sin(turn), -math.cos(down))
    end = (axis[0] * hip.neck_length, axis[1] * hip.neck_length, axis[2] * hip.neck_length)
    lesion = hip.lesion
    normal: Point = (0.0, 0.0, 1.0) if lesion is None else lesion.direction
    flat = hip.head_radius - (0.0 if lesion is None else lesion.collapse_mm)
    return Femur(axis, end, (end[0] - 9.0, end[1] + 4.0, end[2] - 150.0), normal, flat)


def textures_of(key: tuple[int, ...], hip: Hip) -> Textures:
    """The fields of one hip; ``key`` names the patient and side."""
    head = hip.head_radius + 8
    return Textures(
        fine=random_field((*key, 1), 1.6, TEXTURE_REACH_MM),
        coarse=random_field((*key, 2), 7.0, TEXTURE_REACH_MM),
        clump=random_field((*key, 3), 3.6, head),
        wave=random_field((*key, 4), 9.0, head),
    )


def head_distance(box: Box, hip: Hip, femur: Femur) -> Array:
    """Distance to the head: a sphere, flattened where it has collapsed."""
    d = sphere(box, (0, 0, 0), hip.head_radius)
    if femur.flat_at < hip.head_radius:
        n = femur.flat_normal
        plane = (box.p * np.float32(n[0]) + box.q * np.float32(n[1])) + box.r * np.float32(n[2])
        np.maximum(d, plane - np.float32(femur.flat_at), out=d)
    return d


def femur_distance(distance: Array, box: Box, hip: Hip, femur: Femur) -> None:
    """Join the femur to ``distance`` (shape of ``box``), in place."""
    radius, e = hip.head_radius, femur.neck_end
    merge(distance, box, (-radius,) * 3, (radius,) * 3, lambda near: head_distance(near, hip, femur))
    start = tuple(0.35 * radius * v for v in femur.axis)
    merge_cone(distance, box, (start[0], start[1], start[2]), e, hip.neck_radius * 0.95, hip.neck_radius * 1.12, 7.0)
    upper = (e[0] - 1.0, e[1], e[2] - 4.0)
    merge_cone(distance, box, upper, femur.shaft_end, hip.neck_radius * 1.15, hip.neck_radius * 0.82, 8.0)
    merge_ellipsoid(distance, box, (e[0] + 9, e[1] + 5, e[2] + 9), (14, 19, 20), 8.0)
    merge_ellipsoid(distance, box, (e[0] - 17, e[1] + 13, e[2] - 34), (9, 9, 13), 8.0)
    if "osteoarthritis" in hip.confounders:
        merge_ellipsoid(distance, box, (0.78 * radius, -0.1 * radius, 0.55 * radius), (5, 9, 3.5), 2.0)
        merge_ellipsoid(distance, box, (-0.62 * radius, 0.1 * radius, -0.82 * radius), (5, 8, 3.0), 2.0)


def marrow(box: Box, hip: Hip, femur: Femur, textures: Textures) -> Array:
    """HU of cancellous bone, (shape of ``box``): dense along the compressive and tensile groups, fatty in the shaft."""
    radius, base = hip.head_radius, hip.cancellous_hu
    a = femur.axis
    along = (box.p * np.float32(a[0]) + box.q * np.float32(a[1])) + box.r * np.float32(a[2])
    reach = np.array([-1.0, 0.1, 0.9, 1.6, 2.3, 3.2], np.float32) * np.float32(radius)
    level = np.array([1.12, 1.15, 0.80, 0.50, 0.28, 0.05], np.float32) * np.float32(base)
    hu: Array = np.interp(along, reach, level).astype(np.float32)
    band = box.p + np.float32(5.0) - np.float32(0.28) * (np.float32(radius) - box.r)
    band = np.abs(band) * np.float32(1 / 9.0)
    compressive = np.maximum(np.float32(1) - band * band, 0) * np.clip((box.r + 1.9 * radius) / 20, 0, 1)
    hu = hu + np.float32(0.42 * base) * compressive.astype(np.float32)
    arc = np.sqrt(np.square(box.p - np.float32(0.6 * radius)) + np.square(box.r + np.float32(2.1 * radius)))
    arc = np.abs(arc - np.float32(2.3 * radius)) * np.float32(1 / 6.0)
    hu += np.float32(0.22 * base) * np.maximum(np.float32(1) - arc, 0)
    if hip.scar_hu > 0 or "scar" in hip.confounders:
        scar = np.sqrt(
            np.square(box.p + np.float32(0.9 * a[0] * radius))
            + np.square(box.q)
            + np.square(box.r - np.float32(0.55 * radius))
        )
        wave = textures.coarse.at(box)
        scar = np.abs(scar - np.float32(1.12 * radius) + wave * np.float32(0.8)) * np.float32(1 / 1.6)
        strength = hip.scar_hu + (180.0 if "scar" in hip.confounders else 0.0)
        hu += np.float32(strength) * np.maximum(np.float32(1) - scar, 0) * (along < np.float32(0.8 * radius))
        hu += wave * np.float32(0.10 * base)
    else:
        hu += textures.coarse.at(box) * np.float32(0.10 * base)
    hu += textures.fine.at(box) * np.float32(hip.trabecular_hu)
    return hu


def cortex_mm(box: Box, hip: Hip, femur: Femur) -> Array:
    """Thickness of the outer shell: a thin plate on the head, thick in the shaft, a calcar at the medial neck."""
    a, e = femur.axis, femur.neck_end
    along = (box.p * np.float32(a[0]) + box.q * np.float32(a[1])) + box.r * np.float32(a[2])
    thick = np.float32(SUBCHONDRAL_MM) + np.float32(hip.cortex_mm - SUBCHONDRAL_MM) * np.clip(
        (along - np.float32(0.4 * hip.head_radius)) * np.float32(1 / 15.0), 0, 1
    )
    below = np.clip((np.float32(e[2] - 12) - box.r) * np.float32(1 / 40.0), 0, 1)
    thick = thick + np.float32(4.0) * below
    calcar = np.clip((np.float32(e[0] - 4) - box.p) * np.float32(1 / 12.0), 0, 1) * np.clip(
        (-box.r - np.float32(0.8 * hip.head_radius)) * np.float32(1 / 12.0), 0, 1
    )
    result: Array = (thick + np.float32(1.8) * calcar).astype(np.float32)
    return result


def shell(distance: Array, thickness: Array | float, width: float) -> Array:
    """Share of cortex, 0 to 1, in the bone of a voxel: 1 within ``thickness`` of the surface."""
    return np.float32(1.0) - coverage(distance + thickness, width)
