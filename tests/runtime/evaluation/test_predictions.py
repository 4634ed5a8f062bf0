from __future__ import annotations

import numpy as np
import pytest

from onfh_runtime.errors import UsageError
from onfh_runtime.evaluation.predictions import read_predictions

COLUMNS = "study series position_mm probability"


def refused(*arguments, **keywords):
    with pytest.raises(UsageError) as caught:
        read_predictions(*arguments, **keywords)
    return caught.value.code


def test_results_keep_their_own_calls_and_threshold(write_result):
    found = read_predictions(write_result("1", "1.1", [0.2, 0.7]))
    (series,) = found.series
    assert found.bundle == {"name": "tiny", "version": "1", "sha256": "0" * 64}
    assert (found.slice_threshold, found.patient_threshold) == (None, 0.5)
    assert series.called.tolist() == [False, True]
    assert (series.state, series.probability, series.preferred) == ("positive", 0.7, True)
    assert series.mask is None
    assert series.outlines


def test_another_threshold_calls_anew(write_result):
    warning = {"warnings": [{"code": "single_hip", "text": "x"}]}
    write_result("1", "1.1", [0.2, 0.7])
    found = read_predictions(write_result("2", "2.1", [0.6], **warning), slice_threshold=0.1, patient_threshold=0.71)
    first, second = found.series
    assert first.called.tolist() == [True, True]
    assert (first.state, second.state) == ("negative", "undetermined")
    assert found.patient_threshold == 0.71


def test_results_of_two_bundles_are_refused(write_result):
    write_result("1", "1.1", [0.2])
    folder = write_result("2", "2.1", [0.2], bundle={"name": "tiny", "version": "2", "sha256": "1" * 64})
    assert refused(folder) == "predictions_mixed"


def test_a_run_that_answers_twice_is_refused(write_result, tmp_path):
    write_result("1", "1.1", [0.2], root="results/a")
    write_result("1", "1.1", [0.3], root="results/b")
    assert refused(tmp_path / "results") == "predictions_duplicate"


def test_damaged_or_absent_results_are_refused(tmp_path):
    assert refused(tmp_path) == "predictions_not_found"
    assert refused(tmp_path / "none") == "predictions_not_found"
    (tmp_path / "result.json").write_text("{}")
    assert refused(tmp_path) == "predictions_invalid"


def test_a_table_of_slices_and_patients(write_table):
    table = write_table("p.csv", f"{COLUMNS}\n1 1.1 0 0.5\n1 1.1 3 0.25\n1 1.1 - 0.625\n2 2.1 0 0.125")
    found = read_predictions(table, slice_threshold=0.5, patient_threshold=0.625)
    first, second = found.series
    assert found.bundle is None
    assert first.probabilities.tolist() == [0.5, 0.25]
    assert first.called.tolist() == [True, False]
    assert (first.probability, first.state) == (0.625, "positive")
    assert (second.probability, second.state) == (None, None)
    assert not first.outlines


def test_a_table_whose_patients_follow_from_slices(write_table):
    table = write_table("p.csv", f"{COLUMNS}\n1 1.1 0 0.5\n1 1.1 3 0.25\n1 1.1 6 nan\n1 1.1 9 0")
    (series,) = read_predictions(table, slice_threshold=0.5, patient_threshold=0.4, top_k=2).series
    assert series.probability == 0.375
    assert series.state == "negative"
    assert np.isnan(series.probabilities[2])
    assert not series.called[2]


def test_a_table_needs_its_thresholds(write_table):
    slices = write_table("s.csv", f"{COLUMNS}\n1 1.1 0 0.5")
    patients = write_table("p.csv", f"{COLUMNS}\n1 1.1 - 0.5")
    assert refused(slices) == "threshold_missing"
    assert refused(patients) == "threshold_missing"
    assert refused(slices, slice_threshold=0.5, top_k=1) == "threshold_missing"
    assert refused(slices, slice_threshold=1.5) == "threshold_invalid"
    assert refused(slices, slice_threshold=0.5, top_k=0) == "top_k_invalid"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("1 1.1 0 1.5", "predictions_invalid"),
        ("1 1.1 0 high", "predictions_invalid"),
        ("1 1.1 x 0.5", "predictions_invalid"),
        ("1 - 0 0.5", "predictions_invalid"),
        ("1 1.1 0 0.5\n1 1.1 0 0.6", "predictions_duplicate"),
        ("1 1.1 - 0.5\n1 1.1 - 0.6", "predictions_duplicate"),
    ],
)
def test_wrong_lines_are_refused(write_table, lines, code):
    table = write_table("p.csv", f"{COLUMNS}\n{lines}")
    assert refused(table, slice_threshold=0.5, patient_threshold=0.5) == code
