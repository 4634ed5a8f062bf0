from __future__ import annotations

import numpy as np
import pytest

from onfh_runtime.anatomy import Anatomy, Head
from onfh_runtime.bundle import Gate, PatientRule
from onfh_runtime.findings import LEFT, RIGHT, UNSIDED, findings, gated_slices, patient_probability
from onfh_runtime.volume import CoronalStack

SHAPE = (20, 60, 100)
SPACING = 3.0, 2.0, 2.0
RIGHT_X, LEFT_X = 30.0, 170.0
"""The patient lies off the isocentre: both heads have positive x, the right one the smaller."""


def stack():
    affine = np.array([[0, 0, 2.0, 0], [3.0, 0, 0, 0], [0, -2.0, 0, 120.0], [0, 0, 0, 1]])
    return CoronalStack(np.zeros(SHAPE, np.float32), affine)


def head(x, *, covered=True, metal=0.0):
    return Head((x, 30.0, 60.0), 24.0, score=1.0, coverage=1.0 if covered else 0.7, covered=covered, metal_mm3=metal)


def anatomy(right=None, left=None, unsided=None):
    return Anatomy(right=right, left=left, unsided=unsided, midline_x_mm=100.0)


BOTH = anatomy(head(RIGHT_X), head(LEFT_X))


def blob(*xs):
    """A 3 x 5 x 5 voxel block (900 mm3) at the height of the heads, for each x."""
    mask = np.zeros(SHAPE, np.bool_)
    for x in xs:
        column = round(x / 2)
        mask[9:12, 28:33, column - 2 : column + 3] = True
    return mask


def find(mask, anatomy_=BOTH, probability=0.9, bundle=None):
    return findings(np.full(SHAPE[0], probability, np.float32), mask, stack(), anatomy_, bundle)


def codes(found):
    return {warning.code for warning in found.warnings}


@pytest.fixture
def rules(tiny_bundle):
    return tiny_bundle.content


def test_a_one_sided_mask_is_positive_there_and_negative_on_the_covered_other_side(rules):
    found = find(blob(RIGHT_X), bundle=rules)
    assert found.patient.state == "positive"
    right, left = found.sides.right, found.sides.left
    assert (right.state, left.state) == ("positive", "negative")
    assert right.volume_mm3 == pytest.approx(75 * 12)
    assert right.slices == 3
    assert right.centroid_mm == pytest.approx((30, 30, 60))
    assert left.volume_mm3 == 0
    assert left.centroid_mm is None
    assert set(np.unique(found.mask)) == {0, RIGHT}


def test_sides_follow_patient_coordinates_not_columns(rules):
    found = find(blob(LEFT_X), bundle=rules)
    assert (found.sides.right.state, found.sides.left.state) == ("negative", "positive")
    assert set(np.unique(found.mask)) == {0, LEFT}


def test_both_sides(rules):
    found = find(blob(RIGHT_X, LEFT_X), bundle=rules)
    assert (found.sides.right.state, found.sides.left.state) == ("positive", "positive")
    assert set(np.unique(found.mask)) == {0, RIGHT, LEFT}


def test_positive_without_a_mask_is_undetermined_on_both_sides(rules):
    found = find(blob(), bundle=rules)
    assert found.patient.state == "positive"
    assert {found.sides.right.state, found.sides.left.state} == {"undetermined"}
    assert found.sides.right.reason.code == "no_mask"


def test_a_mask_below_the_minimum_volume_does_not_count(rules):
    mask = blob()
    mask[10, 30, 15] = True
    found = find(mask, bundle=rules)
    assert found.sides.right.state == "undetermined"
    assert found.sides.right.volume_mm3 == 0
    assert not found.mask.any()
    assert "mask_below_minimum" in codes(found)


def test_a_speck_beside_a_lesion_is_neither_shown_nor_counted(rules):
    mask = blob(RIGHT_X)
    mask[10, 30, 85] = True
    found = find(mask, bundle=rules)
    left = found.sides.left
    assert (left.state, left.volume_mm3, left.slices, left.centroid_mm) == ("negative", 0, 0, None)
    assert set(np.unique(found.mask)) == {0, RIGHT}


