"""Two calls of the same units compared: McNemar's test, and the difference of two paired rates.

The units must be independent: patients, not slices of the same patients (for those use the bootstrap over clusters).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.interval import Interval, chi_square_p, normal_quantile
from onfh_runtime.evaluation.units import checked_labels

__all__ = ["Mcnemar", "PairedCounts", "PairedDifference", "mcnemar_test", "paired_counts", "paired_difference"]

_LARGE = 25
"""Discordant units from which the chi-square test is reported too, the usual rule for its approximation."""


@dataclass(frozen=True)
class PairedCounts:
    """Units by whether each of two says yes: called positive, or called rightly."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def units(self) -> int:
        """How many there are."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def discordant(self) -> int:
        """Units on which the two differ."""
        return self.only_first + self.only_second


@dataclass(frozen=True)
class Mcnemar:
    """McNemar's test; every p is two-sided.

    Attributes:
        counts: what was tested.
        p_exact: of the binomial distribution; 1 without a discordant unit.
        p_mid: mid-p, which counts what was observed by half; it is less conservative and the one to quote.
        statistic: Edwards' chi-square with continuity correction; None below 25 discordant units.
        p_chi_square: of the statistic, one degree of freedom; None where that is.
    """

    counts: PairedCounts
    p_exact: float
    p_mid: float
    statistic: float | None
    p_chi_square: float | None


@dataclass(frozen=True)
class PairedDifference:
    """First rate minus second rate over the same units, with Tango's score interval; all None without a unit."""

    first: float | None
    second: float | None
    difference: float | None
    interval: Interval | None


def paired_counts(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedCounts:
    """Cross the (units,) bool answers of two to the same units.

    For the difference in sensitivity give the calls on the positive units, for specificity the negated calls on the
    negative ones.

    Raises:
        ValueError: shapes that differ, or arrays that are not bool.
    """
    checked_labels(first, len(second))
    checked_labels(second, len(second))
    both, one, other = int((first & second).sum()), int(first.sum()), int(second.sum())
    return PairedCounts(both, one - both, other - both, len(first) - one - other + both)


def mcnemar_test(counts: PairedCounts) -> Mcnemar:
    """Test whether two say yes equally often.

    Sources: McNemar, Psychometrika 12 (1947) 153-157; Edwards, Psychometrika 13 (1948) 185-187; Fagerland, Lydersen
    and Laake, BMC Med Res Methodol 13 (2013) 91 (mid-p).
    """
    b, c = counts.only_first, counts.only_second
    n, fewer = b + c, min(b, c)
    if n == 0:
        return Mcnemar(counts, 1.0, 1.0, None, None)
    k = np.arange(1, fewer + 1)
    terms = np.concatenate([[0.0], np.cumsum(np.log(n - k + 1) - np.log(k))]) - n * math.log(2)
    point = float(np.exp(terms[-1]))
    tail = 2 * float(np.exp(terms).sum())
    exact = min(1.0, tail)
    mid = 1 - point / 2 if b == c else tail - point
    if n < _LARGE:
        return Mcnemar(counts, exact, mid, None, None)
    statistic = max(abs(b - c) - 1, 0) ** 2 / n
    return Mcnemar(counts, exact, mid, statistic, chi_square_p(statistic))


def paired_difference(counts: PairedCounts, level: float = 0.95) -> PairedDifference:
    """The difference of the two rates with Tango's asymptotic score interval.

    It holds 0 exactly where McNemar's chi-square without correction does not reject, and has a width even where no
    unit is discordant. Source: Tango, Statistics in Medicine 17 (1998) 891-908.

    Raises:
        ValueError: a level outside 0..1.
    """
    z = normal_quantile(level)
    n = counts.units
    if n == 0:
        return PairedDifference(None, None, None, None)
    first, second = (counts.both + counts.only_first) / n, (counts.both + counts.only_second) / n
    difference = (counts.only_first - counts.only_second) / n
    interval = Interval(_bound(counts, difference, -1.0, z), _bound(counts, difference, 1.0, z), level)
    return PairedDifference(first, second, difference, interval)


def _bound(counts: PairedCounts, inside: float, outside: float, z: float) -> float:
    """Where the score between ``inside`` (the difference seen) and ``outside`` (-1 or 1) reaches ``z``, by bisection.

    -1 and 1 themselves are bounds where the score does not reach it.
    """
    if abs(_score(counts, outside)) <= z:
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        if abs(_score(counts, middle)) > z:
            outside = middle
        else:
            inside = middle
    return inside


def _score(counts: PairedCounts, difference: float) -> float:
    """Tango's score of a supposed difference: how many standard errors the seen one lies from it."""
    n, b, c = counts.units, counts.only_first, counts.only_second
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    # The most likely share of units that only the second calls, given the difference.
    share = (math.sqrt(max(linear * linear - 8 * n * constant, 0)) - linear) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    distance = b - c - n * difference
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)
