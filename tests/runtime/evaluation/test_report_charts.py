"""Drawings: well formed, named for a listener, every point where its figures say."""

import math
import re
from xml.etree import ElementTree

import pytest

from onfh_runtime.evaluation.report_charts import (
    agreement_chart,
    calibration_chart,
    cases_chart,
    drift_chart,
    drift_histogram,
    roc_chart,
)
from onfh_runtime.evaluation.report_figures import section_figures


def parsed(svg):
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    numbers = re.findall(r'(?:points|d|cx|cy|x|y|width|height)="([^"]*)"', svg)
    assert not any("nan" in value or "inf" in value for value in numbers)
    return root


def titles(root):
    return [node.text for node in root.iter("title")]


def test_every_figure_of_a_run_is_well_formed(document):
    drawn = {key: section_figures(key, document) for key in ("patient", "slice", "segmentation", "against", "readers")}
    assert [figure.caption for figure in drawn["patient"]][:2] == ["ROC", "ROC by site"]
    assert {key: len(figures) for key, figures in drawn.items()} == {
        "patient": 6,
        "slice": 5,
        "segmentation": 2,
        "against": 4,
        "readers": 0,
    }
    for figures in drawn.values():
        for figure in figures:
            parsed(figure.svg)


def test_the_operating_point_lies_where_its_rates_say():
    rate = {"value": 0.75, "wilson": [0.5, 0.9]}
    group = {
        "name": "s",
        "kind": "all",
        "auc": {"value": 0.8},
        "roc": {"sensitivity": [0, 0.75, 1], "specificity": [1, 0.75, 0], "thresholds": [None, 0.5, 0]},
        "sensitivity": rate,
        "specificity": rate,
    }
    root = parsed(roc_chart("patients", [group], "wilson"))
    (point,) = [node for node in root.iter("path") if "full" in node.get("class")]
    curve = next(node for node in root.iter("polyline") if "curve" in node.get("class"))
    x, top = (float(value) for value in re.match(r"M([\d.]+) ([\d.]+)l", point.get("d")).groups())
    on_curve = [float(value) for value in curve.get("points").split()[1].split(",")]
    assert (x, top + 5 * 1.3) == pytest.approx(on_curve, abs=0.1)
    assert "sensitivity 75.0% (50.0 to 90.0), specificity 75.0%" in titles(point)[0]
    assert sum("error" in node.get("class") for node in root.iter("polyline")) == 2


def test_one_class_has_no_curve():
    group = {"name": "s", "kind": "site", "roc": None, "auc": None}
    assert roc_chart("patients", [group], "wilson") is None
    assert calibration_chart("patients", group | {"calibration": None}) is None


def test_limits_of_agreement_are_bland_and_altmans():
    root = parsed(agreement_chart("v", ("a", "b"), [(3.0, 1.0, "p", 0), (2.0, 2.0, "q", 1), (1.0, 2.0, "r", 0)], "mL"))
    changes = [2.0, 0.0, -1.0]
    mean = sum(changes) / 3
    spread = 1.96 * math.sqrt(sum((change - mean) ** 2 for change in changes) / 2)
    words = [node.text for node in root.iter("text")]
    for name, value in (("mean", mean), ("+1.96 SD", mean + spread), ("\u22121.96 SD", mean - spread)):
        assert f"{name} {value:.2f}".replace("-", "\u2212") in [word.replace("-", "\u2212") for word in words]
    assert titles(root) == ["p", "q", "r"]
    parsed(agreement_chart("v", ("a", "b"), [(1.0, 1.0, "p", 0)], "mL"))
    assert agreement_chart("v", ("a", "b"), [], "mL") is None


def test_cases_stand_in_bands_ascending():
    bands = [("a", [(0.9, True, "high"), (0.1, False, "low")]), ("b", []), ("c", [(0.5, True, "mid")])]
    root = parsed(cases_chart("x", "Probability", bands, 0.4))
    assert titles(root) == ["low", "high", "mid", "threshold 0.400"]
    assert cases_chart("x", "Probability", [("a", [])]) is None


def test_drift_of_nothing_and_of_no_change():
    assert drift_chart([], 0.5) is None
    parsed(drift_chart([[0.2, 0.3]], None))
    still = {"unchanged": 3, "histogram": {"edges": [0, 0.1, 1], "counts": [0, 0]}}
    assert "3 slices unchanged" in parsed(drift_histogram(still)).get("aria-label")


def test_text_of_others_is_escaped():
    evil = "</title><script>alert(1)</script>"
    for svg in (
        cases_chart(evil, evil, [(evil, [(0.5, True, evil)])]),
        agreement_chart(evil, (evil, evil), [(1.0, 2.0, evil, 0)], evil),
    ):
        assert "<script" not in svg
        parsed(svg)
