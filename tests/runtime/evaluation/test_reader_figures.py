"""A reader beside the model, worked out by hand."""

import numpy as np
import pytest

from onfh_runtime.evaluation.levels import Units
from onfh_runtime.evaluation.reader_figures import Answered, dice_matrix, reader_entry, reading_time


def units(labels, called, probabilities, patients=None):
    labels = np.array(labels, np.bool_)
    who = np.arange(len(labels)) if patients is None else np.array(patients)
    return Units(
        who,
        labels,
        np.array(called, np.bool_),
        np.array(probabilities, np.float64),
        np.empty((0, 2), np.int64),
        patients is None,
    )


def test_the_model_is_judged_on_the_reader_s_units():
    six = units([1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0.9, 0.8, 0.3, 0.1, 0.2, 0.7])
    answers = [Answered(0, False, None, 10.0), Answered(2, True, None, 20.0), Answered(5, False, None, None)]
    found = reader_entry("A", answers, six, rounds=20)
    assert (found["n"], found["positives"], found["patients"]) == (3, 2, 3)
    assert found["sensitivity"]["first"]["value"] == 0.5
    assert found["sensitivity"]["second"]["value"] == 0.5
    assert found["sensitivity"]["counts"] == {"both": 0, "only_first": 1, "only_second": 1, "neither": 0}
    assert found["specificity"]["difference"] == -1
    assert found["auc"] is None
    assert found["time_s"] == {"n": 2, "median": 15, "q1": 12.5, "q3": 17.5}


def test_scores_without_calls_have_an_area_and_no_rate():
    four = units([1, 1, 0, 0], [1, 1, 0, 0], [0.9, 0.8, 0.1, 0.2])
    answers = [Answered(k, None, score, None) for k, score in enumerate([5.0, 1.0, 2.0, 0.0])]
    found = reader_entry("A", answers, four, rounds=20)
    assert (found["called"], found["scored"], found["sensitivity"], found["time_s"]) == (0, 4, None, None)
    assert (found["auc"]["first"]["value"], found["auc"]["second"]["value"]) == (1, 0.75)


def test_slices_of_a_patient_are_one_cluster():
    four = units([1, 1, 0, 0], [1, 0, 0, 0], [0.9, 0.2, 0.1, 0.3], patients=[0, 0, 0, 1])
    found = reader_entry("A", [Answered(k, True, None, None) for k in range(4)], four, rounds=50)
    assert found["patients"] == 2
    assert found["sensitivity"]["mcnemar"] is None


def test_a_unit_answered_twice_is_refused():
    with pytest.raises(ValueError, match="once"):
        reader_entry("A", [Answered(0, True, None, None)] * 2, units([1], [1], [0.9]))


def test_no_time_is_no_time():
    assert reading_time([]) is None


def test_dice_of_everybody_with_everybody():
    full, half, none = (np.arange(4) < stop for stop in (4, 2, 0))
    cases = [{"truth": full, "model": half, "A": full}, {"truth": full, "model": none, "A": none}, {"truth": half}]
    found = dice_matrix(["truth", "model", "A", "B"], cases)
    assert found["dice"][0][:3] == pytest.approx([1, (2 / 3 + 0) / 2, 0.5])
    assert found["dice"][1][2] == found["dice"][2][1] == pytest.approx(2 / 3)  # two empty masks have no Dice
    assert found["dice"][3] == [None] * 4
    assert found["n"] == [[3, 2, 2, 0], [2, 2, 1, 0], [2, 1, 2, 0], [0, 0, 0, 0]]
