"""The bootstrap: each round against the units it stands for, and its intervals against what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from onfh_runtime.evaluation import (
    area_statistic,
    area_under_curve,
    bootstrap_intervals,
    bootstrap_rounds,
    bootstrap_summary,
    brier_score,
    classification_statistics,
    confusion,
    delong_interval,
    ratio_statistic,
)


def _cohort(seed, patients=30, slices=200, levels=20):
    rng = np.random.default_rng(seed)
    cluster = np.concatenate([np.arange(patients), rng.integers(patients, size=slices - patients)])
    ill = rng.random(patients) < 0.5
    labels = ill[cluster] & (rng.random(slices) < 0.7)
    scores = (rng.integers(0, levels, slices) / levels * 0.7 + 0.3 * labels).astype(np.float32)
    return scores, labels, cluster


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(2, 20))
def test_a_round_is_the_statistic_of_the_units_it_repeats(seed, patients, levels):
    scores, labels, cluster = _cohort(seed, patients, 60, levels)
    statistics = classification_statistics(scores, labels, 0.5, cluster, patients)
    weights = np.random.default_rng(seed).integers(0, 4, (3, patients))
    weights[0] = 1
    found = {name: statistic(weights.astype(float)) for name, statistic in statistics.items()}
    for k, row in enumerate(weights):
        units = np.repeat(np.arange(60), row[cluster])
        counts = confusion(scores[units], labels[units], 0.5)
        expected = {
            "auc": area_under_curve(scores[units], labels[units]),
            "brier": brier_score(scores[units], labels[units]),
            **{name: getattr(counts, name) for name in ("sensitivity", "specificity", "ppv", "npv", "prevalence")},
        }
        for name, value in expected.items():
            if value is None:
                assert np.isnan(found[name][k]), name
            else:
                assert found[name][k] == pytest.approx(value, abs=1e-12), name


def test_rounds_are_patients_drawn_with_replacement():
    drawn = bootstrap_rounds({"first": lambda w: w[:, 0], "all": lambda w: w.sum(axis=1)}, 50, rounds=4000, seed=3)
    assert (drawn["all"] == 50).all()
    # Binomial(50, 1/50): mean 1, variance 0.98.
    assert drawn["first"].mean() == pytest.approx(1, abs=0.06)
    assert drawn["first"].var() == pytest.approx(0.98, abs=0.1)


def test_a_seed_gives_the_same_rounds_however_they_are_cut(monkeypatch):
    scores, labels, cluster = _cohort(1)
    statistics = classification_statistics(scores, labels, 0.5, cluster, 30)
    whole = bootstrap_rounds(statistics, 30, rounds=101, seed=5)
    assert all(
        (whole[name] == values).all() for name, values in bootstrap_rounds(statistics, 30, rounds=101, seed=5).items()
    )
    other = bootstrap_rounds(statistics, 30, rounds=101, seed=6)
    assert (whole["auc"] != other["auc"]).any()
    monkeypatch.setattr("onfh_runtime.evaluation.bootstrap._BLOCK", 70)
    cut = bootstrap_rounds(classification_statistics(scores, labels, 0.5, cluster, 30), 30, rounds=101, seed=5)
    for name, values in whole.items():
        assert cut[name] == pytest.approx(values, abs=1e-12), name
    assert (cut["auc"] == whole["auc"]).all()


def test_the_estimate_is_that_of_all_units_and_the_interval_holds_percentiles_of_the_rounds():
    scores, labels, cluster = _cohort(2)
    statistics = classification_statistics(scores, labels, 0.5, cluster, 30)
    found = bootstrap_intervals(statistics, 30, rounds=500, seed=1, level=0.9)
    values = bootstrap_rounds(statistics, 30, rounds=500, seed=1)["auc"]
    assert found["auc"].estimate == pytest.approx(roc_auc_score(labels, scores))
    assert (found["auc"].interval.low, found["auc"].interval.high) == pytest.approx(np.percentile(values, [5, 95]))
    assert found["auc"].interval.level == 0.9
    assert found["auc"].standard_error == pytest.approx(values.std(ddof=1))
    assert (found["auc"].rounds, found["auc"].degenerate) == (500, 0)


def test_rounds_with_one_class_are_counted_and_left_out():
    # One patient of five is positive: the others are drawn alone in (4/5)^5 of the rounds.
    scores, labels = np.array([0.9, 0.1, 0.2, 0.3, 0.95]), np.array([True, False, False, False, False])
    found = bootstrap_intervals({"auc": area_statistic(scores, labels, np.arange(5), 5)}, 5, rounds=4000)["auc"]
    expected = 4000 * (0.8**5 + 0.2**5)
    assert found.degenerate == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert found.estimate == 0.75
    assert 0 <= found.interval.low <= 0.75 <= found.interval.high <= 1


def test_one_class_has_no_area_and_every_round_says_so():
    labels = np.array([True, True, True])
    found = bootstrap_intervals(
        classification_statistics(np.array([0.2, 0.6, 0.7]), labels, 0.5, np.arange(3), 3), 3, rounds=50
    )
    for name in ("auc", "specificity"):
        assert (found[name].estimate, found[name].interval, found[name].standard_error) == (None, None, None)
        assert (found[name].rounds, found[name].degenerate) == (50, 50)
    assert found["sensitivity"].degenerate == 0
    assert found["sensitivity"].estimate == pytest.approx(2 / 3)


def test_a_patient_without_a_slice_counts_in_the_draw_only():
    ratio = ratio_statistic(np.array([True, False]), np.array([True, True]), np.array([0, 2]), 4)
    assert ratio(np.array([[1.0, 1, 1, 1], [0, 4, 0, 0], [3, 0, 1, 0]])) == pytest.approx(
        [0.5, np.nan, 0.75], nan_ok=True
    )


def test_a_mean_of_values_and_a_difference_of_two_statistics():
    rng = np.random.default_rng(0)
    values, every, cluster = rng.normal(size=40), np.ones(40), np.arange(40) // 4
    mean = ratio_statistic(values, every, cluster, 10)
    twice = ratio_statistic(2 * values, every, cluster, 10)
    found = bootstrap_intervals({"mean": mean, "apart": lambda w: twice(w) - mean(w)}, 10, rounds=100)
    assert found["mean"].estimate == pytest.approx(values.mean())
    assert found["apart"].interval.low == pytest.approx(found["mean"].interval.low)


def test_intervals_hold_the_truth_as_often_as_they_say_where_slices_of_a_patient_are_alike():
    # 80 patients of 10 slices, a patient's slices nearly copies of each other: units taken as independent would be far
    # too sure.
    rng = np.random.default_rng(4)
    true, held, naive = stats.norm.cdf(1 / np.sqrt(2)), 0, 0
    cluster = np.repeat(np.arange(80), 10)
    labels = cluster % 2 == 0
    for seed in range(120):
        scores = (rng.normal(size=80) + (np.arange(80) % 2 == 0))[cluster] + 0.01 * rng.normal(size=800)
        found = bootstrap_intervals({"auc": area_statistic(scores, labels, cluster, 80)}, 80, rounds=400, seed=seed)[
            "auc"
        ]
        held += found.interval.low <= true <= found.interval.high
        alone = delong_interval(scores, labels).interval
        naive += alone.low <= true <= alone.high
    assert held / 120 > 0.88
    assert naive / 120 < 0.6


def test_one_slice_a_patient_agrees_with_delong():
    rng = np.random.default_rng(5)
    labels = rng.random(400) < 0.4
    scores = rng.normal(size=400) + labels
    found = bootstrap_intervals({"auc": area_statistic(scores, labels, np.arange(400), 400)}, 400)["auc"]
    assert found.standard_error == pytest.approx(delong_interval(scores, labels).variance ** 0.5, rel=0.06)


def test_a_summary_of_no_defined_round():
    found = bootstrap_summary(0.5, np.array([np.nan, np.nan]))
    assert (found.estimate, found.interval, found.standard_error, found.degenerate) == (0.5, None, None, 2)
    with pytest.raises(ValueError, match="level"):
        bootstrap_summary(0.5, np.array([0.1]), 1.0)


@pytest.mark.parametrize(
    ("cluster", "said"),
    [(np.array([0, 1]), "3 whole numbers"), (np.array([0.0, 1, 2]), "float"), (np.array([0, 1, 3]), "0 to 2")],
)
def test_clusters_that_do_not_fit_are_refused(cluster, said):
    scores, labels = np.array([0.1, 0.2, 0.3]), np.array([True, False, True])
    with pytest.raises(ValueError, match=said):
        area_statistic(scores, labels, cluster, 3)
    with pytest.raises(ValueError, match=said):
        ratio_statistic(scores, labels, cluster, 3)


def test_what_cannot_be_summed_or_drawn_is_refused():
    with pytest.raises(ValueError, match="finite"):
        ratio_statistic(np.array([np.nan]), np.array([1.0]), np.array([0]), 1)
    with pytest.raises(ValueError, match="clusters and rounds"):
        bootstrap_intervals({}, 0)
