"""The figures, against scikit-learn, SciPy and cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from onfh_export.metrics import area_under_curve, dice, hd95_mm, operating_point


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_mann_whitney_with_ties_one_half(rows):
    scores = np.array([score for score, _ in rows], float)
    labels = np.array([label for _, label in rows])
    found = area_under_curve(scores, labels)
    if labels.all() or not labels.any():
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(labels, scores))


def test_a_score_at_the_threshold_is_positive():
    scores, labels = np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True])
    point = operating_point(scores, labels, 0.5)
    assert (point.true_positive, point.false_positive, point.true_negative, point.false_negative) == (2, 1, 1, 0)
    assert (point.sensitivity, point.specificity, point.npv) == (1.0, 0.5, 1.0)


def test_a_rate_without_a_denominator_is_none():
    point = operating_point(np.array([0.9]), np.array([True]), 0.5)
    assert point.specificity is None
    assert point.npv is None


def test_dice():
    first, second = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 1], bool)
    assert dice(first, second) == pytest.approx(2 / 5)
    assert dice(first, ~first) == 0
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) is None


def test_hd95_of_shifted_squares_is_the_shift_in_mm():
    first, second = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    first[5:6, 5:6] = True
    second[8:9, 9:10] = True
    assert hd95_mm(first, second, (2.0, 1.0)) == pytest.approx(np.hypot(6, 4))
    assert hd95_mm(first, np.zeros_like(first), (1, 1)) is None


def test_hd95_is_the_larger_of_two_directed_percentiles():
    rng = np.random.default_rng(0)
    first, second = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    first[5:15, 5:15] = True
    second[5:15, 5:15] = True
    second[20:35, 20:35] = rng.random((15, 15)) > 0.5  # far away: only one direction sees it
    edge = [np.argwhere(m & ~_eroded(m)) * (1.5, 0.7) for m in (first, second)]
    table = cdist(*edge)
    one, other = np.percentile(table.min(1), 95), np.percentile(table.min(0), 95)
    assert other > one
    assert hd95_mm(first, second, (1.5, 0.7)) == pytest.approx(max(one, other))


def _eroded(mask):
    from scipy.ndimage import binary_erosion

    return binary_erosion(mask)
