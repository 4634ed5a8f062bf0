"""The tables of slices, patients and sides: one entry for each site and pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.bootstrap import Bootstrapped, Statistic, area_statistic, bootstrap_intervals
from onfh_runtime.evaluation.bootstrap import ratio_statistic as ratio
from onfh_runtime.evaluation.calibration import Coefficient, brier_score, calibration_fit, reliability_curve
from onfh_runtime.evaluation.delong import delong_interval
from onfh_runtime.evaluation.join import Joined
from onfh_runtime.evaluation.paired_figures import bounds, rate_entry
from onfh_runtime.evaluation.rates import confusion_of_calls, rate_of, rates_of
from onfh_runtime.evaluation.roc import roc_curve
from onfh_runtime.evaluation.units import cluster_index

__all__ = [
    "Group",
    "Units",
    "corners",
    "groups_of",
    "informative",
    "level_entry",
    "patient_units",
    "side_units",
    "slice_units",
]

_ROC_POINTS = 200
_RATES = ("prevalence", "sensitivity", "specificity", "ppv", "npv")


@dataclass(frozen=True)
class Group:
    """Patients that are looked at together: ``patients`` (patients,) bool."""

    name: str
    kind: str
    patients: NDArray[np.bool_]


@dataclass(frozen=True)
class Units:
    """What a table counts, as columns.

    Attributes:
        patient: (units,) int64.
        labels: (units,) bool.
        called: (units,) bool.
        probabilities: (units,) float64, or None where the calls are all there is.
        unanswered: (unanswered units, 2) int64, patient and label of the units that have a label and no answer.
        independent: whether no two units are of one patient.
    """

    patient: NDArray[np.int64]
    labels: NDArray[np.bool_]
    called: NDArray[np.bool_]
    probabilities: NDArray[np.float64] | None
    unanswered: NDArray[np.int64]
    independent: bool


def groups_of(joined: Joined) -> list[Group]:
    """Every site, then internal and external where there are such patients, then all.

    A site that is the whole of the external test is not listed twice.
    """
    truths = [patient.truth for patient in joined.patients]
    sites = np.array([truth.site for truth in truths])
    external = np.array([truth.external for truth in truths], bool)
    groups = [
        Group(str(site), "site", sites == site)
        for site in sorted(set(sites.tolist()) - {""})
        if str(site).lower() != "external" or not np.array_equal(sites == site, external)
    ]
    for kind, chosen in (("internal", ~external), ("external", external)):
        if chosen.any():
            groups.append(Group(kind, kind, chosen))
    return [*groups, Group("all", "all", np.ones(len(truths), bool))]


def slice_units(joined: Joined) -> Units:
    """Slices with a label and a probability."""
    found = joined.slices
    return Units(found.patient, found.labels, found.called, found.probabilities, joined.unanswered, False)


def patient_units(joined: Joined) -> Units:
    """Patients with a label and an answer; an undetermined one has none."""
    answered, lost, probabilities = [], [], []
    for number, patient in enumerate(joined.patients):
        if patient.truth.label is None:
            continue
        if patient.state in ("positive", "negative") and patient.probability is not None:
            answered.append((number, patient.truth.label, patient.state == "positive"))
            probabilities.append(patient.probability)
        else:
            lost.append((number, patient.truth.label))
    return _units(answered, lost, np.array(probabilities, np.float64), independent=True)


def side_units(joined: Joined) -> Units:
    """Hips with a label and a state that is positive or negative. A side has no probability."""
    answered, lost = [], []
    for number, patient in enumerate(joined.patients):
        for side, label in (("right", patient.truth.right), ("left", patient.truth.left)):
            if label is None:
                continue
            state = (patient.sides or {}).get(side)
            if state in ("positive", "negative"):
                answered.append((number, label, state == "positive"))
            else:
                lost.append((number, label))
    return _units(answered, lost, None, independent=False)


def _units(
    answered: Sequence[tuple[int, bool, bool]],
    lost: Sequence[tuple[int, bool]],
    probabilities: NDArray[np.float64] | None,
    *,
    independent: bool,
) -> Units:
    table = np.array(answered, np.int64).reshape(-1, 3)
    unanswered = np.array(lost, np.int64).reshape(-1, 2)
    return Units(table[:, 0], table[:, 1] > 0, table[:, 2] > 0, probabilities, unanswered, independent)


def level_entry(units: Units, groups: Sequence[Group], *, rounds: int, seed: int) -> dict[str, Any]:
    """The JSON of one level: an entry for each group that has a unit, answered or not."""
    return {"groups": [entry for group in groups for entry in _entries(units, group, rounds, seed)]}


def _entries(units: Units, group: Group, rounds: int, seed: int) -> Iterator[dict[str, Any]]:
    here = group.patients[units.patient]
    lost = units.unanswered[group.patients[units.unanswered[:, 0]], 1] > 0
    labels, called = units.labels[here], units.called[here]
    if not len(labels) and not len(lost):
        return
    probabilities = None if units.probabilities is None else units.probabilities[here]
    drawn = _bootstrapped(units.patient[here], labels, called, probabilities, rounds, seed)
    rates = rates_of(confusion_of_calls(called, labels))
    entry: dict[str, Any] = {
        "name": group.name,
        "kind": group.kind,
        "n": len(labels),
        "patients": len(np.unique(units.patient[here])),
        "positives": int(labels.sum()),
        "unanswered": {"n": len(lost), "positives": int(lost.sum())},
    }
    for name in _RATES:
        entry[name] = rate_entry(getattr(rates, name), drawn.get(name))
    found = int((called & labels).sum())
    entry["sensitivity_if_unanswered_missed"] = rate_entry(rate_of(found, int(labels.sum() + lost.sum())))
    for name in (*_RATES, "sensitivity_if_unanswered_missed"):
        if not units.independent:  # Wilson's interval is for independent units
            entry[name]["wilson"] = None
    yield entry | _probability_figures(probabilities, labels, drawn, independent=units.independent)


def _bootstrapped(
    patient: NDArray[np.int64],
    labels: NDArray[np.bool_],
    called: NDArray[np.bool_],
    probabilities: NDArray[np.float64] | None,
    rounds: int,
    seed: int,
) -> dict[str, Bootstrapped]:
    if not len(labels):
        return {}
    cluster, clusters = cluster_index(patient)
    every = np.ones(len(labels), bool)
    statistics: dict[str, Statistic] = {
        "prevalence": ratio(labels, every, cluster, clusters),
        "sensitivity": ratio(called & labels, labels, cluster, clusters),
        "specificity": ratio(~called & ~labels, ~labels, cluster, clusters),
        "ppv": ratio(called & labels, called, cluster, clusters),
        "npv": ratio(~called & ~labels, ~called, cluster, clusters),
    }
    if probabilities is not None:
        statistics["auc"] = area_statistic(probabilities, labels, cluster, clusters)
        statistics["brier"] = ratio((probabilities - labels) ** 2, every, cluster, clusters)
    drawn = bootstrap_intervals(statistics, clusters, rounds=rounds, seed=seed)
    return {name: informative(each) for name, each in drawn.items()}


def informative(drawn: Bootstrapped) -> Bootstrapped:
    """Without an interval of no width.

    Where every round says the same (at 100%, say) it would claim a certainty that is not there.
    """
    if drawn.interval is None or drawn.interval.low < drawn.interval.high:
        return drawn
    return replace(drawn, interval=None)


def _probability_figures(
    probabilities: NDArray[np.float64] | None,
    labels: NDArray[np.bool_],
    drawn: dict[str, Bootstrapped],
    *,
    independent: bool,
) -> dict[str, Any]:
    if probabilities is None or not len(labels):
        return {"auc": None, "brier": None, "calibration": None, "roc": None}
    area, brier = drawn["auc"], drawn["brier"]
    delong = delong_interval(probabilities, labels) if independent else None
    auc = None
    if area.estimate is not None:
        auc = {
            "value": area.estimate,
            "delong": bounds(delong.interval) if delong else None,
            "bootstrap": bounds(area.interval),
            "degenerate_rounds": area.degenerate,
        }
    return {
        "auc": auc,
        "brier": {"value": brier_score(probabilities, labels), "bootstrap": bounds(brier.interval)},
        "calibration": _calibration(probabilities, labels),
        "roc": _roc(probabilities, labels),
    }


def _calibration(probabilities: NDArray[np.float64], labels: NDArray[np.bool_]) -> dict[str, Any]:
    bins = [
        {
            "low": each.low,
            "high": each.high,
            "n": each.observed.of,
            "mean": each.mean_probability,
            "observed": each.observed.value,
            "interval": bounds(each.observed.interval),
        }
        for each in reliability_curve(probabilities, labels)
    ]
    fit = calibration_fit(probabilities, labels)
    if fit is None:
        return {"bins": bins, "fit": None}
    return {
        "bins": bins,
        "fit": {
            "mean_probability": fit.mean_probability,
            "observed": fit.observed,
            "in_the_large": _coefficient(fit.in_the_large),
            "intercept": _coefficient(fit.intercept),
            "slope": _coefficient(fit.slope),
            "clipped": fit.clipped,
        },
    }


def _coefficient(found: Coefficient | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"value": found.value, "standard_error": found.standard_error, "interval": bounds(found.interval)}


def _roc(probabilities: NDArray[np.float64], labels: NDArray[np.bool_]) -> dict[str, Any] | None:
    """At most 200 operating points: the corners of the curve, and of those an even choice along it."""
    curve = roc_curve(probabilities, labels)
    if curve is None:
        return None
    chosen = corners(curve.sensitivity, curve.specificity)
    if len(chosen) > _ROC_POINTS:
        way = np.cumsum(np.abs(np.diff(curve.sensitivity[chosen])) + np.abs(np.diff(curve.specificity[chosen])))
        marks = np.linspace(0, way[-1], _ROC_POINTS)
        chosen = np.unique(chosen[np.clip(np.searchsorted(np.concatenate([[0.0], way]), marks), 0, len(chosen) - 1)])
    thresholds = curve.thresholds[chosen].tolist()
    return {
        "thresholds": [None if value == np.inf else value for value in thresholds],  # nobody is called: JSON has no inf
        "sensitivity": curve.sensitivity[chosen].tolist(),
        "specificity": curve.specificity[chosen].tolist(),
    }


def corners(sensitivity: NDArray[np.float64], specificity: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of the points without which the curve would have another shape: where it turns, and both ends."""
    up, down = np.diff(sensitivity), np.diff(specificity)
    straight = (up[1:] * down[:-1] == up[:-1] * down[1:]) & ((up[1:] == 0) == (up[:-1] == 0))
    return np.flatnonzero(np.concatenate([[True], ~straight, [True]]))
