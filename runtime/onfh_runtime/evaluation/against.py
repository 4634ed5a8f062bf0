"""``--against``: another run over the same series, joined by UID."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.against_figures import Answer, PatientPair, SeriesPair, against_figures
from onfh_runtime.evaluation.grid import on_one_grid
from onfh_runtime.evaluation.join import Joined, JoinedPatient
from onfh_runtime.evaluation.masks import read_mask
from onfh_runtime.evaluation.paired import Labels, Said, difference
from onfh_runtime.evaluation.predictions import PredictedSeries, Predictions

__all__ = ["compared_runs"]

_LISTED = 200
_SAME_PLACE_MM = 0.05
"""Slices of one series at positions nearer than this are one slice: a result rounds them far finer."""

_NOT_GIVEN = "not_given"

_Key: TypeAlias = "tuple[str, int | None]"


def compared_runs(
    this: Predictions, other: Predictions, joined: Joined, other_joined: Joined, *, rounds: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Compare two runs; the content of ``document["against"]``. Every change is this minus other.

    Every series that both answered is compared, whether its truth is known or not; the tests against truth are over
    those that have one. A series only one of both answered is listed. Patients and hips are those of the truth, each
    answered as :func:`~onfh_runtime.evaluation.join.join` says.

    Args:
        this: the run under evaluation.
        other: the run it is held against, read with the same thresholds.
        joined: this run and the truth.
        other_joined: the other run and the same truth.
        rounds: of the bootstrap over patients.
        seed: of the bootstrap.

    Raises:
        UsageError: a mask cannot be read.
    """
    mine, yours = _answered(this), _answered(other)
    labels = _LabelsOf(joined)
    both = [key for key in mine if key in yours]
    found = [_pair(mine[key], yours[key], labels) for key in both]
    pairs = [pair for pair in found if pair is not None]
    apart = [uid for (uid, _), pair in zip(both, found, strict=True) if pair is None]
    return {
        "runs": {"this": _run(this), "other": _run(other)},
        "only_this": _only(mine, yours),
        "only_other": _only(yours, mine),
        "no_common_slice": {"count": len(apart), "listed": apart[:_LISTED]},
        **against_figures(pairs, _patients(joined, other_joined), rounds=rounds, seed=seed),
    }


class _LabelsOf:
    """What the truth says of the series of this run: whose they are, and which slices are positive."""

    def __init__(self, joined: Joined) -> None:
        self._number: dict[int, int] = {}
        self._of_uid: dict[str, str] = {}
        for number, each in enumerate(joined.series):
            uids = {each.truth.study, each.truth.series}
            if each.predicted is not None:
                self._number[id(each.predicted)] = number
                uids |= {each.predicted.study, each.predicted.series}
            self._of_uid |= dict.fromkeys(uids - {""}, joined.patients[each.truth.patient].truth.patient)
        slices = joined.slices
        self._slices: dict[int, dict[str, bool]] = {}
        for number, uid, place, label in zip(
            slices.series.tolist(), slices.sop_uids, slices.positions_mm.tolist(), slices.labels.tolist(), strict=True
        ):
            self._slices.setdefault(number, {})[_slice_name(uid, place)] = label

    def patient(self, series: PredictedSeries) -> str:
        """The pseudonym of the truth, or the study's UID where that knows nothing of it."""
        known = (self._of_uid.get(uid) for uid in (series.study, series.series))
        return next((name for name in known if name is not None), series.study or series.series)

    def of(self, series: PredictedSeries, names: Sequence[str]) -> Labels:
        """Labels of the named slices of a series of this run."""
        known = self._slices.get(self._number.get(id(series), -1), {})
        return Labels(
            np.array([known.get(name, False) for name in names], np.bool_),
            np.array([name in known for name in names], np.bool_),
            None,  # patients are compared as patients, not once a series
        )


def _run(run: Predictions) -> dict[str, Any]:
    return {
        "bundle": run.bundle,
        "source": run.source,
        "slice_threshold": run.slice_threshold,
        "patient_threshold": run.patient_threshold,
    }


def _answered(run: Predictions) -> dict[_Key, PredictedSeries]:
    return {(each.series, each.part): each for each in run.series if each.status == "succeeded"}


