"""The drawings of an evaluation: SVG without a script, every point named in a title, every chart described in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from onfh_runtime.evaluation.report_tables import group_name
from onfh_runtime.evaluation.report_words import interval, number

__all__ = [
    "agreement_chart",
    "calibration_chart",
    "cases_chart",
    "drift_chart",
    "drift_histogram",
    "roc_chart",
]

_LEFT, _TOP, _FOOT = 76, 14, 52
_WIDE = (900, 330)
_TICKS = (0, 0.2, 0.4, 0.6, 0.8, 1)
COLOURS = 7
"""Classes c0 to c6 of the style sheet, told apart by colour-blind readers too; markers differ as well."""


@dataclass
class _Plot:
    """A frame with two axes; ``x`` and ``y`` are (low, high) in data units."""

    label: str
    x: tuple[float, float]
    y: tuple[float, float]
    names: tuple[str, str]
    size: tuple[int, int] = (440, 400)
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        width, height = self.size
        self.right, self.bottom = width - 24, height - _FOOT

    def at(self, x: float, y: float) -> tuple[float, float]:
        """User units of a point."""
        (left, right), (low, high) = self.x, self.y
        return (
            _LEFT + (x - left) / (right - left) * (self.right - _LEFT),
            self.bottom - (y - low) / (high - low) * (self.bottom - _TOP),
        )

    def line(self, kind: str, *points: tuple[float, float], title: str = "") -> None:
        """A polyline in data units."""
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        self.parts.append(f'<polyline class="{kind}" points="{drawn}">{_title(title)}</polyline>')

    def mark(self, kind: str, x: float, y: float, title: str, *, filled: bool, size: float = 4.0) -> None:
        """A point: a diamond where ``filled``, an open circle otherwise."""
        px, py = self.at(x, y)
        if filled:
            d = size * 1.3
            shape = f'path class="{kind} full" d="M{px:.1f} {py - d:.1f}l{d:g} {d:g}l-{d:g} {d:g}l-{d:g} -{d:g}z"'
            self.parts.append(f"<{shape}>{_title(title)}</path>")
        else:
            self.parts.append(
                f'<circle class="{kind} open" cx="{px:.1f}" cy="{py:.1f}" r="{size:g}">{_title(title)}</circle>'
            )

    def say(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "note") -> None:
        """Words at a place in data units."""
        px, py = self.at(x, y)
        self.parts.append(
            f'<text class="{kind}" x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def svg(
        self,
        ticks_x: Sequence[float],
        ticks_y: Sequence[float],
    ) -> str:
        """The whole drawing."""
        width, height = self.size
        frame = []
        for value in ticks_y:
            _, y = self.at(self.x[0], value)
            frame.append(
                f'<line class="grid" x1="{_LEFT}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text x="{_LEFT - 7}" y="{y + 5:.1f}" text-anchor="end">{_tick(value)}</text>'
            )
        for value in ticks_x:
            x, _ = self.at(value, self.y[0])
            frame.append(
                f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{self.bottom}"/>'
                f'<text x="{x:.1f}" y="{self.bottom + 19}" text-anchor="middle">{_tick(value)}</text>'
            )
        middle_y = (_TOP + self.bottom) / 2
        frame.append(
            f'<text x="{(_LEFT + self.right) / 2:.0f}" y="{height - 8}" text-anchor="middle">{escape(self.names[0])}'
            f'</text><text transform="translate(15 {middle_y:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.names[1])}</text>"
        )
        return (
            f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(self.label)}">{"".join(frame)}{"".join(self.parts)}</svg>'
        )


def roc_chart(level: str, groups: Sequence[Mapping[str, Any]], which: str) -> str | None:
    """ROC curves with the operating point of each and its intervals; None where no group has both classes.

    The colour of a group is its place in ``groups``. ``which`` names the interval of the rates.
    """
    drawn = [(place % COLOURS, group) for place, group in enumerate(groups) if group["roc"] is not None]
    if not drawn:
        return None
    areas = ", ".join(f"{group_name(group)} {number((group['auc'] or {}).get('value'))}" for _, group in drawn)
    plot = _Plot(f"ROC curves, {level}. Areas: {areas}.", (0, 1), (0, 1), ("1 \u2212 specificity", "Sensitivity"))
    plot.line("diagonal", (0, 0), (1, 1))
    for colour, group in drawn:
        curve = group["roc"]
        points = [(1 - s, t) for s, t in zip(curve["specificity"], curve["sensitivity"], strict=True)]
        plot.line(f"curve c{colour}", *points, title=group_name(group))
    for colour, group in drawn:
        _operating_point(plot, group, f"c{colour}", which)
    return plot.svg(_TICKS, _TICKS)


def _operating_point(plot: _Plot, group: Mapping[str, Any], kind: str, which: str) -> None:
    found, spared = group["sensitivity"], group["specificity"]
    if found["value"] is None or spared["value"] is None:
        return
    x, y = 1 - spared["value"], found["value"]
    if spared[which]:
        plot.line(f"error {kind}", (1 - spared[which][1], y), (1 - spared[which][0], y))
    if found[which]:
        plot.line(f"error {kind}", (x, found[which][0]), (x, found[which][1]))
    said = (
        f"{group_name(group)} at the frozen threshold: sensitivity {100 * y:.1f}% ({interval(found[which], 1, 100)}), "
        f"specificity {100 * (1 - x):.1f}% ({interval(spared[which], 1, 100)})"
    )
    plot.mark(kind, x, y, said, filled=True, size=5)


def calibration_chart(level: str, group: Mapping[str, Any]) -> str | None:
    """Share of positives against mean probability with intervals, and how many units each bin holds below."""
    calibration = group["calibration"]
    bins = [each for each in (calibration or {}).get("bins", []) if each["n"]]
    if not bins:
        return None
    label = f"Calibration, {level}, {group_name(group)}: " + "; ".join(
        f"mean probability {number(each['mean'], 2)}, observed {number(each['observed'], 2)} of {each['n']}"
        for each in bins
    )
    plot = _Plot(label, (0, 1), (-0.26, 1), ("Probability", "Share that is positive"))
    plot.line("diagonal", (0, 0), (1, 1))
    most = max(each["n"] for each in bins)
    for each in bins:
        x0, y0 = plot.at(each["low"], -0.24)
        x1, y1 = plot.at(each["high"], -0.24 + 0.14 * each["n"] / most)
        title = _title(f"{each['n']} between {each['low']:.2g} and {each['high']:.2g}")
        plot.parts.append(
            f'<rect class="count" x="{x0 + 1:.1f}" y="{y1:.1f}" width="{x1 - x0 - 2:.1f}" height="{y0 - y1:.1f}">'
            f"{title}</rect>"
        )
        if x1 - x0 > 24:
            plot.say((each["low"] + each["high"]) / 2, -0.23 + 0.14 * each["n"] / most, str(each["n"]), "middle")
    for each in bins:
        if each["interval"]:
            plot.line("error c0", *((each["mean"], value) for value in each["interval"]))
        said = f"mean {number(each['mean'])}, observed {number(each['observed'])} ({interval(each['interval'])})"
        plot.mark("c0", each["mean"], each["observed"], f"{said}, n {each['n']}", filled=True, size=5)
    return plot.svg(_TICKS, _TICKS)


def agreement_chart(
    label: str, names: tuple[str, str], pairs: Sequence[tuple[float, float, str, int]], unit: str
) -> str | None:
    """Bland and Altman: (first, second, title, colour) each; the change is first minus second.

    Source: Bland and Altman, Lancet 327 (1986) 307-310.
    """
    if not pairs:
        return None
    means = [(first + second) / 2 for first, second, _, _ in pairs]
    changes = [first - second for first, second, _, _ in pairs]
    bias = sum(changes) / len(changes)
    lines = [(bias, "mean")]
    if len(changes) > 1:
        spread = 1.96 * math.sqrt(sum((change - bias) ** 2 for change in changes) / (len(changes) - 1))
        if spread > 0.01 * abs(bias):  # otherwise three lines in one place
            lines += [(bias + spread, "+1.96 SD"), (bias - spread, "\u22121.96 SD")]
    low = min(0.0, *changes, *(value for value, _ in lines))
    high = max(0.0, *changes, *(value for value, _ in lines))
    y, ticks_y = _round_axis(low, high)
    x, ticks_x = _round_axis(0.0, max(means))
    said = ", ".join(f"{name} {number(value, 2)} {unit}" for value, name in lines)
    plot = _Plot(
        f"{label}: {len(pairs)} cases, {said}.",
        x,
        y,
        (f"Mean of both, {unit}", f"{names[0]} \u2212 {names[1]}, {unit}"),
        _WIDE,
    )
    plot.line("zero", (x[0], 0), (x[1], 0))
    for (_, _, title, colour), mean, change in zip(pairs, means, changes, strict=True):
        plot.mark(f"c{colour}", mean, change, title, filled=False)
    for value, name in lines:
        plot.line("level" if name == "mean" else "limit", (x[0], value), (x[1], value))
        px, py = plot.at(x[1], value)
        py += 14 if value < bias else -5
        plot.parts.append(
            f'<text class="note" x="{px - 4:.1f}" y="{py:.1f}" text-anchor="end">{name} {number(value, 2)}</text>'
        )
    return plot.svg(ticks_x, ticks_y)


def cases_chart(
    label: str,
    name: str,
    bands: Sequence[tuple[str, Sequence[tuple[float, bool, str]]]],
    threshold: float | None = None,
) -> str | None:
    """Values of 0 to 1 by case, in a band for each site, ascending.

    Args:
        label: what a listener hears.
        name: of the value.
        bands: site, and (value, filled, title) of each case.
        threshold: drawn as a line.
    """
    bands = [(site, sorted(values)) for site, values in bands if values]
    total = sum(len(values) for _, values in bands)
    if not total:
        return None
    gap = max(1.0, 0.03 * total)
    plot = _Plot(label, (-0.5 * gap, total + gap * (len(bands) - 0.5)), (-0.02, 1.02), ("", name), _WIDE)
    start = 0.0
    size = 4.0 if total <= 150 else 2.6
    for colour, (site, values) in enumerate(bands):
        for k, (value, filled, title) in enumerate(values):
            plot.mark(f"c{colour % COLOURS}", start + k + 0.5, value, title, filled=filled, size=size)
        x, _ = plot.at(start + len(values) / 2, 0)
        plot.parts.append(
            f'<text x="{x:.1f}" y="{plot.bottom + 22}" text-anchor="middle">{escape(site)} ({len(values)})</text>'
        )
        if colour:
            plot.line("divide", (start - gap / 2, -0.02), (start - gap / 2, 1.02))
        start += len(values) + gap
    if threshold is not None:
        plot.line("threshold", (plot.x[0], threshold), (plot.x[1], threshold), title=f"threshold {number(threshold)}")
    return plot.svg((), _TICKS)


def drift_chart(points: Sequence[Sequence[float]], threshold: float | None) -> str | None:
    """Probabilities of the slices that moved most: other run across, this run up."""
    if not points:
        return None
    label = f"Probability in the other run against this run, {len(points)} slices that moved most."
    plot = _Plot(label, (0, 1), (0, 1), ("Other run", "This run"))
    plot.line("diagonal", (0, 0), (1, 1))
    if threshold is not None:
        plot.line("threshold", (threshold, 0), (threshold, 1))
        plot.line("threshold", (0, threshold), (1, threshold))
    for other, this in points:
        plot.mark("c0", other, this, f"{other:.6f} to {this:.6f}", filled=False, size=3)
    return plot.svg(_TICKS, _TICKS)


def drift_histogram(drift: Mapping[str, Any]) -> str:
    """How many slices moved how far, by powers of ten; those that did not move stand apart on the left."""
    edges, counts = drift["histogram"]["edges"], [drift["unchanged"], *drift["histogram"]["counts"]]
    names = ["0", *(_power(edge) for edge in edges[1:])]
    label = "Absolute change of probability: " + ", ".join(
        f"{count} slices {'unchanged' if not k else 'up to ' + names[k]}" for k, count in enumerate(counts) if count
    )
    y, ticks = _round_axis(0.0, max(*counts, 1))
    plot = _Plot(label, (0, len(counts)), y, ("Absolute change of probability, up to", "Slices"), (440, 400))
    for k, count in enumerate(counts):
        x0, y0 = plot.at(k + 0.1, 0)
        x1, y1 = plot.at(k + 0.9, count)
        title = _title(f"{count} slices")
        plot.parts.append(
            f'<rect class="count" x="{x0:.1f}" y="{y1:.1f}" width="{x1 - x0:.1f}" height="{y0 - y1:.1f}">{title}</rect>'
            f'<text x="{(x0 + x1) / 2:.1f}" y="{plot.bottom + 19}" text-anchor="middle">{names[k]}</text>'
        )
        if count:
            plot.parts.append(
                f'<text class="note" x="{(x0 + x1) / 2:.1f}" y="{y1 - 4:.1f}" text-anchor="middle">{count}</text>'
            )
    return plot.svg((), ticks)


def _title(words: str) -> str:
    return f"<title>{escape(words)}</title>" if words else ""


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "\u2212")


def _power(edge: float) -> str:
    return (
        "1" if edge == 1 else f"10{str(round(math.log10(edge))).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    )


def _round_axis(low: float, high: float) -> tuple[tuple[float, float], list[float]]:
    """An axis that holds both ends, and four to eight round ticks on it."""
    width = (high - low) or 1.0
    step = 10.0 ** math.floor(math.log10(width / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if width / (step * factor) <= 7)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return (first * step, last * step), [round(step * k, 12) for k in range(first, last + 1)]
