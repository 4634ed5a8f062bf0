"""Whether a peer gives the same answers: only then may times be compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class StudyLimits:
    """Largest difference of a slice's probability, least Dice of the masks on the stored voxels."""

    probability: float
    dice: float


@dataclass(frozen=True)
class StageLimits:
    """Largest difference of a probability, of a slice or of a pixel."""

    probability: float


def study_differs(ours: Path, theirs: Path, limits: StudyLimits) -> dict[str, Any]:
    """Compare two studies, each with ``probabilities`` and ``mask`` (bits)."""
    with np.load(ours) as a, np.load(theirs) as b:
        probability = _largest(a["probabilities"], b["probabilities"])
        mask, other = (np.unpackbits(each["mask"]) for each in (a, b))
        shared = int((mask & other).sum()) if mask.shape == other.shape else 0
        both = int(mask.sum()) + int(other.sum())
        dice = 2 * shared / both if both else 1.0
        gated = bool(np.array_equal(a["gated"], b["gated"]))
    return {
        "largest_probability_difference": probability,
        "mask_dice": dice,
        "mask_voxels": [int(mask.sum()), int(other.sum())],
        "same_slices_gated": gated,
        "limits": vars(limits),
        "within_limits": bool(probability <= limits.probability and dice >= limits.dice and both > 0),
    }


def stages_differ(ours: Path, theirs: Path, limits: StageLimits) -> dict[str, Any]:
    """Compare the probabilities of both stages, row by row."""
    with np.load(ours) as a, np.load(theirs) as b:
        worst = {stage: _largest(a[stage], b[stage]) for stage in ("classifier", "segmenter")}
    return {
        "largest_probability_difference": worst,
        "limit": limits.probability,
        "within_limits": max(worst.values()) <= limits.probability,
    }


def stack_differs(ours: Path, theirs: Path, way: str, *, most_hu: float) -> dict[str, Any]:
    """Compare the coronal slices seen: the mean of the absolute differences, HU."""
    with np.load(ours) as a, np.load(theirs) as b:
        same = a["stack"].shape == b[way].shape
        mean = float(np.abs(a["stack"] - b[way]).mean()) if same else float("inf")
    return {"mean_absolute_difference_hu": mean, "limit_hu": most_hu, "within_limits": mean <= most_hu}


def _largest(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest absolute difference; infinite when a shape or a number is wrong."""
    if a.shape != b.shape or not np.isfinite(b).all():
        return float("inf")
    return float(np.abs(a - b).max(initial=0.0))
