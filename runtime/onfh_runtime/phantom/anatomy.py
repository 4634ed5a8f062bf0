"""Rendering a phantom patient: voxels in HU and the truth about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.phantom.body import paint_body, paint_muscles
from onfh_runtime.phantom.femur import (
    Femur,
    Textures,
    cortex_mm,
    femur_distance,
    femur_of,
    head_distance,
    marrow,
    shell,
    textures_of,
)
from onfh_runtime.phantom.field import Field, random_field
from onfh_runtime.phantom.grid import Box, Grid
from onfh_runtime.phantom.lesion import add_confounders, add_lesion
from onfh_runtime.phantom.metal import paint_metal
from onfh_runtime.phantom.noise import image
from onfh_runtime.phantom.pelvis import innominate_distance, sacrum_distance
from onfh_runtime.phantom.shapes import FAR_MM, Array, coverage, paint, sphere
from onfh_runtime.phantom.spec import SIDES, Hip, PhantomSpec, Side
from onfh_runtime.volume import AIR_HU

__all__ = ["LABELS", "Head", "Phantom", "render"]

BLOCK_VOXELS = 1_500_000
"""Voxels rendered at once: the work arrays stay small however large the grid."""
LABELS: dict[Side, int] = {"right": 1, "left": 2}
"""Values of the truth mask."""
CARTILAGE_HU = 70.0
ROOF_SCLEROSIS_HU = 260.0
"""What osteoarthritis adds above the joint."""


@dataclass(frozen=True)
class Head:
    """Where one femoral head is: LPS mm, and its radius before any collapse."""

    centre: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class Phantom:
    """An imaged patient.

    Attributes:
        hu: (slices, rows, columns) float32 HU, on ``grid``.
        truth: uint8, same shape: 0 no necrosis, 1 right, 2 left.
        grid: where the voxels are.
        heads: by side, whether or not they lie on the grid.
        spec: the patient.
    """

    hu: NDArray[np.float32]
    truth: NDArray[np.uint8]
    grid: Grid
    heads: dict[Side, Head]
    spec: PhantomSpec

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) float64, (slice, row, column, 1) -> LPS mm at voxel centres."""
        return self.grid.affine


@dataclass(frozen=True)
class _Side:
    hip: Hip
    femur: Femur
    textures: Textures
    key: tuple[int, ...]
    gap: float


def render(spec: PhantomSpec, grid: Grid) -> Phantom:
    """Render a patient on a grid as the patient's scanner would see it.

    The same spec and grid give the same bytes; anatomy and texture are fixed in the patient, noise in the grid.
    """
    hu = np.full(grid.shape, AIR_HU, np.float32)
    truth = np.zeros(grid.shape, np.uint8)
    width = float(np.mean(grid.spacing))
    soft = random_field((spec.seed, 30), 7.0, 260.0)
    sides = []
    for hip in spec.hips:
        key = (spec.seed, 40 + LABELS[hip.side])
        gap = hip.sign * (hip.centre[0] - spec.midline_mm)
        sides.append(_Side(hip, femur_of(hip), textures_of(key, hip), key, gap))
    for box in grid.chunks(BLOCK_VOXELS):
        view = hu[box.index]
        _trunk(view, box, spec, soft, width)
        for side in sides:
            _hip(view, truth[box.index], box, spec, side, soft, width)
    heads = {hip.side: Head(hip.centre, hip.head_radius) for hip in spec.hips}
    return Phantom(image(hu, grid, spec.scanner, spec.seed), truth, grid, {s: heads[s] for s in SIDES}, spec)


def _local(box: Box) -> Box:
    n, rows, columns = box.shape
    return Box((slice(0, n), slice(0, rows), slice(0, columns)), box.p, box.q, box.r)


