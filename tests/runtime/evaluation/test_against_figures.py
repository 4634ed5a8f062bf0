"""Flips, drift and masks of two runs, counted by hand."""

import json

import numpy as np
import pytest

from onfh_runtime.evaluation.against_figures import DRIFT_EDGES, Answer, PatientPair, SeriesPair, against_figures
from onfh_runtime.evaluation.paired import Labels, Said, difference


def series(patient, other, this, labels=None, columns=(None, None)):
    """A series of both runs, other first; ``columns`` are outlined of 100 voxels."""

    def said(probabilities, outlined):
        values = np.array(probabilities, np.float64)
        mask = None if outlined is None else np.arange(100) < outlined
        return Said(values, values >= 0.5, float(values.mean()), "not_given", ("not_given",) * 2, mask)

    before, now = said(other, columns[0]), said(this, columns[1])
    known = None
    if labels is not None:
        known = Labels(np.array(labels, np.bool_), np.ones(len(labels), np.bool_), None)
    names = tuple(f"{patient}.{k}" for k in range(len(other)))
    return SeriesPair(patient, "1", f"{patient}.s", names, before, now, difference(patient, before, now, 2.0, known))


def patient(name, other, this, label=None, sides=None):
    before, now = sides or (None, None)
    return PatientPair(
        name, f"{name}.s", Answer(*other, before), Answer(*this, now), label, {"right": label, "left": None}
    )


def test_flips_are_listed_by_name_with_the_truth():
    found = against_figures(
        [series("P1", [0.4, 0.6], [0.45, 0.4], [True, True]), series("P2", [0.49], [0.51])],
        [
            patient("P1", (0.6, "positive"), (0.4, "undetermined"), True),
            patient("P2", (0.1, "negative"), (0.1, "negative")),
        ],
        rounds=20,
    )
    json.dumps(found, allow_nan=False)
    slices = found["flips"]["slice"]
    assert (slices["count"], slices["of"]) == (2, 3)
    assert slices["listed"][0] == {
        "patient": "P1",
        "study": "1",
        "series": "P1.s",
        "slice": "P1.1",
        "other": 0.6,
        "this": 0.4,
        "now": "negative",
        "label": True,
    }
    assert (slices["listed"][1]["now"], slices["listed"][1]["label"]) == ("positive", None)
    (flip,) = found["flips"]["patient"]["listed"]
    assert (flip["patient"], flip["other"]["state"], flip["this"]["state"]) == ("P1", "positive", "undetermined")
    assert found["tests"]["patient"]["calls"]["units"] == 1  # an undetermined patient has no call
    assert found["tests"]["slice"]["calls"]["counts"]["only_first"] == 1
    assert found["tests"]["slice"]["n"] == 2


def test_sides_flip_where_both_runs_speak_of_them():
    before, now = {"right": "positive", "left": "negative"}, {"right": "negative", "left": "negative"}
    pairs = [
        patient("P1", (0.6, "positive"), (0.6, "positive"), True, (before, now)),
        patient("P2", (0.6, "positive"), (0.6, "positive"), True, (before, None)),
    ]
    found = against_figures([], pairs, rounds=20)["flips"]["side"]
    assert (found["count"], found["of"]) == (1, 2)
    flip = {"side": "right", "other": "positive", "this": "negative", "label": True}
    assert flip.items() <= found["listed"][0].items()


def test_drift_is_this_minus_other():
    found = against_figures([series("P1", [0.2, 0.5, 0.9], [0.3, 0.5, 0.9 - 1e-4])], [], rounds=20)["drift"]
    assert (found["n"], found["unchanged"]) == (3, 1)
    assert found["mean"] == pytest.approx((0.1 - 1e-4) / 3)
    assert found["max_absolute"] == pytest.approx(0.1)
    assert sum(found["histogram"]["counts"]) == 2
    assert len(found["histogram"]["counts"]) == len(DRIFT_EDGES) - 1
    assert found["points"][0] == [0.2, pytest.approx(0.3)]
    assert found["worst"][0]["slice"] == "P1.0"


def test_a_bin_holds_its_upper_edge():
    found = against_figures([series("P1", [0.0, 0.0], [0.1, 0.0001])], [], rounds=20)["drift"]["histogram"]
    assert dict(zip(DRIFT_EDGES[1:], found["counts"], strict=True)) == {
        edge: int(edge in (0.1, 0.0001)) for edge in DRIFT_EDGES[1:]
    }


def test_masks_and_their_volumes():
    found = against_figures(
        [
            series("P1", [0.6], [0.6], columns=(50, 40)),
            series("P2", [0.6], [0.6], columns=(0, 0)),
            series("P3", [0.6], [0.6], columns=(0, 10)),
            series("P4", [0.6], [0.6], columns=(20, None)),
        ],
        [],
        rounds=20,
    )["masks"]
    assert (found["compared"], found["not_compared"], found["both_empty"]) == (3, 1, 1)
    assert (found["only_this"], found["only_other"]) == (1, 0)
    assert found["dice"]["n"] == 2
    assert found["dice"]["min"] == 0
    assert found["pooled_dice"] == pytest.approx(80 / 100)
    assert found["volume_mm3"] == {"other": 100, "this": 100}
    assert [case["patient"] for case in found["cases"]] == ["P1", "P3"]


def test_nothing_to_compare_has_no_figures():
    found = against_figures([], [], rounds=20)
    assert found["drift"] is None
    assert found["masks"] is None
    assert found["tests"] == {"patient": None, "slice": None}
