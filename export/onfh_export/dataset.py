"""A folder of labelled series, and which split each belongs to.

::

    DATA/cases.csv      patient,site,split,series,truth     one line per series
    DATA/<series>/      one DICOM CT series, axial or native coronal
    DATA/<truth>        .npz with ``mask`` uint8 (slice, row, column), > 0 is necrosis, and ``affine`` (4, 4) float64,
                        (slice, row, column, 1) -> LPS mm; any grid, it need not be the series' own
                        or .csv with ``position_mm`` (LPS y of a coronal slice) and ``label`` (0 or 1): slices without
                        masks, which train the classifier only

``patient`` and ``site`` are pseudonyms, chosen by who made the folder. ``split`` is train, validation, test or
external. Where it is empty, patients are dealt 7:1:2 into the first three with the recipe's seed, and every patient of
site "external" is external. All series of a patient are in one split.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.errors import UsageError

__all__ = ["SPLITS", "Case", "SliceLabels", "TruthMask", "read_cases", "read_truth"]

SPLITS = ("train", "validation", "test", "external")
_COLUMNS = ("patient", "site", "split", "series", "truth")
_SHARES = (0.7, 0.1)
"""Of the patients: training, validation; the rest is the internal test, as in the source study."""


@dataclass(frozen=True)
class Case:
    """One labelled series. ``index`` is its line in cases.csv, from 0; paths are absolute."""

    index: int
    patient: str
    site: str
    split: str
    series: Path
    truth: Path


@dataclass(frozen=True)
class TruthMask:
    """Necrosis on a grid: ``mask`` (slice, row, column) bool, ``affine`` (4, 4) index -> LPS mm."""

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class SliceLabels:
    """Labels without masks: ``positions_mm`` (N,) LPS y, ``positive`` (N,) bool."""

    positions_mm: NDArray[np.float64]
    positive: NDArray[np.bool_]


def read_cases(data: Path, seed: int) -> tuple[Case, ...]:
    """Read DATA/cases.csv and deal out the splits that are empty.

    Raises:
        UsageError: ``cases_missing`` or ``cases_invalid``.
    """
    path = data / "cases.csv"
    if not path.is_file():
        raise UsageError(
            "cases_missing",
            f"{data} holds no cases.csv.",
            "docs/training.md describes the folder; --phantoms makes one.",
        )
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not set(_COLUMNS) <= set(reader.fieldnames or ()):
            raise UsageError("cases_invalid", f"{path} must have the columns {', '.join(_COLUMNS)}.")
        cases = tuple(_case(data, path, index, row) for index, row in enumerate(reader))
    cases = _dealt(cases, seed)
    by_patient: dict[str, str] = {}
    for case in cases:
        if by_patient.setdefault(case.patient, case.split) != case.split:
            raise UsageError("cases_invalid", f"{path}, line {case.index + 2}: a patient is in two splits.")
    return cases


def read_truth(path: Path) -> TruthMask | SliceLabels:
    """Read a truth file, mask or slice labels.

    Raises:
        UsageError: ``truth_invalid``.
    """
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            positions = np.array([float(row["position_mm"]) for row in rows])
            return SliceLabels(positions, np.array([bool(int(row["label"])) for row in rows]))
        with np.load(path, allow_pickle=False) as arrays:
            mask, affine = arrays["mask"] > 0, arrays["affine"].astype(np.float64)
    except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile) as error:
        raise UsageError(
            "truth_invalid", f"{path} is no truth file: {error}.", "docs/training.md describes it."
        ) from error
    if mask.ndim != 3 or affine.shape != (4, 4):
        raise UsageError("truth_invalid", f"{path}: mask must have 3 axes and affine be 4 x 4.")
    return TruthMask(mask, affine)


def _case(data: Path, path: Path, index: int, row: dict[str, str | None]) -> Case:
    values = {name: (row.get(name) or "").strip() for name in _COLUMNS}
    where = f"{path}, line {index + 2}"
    for name in ("patient", "series", "truth"):
        if not values[name]:
            raise UsageError(
                "cases_invalid", f"{where}: {name} is empty.", "A healthy case has a truth file too: an empty mask."
            )
    if values["split"] not in ("", *SPLITS):
        raise UsageError("cases_invalid", f"{where}: split {values['split']!r} is none of {', '.join(SPLITS)}.")
    series, truth = (data / values[name] for name in ("series", "truth"))
    for wanted in (series, truth):
        if not wanted.resolve().is_relative_to(data.resolve()) or not wanted.exists():
            raise UsageError("cases_invalid", f"{where}: {wanted} is not there, or not below {data}.")
    return Case(index, values["patient"], values["site"], values["split"], series, truth)


def _dealt(cases: tuple[Case, ...], seed: int) -> tuple[Case, ...]:
    known = {case.patient: case.split for case in cases if case.split}
    known.update({case.patient: "external" for case in cases if case.site == "external" and case.patient not in known})
    rest = sorted({case.patient for case in cases} - set(known))
    order = [rest[i] for i in np.random.default_rng(seed).permutation(len(rest))]
    ends = [round(len(order) * share) for share in np.cumsum(_SHARES)]
    for split, start, stop in zip(SPLITS[:3], [0, *ends], [*ends, len(order)], strict=True):
        known.update(dict.fromkeys(order[start:stop], split))
    return tuple(case if case.split else replace(case, split=known[case.patient]) for case in cases)
