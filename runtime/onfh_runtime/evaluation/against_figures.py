"""Two runs over the same series: what flipped, how far probabilities and masks moved, and whether that is chance.

``this`` is the run under evaluation, ``other`` the one it is held against; every change is this minus other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.paired import Difference, MaskPair, Said, pooled
from onfh_runtime.evaluation.paired_figures import agreement_of, areas_compared, calls_compared
from onfh_runtime.evaluation.units import cluster_index

__all__ = ["DRIFT_EDGES", "Answer", "PatientPair", "SeriesPair", "against_figures"]

DRIFT_EDGES = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Bins of the absolute change of a slice's probability: (0, 1e-7], (1e-7, 1e-6] and so on; 0 itself has its own."""
LISTED = 1000
"""Flips of one level, and points of the scatter, that are listed; beyond them the count says how many there are."""
WORST = 10


@dataclass(frozen=True)
class SeriesPair:
    """One series in both runs.

    Attributes:
        patient: pseudonym, or whatever its series have in common.
        study: StudyInstanceUID, may be empty.
        series: SeriesInstanceUID.
        slices: what names each slice: its SOPInstanceUID, or its position.
        other: what the other run says.
        this: what this run says, on the same slices.
        difference: from other (the reference) to this.
    """

    patient: str
    study: str
    series: str
    slices: tuple[str, ...]
    other: Said
    this: Said
    difference: Difference

    def named(self, **more: object) -> dict[str, Any]:
        """The series by name, and ``more``."""
        return {"patient": self.patient, "study": self.study, "series": self.series, **more}


@dataclass(frozen=True)
class Answer:
    """What a run says of a patient; ``sides`` by name, None where it says nothing of them."""

    probability: float
    state: str
    sides: dict[str, str] | None


@dataclass(frozen=True)
class PatientPair:
    """One patient in both runs; ``label`` and ``side_labels`` (by name) hold None where the truth is not known."""

    patient: str
    series: str
    other: Answer
    this: Answer
    label: bool | None
    side_labels: dict[str, bool | None]


