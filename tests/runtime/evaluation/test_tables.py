from __future__ import annotations

import json

import numpy as np

from onfh_runtime.evaluation.join import join
from onfh_runtime.evaluation.predictions import read_predictions
from onfh_runtime.evaluation.segmentation import measured_series
from onfh_runtime.evaluation.tables import SCHEMA, evaluation_document
from onfh_runtime.evaluation.truth import read_truth


def document(predictions, truth_table, **keywords):
    truth = read_truth(truth_table)
    joined = join(predictions, truth)
    masks = measured_series(joined, masks=truth.masks)
    found = evaluation_document(joined, predictions, masks, rounds=20, seed=0, **keywords)
    return json.loads(json.dumps(found, allow_nan=False))


def test_the_document_says_what_was_joined_and_what_was_not(write_result, write_table):
    failed = {"status": "failed", "reason": {"code": "internal_error", "text": "x"}, "patient": None, "sides": None}
    write_result("1", "1.1", [0.2, 0.9], warnings=[{"code": "implant", "text": "x"}])
    write_result("2", "2.1", preferred=False, **failed)
    undetermined = {"patient": {"state": "undetermined", "probability": 0.3, "threshold": 0.5}}
    results = write_result("3", "3.1", [0.3], **undetermined)
    truth = "patient study series position_mm label site\nA 1 1.1 0 0 n\nA 1 1.1 3 1 n\nB 2 2.1 0 1 s\nC 3 3.1 0 0 s"
    found = document(read_predictions(results), write_table("t.csv", truth))
    assert found["schema"] == SCHEMA
    assert found["research_use_only"] is True
    assert found["bundle"] == {"name": "tiny", "version": "1", "sha256": "0" * 64}
    assert found["thresholds"] == {
        "slice": None,
        "slice_between": [0.3, 0.9],
        "patient": 0.5,
        "source": "the results",
    }
    joined = found["joined"]
    assert [joined[name] for name in ("studies", "series", "slices", "patients", "undetermined")] == [2, 2, 3, 2, 1]
    assert joined["excluded"] == {"internal_error": 1}
    assert set(found["levels"]) == {"slice", "patient"}
    assert found["segmentation"] is found["readers"] is found["against"] is None
    first, second, third = found["cases"]
    assert first["label"] is first["positive"] is True
    assert (first["state"], first["slices"], first["flags"]) == ("positive", 2, ["implant"])
    assert (second["state"], second["probability"], second["positive"]) == ("no answer", None, None)
    assert second["flags"] == ["internal_error"]
    assert (third["state"], third["positive"], third["label"]) == ("undetermined", None, False)


def test_the_document_names_the_threshold_of_a_table(write_table, tmp_path):
    np.savez(tmp_path / "t.npz", mask=np.ones((2, 2, 2), np.uint8), affine=np.eye(4))
    table = write_table("p.csv", "series position_mm probability mask\n1.1 0 0.7 t.npz\n1.1 - 0.7 -")
    predictions = read_predictions(table, slice_threshold=0.25, patient_threshold=0.75)
    truth = write_table("t.csv", "patient series position_mm label mask\nA 1.1 0 1 t.npz")
    found = document(predictions, truth, readers={"x": 1}, against={"y": 2})
    assert found["bundle"] is None
    assert found["thresholds"]["slice"] == 0.25
    assert found["thresholds"]["source"] == "the command line"
    assert (found["readers"], found["against"]) == ({"x": 1}, {"y": 2})
    (case,) = found["cases"]
    assert (case["dice"], case["hd95_mm"], case["volume_mm3"], case["true_volume_mm3"]) == (1.0, 0.0, 8.0, 8.0)
    (volumes,) = [group for group in found["segmentation"]["volume"]["groups"] if group["kind"] == "all"]
    assert volumes["dice"]["mean"] == 1.0
    assert volumes["dice"]["bootstrap"] is None  # one case: every round is that case
    assert case["positive"] is False


def test_every_figure_of_the_document_is_defined_in_words(write_result, write_table):
    found = document(
        read_predictions(write_result("1", "1.1", [0.9])), write_table("t.csv", "patient study label\nA 1 1")
    )
    for name in (
        "auc",
        "brier",
        "calibration",
        "dice",
        "hd95_mm",
        "hd95_pooled_mm",
        "assd_mm",
        "volume_error_mm3",
        "npv",
    ):
        assert found["definitions"][name].endswith(".")
