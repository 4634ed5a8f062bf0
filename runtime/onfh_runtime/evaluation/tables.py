"""The document of an evaluation (schema ``onfh-evaluation/1``): everything a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from onfh_runtime import __version__
from onfh_runtime.evaluation.join import Joined, JoinedSeries
from onfh_runtime.evaluation.levels import groups_of, level_entry, patient_units, side_units, slice_units
from onfh_runtime.evaluation.predictions import Predictions
from onfh_runtime.evaluation.segmentation import SeriesMasks, segmentation_entry

__all__ = ["DEFINITIONS", "SCHEMA", "evaluation_document"]

SCHEMA = "onfh-evaluation/1"

DEFINITIONS = {
    "unit": "n counts units that have both a label and an answer. Labelled units without an answer (refused or failed "
    "series, undetermined patients, slices that were not analysed) are counted under unanswered, never as negative.",
    "patient": "The answer of the study's preferred series; of several studies the strongest state and the highest "
    "probability. A patient who is undetermined has no answer.",
    "side": "The state of a hip, positive or negative. A hip has no probability: there is no AUC and no Brier score.",
    "slice": "A coronal slice, joined by its SOP Instance UID or to the nearest label within half a slice distance.",
    "called": "A probability at or above the frozen threshold.",
    "internal": "Every patient who is not external; external is the split of that name, or without a split the site.",
    "auc": "Area under the ROC curve as the Mann-Whitney statistic, ties one half.",
    "delong": "DeLong's interval on the logit scale, for patients only: slices and sides of a patient depend on each "
    "other.",
    "bootstrap": "Percentile interval over rounds that draw patients with replacement, each with all of its units; "
    "rounds that leave a figure undefined are left out of it and counted as degenerate. An interval of no width (every "
    "round alike, as at 100%) is left out: it would claim a certainty that is not there.",
    "wilson": "Wilson's score interval, for patients only.",
    "sensitivity_if_unanswered_missed": "Sensitivity if every positive without an answer is counted as missed.",
    "ppv": "At this set's prevalence only.",
    "npv": "At this set's prevalence only; it is not transportable.",
    "brier": "Mean squared distance of the probability from the label, 0 is best.",
    "calibration": "Ten bins of equal width with Wilson's interval, and a logistic regression of the label on the "
    "logit of the probability; both take units as independent.",
    "segmentation": "Masks are compared on the truth's own voxels, extended to what is predicted; the prediction takes "
    "the voxel nearest to each centre. A slice is a coronal plane of that grid. Slices and volumes hold both hips: "
    "where one is missed, the distances are those between the hips.",
    "empty": "both: both outline something; missed: only the truth does; false: only the prediction does; neither: "
    "nothing is outlined in either. A negative patient without a mask file has an empty true mask.",
    "dice": "Twice the overlap over the sum of sizes, over units whose true mask is not empty, the missed ones as 0.",
    "hd95_mm": "The larger of the two directed 95th percentiles of boundary distances in mm (MONAI, Metrics Reloaded), "
    "over units both outline.",
    "hd95_pooled_mm": "The 95th percentile of both directions pooled (MedPy), over units both outline.",
    "assd_mm": "Mean of the boundary distances of both directions pooled, over units both outline.",
    "volume_error_mm3": "Predicted minus true volume, over units whose true mask is not empty, the missed among them.",
    "relative_volume_error": "The same over the true volume.",
    "false_volume_mm3": "Volume outlined where the true mask is empty, over all such units.",
}


def evaluation_document(
    joined: Joined,
    predictions: Predictions,
    masks: Sequence[SeriesMasks],
    *,
    rounds: int,
    seed: int,
    readers: dict[str, Any] | None = None,
    against: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything an evaluation says, ready for JSON: None wherever something is undefined.

    Args:
        joined: the run and the truth.
        predictions: the run.
        masks: from :func:`~onfh_runtime.evaluation.segmentation.measured_series`.
        rounds: of the bootstrap.
        seed: of the bootstrap.
        readers: the comparison with readers, as JSON.
        against: the comparison with another run, as JSON.
    """
    groups = groups_of(joined)
    units = {"slice": slice_units(joined), "patient": patient_units(joined), "side": side_units(joined)}
    return {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "software": {"name": "onfh-edge", "version": __version__},
        "research_use_only": True,
        "bundle": predictions.bundle,
        "thresholds": _thresholds(joined, predictions),
        "definitions": DEFINITIONS,
        "seed": seed,
        "rounds": rounds,
        "joined": _joined(joined, masks),
        "levels": {
            name: level_entry(level, groups, rounds=rounds, seed=seed)
            for name, level in units.items()
            if len(level.labels) or len(level.unanswered)
        },
        "segmentation": segmentation_entry(masks, groups, rounds=rounds, seed=seed),
        "readers": readers,
        "against": against,
        "cases": _cases(joined, masks),
    }


