"""Confidence intervals and p-values from the normal distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["Interval", "chi_square_p", "normal_quantile", "two_sided_p", "wilson_interval"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval; ``level`` is the share of such intervals that hold the true value, as 0.95."""

    low: float
    high: float
    level: float


def normal_quantile(level: float) -> float:
    """How many standard errors to each side a two-sided interval of ``level`` reaches: 1.96 for 0.95.

    Raises:
        ValueError: ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    return NormalDist().inv_cdf(0.5 + level / 2)


def two_sided_p(z: float) -> float:
    """Probability of a standard normal value at least as far from 0 as ``z``."""
    return math.erfc(abs(z) / math.sqrt(2))


def chi_square_p(statistic: float) -> float:
    """Probability of a chi-square value, of one degree of freedom, of at least ``statistic``."""
    return math.erfc(math.sqrt(statistic / 2))


def wilson_interval(hits: int, of: int, level: float = 0.95) -> Interval | None:
    """Wilson's score interval of a proportion, without continuity correction; None when ``of`` is 0.

    The units must be independent: for slices of the same patients use the bootstrap.
    Source: Wilson, J Am Stat Assoc 22 (1927) 209-212.

    Raises:
        ValueError: ``hits`` is not between 0 and ``of``.
    """
    if not 0 <= hits <= of:
        raise ValueError(f"{hits} of {of} is not a proportion")
    z = normal_quantile(level)
    if of == 0:
        return None
    share, extra = hits / of, z * z / of
    centre = share + extra / 2
    half = z * math.sqrt(share * (1 - share) / of + extra / (4 * of))
    # The bounds at 0 and 1 are exact; rounding would leave them a hair off.
    low = 0.0 if hits == 0 else (centre - half) / (1 + extra)
    high = 1.0 if hits == of else (centre + half) / (1 + extra)
    return Interval(low, high, level)
