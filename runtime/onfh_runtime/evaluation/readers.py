"""``--readers``: the model beside its readers, joined by patient, by series and by slice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.errors import UsageError
from onfh_runtime.evaluation.grid import on_shared_grid
from onfh_runtime.evaluation.join import Joined, JoinedSeries
from onfh_runtime.evaluation.levels import patient_units, slice_units
from onfh_runtime.evaluation.masks import Mask, read_mask
from onfh_runtime.evaluation.reader_calls import ReaderCall, read_calls
from onfh_runtime.evaluation.reader_figures import Answered, dice_matrix, reader_entry

__all__ = ["MODEL", "TRUTH", "read_and_compare"]

TRUTH, MODEL = "truth", "model"
_LISTED = 200
_SLACK_MM = 0.01
_RULE = (
    "Over truth-positive cases, on the grid of the truth; two empty masks have no Dice. A reader who calls a patient "
    "negative and draws nothing has outlined nothing; one who calls a patient positive and draws nothing is left out "
    "of that case."
)


def read_and_compare(path: Path, joined: Joined, *, rounds: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Read a readers' table and put every reader beside the model; the content of ``document["readers"]``.

    Args:
        path: the table, see :func:`onfh_runtime.evaluation.reader_calls.read_calls`.
        joined: the run and the truth.
        rounds: of the bootstrap over patients.
        seed: of the bootstrap.

    Raises:
        UsageError: as :func:`~onfh_runtime.evaluation.reader_calls.read_calls`, ``readers_duplicate`` when a reader
            answers a unit twice, or an unreadable mask.
        MissingExtraError: ``missing_extra``, a NIfTI mask without nibabel.
    """
    calls = read_calls(path)
    readers = sorted({call.reader for call in calls})
    clash = {TRUTH, MODEL} & set(readers)
    if clash:
        raise UsageError("readers_invalid", f"{path}: no reader can be called {clash.pop()!r}.", "Rename the reader.")
    found = _Places(joined)
    units = {"patient": patient_units(joined), "slice": slice_units(joined)}
    patient_rows = {number: row for row, number in enumerate(units["patient"].patient.tolist())}
    answers: dict[str, dict[str, dict[int, Answered]]] = {"patient": {}, "slice": {}}
    outlines: dict[str, dict[int, ReaderCall]] = {name: {} for name in readers}
    misfits: list[tuple[ReaderCall, str]] = []
    for call in calls:
        level = "slice" if call.of_slice else "patient"
        place, reason = found.slice(call) if call.of_slice else found.patient(call)
        if place is None:
            misfits.append((call, reason))
            continue
        if not call.of_slice:
            _once(outlines[call.reader], place, call)
            outlines[call.reader][place] = call
            if call.call is None and call.score is None:
                continue
            if place not in patient_rows:
                misfits.append((call, "patient_not_evaluated"))
                continue
            place = patient_rows[place]
        mine = answers[level].setdefault(call.reader, {})
        _once(mine, place, call)
        mine[place] = Answered(place, call.call, call.score, call.seconds)
    return {
        "readers": readers,
        "levels": {
            level: [
                reader_entry(name, list(given.values()), units[level], rounds=rounds, seed=seed)
                for name, given in sorted(by_reader.items())
            ]
            for level, by_reader in answers.items()
            if by_reader
        },
        "masks": _masks(joined, readers, outlines),
        "not_joined": [_named(call, reason) for call, reason in misfits[:_LISTED]],
        "not_joined_counts": dict(Counter(reason for _, reason in misfits)),
    }


