"""DeLong's method, against its structural components written out pair by pair, on random and on published data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit

from onfh_runtime.evaluation import area_under_curve, delong_interval, delong_test

PRINTED = """
3.0 5.8 10 0  3.2 6.3  5 1  3.9 6.8  3 1  2.8 4.8  6 0  3.2 5.8  3 1  0.9 4.0  5 0  2.5 5.7  8 0  1.6 5.6  5 1
3.8 5.7  5 1  3.7 6.7  6 1  3.2 5.4  4 1  3.8 6.6  6 1  4.1 6.6  5 1  3.6 5.7  5 1  4.3 7.0  4 1  3.6 6.7  4 0
2.3 4.4  6 1  4.2 7.6  4 0  4.0 6.6  6 0  3.5 5.8  6 1  3.8 6.8  7 1  3.0 4.7  8 0  4.5 7.4  5 1  3.7 7.4  5 1
3.1 6.6  6 1  4.1 8.2  6 1  4.3 7.0  5 1  4.3 6.5  4 1  3.2 5.1  5 1  2.6 4.7  6 1  3.3 6.8  6 0  1.7 4.0  7 0
3.7 6.1  5 1  3.3 6.3  7 1  4.2 7.7  6 1  3.5 6.2  5 1  2.9 5.7  9 0  2.1 4.8  7 1  2.8 6.2  8 0  4.0 7.0  7 1
3.3 5.7  6 1  3.7 6.9  5 1  3.6 6.6  5 1
"""
OVARIAN = np.array(PRINTED.split(), float).reshape(-1, 4)
"""The ovarian cancer patients of DeLong, DeLong and Clarke-Pearson (1988) for whom all three tests are known: albumin,
total protein, Krebs-Goplerud score and whether surgery failed (0) or not. The SAS/STAT User's Guide prints them in the
chapter on PROC LOGISTIC, example "Comparing Receiver Operating Characteristic Curves"."""


def pair_by_pair(scores, labels):
    """Structural components: of each positive unit over the negative ones, and the reverse."""
    positive, negative = scores[labels][:, None], scores[~labels][None]
    won = (positive > negative) + 0.5 * (positive == negative)
    return won.mean(axis=1), won.mean(axis=0)


def written_out(scores, labels):
    """Areas and their covariance for (K, units) scores, as the paper defines them."""
    over, under = zip(*(pair_by_pair(row, labels) for row in scores), strict=True)
    covariance = np.cov(over) / labels.sum() + np.cov(under) / (~labels).sum()
    return np.array([row.mean() for row in over]), covariance


@settings(max_examples=60)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(2, 12), st.integers(0, 10_000))
def test_areas_variances_and_test_are_those_written_out(positives, negatives, levels, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(positives + negatives) < positives)
    scores = rng.integers(0, levels, (2, len(labels))) + labels * 0.7
    areas, covariance = written_out(scores, labels)
    one = delong_interval(scores[0], labels)
    assert one.area == pytest.approx(areas[0])
    assert one.variance == pytest.approx(covariance[0, 0], abs=1e-15)
    if one.interval:
        low, high = expit(
            logit(one.area) + np.array([-1, 1]) * 1.959964 * np.sqrt(one.variance) / (one.area * (1 - one.area))
        )
        assert (one.interval.low, one.interval.high) == pytest.approx((low, high), abs=1e-6)
        assert 0 <= one.interval.low <= one.area <= one.interval.high <= 1
    both = delong_test(*scores, labels)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert both.difference == pytest.approx(areas[0] - areas[1], abs=1e-12)
    assert both.standard_error == pytest.approx(np.sqrt(max(variance, 0)), abs=1e-7)
    if both.z is not None:
        assert both.z == pytest.approx(both.difference / both.standard_error)
        assert both.p == pytest.approx(2 * stats.norm.sf(abs(both.z)))
        assert both.interval.high - both.interval.low == pytest.approx(2 * 1.959964 * both.standard_error, rel=1e-6)


def test_the_ovarian_cancer_patients():
    albumin, protein, score = OVARIAN[:, 0], OVARIAN[:, 1], 10 - OVARIAN[:, 2]
    labels = OVARIAN[:, 3] == 1
    assert (len(labels), int((~labels).sum())) == (43, 12)
    # To four decimals, what the components written out give.
    areas, covariance = written_out([albumin, score, protein], labels)
    assert areas.round(4).tolist() == [0.7366, 0.7258, 0.6478]
    assert np.sqrt(np.diag(covariance)).round(4).tolist() == [0.0927, 0.1028, 0.1]
    for values, area, error in (
        (albumin, 0.7366, 0.0927),
        (score, 0.7258, 0.1028),
        (protein, 0.6478, 0.1000),
    ):
        found = delong_interval(values, labels)
        assert (round(found.area, 4), round(found.variance**0.5, 4)) == (area, error)
    for values, difference, error, low, high, square, p in (
        (albumin, 0.0108, 0.0953, -0.1761, 0.1976, 0.0127, 0.9102),
        (protein, -0.0780, 0.1046, -0.2830, 0.1271, 0.5554, 0.4561),
    ):
        found = delong_test(values, score, labels)
        assert (round(found.difference, 4), round(found.standard_error, 4)) == (difference, error)
        assert (round(found.interval.low, 4), round(found.interval.high, 4)) == (low, high)
        assert (round(found.z**2, 4), round(found.p, 4)) == (square, p)


def test_one_class_has_no_area():
    assert delong_interval(np.array([0.1, 0.2]), np.array([True, True])) is None
    assert delong_test(np.array([0.1, 0.2]), np.array([0.1, 0.2]), np.array([False, False])) is None
    assert delong_interval(np.array([]), np.array([], bool)) is None


def test_one_unit_in_a_class_has_an_area_and_no_variance():
    scores, labels = np.array([0.1, 0.6, 0.4]), np.array([False, False, True])
    found = delong_interval(scores, labels)
    assert (found.area, found.variance, found.interval) == (0.5, None, None)
    both = delong_test(scores, scores, labels)
    assert (both.difference, both.standard_error, both.z, both.p, both.interval) == (0, None, None, None, None)


def test_classes_perfectly_apart_have_no_interval():
    labels = np.arange(10) > 4
    found = delong_interval(np.arange(10.0), labels)
    assert (found.area, found.variance, found.interval) == (1, 0, None)
    constant = delong_interval(np.zeros(10), labels)
    assert (constant.area, constant.variance, constant.interval) == (0.5, 0, None)
    # The difference is sure within these units and nothing says how it varies.
    both = delong_test(np.arange(10.0), np.zeros(10), labels)
    assert (both.difference, both.standard_error, both.z, both.p, both.interval) == (0.5, 0, None, None, None)


def test_scores_that_rank_alike_do_not_differ():
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=200), rng.random(200) < 0.3
    both = delong_test(scores, np.exp(scores).astype(np.float32), labels)
    assert (both.difference, both.standard_error, both.z, both.p) == (0, 0, None, 1)
    assert (both.interval.low, both.interval.high) == (0, 0)


def test_intervals_hold_the_true_area_as_often_as_they_say():
    rng = np.random.default_rng(2)
    true = stats.norm.cdf(1.5 / np.sqrt(2))
    labels = np.arange(120) < 40
    held = 0
    for _ in range(600):
        interval = delong_interval(rng.normal(size=120) + 1.5 * labels, labels).interval
        held += interval.low <= true <= interval.high
    assert 0.93 < held / 600 < 0.975


def test_many_units_agree_with_the_area_and_do_not_overflow():
    rng = np.random.default_rng(3)
    labels = rng.random(200_000) < 0.5
    scores = (rng.normal(size=len(labels)) + labels).astype(np.float32)
    found = delong_interval(scores, labels)
    assert found.area == pytest.approx(area_under_curve(scores, labels), abs=1e-12)
    # Hanley and McNeil's formula for exponential scores is a rough check on the size.
    assert 0.5e-6 < found.variance < 2e-6
