from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from onfh_runtime.measure.statistics import median_interval, paired_ratio, percentiles, samples_for, spread

VALUES = st.lists(st.floats(1e-3, 1e3), min_size=100, max_size=300)


@given(VALUES)
def test_percentiles_are_values_seen_by_nearest_rank(values):
    found = percentiles(values)
    assert list(found) == ["p50", "p90", "p95", "p99"]
    for name, value in found.items():
        assert value == np.percentile(values, int(name[1:]), method="inverted_cdf")
        assert value in values


@pytest.mark.parametrize(("percentile", "needed"), [(50, 2), (90, 10), (95, 20), (99, 100)])
def test_a_percentile_of_too_few_samples_is_refused(percentile, needed):
    assert samples_for(percentile) == needed
    assert percentiles(range(needed - 1), [percentile]) == {f"p{percentile}": None}
    assert percentiles(range(needed), [percentile])[f"p{percentile}"] is not None


def test_no_samples_have_no_percentiles():
    assert percentiles([]) == {"p50": None, "p90": None, "p95": None, "p99": None}


def test_spread():
    assert spread([3.0, 1.0, 2.0, 10.0]) == {"min": 1.0, "median": 2.5, "max": 10.0, "count": 4}


@pytest.mark.parametrize("count", [6, 7, 20, 51, 200])
def test_the_interval_of_a_median_holds_it_as_often_as_said_and_no_narrower_one_would(count):
    low, high = median_interval(range(count))
    assert low + high == count - 1
    inside = binom.cdf(high, count, 0.5) - binom.cdf(low, count, 0.5)  # between low + 1 and high of them lie below
    narrower = binom.cdf(high - 1, count, 0.5) - binom.cdf(low + 1, count, 0.5)
    assert narrower < 0.95 <= inside


def test_five_values_give_no_interval():
    assert median_interval(range(5)) is None


def test_pairs_cancel_what_both_of_them_suffered():
    noise = [1.0, 5.0, 2.0, 9.0, 1.5, 3.0, 7.0]
    ratio = paired_ratio([2 * each for each in noise], noise)
    assert ratio == {"min": 2.0, "median": 2.0, "max": 2.0, "count": 7, "low": 2.0, "high": 2.0}


def test_three_pairs_have_a_ratio_without_an_interval():
    ratio = paired_ratio([1, 2, 6], [2, 2, 2])
    assert (ratio["median"], ratio["low"], ratio["high"]) == (1.0, None, None)


def test_lists_of_different_length_are_no_pairs():
    with pytest.raises(ValueError, match=r"longer|shorter"):
        paired_ratio([1.0, 2.0], [1.0])
