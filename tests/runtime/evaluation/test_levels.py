"""The entries of the tables against scikit-learn, and every degenerate case."""

from __future__ import annotations

import json

import numpy as np
import pytest

from onfh_runtime.evaluation.join import join
from onfh_runtime.evaluation.levels import corners, groups_of, level_entry, patient_units, side_units, slice_units
from onfh_runtime.evaluation.predictions import read_predictions
from onfh_runtime.evaluation.roc import area_under_curve, roc_curve
from onfh_runtime.evaluation.truth import read_truth


@pytest.fixture
def joined(write_table):
    """A table of slices, three a patient, with ties: ``rows`` of (site, label, probability) are one slice each."""

    def made(rows, top_k=1):
        predictions = [f"{k // 3}.1 {k % 3} {row[2]}" for k, row in enumerate(rows)]
        truth = [f"P{k // 3} {k // 3}.1 {k % 3} {row[1]} {row[0]}" for k, row in enumerate(rows)]
        table = write_table("p.csv", "\n".join(["series position_mm probability", *predictions]))
        labels = write_table("t.csv", "\n".join(["patient series position_mm label site", *truth]))
        run = read_predictions(table, slice_threshold=0.5, patient_threshold=0.5, top_k=top_k)
        return join(run, read_truth(labels))

    return made


def entries(joined, units, rounds=200):
    found = level_entry(units(joined), groups_of(joined), rounds=rounds, seed=3)["groups"]
    json.dumps(found, allow_nan=False)
    return {group["name"]: group for group in found}


def test_figures_are_those_of_scikit_learn(joined, peer):
    metrics = peer("sklearn.metrics")
    rng = np.random.default_rng(1)
    labels = rng.random(300) < 0.3
    scores = np.round(np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0, 1), 2)  # two decimals make ties
    site = np.repeat(["north", "south", "external", "external"], 75)
    found = entries(joined(list(zip(site, labels.astype(int), scores, strict=True))), slice_units)
    assert set(found) == {"north", "south", "external", "internal", "all"}
    for name, chosen in {
        "north": site == "north",
        "external": site == "external",
        "internal": site != "external",
        "all": site != "",
    }.items():
        group, y, p = found[name], labels[chosen], scores[chosen]
        tn, fp, fn, tp = metrics.confusion_matrix(y, p >= 0.5).ravel()
        assert group["n"] == len(y)
        assert group["auc"]["value"] == pytest.approx(metrics.roc_auc_score(y, p))
        assert group["brier"]["value"] == pytest.approx(metrics.brier_score_loss(y, p))
        assert group["sensitivity"]["value"] == pytest.approx(tp / (tp + fn))
        assert group["specificity"]["value"] == pytest.approx(tn / (tn + fp))
        assert group["ppv"]["value"] == pytest.approx(tp / (tp + fp))
        assert group["npv"]["value"] == pytest.approx(tn / (tn + fn))
        assert group["prevalence"]["value"] == pytest.approx(y.mean())
        assert group["auc"]["delong"] is None
        assert group["sensitivity"]["wilson"] is None
        low, high = group["auc"]["bootstrap"]
        assert low < group["auc"]["value"] < high


def test_patients_have_the_intervals_of_independent_units(joined):
    rows = [("x", k % 2, 0.3 + 0.4 * (k % 2) * (k > 9)) for k in range(60)]
    group = entries(joined(rows), patient_units)["all"]
    assert group["n"] == group["patients"] == 20
    assert group["sensitivity"]["wilson"] is not None


def test_the_same_seed_gives_the_same_intervals(joined):
    run = joined([("x", k % 2, (k * 37 % 100) / 100) for k in range(60)])
    assert entries(run, slice_units) == entries(run, slice_units)


def test_a_site_of_one_class_has_no_area_and_no_zero(joined):
    found = entries(
        joined([("north", 0, 0.1)] * 3 + [("south", 1, 0.9), ("south", 0, 0.1), ("south", 0, 0.2)]), slice_units
    )
    north = found["north"]
    assert north["auc"] is None
    assert north["roc"] is None
    assert north["sensitivity"] == {"hits": 0, "of": 0, "value": None, "wilson": None, "bootstrap": None}
    assert north["ppv"]["value"] is None
    assert north["specificity"]["value"] == 1.0
    assert north["calibration"]["fit"]["slope"] is None
    assert found["all"]["auc"]["value"] == 1.0


def test_an_unanswered_positive_is_counted_and_may_be_held_against_the_run(write_result, write_table):
    write_result("1", "1.1", [0.9])
    undetermined = {"patient": {"state": "undetermined", "probability": 0.1, "threshold": 0.5}}
    write_result("2", "2.1", [0.1], **undetermined)
    results = write_result("3", "3.1", [0.2])
    truth = write_table("t.csv", "patient study label\nA 1 1\nB 2 1\nC 3 0\nD 4 1")
    run = join(read_predictions(results), read_truth(truth))
    group = entries(run, patient_units)["all"]
    assert group["n"] == 2
    assert group["unanswered"] == {"n": 2, "positives": 2}
    assert group["sensitivity"]["value"] == 1.0
    assert group["sensitivity_if_unanswered_missed"]["value"] == pytest.approx(1 / 3)


def test_a_group_without_any_answer_is_still_there(write_result, write_table):
    results = write_result("1", "1.1", [0.9])
    truth = write_table("t.csv", "patient study label site\nA 1 1 north\nB 9 1 south")
    group = entries(join(read_predictions(results), read_truth(truth)), patient_units)["south"]
    assert (group["n"], group["unanswered"]["positives"]) == (0, 1)
    assert group["auc"] is None
    assert group["sensitivity"]["value"] is None


def test_sides_are_judged_by_their_state(write_result, write_table):
    sides = {"sides": {"right": {"state": "positive"}, "left": {"state": "undetermined"}}}
    write_result("1", "1.1", [0.9], **sides)
    results = write_result("2", "2.1", [0.1])
    truth = write_table("t.csv", "patient study label right left\nA 1 1 1 1\nB 2 - 0 0\nC 3 1 - -")
    group = entries(join(read_predictions(results), read_truth(truth)), side_units)["all"]
    assert (group["n"], group["positives"], group["patients"]) == (3, 1, 2)
    assert group["unanswered"] == {"n": 1, "positives": 1}
    assert group["sensitivity"]["value"] == group["specificity"]["value"] == 1.0
    assert group["auc"] is None


def test_the_roc_curve_of_the_document_is_short_and_keeps_its_ends(joined):
    rng = np.random.default_rng(0)
    rows = [("x", int(rng.random() < 0.5), float(np.round(rng.random(), 6))) for _ in range(3000)]
    roc = entries(joined(rows), slice_units, rounds=2)["all"]["roc"]
    assert len(roc["thresholds"]) <= 200
    assert roc["thresholds"][0] is None
    assert (roc["sensitivity"][0], roc["specificity"][0]) == (0.0, 1.0)
    assert (roc["sensitivity"][-1], roc["specificity"][-1]) == (1.0, 0.0)


def test_the_corners_of_a_curve_are_the_whole_of_it():
    rng = np.random.default_rng(2)
    labels = rng.random(500) < 0.4
    scores = np.round(rng.random(500) + 0.3 * labels, 2)
    curve = roc_curve(scores, labels)
    chosen = corners(curve.sensitivity, curve.specificity)
    assert len(chosen) < len(curve.thresholds)
    height, width = curve.sensitivity[chosen], -np.diff(curve.specificity[chosen])
    area = float(((height[1:] + height[:-1]) / 2 * width).sum())
    assert area == pytest.approx(area_under_curve(scores, labels))
