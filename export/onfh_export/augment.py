"""Random variants of a batch of stage inputs, on tensors, so that a whole batch costs one resampling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["augmented"]

SCALE = 0.1
"""Hips are drawn 10% smaller to 10% larger: head radii vary about as much between adults."""
SHIFT_PIXELS = 8.0
"""Positioning in the field of view varies."""
GAIN, OFFSET = 0.1, 0.1
"""Of the normalised value: calibration and kernels differ between scanners."""
NOISE = 0.15
"""Upper standard deviation of added noise, normalised value."""


def augmented(pixels: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flip left-right, scale, shift, and change intensity and noise of every image on its own.

    Args:
        pixels: (N, C, H, W) float32, normalised.
        mask: (N, 1, H, W) float32 in 0..1.
        generator: the source of chance.

    Returns:
        The two tensors, same shapes; the mask is warped as the pixels are.
    """
    count, channels, height, width = pixels.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    flip = torch.where(uniform(count) < 0, -1.0, 1.0)
    scale = 1 + SCALE * uniform(count)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = flip * scale
    theta[:, 1, 1] = scale
    theta[:, 0, 2] = uniform(count) * SHIFT_PIXELS * 2 / width
    theta[:, 1, 2] = uniform(count) * SHIFT_PIXELS * 2 / height
    grid = functional.affine_grid(theta, [count, 1, height, width], align_corners=False)
    both = torch.cat([pixels, mask], dim=1)
    both = functional.grid_sample(both, grid, mode="bilinear", padding_mode="border", align_corners=False)
    image = both[:, :channels]
    image = image * (1 + GAIN * uniform(count, 1, 1, 1)) + OFFSET * uniform(count, 1, 1, 1)
    sigma = NOISE * torch.rand(count, 1, 1, 1, generator=generator)
    return image + sigma * torch.randn(image.shape, generator=generator), both[:, channels:]
