"""Whether probabilities mean what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.interval import Interval, normal_quantile
from onfh_runtime.evaluation.rates import Rate, rate_of
from onfh_runtime.evaluation.units import checked_probabilities

__all__ = ["CalibrationBin", "CalibrationFit", "Coefficient", "brier_score", "calibration_fit", "reliability_curve"]

_CLIP = 1e-6
"""Probabilities are moved this far from 0 and 1 before their logit is taken, as a float32 softmax may saturate."""

_ROUNDS = 50
"""Newton steps before a fit is given up; a fit that exists takes fewer than ten."""


@dataclass(frozen=True)
class CalibrationBin:
    """The units whose probability lies in [low, high), the last bin's high end included.

    ``mean_probability`` is None in an empty bin; ``observed`` is the share that is positive.
    """

    low: float
    high: float
    mean_probability: float | None
    observed: Rate


@dataclass(frozen=True)
class Coefficient:
    """A coefficient of a logistic regression with Wald's standard error and interval, for independent units."""

    value: float
    standard_error: float
    interval: Interval


@dataclass(frozen=True)
class CalibrationFit:
    """Calibration by logistic regression of the labels on the logit of the probability.

    Source of the terms: Van Calster et al., BMC Medicine 17 (2019) 230.

    Attributes:
        mean_probability: what is predicted on average.
        observed: the share that is positive.
        in_the_large: intercept with the slope held at 1: 0 is ideal, below 0 the probabilities are too high. None
            when a class is absent.
        intercept: beside the slope.
        slope: 1 is ideal, below 1 the probabilities are too extreme. Intercept and slope are None when there is no
            finite best fit: a class is absent, or a probability parts the classes.
        clipped: how many probabilities lay within 1e-6 of 0 or 1 and were moved there for the fit.
    """

    mean_probability: float
    observed: float
    in_the_large: Coefficient | None
    intercept: Coefficient | None
    slope: Coefficient | None
    clipped: int


def brier_score(probabilities: NDArray[np.floating], labels: NDArray[np.bool_]) -> float | None:
    """Mean squared distance of (units,) probabilities from what is true, 0 to 1; None without a unit.

    Source: Brier, Monthly Weather Review 78 (1950) 1-3, in the form for two classes.

    Raises:
        ValueError: as :func:`onfh_runtime.evaluation.units.checked_probabilities`.
    """
    exact, _ = checked_probabilities(probabilities, labels)
    return float(np.mean((exact - labels) ** 2)) if len(exact) else None


def reliability_curve(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.bool_],
    bins: int = 10,
    by: Literal["width", "quantile"] = "width",
    level: float = 0.95,
) -> tuple[CalibrationBin, ...]:
    """Mean probability and share of positives, bin by bin, with Wilson's interval.

    Args:
        probabilities: (units,), 0..1.
        labels: (units,) bool.
        bins: how many at most.
        by: ``width`` cuts 0..1 evenly and keeps empty bins; ``quantile`` puts about as many units into each, fewer
            bins where probabilities are tied, none without a unit.
        level: of the intervals.

    Raises:
        ValueError: as :func:`onfh_runtime.evaluation.units.checked_probabilities`, or fewer than one bin.
    """
    exact, _ = checked_probabilities(probabilities, labels)
    if bins < 1:
        raise ValueError(f"a reliability curve needs a bin, not {bins}")
    if by == "width":
        edges = np.linspace(0, 1, bins + 1)
    elif len(exact):
        edges = np.unique(np.quantile(exact, np.linspace(0, 1, bins + 1)))
        edges = edges if len(edges) > 1 else np.repeat(edges, 2)
    else:
        return ()
    index = np.clip(np.searchsorted(edges, exact, side="right") - 1, 0, len(edges) - 2)
    count, found, total = (
        np.bincount(index, weights=weights, minlength=len(edges) - 1)
        for weights in (None, labels.astype(np.float64), exact)
    )
    return tuple(
        CalibrationBin(
            float(edges[k]),
            float(edges[k + 1]),
            float(total[k] / count[k]) if count[k] else None,
            rate_of(int(found[k]), int(count[k]), level),
        )
        for k in range(len(edges) - 1)
    )


def calibration_fit(
    probabilities: NDArray[np.floating], labels: NDArray[np.bool_], level: float = 0.95
) -> CalibrationFit | None:
    """Calibration in the large, intercept and slope; None without a unit.

    Args:
        probabilities: (units,), 0..1.
        labels: (units,) bool.
        level: of the intervals.

    Raises:
        ValueError: as :func:`onfh_runtime.evaluation.units.checked_probabilities`, or a level outside 0..1.
    """
    exact, _ = checked_probabilities(probabilities, labels)
    quantile = normal_quantile(level)
    if not len(exact):
        return None
    inside = np.clip(exact, _CLIP, 1 - _CLIP)
    logit = np.log(inside / (1 - inside))
    positive, negative = logit[labels], logit[~labels]
    large = both = None
    if len(positive) and len(negative):
        one = np.ones_like(logit)
        large = _logistic(one[:, None], logit, labels, quantile, level)
        # Albert and Anderson, Biometrika 71 (1984) 1-10: a finite best fit exists only where the classes overlap.
        if positive.min() < negative.max() and negative.min() < positive.max():
            both = _logistic(np.stack([one, logit], axis=1), np.zeros_like(logit), labels, quantile, level)
    intercept, slope = both or (None, None)
    return CalibrationFit(
        float(exact.mean()),
        float(labels.mean()),
        large[0] if large else None,
        intercept,
        slope,
        int(np.count_nonzero(inside != exact)),
    )


def _logistic(
    design: NDArray[np.float64],
    offset: NDArray[np.float64],
    labels: NDArray[np.bool_],
    quantile: float,
    level: float,
) -> list[Coefficient] | None:
    """Newton's method with halved steps; None when it does not settle.

    ``design`` (units, coefficients), ``offset`` (units,).
    """
    sign = np.where(labels, -1.0, 1.0)

    def loss(values: NDArray[np.float64]) -> float:
        return float(np.logaddexp(0, sign * (offset + design @ values)).sum())

    values = np.zeros(design.shape[1])
    before = loss(values)
    for _ in range(_ROUNDS):
        fitted = np.exp(-np.logaddexp(0, -(offset + design @ values)))
        information = design.T @ (design * (fitted * (1 - fitted))[:, None])
        try:
            step = np.linalg.solve(information, design.T @ (labels - fitted))
        except np.linalg.LinAlgError:
            return None
        if np.abs(step).max() < 1e-10:
            errors = np.sqrt(np.diag(np.linalg.inv(information)))
            return [
                Coefficient(value, error, Interval(value - quantile * error, value + quantile * error, level))
                for value, error in zip(values.tolist(), errors.tolist(), strict=True)
            ]
        after = loss(values + step)
        while after > before + 1e-9 * abs(before) and np.abs(step).max() > 1e-12:
            step = step / 2
            after = loss(values + step)
        values, before = values + step, after
        if not math.isfinite(before):
            return None
    return None
