from __future__ import annotations

import json

import numpy as np
import pytest

from onfh_runtime.errors import UsageError
from onfh_runtime.evaluation.join import join
from onfh_runtime.evaluation.predictions import read_predictions
from onfh_runtime.evaluation.truth import read_truth


@pytest.fixture
def joined(write_table):
    def run(results, truth, **thresholds):
        return join(read_predictions(results, **thresholds), read_truth(write_table("truth.csv", truth)))

    return run


def pairs(joined):
    slices = joined.slices
    return sorted(zip(slices.probabilities.tolist(), slices.labels.tolist(), strict=True))


def test_slices_join_by_sop_uid_whatever_their_order(write_result, joined):
    found = joined(
        write_result("1", "1.1", [0.1, 0.9, 0.4]),
        "patient study series sop_instance_uid label\nA 1 1.1 1.1.2 0\nA 1 1.1 1.1.1 1\nA 1 1.1 1.1.0 0",
    )
    assert pairs(found) == [(0.1, False), (0.4, False), (0.9, True)]
    assert found.slices.called.tolist() == [False, True, False]
    assert found.not_joined_counts == {}
    assert found.excluded == {}


def test_slices_join_by_position_within_half_their_distance(write_result, joined):
    found = joined(
        write_result("1", "1.1", [0.1, 0.2, 0.3, 0.4]),  # at 0, 3, 6 and 9 mm
        "patient series position_mm label\nA 1.1 -1.5 0\nA 1.1 4.4 1\nA 1.1 6.1 0\nA 1.1 11 1",
    )
    assert pairs(found) == [(0.1, False), (0.2, True), (0.3, False)]
    assert found.not_joined_counts == {"no_label": 1, "slice_not_analysed": 1}
    assert {"what": "truth slice", "uid": "1.1 at 11 mm", "reason": "slice_not_analysed"} in found.not_joined
    assert found.unanswered.tolist() == [[0, 1]]


def test_of_two_labels_on_one_slice_the_nearer_counts_and_the_other_is_no_missing_answer(write_result, joined):
    found = joined(
        write_result("1", "1.1", [0.1, 0.2]),
        "patient series position_mm label\nA 1.1 1 1\nA 1.1 0.1 0\nA 1.1 3 0",
    )
    assert pairs(found) == [(0.1, False), (0.2, False)]
    assert found.not_joined_counts == {"other_label_nearer": 1}
    assert len(found.unanswered) == 0


def test_a_label_midway_between_two_slices_is_used_once(write_result, joined):
    found = joined(write_result("1", "1.1", [0.1, 0.2]), "patient series position_mm label\nA 1.1 1.5 1")
    assert len(found.slices.labels) == 1
    assert found.not_joined_counts == {"no_label": 1}


def test_a_series_without_an_answer_is_excluded_with_its_reason_and_never_negative(write_result, joined):
    failed = {
        "status": "not_analysed",
        "reason": {"code": "gantry_tilt", "text": "x"},
        "patient": None,
        "sides": None,
        "preferred": False,
    }
    write_result("1", "1.1", [0.1])
    found = joined(
        write_result("2", "2.1", **failed),
        "patient study series position_mm label\nA 1 1.1 0 0\nB 2 2.1 0 1\nC 3 3.1 0 1",
    )
    assert found.excluded == {"gantry_tilt": 1, "not_predicted": 1}
    assert found.not_joined_counts == {"not_predicted": 1}
    assert [each.state for each in found.patients] == ["negative", None, None]
    assert [each.reason for each in found.patients] == [None, "gantry_tilt", "not_predicted"]
    assert pairs(found) == [(0.1, False)]
    assert found.unanswered.tolist() == [[1, 1], [2, 1]]


def test_a_skipped_series_says_why(write_result, joined):
    results = write_result("1", "1.1", [0.9])
    entry = {"series_instance_uid": "1.2", "outcome": "skipped", "reason": {"code": "localizer", "text": "x"}}
    software = {"name": "onfh-edge", "version": "0"}
    study = {"schema": "onfh-study/1", "study_instance_uid": "1", "series": [entry], "software": software}
    (results / "1" / "study.json").write_text(json.dumps(study))
    found = joined(results, "patient study series label\nA 1 1.2 1")
    assert found.excluded == {"localizer": 1}
    assert found.patients[0].state == "positive"  # what the study's preferred series says


