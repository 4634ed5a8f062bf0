"""Two sets of calls, or of scores, of the same units: what they differ by, ready for JSON.

The first is the run under evaluation, the second a reader or another run. Where every patient is one unit the tests are
McNemar's and DeLong's. Where patients have several units (slices) those do not hold: p-values are then null, and the
interval of the difference comes from the bootstrap over patients, which is given in both cases.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.bootstrap import (
    Bootstrapped,
    Statistic,
    area_statistic,
    bootstrap_intervals,
    ratio_statistic,
)
from onfh_runtime.evaluation.delong import delong_test
from onfh_runtime.evaluation.interval import Interval
from onfh_runtime.evaluation.mcnemar import PairedCounts, mcnemar_test, paired_counts, paired_difference
from onfh_runtime.evaluation.rates import Rate, rate_of
from onfh_runtime.evaluation.roc import area_under_curve

__all__ = ["agreement_of", "areas_compared", "bounds", "calls_compared", "rate_entry"]


def bounds(interval: Interval | None) -> list[float] | None:
    """An interval as JSON: low and high. Null for none, and for one of no width: that would claim a certainty."""
    return None if interval is None or interval.low == interval.high else [interval.low, interval.high]


def rate_entry(rate: Rate, bootstrapped: Bootstrapped | None = None) -> dict[str, Any]:
    """A rate as JSON, with the interval of independent units and, where given, that of the bootstrap."""
    return {
        "hits": rate.hits,
        "of": rate.of,
        "value": rate.value,
        "wilson": bounds(rate.interval),
        "bootstrap": bounds(bootstrapped.interval) if bootstrapped else None,
    }


def calls_compared(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    labels: NDArray[np.bool_],
    cluster: NDArray[np.int64],
    clusters: int,
    *,
    rounds: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Sensitivity and specificity of both, and the difference of each: first minus second.

    Args:
        first: (units,) bool calls.
        second: (units,) bool calls of the same units.
        labels: (units,) bool, what is true.
        cluster: (units,) int64, the patient of each unit, as ``cluster_index`` numbers them.
        clusters: how many patients.
        rounds: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        ``sensitivity`` and ``specificity``: ``first`` and ``second`` (rates), ``counts``, ``difference``, ``tango``
        and ``mcnemar`` (null where patients have several units), ``bootstrap``. Null without a unit of the class.

    Raises:
        ValueError: shapes that differ, or arrays that are not bool.
    """
    for other in (second, labels):
        paired_counts(first, other)  # refuses what does not fit
    independent = len(labels) == clusters
    found: dict[str, Any] = {}
    for name, of, right in (("sensitivity", labels, (first, second)), ("specificity", ~labels, (~first, ~second))):
        found[name] = None
        if of.any():
            statistics = _shares(right, of, cluster, clusters)
            intervals = bootstrap_intervals(statistics, clusters, rounds=rounds, seed=seed)
            found[name] = _compared(right[0][of], right[1][of], intervals, independent)
    return found


def agreement_of(first: NDArray[np.bool_], second: NDArray[np.bool_], *, independent: bool) -> dict[str, Any]:
    """Whether two call equally often, whatever is true: the counts, and McNemar's test of independent units."""
    counts = paired_counts(first, second)
    return {"counts": asdict(counts), "units": counts.units, "mcnemar": _mcnemar(counts) if independent else None}


def areas_compared(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    labels: NDArray[np.bool_],
    cluster: NDArray[np.int64],
    clusters: int,
    *,
    rounds: int = 2000,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Both areas under the ROC curve and their difference, first minus second; null when a class is absent.

    ``delong`` holds standard error, z, p and interval of the difference where every patient is one unit.

    Raises:
        ValueError: as :func:`onfh_runtime.evaluation.units.checked_scores`.
    """
    one, other = area_under_curve(first, labels), area_under_curve(second, labels)
    if one is None or other is None:
        return None
    areas = [area_statistic(scores, labels, cluster, clusters) for scores in (first, second)]
    statistics: dict[str, Statistic] = {
        "first": areas[0],
        "second": areas[1],
        "difference": lambda weights: areas[0](weights) - areas[1](weights),
    }
    intervals = bootstrap_intervals(statistics, clusters, rounds=rounds, seed=seed)
    delong = None
    if len(labels) == clusters and (test := delong_test(first, second, labels)) is not None:
        delong = {
            "standard_error": test.standard_error,
            "z": test.z,
            "p": test.p,
            "interval": bounds(test.interval),
        }
    return {
        "first": {"value": one, "bootstrap": bounds(intervals["first"].interval)},
        "second": {"value": other, "bootstrap": bounds(intervals["second"].interval)},
        "difference": one - other,
        "delong": delong,
        "bootstrap": bounds(intervals["difference"].interval),
        "degenerate_rounds": intervals["difference"].degenerate,
    }


def _shares(
    right: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    of: NDArray[np.bool_],
    cluster: NDArray[np.int64],
    clusters: int,
) -> dict[str, Statistic]:
    one, other = (ratio_statistic(each & of, of, cluster, clusters) for each in right)
    return {"first": one, "second": other, "difference": lambda weights: one(weights) - other(weights)}


def _compared(
    first: NDArray[np.bool_], second: NDArray[np.bool_], intervals: dict[str, Bootstrapped], independent: bool
) -> dict[str, Any]:
    counts = paired_counts(first, second)
    apart = paired_difference(counts)
    return {
        "first": rate_entry(rate_of(counts.both + counts.only_first, counts.units), intervals["first"]),
        "second": rate_entry(rate_of(counts.both + counts.only_second, counts.units), intervals["second"]),
        "counts": asdict(counts),
        "difference": apart.difference,
        "tango": bounds(apart.interval) if independent else None,
        "bootstrap": bounds(intervals["difference"].interval),
        "mcnemar": _mcnemar(counts) if independent else None,
    }


def _mcnemar(counts: PairedCounts) -> dict[str, float | None]:
    test = mcnemar_test(counts)
    return {
        "p_mid": test.p_mid,
        "p_exact": test.p_exact,
        "statistic": test.statistic,
        "p_chi_square": test.p_chi_square,
    }
