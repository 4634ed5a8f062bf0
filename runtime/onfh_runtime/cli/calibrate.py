"""``onfh calibrate``: freezes a threshold from validation data into a new version of a bundle."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from onfh_runtime.cli.evaluate import add_sources
from onfh_runtime.errors import UsageError

if TYPE_CHECKING:
    from onfh_runtime.bundle import LoadedBundle
    from onfh_runtime.evaluation.predictions import Predictions

__all__ = ["HELP", "add_arguments", "run"]

HELP = "Freeze the highest threshold that reaches a sensitivity on validation data into a new version of a bundle."

_TESTS = ("test", "internal", "external", "train")
"""Splits whose cases were seen in training, or on which the bundle will be judged."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``onfh calibrate``."""
    add_sources(parser)
    parser.add_argument("--bundle", metavar="DIR", type=Path, required=True, help="what made the predictions")
    parser.add_argument("--out", metavar="NEW_BUNDLE", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument(
        "--target-sensitivity", type=float, required=True, metavar="S", help="share of the positives to call, as 0.989"
    )
    parser.add_argument(
        "--level", choices=("slice", "patient"), default="slice", help="which threshold (default: %(default)s)"
    )
    parser.add_argument("--version", metavar="V", help="of the new bundle (default: the old one and a digest)")
    parser.add_argument("--rounds", type=int, default=2000, metavar="N", help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run ``onfh calibrate``."""
    if options.rounds < 1 or options.seed < 0:
        raise UsageError("wrong_rounds", f"--rounds {options.rounds} --seed {options.seed} cannot be drawn.")
    from onfh_runtime.bundle import load_bundle
    from onfh_runtime.evaluation.calibrate import frozen_threshold, seen_splits, write_calibrated
    from onfh_runtime.evaluation.join import join
    from onfh_runtime.evaluation.predictions import read_predictions
    from onfh_runtime.evaluation.truth import read_truth

    bundle = load_bundle(options.bundle)
    rules = bundle.content
    table = options.predictions.is_file()
    predictions = read_predictions(
        options.predictions,
        slice_threshold=rules.slice_threshold if table else None,
        patient_threshold=rules.patient_rule.threshold if table else None,
        top_k=rules.patient_rule.k if table else None,
    )
    _of_this_bundle(predictions, bundle)
    joined = join(predictions, read_truth(options.truth))
    splits = seen_splits(joined)
    tested = sorted(set(splits) & set(_TESTS))
    if tested:
        print(
            f"Warning: the truth calls these cases {', '.join(tested)}. A threshold is frozen on validation cases; "
            "figures on cases that it was chosen from say nothing of others. [calibrated_on_test]",
            file=sys.stderr,
        )
    frozen = frozen_threshold(
        joined,
        level=options.level,
        target=options.target_sensitivity,
        rounds=options.rounds,
        seed=options.seed,
        splits=splits,
    )
    write_calibrated(frozen, bundle, options.out, version=options.version)
    written = load_bundle(options.out).content
    for name in ("sensitivity", "specificity"):
        reached = frozen.document["achieved"][name]
        limits = "no interval"
        if reached["bootstrap"] is not None:
            limits = " to ".join(f"{100 * bound:.2f}" for bound in reached["bootstrap"])
        counts = f"{reached['hits']} of {reached['of']} {frozen.level}s"
        print(f"{name}: {100 * reached['value']:.2f}% ({limits}), {counts}")
    before = rules.slice_threshold if frozen.level == "slice" else rules.patient_rule.threshold
    print(f"{frozen.level} threshold: {before:.6g} -> {frozen.threshold:.6g}")
    if written.gate != rules.gate:
        print(f"gate: {rules.gate.threshold:.6g} -> {written.gate.threshold:.6g} (no called slice may miss stage 2)")
    print(f"{written.name} {written.version}: {options.out}. Research use only.")
    return 0


def _of_this_bundle(predictions: Predictions, bundle: LoadedBundle) -> None:
    if predictions.bundle is not None and predictions.bundle["sha256"] != bundle.sha256:
        raise UsageError(
            "bundle_differs",
            f"The results are of {predictions.bundle['name']} {predictions.bundle['version']}, not of the bundle in "
            f"{bundle.root}.",
            "Name the bundle that made them.",
        )
