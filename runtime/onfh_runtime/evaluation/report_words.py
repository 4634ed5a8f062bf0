"""Figures as words, the same on the page and in Markdown. What is undefined is a dash, never a zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["DASH", "Cell", "area", "interval", "number", "p_value", "rate", "signed", "spread", "text"]

DASH = "\u2013"

Cell = tuple[str, str]
"""What a cell says, and what stands below or behind it in small: an interval, a count. Either may be empty."""


def text(value: object) -> Cell:
    """Plain words or a whole number; a dash for None."""
    return (DASH if value is None else str(value), "")


def number(value: float | None, digits: int = 3) -> str:
    """So many decimals, with a true minus sign; a dash for None."""
    if value is None:
        return DASH
    return f"{value:.{digits}f}".replace("-", "\u2212")


def signed(value: float | None, digits: int = 3) -> str:
    """The same with its sign."""
    return DASH if value is None else f"{value:+.{digits}f}".replace("-", "\u2212")


def interval(bounds: Sequence[float] | None, digits: int = 3, scale: float = 1.0) -> str:
    """``low to high``; empty for None."""
    return "" if bounds is None else f"{number(scale * bounds[0], digits)} to {number(scale * bounds[1], digits)}"


def rate(entry: Mapping[str, Any] | None, which: str) -> Cell:
    """A rate in percent; below it the interval (``wilson`` or ``bootstrap``) and the counts."""
    if entry is None or entry["value"] is None:
        return (DASH, "0/0")
    limits = interval(entry[which], 1, 100.0)
    counts = f"{entry['hits']}/{entry['of']}"
    return (f"{100 * entry['value']:.1f}%", f"{limits}; {counts}" if limits else counts)


def area(entry: Mapping[str, Any] | None, which: str) -> Cell:
    """An area under the ROC curve, or a Brier score, with the interval named ``which``."""
    return (DASH, "") if entry is None else (number(entry["value"]), interval(entry.get(which)) or "no interval")


def spread(entry: Mapping[str, Any] | None, digits: int, scale: float = 1.0) -> Cell:
    """A mean; below it its interval, the median and how many values there are."""
    if entry is None:
        return (DASH, "")
    parts = [
        interval(entry.get("bootstrap"), digits, scale),
        f"median {number(scale * entry['median'], digits)}",
        f"n {entry['n']}",
    ]
    return (number(scale * entry["mean"], digits), "; ".join(part for part in parts if part))


def p_value(value: float | None) -> str:
    """Three decimals, never 0."""
    if value is None:
        return DASH
    return "<0.001" if value < 0.001 else f"{value:.3f}"
