"""Readers joined with a run and its truth by patient, study, series, image and position."""

import json

import numpy as np
import pytest

from onfh_runtime.errors import UsageError
from onfh_runtime.evaluation.join import join
from onfh_runtime.evaluation.predictions import read_predictions
from onfh_runtime.evaluation.readers import read_and_compare
from onfh_runtime.evaluation.truth import read_truth

TRUTH = """patient study series position_mm label mask
           P1      1     1.1    0           0     t1.npz
           P1      1     1.1    3           1     t1.npz
           P2      2     2.1    0           0     -
           P3      3     3.1    0           1     -"""
PREDICTED = """series position_mm probability mask
               1.1    0           0.2         m1.npz
               1.1    3           0.9         m1.npz
               2.1    0           0.7         -"""
AFFINE = np.array([[0, 0, 1.0, 0], [3.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture
def joined(write_table, tmp_path):
    for name, columns in (("t1", 4), ("m1", 2), ("r1", 4)):
        mask = np.zeros((2, 4, 4), np.uint8)
        mask[1, :, :columns] = 1
        np.savez(tmp_path / f"{name}.npz", mask=mask, affine=AFFINE)
    truth = read_truth(write_table("truth.csv", TRUTH))
    run = read_predictions(write_table("run.csv", PREDICTED), slice_threshold=0.5, patient_threshold=0.5, top_k=1)
    return join(run, truth)


def compared(write_table, joined, table):
    found = read_and_compare(write_table("readers.csv", table), joined, rounds=20)
    json.dumps(found, allow_nan=False)
    return found


def test_patients_are_found_by_name_study_and_series(write_table, joined):
    found = compared(
        write_table,
        joined,
        """reader patient study series call
           A      P1      -     -      1
           B      -       1     -      0
           C      -       -     2.1    0""",
    )
    a, b, c = found["levels"]["patient"]
    assert (a["sensitivity"]["second"]["value"], b["sensitivity"]["second"]["value"]) == (1, 0)
    assert c["sensitivity"] is None
    assert (c["specificity"]["first"]["value"], c["specificity"]["second"]["value"]) == (0, 1)
    assert found["not_joined"] == []
    assert found["masks"] is None


def test_slices_are_found_by_position_within_half_a_slice(write_table, joined):
    found = compared(
        write_table,
        joined,
        """reader patient series position_mm call
           A      -       1.1    1.2         0
           A      P1      -      2.9         1
           A      -       1.1    9           1
           A      -       9.9    0           1""",
    )
    (entry,) = found["levels"]["slice"]
    assert (entry["n"], entry["positives"]) == (2, 1)
    assert entry["sensitivity"]["second"]["value"] == entry["specificity"]["second"]["value"] == 1
    assert found["not_joined_counts"] == {"slice_not_evaluated": 1, "series_unknown": 1}


def test_what_the_model_did_not_answer_is_counted_and_not_compared(write_table, joined):
    found = compared(
        write_table,
        joined,
        """reader patient call
           A      P1      1
           A      P3      1
           A      P9      1""",
    )
    (entry,) = found["levels"]["patient"]
    assert entry["n"] == 1
    assert found["not_joined_counts"] == {"patient_not_evaluated": 1, "patient_unknown": 1}
    assert {"what": "reader A, patient", "uid": "P9", "reason": "patient_unknown"} in found["not_joined"]


def test_masks_are_compared_on_the_truth_s_grid(write_table, joined):
    found = compared(
        write_table,
        joined,
        """reader patient call mask
           A      P1      1    r1.npz
           B      P1      0    -
           B      P2      1    r1.npz
           C      P1      1    -
           C      P2      0    r1.npz""",
    )["masks"]
    assert found["volume"]["names"] == ["truth", "model", "A", "B", "C"]
    # B calls the patient negative and so outlined nothing; C calls it positive and drew nothing: not counted
    assert found["volume"]["dice"][0][:4] == pytest.approx([1, 2 / 3, 1, 0])
    assert found["volume"]["n"][0] == [1, 1, 1, 1, 0]
    assert found["slice"]["dice"][1][2] == pytest.approx(2 / 3)


def test_a_unit_answered_twice_and_a_reserved_name_are_refused(write_table, joined):
    with pytest.raises(UsageError, match="line 3") as error:
        compared(write_table, joined, "reader patient call\nA P1 1\nA P1 0")
    assert error.value.code == "readers_duplicate"
    with pytest.raises(UsageError, match="model"):
        compared(write_table, joined, "reader patient call\nmodel P1 1")


def test_the_whole_comparison_of_a_run(document):
    found = document["readers"]
    assert found["readers"] == ["A", "B"]
    a, b = found["levels"]["patient"]
    assert (a["n"], b["n"], a["scored"]) == (36, 36, 36)
    assert a["auc"]["delong"]["p"] is not None
    assert [entry["reader"] for entry in found["levels"]["slice"]] == ["A"]
    assert found["levels"]["slice"][0]["patients"] == 12
    truth, model, drawn = found["masks"]["volume"]["names"]
    assert (truth, model, drawn) == ("truth", "model", "A")
    positives = sum(case["label"] for case in document["cases"])
    assert found["masks"]["volume"]["n"][0] == [positives] * 3
    by_case = [case["dice"] for case in document["cases"] if case["true_volume_mm3"]]
    assert found["masks"]["volume"]["dice"][0][1] == pytest.approx(np.mean(by_case))
