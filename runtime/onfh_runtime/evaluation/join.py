"""Predictions and truth put together by UID, with a list of everything that did not fit.

A series of the truth takes the prediction of that very series, preferred or not; one that names only a study takes the
study's preferred series. The patient's answer is always that of the study's preferred series, as the product gives it
(a table prefers none, so every series of the study speaks); of several the strongest state, positive before
undetermined before negative, and the highest probability. Of a series that was split into parts the preferred part
answers, else the first that succeeded.

A slice is joined by its SOP Instance UID, or else by its position: every predicted slice takes the nearest labelled
one within half the distance of the predicted slices, and no label is used twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.predictions import PredictedSeries, Predictions
from onfh_runtime.evaluation.truth import Truth, TruthPatient, TruthSeries

__all__ = ["Joined", "JoinedPatient", "JoinedSeries", "JoinedSlices", "join"]

_LISTED = 200
"""Things that did not fit and are named; the rest is counted."""

_SLACK_MM = 0.01
"""Positions are rounded; half a slice distance is to hold all the same."""


_STRENGTH = {"negative": 0, "undetermined": 1, "positive": 2}


@dataclass(frozen=True)
class JoinedSlices:
    """Slices with a label and a probability, as columns.

    Attributes:
        patient: (slices,) int64, number of the patient.
        series: (slices,) int64, number of the series in :attr:`Joined.series`.
        labels: (slices,) bool.
        probabilities: (slices,) float64.
        called: (slices,) bool.
        positions_mm: (slices,) float64, LPS y as predicted, or as labelled where that is not given; may be NaN.
        sop_uids: one for each slice, may be empty.
    """

    patient: NDArray[np.int64]
    series: NDArray[np.int64]
    labels: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    called: NDArray[np.bool_]
    positions_mm: NDArray[np.float64]
    sop_uids: tuple[str, ...]


@dataclass(frozen=True)
class JoinedSeries:
    """A series of the truth with its prediction; ``predicted`` is None, and ``reason`` a code, where there is none."""

    truth: TruthSeries
    predicted: PredictedSeries | None
    reason: str | None


@dataclass(frozen=True)
class JoinedPatient:
    """A patient of the truth with the answer of the product.

    ``state`` is None, and ``reason`` a code, where there is no answer; ``undetermined`` is an answer that is none.
    """

    truth: TruthPatient
    probability: float | None
    state: str | None
    sides: dict[str, str] | None
    reason: str | None


@dataclass(frozen=True)
class Joined:
    """Everything that fits, and what does not.

    Attributes:
        patients: one for each of the truth, in its order.
        series: one for each of the truth, in its order.
        slices: those with a label and a probability.
        unanswered: (unanswered slices, 2) int64, number of the patient and label of the slices that have a label and no
            probability.
        not_joined: the first 200 things that did not fit: what, uid, reason.
        not_joined_counts: how many did not fit, by reason.
        excluded: how many series have no answer, by reason; none of them is ever negative.
    """

    patients: tuple[JoinedPatient, ...]
    series: tuple[JoinedSeries, ...]
    slices: JoinedSlices
    unanswered: NDArray[np.int64]
    not_joined: tuple[dict[str, str], ...]
    not_joined_counts: dict[str, int]
    excluded: dict[str, int]


@dataclass
class _Misfits:
    listed: list[dict[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, uid: str, reason: str) -> None:
        self.counts[reason] += 1
        if len(self.listed) < _LISTED:
            self.listed.append({"what": what, "uid": uid, "reason": reason})


def join(predictions: Predictions, truth: Truth) -> Joined:
    """Put a run and the truth together. Nothing is guessed: what does not fit is listed."""
    misfits, excluded = _Misfits(), Counter[str]()
    by_series, by_study = _indexed(predictions.series)
    series: list[JoinedSeries] = []
    columns: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    lost: list[NDArray[np.int64]] = []
    answers: list[list[PredictedSeries]] = [[] for _ in truth.patients]
    used: set[int] = set()
    for each in truth.series:
        found, reason = _prediction(each, by_series, by_study)
        siblings = by_study.get(found.study if found is not None else each.study, []) if reason != "wrong_study" else []
        answers[each.patient] += [s for s in siblings if s.preferred] or ([found] if found is not None else [])
        used.update(id(other) for other in siblings)
        if found is not None:
            used.add(id(found))
            if found.status != "succeeded":
                reason = found.reason or found.status
        if found is None:
            misfits.add("truth series", each.series or each.study, reason or "not_predicted")
        if reason is not None:
            excluded[reason] += 1
        answered = found if found is not None and found.status == "succeeded" else None
        series.append(JoinedSeries(each, answered, reason))
        pairs, alone = _slices(each, answered, misfits)
        columns.append(pairs)
        lost.append(np.stack([np.full(len(alone), each.patient), each.labels[alone]], axis=1).astype(np.int64))
    for other in predictions.series:
        if id(other) not in used and other.status != "skipped":
            misfits.add("predicted series", other.series, "no_truth")
    return Joined(
        patients=tuple(_patient(of, found) for of, found in zip(truth.patients, answers, strict=True)),
        series=tuple(series),
        slices=_table(series, columns),
        unanswered=np.concatenate(lost) if lost else np.empty((0, 2), np.int64),
        not_joined=tuple(misfits.listed),
        not_joined_counts=dict(misfits.counts),
        excluded=dict(excluded),
    )


def _indexed(
    series: Sequence[PredictedSeries],
) -> tuple[dict[str, list[PredictedSeries]], dict[str, list[PredictedSeries]]]:
    by_series: dict[str, list[PredictedSeries]] = {}
    by_study: dict[str, list[PredictedSeries]] = {}
    for each in series:
        by_series.setdefault(each.series, []).append(each)
        if each.study:
            by_study.setdefault(each.study, []).append(each)
    return by_series, by_study


def _best(parts: Sequence[PredictedSeries]) -> PredictedSeries | None:
    """The preferred one, else the first with an answer, else the first."""
    ordered = sorted(parts, key=lambda one: (not one.preferred, one.status != "succeeded", one.part or 0))
    return ordered[0] if ordered else None


def _prediction(
    truth: TruthSeries, by_series: dict[str, list[PredictedSeries]], by_study: dict[str, list[PredictedSeries]]
) -> tuple[PredictedSeries | None, str | None]:
    if not truth.series:
        candidates = [one for one in by_study.get(truth.study, []) if one.status != "skipped"]
        return _best(candidates), None if candidates else "not_predicted"
    candidates = by_series.get(truth.series, [])
    fitting = [one for one in candidates if not truth.study or not one.study or one.study == truth.study]
    if fitting:
        return _best(fitting), None
    return None, "wrong_study" if candidates else "not_predicted"


def _slices(
    truth: TruthSeries, predicted: PredictedSeries | None, misfits: _Misfits
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]:
    """Numbers of the predicted and the true slices that belong together, and of the true ones that stay alone."""
    count = len(truth.labels)
    nothing = np.empty(0, np.int64)
    if truth.unlabelled:
        misfits.counts["label_missing"] += truth.unlabelled
    if predicted is None:
        return (nothing, nothing), np.arange(count)
    place = {uid: number for number, uid in enumerate(predicted.sop_uids) if uid}
    named = [(place[uid], number) for number, uid in enumerate(truth.sop_uids) if uid in place]
    here = np.array([pair[0] for pair in named], np.int64)
    there = np.array([pair[1] for pair in named], np.int64)
    # a label that names an image is for that image alone, so only labels without a name go by their position
    by_place = np.array([number for number, uid in enumerate(truth.sop_uids) if not uid], np.int64)
    free = np.setdiff1d(np.arange(len(predicted.probabilities)), here)
    near, nearest = _nearest(predicted.positions_mm, free, truth.positions_mm, by_place)
    here, there = np.concatenate([here, near]), np.concatenate([there, nearest])
    unlabelled = np.setdiff1d(np.arange(len(predicted.probabilities)), here)
    if count:
        for number in unlabelled.tolist():
            misfits.add("predicted slice", _slice_name(predicted, number), "no_label")
    alone = np.setdiff1d(np.arange(count), there)
    covered = _covered(predicted.positions_mm, truth.positions_mm[alone])
    for number in alone[covered].tolist():
        misfits.add("truth slice", f"{predicted.series} at {truth.positions_mm[number]:g} mm", "other_label_nearer")
    alone = alone[~covered]
    for number in alone.tolist():
        uid = truth.sop_uids[number] or f"{predicted.series} at {truth.positions_mm[number]:g} mm"
        misfits.add("truth slice", uid, "slice_not_analysed")
    answered = np.isfinite(predicted.probabilities[here])
    for number in here[~answered].tolist():
        misfits.add("predicted slice", _slice_name(predicted, number), "probability_missing")
    alone = np.concatenate([alone, there[~answered]])
    here, there = here[answered], there[answered]
    order = np.argsort(there, kind="stable")
    return (here[order], there[order]), alone


def _slice_name(predicted: PredictedSeries, number: int) -> str:
    return predicted.sop_uids[number] or f"{predicted.series} at {predicted.positions_mm[number]:g} mm"


def _nearest(
    predicted: NDArray[np.float64], free: NDArray[np.int64], labelled: NDArray[np.float64], by_place: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predicted slices and the labels nearest to them within half the distance of the predicted slices."""
    free = free[~np.isnan(predicted[free])]
    if not len(free) or not len(by_place):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    tolerance = _tolerance_mm(predicted)
    distance = np.abs(predicted[free, None] - labelled[by_place][None])
    best = distance.argmin(axis=1)
    gap = distance[np.arange(len(free)), best]
    near = np.flatnonzero(gap <= tolerance)
    near = near[np.argsort(gap[near], kind="stable")]
    _, first = np.unique(best[near], return_index=True)  # of two that want one label, the nearer
    chosen = near[first]
    return free[chosen], by_place[best[chosen]]


