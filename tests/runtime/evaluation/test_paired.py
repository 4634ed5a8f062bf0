"""Two answers to one study, compared by hand; the exporter's own tests hold what only it knows."""

import numpy as np
import pytest

from onfh_runtime.evaluation.paired import Labels, Said, difference, mask_pair, pooled, together


def said(probabilities, columns=None, *, sides=("negative", "negative"), state="negative"):
    slices = np.array(probabilities, np.float32)
    mask = None
    if columns is not None:
        mask = np.zeros((1, 1, 100), np.bool_)
        mask[..., :columns] = True
    return Said(slices, slices >= 0.5, float(slices.mean()), state, sides, mask)


def test_empty_masks_agree_and_one_empty_mask_is_no_overlap():
    empty, full = np.zeros((1, 2, 2), np.bool_), np.ones((1, 2, 2), np.bool_)
    assert mask_pair(empty, empty, 1.5).dice is None
    assert mask_pair(empty, empty, 1.5).drift_percent is None
    one = mask_pair(full, empty, 1.5)
    assert (one.dice, one.differing, one.drift_mm3, one.drift_percent) == (0, 4, -6, -100)
    assert mask_pair(empty, full, 1.5).drift_percent is None


def test_masks_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        mask_pair(np.zeros((1, 2), np.bool_), np.zeros((2, 1), np.bool_), 1.0)


def test_flips_drift_and_masks():
    first = said([0.2, 0.49, 0.5, 0.9], 50, sides=("positive", "negative"), state="positive")
    found = difference("a", first, said([0.2, 0.51, 0.49, 0.8], 40), 2.0)
    assert found.slice_flips == (1, 2)
    assert found.side_flips == ("right",)
    assert found.states == ("positive", "negative")
    assert found.drift == pytest.approx([0, 0.02, -0.01, -0.1], abs=1e-6)
    assert found.largest_drift == pytest.approx(0.1, abs=1e-6)
    assert found.reported.volumes_mm3 == (100, 80)
    assert found.reported.dice == pytest.approx(80 / 90)


def test_slices_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="one answer has 2 slices, the other 1"):
        difference("a", said([0.1, 0.2]), said([0.1]), 1.0)


def test_a_mask_that_is_not_known_is_not_compared():
    found = [difference("a", said([0.6], 50), said([0.6]), 1.0), difference("b", said([0.6], 50), said([0.6], 50), 1.0)]
    assert found[0].reported is None
    assert pooled(found).reported == together([found[1].reported])


def test_pooled_areas_are_over_what_has_a_label():
    def labelled(first, second, positive, patient):
        truth = Labels(np.array(positive), np.ones(len(positive), np.bool_), patient)
        return difference("x", said(first), said(second), 1.0, truth)

    sick = labelled([0.6, 0.2], [0.3, 0.2], [True, False], True)
    healthy = labelled([0.45, 0.1], [0.45, 0.1], [False, False], False)
    unknown = difference("c", said([0.9, 0.9]), said([0.1, 0.1]), 1.0)
    assert pooled([sick]).slice_auc == (1, 1)
    assert pooled([sick]).patient_auc is None
    assert pooled([sick, healthy, unknown]).slice_auc == (1, pytest.approx(2 / 3))
    assert pooled([sick, healthy, unknown]).patient_auc == (1, 0)


def test_nothing_at_all_has_no_figures():
    found = pooled([])
    assert (found.studies, found.slices, found.largest_drift, found.mean_drift) == (0, 0, 0, 0)
    assert (found.slice_auc, found.patient_auc, found.reported.dice) == (None, None, None)
