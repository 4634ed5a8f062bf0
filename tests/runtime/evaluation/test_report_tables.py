"""What tables say, and how they say what is undefined."""

import copy

import pytest

from onfh_runtime.evaluation.report_sections import report_sections
from onfh_runtime.evaluation.report_tables import (
    calibration_table,
    cases_to_look_at,
    level_table,
    segmentation_table,
    summary_lines,
)
from onfh_runtime.evaluation.report_words import DASH, interval, number, p_value, rate, signed, spread


def test_numbers_keep_their_sign_and_what_is_undefined_is_a_dash():
    assert (number(-0.5, 1), signed(0.25, 2), number(None), signed(None)) == ("\u22120.5", "+0.25", DASH, DASH)
    assert interval([0.1234, 1], 2, 100) == "12.34 to 100.00"
    assert interval(None) == ""
    assert (p_value(0.0), p_value(0.0009), p_value(0.04), p_value(None)) == ("<0.001", "<0.001", "0.040", DASH)


def test_a_rate_has_its_counts_and_the_interval_asked_for():
    entry = {"hits": 9, "of": 10, "value": 0.9, "wilson": [0.6, 0.98], "bootstrap": [0.7, 1.0]}
    assert rate(entry, "wilson") == ("90.0%", "60.0 to 98.0; 9/10")
    assert rate(entry, "bootstrap") == ("90.0%", "70.0 to 100.0; 9/10")
    assert rate({"hits": 0, "of": 0, "value": None, "wilson": None, "bootstrap": None}, "wilson") == (DASH, "0/0")
    assert spread(None, 2) == (DASH, "")


def test_sections_come_in_order_and_only_where_there_is_something(document):
    wrong = document["cases"][0] | {"label": True, "positive": False}
    lost = document["joined"] | {"not_joined_counts": {"no_label": 2}}
    keys = [section.key for section in report_sections(dict(document, cases=[wrong], joined=lost))]
    assert keys == ["patient", "slice", "segmentation", "readers", "against", "wrong", "left_out"]
    bare = dict(document, levels={}, segmentation=None, readers=None, against=None, cases=[])
    assert [section.key for section in report_sections(bare)] == []
    assert all(len(row) == len(t.columns) for s in report_sections(document) for t in s.tables for row in t.rows)


def test_the_level_table_repeats_the_document(document):
    groups = document["levels"]["patient"]["groups"]
    table = level_table("patient", groups)
    assert [row[0][0] for row in table.rows] == [group["name"] for group in groups]
    column = table.columns.index("Sensitivity")
    for row, group in zip(table.rows, groups, strict=True):
        assert row[column][0] == f"{100 * group['sensitivity']['value']:.1f}%"
        assert f"{group['sensitivity']['hits']}/{group['sensitivity']['of']}" in row[column][1]


def test_a_site_of_one_class_has_dashes_not_zeros(document):
    group = copy.deepcopy(document["levels"]["patient"]["groups"][0])
    group |= {"auc": None, "brier": None, "calibration": None, "roc": None}
    group["specificity"] = {"hits": 0, "of": 0, "value": None, "wilson": None, "bootstrap": None}
    (row,) = level_table("patient", [group]).rows
    said = dict(zip(level_table("patient", [group]).columns, row, strict=True))
    assert (said["AUC"][0], said["Specificity"], said["Brier"][0]) == (DASH, (DASH, "0/0"), DASH)
    assert calibration_table("patient", [group]) is None


def test_units_without_an_answer_are_told_with_what_they_could_cost(document):
    group = copy.deepcopy(document["levels"]["patient"]["groups"][0])
    group["unanswered"] = {"n": 3, "positives": 2}
    group["sensitivity_if_unanswered_missed"]["value"] = 0.5
    (row,) = level_table("patient", [group]).rows
    assert row[2] == ("3", "2 positive; sensitivity 50.0% if missed")


def test_volumes_have_more_columns_than_slices(document):
    volume, plane = (segmentation_table(of, document["segmentation"][of]["groups"]) for of in ("volume", "slice"))
    assert set(volume.columns) - set(plane.columns) == {
        "Volume error, mm\u00b3",
        "Volume error, %",
        "False volume, mm\u00b3",
    }


def test_wrong_answers_come_most_confident_first(document):
    base = document["cases"][0]
    cases = [
        base | {"patient": name, "label": label, "positive": positive, "probability": probability}
        for name, label, positive, probability in (
            ("a", True, True, 0.9),
            ("b", True, False, 0.4),
            ("c", False, True, 0.9),
            ("d", True, None, None),
            ("e", None, True, 0.9),
        )
    ]
    table = cases_to_look_at(cases)
    assert [(row[0][0], row[2][0]) for row in table.rows] == [("c", "false alarm"), ("b", "missed")]
    assert cases_to_look_at(cases[:1]) is None


@pytest.mark.parametrize(
    ("thresholds", "said"),
    [
        ({"slice": 0.25, "patient": 0.5, "source": "x"}, "slice 0.250, patient 0.500; from x"),
        ({"slice": None, "slice_between": [0.2, None], "patient": None, "source": "x"}, f"0.200 and {DASH}, patient"),
    ],
)
def test_thresholds_are_told(document, thresholds, said):
    assert said in dict(summary_lines(dict(document, thresholds=thresholds)))["Frozen thresholds"]