def _tolerance_mm(predicted: NDArray[np.float64]) -> float:
    """Half the distance of the predicted slices; next to nothing where there is only one."""
    apart = np.diff(np.unique(predicted[~np.isnan(predicted)]))
    return (float(np.median(apart)) / 2 if len(apart) else 0.0) + _SLACK_MM


def _covered(predicted: NDArray[np.float64], labelled: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which labels lie on a predicted slice; a label without a position does not."""
    places = predicted[~np.isnan(predicted)]
    if not len(places):
        return np.zeros(len(labelled), bool)
    gap = np.abs(labelled[:, None] - places[None]).min(axis=1)
    return np.asarray(gap <= _tolerance_mm(predicted), bool)  # false for NaN


def _patient(truth: TruthPatient, found: Sequence[PredictedSeries]) -> JoinedPatient:
    answered = [one for one in found if one.status == "succeeded" and one.state is not None]
    if not answered:
        reasons = [one.reason or "patient_probability_missing" for one in found]
        return JoinedPatient(truth, None, None, None, reasons[0] if reasons else "not_predicted")
    # undetermined is stronger than negative: one study that could not exclude a necrosis leaves it open
    best = max(answered, key=lambda one: (_STRENGTH[one.state or "negative"], one.probability or 0.0))
    probability = max((one.probability for one in answered if one.probability is not None), default=None)
    return JoinedPatient(truth, probability, best.state, best.sides, None)


def _table(
    series: Sequence[JoinedSeries], columns: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> JoinedSlices:
    kinds = (np.int64, np.int64, np.bool_, np.float64, np.bool_, np.float64)
    parts: list[list[NDArray[Any]]] = [[np.empty(0, kind)] for kind in kinds]
    uids: list[str] = []
    for number, (each, (here, there)) in enumerate(zip(series, columns, strict=True)):
        if each.predicted is None or not len(here):
            continue
        positions = each.predicted.positions_mm[here]
        values = (
            np.full(len(here), each.truth.patient, np.int64),
            np.full(len(here), number, np.int64),
            each.truth.labels[there],
            each.predicted.probabilities[here],
            each.predicted.called[here],
            np.where(np.isnan(positions), each.truth.positions_mm[there], positions),
        )
        for column, part in zip(parts, values, strict=True):
            column.append(part)
        uids += [
            each.predicted.sop_uids[one] or each.truth.sop_uids[other]
            for one, other in zip(here.tolist(), there.tolist(), strict=True)
        ]
    patient, of, labels, probabilities, called, positions = (np.concatenate(column) for column in parts)
    return JoinedSlices(patient, of, labels, probabilities, called, positions, tuple(uids))
