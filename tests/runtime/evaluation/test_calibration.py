"""Calibration, against scikit-learn and statsmodels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from onfh_runtime.evaluation import brier_score, calibration_fit, reliability_curve, wilson_interval

UNITS = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60)


def _arrays(rows):
    return np.array([p for p, _ in rows], np.float32), np.array([label for _, label in rows], bool)


@given(UNITS)
def test_brier_is_scikit_learns(rows):
    probabilities, labels = _arrays(rows)
    assert brier_score(probabilities, labels) == pytest.approx(
        brier_score_loss(labels, probabilities.astype(float), pos_label=True), abs=1e-12
    )


def test_without_a_unit_there_is_nothing_to_say():
    nothing = np.array([]), np.array([], bool)
    assert brier_score(*nothing) is None
    assert calibration_fit(*nothing) is None
    assert reliability_curve(*nothing, by="quantile") == ()
    assert [b.observed.of for b in reliability_curve(*nothing, bins=4)] == [0, 0, 0, 0]


def test_bins_are_scikit_learns_where_no_probability_lies_on_an_edge():
    rng = np.random.default_rng(0)
    probabilities = rng.random(500)
    labels = rng.random(500) < probabilities
    for ours, theirs in (("width", "uniform"), ("quantile", "quantile")):
        observed, mean = calibration_curve(labels, probabilities, n_bins=8, strategy=theirs)
        found = reliability_curve(probabilities, labels, 8, by=ours)
        assert [b.mean_probability for b in found] == pytest.approx(mean)
        assert [b.observed.value for b in found] == pytest.approx(observed)


@given(UNITS, st.integers(1, 12), st.sampled_from(["width", "quantile"]))
def test_every_unit_is_in_one_bin(rows, bins, by):
    probabilities, labels = _arrays(rows)
    found = reliability_curve(probabilities, labels, bins, by=by, level=0.9)
    assert sum(b.observed.of for b in found) == len(rows)
    assert sum(b.observed.hits for b in found) == labels.sum()
    assert len(found) <= bins
    for one in found:
        last = one is found[-1]
        exact = probabilities.astype(float)
        inside = (exact >= one.low) & ((exact <= one.high) if last else (exact < one.high))
        assert one.observed.of == inside.sum()
        assert one.observed.interval == wilson_interval(one.observed.hits, one.observed.of, 0.9)
        if one.observed.of:
            assert one.mean_probability == pytest.approx(exact[inside].mean())
        else:
            assert (one.mean_probability, one.observed.value) == (None, None)


def test_quantile_bins_of_equal_probabilities_are_one():
    found = reliability_curve(np.full(7, 0.25), np.arange(7) < 3, by="quantile")
    assert [(b.low, b.high, b.observed.of, b.observed.hits) for b in found] == [(0.25, 0.25, 7, 3)]


def test_no_bin_is_refused():
    with pytest.raises(ValueError, match="bin"):
        reliability_curve(np.array([0.5]), np.array([True]), 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("intercept", "slope"), [(0, 1), (-1.2, 0.6), (0.4, 2.5)])
def test_the_fit_is_statsmodels(peer, intercept, slope):
    api = peer("statsmodels.api")
    rng = np.random.default_rng(1)
    probabilities = expit(rng.normal(scale=2, size=800))
    x = logit(probabilities)
    labels = rng.random(800) < expit(intercept + slope * x)
    found = calibration_fit(probabilities, labels)
    both = api.GLM(labels.astype(float), api.add_constant(x), family=api.families.Binomial()).fit(tol=1e-14)
    large = api.GLM(labels.astype(float), np.ones((800, 1)), family=api.families.Binomial(), offset=x).fit(tol=1e-14)
    for mine, theirs, k in ((found.intercept, both, 0), (found.slope, both, 1), (found.in_the_large, large, 0)):
        assert (mine.value, mine.standard_error) == pytest.approx((theirs.params[k], theirs.bse[k]), rel=1e-6)
        assert (mine.interval.low, mine.interval.high) == pytest.approx(theirs.conf_int()[k], rel=1e-5, abs=1e-8)
    assert found.clipped == 0
    assert (found.mean_probability, found.observed) == (probabilities.mean(), labels.mean())


def test_well_calibrated_probabilities_are_found_so():
    rng = np.random.default_rng(2)
    probabilities = rng.random(20_000)
    labels = rng.random(20_000) < probabilities
    found = calibration_fit(probabilities, labels)
    assert found.slope.interval.low < 1 < found.slope.interval.high
    assert found.in_the_large.interval.low < 0 < found.in_the_large.interval.high


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1]),
        ([0.1, 0.2, 0.2, 0.9], [0, 0, 1, 1]),
        ([0.3, 0.3, 0.3, 0.3], [0, 1, 0, 1]),
    ],
    ids=["apart", "apart the wrong way", "touching", "one probability"],
)
def test_classes_that_are_parted_have_no_slope_but_an_intercept_in_the_large(probabilities, labels):
    found = calibration_fit(np.array(probabilities), np.array(labels, bool))
    assert (found.intercept, found.slope) == (None, None)
    assert found.in_the_large is not None


def test_one_class_has_no_fit():
    found = calibration_fit(np.array([0.2, 0.4]), np.array([True, True]))
    assert (found.in_the_large, found.intercept, found.slope) == (None, None, None)
    assert (found.mean_probability, found.observed) == (pytest.approx(0.3), 1)


def test_saturated_probabilities_are_counted_and_do_not_break_the_fit():
    rng = np.random.default_rng(3)
    probabilities = expit(rng.normal(scale=12, size=400)).astype(np.float32)
    labels = rng.random(400) < expit(0.2 * logit(np.clip(probabilities, 1e-6, 1 - 1e-6)))
    found = calibration_fit(probabilities, labels)
    exact = probabilities.astype(float)
    assert found.clipped == ((exact < 1e-6) | (exact > 1 - 1e-6)).sum() > 10
    assert 0.1 < found.slope.value < 0.3
