"""Thresholds, frozen on the validation cases before any test case is looked at.

A threshold lies half-way between two neighbouring scores, so that the last digit of a backend's arithmetic does not
move a validation case across it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation import area_under_curve

__all__ = ["best_top_k", "sensitive_threshold", "top_k_mean", "youden_threshold"]


def youden_threshold(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """The threshold with the largest sensitivity + specificity - 1; of several, the one in the middle.

    0.5 without both classes. Source: Youden, Cancer 3 (1950) 32-35.
    """
    curve = _curve(scores, labels)
    if curve is None:
        return 0.5
    candidates, sensitivity, specificity = curve
    gain = sensitivity + specificity
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    return float(candidates[best[len(best) // 2]])


def sensitive_threshold(
    scores: NDArray[np.floating], labels: NDArray[np.bool_], *, sensitivity: float, specificity_floor: float
) -> float:
    """The highest threshold that reaches ``sensitivity``, unless its specificity is below ``specificity_floor``.

    Then the lowest threshold that reaches the floor is taken instead, and the sensitivity gives way. 0.5 without both
    classes.
    """
    curve = _curve(scores, labels)
    if curve is None:
        return 0.5
    candidates, found, spared = curve
    wanted = float(candidates[found >= sensitivity].max())
    floor = float(candidates[spared >= specificity_floor].min())
    return max(wanted, floor)


def top_k_mean(scores: NDArray[np.floating], k: int) -> float:
    """Mean of the ``k`` largest of (slices,) probabilities: the bundle's patient rule."""
    return float(np.sort(scores)[-k:].mean())


def best_top_k(cases: list[NDArray[np.floating]], labels: NDArray[np.bool_], candidates: tuple[int, ...]) -> int:
    """The ``k`` with the largest area under the curve; the first of equals."""
    return max(candidates, key=lambda k: area_under_curve(_top_k_means(cases, k), labels) or 0.0)


def _top_k_means(cases: list[NDArray[np.floating]], k: int) -> NDArray[np.float64]:
    return np.array([top_k_mean(case, k) for case in cases])


def _curve(
    scores: NDArray[np.floating], labels: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None:
    """Candidate thresholds, ascending, 0 and 1 among them, with the sensitivity and specificity of each."""
    positive, negative = np.sort(scores[labels]), np.sort(scores[~labels])
    if not len(positive) or not len(negative):
        return None
    unique = np.unique(scores).astype(np.float64)
    candidates = np.concatenate([[0.0], (unique[1:] + unique[:-1]) / 2, [1.0]])
    found = 1 - np.searchsorted(positive, candidates, side="left") / len(positive)
    spared = np.searchsorted(negative, candidates, side="left") / len(negative)
    return candidates, found, spared
