"""The drawings of the HTML report that need no script: slice probabilities along the stack, and time per step."""

from __future__ import annotations

from collections.abc import Sequence

from onfh_runtime.result import SliceResult, Timing

__all__ = ["CHART_LEFT", "CHART_WIDTH", "chart_from_slices", "sides_outlined", "timing_table"]

_WIDTH, _TOP, _BOTTOM = 760, 34, 214
CHART_LEFT, CHART_WIDTH = 52, 696
"""Where the chart's plot begins and how wide it is, in user units: slice i of n is drawn at left + (i + 0.5) / n."""

_ROW = 20
_CROWDED = 60
"""Slices beyond which the chart's symbols are drawn smaller so that they do not hide each other."""
_SIDES = {1: ("right", "R"), 2: ("left", "L"), 3: ("unknown", "?")}
_STEPS = ("read", "preprocess", "classify", "segment", "postprocess", "write")


def sides_outlined(areas: Sequence[dict[int, float]]) -> list[int]:
    """Mask labels that occur in any slice, ascending."""
    return sorted({label for slice_areas in areas for label, area in slice_areas.items() if area > 0})


def chart_from_slices(slices: Sequence[SliceResult], threshold: float, areas: Sequence[dict[int, float]]) -> str:
    """An SVG of probability against slice number, front to back, with the threshold and the outlined slices.

    Args:
        slices: at least one slice, in stack order.
        threshold: the bundle's slice threshold.
        areas: per slice, outlined area in mm2 of each mask label; empty when there are no pictures.
    """
    n = len(slices)
    step = CHART_WIDTH / n
    xs = [CHART_LEFT + (i + 0.5) * step for i in range(n)]
    ys = [_y(entry.probability) for entry in slices]
    size = 6.0 if n <= _CROWDED else 3.5
    rows = sides_outlined(areas)
    right = CHART_LEFT + CHART_WIDTH
    foot = _BOTTOM + 16 + _ROW * len(rows)
    positives = sum(entry.positive for entry in slices)
    best = max(range(n), key=lambda i: slices[i].probability)
    label = (
        f"Slice probability from front to back: {positives} of {n} slices are positive, the highest probability is "
        f"{slices[best].probability:.3f} in slice {best + 1}, the slice threshold is {threshold:.3f}."
    )
    parts = [
        f'<svg id="chart" class="chart" viewBox="0 0 {_WIDTH} {foot + 48}" role="img" aria-label="{label}">',
        *(
            f'<line class="grid" x1="{CHART_LEFT}" x2="{right}" y1="{_y(p):.1f}" y2="{_y(p):.1f}"/>'
            f'<text class="tick" x="{CHART_LEFT - 8}" y="{_y(p) + 6:.1f}" text-anchor="end">{p:g}</text>'
            for p in (0.0, 0.5, 1.0)
        ),
        f'<line class="threshold" x1="{CHART_LEFT}" x2="{right}" y1="{_y(threshold):.1f}" y2="{_y(threshold):.1f}"/>',
        f'<g id="marker" class="marker" visibility="hidden"><line y1="{_TOP - 14}" y2="{foot}"/>'
        f'<path d="M-9 {_TOP - 26}h18l-9 14z"/></g>',
        '<polyline class="curve" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True)) + '"/>',
        *(_symbol(x, y, size, entry.positive) for x, y, entry in zip(xs, ys, slices, strict=True)),
    ]
    for k, side in enumerate(rows):
        name, letter = _SIDES[side]
        y = _BOTTOM + 20 + _ROW * k
        parts.append(f'<text class="tick" x="{CHART_LEFT - 8}" y="{y + 12}" text-anchor="end">{letter}</text>')
        parts += [
            f'<rect class="{name}" x="{CHART_LEFT + i * step:.1f}" y="{y}" width="{step:.1f}" height="12"/>'
            for i in range(n)
            if areas[i].get(side, 0) > 0
        ]
    parts += [
        f'<text class="tick" x="{x:.1f}" y="{foot + 18}" text-anchor="middle">{i + 1}</text>'
        for i, x in enumerate(xs)
        if i in {0, n // 2, n - 1}
    ]
    parts += [
        f'<text class="tick" x="{CHART_LEFT}" y="{foot + 42}">front</text>',
        f'<text class="tick" x="{CHART_LEFT + CHART_WIDTH / 2}" y="{foot + 42}" text-anchor="middle">slice</text>',
        f'<text class="tick" x="{right}" y="{foot + 42}" text-anchor="end">back</text>',
        "</svg>",
    ]
    return "".join(parts)


def timing_table(timing: Timing) -> str:
    """A table of the steps that took time, each with a bar as long as its share of the longest."""
    steps = [(name, float(getattr(timing, name))) for name in _STEPS]
    longest = max(ms for _, ms in steps)
    if longest <= 0:
        return "<p>No step was timed.</p>"
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td class="number">{_duration(ms)}</td>'
        f'<td class="bar"><svg viewBox="0 0 200 12" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{200 * ms / longest:.1f}" height="12"/></svg></td></tr>'
        for name, ms in steps
        if ms > 0
    )
    return (
        f'<table class="timing"><caption class="hidden">Time per step</caption>{rows}'
        f'<tr class="total"><th scope="row">total</th><td class="number">{_duration(timing.total)}</td><td></td></tr>'
        "</table>"
    )


def _y(probability: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * probability


def _symbol(x: float, y: float, size: float, positive: bool) -> str:
    if positive:
        d = size * 1.25
        return f'<path class="point positive" d="M{x:.1f} {y - d:.1f}l{d:g} {d:g}l-{d:g} {d:g}l-{d:g} -{d:g}z"/>'
    return f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="{size * 0.75:g}"/>'


def _duration(ms: float) -> str:
    return f"{ms / 1000:.1f} s" if ms >= 1000 else f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"
