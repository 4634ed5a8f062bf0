"""Each limit is breached by what it is there for, and by nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from onfh_export.parity import Comparison, Parity, Ran
from onfh_export.parity_compare import Truth, study_difference
from onfh_export.parity_limits import breaches
from onfh_runtime.bundle import ParityLimits

RAN = Ran("onnx fp16", "emulated", "onnxruntime", "fp16", "cpu")
LIMITS = ParityLimits()


@pytest.fixture
def judged(said):
    """Takes {study: (first, second)} or {study: (first, second, labels)}; the breached limits with their breach."""

    def judge(pairs, limits=LIMITS, failed=()):
        studies = []
        for name, (first, second, *labels) in pairs.items():
            truth = Truth(np.array(labels[0], np.bool_), np.ones(len(labels[0]), np.bool_)) if labels else None
            studies.append(study_difference(name, said(*first), said(*second), (1, 1, 1), truth))
        comparison = Comparison(RAN, tuple(studies), tuple(failed))
        return {breach.limit: breach for breach in breaches(Parity(RAN, (comparison,), (), ()), limits)}

    return judge


def test_equal_answers_breach_nothing(judged):
    assert judged({"a": (([0.6, 0.2], (50,)), ([0.6, 0.2], (50,)))}) == {}


def test_a_patient_that_flips_is_named_even_if_it_hardly_moves(judged):
    found = judged({"a": (([0.501, 0.5],), ([0.499, 0.5],)), "b": (([0.9],), ([0.9],))}, ParityLimits(slice_flips=1))
    assert set(found) == {"patient_flips"}
    assert found["patient_flips"].studies == ("a",)
    assert (found["patient_flips"].value, found["patient_flips"].allowed) == (1, 0)


def test_flipped_slices_are_a_share_and_the_worst_study_comes_first(judged):
    still = [0.9] * 96
    pairs = {
        "a": (([*still, 0.501],), ([*still, 0.499],)),
        "b": (([0.9, 0.9, 0.501, 0.501],), ([0.9, 0.9, 0.499, 0.499],)),
    }
    assert judged(pairs)["slice_flips"].studies == ("b", "a")
    assert judged(pairs)["slice_flips"].value == pytest.approx(3 / 101)
    assert judged(pairs, ParityLimits(slice_flips=0.03)) == {}


def test_drift_names_every_study_beyond_the_limit(judged):
    found = judged({"a": (([0.9],), ([0.93],)), "b": (([0.9],), ([0.95],)), "c": (([0.9],), ([0.91],))})
    assert found["probability_drift"].studies == ("b", "a")
    assert found["probability_drift"].value == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "limit", "breached"),
    [
        ((20,), (19,), 0.995, False),  # one voxel of a small mask: Dice 0.974, but nothing smaller can differ
        ((20,), (18,), 0.995, True),
        ((1,), (0,), 0.995, False),
        ((2,), (0,), 0.995, True),
        ((0,), (2,), 0.995, True),
        ((0,), (0,), 0.995, False),
        ((0,), (0,), 1.0, False),
        ((20,), (19,), 1.0, True),
        ((100, 100, 100), (100, 100, 98), 0.995, False),
        ((100, 100, 100), (100, 100, 94), 0.995, True),
    ],
)
def test_one_voxel_is_spared_and_no_more(judged, first, second, limit, breached):
    slices = [0.9] * len(first)
    found = judged({"a": ((slices, first), (slices, second))}, ParityLimits(mask_dice=limit))
    assert ("mask_dice" in found) is breached


def test_many_small_masks_that_differ_in_one_voxel_fail_together(judged):
    pairs = {name: (([0.9], (20,)), ([0.9], (19,))) for name in "ab"}
    found = judged(pairs)["mask_dice"]
    assert found.studies == ("a", "b")
    assert found.value == pytest.approx(2 * 38 / 78)
    assert "none of them fails alone" in found.text


def test_a_reported_mask_that_goes_is_a_breach_though_stage_two_says_the_same(judged):
    found = judged({"a": (([0.501], (50,)), ([0.499], (50,)))}, ParityLimits(patient_flips=1, slice_flips=1))
    assert set(found) == {"mask_dice", "side_flips"}
    assert found["mask_dice"].value == 0


def test_auc_change_is_judged_for_slices_and_patients(judged):
    pairs = {
        "a": (([0.45, 0.1],), ([0.43, 0.1],), [True, False]),
        "b": (([0.44, 0.1],), ([0.44, 0.1],), [False, False]),
    }
    found = judged(pairs, ParityLimits(probability_drift=1, auc_change=0))
    assert set(found) == {"auc_change"}
    assert found["auc_change"].studies[0] == "a"
    assert judged(pairs, ParityLimits(probability_drift=1, auc_change=1)) == {}


def test_a_study_without_a_probability_is_a_breach_that_no_limit_forgives(judged):
    loose = ParityLimits(patient_flips=99, slice_flips=1, probability_drift=1, mask_dice=0, auc_change=1)
    found = judged({"a": (([0.9],), ([0.9],))}, loose, failed=[("b", "The classifier answered NaN.")])
    assert found["not_a_probability"].studies == ("b",)
    assert "1 of 2 studies" in found["not_a_probability"].text


def test_a_side_that_flips_is_a_breach_however_large_the_other_mask_is(judged, said):
    first = said([0.9, 0.9], (100, 100))
    second = replace(first, sides=("positive", "positive"))
    study = study_difference("a", first, second, (1, 1, 1), None)
    comparison = Comparison(RAN, (study,), ())
    found = breaches(Parity(RAN, (comparison,), (), ()), LIMITS)
    assert [(breach.limit, breach.studies) for breach in found] == [("side_flips", ("a",))]
    assert breaches(Parity(RAN, (comparison,), (), ()), ParityLimits(side_flips=1)) == ()


def test_one_pair_that_changes_its_order_is_spared_in_an_auc_and_two_are_not(judged):
    labels = [1, 0, 1, 0]
    first, one, two = [0.62, 0.61, 0.9, 0.1], [0.61, 0.62, 0.9, 0.1], [0.605, 0.62, 0.615, 0.1]
    loose = ParityLimits(probability_drift=1)
    assert judged({"a": ((first,), (one,), labels)}, loose) == {}
    assert set(judged({"a": ((first,), (two,), labels)}, loose)) == {"auc_change"}
    assert set(judged({"a": ((first,), (one,), labels)}, ParityLimits(auc_change=0))) == {"auc_change"}
