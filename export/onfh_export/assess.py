"""What a trained pair of stages is worth: thresholds frozen on validation, then one table for each test split."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from onfh_export.fitting import probabilities
from onfh_export.prepare import PreparedCase
from onfh_export.recipe import Recipe
from onfh_export.thresholds import best_top_k, sensitive_threshold, top_k_mean, youden_threshold
from onfh_runtime.evaluation import area_under_curve, confusion, dice, hd95_mm

__all__ = ["Answer", "Thresholds", "answers", "frozen_thresholds", "split_metrics"]


@dataclass(frozen=True)
class Thresholds:
    """Everything that is frozen on the validation cases; the names are those of the bundle."""

    gate: float
    slice_threshold: float
    patient_k: int
    patient: float
    mask_threshold: float
    minimum_volume_mm3: float


@dataclass(frozen=True)
class Answer:
    """Both stages' output for one case: ``slices`` (N,) and ``maps`` (N, H, W), probabilities, float32 and float16."""

    case: PreparedCase
    slices: NDArray[np.float32]
    maps: NDArray[np.float16]

    @property
    def truth(self) -> NDArray[np.bool_]:
        """(N, H, W) bool."""
        return self.case.masks > 0

    @property
    def voxel_mm3(self) -> float:
        """Volume of one input pixel in one slice."""
        return self.case.pixel_mm**2 * self.case.slice_mm

    def mask(self, gate: float, threshold: float) -> NDArray[np.bool_]:
        """(N, H, W) bool: what the pipeline outlines, nothing on slices below the gate."""
        outlined: NDArray[np.bool_] = (self.maps >= threshold) & (self.slices >= gate)[:, None, None]
        return outlined


def answers(classifier: nn.Module, segmenter: nn.Module, cases: list[PreparedCase]) -> list[Answer]:
    """Run both stages, FP32, on every slice of every case."""
    result = []
    for case in cases:
        pixels = torch.from_numpy(case.pixels)
        result.append(
            Answer(case, probabilities(classifier, pixels), probabilities(segmenter, pixels).astype(np.float16))
        )
    return result


def frozen_thresholds(validation: list[Answer], recipe: Recipe) -> Thresholds:
    """Choose every threshold on the validation cases.

    Slice threshold and gate: the highest that reach their wanted sensitivity, bounded by a floor of specificity.
    Patient rule: the ``k`` with the largest area under the curve, then a threshold like those. Mask threshold: Dice
    over positive slices is flat around its best, so the highest candidate that is nearly as good, which outlines least
    where there is nothing. Minimum volume: Youden between the outlined volumes of positive and negative cases, and
    never more than the fifth percentile of the true volumes.
    """
    scores, labels = _slice_scores(validation)
    sensitive = sensitive_threshold(
        scores, labels, sensitivity=recipe.slice_sensitivity, specificity_floor=recipe.slice_specificity_floor
    )
    gate = sensitive_threshold(
        scores, labels, sensitivity=recipe.gate_sensitivity, specificity_floor=recipe.gate_specificity_floor
    )
    gate = min(gate, sensitive)
    patients = np.array([answer.case.positive.any() for answer in validation])
    k = best_top_k([answer.slices for answer in validation], patients, recipe.patient_k)
    patient = sensitive_threshold(
        np.array([top_k_mean(answer.slices, k) for answer in validation]),
        patients,
        sensitivity=recipe.patient_sensitivity,
        specificity_floor=recipe.patient_specificity_floor,
    )
    masked = [answer for answer in validation if answer.case.has_mask]

    def mean_dice(threshold: float) -> float:
        found = [value for answer in masked for value in _slice_dice(answer, answer.maps >= threshold)]
        return float(np.mean(found)) if found else 0.0

    each = [mean_dice(threshold) for threshold in recipe.mask_thresholds]
    enough = max(each) - recipe.mask_dice_given_up
    mask_threshold = max(t for t, value in zip(recipe.mask_thresholds, each, strict=True) if value >= enough)
    return Thresholds(
        gate, sensitive, k, patient, mask_threshold, _minimum_volume(masked, gate, mask_threshold)
    )  # fmt: skip


