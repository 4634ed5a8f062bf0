"""The report as Markdown: every table of the page, no picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onfh_runtime.evaluation.report_sections import report_sections
from onfh_runtime.evaluation.report_tables import Table, summary_lines
from onfh_runtime.evaluation.report_words import Cell

__all__ = ["markdown"]

_SPECIAL = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>|#~"} | {"\n": " ", "\r": " "})


def markdown(document: Mapping[str, Any]) -> str:
    """Every table of an evaluation (schema ``onfh-evaluation/1``), as GitHub's Markdown.

    Args:
        document: as :func:`onfh_runtime.evaluation.tables.evaluation_document` makes it; ``notes``, sentences that
            somebody added to it, stand at the top.
    """
    parts = ["# Evaluation\n", "**Research use only. Not for diagnosis.**\n"]
    parts += [f"**{_plain(note)}**\n" for note in document.get("notes", [])]
    parts.append("".join(f"- {_plain(name)}: {_plain(words)}\n" for name, words in summary_lines(document)))
    for section in report_sections(document):
        parts.append(f"## {_plain(section.title)}\n")
        parts += [_table(table, titled=table.title != section.title) for table in section.tables]
    parts.append("## Definitions\n")
    parts.append("".join(f"- {_plain(name)}: {_plain(words)}\n" for name, words in document["definitions"].items()))
    return "\n".join(parts)


def _table(table: Table, *, titled: bool) -> str:
    lines = [
        [_plain(name) for name in table.columns],
        ["---"] + ["---:"] * (len(table.columns) - 1),
        *([_cell(cell) for cell in row] for row in table.rows),
    ]
    drawn = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    note = f"\n{_plain(table.note)}\n" if table.note else ""
    return (f"### {_plain(table.title)}\n\n" if titled else "") + drawn + note


def _cell(cell: Cell) -> str:
    value, small = (_plain(part) for part in cell)
    return f"{value} ({small})" if value and small else value or small


def _plain(words: str) -> str:
    """Text that Markdown shows as it is: no mark, no HTML, no new line of a table."""
    return words.translate(_SPECIAL)
