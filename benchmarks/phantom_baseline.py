"""How far simple density rules get on the phantom: if they get far, the phantom is a toy.

Reports the slice AUC of single features and of a logistic regression over all of them, trained on one half of the
patients and tested on the other. ``geometry`` knows only where the slice cuts the heads, not one HU: necrosis lies in
the front of the head, so most of what a rule gains over all slices is that. It says nothing about what a network can
learn, nor about patients.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onfh_runtime.phantom.anatomy import Phantom, render
from onfh_runtime.phantom.cohort import cohort
from onfh_runtime.phantom.stack import coronal_from, coronal_grid
from onfh_runtime.phantom.truth import truth_of

COVERAGE_MM = 12.0
"""The demo bundle's margin: slices farther from the heads are not analysed."""
STATISTICS = ("mean", "sd", "p95", "above_300", "above_500", "above_700")
FEATURES = (
    *(f"slice_{name}" for name in STATISTICS),
    *(f"heads_max_{name}" for name in STATISTICS),
    *(f"heads_min_{name}" for name in STATISTICS),
)


def statistics(hu: NDArray[np.float32]) -> list[float]:
    """Mean, SD, 95th percentile and shares above 300, 500 and 700 HU."""
    shares = [float((hu > level).mean()) for level in (300, 500, 700)]
    return [float(hu.mean()), float(hu.std()), float(np.percentile(hu, 95)), *shares]


def slices(phantom: Phantom) -> tuple[NDArray[np.float64], ...]:
    """Features (slices, 18), geometry (slices, 3), label, whether a head is cut, whether it is analysed, per slice."""
    x, y, z = phantom.grid.origin
    ds, dr, dc = phantom.grid.spacing
    rows, where, cut, seen = [], [], [], []
    for k, hu in enumerate(phantom.hu):
        boxes, near, close, offset = [], False, False, 0.0
        for head in phantom.heads.values():
            column, row = (head.centre[0] - x) / dc, (z - head.centre[2]) / dr
            reach = head.radius + 2
            part = hu[
                max(0, round(row - reach / dr)) : round(row + reach / dr),
                max(0, round(column - reach / dc)) : round(column + reach / dc),
            ]
            boxes.append(statistics(part))
            offset = (y + ds * k - head.centre[1]) / head.radius
            near |= abs(offset) < 1
            close |= abs(offset) * head.radius <= head.radius + COVERAGE_MM
        both = np.array(boxes)
        rows.append([*statistics(hu), *both.max(0), *both.min(0)])
        where.append([max(0.0, 1 - offset**2), offset, offset**2])
        cut.append(near)
        seen.append(close)
    label = [entry["label"] for entry in truth_of(phantom)["slices"]]
    return np.array(rows), np.array(where), np.array(label), np.array(cut), np.array(seen)


def regression_auc(x: NDArray[np.float64], label: NDArray[np.float64], owner: NDArray[np.int64]) -> float:
    """Mean AUC of a logistic regression trained on one half of the patients and tested on the other, both ways."""
    aucs = []
    for half in (0, 1):
        test = owner % 2 == half
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(x[~test], label[~test])
        aucs.append(float(roc_auc_score(label[test], model.decision_function(x[test]))))
    return round(float(np.mean(aucs)), 3)


def report(patients: int, seed: int) -> dict[str, Any]:
    """Slice AUCs over a cohort of ``patients``."""
    per_site = patients * 3 // 10
    cases = cohort(seed, per_site, patients - 3 * per_site)
    parts = [slices(coronal_from(render(case.spec, coronal_grid(case.spec)))) for case in cases]
    owner = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    features, where, label, cut, seen = (np.concatenate([part[k] for part in parts]) for k in range(5))
    result: dict[str, Any] = {
        "patients": len(cases),
        "positive_patients": sum(case.spec.positive for case in cases),
        "slices": len(label),
        "positive_slices": int(label.sum()),
        "cuts_a_head_auc": round(float(roc_auc_score(label, cut)), 3),
    }
    everything = np.ones(len(label), bool)
    for name, chosen in (("all_slices", everything), ("analysed_slices", seen), ("slices_through_a_head", cut)):
        x, t, who = features[chosen], label[chosen], owner[chosen]
        single = {
            feature: round(max(auc, 1 - auc), 3)
            for feature, auc in ((f, float(roc_auc_score(t, x[:, k]))) for k, f in enumerate(FEATURES))
        }
        best = max(single, key=single.__getitem__)
        result[name] = {
            "slices": len(t),
            "positive": int(t.sum()),
            "best_single": {best: single[best]},
            "geometry": regression_auc(where[chosen], t, who),
            "logistic_regression": regression_auc(x, t, who),
            "logistic_regression_whole_slice": regression_auc(x[:, : len(STATISTICS)], t, who),
            "single": single,
        }
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    print(json.dumps(report(options.patients, options.seed), indent=1))


if __name__ == "__main__":
    main()