def split_metrics(found: list[Answer], thresholds: Thresholds) -> dict[str, Any]:
    """The figures of one split at frozen thresholds; None where a figure is undefined.

    ``dice_slice`` and ``hd95_slice_mm``: stage 2 on every truth-positive slice, whatever the gate says; a slice where
    nothing is outlined has Dice 0 and no HD95 and is counted in ``slices_missed``. ``dice_volume``: both stages, the
    whole mask of a truth-positive case. All on the grid of the stage's input.
    """
    scores, labels = _slice_scores(found)
    patients = np.array([answer.case.positive.any() for answer in found])
    means = np.array([top_k_mean(answer.slices, thresholds.patient_k) for answer in found])
    masked = [answer for answer in found if answer.case.has_mask]
    slice_dice, slice_hd95, volume_dice, false_volumes, missed = [], [], [], [], 0
    for answer in masked:
        stage_two = answer.maps >= thresholds.mask_threshold
        slice_dice += _slice_dice(answer, stage_two)
        spacing = (answer.case.pixel_mm, answer.case.pixel_mm)
        for index in _outlined_truth(answer):
            distance = hd95_mm(stage_two[index], answer.truth[index], spacing)
            if distance is None:
                missed += 1
            else:
                slice_hd95.append(distance)
        pipeline = answer.mask(thresholds.gate, thresholds.mask_threshold)
        if answer.truth.any():
            volume_dice.append(dice(pipeline, answer.truth) or 0.0)
        else:
            false_volumes.append(float(pipeline.sum()) * answer.voxel_mm3)
    return {
        "cases": len(found),
        "patients": len({answer.case.case.patient for answer in found}),
        "slices": len(labels),
        "positive_slices": int(labels.sum()),
        "positive_cases": int(patients.sum()),
        "slice": _classified(scores, labels, thresholds.slice_threshold),
        "gate": _classified(scores, labels, thresholds.gate),
        "patient": _classified(means, patients, thresholds.patient),
        "dice_slice": _mean(slice_dice),
        "hd95_slice_mm": _mean(slice_hd95),
        "hd95_slice_median_mm": float(np.median(slice_hd95)) if slice_hd95 else None,
        "slices_missed": missed,
        "dice_volume": _mean(volume_dice),
        "false_volume_mm3": _mean(false_volumes),
    }


def _classified(scores: NDArray[np.floating], labels: NDArray[np.bool_], threshold: float) -> dict[str, Any]:
    point = confusion(scores, labels, threshold)
    rates = {"sensitivity": point.sensitivity, "specificity": point.specificity, "npv": point.npv}
    return {"auc": area_under_curve(scores, labels), "threshold": threshold, **rates, **asdict(point)}


def _slice_scores(found: list[Answer]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores and labels of every labelled slice."""
    scores = np.concatenate([answer.slices[answer.case.known] for answer in found])
    return scores, np.concatenate([answer.case.positive[answer.case.known] for answer in found])


def _outlined_truth(answer: Answer) -> NDArray[np.int64]:
    """Positive slices whose truth survives on the input's grid."""
    return np.flatnonzero(answer.case.positive & answer.truth.any(axis=(1, 2)))


def _slice_dice(answer: Answer, mask: NDArray[np.bool_]) -> list[float]:
    return [dice(mask[index], answer.truth[index]) or 0.0 for index in _outlined_truth(answer)]


def _minimum_volume(found: list[Answer], gate: float, threshold: float) -> float:
    if not found:
        return 0.0
    outlined = np.array([answer.mask(gate, threshold).sum() * answer.voxel_mm3 for answer in found])
    real = np.array([answer.truth.sum() * answer.voxel_mm3 for answer in found])
    positive = real > 0
    if positive.all() or not positive.any():
        return 0.0
    # Volumes are scaled into 0..1, where thresholds live.
    top = float(outlined.max()) or 1.0
    best = youden_threshold(outlined / top, positive) * top
    return round(min(best, float(np.percentile(real[positive], 5))), 1)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
