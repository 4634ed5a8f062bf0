"""McNemar's test against SciPy and statsmodels; Tango's interval against its definition, solved another way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from onfh_runtime.evaluation import PairedCounts, mcnemar_test, paired_counts, paired_difference
from onfh_runtime.evaluation.interval import normal_quantile

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS)
def test_exact_is_the_binomial_test_and_mid_p_counts_the_observed_by_half(b, c):
    found = mcnemar_test(PairedCounts(5, b, c, 7))
    if b + c == 0:
        assert (found.p_exact, found.p_mid, found.statistic, found.p_chi_square) == (1, 1, None, None)
        return
    assert found.p_exact == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-9)
    mass = stats.binom.pmf(np.arange(b + c + 1), b + c, 0.5)
    as_far = np.isclose(np.abs(2 * np.arange(b + c + 1) - b - c), abs(b - c))
    further = np.abs(2 * np.arange(b + c + 1) - b - c) > abs(b - c)
    assert found.p_mid == pytest.approx(mass[further].sum() + mass[as_far].sum() / 2, rel=1e-9)
    assert (found.statistic is None) == (b + c < 25)


def test_it_is_statsmodels(peer):
    peers = peer("statsmodels.stats.contingency_tables")
    for a, b, c, d in ((10, 3, 9, 4), (100, 40, 22, 60), (1, 0, 6, 0), (3000, 900, 1010, 4000)):
        found = mcnemar_test(PairedCounts(a, b, c, d))
        assert found.p_exact == pytest.approx(peers.mcnemar([[a, b], [c, d]], exact=True).pvalue)
        if found.statistic is not None:
            other = peers.mcnemar([[a, b], [c, d]], exact=False, correction=True)
            assert (found.statistic, found.p_chi_square) == pytest.approx((other.statistic, other.pvalue))


def test_as_many_one_way_as_the_other_is_no_difference():
    found = mcnemar_test(PairedCounts(0, 20, 20, 0))
    assert (found.p_exact, found.statistic, found.p_chi_square) == (1, 0, 1)


def test_a_hundred_thousand_discordant_units():
    found = mcnemar_test(PairedCounts(0, 50_300, 49_700, 0))
    assert found.p_exact == pytest.approx(stats.binomtest(50_300, 100_000).pvalue, rel=1e-6)
    assert found.p_chi_square == pytest.approx(found.p_exact, rel=0.01)


def test_counts_of_calls():
    first, second = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 0], bool)
    assert paired_counts(first, second) == PairedCounts(1, 2, 1, 1)
    assert (paired_counts(first, second).units, paired_counts(first, second).discordant) == (5, 3)
    with pytest.raises(ValueError, match="shape"):
        paired_counts(first, second[:2])


def _score_by_search(n, b, c, difference):
    """The score of a supposed difference, its most likely nuisance share found by a numeric search."""

    def loss(share):
        first = share + difference
        rest = 1 - first - share
        return -sum(k * np.log(max(p, 1e-300)) for k, p in ((b, first), (c, share), (n - b - c, rest)) if k)

    low, high = max(0, -difference), (1 - difference) / 2
    share = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (b - c - n * difference) / np.sqrt(n * (2 * share + difference - difference**2))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 25), st.integers(1, 25), st.integers(1, 25))
def test_the_score_at_each_bound_is_the_quantile(a, b, c, d):
    found = paired_difference(PairedCounts(a, b, c, d))
    n = a + b + c + d
    assert found.first - found.second == pytest.approx(found.difference)
    assert found.interval.low < found.difference < found.interval.high
    for bound, sign in ((found.interval.low, 1), (found.interval.high, -1)):
        assert _score_by_search(n, b, c, bound) == pytest.approx(sign * normal_quantile(0.95), abs=2e-3)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_it_turns_with_the_sides_and_agrees_with_the_uncorrected_test(a, b, c, d):
    one, other = paired_difference(PairedCounts(a, b, c, d)), paired_difference(PairedCounts(a, c, b, d))
    if a + b + c + d == 0:
        assert (one.first, one.second, one.difference, one.interval) == (None, None, None, None)
        return
    assert (one.interval.low, one.interval.high) == pytest.approx((-other.interval.high, -other.interval.low), abs=1e-9)
    assert -1 <= one.interval.low <= one.difference <= one.interval.high <= 1
    if b + c:
        rejects = (b - c) ** 2 / (b + c) > normal_quantile(0.95) ** 2
        assert rejects == (one.interval.low > 0 or one.interval.high < 0)


def test_no_discordant_unit_still_leaves_a_width():
    found = paired_difference(PairedCounts(30, 0, 0, 10))
    z2 = normal_quantile(0.95) ** 2
    assert found.difference == 0
    assert (found.interval.low, found.interval.high) == pytest.approx((-z2 / (40 + z2), z2 / (40 + z2)))
