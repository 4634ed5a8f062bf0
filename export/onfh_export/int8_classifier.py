"""The classifier with weights of eight bits: as many of its products as the limits on its slices allow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from onfh_export.graph.int8 import int8_from_float, products
from onfh_export.graph.precision import named
from onfh_export.reference import ReferenceStudy
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.bundle import Bundle, ModelPrecision
from onfh_runtime.errors import UsageError
from onfh_runtime.preprocess import stage_input
from onfh_runtime.stages import StageRunner

__all__ = ["int8_classifier_from_float"]


def int8_classifier_from_float(source: Path, out: Path, rules: Bundle, studies: Sequence[ReferenceStudy]) -> str:
    """Write the INT8 classifier: every product, or where slices would move too far, those that do not contract.

    Only slices are looked at here; whether patients, sides and masks keep their limits is for the parity gate to say.

    Args:
        source: the FP32 classifier.
        out: the file to write.
        rules: the limits, the slice threshold, and the classifier's input.
        studies: the reference.

    Returns:
        How many products have their weights in eight bits, and how far they moved a probability, as a sentence.

    Raises:
        UsageError: ``option_unsupported`` when no product has constant weights.
    """
    model = named(onnx.load(source))
    found = products(model)
    if not found:
        raise UsageError(
            "option_unsupported",
            "The classifier has no matrix product with constant weights, so INT8 weights would change nothing.",
            "Leave out --classifier-int8.",
        )
    contracting = [name for name, contracts in found.items() if contracts]
    tries = [[], contracting] if 0 < len(contracting) < len(found) else [[]]
    said = ""
    for keep in tries:
        int8_from_float(model, out, keep=keep)
        drift, flips = _moved(source, out, rules, studies)
        said = (
            f"{len(found) - len(keep)} of {len(found)} products have weights of eight bits; "
            f"a probability moves by {drift:.4f} at most."
        )
        if drift <= rules.parity.probability_drift and flips <= rules.parity.slice_flips:
            break
    return said


def _moved(source: Path, int8: Path, rules: Bundle, studies: Sequence[ReferenceStudy]) -> tuple[float, float]:
    """The largest change of a slice's probability, and the share of slices that cross the slice threshold."""
    pairs: list[tuple[Path, ModelPrecision]] = [(source, "fp32"), (int8, "int8")]
    backends = [OrtBackend(path, precision=precision) for path, precision in pairs]
    runners = [StageRunner("classifier", rules.classifier, backend) for backend in backends]
    rows = (stage_input(study.prepared.seen, rules.classifier.input) for study in studies)
    answers = [[runner.probabilities(values) for runner in runners] for values in rows]
    for backend in backends:
        backend.close()
    expected, given = (np.concatenate([pair[which] for pair in answers]) for which in (0, 1))
    crossed = (expected >= rules.slice_threshold) != (given >= rules.slice_threshold)
    return float(np.abs(expected - given).max()), float(crossed.mean())