def _thresholds(joined: Joined, predictions: Predictions) -> dict[str, Any]:
    """The frozen thresholds. Results do not name the slices' one: then the probabilities it lies between are given."""
    between = None
    if predictions.slice_threshold is None and len(joined.slices.labels):
        called, values = joined.slices.called, joined.slices.probabilities
        below, above = values[~called], values[called]
        between = [float(below.max()) if len(below) else None, float(above.min()) if len(above) else None]
    return {
        "slice": predictions.slice_threshold,
        "slice_between": between,
        "patient": predictions.patient_threshold,
        "source": "the results" if predictions.source == "results" else "the command line",
    }


def _joined(joined: Joined, masks: Sequence[SeriesMasks]) -> dict[str, Any]:
    studies = {
        each.predicted.study or each.truth.study or each.truth.series for each in joined.series if each.predicted
    }
    reasons = [each.reason for each in masks if each.reason is not None]
    return {
        "studies": len(studies),
        "series": sum(each.predicted is not None for each in joined.series),
        "slices": len(joined.slices.labels),
        "patients": sum(patient.state is not None for patient in joined.patients),
        "positive_patients": sum(bool(p.truth.label) for p in joined.patients if p.state is not None),
        "masks": sum(each.volume is not None for each in masks),
        "undetermined": sum(patient.state == "undetermined" for patient in joined.patients),
        "not_joined": list(joined.not_joined),
        "not_joined_counts": joined.not_joined_counts,
        "excluded": joined.excluded,
        "masks_left_out": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
    }


def _cases(joined: Joined, masks: Sequence[SeriesMasks]) -> list[dict[str, Any]]:
    counts = np.bincount(joined.slices.series, minlength=len(joined.series)).tolist()
    compared = {each.series: each for each in masks}
    return [_case(joined, each, counts[number], compared.get(number)) for number, each in enumerate(joined.series)]


def _case(joined: Joined, series: JoinedSeries, slices: int, masks: SeriesMasks | None) -> dict[str, Any]:
    patient, predicted = joined.patients[series.truth.patient], series.predicted
    state = predicted.state if predicted else None
    volume = masks.volume if masks is not None else None
    flags = list(predicted.warnings) if predicted else [series.reason or "not_predicted"]
    if masks is not None and masks.reason is not None and predicted is not None:
        flags.append(masks.reason)
    return {
        "patient": patient.truth.patient,
        "site": patient.truth.site,
        "study": predicted.study if predicted else series.truth.study,
        "series": predicted.series if predicted else series.truth.series,
        "label": patient.truth.label,
        "probability": predicted.probability if predicted else None,
        "positive": {"positive": True, "negative": False}.get(state or ""),
        "state": state or "no answer",
        "volume_mm3": volume.overlap.predicted * volume.voxel_mm3
        if volume
        else (predicted.volume_mm3 if predicted else None),
        "true_volume_mm3": volume.overlap.true * volume.voxel_mm3 if volume else None,
        "dice": volume.overlap.dice if volume else None,
        "hd95_mm": volume.hd95_mm if volume else None,
        "slices": slices,
        "flags": flags,
    }
