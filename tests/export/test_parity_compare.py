"""Two answers to one study, compared by hand."""

import numpy as np
import pytest

from onfh_export.parity_compare import Truth, pooled, study_difference
from onfh_runtime.evaluation import dice, hd95_mm

SPACING = (3.0, 1.0, 2.0)


def test_flips_are_counted_at_each_threshold(said):
    found = study_difference("a", said([0.2, 0.49, 0.5, 0.9]), said([0.31, 0.51, 0.49, 0.9]), SPACING)
    assert found.gate_flips == (0,)
    assert found.slice_flips == (1, 2)
    assert found.states == ("positive", "positive")
    assert found.largest_drift == pytest.approx(0.11, abs=1e-6)
    assert pooled([found]).slice_flips == 2


def test_a_score_at_the_threshold_counts_as_positive_in_both(said):
    assert study_difference("a", said([0.5]), said([0.5]), SPACING).slice_flips == ()


def test_the_patient_and_the_sides_flip(said):
    found = study_difference("a", said([0.6, 0.6], (50, 50)), said([0.6, 0.38], (50, 50)), SPACING)
    assert found.states == ("positive", "negative")
    assert found.side_flips == ("right",)
    assert found.outlined.dice == 1
    assert (found.reported.reference, found.reported.other, found.reported.dice) == (100, 0, 0)
    together = pooled([found])
    assert (together.patient_flips, together.side_flips, together.gate_flips) == (1, 1, 0)


def test_the_largest_drift_is_that_of_a_slice(said):
    found = study_difference("a", said([0.6, 0.7]), said([0.61, 0.68]), SPACING)
    assert found.largest_drift == pytest.approx(0.02, abs=1e-6)
    assert found.patients == pytest.approx((0.65, 0.645))


def test_empty_and_one_empty_are_counted_apart(said):
    nothing, some = said([0.6], (0,)), said([0.6], (50,))
    studies = [
        study_difference(name, first, second, SPACING)
        for name, first, second in (("a", nothing, nothing), ("b", nothing, some), ("c", some, some))
    ]
    found = pooled(studies)
    assert (found.both_empty, found.one_empty, found.least_dice) == (1, 1, 0)
    assert found.outlined.dice == pytest.approx(2 * 50 / 150)
    assert found.outlined.drift_mm3 == 50 * 6


def test_volumes_of_studies_with_other_voxels_add_up(said):
    first, second = said([0.6], (50,)), said([0.6], (60,))
    studies = [study_difference("a", first, second, spacing) for spacing in ((1, 1, 1), (2, 2, 2))]
    assert pooled(studies).outlined.volumes_mm3 == (50 * 9, 60 * 9)
    assert pooled(studies).outlined.drift_percent == pytest.approx(20)


def test_auc_changes_where_there_are_both_classes_only(said):
    def difference(name, first, second, positive, known=True):
        labels = np.array(positive, np.bool_)
        truth = Truth(labels, np.full(len(labels), known))
        return study_difference(name, said(first), said(second), SPACING, truth)

    sick = difference("a", [0.6, 0.2], [0.3, 0.2], [True, False])
    found = pooled([sick])
    assert found.slice_auc == (1, 1)
    assert found.patient_auc is None
    healthy = difference("b", [0.45, 0.1], [0.45, 0.1], [False, False])
    found = pooled([sick, healthy])
    assert found.slice_auc == (1, pytest.approx(2 / 3))
    assert found.patient_auc == (1, 0)  # the healthy patient's mean of 0.275 against 0.4, then 0.25
    assert pooled([healthy]).slice_auc is None
    unknown = difference("c", [0.9, 0.9], [0.1, 0.1], [False, False], known=False)
    assert pooled([sick, healthy, unknown]).slice_auc == found.slice_auc
    assert pooled([sick, healthy, unknown]).patient_auc == found.patient_auc


def test_masks_are_held_against_truth(said):
    truth_mask = np.zeros((3, 1, 100), np.bool_)
    truth_mask[:2, 0, :40] = True
    truth = Truth(truth_mask.any(axis=(1, 2)), np.ones(3, np.bool_), truth_mask)
    first, second = said([0.6] * 3, (40, 30, 0)), said([0.6] * 3, (44, 0, 10))
    found = study_difference("a", first, second, SPACING, truth).against_truth
    assert found.dice == (dice(first.outlined, truth_mask), dice(second.outlined, truth_mask))
    assert found.missed == (0, 1)
    assert found.compared == 1  # slice 1 is outlined by the first only: it would change the mean by itself
    assert found.hd95_mm[0] == 0
    assert found.hd95_mm[1] == hd95_mm(second.outlined[0], truth_mask[0], (1.0, 2.0)) > 0


def test_a_healthy_truth_has_no_dice_with_truth(said):
    truth = Truth(np.zeros(1, np.bool_), np.ones(1, np.bool_), np.zeros((1, 1, 100), np.bool_))
    found = study_difference("a", said([0.6], (9,)), said([0.6], (9,)), SPACING, truth)
    assert found.against_truth is None
    assert pooled([found]).truth_dice is None


def test_nothing_at_all_has_no_figures():
    found = pooled([])
    assert (found.slices, found.largest_drift, found.least_dice, found.slice_auc) == (0, 0, None, None)
    assert found.outlined.dice is None
