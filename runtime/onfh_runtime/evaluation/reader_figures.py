"""The model beside its readers: who finds how much, whose masks overlap whose, and how long it took.

Every figure of a reader is over the units that this reader answered, and the model is judged on the same units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.levels import Units
from onfh_runtime.evaluation.overlap import dice
from onfh_runtime.evaluation.paired_figures import areas_compared, calls_compared
from onfh_runtime.evaluation.units import cluster_index

__all__ = ["Answered", "dice_matrix", "reader_entry", "reading_time"]


@dataclass(frozen=True)
class Answered:
    """What one reader said of one unit: its ``index``, and ``call``, ``score`` and time in s where they are given."""

    index: int
    call: bool | None
    score: float | None
    seconds: float | None


def reader_entry(
    reader: str, answers: Sequence[Answered], units: Units, *, rounds: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """One reader beside the model, ready for JSON; in every comparison the model is ``first``, the reader ``second``.

    Sensitivity and specificity are over the units the reader called, the areas over those the reader scored.

    Args:
        reader: name.
        answers: at least one, no unit twice.
        units: of the level, as the model answered them at its frozen threshold.
        rounds: of the bootstrap over patients.
        seed: of the bootstrap.

    Raises:
        ValueError: an empty list, or a unit that occurs twice.
    """
    places = [answer.index for answer in answers]
    if not places or len(set(places)) != len(places):
        raise ValueError(f"{reader} must answer each unit once, not {len(places)} times {len(set(places))} units")
    calls = [answer for answer in answers if answer.call is not None]
    scored = [answer for answer in answers if answer.score is not None]
    entry: dict[str, Any] = {
        "reader": reader,
        "n": len(answers),
        "positives": int(units.labels[places].sum()),
        "patients": len(set(units.patient[places].tolist())),
        "called": len(calls),
        "scored": len(scored),
        "sensitivity": None,
        "specificity": None,
        "auc": None,
        "time_s": reading_time([answer.seconds for answer in answers if answer.seconds is not None]),
    }
    if calls:
        at = np.array([answer.index for answer in calls])
        said = np.array([answer.call for answer in calls], np.bool_)
        cluster, clusters = cluster_index(units.patient[at])
        entry |= calls_compared(units.called[at], said, units.labels[at], cluster, clusters, rounds=rounds, seed=seed)
    if scored and units.probabilities is not None:
        at = np.array([answer.index for answer in scored])
        scores = np.array([answer.score for answer in scored], np.float64)
        cluster, clusters = cluster_index(units.patient[at])
        entry["auc"] = areas_compared(
            units.probabilities[at], scores, units.labels[at], cluster, clusters, rounds=rounds, seed=seed
        )
    return entry


def reading_time(seconds: Sequence[float]) -> dict[str, float] | None:
    """Median and quartiles in s; None without a time."""
    if not seconds:
        return None
    low, middle, high = (float(value) for value in np.percentile(seconds, [25, 50, 75]))
    return {"n": len(seconds), "median": middle, "q1": low, "q3": high}


def dice_matrix(names: Sequence[str], cases: Iterable[Mapping[str, NDArray[np.bool_]]]) -> dict[str, Any]:
    """Mean Dice of everybody against everybody, over truth-positive cases.

    Args:
        names: truth, model and readers; rows and columns of the matrix.
        cases: one mapping for each truth-positive case, from name to mask, all of one shape; who has no mask of a case
            is left out of it. An empty mask counts: its Dice with one that is not is 0. Two empty ones have no Dice.

    Returns:
        ``names``, ``dice`` (mean, null without a case) and ``n`` (cases), both square; the diagonal counts masks.
    """
    place = {name: k for k, name in enumerate(names)}
    total, count = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)), np.int64)
    for case in cases:
        for name in case:
            count[place[name], place[name]] += 1
        for one, other in combinations(case, 2):
            value = dice(case[one], case[other])
            if value is not None:
                for row, column in ((place[one], place[other]), (place[other], place[one])):
                    total[row, column] += value
                    count[row, column] += 1
    mean = [
        [
            (1.0 if row == column else float(total[row, column] / count[row, column])) if count[row, column] else None
            for column in range(len(names))
        ]
        for row in range(len(names))
    ]
    return {"names": list(names), "dice": mean, "n": count.tolist()}
