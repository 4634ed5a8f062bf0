"""A threshold frozen from validation data, and the bundle that holds it.

The threshold is the highest at which the wanted share of the positives is called: the lowest of the probabilities that
must be called, itself called. It is therefore an observed probability, and a machine that rounds otherwise may answer
that one unit differently.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.bundle import Bundle, LoadedBundle, load_bundle, sha256_of
from onfh_runtime.errors import OutputError, UsageError
from onfh_runtime.evaluation.bootstrap import bootstrap_intervals, ratio_statistic
from onfh_runtime.evaluation.join import Joined
from onfh_runtime.evaluation.levels import Units, corners, informative, slice_units
from onfh_runtime.evaluation.paired_figures import rate_entry
from onfh_runtime.evaluation.rates import confusion_of_calls, rates_of
from onfh_runtime.evaluation.roc import roc_curve
from onfh_runtime.evaluation.units import cluster_index
from onfh_runtime.outputs.files import write_atomically

__all__ = ["CALIBRATION_FILE", "Frozen", "frozen_threshold", "seen_splits", "write_calibrated"]

CALIBRATION_FILE = "calibration.json"
Level = Literal["slice", "patient"]
_ROUNDING = 1e-9
"""Slack of a count: 0.29 of 100 positives are 28.999999999999996 in binary."""


@dataclass(frozen=True)
class Frozen:
    """A threshold and the document that says where it comes from (``calibration.json``)."""

    level: Level
    threshold: float
    document: dict[str, Any]


def frozen_threshold(
    joined: Joined, *, level: Level, target: float, rounds: int = 2000, seed: int = 0, splits: Sequence[str] = ()
) -> Frozen:
    """The highest threshold that reaches a sensitivity, with intervals of what it reaches and the whole curve.

    At the patient level those who are below the threshold and not fully covered count too: a threshold is about the
    probability.

    Args:
        joined: a run on validation data and its truth.
        level: of the threshold.
        target: wanted sensitivity, above 0 and at most 1.
        rounds: of the bootstrap over patients.
        seed: of the bootstrap.
        splits: what the truth says the cases are, for the record.

    Raises:
        UsageError: ``target_invalid``, or ``one_class`` when no threshold can be chosen.
    """
    if not 0 < target <= 1:
        raise UsageError("target_invalid", f"The target sensitivity {target} lies outside 0..1.")
    patient, probabilities, labels, unanswered = _scores(joined, level)
    positives = int(labels.sum())
    if not positives or positives == len(labels):
        raise UsageError(
            "one_class",
            f"{positives} of {len(labels)} {level}s are positive: a threshold needs both classes.",
            "Calibrate on labelled validation cases of both kinds.",
        )
    needed = max(1, math.ceil(target * positives - _ROUNDING))
    threshold = float(np.sort(probabilities[labels])[::-1][needed - 1])
    called = probabilities >= threshold
    cluster, clusters = cluster_index(patient)
    drawn = bootstrap_intervals(
        {
            "sensitivity": ratio_statistic(called & labels, labels, cluster, clusters),
            "specificity": ratio_statistic(~called & ~labels, ~labels, cluster, clusters),
        },
        clusters,
        rounds=rounds,
        seed=seed,
    )
    rates = rates_of(confusion_of_calls(called, labels))
    achieved = {name: rate_entry(getattr(rates, name), informative(drawn[name])) for name in drawn}
    if level == "slice":  # Wilson's interval is for independent units
        achieved = {name: entry | {"wilson": None} for name, entry in achieved.items()}
    document = {
        "schema": "onfh-calibration/1",
        "level": level,
        "target_sensitivity": target,
        "threshold": threshold,
        "units": len(labels),
        "positives": positives,
        "patients": clusters,
        "unanswered": unanswered,
        "splits": list(splits),
        "achieved": achieved,
        "rounds": rounds,
        "seed": seed,
        "curve": _curve(probabilities, labels),
    }
    return Frozen(level, threshold, document)


def _scores(
    joined: Joined, level: Level
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], dict[str, int]]:
    """Patient, probability and label of every unit, and how many units have none."""
    if level == "slice":
        units: Units = slice_units(joined)
        lost = units.unanswered[:, 1]
        return units.patient, joined.slices.probabilities, units.labels, {"n": len(lost), "positives": int(lost.sum())}
    known = [(number, each) for number, each in enumerate(joined.patients) if each.truth.label is not None]
    scored = [(number, each.probability, each.truth.label) for number, each in known if each.probability is not None]
    lost_labels = [bool(each.truth.label) for _, each in known if each.probability is None]
    return (
        np.array([number for number, _, _ in scored], np.int64),
        np.array([probability for _, probability, _ in scored], np.float64),
        np.array([label for _, _, label in scored], bool),
        {"n": len(lost_labels), "positives": sum(lost_labels)},
    )


def _curve(probabilities: NDArray[np.float64], labels: NDArray[np.bool_]) -> dict[str, Any]:
    """Every turn of the ROC curve, which is the whole of it; the first threshold is null, for nobody is called."""
    curve = roc_curve(probabilities, labels)
    assert curve is not None
    chosen = corners(curve.sensitivity, curve.specificity)
    return {
        "thresholds": [None if value == np.inf else value for value in curve.thresholds[chosen].tolist()],
        "sensitivity": curve.sensitivity[chosen].tolist(),
        "specificity": curve.specificity[chosen].tolist(),
    }


def seen_splits(joined: Joined) -> tuple[str, ...]:
    """What the truth says the patients are: their splits, "external" where only the site says so."""
    found = {("external" if each.truth.external else each.truth.split) for each in joined.patients}
    return tuple(sorted(found - {""}))


def write_calibrated(frozen: Frozen, bundle: LoadedBundle, out: Path, *, version: str | None = None) -> Path:
    """Write a bundle with the frozen threshold: whole or not at all, the old one untouched.

    Every file is copied, plans too. ``slice_threshold`` or ``patient_rule.threshold`` is changed, and the gate where it
    would hold back slices that are called positive: it is lowered to the slice threshold. ``parity.json`` is kept as
    the record it is; it was measured at the old thresholds, which ``provenance`` says.

    Args:
        frozen: from :func:`frozen_threshold`.
        bundle: the bundle the predictions were made with.
        out: a folder that is not there yet.
        version: of the new bundle; by default the old one with a digest of the calibration.

    Returns:
        ``out``.

    Raises:
        UsageError: ``version_unchanged``.
        OutputError: ``bundle_exists`` or ``output_unwritable``.
    """
    old = bundle.content
    text = json.dumps(_signed(frozen, bundle), indent=1, allow_nan=False) + "\n"
    chosen = version or f"{old.version}+{frozen.level}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if chosen == old.version:
        raise UsageError("version_unchanged", f"The old bundle is version {chosen} too.", "Give another --version.")
    if out.exists():
        raise OutputError("bundle_exists", f"{out} is already there.", "Choose another folder.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            temporary.chmod(0o755)
            shutil.copytree(bundle.root, temporary, dirs_exist_ok=True)
            write_atomically(temporary / CALIBRATION_FILE, text.encode())
            content = _changed(frozen, bundle, chosen, sha256_of(temporary / CALIBRATION_FILE))
            write_atomically(
                temporary / "bundle.json", (content.model_dump_json(by_alias=True, indent=1) + "\n").encode()
            )
            load_bundle(temporary)
            temporary.rename(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            "output_unwritable", f"Cannot write the bundle {out}: {error.strerror or error}.", "Choose another folder."
        ) from error
    return out


def _signed(frozen: Frozen, bundle: LoadedBundle) -> dict[str, Any]:
    old = bundle.content
    before = old.slice_threshold if frozen.level == "slice" else old.patient_rule.threshold
    return {
        **frozen.document,
        "bundle": {"name": old.name, "version": old.version, "sha256": bundle.sha256},
        "threshold_before": before,
        "gate_before": old.gate.threshold,
        "gate": _gate(frozen, old),
    }


def _gate(frozen: Frozen, old: Bundle) -> float:
    return min(old.gate.threshold, frozen.threshold) if frozen.level == "slice" else old.gate.threshold


def _changed(frozen: Frozen, bundle: LoadedBundle, version: str, digest: str) -> Bundle:
    old, said = bundle.content, frozen.document
    reached = said["achieved"]["sensitivity"]
    sentence = (
        f"{frozen.level} threshold {frozen.threshold:.6g} for a sensitivity of {said['target_sensitivity']:g}: "
        f"{reached['hits']} of {reached['of']} positives of {said['units']} {frozen.level}s of {said['patients']} "
        f"patients ({', '.join(said['splits']) or 'no split named'}); parity was measured at the thresholds before it"
    )
    changes: dict[str, Any] = {
        "version": version,
        "gate": old.gate.model_copy(update={"threshold": _gate(frozen, old)}),
        "provenance": old.provenance
        | {
            f"calibration_{frozen.level}": sentence,
            "calibrated_from": f"{old.name} {old.version} {bundle.sha256}",
        },
        "files": old.files | {CALIBRATION_FILE: digest},
    }
    if frozen.level == "slice":
        changes["slice_threshold"] = frozen.threshold
    else:
        changes["patient_rule"] = old.patient_rule.model_copy(update={"threshold": frozen.threshold})
    return old.model_copy(update=changes)
