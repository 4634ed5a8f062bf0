"""Counts and rates of calls at a frozen threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.interval import Interval, wilson_interval
from onfh_runtime.evaluation.units import checked_labels, checked_scores

__all__ = ["Confusion", "Rate", "Rates", "confusion", "confusion_of_calls", "rate_of", "rates_of"]


@dataclass(frozen=True)
class Confusion:
    """How many units were called what; a rate whose denominator is 0 is None."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def positive(self) -> int:
        """Units that are positive."""
        return self.true_positive + self.false_negative

    @property
    def negative(self) -> int:
        """Units that are negative."""
        return self.true_negative + self.false_positive

    @property
    def sensitivity(self) -> float | None:
        """Share of the positives that are found."""
        return _share(self.true_positive, self.positive)

    @property
    def specificity(self) -> float | None:
        """Share of the negatives that are left alone."""
        return _share(self.true_negative, self.negative)

    @property
    def ppv(self) -> float | None:
        """Share of the positive answers that are right, at this set's prevalence only."""
        return _share(self.true_positive, self.true_positive + self.false_positive)

    @property
    def npv(self) -> float | None:
        """Share of the negative answers that are right, at this set's prevalence only."""
        return _share(self.true_negative, self.true_negative + self.false_negative)

    @property
    def prevalence(self) -> float | None:
        """Share of the units that are positive."""
        return _share(self.positive, self.positive + self.negative)


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``of`` units, with Wilson's interval; value and interval are None when ``of`` is 0."""

    hits: int
    of: int
    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Rates:
    """Every rate of a :class:`Confusion`, with intervals for independent units."""

    sensitivity: Rate
    specificity: Rate
    ppv: Rate
    npv: Rate
    prevalence: Rate


def confusion(scores: NDArray[np.floating], labels: NDArray[np.bool_], threshold: float) -> Confusion:
    """Counts when a score at or above ``threshold`` is called positive.

    The comparison is made in the scores' own type, as the pipeline makes it: a float32 score that was frozen as the
    threshold is called positive.

    Args:
        scores: (units,), finite.
        labels: (units,) bool.
        threshold: in the scores' unit.

    Raises:
        ValueError: as :func:`onfh_runtime.evaluation.units.checked_scores`, or a threshold that is NaN.
    """
    checked_scores(scores, labels)
    if np.isnan(threshold):
        raise ValueError("the threshold is NaN")
    return confusion_of_calls(scores >= scores.dtype.type(threshold), labels)


def confusion_of_calls(called: NDArray[np.bool_], labels: NDArray[np.bool_]) -> Confusion:
    """Counts of calls that were made already, a reader's for one. Both (units,) bool.

    Raises:
        ValueError: shapes that differ, or arrays that are not bool.
    """
    checked_labels(called, len(labels))
    checked_labels(labels, len(labels))
    both, calls, positive = int((called & labels).sum()), int(called.sum()), int(labels.sum())
    return Confusion(both, calls - both, len(labels) - calls - positive + both, positive - both)


def rates_of(counts: Confusion, level: float = 0.95) -> Rates:
    """Every rate with Wilson's score interval, which holds for independent units: patients, not slices."""
    called = counts.true_positive + counts.false_positive
    units = counts.positive + counts.negative
    return Rates(
        rate_of(counts.true_positive, counts.positive, level),
        rate_of(counts.true_negative, counts.negative, level),
        rate_of(counts.true_positive, called, level),
        rate_of(counts.true_negative, units - called, level),
        rate_of(counts.positive, units, level),
    )


def rate_of(hits: int, of: int, level: float = 0.95) -> Rate:
    """``hits`` of ``of`` independent units, with Wilson's score interval.

    Raises:
        ValueError: ``hits`` is not between 0 and ``of``, or a level outside 0..1.
    """
    return Rate(hits, of, _share(hits, of), wilson_interval(hits, of, level))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