def test_the_patient_takes_the_preferred_series_and_slices_the_named_one(write_result, joined):
    write_result("1", "1.1", [0.9])
    found = joined(
        write_result("1", "1.2", [0.2], preferred=False), "patient study series position_mm label\nA 1 1.2 0 1"
    )
    assert found.patients[0].probability == 0.9
    assert pairs(found) == [(0.2, True)]
    assert found.not_joined_counts == {}


def test_a_study_alone_means_its_preferred_series(write_result, joined):
    write_result("1", "1.2", [0.2], preferred=False)
    found = joined(write_result("1", "1.1", [0.9]), "patient study label\nA 1 1")
    assert found.series[0].predicted.series == "1.1"


def test_two_studies_of_a_patient_give_the_stronger_answer(write_result, joined):
    write_result("1", "1.1", [0.2])
    open_answer = {"patient": {"state": "undetermined", "probability": 0.1, "threshold": 0.5}}
    found = joined(write_result("2", "2.1", [0.1], **open_answer), "patient study label\nA 1 1\nA 2 -")
    assert (found.patients[0].state, found.patients[0].probability) == ("undetermined", 0.2)


def test_a_split_series_answers_by_its_preferred_part(write_result, joined):
    write_result("1", "1.1", [0.1], part=1, preferred=False)
    found = joined(write_result("1", "1.1", [0.8], part=2), "patient series position_mm label\nA 1.1 0 1")
    assert pairs(found) == [(0.8, True)]


def test_another_study_of_the_same_series_is_refused_by_name(write_result, joined):
    found = joined(write_result("1", "1.1", [0.1]), "patient study series label\nA 9 1.1 1")
    assert found.excluded == {"wrong_study": 1}
    assert found.patients[0].state is None


def test_what_is_predicted_without_truth_is_listed(write_result, joined):
    write_result("1", "1.1", [0.1])
    found = joined(write_result("2", "2.1", [0.1]), "patient series label\nA 1.1 0")
    assert found.not_joined == ({"what": "predicted series", "uid": "2.1", "reason": "no_truth"},)


def test_the_list_is_cut_and_the_count_is_not(write_result, joined):
    results = write_result("1", "1.1", [0.1])
    lines = "\n".join(f"A 1.1 {100 + number} 0" for number in range(500))
    found = joined(results, f"patient series position_mm label\nA 1.1 0 0\n{lines}")
    assert len(found.not_joined) == 200
    assert found.not_joined_counts == {"slice_not_analysed": 500}


def test_slices_without_a_probability_are_counted_and_left_out(write_table, joined):
    table = write_table(
        "p.csv", "series position_mm probability\n1.1 0 0.5\n1.1 3 nan\n1.1 6 -\n1.1 9 inf\n1.1 12 0.1\n2.1 0 nan"
    )
    found = joined(
        table,
        "patient series position_mm label\nA 1.1 0 1\nA 1.1 3 1\nA 1.1 6 0\nA 1.1 9 0\nA 1.1 12 0\nB 2.1 0 1",
        slice_threshold=0.5,
    )
    assert pairs(found) == [(0.1, False), (0.5, True)]
    assert found.not_joined_counts == {"probability_missing": 3}
    assert found.excluded == {"probability_missing": 1}
    assert np.array_equal(found.unanswered, [[0, 1], [0, 0], [0, 0], [1, 1]])


@pytest.mark.parametrize(
    ("truth", "code"),
    [
        ("patient series position_mm label\nA 1.1 0 1\nA 1.1 0 0", "truth_duplicate"),
        ("patient series sop_instance_uid label\nA 1.1 x 1\nA 1.1 x 1", "truth_duplicate"),
        ("patient study series label\nA 1 1.1 1\nA 2 1.1 1", "truth_conflict"),
    ],
)
def test_doubles_in_the_truth_are_refused(write_table, truth, code):
    with pytest.raises(UsageError) as caught:
        read_truth(write_table("truth.csv", truth))
    assert caught.value.code == code
