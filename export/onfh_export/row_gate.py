"""A gate for one stage on a few rows: cheap enough to ask about every candidate set of FP32 islands.

It stands in for the parity gate during the search only. What it lets through is judged again on whole studies.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from onfh_export.graph.islands import Verdict
from onfh_export.parity import NOT_A_PROBABILITY
from onfh_runtime.backends.ort_backend import OrtBackend
from onfh_runtime.bundle import ParityLimits, Stage, StageName
from onfh_runtime.errors import BackendError
from onfh_runtime.evaluation import dice
from onfh_runtime.stages import StageRunner

__all__ = ["row_gate"]

MARGIN = 0.5
"""Share of a limit that the rows may use up: they are a sample, and the worst slice may not be among them."""
FLIPS = 1
"""Rows that may change sides even if that is a larger share than the limit: one may lie on the threshold."""


def row_gate(
    rows: NDArray[np.float32],
    spec: Stage,
    stage: StageName,
    reference_model: ModelProto,
    limits: ParityLimits,
    threshold: float,
) -> Callable[[ModelProto], Verdict]:
    """Run the reference once, and return what judges a candidate with the same inputs and outputs.

    The classifier is judged by the largest change of a probability and by the rows that change sides of ``threshold``,
    the segmenter by the Dice between all masks at ``threshold`` together, or, where neither outlines anything, by the
    largest change of a pixel. The verdict's score is the share of its allowance that the candidate uses up: it passes
    up to 1, less is better, and NaN or infinity scores infinity.

    Args:
        rows: (rows, channels, height, width) float32, as :func:`~onfh_export.reference.sample_rows` makes them.
        spec: the stage: names of tensors and activation.
        stage: which.
        reference_model: FP32.
        limits: the bundle's.
        threshold: of a slice's probability, or of the mask.

    Raises:
        BackendError: the reference, and later a candidate, cannot be loaded or run; ``not_a_probability`` when the
            reference answers NaN.
    """
    expected = _probabilities(reference_model, rows, spec, stage)

    def judge(candidate: ModelProto) -> Verdict:
        try:
            found = _probabilities(candidate, rows, spec, stage)
        except BackendError as error:
            if error.code != NOT_A_PROBABILITY:
                raise
            return Verdict(passed=False, reason=error.text, score=float("inf"))
        drift = float(np.abs(found - expected).max(initial=0))
        called, called_found = expected >= threshold, found >= threshold
        drift_score = _used(drift, MARGIN * limits.probability_drift)
        if stage == "classifier":
            flips = int((called != called_found).sum())
            score = max(drift_score, flips / max(FLIPS, limits.slice_flips * len(rows)))
            return Verdict(score <= 1, f"a probability moves by {drift:.1e}, {flips} of {len(rows)} rows flip", score)
        overlap = dice(called_found, called)
        if overlap is None:
            return Verdict(drift_score <= 1, f"nothing is outlined, a pixel moves by {drift:.1e}", drift_score)
        score = _used(1 - overlap, MARGIN * (1 - limits.mask_dice))
        return Verdict(score <= 1, f"the masks have a Dice of {overlap:.5f}, a pixel moves by {drift:.1e}", score)

    return judge


def _used(value: float, allowance: float) -> float:
    """Share of an allowance, which may be 0."""
    if value == 0:
        return 0.0
    return value / allowance if allowance > 0 else float("inf")


def _probabilities(model: ModelProto, rows: NDArray[np.float32], spec: Stage, stage: StageName) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory(prefix="onfh-rows-") as folder:
        path = Path(folder) / stage / "model.onnx"
        path.parent.mkdir()
        onnx.save(model, path)
        runner = StageRunner(stage, spec, OrtBackend(path, precision="fp32"))
        try:
            return runner.probabilities(rows)
        finally:
            runner.close()
