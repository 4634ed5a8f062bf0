"""Thresholds are those a reader would draw, and lie between scores."""

import numpy as np
import pytest

from onfh_export.thresholds import best_top_k, sensitive_threshold, top_k_mean, youden_threshold
from onfh_runtime.evaluation import confusion

SCORES = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
LABELS = np.array([0, 0, 0, 1, 0, 1, 1, 1], bool)


def test_youden_takes_the_best_gap_and_stays_between_scores():
    separable = np.array([0.1, 0.2, 0.8, 0.9])
    assert youden_threshold(separable, separable > 0.5) == pytest.approx(0.5)
    best = youden_threshold(SCORES, LABELS)
    point = confusion(SCORES, LABELS, best)
    assert point.sensitivity + point.specificity == pytest.approx(1.75)
    assert np.abs(SCORES - best).min() > 0.01


def test_the_highest_threshold_with_the_wanted_sensitivity():
    threshold = sensitive_threshold(SCORES, LABELS, sensitivity=1.0, specificity_floor=0.0)
    assert threshold == pytest.approx(0.35)
    assert sensitive_threshold(SCORES, LABELS, sensitivity=0.75, specificity_floor=0.0) == pytest.approx(0.65)


def test_the_floor_of_specificity_wins_over_sensitivity():
    threshold = sensitive_threshold(SCORES, LABELS, sensitivity=1.0, specificity_floor=0.9)
    point = confusion(SCORES, LABELS, threshold)
    assert point.specificity == 1.0
    assert point.sensitivity == 0.75


def test_one_class_alone_gives_one_half():
    assert youden_threshold(SCORES, np.ones(8, bool)) == 0.5
    assert sensitive_threshold(SCORES, np.zeros(8, bool), sensitivity=1, specificity_floor=0) == 0.5


def test_top_k_mean_of_fewer_slices_than_k_is_the_mean():
    assert top_k_mean(np.array([0.2, 0.9, 0.5]), 2) == pytest.approx(0.7)
    assert top_k_mean(np.array([0.2]), 5) == pytest.approx(0.2)


def test_the_k_that_separates_is_preferred():
    # One hot slice in each negative: the maximum is fooled, the mean of three is not.
    cases = [
        np.array([0.95, 0.0, 0.0]),
        np.array([0.97, 0.1, 0.0]),
        np.array([0.9, 0.9, 0.8]),
        np.array([0.85, 0.9, 0.9]),
    ]
    assert best_top_k(cases, np.array([False, False, True, True]), (1, 3)) == 3
    assert best_top_k(cases[1:3], np.array([True, False]), (1, 3)) == 1
