"""The bootstrap over clusters: patients are drawn with replacement, each with all of its slices or sides.

A round is one whole number for each cluster, how often it was drawn. A statistic turns the weights of many rounds into
its value in each, at once: rates and means are sums over clusters, which is one matrix product, and the area under the
ROC curve is a cumulative sum over the sorted units. Sums of counts are exact, so a round's area and rates are those of
the units it stands for, however the rounds are cut into blocks.

Source: Field and Welsh, J R Statist Soc B 69 (2007) 369-390 (the randomized cluster bootstrap); percentile intervals,
Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.interval import Interval
from onfh_runtime.evaluation.units import checked_probabilities, checked_scores

__all__ = [
    "Bootstrapped",
    "Statistic",
    "area_statistic",
    "bootstrap_intervals",
    "bootstrap_rounds",
    "bootstrap_summary",
    "classification_statistics",
    "ratio_statistic",
]

Statistic: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""(rounds, clusters) float64 weights, whole numbers, to (rounds,) float64 values; NaN where it is undefined.

The difference of two statistics is one too: ``lambda weights: first(weights) - second(weights)``.
"""

_BLOCK = 1 << 20
"""Weights of one block of rounds that are spread over units at a time: 8 MB."""


@dataclass(frozen=True)
class Bootstrapped:
    """A statistic and how it varies over the rounds.

    Attributes:
        estimate: of all units as they are; None where it is undefined.
        interval: percentiles of the rounds in which it is defined; None when there is none.
        standard_error: standard deviation over the same rounds; None when there are fewer than two.
        rounds: how many were drawn.
        degenerate: how many of them left the statistic undefined (one class only, an empty denominator).
    """

    estimate: float | None
    interval: Interval | None
    standard_error: float | None
    rounds: int
    degenerate: int


def bootstrap_intervals(
    statistics: Mapping[str, Statistic], clusters: int, *, rounds: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, Bootstrapped]:
    """Estimate, percentile interval and standard error of every statistic over the same rounds.

    Args:
        statistics: by name.
        clusters: how many, as :func:`onfh_runtime.evaluation.units.cluster_index` numbers them.
        rounds: how many samples are drawn.
        seed: the same seed, clusters and rounds give the same samples.
        level: of the intervals.

    Raises:
        ValueError: no cluster, no round, or a level outside 0..1.
    """
    values = bootstrap_rounds(statistics, clusters, rounds=rounds, seed=seed)
    whole = np.ones((1, clusters))
    return {
        name: bootstrap_summary(float(statistic(whole)[0]), values[name], level)
        for name, statistic in statistics.items()
    }


