"""The order of a report: which tables stand under which heading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onfh_runtime.evaluation.report_compared import against_tables, reader_tables
from onfh_runtime.evaluation.report_tables import (
    LEVELS,
    Table,
    calibration_table,
    cases_to_look_at,
    level_table,
    not_joined_table,
    segmentation_table,
)

__all__ = ["Section", "report_sections"]


@dataclass(frozen=True)
class Section:
    """``key`` is a level (patient, slice, side), segmentation, readers, against, wrong or left_out."""

    key: str
    title: str
    tables: tuple[Table, ...]


def report_sections(document: Mapping[str, Any]) -> list[Section]:
    """Every section that has something to say."""
    sections = []
    for level, title in LEVELS.items():
        groups = document["levels"].get(level, {}).get("groups", [])
        if groups:
            tables = _there(level_table(level, groups), calibration_table(level, groups))
            sections.append(Section(level, title, tables))
    masks = document["segmentation"]
    if masks is not None:
        tables = tuple(segmentation_table(of, masks[of]["groups"]) for of in ("volume", "slice") if of in masks)
        sections.append(Section("segmentation", "Segmentation", tables))
    if document["readers"] is not None:
        readers = document["readers"]
        lost = not_joined_table({**readers, "excluded": {}})
        sections.append(Section("readers", "Readers", _there(*reader_tables(readers), lost)))
    if document["against"] is not None:
        sections.append(Section("against", "Against the other run", tuple(against_tables(document["against"]))))
    wrong, left_out = cases_to_look_at(document["cases"]), not_joined_table(document["joined"])
    sections += [
        Section(key, table.title, (table,))
        for key, table in (("wrong", wrong), ("left_out", left_out))
        if table is not None
    ]
    return sections


def _there(*tables: Table | None) -> tuple[Table, ...]:
    return tuple(table for table in tables if table is not None)