def against_figures(
    pairs: Sequence[SeriesPair], patients: Sequence[PatientPair], *, rounds: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Flips by name, tests, drift of probabilities and of masks; JSON values only.

    Args:
        pairs: every series that both runs answered.
        patients: every patient whom both runs answered, each once.
        rounds: of the bootstrap over patients.
        seed: of the bootstrap.
    """
    together = pooled([pair.difference for pair in pairs])
    sides = [flip for pair in patients for flip in _sides(pair)]
    return {
        "series": together.studies,
        "slices": together.slices,
        "flips": {
            "patient": _counted(_patient_flips(patients), len(patients)),
            "side": _counted([flip for flip in sides if flip["other"] != flip["this"]], len(sides)),
            "slice": _counted(_slice_flips(pairs), together.slices),
        },
        "tests": {
            "patient": _patient_tests(patients, rounds, seed) if patients else None,
            "slice": _slice_tests(pairs, rounds, seed) if pairs else None,
        },
        "drift": _drift(pairs),
        "masks": _masks(pairs, together.reported),
    }


def _counted(flips: list[dict[str, Any]], of: int) -> dict[str, Any]:
    return {"count": len(flips), "of": of, "listed": flips[:LISTED]}


def _slice_flips(pairs: Sequence[SeriesPair]) -> list[dict[str, Any]]:
    return [
        pair.named(
            slice=pair.slices[index],
            other=float(pair.other.probabilities[index]),
            this=float(pair.this.probabilities[index]),
            now="positive" if pair.this.called[index] else "negative",
            label=bool(labels.positive[index]) if labels.known[index] else None,
        )
        for pair in pairs
        for labels in [pair.difference.labels]
        for index in pair.difference.slice_flips
    ]


def _patient_flips(patients: Sequence[PatientPair]) -> list[dict[str, Any]]:
    return [
        {
            "patient": pair.patient,
            "series": pair.series,
            "other": {"state": pair.other.state, "probability": pair.other.probability},
            "this": {"state": pair.this.state, "probability": pair.this.probability},
            "label": pair.label,
        }
        for pair in patients
        if pair.other.state != pair.this.state
    ]


def _sides(pair: PatientPair) -> list[dict[str, Any]]:
    """Both hips of a patient of whose sides both runs speak."""
    if pair.other.sides is None or pair.this.sides is None:
        return []
    return [
        {
            "patient": pair.patient,
            "series": pair.series,
            "side": side,
            "other": pair.other.sides[side],
            "this": pair.this.sides[side],
            "label": pair.side_labels.get(side),
        }
        for side in ("right", "left")
    ]


def _slice_tests(pairs: Sequence[SeriesPair], rounds: int, seed: int) -> dict[str, Any]:
    labels = [pair.difference.labels for pair in pairs]
    return _tests(
        (np.concatenate([p.this.probabilities for p in pairs]), np.concatenate([p.this.called for p in pairs])),
        (np.concatenate([p.other.probabilities for p in pairs]), np.concatenate([p.other.called for p in pairs])),
        np.concatenate([each.positive for each in labels]),
        np.concatenate([each.known for each in labels]),
        np.repeat(np.array([pair.patient for pair in pairs]), [len(pair.slices) for pair in pairs]),
        rounds,
        seed,
    )


def _patient_tests(patients: Sequence[PatientPair], rounds: int, seed: int) -> dict[str, Any]:
    """A patient who is undetermined in either run has no call there and is left out."""
    called = [pair for pair in patients if "undetermined" not in (pair.other.state, pair.this.state)]
    labels = [pair.label for pair in called]
    return _tests(
        _answers([pair.this for pair in called]),
        _answers([pair.other for pair in called]),
        np.array([label is True for label in labels], np.bool_),
        np.array([label is not None for label in labels], np.bool_),
        np.array([pair.patient for pair in called], np.str_),
        rounds,
        seed,
    )


def _answers(answers: Sequence[Answer]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return (
        np.array([answer.probability for answer in answers], np.float64),
        np.array([answer.state == "positive" for answer in answers], np.bool_),
    )


def _tests(
    this: tuple[NDArray[np.floating], NDArray[np.bool_]],
    other: tuple[NDArray[np.floating], NDArray[np.bool_]],
    positive: NDArray[np.bool_],
    known: NDArray[np.bool_],
    patients: NDArray[np.str_],
    rounds: int,
    seed: int,
) -> dict[str, Any]:
    """Calls against each other over all units; against what is true over those with a label. First is this run."""
    independent = len(np.unique(patients)) == len(patients)
    found: dict[str, Any] = {
        "calls": agreement_of(this[1], other[1], independent=independent),
        "n": int(known.sum()),
        "positives": int(positive[known].sum()),
        "sensitivity": None,
        "specificity": None,
        "auc": None,
    }
    if known.any():
        cluster, clusters = cluster_index(patients[known])
        scores, calls, truth = (this[0][known], other[0][known]), (this[1][known], other[1][known]), positive[known]
        found |= calls_compared(*calls, truth, cluster, clusters, rounds=rounds, seed=seed)
        found["auc"] = areas_compared(*scores, truth, cluster, clusters, rounds=rounds, seed=seed)
    return found


def _drift(pairs: Sequence[SeriesPair]) -> dict[str, Any] | None:
    change = np.concatenate([np.zeros(0), *(pair.difference.drift for pair in pairs)])
    if not len(change):
        return None
    size = np.abs(change)
    counts = np.histogram(size[size > 0], [0.0, *np.nextafter(DRIFT_EDGES[1:], 2)])[0]
    worst = sorted(pairs, key=lambda pair: -pair.difference.largest_drift)[:WORST]
    other, this = (
        np.concatenate([getattr(pair, run).probabilities for pair in pairs]).astype(np.float64)
        for run in ("other", "this")
    )
    # Drawn by size of the change, so that what is left out is what moved least.
    drawn = np.argsort(-size, kind="stable")[:LISTED]
    return {
        "n": len(change),
        "unchanged": int(np.count_nonzero(size == 0)),
        "mean": float(change.mean()),
        "sd": float(change.std(ddof=1)) if len(change) > 1 else None,
        "mean_absolute": float(size.mean()),
        "p95_absolute": float(np.percentile(size, 95)),
        "max_absolute": float(size.max()),
        "histogram": {"edges": list(DRIFT_EDGES), "counts": counts.tolist()},
        "points": [[float(other[index]), float(this[index])] for index in drawn],
        "worst": [
            pair.named(
                largest=pair.difference.largest_drift,
                slice=pair.slices[int(np.abs(pair.difference.drift).argmax())],
            )
            for pair in worst
            if pair.difference.largest_drift > 0
        ],
    }


def _masks(pairs: Sequence[SeriesPair], together: MaskPair) -> dict[str, Any] | None:
    known = [(pair, pair.difference.reported) for pair in pairs]
    compared = [(pair, masks) for pair, masks in known if masks is not None]
    if not compared:
        return None
    each = [masks.dice for _, masks in compared]
    return {
        "compared": len(compared),
        "not_compared": len(known) - len(compared),
        "both_empty": sum(value is None for value in each),
        "only_this": sum(masks.reference == 0 < masks.other for _, masks in compared),
        "only_other": sum(masks.other == 0 < masks.reference for _, masks in compared),
        "dice": _spread([value for value in each if value is not None]),
        "pooled_dice": together.dice,
        "volume_mm3": {"other": together.volumes_mm3[0], "this": together.volumes_mm3[1]},
        "volume_drift_mm3": together.drift_mm3,
        "volume_drift_percent": together.drift_percent,
        "cases": [
            pair.named(dice=masks.dice, other_mm3=masks.volumes_mm3[0], this_mm3=masks.volumes_mm3[1])
            for pair, masks in compared
            if masks.dice is not None
        ],
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """A list of figures in five numbers; None without one."""
    if not values:
        return None
    low, middle, high = (float(value) for value in np.percentile(values, [5, 50, 95]))
    return {
        "n": len(values),
        "mean": float(np.mean(values)),
        "median": middle,
        "p05": low,
        "p95": high,
        "min": float(min(values)),
    }
