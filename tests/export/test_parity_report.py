"""parity.json is JSON, the table is stable, and neither hides what was emulated."""

import json

import numpy as np
import pytest

from onfh_export.parity import Comparison, Near, Parity, Ran
from onfh_export.parity_compare import Truth, study_difference
from onfh_export.parity_limits import breaches
from onfh_export.parity_report import parity_document, parity_section, parity_table, says_little
from onfh_export.reference import Reference
from onfh_runtime.bundle import ParityLimits

TORCH = Ran("torch fp32", "reference", "torch", "fp32", "cpu")
HALF = Ran("onnx fp16", "emulated", "onnxruntime", "fp16", "cpu")
PHANTOMS = Reference("phantoms", 31, (), {})


@pytest.fixture
def parity(said):
    mask = np.zeros((2, 1, 100), np.bool_)
    mask[0, 0, :50] = True
    truth = Truth(np.array([True, False]), np.ones(2, np.bool_), mask)
    sick = study_difference("a", said([0.9, 0.2], (50, 0)), said([0.95, 0.2], (40, 0)), (3, 1, 1), truth)
    bare = study_difference("b", said([0.1, 0.2]), said([0.1, 0.2]), (3, 1, 1))
    near = (
        Near("a", 1, {"torch fp32": 0.2, "onnx fp16": 0.2}, 0.3),
        Near("c", 0, {"torch fp32": 0.1, "onnx fp16": None}, 0.4),
    )
    failed = (("c", "The classifier answered NaN."),)
    return Parity(
        TORCH, (Comparison(HALF, (sick, bare), failed),), near, (Near("a", None, {"torch fp32": 0.55}, 0.05),)
    )


def test_the_document_is_json_and_says_what_was_emulated(parity, rules):
    found = breaches(parity, rules.parity)
    document = parity_document(parity, PHANTOMS, rules, found)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["schema"] == "onfh-parity/1"
    assert [column["kind"] for column in document["columns"]] == ["reference", "emulated"]
    assert "No half arithmetic" in document["columns"][1]["evidence"]
    assert document["reference"] == {
        "kind": "phantoms", "seed": 31, "studies": 0, "slices": 0, "with_truth": 0, "refused_series": {},
        "masks_compared": 1, "probabilities": [pytest.approx(0.1), pytest.approx(0.9)],
    }  # fmt: skip
    assert {breach["limit"] for breach in document["breaches"]} == {
        "not_a_probability", "probability_drift", "mask_dice",
    }  # fmt: skip
    (compared,) = document["comparisons"]
    assert compared["failed"] == [{"study": "c", "text": "The classifier answered NaN."}]
    sick, bare = compared["studies"]
    assert sick["outlined"]["dice"] == pytest.approx(80 / 90)
    assert sick["outlined"]["volume_mm3"] == {"reference": 150, "column": 120, "change": -30}
    assert sick["truth"]["dice"]["reference"] == 1
    assert bare["truth"] is None
    assert bare["outlined"]["dice"] is None
    assert document["nearest_slices"][1]["probabilities"]["onnx fp16"] is None
    assert document["nearest_patients"][0] == {"study": "a", "probabilities": {"torch fp32": 0.55}, "distance": 0.05}


def test_a_breach_is_accepted_only_when_somebody_says_so(parity, rules):
    found = breaches(parity, rules.parity)
    assert not parity_document(parity, PHANTOMS, rules, found)["accepted"]
    taken = parity_document(parity, PHANTOMS, rules, found, drift_accepted=True)
    assert (taken["accepted"], taken["drift_accepted"], len(taken["breaches"])) == (True, True, 3)
    clean = parity_document(parity, PHANTOMS, rules, (), drift_accepted=True)
    assert (clean["accepted"], clean["drift_accepted"]) == (True, False)


def test_what_the_studies_cannot_show_is_said(parity, said, rules):
    assert says_little(parity, ParityLimits()) == []
    same = study_difference("a", said([0.5, 0.51]), said([0.5, 0.51]), (3, 1, 1))
    flat = Parity(TORCH, (Comparison(HALF, (same,), ()),), (), ())
    stage1, stage2 = says_little(flat, ParityLimits())
    assert stage1.startswith("Stage 1 gives every slice the same probability, 0.5 to 0.51,")
    assert stage2.startswith("Stage 2 outlined nothing")
    assert f"**{stage1}**" in parity_section(flat, PHANTOMS, rules.parity, ())
    assert says_little(Parity(TORCH, (), (), ()), ParityLimits()) == [stage2]


def test_the_table_is_stable(parity):
    lines = parity_table(parity, ParityLimits()).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert cells["against torch fp32"] == ["onnx fp16 (emulated)", "limit"]
    assert cells["patients whose answer changes"] == ["0 of 2", "0"]
    assert cells["slices across the threshold"] == ["0 of 4", "1.00%"]
    assert cells["largest change of a probability"] == ["5.0e-02", "0.02"]
    assert cells["slice AUC (change)"] == ["1.0000 (+0.0000)", "0.001"]
    assert cells["patient AUC (change)"] == ["-", "0.001"]
    assert cells["least Dice of a study"] == ["0.88889", "0.995"]
    assert cells["volume drift"] == ["-30.0 mm3 (-20.000%)", ""]
    assert cells["studies without a probability"] == ["1", "0"]


def test_the_section_names_the_breaches_and_who_took_them(parity, rules):
    found = breaches(parity, rules.parity)
    section = parity_section(parity, PHANTOMS, rules.parity, found, drift_accepted=True, picture="parity.png")
    assert "accepted with `--accept-drift`" in section
    assert "onnx fp16 moves a probability by 0.0500. Allowed: 0.02. Look at: a." in section
    assert "](parity.png)" in section
    assert "never clinical performance" in section
    clean = parity_section(parity, Reference("studies", None, (), {}), rules.parity, ())
    assert "No limit is breached." in clean
    assert "phantom" not in clean
