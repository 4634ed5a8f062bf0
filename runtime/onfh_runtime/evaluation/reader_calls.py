"""What readers said: a table with a line for each reader and patient, or for each reader and slice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from onfh_runtime.errors import UsageError
from onfh_runtime.evaluation.csv_table import CsvRow, read_csv

__all__ = ["ReaderCall", "read_calls"]

_CODE = "readers_invalid"
_COLUMNS = frozenset(
    (
        "reader",
        "patient",
        "study",
        "series",
        "position_mm",
        "sop_instance_uid",
        "call",
        "score",
        "seconds",
        "mask",
    )
)
_HELP = "docs/evaluate.md lists the columns."


@dataclass(frozen=True)
class ReaderCall:
    """One line; what it leaves out is empty or None. ``where`` names file and line for a message."""

    where: str
    reader: str
    patient: str
    study: str
    series: str
    position_mm: float | None
    sop_instance_uid: str
    call: bool | None
    score: float | None
    seconds: float | None
    mask: Path | None

    @property
    def of_slice(self) -> bool:
        """Whether it speaks of a slice rather than of a patient."""
        return self.position_mm is not None or bool(self.sop_instance_uid)


def read_calls(path: Path) -> tuple[ReaderCall, ...]:
    """Read a readers' table.

    ::

        reader              a pseudonym (needed)
        patient             the pseudonym of the truth table, or
        study, series       UIDs
        position_mm         LPS y of a coronal slice, or
        sop_instance_uid    of a native coronal image; a line with neither speaks of the patient
        call                1 or 0
        score               any number that rises with suspicion, for the area under the ROC curve
        seconds             reading time
        mask                a file of :func:`onfh_runtime.evaluation.masks.read_mask`, relative to the table's folder,
                            on a line that speaks of the patient

    Raises:
        UsageError: ``readers_not_found`` or ``readers_invalid``.
    """
    if not path.is_file():
        raise UsageError("readers_not_found", f"There is no {path}.", _HELP)
    table = read_csv(path, _CODE, needed=("reader",))
    unknown = table.columns - _COLUMNS - {""}
    if unknown:  # a misspelt column would be a figure that is silently missing
        raise UsageError(_CODE, f"{path} has unknown columns: {', '.join(sorted(unknown))}.", _HELP)
    if not table.rows:
        raise UsageError(_CODE, f"{path} has no line but its header.", _HELP)
    return tuple(_call(row) for row in table.rows)


def _call(row: CsvRow) -> ReaderCall:
    seconds, mask = _number(row, "seconds"), row.file("mask") if row.text("mask") else None
    found = ReaderCall(
        where=row.where,
        reader=row.needed("reader"),
        patient=row.text("patient"),
        study=row.text("study"),
        series=row.text("series"),
        position_mm=_number(row, "position_mm"),
        sop_instance_uid=row.text("sop_instance_uid"),
        call=row.flag("call"),
        score=_number(row, "score"),
        seconds=seconds,
        mask=mask,
    )
    if not (found.patient or found.study or found.series or found.sop_instance_uid):
        raise UsageError(_CODE, f"{row.where}: neither patient, study, series nor sop_instance_uid is given.", _HELP)
    if found.call is None and found.score is None and mask is None:
        raise UsageError(_CODE, f"{row.where}: neither call, score nor mask is given.", _HELP)
    if seconds is not None and seconds < 0:
        raise UsageError(_CODE, f"{row.where}: seconds is negative.")
    if mask is not None and found.of_slice:
        raise UsageError(_CODE, f"{row.where}: a mask on a line of a slice.", "Put it on a line without a slice.")
    return found


def _number(row: CsvRow, column: str) -> float | None:
    value = row.number(column)
    return None if math.isnan(value) else value
