from __future__ import annotations

import pytest

from onfh_runtime.errors import UsageError
from onfh_runtime.evaluation.truth import read_truth


@pytest.fixture
def read(write_table):
    return lambda text: read_truth(write_table("truth.csv", text))


def refused(read, text):
    with pytest.raises(UsageError) as caught:
        read(text)
    return caught.value


@pytest.mark.parametrize(
    ("lines", "label"),
    [
        ("A 1.1 0 0 - - -\nA 1.1 3 1 - - -", True),
        ("A 1.1 0 0 - - -\nA 1.1 3 0 - - -", False),
        ("A 1.1 - 1 - - -", True),
        ("A 1.1 - - 1 - -\nA 1.1 0 0 - - -", True),  # known from elsewhere: CT shows nothing at stage 1
        ("A 1.1 - - - 0 1", True),
        ("A 1.1 - - - 0 0", False),
        ("A 1.1 - - - 0 -", None),
        ("A 1.1 0 - - - -", None),
    ],
)
def test_a_patients_label(read, lines, label):
    (patient,) = read(f"patient series position_mm label patient_label right left\n{lines}").patients
    assert patient.label is label


def test_a_line_without_a_label_is_counted(read):
    (series,) = read("patient series position_mm label\nA 1.1 0 -\nA 1.1 3 1").series
    assert (series.unlabelled, series.labels.tolist()) == (1, [True])


@pytest.mark.parametrize(
    ("site", "split", "external"),
    [("external", "-", True), ("x", "external", True), ("external", "test", False), ("x", "-", False)],
)
def test_who_is_external(read, site, split, external):
    (patient,) = read(f"patient series label site split\nA 1.1 0 {site} {split}").patients
    assert patient.external is external


def test_what_is_said_of_a_patient_may_stand_on_one_line(read):
    truth = read("patient series position_mm label site mask\nA 1.1 0 0 north a.npz\nA 1.1 3 0 - -")
    assert truth.patients[0].site == "north"
    assert truth.series[0].mask.name == "a.npz"
    assert truth.masks


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("patient series\nA 1.1", "truth_invalid"),
        ("patient label series\nA 1 -", "truth_invalid"),
        ("patient label series\n- 1 1.1", "truth_invalid"),
        ("patient label series\nA 2 1.1", "truth_invalid"),
        ("patient label series split\nA 1 1.1 holdout", "truth_invalid"),
        ("patient label series", "truth_invalid"),
        ("patient label series site\nA 1 1.1 x\nA 1 1.2 y", "truth_conflict"),
        ("patient label series right\nA 1 1.1 1\nA 1 1.2 0", "truth_conflict"),
        ("patient label series\nA 1 1.1\nB 1 1.1", "truth_conflict"),
        ("patient label patient_label series\nA 1 0 1.1", "truth_conflict"),
    ],
)
def test_wrong_tables_are_refused(read, text, code):
    assert refused(read, text).code == code


def test_a_message_never_quotes_a_line(read):
    error = refused(read, "patient label series site\nSmith^John 1 1.1 x\nSmith^John 1 1.1 y")
    assert "Smith" not in str(error)
    assert "line 3" in str(error)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(UsageError) as caught:
        read_truth(tmp_path / "none.csv")
    assert caught.value.code == "truth_not_found"
