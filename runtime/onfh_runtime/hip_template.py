"""Does a place look like a right or a left hip? Correlation with a hip drawn from average adult dimensions.

Normalised cross-correlation (J. P. Lewis, Vision Interface 1995), restricted to the part of the template that lies in
the volume, climbed from a few starts. Points are LPS mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.locate import NEVER_MEASURED_HU, WorkingGrid, clipped

__all__ = ["Match", "match"]

Points = NDArray[np.float64]

TEMPLATE_RADIUS_MM = 23.0
SCALES = (0.87, 1.13)
"""Sizes of hip that are tried beside the template's own: head radii of 20 and 26 mm; climbing goes on from the best."""
LEAST_SCALE, MOST_SCALE = 0.75, 1.3
LATTICE_MM = 6.0
REACH_MM = 43.0
"""The template covers a ball of this radius, which holds head, neck, cup and the foot of the ilium."""
LEAST_OVERLAP = 0.5
"""Share of the template that must lie in measured voxels."""
STEPS_MM = (5.0, 2.5, 1.25)
MOST_MOVES = 8
"""Of one step length: a start is at most some 20 mm from the top it belongs to."""
LEAST_GAIN = 1e-4
START_DISTANCE_MM, DISTANCE_MM = 15.0, 12.0


@dataclass(frozen=True)
class Match:
    """A place that looks like a hip.

    Attributes:
        centre: (3,) LPS mm.
        scale: size relative to the template.
        right: correlation with the right hip, -1 to 1.
        left: the same with the left one.
        overlap: share of the template that lies in measured voxels of the volume.
    """

    centre: Points
    scale: float
    right: float
    left: float
    overlap: float

    @property
    def best(self) -> float:
        """The larger correlation."""
        return max(self.right, self.left)


class _Correlator:
    """Correlation of one volume with both hips."""

    def __init__(self, volume: WorkingGrid) -> None:
        self._inverse = np.linalg.inv(volume.affine)
        measured = volume.hu > NEVER_MEASURED_HU
        # One voxel of nothing around: whatever lies outside is moved there, and never measured.
        self._values = np.pad(clipped(volume, times=2).hu * measured, 1)
        self._measured = np.pad(measured, 1)
        self._lattice, self._template = _template()
        self._squared = self._template**2

    def best(self, centres: Points, scale: float) -> Match:
        """The best of (n, 3) centres."""
        linear, first = self._inverse[:3, :3].T, self._inverse[:3, 3]
        lattice, places = (self._lattice * scale) @ linear, centres @ linear + first
        index: Any = 0
        for axis, count in enumerate(self._values.shape):
            at = lattice[:, axis] + places[:, axis, None]
            np.rint(at, out=at)
            np.clip(at, -1, count - 2, out=at)
            at += 1
            index = index * count + at
        index = index.astype(np.intp)
        mask = self._measured.ravel().take(index).astype(np.float64)
        values = self._values.ravel().take(index).astype(np.float64)
        count = np.maximum(mask.sum(axis=1), 1)[:, None]
        total, total_t = values.sum(axis=1)[:, None], mask @ self._template
        cross = values @ self._template - total * total_t / count
        np.square(values, out=values)
        spread = values.sum(axis=1)[:, None] - total**2 / count
        spread_t = mask @ self._squared - total_t**2 / count
        scores = cross / np.sqrt(np.maximum(spread * spread_t, 1e-6))
        overlap = count[:, 0] / len(self._lattice)
        scores[overlap < LEAST_OVERLAP] = -1
        top = int(scores.max(axis=1).argmax())
        right, left = scores[top]
        return Match(centres[top], scale, float(right), float(left), float(overlap[top]))