def _trunk(hu: Array, box: Box, spec: PhantomSpec, soft: Field, width: float) -> None:
    body = _local(box).seen_from(spec.centre)
    paint_body(hu, body, spec, soft, width)
    near = body.within((-60, -20, -15), (60, 110, 190))
    if near is None:
        return
    d = np.full(near.shape, FAR_MM, np.float32)
    sacrum_distance(d, near)
    _bone(hu[near.index], d, spec.right, 1.3, 0.62 * spec.right.cancellous_hu, soft.at(near), width)


def _bone(hu: Array, distance: Array, hip: Hip, cortex: float, inside: float, texture: Array, width: float) -> None:
    value = np.float32(inside) + texture * np.float32(0.8 * hip.trabecular_hu)
    value += shell(distance, cortex, width) * (np.float32(hip.cortex_hu) - value)
    paint(hu, coverage(distance, width), value)


def _hip(
    hu: Array, truth: NDArray[np.uint8], box: Box, spec: PhantomSpec, side: _Side, soft: Field, width: float
) -> None:
    hip = side.hip
    whole = _local(box).seen_from(hip.centre, hip.sign).within((-side.gap, -130, -200), (110, 130, 200))
    if whole is None:
        return
    view = hu[whole.index]
    paint_muscles(view, whole, spec.fat_mm, soft, spec.half_width_mm / 180.0, width)
    joint = whole.around((0, 0, 0), hip.head_radius + hip.joint_space + 4)
    if joint is not None:
        paint(
            view[joint.index],
            coverage(sphere(joint, (0, 0, 0), hip.head_radius + hip.joint_space + 1), width),
            CARTILAGE_HU,
        )
    pelvis = whole.within((-side.gap, -70, -105), (85, 88, 135))
    if pelvis is not None:
        d = np.full(pelvis.shape, FAR_MM, np.float32)
        innominate_distance(d, pelvis, hip, side.gap)
        texture = side.textures.fine.at(pelvis) + np.float32(0.9) * side.textures.coarse.at(pelvis)
        _bone(view[pelvis.index], d, hip, 1.4, 0.72 * hip.cancellous_hu, texture, width)
        if "osteoarthritis" in hip.confounders:
            _roof(view, d, pelvis, hip, width)
    thigh = whole.within((-hip.head_radius - 4, -60, -200), (95, 60, hip.head_radius + 30))
    if thigh is not None:
        _femur(view[thigh.index], truth[whole.index][thigh.index], thigh, side, width)
    if spec.implant == hip.side:
        paint_metal(view, whole, hip, side.femur, side.key, width)


def _roof(hu: Array, distance: Array, pelvis: Box, hip: Hip, width: float) -> None:
    roof = pelvis.around((0, 0, 0), hip.head_radius + hip.joint_space + 9)
    if roof is None:
        return
    depth = sphere(roof, (0, 0, 0), hip.head_radius + hip.joint_space)
    facing = (np.float32(0.45) * roof.p + np.float32(0.85) * roof.r) * np.float32(1 / hip.head_radius)
    dense = np.clip(1 - depth * np.float32(1 / 7.0), 0, 1) * np.clip((facing - np.float32(0.55)) * 3, 0, 1)
    dense = dense * coverage(distance[roof.index], width)
    hu[pelvis.index][roof.index] += np.float32(ROOF_SCLEROSIS_HU) * dense


def _femur(hu: Array, truth: NDArray[np.uint8], box: Box, side: _Side, width: float) -> None:
    hip, femur = side.hip, side.femur
    d = np.full(box.shape, FAR_MM, np.float32)
    femur_distance(d, box, hip, femur)
    inside = marrow(box, hip, femur, side.textures)
    near = box.around((0, 0, 0), hip.head_radius + 2)
    if near is not None:
        view = inside[near.index]
        head = head_distance(near, hip, femur)
        add_confounders(view, head, near, hip, side.textures, side.key)
        if hip.lesion is not None:
            mask = add_lesion(view, head, near, hip, side.textures, hip.lesion)
            truth[near.index][mask] = LABELS[hip.side]
    inside += shell(d, cortex_mm(box, hip, femur), width) * (np.float32(hip.cortex_hu) - inside)
    paint(hu, coverage(d, width), inside)
