"""What the parity gate sees of two answers beside what any two runs are compared by: the gate, stage 2 alone, truth.

Flips, drift and masks are those of :mod:`onfh_runtime.evaluation.paired`, which ``onfh evaluate --against`` uses too.
Here stages ran, so more is known than a result says: which slices went on, and what was outlined before any rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation import dice, hd95_mm, paired
from onfh_runtime.evaluation.paired import Labels, MaskPair

__all__ = ["AgainstTruth", "Pooled", "Said", "StudyDifference", "Truth", "pooled", "study_difference"]


@dataclass(frozen=True)
class Truth:
    """What is true of a study's slices.

    Attributes:
        positive: (slices,) bool, slice labels; False where not known.
        known: (slices,) bool, slices that have a label at all.
        mask: (slices, rows, columns) bool on the analysed slices, or None when the truth is labels only.
    """

    positive: NDArray[np.bool_]
    known: NDArray[np.bool_]
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Said(paired.Said):
    """What one way of computing says of one study.

    Attributes:
        reported: (slices, rows, columns) bool, what is left of ``outlined`` after the rules.
        gated: (slices,) bool, what went on to stage 2.
        outlined: (slices, rows, columns) bool, stage 2 before any rule.
    """

    reported: NDArray[np.bool_]
    gated: NDArray[np.bool_]
    outlined: NDArray[np.bool_]


@dataclass(frozen=True)
class AgainstTruth:
    """Both outlines of a truth-positive study against the true mask, before any rule.

    Pairs are (reference, other). ``hd95_mm`` is the mean over the ``compared`` slices: those with truth on which both
    outline something, so that its change is none of the choice of slices. ``missed`` counts slices with truth on which
    nothing is outlined.
    """

    dice: tuple[float, float]
    hd95_mm: tuple[float, float] | None
    compared: int
    missed: tuple[int, int]


@dataclass(frozen=True)
class StudyDifference(paired.Difference):
    """Two answers to one study. Pairs are (reference, other); flips are slice indices.

    Attributes:
        reported: the masks after the rules.
        gate_flips: slices that only one of both sends on to stage 2.
        outlined: stage 2's masks before any rule.
        against_truth: where the study is truly positive and its mask is known.
    """

    reported: MaskPair
    gate_flips: tuple[int, ...]
    outlined: MaskPair
    against_truth: AgainstTruth | None


@dataclass(frozen=True)
class Pooled(paired.Pooled):
    """All studies together. Pairs are (reference, other); what is undefined is None.

    Attributes:
        gate_flips: slices that only one of both sends on.
        outlined: the voxels of all studies, before any rule.
        least_dice: the least Dice of one study, of the masks before and after the rules.
        both_empty: studies without an outline in either, which have no Dice.
        one_empty: studies with an outline in only one, whose Dice is 0.
        truth_studies: studies that are truly positive and have a mask.
        truth_dice: mean over those.
        truth_hd95_mm: mean over those of them where both outline a true slice.
        missed_slices: true slices on which nothing is outlined.
    """

    gate_flips: int
    outlined: MaskPair
    least_dice: float | None
    both_empty: int
    one_empty: int
    truth_studies: int
    truth_dice: tuple[float, float] | None
    truth_hd95_mm: tuple[float, float] | None
    missed_slices: tuple[int, int]


def study_difference(
    study: str, reference: Said, other: Said, spacing_mm: tuple[float, float, float], truth: Truth | None = None
) -> StudyDifference:
    """Compare two answers to one study.

    Args:
        study: its label, no patient's name.
        reference: what is trusted.
        other: what is judged.
        spacing_mm: (slice, row, column) of the masks.
        truth: what is true of the study, if that is known.

    Raises:
        ValueError: the two speak of different slices, or of masks of different shapes.
    """
    voxel_mm3 = float(np.prod(spacing_mm))
    labels = None
    if truth is not None:
        patient = bool(truth.positive.any()) if truth.known.any() else None
        labels = Labels(truth.positive, truth.known, patient)
    shared = paired.difference(study, reference, other, voxel_mm3, labels)
    masks = reference.outlined, other.outlined
    return StudyDifference(
        **vars(shared),
        gate_flips=tuple(int(index) for index in np.flatnonzero(reference.gated != other.gated)),
        outlined=paired.mask_pair(*masks, voxel_mm3),
        against_truth=None
        if truth is None or truth.mask is None or not truth.mask.any()
        else _against_truth(masks, truth.mask, spacing_mm[1:]),
    )


def pooled(studies: Sequence[StudyDifference]) -> Pooled:
    """Put the studies together; see :class:`Pooled`."""
    outlined = [study.outlined for study in studies]
    each = [pair.dice for study in studies for pair in (study.outlined, study.reported)]
    truths = [study.against_truth for study in studies if study.against_truth is not None]
    return Pooled(
        **vars(paired.pooled(studies)),
        gate_flips=sum(len(study.gate_flips) for study in studies),
        outlined=paired.together(outlined),
        least_dice=min((value for value in each if value is not None), default=None),
        both_empty=sum(pair.dice is None for pair in outlined),
        one_empty=sum((pair.reference == 0) != (pair.other == 0) for pair in outlined),
        truth_studies=len(truths),
        truth_dice=_mean_pair([truth.dice for truth in truths]),
        truth_hd95_mm=_mean_pair([truth.hd95_mm for truth in truths if truth.hd95_mm is not None]),
        missed_slices=(sum(truth.missed[0] for truth in truths), sum(truth.missed[1] for truth in truths)),
    )


def _against_truth(
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]], truth: NDArray[np.bool_], spacing_mm: tuple[float, float]
) -> AgainstTruth:
    true_slices = np.flatnonzero(truth.any(axis=(1, 2)))
    empty = [[not mask[index].any() for index in true_slices] for mask in masks]
    both = [index for index, *none in zip(true_slices, *empty, strict=True) if not any(none)]
    distances = [[hd95_mm(mask[index], truth[index], spacing_mm) or 0.0 for index in both] for mask in masks]
    first, second = (dice(mask, truth) or 0.0 for mask in masks)
    return AgainstTruth(
        dice=(first, second),
        hd95_mm=(float(np.mean(distances[0])), float(np.mean(distances[1]))) if both else None,
        compared=len(both),
        missed=(sum(empty[0]), sum(empty[1])),
    )


def _mean_pair(pairs: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    if not pairs:
        return None
    first, second = np.mean(np.asarray(pairs), axis=0)
    return float(first), float(second)