def test_a_negative_patient_has_two_negative_sides_and_no_mask(rules):
    found = find(blob(RIGHT_X), probability=0.1, bundle=rules)
    assert found.patient.state == "negative"
    assert {found.sides.right.state, found.sides.left.state} == {"negative"}
    assert not found.mask.any()
    assert "mask_withheld" in codes(found)


@pytest.mark.parametrize("probability", [0.1, 0.9])
def test_a_cut_head_is_never_negative(rules, probability):
    cut = anatomy(head(RIGHT_X), head(LEFT_X, covered=False))
    found = find(blob(RIGHT_X) if probability > 0.5 else blob(), cut, probability, rules)
    assert found.sides.left.state == "not_analysed"
    assert found.sides.left.reason.code == "incomplete_coverage"
    assert found.patient.state == ("positive" if probability > 0.5 else "undetermined")
    assert "incomplete_coverage" in codes(found)


def test_a_lesion_in_a_cut_head_is_positive(rules):
    found = find(blob(LEFT_X), anatomy(head(RIGHT_X), head(LEFT_X, covered=False)), bundle=rules)
    assert found.sides.left.state == "positive"
    assert found.sides.right.state == "negative"


def test_a_single_hip_says_nothing_of_the_other(rules):
    found = find(blob(), anatomy(right=head(RIGHT_X)), 0.1, rules)
    assert found.patient.state == "undetermined"
    assert found.sides.right.state == "negative"
    assert found.sides.left.state == "not_analysed"
    assert found.sides.left.reason.code == "anatomy_not_found"
    assert "single_hip" in codes(found)


@pytest.mark.parametrize("probability", [0.1, 0.9])
def test_a_single_hip_of_unknown_side_names_no_side(rules, probability):
    found = find(blob(RIGHT_X), anatomy(unsided=head(RIGHT_X)), probability, rules)
    assert {found.sides.right.state, found.sides.left.state} == {"undetermined"}
    assert found.sides.right.reason.code == "side_ambiguous"
    assert "side_ambiguous" in codes(found)
    assert set(np.unique(found.mask)) == ({0, UNSIDED} if probability > 0.5 else {0})
    text = next(w.text for w in found.warnings if w.code == "side_ambiguous")
    assert ("900 mm3" in text) == (probability > 0.5)


def test_what_is_outlined_far_from_any_head_is_not_counted_but_told(rules):
    mask = blob(RIGHT_X)
    mask[10, 30, 50] = True
    found = find(mask, bundle=rules)
    assert found.sides.right.volume_mm3 == pytest.approx(900)
    assert next(w.text for w in found.warnings if w.code == "mask_outside_head").startswith("12 mm3")


def test_metal_is_a_warning_on_its_side(rules):
    found = find(blob(), anatomy(head(RIGHT_X), head(LEFT_X, metal=5000)), bundle=rules)
    assert [w.text for w in found.warnings if w.code == "implant"] == [
        "There is metal at the left hip; streaks may disturb both stages there."
    ]


def test_gate_keeps_the_most_probable_and_their_order():
    probabilities = np.array([0.1, 0.9, 0.5, 0.8, 0.5], np.float32)
    assert gated_slices(probabilities, Gate(threshold=0.5)).tolist() == [1, 2, 3, 4]
    assert gated_slices(probabilities, Gate(threshold=0.5, max_slices=3)).tolist() == [1, 2, 3]
    assert gated_slices(probabilities, Gate(threshold=0.95)).tolist() == []


def test_patient_probability_is_the_mean_of_the_top_k():
    probabilities = np.array([0.1, 0.9, 0.5, 0.7], np.float32)
    assert patient_probability(probabilities, PatientRule(k=1, threshold=0.5)) == pytest.approx(0.9)
    assert patient_probability(probabilities, PatientRule(k=3, threshold=0.5)) == pytest.approx(0.7)
    assert patient_probability(probabilities[:2], PatientRule(k=5, threshold=0.5)) == pytest.approx(0.5)
