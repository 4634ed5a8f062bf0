"""Pixels and mask are warped alike, and chance comes from the generator alone."""

import torch

from onfh_export.augment import augmented


def test_the_mask_follows_the_pixels():
    pixels = torch.zeros(16, 1, 40, 64)
    pixels[:, :, 10:20, 40:52] = 100.0  # noise and intensity changes are far smaller
    mask = (pixels > 50).float()
    image, warped = augmented(pixels, mask, torch.Generator().manual_seed(0))
    assert image.shape == pixels.shape
    assert warped.shape == mask.shape
    seen, truth = image > 50, warped > 0.5
    overlap = 2 * (seen & truth).sum() / (seen.sum() + truth.sum())
    assert overlap > 0.95
    sides = truth[:, :, :, :32].flatten(1).any(1)
    assert 0 < sides.sum() < 16  # some were flipped
    assert not torch.equal(warped, mask)


def test_the_same_seed_gives_the_same_batch():
    pixels, mask = torch.rand(4, 1, 8, 8), torch.zeros(4, 1, 8, 8)
    first = augmented(pixels, mask, torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    second = augmented(pixels, mask, torch.Generator().manual_seed(3))
    other = augmented(pixels, mask, torch.Generator().manual_seed(4))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other[0])
