"""Random fields fixed in the patient, so every rendering of a patient shows the same texture; and small filters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.phantom.grid import Box

__all__ = ["Field", "gaussian", "random_field"]

Array = NDArray[np.float32]

INTERPOLATION_GAIN = 1.62
"""Smooth trilinear interpolation of white noise loses variance; this restores a mean SD of about one."""
FWHM_PER_SIGMA = 2.3548


@dataclass(frozen=True)
class Field:
    """Value noise: random numbers on a lattice that fills a cube around a point.

    Attributes:
        values: (n, n, n) float32 along p, q, r.
        cell: lattice spacing, mm.
        half: half the edge of the cube, mm.
    """

    values: Array
    cell: float
    half: float

    def at(self, box: Box) -> Array:
        """Sample at the voxels of ``box`` (in the frame the field was made for): about zero mean and unit SD."""
        lattice = self.values
        axes = [int(np.argmax(v.shape)) if v.size > 1 else -1 for v in (box.p, box.q, box.r)]
        free = [a for a in range(3) if a not in axes]
        axes = [a if a >= 0 else free.pop(0) for a in axes]
        lattice = np.transpose(lattice, np.argsort(axes))
        for values, axis in sorted(
            zip((box.p, box.q, box.r), axes, strict=True), key=lambda item: item[0].size * -1, reverse=True
        ):
            place = (values.ravel() + np.float32(self.half)) / np.float32(self.cell)
            np.clip(place, 0, lattice.shape[axis] - 1.001, out=place)
            base = place.astype(np.intp)
            f = (place - base).astype(np.float32)
            f = f * f * (3 - 2 * f)
            shape = [1, 1, 1]
            shape[axis] = -1
            f = f.reshape(shape)
            low = np.take(lattice, base, axis=axis)
            high = np.take(lattice, base + 1, axis=axis)
            high -= low
            high *= f
            low += high
            lattice = low
        return lattice


def random_field(key: tuple[int, ...], cell: float, half: float) -> Field:
    """A field of unit SD whose numbers follow from ``key``."""
    n = math.ceil(2 * half / cell) + 2
    values = np.random.default_rng(key).standard_normal((n, n, n), dtype=np.float32)
    return Field(values * np.float32(INTERPOLATION_GAIN), cell, half)


def taps(fwhm: float, spacing: float) -> Array:
    """Half of a normalised Gaussian, centre first, for samples ``spacing`` mm apart."""
    sigma = max(fwhm / FWHM_PER_SIGMA / spacing, 1e-3)
    k = np.exp(-0.5 * (np.arange(max(1, math.ceil(2.5 * sigma)) + 1) / sigma) ** 2)
    result: Array = (k / (k[0] + 2 * k[1:].sum())).astype(np.float32)
    return result


def gaussian(image: Array, fwhm: float, spacing: float, axis: int) -> Array:
    """Blur along one axis, edges repeated; returns a new float32 array."""
    k = taps(fwhm, spacing)
    reach = len(k) - 1
    if k[1] < 1e-4 or image.shape[axis] <= reach:
        return image
    widths = [(0, 0)] * image.ndim
    widths[axis] = (reach, reach)
    padded = np.pad(image, widths, mode="edge")
    n = image.shape[axis]

    def shifted(by: int) -> Array:
        index = [slice(None)] * image.ndim
        index[axis] = slice(reach + by, reach + by + n)
        return padded[tuple(index)]

    result: Array = shifted(0) * k[0]
    for by in range(1, reach + 1):
        pair = shifted(by) + shifted(-by)
        pair *= k[by]
        result += pair
    return result
