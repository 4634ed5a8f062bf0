"""The ROC curve and the area under it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.units import checked_scores

__all__ = ["RocCurve", "area_under_curve", "roc_curve"]


@dataclass(frozen=True)
class RocCurve:
    """Operating points, from nobody called to everybody called.

    Attributes:
        thresholds: (points,) float64, descending: +inf, then every distinct score; a unit is called when its score is
            at or above the threshold.
        sensitivity: (points,) float64, 0..1, ascending.
        specificity: (points,) float64, 0..1, descending.
    """

    thresholds: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    specificity: NDArray[np.float64]


def area_under_curve(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve as the Mann-Whitney statistic, ties count one half.

    Source: Hanley and McNeil, Radiology 143 (1982) 29-36.

    Args:
        scores: (units,), finite, higher means more positive.
        labels: (units,) bool.

    Returns:
        0..1, or None when one of the classes is absent.

    Raises:
        ValueError: as :func:`onfh_runtime.evaluation.units.checked_scores`.
    """
    checked_scores(scores, labels)
    positive, negative = scores[labels], np.sort(scores[~labels])
    if not len(positive) or not len(negative):
        return None
    below = np.searchsorted(negative, positive, side="left").sum(dtype=np.int64)
    not_above = np.searchsorted(negative, positive, side="right").sum(dtype=np.int64)
    return float((below + not_above) / (2 * len(positive) * len(negative)))


def roc_curve(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> RocCurve | None:
    """Every operating point of the scores; None when one of the classes is absent.

    Raises:
        ValueError: as :func:`onfh_runtime.evaluation.units.checked_scores`.
    """
    checked_scores(scores, labels)
    positive = int(labels.sum())
    if positive == 0 or positive == len(labels):
        return None
    distinct, index = np.unique(scores, return_inverse=True)
    found = np.bincount(index[labels], minlength=len(distinct))
    spared = np.bincount(index[~labels], minlength=len(distinct))
    true_positive = np.concatenate([[0], np.cumsum(found[::-1])])
    false_positive = np.concatenate([[0], np.cumsum(spared[::-1])])
    return RocCurve(
        np.concatenate([[np.inf], distinct[::-1].astype(np.float64)]),
        true_positive / positive,
        1 - false_positive / (len(labels) - positive),
    )
