"""What was predicted: the folders ``onfh infer`` wrote, or a table of probabilities."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from onfh_runtime.errors import UsageError
from onfh_runtime.evaluation.csv_table import CsvRow, read_csv
from onfh_runtime.result import Result, Study

__all__ = ["PredictedSeries", "Predictions", "read_predictions"]

Status = Literal["succeeded", "not_analysed", "failed", "skipped"]
_INCOMPLETE = {"incomplete_coverage", "single_hip", "side_ambiguous"}
"""Warnings with which a patient below the threshold is undetermined rather than negative."""


@dataclass(frozen=True)
class PredictedSeries:
    """What is said of one series.

    Attributes:
        study: UID, empty where a table does not name it.
        series: UID.
        part: of a series that was split, else None.
        status: whether there is an answer.
        reason: code, where there is none.
        preferred: whether its answer is the study's.
        probability: the patient's, from this series.
        state: the patient's: positive, negative or undetermined.
        sides: states of the hips by name, where they are given.
        positions_mm: (slices,) float64, LPS y; NaN where not given.
        sop_uids: one for each slice, empty where not given.
        probabilities: (slices,) float64; NaN where there is none.
        called: (slices,) bool, at or above the slice threshold.
        mask: file of the reported mask; None where nothing is outlined, or nothing is known of it.
        outlines: whether this run outlines necrosis at all, so that no file means an empty mask.
        volume_mm3: of the reported mask; None where not known.
        warnings: codes.
    """

    study: str
    series: str
    part: int | None
    status: Status
    reason: str | None
    preferred: bool
    probability: float | None
    state: str | None
    sides: dict[str, str] | None
    positions_mm: NDArray[np.float64]
    sop_uids: tuple[str, ...]
    probabilities: NDArray[np.float64]
    called: NDArray[np.bool_]
    mask: Path | None = None
    outlines: bool = True
    volume_mm3: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """A run.

    Attributes:
        series: in the order of the files.
        bundle: name, version and sha256 of what answered; None for a table.
        slice_threshold: at which slices were called; None when only the calls are known.
        patient_threshold: at which patients were called; None when nobody was.
        source: "results" or "table".
    """

    series: tuple[PredictedSeries, ...]
    bundle: dict[str, str] | None
    slice_threshold: float | None
    patient_threshold: float | None
    source: Literal["results", "table"]


def read_predictions(
    source: Path,
    *,
    slice_threshold: float | None = None,
    patient_threshold: float | None = None,
    top_k: int | None = None,
) -> Predictions:
    """Read a run.

    Args:
        source: a folder, below which every ``result.json`` counts, or a CSV file.
        slice_threshold: calls slices anew; a table needs it.
        patient_threshold: calls patients anew; a table that has patient probabilities needs it.
        top_k: a table's patient probability is the mean of so many of the most probable slices, where no row of the
            series gives one.

    Raises:
        UsageError: ``predictions_not_found``, ``predictions_invalid``, ``predictions_mixed``,
            ``predictions_duplicate``, ``threshold_missing``, ``threshold_invalid`` or ``top_k_invalid``.
    """
    for name, value in (("slice", slice_threshold), ("patient", patient_threshold)):
        if value is not None and not 0 <= value <= 1:
            raise UsageError("threshold_invalid", f"The {name} threshold {value} lies outside 0..1.")
    if top_k is not None and top_k < 1:
        raise UsageError("top_k_invalid", f"--top-k {top_k} is below 1.", "Give the number of slices to average.")
    if source.is_dir():
        if top_k is not None:
            raise UsageError("top_k_invalid", "--top-k is for tables: a result has a patient probability.")
        return _from_results(source, slice_threshold, patient_threshold)
    if not source.is_file():
        raise UsageError("predictions_not_found", f"There is no {source}.", "Name a folder of results, or a CSV file.")
    return _from_table(source, slice_threshold, patient_threshold, top_k)


def _from_results(folder: Path, slice_threshold: float | None, patient_threshold: float | None) -> Predictions:
    found: list[PredictedSeries] = []
    bundles: dict[str, dict[str, str]] = {}
    thresholds: set[float] = set()
    for path in sorted(folder.rglob("result.json")):
        result: Result = _read(Result, path)
        bundles[result.bundle.sha256] = result.bundle.model_dump()
        if result.patient is not None:
            thresholds.add(result.patient.threshold)
        found.append(_from_result(result, path.parent, slice_threshold, patient_threshold))
    for path in sorted(folder.rglob("study.json")):
        study: Study = _read(Study, path)
        found += [
            _unanswered(study.study_instance_uid, entry.series_instance_uid, entry.part, entry.reason.code)
            for entry in study.series
            if entry.outcome == "skipped" and entry.reason is not None
        ]
    if not found:
        raise UsageError("predictions_not_found", f"{folder} holds no result.json.", "Name the --out of `onfh infer`.")
    if len(bundles) > 1 or len(thresholds) > 1:
        names = ", ".join(sorted(f"{each['name']} {each['version']}" for each in bundles.values()))
        raise UsageError(
            "predictions_mixed",
            f"{folder} holds results of {max(len(bundles), len(thresholds))} bundles ({names}).",
            "Evaluate each by itself; --against compares two.",
        )
    _refuse_doubles(found, folder)
    frozen = patient_threshold if patient_threshold is not None else next(iter(thresholds), None)
    return Predictions(tuple(found), next(iter(bundles.values()), None), slice_threshold, frozen, "results")


def _read(model: Any, path: Path) -> Any:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError("predictions_invalid", f"{path} is no {path.stem} of this program.") from error


def _from_result(
    result: Result, folder: Path, slice_threshold: float | None, patient_threshold: float | None
) -> PredictedSeries:
    warnings = tuple(sorted({note.code for note in result.warnings}))
    answered = result.status == "succeeded" and result.patient is not None
    patient = result.patient if answered else None
    probabilities = np.array([item.probability for item in result.slices], np.float64)
    called = np.array([item.positive for item in result.slices], bool)
    state: str | None = patient.state if patient else None
    if patient and patient_threshold is not None:
        below = "undetermined" if _INCOMPLETE & set(warnings) else "negative"
        state = "positive" if patient.probability >= patient_threshold else below
    sides = result.sides if answered else None
    mask = folder / "seg.dcm"
    return PredictedSeries(
        study=result.study_instance_uid,
        series=result.series_instance_uid,
        part=result.part,
        status=result.status,
        reason=result.reason.code if result.reason else None,
        preferred=result.preferred,
        probability=patient.probability if patient else None,
        state=state,
        sides={"right": sides.right.state, "left": sides.left.state} if sides else None,
        positions_mm=np.array([item.position_mm for item in result.slices], np.float64),
        sop_uids=tuple(item.sop_instance_uid or "" for item in result.slices),
        probabilities=probabilities,
        called=called if slice_threshold is None else probabilities >= slice_threshold,
        mask=mask if answered and mask.is_file() else None,
        volume_mm3=sides.right.volume_mm3 + sides.left.volume_mm3 if sides else None,
        warnings=warnings,
    )


def _unanswered(study: str, series: str, part: int | None, reason: str) -> PredictedSeries:
    nothing = np.empty(0)
    return PredictedSeries(
        study, series, part, "skipped", reason, False, None, None, None, nothing, (), nothing, nothing.astype(bool)
    )


def _from_table(
    path: Path, slice_threshold: float | None, patient_threshold: float | None, top_k: int | None
) -> Predictions:
    table = read_csv(path, "predictions_invalid", needed=("series", "probability"))
    by_series: dict[tuple[str, str], list[CsvRow]] = {}
    for row in table.rows:
        by_series.setdefault((row.text("study"), row.needed("series")), []).append(row)
    outlines = "mask" in table.columns
    found = [_from_rows(*uids, rows, slice_threshold, top_k, outlines) for uids, rows in by_series.items()]
    if slice_threshold is None and any(len(series.probabilities) for series in found):
        raise _no_threshold(path, "slice")
    if any(series.probability is not None for series in found):
        if patient_threshold is None:
            raise _no_threshold(path, "patient")
        found = [_called(series, patient_threshold) for series in found]
    _refuse_doubles(found, path)
    return Predictions(tuple(found), None, slice_threshold, patient_threshold, "table")


def _no_threshold(path: Path, level: str) -> UsageError:
    return UsageError(
        "threshold_missing",
        f"{path} holds {level} probabilities and no threshold was named.",
        f"Give the one that was frozen before this set was seen: --{level}-threshold.",
    )


def _called(series: PredictedSeries, threshold: float) -> PredictedSeries:
    if series.probability is None:
        return series
    return replace(series, state="positive" if series.probability >= threshold else "negative")


def _from_rows(
    study: str, series: str, rows: list[CsvRow], slice_threshold: float | None, top_k: int | None, outlines: bool
) -> PredictedSeries:
    slices = [row for row in rows if row.text("position_mm") or row.text("sop_instance_uid")]
    whole = [row for row in rows if not (row.text("position_mm") or row.text("sop_instance_uid"))]
    if len(whole) > 1:
        raise UsageError(
            "predictions_duplicate",
            f"{whole[1].where}: a second line of one series without a slice.",
            "One line gives the patient's probability.",
        )
    probabilities = np.array([row.probability("probability") for row in slices], np.float64)
    answer: float | None = None
    if whole:
        given = whole[0].probability("probability")
        answer = None if np.isnan(given) else given
    elif top_k is not None and np.isfinite(probabilities).any():
        known = probabilities[np.isfinite(probabilities)]
        answer = float(np.sort(known)[::-1][:top_k].mean())
    known_any = answer is not None or bool(np.isfinite(probabilities).any())
    masks = [row.file("mask") for row in rows if row.text("mask")]
    if len(set(masks)) > 1:
        raise UsageError("predictions_invalid", f"{rows[0].where}: a series with two masks.")
    return PredictedSeries(
        study=study,
        series=series,
        part=None,
        status="succeeded" if known_any else "failed",
        reason=None if known_any else "probability_missing",
        preferred=True,
        probability=answer,
        state=None,
        sides=None,
        positions_mm=np.array([row.number("position_mm") for row in slices], np.float64),
        sop_uids=tuple(row.text("sop_instance_uid") for row in slices),
        probabilities=probabilities,
        # NaN is below every threshold here, and no slice without a probability is ever counted
        called=probabilities >= (np.inf if slice_threshold is None else slice_threshold),
        mask=masks[0] if masks else None,
        outlines=outlines,
    )


def _refuse_doubles(found: Iterable[PredictedSeries], source: Path) -> None:
    seen: set[tuple[str, str, int | None]] = set()
    for each in found:
        key = (each.study, each.series, each.part)
        if key in seen:
            raise UsageError(
                "predictions_duplicate",
                f"{source} answers series {each.series} twice.",
                "Name a folder that holds one run.",
            )
        seen.add(key)
        named = [uid for uid in each.sop_uids if uid]
        places = each.positions_mm[~np.isnan(each.positions_mm)]
        if len(set(named)) < len(named) or len(np.unique(places)) < len(places):
            raise UsageError("predictions_duplicate", f"{source} answers a slice of series {each.series} twice.")