def match(volume: WorkingGrid, starts: Points, keep: int) -> list[Match]:
    """Climb from the likeliest starts to where the neighbourhood looks most like a hip.

    Args:
        volume: on the working grid.
        starts: (n, 3) LPS mm.
        keep: how many different places at most.

    Returns:
        Best first, at least 12 mm apart.
    """
    correlator = _Correlator(volume)
    cube = np.stack(np.meshgrid(*[np.array([-9.0, 0.0, 9.0])] * 3), axis=-1).reshape(-1, 3)
    begun = [correlator.best(start + cube, 1.0) for start in starts]
    found = [_climbed(correlator, start) for start in _apart(begun, START_DISTANCE_MM)[: keep + 2]]
    return _apart(found, DISTANCE_MM)[:keep]


def _climbed(correlator: _Correlator, start: Match) -> Match:
    top = start
    for scale in SCALES:
        top = _better(top, correlator.best(top.centre[None], scale))
    for step in STEPS_MM:
        moves = np.concatenate([np.eye(3), -np.eye(3)]) * step
        for _ in range(MOST_MOVES):
            before = top
            top = _better(top, correlator.best(top.centre + moves, top.scale))
            if top is before:
                break
        for factor in (0.95, 1.05):
            scale = min(max(top.scale * factor, LEAST_SCALE), MOST_SCALE)
            top = _better(top, correlator.best(top.centre[None], scale))
    return top


def _better(one: Match, other: Match) -> Match:
    return other if other.best > one.best + LEAST_GAIN else one


def _apart(matches: list[Match], distance: float) -> list[Match]:
    chosen: list[Match] = []
    for one in sorted(matches, key=lambda m: -m.best):
        if all(np.linalg.norm(one.centre - other.centre) >= distance for other in chosen):
            chosen.append(one)
    return chosen


@cache
def _template() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lattice (n, 3) in mm about the centre, and the HU a right and a left hip have there, (n, 2)."""
    axis = np.arange(-7, 8) * LATTICE_MM
    lattice = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    lattice = lattice[np.linalg.norm(lattice, axis=1) <= REACH_MM]
    third = np.array([-1, 0, 1]) * LATTICE_MM / 3
    shifts = np.stack(np.meshgrid(third, third, third), axis=-1).reshape(-1, 3)
    sides = []
    for lateral in (-1.0, 1.0):
        frame = lattice * np.array([lateral, 1.0, 1.0])
        sides.append(np.mean([_drawn_hip(frame + shift) for shift in shifts], axis=0))
    return lattice, np.stack(sides, axis=1)


def _drawn_hip(at: Points) -> NDArray[np.float64]:
    """HU of a plain hip at (n, 3) mm (lateral, back, up) from the head centre.

    Dimensions are adult averages: head radius 23 mm, joint space 3.5 mm, neck 15 mm thick at a neck-shaft angle of
    129 degrees and 10 degrees of anteversion, cup opening forward, outward and down.
    """
    out, back, up = at.T
    radius = TEMPLATE_RADIUS_MM
    distance = np.linalg.norm(at, axis=1)
    hu = np.full(len(at), 20.0)
    hu[(up > radius + 2) & (np.abs(out + 2) < 16 - 0.1 * (up - radius)) & (np.abs(back - 2) < 17)] = 230
    dome = np.array([-0.55, 0.15, 0.82])
    roofed = at @ (dome / np.linalg.norm(dome)) > 0.15 * distance
    hu[roofed & (distance > radius + 3.5) & (distance < radius + 11)] = 330
    hu[roofed & (distance > radius + 3.5) & (distance < radius + 6)] = 520
    hu[(distance > radius) & (distance <= radius + 3.5)] = 70
    neck = np.array([0.765, 0.13, -0.63])
    along = at @ (neck / np.linalg.norm(neck))
    aside = np.sqrt(np.maximum(distance**2 - along**2, 0))
    shaft = (along > 0) & (along < 55)
    hu[shaft & (aside < 14.5)] = 210
    hu[shaft & (distance > radius) & (aside > 12.5) & (aside < 15.5)] = 380
    hu[distance <= radius] = 270
    hu[(distance <= radius) & (distance > radius - 2.5)] = 380
    return hu