def bootstrap_rounds(
    statistics: Mapping[str, Statistic], clusters: int, *, rounds: int = 2000, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """(rounds,) float64 values of every statistic, NaN where a round leaves it undefined.

    Raises:
        ValueError: no cluster or no round.
    """
    if clusters < 1 or rounds < 1:
        raise ValueError(f"a bootstrap needs clusters and rounds, not {clusters} and {rounds}")
    random = np.random.default_rng(seed)
    values = {name: np.empty(rounds) for name in statistics}
    step = max(1, _BLOCK // clusters)
    for start in range(0, rounds, step):
        count = min(step, rounds - start)
        drawn = random.integers(clusters, size=(count, clusters))
        drawn += np.arange(count)[:, None] * clusters
        weights = np.bincount(drawn.reshape(-1), minlength=count * clusters).reshape(count, clusters).astype(np.float64)
        for name, statistic in statistics.items():
            values[name][start : start + count] = statistic(weights)
    return values


def bootstrap_summary(estimate: float, values: NDArray[np.float64], level: float = 0.95) -> Bootstrapped:
    """What the (rounds,) values of a statistic say of its estimate; NaN stands for undefined in both.

    Raises:
        ValueError: a level outside 0..1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    defined = values[~np.isnan(values)]
    interval, error = None, None
    if len(defined):
        low, high = np.percentile(defined, [50 - 50 * level, 50 + 50 * level])
        interval = Interval(float(low), float(high), level)
    if len(defined) > 1:
        error = float(defined.std(ddof=1))
    known = None if np.isnan(estimate) else estimate
    return Bootstrapped(known, interval, error, len(values), len(values) - len(defined))


def ratio_statistic(
    parts: NDArray[np.generic], wholes: NDArray[np.generic], cluster: NDArray[np.int64], clusters: int
) -> Statistic:
    """The sum of ``parts`` over the sum of ``wholes``: a rate (bool over bool) or a mean (values over ones).

    Args:
        parts: (units,) bool or numbers.
        wholes: (units,) bool or numbers, 0 for a unit that does not count.
        cluster: (units,) int64, 0..clusters - 1.
        clusters: how many there are, those without a unit included.

    Raises:
        ValueError: shapes that differ, a value that is not finite, or a cluster outside the range.
    """
    _checked_clusters(cluster, clusters, len(parts))
    sums = []
    for values in (parts, wholes):
        numbers = values.astype(np.float64)
        if numbers.shape != cluster.shape or not np.isfinite(numbers).all():
            raise ValueError(f"parts and wholes must be finite and have the shape {cluster.shape}")
        sums.append(np.bincount(cluster, weights=numbers, minlength=clusters))
    both = np.stack(sums, axis=1)

    def ratio(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        part, whole = (weights @ both).T
        return _divided(part, whole)

    return ratio


def area_statistic(
    scores: NDArray[np.floating], labels: NDArray[np.bool_], cluster: NDArray[np.int64], clusters: int
) -> Statistic:
    """The area under the ROC curve, ties one half; undefined in a round that lacks a class.

    Args:
        scores: (units,), finite.
        labels: (units,) bool.
        cluster: (units,) int64, 0..clusters - 1.
        clusters: how many there are, those without a unit included.

    Raises:
        ValueError: as :func:`onfh_runtime.evaluation.units.checked_scores`, or a cluster outside the range.
    """
    checked_scores(scores, labels)
    _checked_clusters(cluster, clusters, len(scores))
    order = np.argsort(scores[~labels], kind="stable")
    negatives = scores[~labels][order]
    of_negative = cluster[~labels][order]
    positives, of_positive = scores[labels], cluster[labels]
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    tied = bool((below != not_above).any())
    step = max(1, _BLOCK // max(1, len(scores)))

    def block(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        passed = np.zeros((len(weights), len(negatives) + 1))
        np.cumsum(weights[:, of_negative], axis=1, out=passed[:, 1:])
        drawn = weights[:, of_positive]
        beaten = passed[:, below]
        if tied:
            beaten = (beaten + passed[:, not_above]) / 2
        pairs = drawn.sum(axis=1) * passed[:, -1]
        won = np.einsum("ru,ru->r", drawn, beaten)
        return _divided(won, pairs)

    def area(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([block(weights[start : start + step]) for start in range(0, len(weights), step)])

    return area


def classification_statistics(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.bool_],
    threshold: float,
    cluster: NDArray[np.int64],
    clusters: int,
) -> dict[str, Statistic]:
    """The figures of one table: auc, sensitivity, specificity, ppv, npv, prevalence and brier.

    Called is a probability at or above ``threshold``, compared in the probabilities' own type.

    Raises:
        ValueError: as :func:`onfh_runtime.evaluation.units.checked_probabilities`, or a cluster outside the range.
    """
    exact, _ = checked_probabilities(probabilities, labels)
    called = probabilities >= probabilities.dtype.type(threshold)
    every = np.ones(len(labels), bool)

    def rate(parts: NDArray[np.generic], wholes: NDArray[np.bool_]) -> Statistic:
        return ratio_statistic(parts, wholes, cluster, clusters)

    return {
        "auc": area_statistic(probabilities, labels, cluster, clusters),
        "sensitivity": rate(called & labels, labels),
        "specificity": rate(~called & ~labels, ~labels),
        "ppv": rate(called & labels, called),
        "npv": rate(~called & ~labels, ~called),
        "prevalence": rate(labels, every),
        "brier": rate((exact - labels) ** 2, every),
    }


def _divided(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.full(len(whole), np.nan)
    np.divide(part, whole, out=result, where=whole != 0)
    return result


def _checked_clusters(cluster: NDArray[np.int64], clusters: int, units: int) -> None:
    if cluster.shape != (units,) or not np.issubdtype(cluster.dtype, np.integer):
        raise ValueError(f"clusters must be {units} whole numbers, not {cluster.dtype} of the shape {cluster.shape}")
    if units and not (cluster.min() >= 0 and cluster.max() < clusters):
        raise ValueError(f"clusters are numbered from 0 to {clusters - 1}, not {cluster.min()} to {cluster.max()}")
