"""Overlap of masks, against scikit-learn and MedPy, and the rule for empty ones."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from onfh_runtime.evaluation import Overlap, dice, mask_overlap, slice_overlaps

EMPTY = np.zeros((4, 5), bool)
SOME = EMPTY.copy()
SOME[1:3, 1:3] = True


@pytest.mark.parametrize("seed", range(5))
def test_dice_is_the_f1_of_the_voxels(seed):
    rng = np.random.default_rng(seed)
    one, other = rng.random((2, 3, 8, 9)) > rng.random()
    assert dice(one, other) == pytest.approx(f1_score(other.ravel(), one.ravel()))
    assert slice_overlaps(one, other) == [mask_overlap(a, b) for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("seed", range(5))
def test_dice_is_medpys(peer, seed):
    binary = peer("medpy.metric.binary")
    one, other = np.random.default_rng(seed).random((2, 12, 12)) > 0.6
    assert dice(one, other) == pytest.approx(binary.dc(one, other))
    assert mask_overlap(one, other).relative_volume_error == pytest.approx(binary.ravd(one, other))


@pytest.mark.parametrize(
    ("prediction", "truth", "kind", "value", "relative", "mm3"),
    [
        (SOME, SOME, "both", 1, 0, 0),
        (SOME, ~SOME, "both", 0, -0.75, -24),
        (EMPTY, SOME, "missed", 0, -1, -8),
        (SOME, EMPTY, "false", 0, None, 8),
        (EMPTY, EMPTY, "neither", None, None, 0),
    ],
)
def test_the_rule_for_empty_masks(prediction, truth, kind, value, relative, mm3):
    found = mask_overlap(prediction, truth)
    assert (found.kind, found.dice, found.relative_volume_error) == (kind, value, relative)
    assert found.volume_error_mm3(2.0) == mm3


def test_counts():
    assert mask_overlap(np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 1], bool)) == Overlap(2, 3, 1)
    assert dice(np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 1], bool)) == pytest.approx(2 / 5)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="shape"):
        dice(SOME, SOME[:2])
    with pytest.raises(ValueError, match="bool"):
        dice(SOME.astype(np.uint8), SOME)
