"""What is true: a table of labels, and masks where there are some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.errors import UsageError
from onfh_runtime.evaluation.csv_table import CsvRow, read_csv

__all__ = ["Truth", "TruthPatient", "TruthSeries", "read_truth"]

_SPLITS = ("", "train", "validation", "test", "internal", "external")


@dataclass(frozen=True)
class TruthPatient:
    """One patient. ``label``, ``right`` and ``left`` are None where they are not known; ``site`` may be empty."""

    patient: str
    site: str
    split: str
    label: bool | None
    right: bool | None
    left: bool | None

    @property
    def external(self) -> bool:
        """Whether this patient belongs to the external test: by split, or by a site of that name."""
        return self.split == "external" or (not self.split and self.site.lower() == "external")


@dataclass(frozen=True)
class TruthSeries:
    """Labels of one series.

    Attributes:
        patient: number of the patient in :attr:`Truth.patients`.
        study: UID; empty where the table does not name it.
        series: UID; empty for the study's preferred series.
        positions_mm: (slices,) float64, LPS y; NaN where a slice is named by its SOP Instance UID.
        sop_uids: one for each slice, empty where it is named by its position.
        labels: (slices,) bool.
        unlabelled: slices that are listed without a label; they are left out.
        mask: file of the true mask, or None.
    """

    patient: int
    study: str
    series: str
    positions_mm: NDArray[np.float64]
    sop_uids: tuple[str, ...]
    labels: NDArray[np.bool_]
    unlabelled: int
    mask: Path | None


@dataclass(frozen=True)
class Truth:
    """The whole table. ``masks`` says whether it has masks at all; then a negative patient needs none."""

    patients: tuple[TruthPatient, ...]
    series: tuple[TruthSeries, ...]
    masks: bool


def read_truth(path: Path) -> Truth:
    """Read a truth table.

    ::

        patient             a pseudonym (needed)
        study, series       UIDs; one of them is needed, without a series the study's preferred one is meant
        position_mm         LPS y of a coronal slice, or
        sop_instance_uid    of a native coronal image; a line with neither speaks of the whole series
        label               1 or 0: of the slice, or on a line without a slice of the patient
        site, split         split: train, validation, test, internal or external
        patient_label, right, left      1 or 0
        mask                a file of :func:`onfh_runtime.evaluation.masks.read_mask`, relative to the table's folder

    What is said of a patient or a series may stand on any of its lines and must be the same wherever it stands. A
    patient without ``patient_label`` is positive when any of the lines says so (a slice, a side, the series) and
    negative when some line speaks of a slice, both sides or the series and none says so.

    Raises:
        UsageError: ``truth_not_found``, ``truth_invalid``, ``truth_duplicate`` or ``truth_conflict``.
    """
    if not path.is_file():
        raise UsageError("truth_not_found", f"There is no {path}.", "Name a CSV file; docs/evaluate.md describes it.")
    table = read_csv(path, "truth_invalid", needed=("patient", "label"))
    by_patient: dict[str, list[CsvRow]] = {}
    by_series: dict[tuple[str, str], list[CsvRow]] = {}
    for row in table.rows:
        by_patient.setdefault(row.needed("patient"), []).append(row)
        study, series = row.text("study"), row.text("series")
        if not study and not series:
            raise UsageError("truth_invalid", f"{row.where}: neither study nor series is named.")
        by_series.setdefault((study, series), []).append(row)
    if not table.rows:
        raise UsageError("truth_invalid", f"{path} has no line but its header.")
    numbers = {name: number for number, name in enumerate(by_patient)}
    patients = tuple(_patient(name, rows) for name, rows in by_patient.items())
    series_found = tuple(_series(*uids, rows, numbers) for uids, rows in by_series.items())
    _refuse_same_series(series_found, path)
    return Truth(patients, series_found, "mask" in table.columns)


def _is_slice(row: CsvRow) -> bool:
    return bool(row.text("position_mm") or row.text("sop_instance_uid"))


def _agreed(rows: Sequence[CsvRow], column: str) -> str:
    """What stands in a column of the lines, the empty ones aside."""
    found = ""
    for row in rows:
        text = row.text(column)
        if text and found and text != found:
            raise UsageError(
                "truth_conflict",
                f"{row.where}: {column} differs from an earlier line of the same patient or series.",
                "It must be the same on every line, or stand on one.",
            )
        found = found or text
    return found


def _patient(name: str, rows: list[CsvRow]) -> TruthPatient:
    split = _agreed(rows, "split").lower()
    if split not in _SPLITS:
        raise UsageError("truth_invalid", f"{rows[0].where}: split is none of {', '.join(_SPLITS[1:])}.")
    given, right, left = (_flag(rows, column) for column in ("patient_label", "right", "left"))
    said = [row.flag("label") for row in rows]
    positive = True in said or right is True or left is True
    negative = False in said or (right is False and left is False)
    if given is False and positive:
        raise UsageError(
            "truth_conflict", f"{rows[0].where}: a patient labelled negative has a positive slice, series or side."
        )
    label = given if given is not None else True if positive else False if negative else None
    return TruthPatient(name, _agreed(rows, "site"), split, label, right, left)


def _flag(rows: list[CsvRow], column: str) -> bool | None:
    values = {row.flag(column) for row in rows} - {None}
    if len(values) > 1:
        raise UsageError("truth_conflict", f"{rows[0].where}: {column} differs between the lines of one patient.")
    return values.pop() if values else None


def _series(study: str, series: str, rows: list[CsvRow], numbers: dict[str, int]) -> TruthSeries:
    if len({row.text("patient") for row in rows}) > 1:
        raise UsageError("truth_conflict", f"{rows[0].where}: a series of more than one patient.")
    slices = [row for row in rows if _is_slice(row)]
    labelled = [row for row in slices if row.flag("label") is not None]
    seen: set[tuple[str, float]] = set()
    for row in slices:
        uid = row.text("sop_instance_uid")
        place = (uid, 0.0 if uid else row.number("position_mm"))
        if place in seen:
            raise UsageError("truth_duplicate", f"{row.where}: a slice that an earlier line has labelled.")
        seen.add(place)
    mask = _agreed(rows, "mask")
    return TruthSeries(
        patient=numbers[rows[0].text("patient")],
        study=study,
        series=series,
        positions_mm=np.array([row.number("position_mm") for row in labelled], np.float64),
        sop_uids=tuple(row.text("sop_instance_uid") for row in labelled),
        labels=np.array([bool(row.flag("label")) for row in labelled], bool),
        unlabelled=len(slices) - len(labelled),
        mask=rows[0].path.parent / mask if mask else None,
    )


def _refuse_same_series(series: Sequence[TruthSeries], path: Path) -> None:
    """A series may not stand once with and once without its study: its lines would be joined twice."""
    seen: set[str] = set()
    for each in series:
        if each.series and each.series in seen:
            raise UsageError("truth_conflict", f"{path} names series {each.series} in more than one study.")
        seen.add(each.series)