class _Places:
    """Where a line belongs: the number of its patient, or of its slice."""

    def __init__(self, joined: Joined) -> None:
        self._patients = {each.truth.patient: number for number, each in enumerate(joined.patients)}
        self._patient_of: dict[str, set[int]] = {}
        self._series_of: dict[str | int, set[int]] = {}
        for number, each in enumerate(joined.series):
            self._series_of.setdefault(each.truth.patient, set()).add(number)
            for uid in _uids(each):
                self._patient_of.setdefault(uid, set()).add(each.truth.patient)
                self._series_of.setdefault(uid, set()).add(number)
        slices = joined.slices
        self._sop = {uid: number for number, uid in enumerate(slices.sop_uids) if uid}
        self._positions, self._of_series = slices.positions_mm, slices.series

    def patient(self, call: ReaderCall) -> tuple[int | None, str]:
        """Number in :attr:`Joined.patients`, or None and why."""
        if call.patient:
            number = self._patients.get(call.patient)
            return (number, "" if number is not None else "patient_unknown")
        numbers = self._patient_of.get(call.series or call.study, set())
        if len(numbers) == 1:
            return next(iter(numbers)), ""
        return None, "patient_ambiguous" if numbers else "patient_unknown"

    def slice(self, call: ReaderCall) -> tuple[int | None, str]:
        """Number in :attr:`Joined.slices`, or None and why."""
        if call.sop_instance_uid:
            number = self._sop.get(call.sop_instance_uid)
            return number, "" if number is not None else "slice_not_evaluated"
        series = self._series_of.get(call.series or call.study or self._patients.get(call.patient, ""), set())
        if len(series) != 1:
            return None, "series_ambiguous" if series else "series_unknown"
        here = np.flatnonzero(self._of_series == next(iter(series)))
        here = here[~np.isnan(self._positions[here])]
        if not len(here) or call.position_mm is None:
            return None, "slice_not_evaluated"
        places = self._positions[here]
        apart = np.diff(np.sort(places))
        nearest = int(np.abs(places - call.position_mm).argmin())
        tolerance = (float(np.median(apart)) / 2 if len(apart) else 0.0) + _SLACK_MM
        if abs(places[nearest] - call.position_mm) > tolerance:
            return None, "slice_not_evaluated"
        return int(here[nearest]), ""


def _uids(series: JoinedSeries) -> set[str]:
    known = {series.truth.study, series.truth.series}
    if series.predicted is not None:
        known |= {series.predicted.study, series.predicted.series}
    return known - {""}


def _once(taken: Mapping[int, object], place: int, call: ReaderCall) -> None:
    if place in taken:
        raise UsageError("readers_duplicate", f"{call.where}: this reader has answered this unit on an earlier line.")


def _masks(
    joined: Joined, readers: Sequence[str], outlines: Mapping[str, Mapping[int, ReaderCall]]
) -> dict[str, Any] | None:
    """Dice of everybody with everybody, of volumes and of slices; None when no reader drew anything."""
    drew = [name for name in readers if any(call.mask is not None for call in outlines[name].values())]
    if not drew:
        return None
    names = [TRUTH, MODEL, *drew]
    volumes: list[dict[str, NDArray[np.bool_]]] = []
    planes: list[dict[str, NDArray[np.bool_]]] = []
    for case in _drawn_cases(joined, drew, outlines):
        # One bit a voxel of what is outlined anywhere is kept, so that all cases fit in memory.
        around = np.any(list(case.values()), axis=0)
        volumes.append({name: mask[around] for name, mask in case.items()})
        planes += [
            {name: mask[k][around[k]] for name, mask in case.items()}
            for k in np.flatnonzero(case[TRUTH].any(axis=(1, 2)))
        ]
    return {"rule": _RULE, "volume": dice_matrix(names, volumes), "slice": dice_matrix(names, planes)}


def _drawn_cases(
    joined: Joined, drew: Sequence[str], outlines: Mapping[str, Mapping[int, ReaderCall]]
) -> Iterator[dict[str, NDArray[np.bool_]]]:
    """Masks by name on the truth's grid, of every series whose truth outlines something and that a reader drew."""
    drawable = Counter(series.truth.patient for series in joined.series if series.truth.mask is not None)
    for series in joined.series:
        if series.truth.mask is None:
            continue
        calls = {
            name: call
            for name in drew
            if (call := outlines[name].get(series.truth.patient)) is not None and _is_of(call, series)
        }
        if not any(call.mask is not None for call in calls.values()):
            continue
        nameless = next((call for call in calls.values() if not call.series), None)
        if nameless is not None and drawable[series.truth.patient] > 1:
            raise UsageError(
                "readers_invalid",
                f"{nameless.where}: this patient has several series with a true mask.",
                "Name the series.",
            )
        truth = read_mask(series.truth.mask)
        if not truth.voxels.any():
            continue
        masks: dict[str, Mask | None] = {TRUTH: truth}
        predicted = series.predicted
        if predicted is not None and predicted.outlines:
            masks[MODEL] = None if predicted.mask is None else read_mask(predicted.mask)
        for name, call in calls.items():
            if call.mask is not None:
                masks[name] = read_mask(call.mask)
            elif call.call is False:
                masks[name] = None
        shared = on_shared_grid(list(masks.values()), truth)
        if shared is not None:
            yield dict(zip(masks, shared.masks, strict=True))


def _is_of(call: ReaderCall, series: JoinedSeries) -> bool:
    return not call.series or call.series in _uids(series)


def _named(call: ReaderCall, reason: str) -> dict[str, str]:
    what = f"reader {call.reader}, {'slice' if call.of_slice else 'patient'}"
    return {"what": what, "uid": call.sop_instance_uid or call.series or call.study or call.patient, "reason": reason}
