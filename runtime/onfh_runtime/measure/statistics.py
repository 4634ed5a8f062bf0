"""What a list of times may be said to show, and no more than that."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import ceil, comb

__all__ = ["PERCENTILES", "median_interval", "paired_ratio", "percentiles", "samples_for", "spread"]

PERCENTILES = (50, 90, 95, 99)
"""What trtexec prints and MLPerf asks for; the latency of MLPerf's single stream is the 90th."""


def samples_for(percentile: int) -> int:
    """Samples below which a percentile is no more than the largest value seen: 100 for the 99th, 10 for the 90th."""
    return ceil(100 / (100 - percentile))


def percentiles(values: Sequence[float], wanted: Sequence[int] = PERCENTILES) -> dict[str, float | None]:
    """Percentiles by nearest rank: the least value seen that so many per cent of all values do not exceed.

    No value is interpolated, as in MLPerf's load generator and in trtexec.

    Returns:
        ``p50`` and so on; None where there are fewer than :func:`samples_for` values.
    """
    ordered = sorted(values)
    return {
        f"p{each}": ordered[ceil(each * len(ordered) / 100) - 1] if len(ordered) >= samples_for(each) else None
        for each in wanted
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median, maximum and number of values; at least one."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "count": len(values)}


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Interval that holds the median of what the values were drawn from, at least at this level of confidence.

    Two of the values themselves, by the binomial distribution of how many lie below the median (David and Nagaraja,
    Order Statistics, 3rd edition, 7.1); nothing is assumed of how the values are distributed. Six values give the first
    interval at 95%.

    Returns:
        Least and greatest, or None where there are too few values.
    """
    ordered, count = sorted(values), len(values)
    outside, rank = 0.0, 0
    while rank < count // 2:
        outside += comb(count, rank) / 2**count
        if 2 * outside > 1 - level:
            break
        rank += 1
    return (ordered[rank - 1], ordered[count - rank]) if rank else None


def paired_ratio(values: Sequence[float], others: Sequence[float]) -> dict[str, float | None]:
    """Ratio of each value to the other of its pair: two runs that followed each other share the noise of the moment.

    Returns:
        :func:`spread` of the ratios; ``low`` and ``high``, their :func:`median_interval`, or None.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    ratios = [value / other for value, other in zip(values, others, strict=True)]
    low, high = median_interval(ratios) or (None, None)
    return {**spread(ratios), "low": low, "high": high}
