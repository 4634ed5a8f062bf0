from __future__ import annotations

import json

import numpy as np
import pytest

from onfh_runtime.bundle import load_bundle
from onfh_runtime.errors import OutputError, UsageError
from onfh_runtime.evaluation.calibrate import CALIBRATION_FILE, frozen_threshold, seen_splits, write_calibrated
from onfh_runtime.evaluation.join import join
from onfh_runtime.evaluation.predictions import read_predictions
from onfh_runtime.evaluation.truth import read_truth


@pytest.fixture
def joined(write_table):
    def made(probabilities, labels, split="validation"):
        rows = list(enumerate(zip(probabilities, labels, strict=True)))
        predictions = [f"{k}.1 0 {p}\n{k}.1 - {p}" for k, (p, _) in rows]
        truth = [f"P{k} {k}.1 0 {int(y)} {split}" for k, (_, y) in rows]
        table = write_table("p.csv", "\n".join(["series position_mm probability", *predictions]))
        labels = write_table("t.csv", "\n".join(["patient series position_mm label split", *truth]))
        return join(read_predictions(table, slice_threshold=0.5, patient_threshold=0.5), read_truth(labels))

    return made


@pytest.mark.parametrize("target", [0.25, 0.29, 0.5, 0.9, 0.989, 1.0])
@pytest.mark.parametrize("level", ["slice", "patient"])
def test_it_is_the_highest_threshold_that_reaches_the_target(joined, target, level):
    rng = np.random.default_rng(4)
    labels = np.arange(150) < 100
    scores = np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1), 2)
    frozen = frozen_threshold(joined(scores, labels), level=level, target=target, rounds=20)

    def reached(threshold):
        return np.mean(scores[labels] >= threshold)

    assert reached(frozen.threshold) >= target
    higher = np.unique(scores[scores > frozen.threshold])
    assert all(reached(each) < target for each in higher)
    assert frozen.document["achieved"]["sensitivity"]["value"] == pytest.approx(reached(frozen.threshold))
    assert (frozen.document["achieved"]["sensitivity"]["wilson"] is None) == (level == "slice")
    json.dumps(frozen.document, allow_nan=False)


def test_one_class_or_a_target_that_is_none_is_refused(joined):
    for labels in ([True] * 3, [False] * 3):
        with pytest.raises(UsageError, match="one_class"):
            frozen_threshold(joined([0.1, 0.2, 0.3], labels), level="slice", target=0.9)
    for target in (0.0, 1.1):
        with pytest.raises(UsageError, match="target_invalid"):
            frozen_threshold(joined([0.1, 0.2], [True, False]), level="slice", target=target)


def test_what_the_cases_are_called_is_seen(joined):
    assert seen_splits(joined([0.1, 0.2], [True, False], "test")) == ("test",)


@pytest.fixture
def frozen(joined):
    return frozen_threshold(joined([0.1, 0.3, 0.6, 0.9], [False, True, False, True]), level="slice", target=1, rounds=9)


def test_a_bundle_gets_a_new_version_and_the_old_one_stays(frozen, tiny_bundle, tmp_path):
    (tiny_bundle.root / "engines" / "some-1-sm89").mkdir(parents=True)
    (tiny_bundle.root / "engines" / "some-1-sm89" / "classifier.plan").write_bytes(b"plan")
    before = {path: path.read_bytes() for path in tiny_bundle.root.rglob("*") if path.is_file()}
    written = load_bundle(write_calibrated(frozen, tiny_bundle, tmp_path / "new", version="2"))
    assert {path: path.read_bytes() for path in tiny_bundle.root.rglob("*") if path.is_file()} == before
    content, old = written.content, tiny_bundle.content
    assert content.version == "2"
    assert (
        content.slice_threshold == content.gate.threshold == 0.3
    )  # the gate was 0.4: it would hold called slices back
    assert content.patient_rule == old.patient_rule
    assert content.classifier == old.classifier
    assert set(content.files) == {*old.files, CALIBRATION_FILE}
    assert "2 of 2 positives" in content.provenance["calibration_slice"]
    assert content.provenance["calibrated_from"] == f"tiny 1 {tiny_bundle.sha256}"
    said = json.loads((written.root / CALIBRATION_FILE).read_text())
    assert (said["threshold"], said["threshold_before"], said["gate"], said["gate_before"]) == (0.3, 0.5, 0.3, 0.4)
    assert said["curve"]["sensitivity"][-1] == 1.0
    assert (written.root / "engines" / "some-1-sm89" / "classifier.plan").read_bytes() == b"plan"


def test_a_higher_threshold_leaves_the_gate_where_it_is(joined, tiny_bundle, tmp_path):
    high = frozen_threshold(joined([0.1, 0.9], [False, True]), level="slice", target=1, rounds=9)
    assert load_bundle(write_calibrated(high, tiny_bundle, tmp_path / "new")).content.gate.threshold == 0.4


def test_the_patients_threshold_leaves_the_slices_alone(joined, tiny_bundle, tmp_path):
    frozen = frozen_threshold(joined([0.1, 0.2], [False, True]), level="patient", target=1, rounds=9)
    content = load_bundle(write_calibrated(frozen, tiny_bundle, tmp_path / "new")).content
    assert content.patient_rule.threshold == 0.2
    assert (content.slice_threshold, content.gate.threshold) == (0.5, 0.4)
    assert content.version.startswith("1+patient.")


def test_it_can_be_done_once_for_each_level(frozen, joined, tiny_bundle, tmp_path):
    first = load_bundle(write_calibrated(frozen, tiny_bundle, tmp_path / "one"))
    patients = frozen_threshold(joined([0.1, 0.2], [False, True]), level="patient", target=1, rounds=9)
    second = load_bundle(write_calibrated(patients, first, tmp_path / "two")).content
    assert (second.slice_threshold, second.patient_rule.threshold) == (0.3, 0.2)
    assert {"calibration_slice", "calibration_patient"} <= set(second.provenance)


def test_nothing_is_replaced_and_nothing_is_left_behind(frozen, tiny_bundle, tmp_path):
    with pytest.raises(UsageError, match="version_unchanged"):
        write_calibrated(frozen, tiny_bundle, tmp_path / "new", version="1")
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="bundle_exists"):
        write_calibrated(frozen, tiny_bundle, tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="output_unwritable"):
        write_calibrated(frozen, tiny_bundle, tmp_path / "file" / "new")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
