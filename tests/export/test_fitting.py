"""The loop learns something simple, gives the same weights twice, and sees patches where they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from onfh_export.fitting import (
    Slices,
    _cells,
    _WithPatchHead,
    classifier_from_slices,
    probabilities,
    segmenter_from_slices,
)
from onfh_export.networks import checkpoint_from_folder, vit_from_shape
from onfh_export.recipe import ClassifierShape, Fit, smoke_recipe
from onfh_runtime.evaluation import area_under_curve

RECIPE = replace(
    smoke_recipe(),
    size=(32, 48),
    classifier=ClassifierShape(hidden_size=24, layers=1, heads=2, mlp_ratio=2, patch_size=16),
    part_columns=2,
    fit_classifier_parts=Fit(epochs=2, batch_size=8, learning_rate=3e-3, average_decay=0.8),
    fit_classifier=Fit(epochs=6, batch_size=8, learning_rate=3e-3, average_decay=0.8),
    fit_segmenter=Fit(epochs=12, batch_size=8, learning_rate=1e-2, average_decay=0.8),
)


def _slices(seed, count=64):
    """Half of the slices hold a bright 12 x 12 square somewhere."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 0.3, (count, 1, 32, 48)).astype(np.float16)
    masks = np.zeros((count, 1, 32, 48), np.uint8)
    for index in range(0, count, 2):
        row, column = rng.integers(4, 16), rng.integers(4, 32)
        masks[index, 0, row : row + 12, column : column + 12] = 1
    pixels += 2 * masks
    positive = masks.any(axis=(1, 2, 3))
    return Slices(torch.from_numpy(pixels), torch.from_numpy(masks), positive, np.ones(count, bool))


def test_the_classifier_learns_and_repeats(tmp_path):
    train, validation = _slices(0), _slices(1)
    lines = []
    for name in ("a", "b"):
        classifier_from_slices(train, validation, RECIPE, tmp_path / name, lines.append)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    scores = probabilities(checkpoint_from_folder(tmp_path / "a"), validation.pixels)
    assert area_under_curve(scores, validation.positive) > 0.8
    assert sum("classifier on parts: epoch" in line for line in lines) == 2 * 2
    assert "classifier: epoch 6/6" in lines[-1]
    assert "min left" in lines[-1]


def test_all_columns_are_the_network_itself_and_some_are_cheaper():
    network = vit_from_shape(RECIPE.classifier, RECIPE.size).eval()
    model = _WithPatchHead(network, RECIPE.classifier.patch_cells).eval()
    pixels = torch.randn(3, 1, *RECIPE.size)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels)[0], network(pixel_values=pixels).logits)
        logits, patches = model(pixels, slice(1, 3))
        other = pixels.clone()
        other[..., :16] = 9
        torch.testing.assert_close(model(other, slice(1, 3))[0], logits)
    assert patches.shape == (3, 2 * 2, RECIPE.classifier.patch_cells**2)


def test_the_segmenter_learns(tmp_path):
    train, validation = _slices(0), _slices(1)
    segmenter_from_slices(train, validation, RECIPE, tmp_path / "s", lambda _: None)
    found = probabilities(checkpoint_from_folder(tmp_path / "s"), validation.pixels) >= 0.5
    truth = validation.masks[:, 0].numpy() > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.6


def test_slices_without_masks_train_the_classifier_on_labels_alone(tmp_path):
    train = _slices(0, 16)
    bare = replace(train, masks=torch.zeros_like(train.masks), has_mask=np.zeros(16, bool))
    recipe = replace(RECIPE, fit_classifier=Fit(epochs=1, batch_size=8))
    classifier_from_slices(bare, _slices(1, 16), recipe, tmp_path / "c", lambda _: None)
    assert (tmp_path / "c" / "model.safetensors").is_file()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (17, 40), (31, 47)])
def test_a_cell_of_a_patch_marks_where_the_mask_is(row, column):
    masks = torch.zeros(1, 1, 32, 48)
    masks[0, 0, row, column] = 1
    found = _cells(masks, 16, 4)
    assert found.shape == (1, 6, 16)
    patch = row // 16 * 3 + column // 16
    cell = row % 16 // 4 * 4 + column % 16 // 4
    assert torch.nonzero(found[0]).tolist() == [[patch, cell]]
