"""The area under the curve and the curve, against scikit-learn and by definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from onfh_runtime.evaluation import area_under_curve, roc_curve

UNITS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40)


def _arrays(rows):
    return np.array([score for score, _ in rows], np.float32), np.array([label for _, label in rows], bool)


@given(UNITS)
def test_area_is_scikit_learns_and_none_for_one_class(rows):
    scores, labels = _arrays(rows)
    found = area_under_curve(scores, labels)
    if labels.all() or not labels.any():
        assert found is None
    else:
        assert found == pytest.approx(metrics.roc_auc_score(labels, scores))
        assert area_under_curve(-scores, labels) == pytest.approx(1 - found)


def test_area_by_definition_with_ties_one_half():
    scores, labels = np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True])
    assert area_under_curve(scores, labels) == (1 + 1 + 0.5 + 1) / 4
    assert area_under_curve(np.full(4, 0.3), labels) == 0.5


@given(UNITS)
def test_curve_is_scikit_learns(rows):
    scores, labels = _arrays(rows)
    curve = roc_curve(scores, labels)
    if labels.all() or not labels.any():
        assert curve is None
        return
    false_positive, true_positive, thresholds = metrics.roc_curve(labels, scores, drop_intermediate=False)
    assert curve.sensitivity == pytest.approx(true_positive)
    assert 1 - curve.specificity == pytest.approx(false_positive)
    assert curve.thresholds.tolist() == thresholds.tolist()
    assert np.trapezoid(curve.sensitivity, 1 - curve.specificity) == pytest.approx(area_under_curve(scores, labels))


def test_every_point_of_the_curve_is_what_its_threshold_calls():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 20, 200) / 20, rng.random(200) < 0.4
    curve = roc_curve(scores, labels)
    for threshold, sensitivity, specificity in zip(curve.thresholds, curve.sensitivity, curve.specificity, strict=True):
        called = scores >= threshold
        assert sensitivity == called[labels].mean()
        assert specificity == pytest.approx((~called)[~labels].mean())
