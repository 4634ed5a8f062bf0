"""What is refused at the door, for every statistic that takes scores."""

import numpy as np
import pytest

from onfh_runtime.evaluation import (
    area_under_curve,
    brier_score,
    calibration_fit,
    classification_statistics,
    cluster_index,
    confusion,
    delong_interval,
    delong_test,
    reliability_curve,
    roc_curve,
)

TAKES_SCORES = {
    "area_under_curve": area_under_curve,
    "roc_curve": roc_curve,
    "delong_interval": delong_interval,
    "delong_test, first": lambda scores, labels: delong_test(scores, np.zeros(3), labels),
    "delong_test, second": lambda scores, labels: delong_test(np.zeros(3), scores, labels),
    "confusion": lambda scores, labels: confusion(scores, labels, 0.5),
    "brier_score": brier_score,
    "reliability_curve": reliability_curve,
    "calibration_fit": calibration_fit,
    "classification_statistics": lambda scores, labels: classification_statistics(scores, labels, 0.5, np.arange(3), 3),
}
LABELS = np.array([True, False, True])


@pytest.mark.parametrize("statistic", TAKES_SCORES.values(), ids=TAKES_SCORES)
@pytest.mark.parametrize(
    ("scores", "labels", "said"),
    [
        (np.array([0.1, np.nan, 0.3]), LABELS, "1 of 3 scores are NaN"),
        (np.array([0.1, np.inf, np.nan]), LABELS, "2 of 3 scores are NaN"),
        (np.array([0, 1, 1]), LABELS, "floating point"),
        (np.array([0.1, 0.2, 0.3]), LABELS[:2], "shape"),
        (np.array([[0.1], [0.2], [0.3]]), LABELS, "one axis"),
        (np.array([0.1, 0.2, 0.3]), np.array([0, 1, 255]), "bool"),
    ],
)
def test_what_is_not_one_finite_score_and_one_bool_label_a_unit_is_refused(statistic, scores, labels, said):
    with pytest.raises(ValueError, match=said):
        statistic(scores, labels)


@pytest.mark.parametrize("statistic", [brier_score, reliability_curve, calibration_fit])
def test_what_is_not_a_probability_is_refused(statistic):
    with pytest.raises(ValueError, match="1 of 3 probabilities lie outside"):
        statistic(np.array([0.1, 1.2, 0.3]), LABELS)


def test_clusters_are_numbered_in_the_order_of_their_names():
    index, clusters = cluster_index(["b", "a", "b", "c"])
    assert index.tolist() == [1, 0, 1, 2]
    assert clusters == 3
    assert cluster_index(np.array([], str))[1] == 0
