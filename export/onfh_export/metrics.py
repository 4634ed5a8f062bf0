"""The figures a training is judged by, in plain NumPy; every distance is in mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Operating", "area_under_curve", "dice", "hd95_mm", "operating_point"]

_BLOCK = 2048
"""Boundary points compared at a time: bounds the memory of the distance table."""


@dataclass(frozen=True)
class Operating:
    """Counts at one threshold; a rate whose denominator is 0 is None."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def sensitivity(self) -> float | None:
        """Share of the positives that are found."""
        return _share(self.true_positive, self.false_negative)

    @property
    def specificity(self) -> float | None:
        """Share of the negatives that are left alone."""
        return _share(self.true_negative, self.false_positive)

    @property
    def npv(self) -> float | None:
        """Share of the negative answers that are right, at this set's prevalence only."""
        return _share(self.true_negative, self.false_negative)


def area_under_curve(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve as the Mann-Whitney statistic, ties count one half.

    Source: Hanley and McNeil, Radiology 143 (1982) 29-36.

    Args:
        scores: (N,), higher means more positive.
        labels: (N,) bool.

    Returns:
        0..1, or None when one of the classes is absent.
    """
    positive = int(labels.sum())
    negative = len(labels) - positive
    if positive == 0 or negative == 0:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * negative))


def operating_point(scores: NDArray[np.floating], labels: NDArray[np.bool_], threshold: float) -> Operating:
    """Counts when a score at or above ``threshold`` is called positive."""
    called = scores >= threshold
    return Operating(
        int((called & labels).sum()),
        int((called & ~labels).sum()),
        int((~called & ~labels).sum()),
        int((~called & labels).sum()),
    )


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float | None:
    """Twice the overlap over the sum of sizes; None when both masks are empty. Any shape."""
    size = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / size if size else None


def hd95_mm(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> float | None:
    """95% Hausdorff distance of two planar masks: the maximum of the two directed 95th percentiles.

    Boundary pixels are those of a mask with a 4-neighbour outside it; the directed distances go from each boundary
    pixel to the nearest boundary pixel of the other mask. The same definition as MONAI's and Metrics Reloaded's.

    Args:
        prediction: (rows, columns) bool.
        truth: (rows, columns) bool.
        spacing_mm: (row, column).

    Returns:
        mm, or None when a mask is empty.
    """
    if not prediction.any() or not truth.any():
        return None
    first, second = (np.argwhere(_boundary(mask)) * np.asarray(spacing_mm) for mask in (prediction, truth))
    return float(max(_directed_95(first, second), _directed_95(second, first)))


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _directed_95(source: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    nearest = [
        np.sqrt(((source[start : start + _BLOCK, None] - target[None]) ** 2).sum(axis=2).min(axis=1))
        for start in range(0, len(source), _BLOCK)
    ]
    return float(np.percentile(np.concatenate(nearest), 95))
