"""Segmentation tables on masks of known overlap, distances against MedPy and MONAI."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from onfh_runtime.evaluation.join import join
from onfh_runtime.evaluation.levels import groups_of
from onfh_runtime.evaluation.predictions import read_predictions
from onfh_runtime.evaluation.segmentation import measured_series, segmentation_entry
from onfh_runtime.evaluation.truth import read_truth

SHAPE = (12, 40, 40)
AFFINE = np.array([[0.0, 0, 0.7, -14], [3, 0, 0, -18], [0, -0.7, 0, 14], [0, 0, 0, 1]])


@pytest.fixture
def compared(write_table, tmp_path):
    """Masks by patient, (true, predicted); None is no file, and the label of a patient follows from the true one."""

    def run(cases, sites=()):
        lines, answers = ["patient series label mask site"], ["series probability mask"]
        for number, (true, predicted) in enumerate(cases):
            names = []
            for what, mask in (("t", true), ("p", predicted)):
                name = "-" if mask is None else f"{what}{number}.npz"
                names.append(name)
                if mask is not None:
                    voxels, affine = mask if isinstance(mask, tuple) else (mask, AFFINE)
                    np.savez(tmp_path / name, mask=voxels, affine=affine)
            label = int(true is not None and np.any(true[0] if isinstance(true, tuple) else true))
            lines.append(f"P{number} {number}.1 {label} {names[0]} {sites[number] if sites else '-'}")
            answers.append(f"{number}.1 0.5 {names[1]}")
        table, truth = write_table("p.csv", "\n".join(answers)), read_truth(write_table("t.csv", "\n".join(lines)))
        joined = join(read_predictions(table, slice_threshold=0.5, patient_threshold=0.5), truth)
        found = measured_series(joined, masks=truth.masks)
        return found, segmentation_entry(found, groups_of(joined), rounds=50, seed=0)

    return run


def box(*edges):
    mask = np.zeros(SHAPE, np.uint8)
    mask[tuple(slice(*edge) for edge in edges)] = 1
    return mask


EMPTY = np.zeros(SHAPE, np.uint8)
LESION = box((2, 6), (10, 20), (10, 20))


def only(entry, level):
    (group,) = [group for group in entry[level]["groups"] if group["kind"] == "all"]
    return group


def test_the_four_kinds_are_counted_apart(compared):
    shifted = box((2, 6), (10, 20), (12, 22))
    _, entry = compared([(LESION, shifted), (LESION, None), (EMPTY, shifted), (None, None), (EMPTY, EMPTY)])
    whole = only(entry, "volume")
    assert [whole[kind] for kind in ("n", "both", "missed", "false", "neither")] == [5, 1, 1, 1, 2]
    assert whole["dice"] | {"bootstrap": None} == {
        "n": 2,
        "mean": pytest.approx(0.4),
        "median": pytest.approx(0.4),
        "p05": pytest.approx(0.04),
        "p95": pytest.approx(0.76),
        "bootstrap": None,
    }
    voxel = 3 * 0.7 * 0.7
    assert whole["hd95_mm"]["n"] == 1
    assert whole["volume_error_mm3"]["mean"] == pytest.approx(-200 * voxel)
    assert whole["relative_volume_error"]["mean"] == pytest.approx(-0.5)
    assert (whole["false_volume_mm3"]["n"], whole["false_volume_mm3"]["mean"]) == (3, pytest.approx(400 * voxel / 3))
    planes = only(entry, "slice")
    assert [planes[kind] for kind in ("n", "both", "missed", "false", "neither")] == [12, 4, 4, 4, None]
    assert planes["dice"]["mean"] == pytest.approx(0.4)


def test_distances_are_those_of_monai_and_medpy(compared, peer):
    monai, medpy, torch = peer("monai.metrics"), peer("medpy.metric.binary"), peer("torch")
    rng = np.random.default_rng(0)
    prediction = LESION | box((3, 8), (14, 25), (8, 16))
    prediction[4, 12:18, 12:18] = rng.random((6, 6)) < 0.5
    found, _ = compared([(LESION, prediction)])
    measured, spacing = found[0].volume, (3.0, 0.7, 0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [torch.from_numpy(mask)[None, None] for mask in (prediction, LESION)]
        theirs = monai.compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing)
    assert measured.hd95_mm == pytest.approx(float(theirs), abs=1e-4)
    assert measured.hd95_pooled_mm == pytest.approx(medpy.hd95(prediction, LESION, spacing), abs=1e-6)
    assert measured.overlap.dice == pytest.approx(medpy.dc(prediction, LESION))
    for index, plane in zip(range(2, 8), found[0].slices, strict=True):
        if prediction[index].any() and LESION[index].any():
            assert plane.hd95_pooled_mm == pytest.approx(medpy.hd95(prediction[index], LESION[index], spacing[1:]))


def test_a_truth_on_another_grid_is_met_where_it_lies(compared):
    axial = np.array([[0.0, 0, 0.7, -14], [0, 0.5, 0, -19.25], [0.7, 0, 0, -13.3], [0, 0, 0, 1]])
    fine = np.zeros((40, 72, 40), np.uint8)  # (z, y, x), y in steps of 0.5 mm: six planes for each 3 mm slice
    fine[39 - 19 : 39 - 9, 12:36, 10:20] = 1
    found, entry = compared([((fine, axial), LESION)])
    assert found[0].volume.overlap.dice == 1.0
    assert only(entry, "volume")["volume_error_mm3"]["mean"] == pytest.approx(0)
    assert only(entry, "slice")["n"] == 24


def test_masks_of_different_places_are_left_out_by_name(compared):
    far = AFFINE.copy()
    far[0, 3] += 1000
    found, entry = compared([((LESION, far), LESION)])
    assert found[0].reason == "masks_apart"
    assert entry is None


def test_a_positive_without_a_true_mask_is_left_out(write_table, tmp_path):
    np.savez(tmp_path / "p.npz", mask=LESION, affine=AFFINE)
    table = write_table("p.csv", "series probability mask\n1.1 0.9 p.npz\n2.1 0.9 p.npz\n3.1 nan -")
    truth = read_truth(write_table("t.csv", "patient series label mask\nA 1.1 1 -\nB 2.1 0 -\nC 3.1 0 -"))
    joined = join(read_predictions(table, slice_threshold=0.5, patient_threshold=0.5), truth)
    found = measured_series(joined, masks=truth.masks)
    assert [each.reason for each in found] == ["no_true_mask", None, "probability_missing"]
    assert found[1].volume.overlap.kind == "false"
    assert found[1].volume.volume_error_mm3 == pytest.approx(400 * 3 * 0.7 * 0.7)


def test_a_run_without_masks_is_no_run_that_outlines_nothing(write_table, tmp_path):
    np.savez(tmp_path / "t.npz", mask=LESION, affine=AFFINE)
    table = write_table("p.csv", "series probability\n1.1 0.9")
    truth = read_truth(write_table("t.csv", "patient series label mask\nA 1.1 1 t.npz"))
    joined = join(read_predictions(table, slice_threshold=0.5, patient_threshold=0.5), truth)
    assert [each.reason for each in measured_series(joined, masks=truth.masks)] == ["no_predicted_masks"]


def test_sites_are_told_apart(compared):
    _, entry = compared([(LESION, LESION), (LESION, None)], sites=("north", "south"))
    found = {group["name"]: group["dice"]["mean"] for group in entry["volume"]["groups"]}
    assert found == {"north": 1.0, "south": 0.0, "internal": 0.5, "all": 0.5}
