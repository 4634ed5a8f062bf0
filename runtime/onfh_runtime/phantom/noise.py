"""What a scanner does to the image: resolution, calibration and correlated noise."""

from __future__ import annotations

import numpy as np

from onfh_runtime.phantom.field import gaussian
from onfh_runtime.phantom.grid import Grid
from onfh_runtime.phantom.shapes import Array
from onfh_runtime.phantom.spec import Scanner

__all__ = ["add_noise", "image"]

BLOCK_VOXELS = 1_500_000
LOW_PASS_SHARE = 0.8
"""How much of the low frequencies a bone kernel takes out of the noise."""


def _grain(white: Array, scanner: Scanner, spacing: tuple[float, float]) -> Array:
    noise = gaussian(gaussian(white, scanner.kernel_fwhm_mm, spacing[1], 2), scanner.kernel_fwhm_mm, spacing[0], 1)
    if scanner.sharp:
        wide = 2.5 * scanner.kernel_fwhm_mm
        low = gaussian(gaussian(noise, wide, spacing[1], 2), wide, spacing[0], 1)
        low *= np.float32(LOW_PASS_SHARE)
        noise = noise - low
    return noise


def noise_sd(grid: Grid, scanner: Scanner) -> float:
    """SD in HU on this grid: it falls with the root of the voxel's volume."""
    return float(scanner.noise_sd_hu / np.sqrt(np.clip(np.prod(grid.spacing), 0.25, 8.0)))


def add_noise(hu: Array, grid: Grid, scanner: Scanner, seed: int) -> None:
    """Add correlated noise, in place: grain within the slice by kernel, neighbouring slices correlated by distance."""
    probe = np.zeros((1, 33, 33), np.float32)
    probe[0, 16, 16] = 1
    spacing = grid.spacing[1:]
    gain = np.float32(noise_sd(grid, scanner) / np.sqrt(np.square(_grain(probe, scanner, spacing)).sum()))
    share = np.float32(min(0.6, np.exp(-((grid.spacing[0] / scanner.kernel_fwhm_mm) ** 2))))
    gain /= np.sqrt(1 + share * share)
    rng = np.random.default_rng([seed, 20])
    n, rows, columns = hu.shape
    step = max(1, BLOCK_VOXELS // (rows * columns))
    last = _grain(rng.standard_normal((1, rows, columns), dtype=np.float32), scanner, spacing)
    for start in range(0, n, step):
        stop = min(n, start + step)
        own = _grain(rng.standard_normal((stop - start, rows, columns), dtype=np.float32), scanner, spacing)
        both = np.concatenate([last, own])
        last = own[-1:]
        hu[start:stop] += gain * (own + share * both[:-1])


def image(hu: Array, grid: Grid, scanner: Scanner, seed: int) -> Array:
    """Blur, drift and noise; takes over ``hu`` and returns the image, same shape, float32 HU."""
    blurred = hu
    n, rows, columns = hu.shape
    step = max(1, BLOCK_VOXELS // (rows * columns))
    for start in range(0, n, step):
        part = slice(start, min(n, start + step))
        inner = gaussian(hu[part], scanner.blur_fwhm_mm, grid.spacing[2], 2)
        blurred[part] = gaussian(inner, scanner.blur_fwhm_mm, grid.spacing[1], 1)
    blurred += np.float32(1000.0)
    blurred *= np.float32(scanner.hu_gain)
    blurred += np.float32(scanner.hu_offset - 1000.0)
    add_noise(blurred, grid, scanner, seed)
    return blurred
