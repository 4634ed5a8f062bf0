"""Counts and rates, against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from onfh_runtime.evaluation import Confusion, confusion, confusion_of_calls, rates_of, wilson_interval


@given(st.lists(st.tuples(st.integers(0, 10), st.booleans()), max_size=40), st.integers(-1, 11))
def test_counts_are_scikit_learns(rows, cut):
    scores, labels = np.array([s for s, _ in rows], float), np.array([label for _, label in rows], bool)
    found = confusion(scores, labels, cut)
    (tn, fp), (fn, tp) = (
        confusion_matrix(labels, scores >= cut, labels=[False, True]) if rows else np.zeros((2, 2), int)
    )
    assert found == Confusion(tp, fp, tn, fn)
    assert found == confusion_of_calls(scores >= cut, labels)


def test_a_score_at_the_threshold_is_positive_in_its_own_precision():
    scores, labels = np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True])
    point = confusion(scores, labels, 0.5)
    assert point == Confusion(2, 1, 1, 0)
    assert (point.sensitivity, point.specificity, point.npv) == (1.0, 0.5, 1.0)
    # float32(0.7) lies below 0.7.
    assert confusion(np.array([0.7], np.float32), np.array([True]), 0.7).true_positive == 1


def test_every_rate_with_its_counts_and_interval():
    found = rates_of(Confusion(8, 3, 17, 2), 0.9)
    assert (found.sensitivity.hits, found.sensitivity.of, found.sensitivity.value) == (8, 10, 0.8)
    assert (found.specificity.hits, found.specificity.of, found.specificity.value) == (17, 20, 0.85)
    assert (found.ppv.hits, found.ppv.of) == (8, 11)
    assert (found.npv.hits, found.npv.of) == (17, 19)
    assert (found.prevalence.hits, found.prevalence.of) == (10, 30)
    assert found.npv.interval == wilson_interval(17, 19, 0.9)


def test_rates_are_those_of_the_counts():
    counts = Confusion(8, 3, 17, 2)
    found = rates_of(counts)
    for name in ("sensitivity", "specificity", "ppv", "npv", "prevalence"):
        assert getattr(found, name).value == getattr(counts, name)


def test_a_rate_without_a_denominator_is_none():
    point = confusion(np.array([0.9]), np.array([True]), 0.5)
    assert (point.specificity, point.npv) == (None, None)
    found = rates_of(point)
    assert (found.specificity.of, found.specificity.value, found.specificity.interval) == (0, None, None)
    nobody = rates_of(Confusion(0, 0, 0, 0))
    assert nobody.prevalence.value is None


def test_calls_that_are_not_bool_and_a_threshold_that_is_nan_are_refused():
    with pytest.raises(ValueError, match="bool"):
        confusion_of_calls(np.array([1, 0]), np.array([True, False]))
    with pytest.raises(ValueError, match="shape"):
        confusion_of_calls(np.array([True]), np.array([True, False]))
    with pytest.raises(ValueError, match="NaN"):
        confusion(np.array([0.1]), np.array([True]), float("nan"))
