"""Wilson's interval and the normal tail, against SciPy and statsmodels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from onfh_runtime.evaluation import wilson_interval
from onfh_runtime.evaluation.interval import chi_square_p, normal_quantile, two_sided_p


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95]))
def test_wilson_is_scipys(counts, level):
    found = wilson_interval(*counts, level)
    peer = stats.binomtest(*counts).proportion_ci(level, method="wilson")
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high), abs=1e-12)
    assert found.level == level


def test_wilson_is_statsmodels(peer):
    proportion = peer("statsmodels.stats.proportion")
    for hits, of in ((0, 7), (3, 7), (7, 7), (1201, 1216)):
        found = wilson_interval(hits, of)
        assert (found.low, found.high) == pytest.approx(
            proportion.proportion_confint(hits, of, method="wilson"), abs=1e-12
        )


def test_wilson_at_the_ends():
    assert wilson_interval(0, 0) is None
    assert wilson_interval(0, 5).low == 0
    assert wilson_interval(5, 5).high == 1
    with pytest.raises(ValueError, match="6 of 5"):
        wilson_interval(6, 5)
    for level in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="level"):
            wilson_interval(1, 2, level)


def test_tails_are_scipys():
    assert normal_quantile(0.95) == pytest.approx(1.959963984540054)
    for z in (0.0, 0.3, -1.7, 4.0, 12.0):
        assert two_sided_p(z) == pytest.approx(2 * stats.norm.sf(abs(z)))
        assert chi_square_p(z * z) == pytest.approx(stats.chi2.sf(z * z, 1))
    assert np.isclose(two_sided_p(normal_quantile(0.9)), 0.1)
