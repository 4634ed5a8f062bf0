"""The report as one page with everything in it: no network, no script but its own, and it prints.

It looks like the report of a series, whose style sheet it shares. Its Content Security Policy names style and script by
hash, so a browser runs nothing else, whatever text a bundle, a site or a reader brought along; all of it is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from onfh_runtime.evaluation.report_figures import Figure, section_figures
from onfh_runtime.evaluation.report_sections import Section, report_sections
from onfh_runtime.evaluation.report_tables import Table, summary_lines
from onfh_runtime.evaluation.report_words import DASH, Cell, number

__all__ = ["page"]

_FEW = 4
"""Columns up to which a table is as narrow as it can be: a figure must stand near its name."""
_LONG = 40
"""Characters beyond which a cell may be broken anywhere: a UID."""
_FIGURE = re.compile(rf"[<+{DASH}\u2212\d]")


def page(document: Mapping[str, Any]) -> str:
    """The whole page of an evaluation (schema ``onfh-evaluation/1``).

    Args:
        document: as :func:`onfh_runtime.evaluation.tables.evaluation_document` makes it; ``notes``, sentences that
            somebody added to it, stand at the top.
    """
    style = _asset("onfh_runtime.outputs", "report.css") + _asset("onfh_runtime.evaluation", "evaluation.css")
    script = _asset("onfh_runtime.evaluation", "evaluation.js")
    policy = (
        f"default-src 'none'; style-src '{_csp_hash(style)}'; script-src '{_csp_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    body = [_head(document)]
    body += [_section(section, section_figures(section.key, document)) for section in report_sections(document)]
    body += [_cases(document["cases"]), _definitions(document["definitions"])]
    return Template(_asset("onfh_runtime.evaluation", "evaluation.html")).substitute(
        csp=policy,
        title=escape(f"Evaluation, {document['created']} (research use only)"),
        style=style,
        script=script,
        body="\n".join(body),
    )


def _asset(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text("utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _head(document: Mapping[str, Any]) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in summary_lines(document))
    notes = "".join(f'<p class="figures">{escape(note)}</p>' for note in document.get("notes", []))
    return f'<section class="card"><h1>Evaluation</h1>{notes}<dl>{lines}</dl></section>'


def _section(section: Section, figures: Sequence[Figure]) -> str:
    tables = "".join(_table(table, titled=table.title != section.title) for table in section.tables)
    drawn = f'<div class="plots">{"".join(map(_figure, figures))}</div>' if figures else ""
    return f'<section class="card"><h2>{escape(section.title)}</h2>{tables}{drawn}</section>'


def _figure(figure: Figure) -> str:
    key = "".join(
        f'<li><svg viewBox="0 0 16 16" aria-hidden="true"><rect class="c{colour}" y="3" width="16" height="10"/></svg>'
        f"{escape(words)}</li>"
        for colour, words in figure.key
    )
    return (
        f"<figure{' class=wide' if figure.wide else ''}><figcaption>{escape(figure.caption)}</figcaption>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(figure.caption)}">{figure.svg}</div>'
        + (f'<ul class="key">{key}</ul>' if key else "")
        + (f'<p class="remark">{escape(figure.hint)}</p>' if figure.hint else "")
        + "</figure>"
    )


def _table(table: Table, *, titled: bool) -> str:
    kinds = [_kind([row[column][0] for row in table.rows]) for column in range(len(table.columns))]
    kinds[0] = ""
    head = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, table.columns, strict=True)
    )
    rows = "".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>'
        + "".join(f"<td{kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        + "</tr>"
        for row in table.rows
    )
    narrow = ' class="narrow"' if len(table.columns) <= _FEW else ""
    drawn = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}"><table{narrow}>'
        f'<caption class="hidden">{escape(table.title)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    title = f"<h3>{escape(table.title)}</h3>" if titled else ""
    note = f'<p class="remark">{escape(table.note)}</p>' if table.note else ""
    return f"{title}{drawn}{note}"


def _kind(values: Sequence[str]) -> str:
    """How a column is set: figures to the right, UIDs so that they break anywhere, words to the left."""
    if any(len(value) > _LONG for value in values):
        return ' class="uid"'
    figures = all(_FIGURE.match(value) and value.count(".") < 3 for value in values if value)
    return ' class="number"' if figures else ""


def _cell(cell: Cell) -> str:
    value, small = (escape(part) for part in cell)
    return f'{value}<span class="small">{small.replace("; ", "<br>")}</span>' if small else value


_CASE_WORDS = ("Patient", "Site", "Truth", "Answer")
_CASE_FIGURES = {
    "probability": ("Probability", 3),
    "volume_mm3": ("Volume, mm\u00b3", 0),
    "true_volume_mm3": ("True, mm\u00b3", 0),
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95, mm", 2),
    "slices": ("Slices", 0),
}


def _cases(cases: Sequence[Mapping[str, Any]]) -> str:
    """Every case, in the order of the truth until a reader sorts it; ``data-value`` is what a number sorts by."""
    words = "".join(f'<th scope="col">{name}</th>' for name in _CASE_WORDS)
    figures = "".join(f'<th scope="col" class="number">{name}</th>' for name, _ in _CASE_FIGURES.values())
    head = f'{words}{figures}<th scope="col">Flags</th><th scope="col">Series</th>'
    rows = "".join(_case(case) for case in cases)
    return (
        '<section class="card"><h2>Cases</h2>'
        '<p class="hint" id="sorts" hidden>The head of a column sorts the table by it.</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Cases"><table id="cases">'
        f'<caption class="hidden">Cases</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        "</section>"
    )


def _case(case: Mapping[str, Any]) -> str:
    truth = DASH if case["label"] is None else "positive" if case["label"] else "negative"
    numbers = "".join(
        f'<td class="number" data-value="{"" if case[name] is None else case[name]}">{number(case[name], digits)}</td>'
        for name, (_, digits) in _CASE_FIGURES.items()
    )
    flags = ", ".join(escape(flag.replace("_", " ")) for flag in case["flags"])
    wrong = case["label"] is not None and case["positive"] is not None and case["label"] != case["positive"]
    answer = f"<strong>{escape(case['state'])}, wrong</strong>" if wrong else escape(case["state"])
    return (
        f'<tr><th scope="row">{escape(case["patient"])}</th><td>{escape(case["site"])}</td><td>{truth}</td>'
        f'<td>{answer}</td>{numbers}<td>{flags}</td><td class="uid">{escape(case["series"])}</td></tr>'
    )


def _definitions(definitions: Mapping[str, str]) -> str:
    listed = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(words)}</dd>" for name, words in definitions.items()
    )
    return f'<section class="card definitions"><h2>Definitions</h2><dl>{listed}</dl></section>'
