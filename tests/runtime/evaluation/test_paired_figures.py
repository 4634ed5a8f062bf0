"""Tests of two sets of calls and of scores, against SciPy, statsmodels and the functions they stand on."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from onfh_runtime.evaluation import cluster_index, delong_test
from onfh_runtime.evaluation.paired_figures import agreement_of, areas_compared, calls_compared

RNG = np.random.default_rng(2)
LABELS = RNG.random(80) < 0.5
FIRST, SECOND = (LABELS ^ (RNG.random(80) < share) for share in (0.1, 0.3))
SCORES = [LABELS * gain + RNG.normal(size=80) for gain in (2.0, 1.0)]
EVERYONE = cluster_index(np.arange(80))


def test_mcnemar_is_over_the_units_of_one_class(peer):
    found = calls_compared(FIRST, SECOND, LABELS, *EVERYONE, rounds=50)
    mcnemar = peer("statsmodels.stats.contingency_tables").mcnemar
    for name, of, right in (
        ("sensitivity", LABELS, (FIRST, SECOND)),
        ("specificity", ~LABELS, (~FIRST, ~SECOND)),
    ):
        one, other = (each[of] for each in right)
        b, c = int((one & ~other).sum()), int((other & ~one).sum())
        entry = found[name]
        assert entry["counts"]["only_first"] == b
        assert entry["mcnemar"]["p_exact"] == pytest.approx(binomtest(b, b + c).pvalue)
        table = [[int((one & other).sum()), b], [c, int((~one & ~other).sum())]]
        assert entry["mcnemar"]["p_exact"] == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert entry["first"]["value"] == pytest.approx(one.mean())
        assert entry["second"]["value"] == pytest.approx(other.mean())
        assert entry["difference"] == pytest.approx(one.mean() - other.mean())
        assert entry["tango"][0] <= entry["difference"] <= entry["tango"][1]
        assert entry["bootstrap"][0] <= entry["difference"] <= entry["bootstrap"][1]
    json.dumps(found, allow_nan=False)


def test_several_units_of_a_patient_have_no_p_but_an_interval():
    patients = cluster_index(np.arange(80) // 4)
    found = calls_compared(FIRST, SECOND, LABELS, *patients, rounds=200)["sensitivity"]
    assert found["mcnemar"] is None
    assert found["tango"] is None
    low, high = found["bootstrap"]
    assert low < found["difference"] < high


def test_a_class_that_is_absent_has_no_rate():
    found = calls_compared(FIRST, SECOND, np.ones(80, np.bool_), *EVERYONE, rounds=10)
    assert found["specificity"] is None
    assert found["sensitivity"]["first"]["of"] == 80
    assert areas_compared(*SCORES, np.ones(80, np.bool_), *EVERYONE, rounds=10) is None


def test_areas_are_compared_by_delong_where_patients_are_units():
    found = areas_compared(*SCORES, LABELS, *EVERYONE, rounds=50)
    expected = delong_test(*SCORES, LABELS)
    assert found["difference"] == pytest.approx(expected.difference)
    assert found["delong"]["p"] == expected.p
    assert found["delong"]["interval"] == [expected.interval.low, expected.interval.high]
    clustered = areas_compared(*SCORES, LABELS, *cluster_index(np.arange(80) // 4), rounds=50)
    assert clustered["delong"] is None
    assert clustered["bootstrap"][0] < clustered["difference"] < clustered["bootstrap"][1]


def test_two_that_never_differ_have_no_interval_of_no_width():
    found = calls_compared(FIRST, FIRST, LABELS, *EVERYONE, rounds=20)["sensitivity"]
    assert (found["difference"], found["bootstrap"], found["mcnemar"]["p_mid"]) == (0, None, 1)
    assert found["tango"][0] < 0 < found["tango"][1]
    alike = areas_compared(SCORES[0], SCORES[0], LABELS, *EVERYONE, rounds=20)
    assert (alike["difference"], alike["bootstrap"], alike["delong"]["p"]) == (0, None, 1)


def test_agreement_needs_no_truth():
    found = agreement_of(FIRST, SECOND, independent=True)
    assert found["units"] == 80
    assert found["counts"]["only_first"] == int((FIRST & ~SECOND).sum())
    assert agreement_of(FIRST, SECOND, independent=False)["mcnemar"] is None


def test_calls_that_are_no_bool_are_refused():
    with pytest.raises(ValueError, match="bool"):
        calls_compared(FIRST.astype(int), SECOND, LABELS, *EVERYONE, rounds=10)
