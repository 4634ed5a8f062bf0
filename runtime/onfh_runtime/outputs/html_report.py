"""The page a clinician reads: one HTML file with everything in it, no network, no script but its own.

The page says the answer first, then what it does not mean, then shows the slices it rests on. Its Content Security
Policy names its one style sheet and its one script by hash, so a browser runs nothing else, whatever text the series
or the bundle brought along; that text is escaped all the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.bundle import Bundle
from onfh_runtime.outputs.html_charts import (
    CHART_LEFT,
    CHART_WIDTH,
    chart_from_slices,
    sides_outlined,
    timing_table,
)
from onfh_runtime.outputs.html_pictures import pictures_from_stack
from onfh_runtime.result import Patient, Result, Side, Sides, SliceResult
from onfh_runtime.volume import CoronalStack

__all__ = ["html_from_result"]

_EARLY = "A negative CT does not exclude early osteonecrosis of the femoral head: ARCO stage 1 looks normal on CT."
_NO_STAGE = "The model gives no stage (ARCO, Ficat, Steinberg)."
_NOT_NEGATIVE = "This is not a negative result: it says nothing about whether osteonecrosis is present."
_MEANING = {
    "positive": "The model found signs of osteonecrosis of the femoral head in this CT series.",
    "negative": "The model found no signs of osteonecrosis of the femoral head in this CT series.",
    "undetermined": "The analysis ran, but its answer is left open; the notes below and each hip say why. "
    "This is not a negative result.",
}
_NOT_ANALYSED = {
    "not_analysed": "Nothing was analysed in this CT series.",
    "failed": "The analysis of this CT series failed. Nothing in it counts as analysed.",
}
_SIDE_NAMES = {1: "right", 2: "left", 3: "side undetermined"}
_SIDE_COLOURS = {1: "#e69f00", 2: "#56b4e9", 3: "#e38fc0"}
_SHORT_HASH = 12
_NO_VALUE = "\u2013"

_Areas = Sequence[dict[int, float]]


def html_from_result(
    result: Result, *, stack: CoronalStack | None, mask: NDArray[np.uint8] | None, bundle: Bundle, description: str = ""
) -> str:
    """The report of one series as one self-contained HTML page.

    Args:
        result: what is said of the series; ``result.slices[i]`` belongs to slice i of the stack.
        stack: the coronal slices that were analysed, or None: the page then has no pictures.
        mask: (slices, rows, columns) uint8 on the stack's grid, 0 none, 1 right, 2 left, 3 side undetermined; None
            means that nothing was outlined.
        bundle: what was run.
        description: the series description; it must hold no patient name.

    Raises:
        ValueError: stack, mask and ``result.slices`` do not belong together.
    """
    analysed = result.status == "succeeded"
    pictured = stack if analysed else None
    areas: list[dict[int, float]] = []
    data: dict[str, Any] | None = None
    if pictured is not None:
        labels = np.zeros(pictured.hu.shape, np.uint8) if mask is None else mask
        if labels.shape != pictured.hu.shape or len(result.slices) != len(pictured.hu):
            raise ValueError(
                f"stack {pictured.hu.shape}, mask {labels.shape} and {len(result.slices)} slice results do not match"
            )
        areas = _areas(labels, pictured)
        data = {
            "chart": {"left": CHART_LEFT, "width": CHART_WIDTH},
            "slices": [_spoken(entry, area) for entry, area in zip(result.slices, areas, strict=True)],
            "stack": pictures_from_stack(pictured, labels),
        }
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src '{_csp_hash(style)}'; script-src '{_csp_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_asset("report.html")).substitute(
        csp=policy,
        title=escape(f"Osteonecrosis: {_answer_word(result)} (research use only)"),
        style=style,
        script=script,
        data=_json_for_script(data),
        answer=_answer(result, description),
        limits=_limits(result, bundle),
        sides=_sides(result.sides, _unassigned_mm3(areas, pictured)) if analysed and result.sides else "",
        viewer=_viewer(len(result.slices), areas) if data else "",
        chart=_chart(result.slices, bundle.slice_threshold, areas) if analysed and result.slices else "",
        run=_run(result, bundle),
    )


def _asset(name: str) -> str:
    return files("onfh_runtime.outputs").joinpath(name).read_text("utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _json_for_script(value: Any) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment there."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _number(probability: float) -> str:
    """Three decimals, never rounded to a certainty that was not computed."""
    if 0 < probability < 0.0005:
        return "<0.001"
    if 0.9995 <= probability < 1:
        return ">0.999"
    return f"{probability:.3f}"


def _areas(labels: NDArray[np.uint8], stack: CoronalStack) -> list[dict[int, float]]:
    """Per slice, mm2 of each label that occurs in it."""
    _, row_mm, column_mm = stack.spacing_mm
    counts = [np.bincount(plane.ravel(), minlength=4)[1:4] if plane.any() else np.zeros(3, int) for plane in labels]
    return [{side: float(n) * row_mm * column_mm for side, n in enumerate(row, 1) if n} for row in counts]


def _unassigned_mm3(areas: _Areas, stack: CoronalStack | None) -> float:
    return sum(area.get(3, 0.0) for area in areas) * stack.spacing_mm[0] if stack else 0.0


def _spoken(entry: SliceResult, area: dict[int, float]) -> dict[str, Any]:
    """What the page shows and reads aloud of one slice."""
    outlined = ", ".join(f"{_SIDE_NAMES[side]} {mm2:.0f}\u00a0mm\u00b2" for side, mm2 in area.items())
    return {
        "probability": entry.probability,
        "positive": entry.positive,
        "said": f"Probability {_number(entry.probability)}, {'positive' if entry.positive else 'not positive'}",
        "place": f"Position {entry.position_mm:.1f} mm (front to back)".replace("-", "\u2212"),
        "outlined": f"Outlined: {outlined or 'nothing in this slice'}",
    }


def _answer_word(result: Result) -> str:
    if result.status == "succeeded" and result.patient is not None:
        return result.patient.state
    return "NOT ANALYSED"


def _answer(result: Result, description: str) -> str:
    word = _answer_word(result)
    series = f'<p class="kicker">Series: {escape(description)}</p>' if description else ""
    if result.status == "succeeded" and result.patient is not None:
        patient = result.patient
        body = f'<p>{_MEANING[patient.state]}</p><p class="figures">{_figures(patient)}</p>'
        body += f"<p>{_EARLY}</p>" if patient.state == "negative" else ""
    else:
        body = f"<p><strong>{_NOT_ANALYSED.get(result.status, _NOT_ANALYSED['failed'])}</strong></p>"
        body += f"<p>{_NOT_NEGATIVE}</p>"
        if result.reason is not None:
            code = f'<span class="code">[{escape(result.reason.code)}]</span>'
            body += f"<p>Why: {escape(result.reason.text)} {code}</p>"
        else:
            body += "<p>Why: no reason was recorded.</p>"
    return (
        f'<section class="card answer {word.lower().replace(" ", "-")}">'
        '<p class="kicker">Femoral head osteonecrosis on hip CT, whole patient</p>'
        f"<h1>Osteonecrosis: <strong>{word}</strong></h1>{body}{series}</section>"
    )


def _figures(patient: Patient) -> str:
    relation = "at or above" if patient.probability >= patient.threshold else "below"
    return escape(
        f"Probability {_number(patient.probability)}, {relation} the threshold of {_number(patient.threshold)}"
    )


def _limits(result: Result, bundle: Bundle) -> str:
    early = () if _answer_word(result) == "negative" else (_EARLY,)
    items = [escape(text) for text in (*bundle.notices, *early, _NO_STAGE)]
    items += [f'{escape(note.text)} <span class="code">[{escape(note.code)}]</span>' for note in result.warnings]
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f'<section class="card limits"><h2>Before you rely on this</h2><ul>{listed}</ul></section>'


def _sides(sides: Sides, unassigned_mm3: float) -> str:
    rows = _side_row("Right", sides.right) + _side_row("Left", sides.left)
    if unassigned_mm3 > 0:
        rows += (
            '<tr><th scope="row">Side unknown</th><td>outlined, not assigned to a hip</td>'
            f'<td class="number">{_volume(unassigned_mm3)}</td><td></td><td></td></tr>'
        )
    return (
        '<section class="card"><h2>Each hip</h2><div class="scroll" tabindex="0" role="region" aria-label="Each hip">'
        '<table><thead><tr><th scope="col">Hip</th><th scope="col">Osteonecrosis</th>'
        '<th scope="col" class="number">Volume</th><th scope="col" class="number">Slices</th>'
        f'<th scope="col" class="number">Centre (mm)</th></tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="hint">Volume, slices and centre are those of the outlined area. The centre is x, y, z: '
        "to the patient\u2019s left, to the back, to the head.</p></section>"
    )


def _side_row(name: str, side: Side) -> str:
    measured = side.state != "not_analysed" or side.volume_mm3 > 0
    centre = ", ".join(f"{mm:.1f}" for mm in side.centroid_mm).replace("-", "\u2212") if side.centroid_mm else _NO_VALUE
    reason = f'<span class="reason">{escape(side.reason.text)}</span>' if side.reason else ""
    return (
        f'<tr><th scope="row">{name}</th>'
        f'<td><span class="state-{side.state}">{side.state.replace("_", " ")}</span>{reason}</td>'
        f'<td class="number">{_volume(side.volume_mm3) if measured else _NO_VALUE}</td>'
        f'<td class="number">{side.slices if measured else _NO_VALUE}</td><td class="number">{centre}</td></tr>'
    )


def _volume(mm3: float) -> str:
    return f"{mm3:,.0f} mm\u00b3<br>{mm3 / 1000:.2f} mL" if mm3 > 0 else "none"


def _viewer(count: int, areas: _Areas) -> str:
    legend = "".join(
        '<li><svg viewBox="0 0 32 22" aria-hidden="true"><rect width="32" height="22" fill="#333"/>'
        f'<rect x="4" y="4" width="24" height="14" fill="{_SIDE_COLOURS[side]}" fill-opacity=".35" '
        f'stroke="{_SIDE_COLOURS[side]}" stroke-width="2.5"/></svg>Outlined, {_SIDE_NAMES[side]}</li>'
        for side in sides_outlined(areas)
    )
    return Template(_asset("report_viewer.html")).substitute(
        count=count, legend=legend or "<li>No necrosis was outlined.</li>"
    )


def _chart(slices: Sequence[SliceResult], threshold: float, areas: _Areas) -> str:
    key = (
        '<li><svg class="chart" viewBox="0 0 16 16" aria-hidden="true"><path class="point positive" '
        'd="M8 1l7 7-7 7-7-7z"/></svg>positive slice</li>'
        '<li><svg class="chart" viewBox="0 0 16 16" aria-hidden="true"><circle class="point" cx="8" cy="8" r="5"/>'
        "</svg>other slice</li>"
        '<li><svg class="chart" viewBox="0 0 28 16" aria-hidden="true"><line class="threshold" x2="28" y1="8" y2="8"/>'
        f"</svg>slice threshold {_number(threshold)}</li>"
    )
    rows = "".join(
        f'<tr><th scope="row">{i}</th><td class="number">{entry.position_mm:.1f}</td>'
        f'<td class="number">{escape(_number(entry.probability))}</td><td>{"positive" if entry.positive else ""}</td>'
        f'<td class="number">{entry.area_mm2:.0f}</td></tr>'
        for i, entry in enumerate(slices, 1)
    )
    return (
        '<section class="card"><h2>Probability along the stack</h2>'
        f'<ul class="key">{key}</ul><div class="scroll" tabindex="0" role="region" aria-label="Chart">'
        f"{chart_from_slices(slices, threshold, areas)}</div>"
        '<details><summary>The same as a table</summary><table><thead><tr><th scope="col">Slice</th>'
        '<th scope="col" class="number">Position (mm)</th><th scope="col" class="number">Probability</th>'
        '<th scope="col">Answer</th><th scope="col" class="number">Outlined (mm\u00b2)</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></details></section>"
    )


def _run(result: Result, bundle: Bundle) -> str:
    geometry = result.geometry
    lines = [
        ("Model bundle", f"{result.bundle.name} {result.bundle.version} ({result.bundle.sha256[:_SHORT_HASH]})"),
        ("What it is", bundle.description),
        ("Computed by", f"{result.engine.backend}, {result.engine.precision}, {result.engine.device}"),
        ("Software", f"{result.software.name} {result.software.version}"),
        ("Created", result.created),
    ]
    if geometry is not None:
        slice_mm, row_mm, column_mm = geometry.spacing_mm
        acquired = (
            f"{geometry.acquired}, {slice_mm:.2f} mm between slices, pixels {row_mm:.2f} \u00d7 {column_mm:.2f} mm"
        )
        lines.append(("Acquired", acquired))
        lines.append(("Analysed", f"{geometry.coronal_slices} coronal slices"))
    lines.append(("Study UID", result.study_instance_uid))
    part = "" if result.part is None else f" (part {result.part})"
    lines.append(("Series UID", result.series_instance_uid + part))
    if result.supersedes is not None:
        lines.append(("Replaces result", result.supersedes))
    title = "What was run" if result.status == "succeeded" else "What was to be run"
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in lines if text)
    return (
        f'<section class="card"><h2>{title}</h2><dl>{listed}<dt>Time</dt>'
        f"<dd>{timing_table(result.timing_ms)}</dd></dl></section>"
    )