def _only(mine: dict[_Key, PredictedSeries], yours: dict[_Key, PredictedSeries]) -> dict[str, Any]:
    alone = sorted(key for key in mine if key not in yours)
    uids = [uid if part is None else f"{uid} part {part}" for uid, part in alone]
    return {"count": len(uids), "listed": uids[:_LISTED]}


def _slice_name(uid: str, position_mm: float) -> str:
    return uid or f"{position_mm:.2f} mm"


def _pair(this: PredictedSeries, other: PredictedSeries, labels: _LabelsOf) -> SeriesPair | None:
    """Both answers on the slices they share; None when they share none."""
    here, there = _same_slices(this, other)
    known = np.isfinite(this.probabilities[here]) & np.isfinite(other.probabilities[there])
    here, there = here[known], there[known]
    if not len(here):
        return None
    names = tuple(_slice_name(this.sop_uids[k], float(this.positions_mm[k])) for k in here)
    masks, voxel_mm3 = _masks(this, other)
    first = _said(this, here, masks[0])
    second = _said(other, there, masks[1])
    apart = difference(this.series, second, first, voxel_mm3, labels.of(this, names))
    # The masks are counted by now: those of one series are in memory at a time.
    second, first = replace(second, reported=None), replace(first, reported=None)
    return SeriesPair(labels.patient(this), this.study, this.series, names, second, first, apart)


def _same_slices(this: PredictedSeries, other: PredictedSeries) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the slices that both have, by SOP Instance UID or else by position."""
    by_uid = {uid: number for number, uid in enumerate(other.sop_uids) if uid}
    pairs = []
    for number, (uid, place) in enumerate(zip(this.sop_uids, this.positions_mm.tolist(), strict=True)):
        if uid:
            match = by_uid.get(uid)
        else:
            near = np.flatnonzero(np.abs(other.positions_mm - place) <= _SAME_PLACE_MM)
            match = int(near[0]) if len(near) == 1 else None
        if match is not None:
            pairs.append((number, match))
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _said(series: PredictedSeries, slices: NDArray[np.int64], mask: NDArray[np.bool_] | None) -> Said:
    sides = series.sides or {}
    return Said(
        series.probabilities[slices],
        series.called[slices],
        float("nan") if series.probability is None else series.probability,
        series.state or _NOT_GIVEN,
        (sides.get("right", _NOT_GIVEN), sides.get("left", _NOT_GIVEN)),
        mask,
    )


def _masks(
    this: PredictedSeries, other: PredictedSeries
) -> tuple[tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None], float]:
    """Both masks on the grid of the other run's, and the volume of a voxel; None where they cannot be compared."""
    if not (_is_known(this) and _is_known(other)):
        return (None, None), 1.0
    first, second = (None if run.mask is None else read_mask(run.mask) for run in (this, other))
    shared = on_one_grid(first, second)
    if shared is not None:
        return (shared.prediction, shared.truth), float(np.prod(shared.spacing_mm))
    if any(mask is not None and mask.voxels.any() for mask in (first, second)):
        return (None, None), 1.0
    return (np.zeros(0, np.bool_), np.zeros(0, np.bool_)), 1.0


def _is_known(series: PredictedSeries) -> bool:
    """Whether the mask is: a file that is gone though a volume was reported leaves it open."""
    return series.outlines and (series.mask is not None or not series.volume_mm3)


def _patients(joined: Joined, other: Joined) -> list[PatientPair]:
    """Every patient of the truth whom both runs answered."""
    uids: dict[int, str] = {}
    for series in joined.series:
        uids.setdefault(series.truth.patient, series.truth.series or series.truth.study)
    return [
        PatientPair(
            now.truth.patient,
            uids.get(number, ""),
            before_answer,
            now_answer,
            now.truth.label,
            {"right": now.truth.right, "left": now.truth.left},
        )
        for number, (now, before) in enumerate(zip(joined.patients, other.patients, strict=True))
        if (now_answer := _answer(now)) is not None and (before_answer := _answer(before)) is not None
    ]


def _answer(patient: JoinedPatient) -> Answer | None:
    if patient.state is None or patient.probability is None:
        return None
    return Answer(patient.probability, patient.state, patient.sides)
