"""DeLong's variance of the area under the ROC curve, and the paired test of two areas.

The units must be independent: patients, not slices of the same patients (for those use the bootstrap over clusters).

Sources: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845; the mid-rank form, O(n log n), is that of
Sun and Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.interval import Interval, normal_quantile, two_sided_p
from onfh_runtime.evaluation.units import checked_scores

__all__ = ["DelongArea", "DelongTest", "delong_interval", "delong_test"]


@dataclass(frozen=True)
class DelongArea:
    """An area under the ROC curve with its uncertainty.

    Attributes:
        area: 0..1.
        variance: None when a class has a single unit, for then nothing is known of its spread.
        interval: on the logit scale, so that it stays within 0..1; None without a variance, and when the variance is
            0 (both classes perfectly apart, for one), where any interval would claim a certainty that is not there.
    """

    area: float
    variance: float | None
    interval: Interval | None


@dataclass(frozen=True)
class DelongTest:
    """Two areas from the same units.

    Attributes:
        first: area of the first scores.
        second: area of the second scores.
        difference: first minus second.
        standard_error: of the difference; None when a class has a single unit.
        z: None where the standard error is None or 0.
        p: two-sided. 1 when the two rank every pair of a positive and a negative unit alike; None where there is no
            ``z`` otherwise.
        interval: plain (difference and so many standard errors); the point 0 where the ranks are alike, None where
            there is no ``z`` otherwise.
    """

    first: float
    second: float
    difference: float
    standard_error: float | None
    z: float | None
    p: float | None
    interval: Interval | None


@dataclass(frozen=True)
class _Components:
    """Twice DeLong's structural components times the size of the other class: whole numbers, so that 0 spread is 0.

    ``positive`` (positive units,) and ``negative`` (negative units,), int64: twice the units of the other class that a
    unit is ranked rightly against, ties counting one half.
    """

    positive: NDArray[np.int64]
    negative: NDArray[np.int64]

    def __sub__(self, other: _Components) -> _Components:
        return _Components(self.positive - other.positive, self.negative - other.negative)

    @property
    def area(self) -> float:
        return int(self.positive.sum()) / (2 * len(self.positive) * len(self.negative))

    @property
    def variance(self) -> float | None:
        m, n = len(self.positive), len(self.negative)
        if m < 2 or n < 2:
            return None
        return _sample_variance(self.positive) / (4 * n * n * m) + _sample_variance(self.negative) / (4 * m * m * n)


def delong_interval(scores: NDArray[np.floating], labels: NDArray[np.bool_], level: float = 0.95) -> DelongArea | None:
    """Area under the ROC curve with DeLong's variance and an interval on the logit scale.

    Args:
        scores: (units,), finite, higher means more positive.
        labels: (units,) bool.
        level: of the interval.

    Returns:
        None when one of the classes is absent.

    Raises:
        ValueError: as :func:`onfh_runtime.evaluation.units.checked_scores`, or a level outside 0..1.
    """
    z = normal_quantile(level)
    components = _components(scores, labels)
    if components is None:
        return None
    area, variance = components.area, components.variance
    if not variance:
        return DelongArea(area, variance, None)
    # Variance above 0 means that the area is neither 0 nor 1.
    centre = math.log(area / (1 - area))
    half = z * math.sqrt(variance) / (area * (1 - area))
    return DelongArea(area, variance, Interval(_expit(centre - half), _expit(centre + half), level))


def delong_test(
    first: NDArray[np.floating], second: NDArray[np.floating], labels: NDArray[np.bool_], level: float = 0.95
) -> DelongTest | None:
    """Compare the areas of two scores of the same units.

    Args:
        first: (units,), finite, higher means more positive.
        second: (units,), the other scores of the same units in the same order.
        labels: (units,) bool.
        level: of the interval.

    Returns:
        None when one of the classes is absent.

    Raises:
        ValueError: as :func:`onfh_runtime.evaluation.units.checked_scores`, or a level outside 0..1.
    """
    quantile = normal_quantile(level)
    one, other = _components(first, labels), _components(second, labels)
    if one is None or other is None:
        return None
    apart = one - other
    variance = apart.variance
    if not variance:
        alike = variance == 0 and not apart.positive.any()
        p, interval = (1.0, Interval(0.0, 0.0, level)) if alike else (None, None)
        return DelongTest(one.area, other.area, apart.area, variance, None, p, interval)
    error = math.sqrt(variance)
    z = apart.area / error
    interval = Interval(apart.area - quantile * error, apart.area + quantile * error, level)
    return DelongTest(one.area, other.area, apart.area, error, z, two_sided_p(z), interval)


def _components(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> _Components | None:
    checked_scores(scores, labels)
    positive, negative = scores[labels], scores[~labels]
    if not len(positive) or not len(negative):
        return None
    pooled = _twice_midranks(scores)
    return _Components(
        pooled[labels] - _twice_midranks(positive),
        2 * len(positive) - (pooled[~labels] - _twice_midranks(negative)),
    )


def _twice_midranks(values: NDArray[np.floating]) -> NDArray[np.int64]:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.int64] = (2 * np.cumsum(counts) - counts + 1)[index]
    return ranks


def _sample_variance(whole: NDArray[np.int64]) -> float:
    # Python's integers: the squares of 100,000 units times their number pass 2^63.
    n, total, squares = len(whole), int(whole.sum()), int((whole * whole).sum())
    return (n * squares - total * total) / (n * (n - 1))


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
