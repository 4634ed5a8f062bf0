"""Two runs read from files, joined by UID, slice by slice and voxel by voxel."""

import json

import numpy as np
import pytest

from onfh_runtime.evaluation.against import compared_runs
from onfh_runtime.evaluation.join import join
from onfh_runtime.evaluation.predictions import read_predictions
from onfh_runtime.evaluation.truth import read_truth

TRUTH = """patient study series position_mm label right left
           P1      1     1.1    0           0     1     0
           P1      1     1.1    3           1     1     0
           P2      2     2.1    0           0     0     0"""
THRESHOLDS = {"slice_threshold": 0.5, "patient_threshold": 0.5}


def compared(write_table, this, other):
    truth = read_truth(write_table("truth.csv", TRUTH))
    found = compared_runs(this, other, join(this, truth), join(other, truth), rounds=20)
    json.dumps(found, allow_nan=False)
    return found


def table(write_table, name, text):
    return read_predictions(write_table(name, text), top_k=1, **THRESHOLDS)


def test_series_are_joined_by_uid_and_the_rest_is_listed(write_table):
    this = table(write_table, "a.csv", "series position_mm probability\n1.1 0 0.4\n1.1 3 0.9\n7.1 0 0.2\n8.1 0 0.2")
    other = table(write_table, "b.csv", "series position_mm probability\n1.1 3 0.8\n1.1 0 0.6\n7.1 0 0.3\n9.1 0 0.2")
    found = compared(write_table, this, other)
    assert (found["series"], found["slices"]) == (2, 3)
    assert found["only_this"] == {"count": 1, "listed": ["8.1"]}
    assert found["only_other"] == {"count": 1, "listed": ["9.1"]}
    (flip,) = found["flips"]["slice"]["listed"]
    assert (flip["patient"], flip["series"], flip["slice"]) == ("P1", "1.1", "0.00 mm")
    assert (flip["other"], flip["this"], flip["label"]) == (0.6, 0.4, False)
    # 7.1 has no truth: it counts for drift, not for the tests against truth, and is no patient of the truth
    assert found["tests"]["slice"]["n"] == 2
    assert found["tests"]["slice"]["specificity"]["difference"] == 1
    assert found["tests"]["patient"]["calls"]["units"] == 1


def test_slices_that_only_one_has_are_not_compared(write_table):
    this = table(write_table, "a.csv", "series position_mm probability\n1.1 0 0.4\n1.1 3 0.9\n2.1 0 0.1")
    other = table(write_table, "b.csv", "series position_mm probability\n1.1 0.04 0.4\n1.1 6 0.9\n2.1 3 nan\n2.1 9 0.2")
    found = compared(write_table, this, other)
    assert (found["series"], found["slices"]) == (1, 1)
    assert found["no_common_slice"] == {"count": 1, "listed": ["2.1"]}


def test_results_are_compared_with_sides_and_withheld_masks(write_result, write_table):
    positive = {"state": "positive", "volume_mm3": 40.0}
    sides = {"sides": {"right": positive, "left": {"state": "negative"}}}
    this = read_predictions(write_result("1", "1.1", [0.2, 0.9], root="a", **sides))
    other = read_predictions(write_result("1", "1.1", [0.2, 0.4], root="b"))
    found = compared(write_table, this, other)
    (flip,) = found["flips"]["side"]["listed"]
    assert (flip["side"], flip["other"], flip["this"], flip["label"]) == ("right", "negative", "positive", True)
    assert found["flips"]["side"]["of"] == 2
    assert found["flips"]["patient"]["count"] == 1
    assert found["flips"]["slice"]["listed"][0]["slice"] == "1.1.1"
    assert found["runs"]["this"]["bundle"]["name"] == "tiny"
    assert found["masks"] is None  # 40 mm3 were reported and their file is gone


@pytest.mark.parametrize("finer", [False, True])
def test_masks_are_compared_on_the_other_run_s_grid(write_table, tmp_path, finer):
    mask = np.zeros((2, 8, 8), np.uint8)
    mask[0, 2:6, 2:6] = 1
    affine = np.array([[0, 0, 1.0, 0], [3.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])
    np.savez(tmp_path / "other.npz", mask=mask, affine=affine)
    if finer:  # the same voxels, each cut into four
        mask = mask.repeat(2, axis=1).repeat(2, axis=2)
        affine = affine @ np.diag([1, 0.5, 0.5, 1])
        affine[:3, 3] += (-0.25, 0, 0.25)
    np.savez(tmp_path / "this.npz", mask=mask, affine=affine)
    this, other = (
        table(write_table, f"{name}.csv", f"series position_mm probability mask\n1.1 0 0.9 {name}.npz")
        for name in ("this", "other")
    )
    found = compared(write_table, this, other)["masks"]
    assert found["pooled_dice"] == 1
    assert found["volume_mm3"] == {"other": 48, "this": 48}


def test_the_whole_comparison_of_two_runs(document):
    found = document["against"]
    assert (found["series"], found["slices"]) == (35, 350)
    assert found["only_this"]["listed"] == ["1.2.1.1"]
    assert 0 < found["drift"]["max_absolute"] < 1
    assert found["flips"]["slice"]["count"] == len(found["flips"]["slice"]["listed"]) > 0
    crossed = [(flip["other"] >= 0.5) != (flip["this"] >= 0.5) for flip in found["flips"]["slice"]["listed"]]
    assert all(crossed)
    drifts = [case["this_mm3"] - case["other_mm3"] for case in found["masks"]["cases"]]
    voxel = 3.0 * 0.8 * 0.8
    assert drifts == pytest.approx([2 * voxel] * len(drifts))
    assert found["masks"]["volume_drift_mm3"] == pytest.approx(sum(drifts))
