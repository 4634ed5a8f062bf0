"""How far two sets of answers to the same studies differ, in clinical terms.

Everything here works on arrays and on :class:`Said`, whatever computed them: a network, an ONNX file, an engine or the
result files of another run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_export.metrics import area_under_curve, dice, hd95_mm
from onfh_runtime.bundle import Bundle

__all__ = [
    "AgainstTruth",
    "MaskPair",
    "Pooled",
    "Said",
    "StudyDifference",
    "Truth",
    "mask_pair",
    "pooled",
    "study_difference",
]


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
class Said:
    """What one way of computing says of one study.

    Attributes:
        probabilities: (slices,) float32, stage 1.
        gated: (slices,) bool, what went on to stage 2.
        patient: the patient's probability.
        state: the patient's state.
        sides: states of the right and the left hip.
        outlined: (slices, rows, columns) bool, stage 2 before any rule.
        reported: (slices, rows, columns) bool, what is left of it after the rules.
    """

    probabilities: NDArray[np.float32]
    gated: NDArray[np.bool_]
    patient: float
    state: str
    sides: tuple[str, str]
    outlined: NDArray[np.bool_]
    reported: NDArray[np.bool_]


@dataclass(frozen=True)
class MaskPair:
    """Voxels of the reference's mask, of the other mask and of both, and the volume of each mask in mm3."""

    reference: int
    other: int
    shared: int
    volumes_mm3: tuple[float, float]

    @property
    def dice(self) -> float | None:
        """Twice the overlap over the sum of sizes; None when both are empty, 0 when one is."""
        size = self.reference + self.other
        return 2 * self.shared / size if size else None

    @property
    def differing(self) -> int:
        """Voxels in one mask and not in the other."""
        return self.reference + self.other - 2 * self.shared

    @property
    def drift_mm3(self) -> float:
        """Volume of the other mask minus that of the reference's."""
        return self.volumes_mm3[1] - self.volumes_mm3[0]

    @property
    def drift_percent(self) -> float | None:
        """The same in percent of the reference's volume; None when that is empty."""
        return 100 * self.drift_mm3 / self.volumes_mm3[0] if self.reference else None


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
class StudyDifference:
    """Two answers to one study. Pairs are (reference, other); flips are slice indices.

    Attributes:
        study: its label.
        probabilities: (slices,) float32 each.
        slice_flips: slices that change sides of the slice threshold.
        gate_flips: slices that only one of both sends on to stage 2.
        patients: the patient's probability.
        states: the patient's state.
        side_flips: "right" and "left" where a side's state differs.
        outlined: stage 2's masks before any rule.
        reported: the masks after the rules.
        positive: (slices,) bool, true labels.
        known: (slices,) bool, slices whose label is known.
        against_truth: where the study is truly positive and its mask is known.
    """

    study: str
    probabilities: tuple[NDArray[np.float32], NDArray[np.float32]]
    slice_flips: tuple[int, ...]
    gate_flips: tuple[int, ...]
    patients: tuple[float, float]
    states: tuple[str, str]
    side_flips: tuple[str, ...]
    outlined: MaskPair
    reported: MaskPair
    positive: NDArray[np.bool_]
    known: NDArray[np.bool_]
    against_truth: AgainstTruth | None

    @property
    def drift(self) -> NDArray[np.float64]:
        """(slices,) float64, change of each slice's probability."""
        reference, other = self.probabilities
        return other.astype(np.float64) - reference

    @property
    def largest_drift(self) -> float:
        """The largest absolute change of a slice's probability; the patient's, a mean of some, is no larger."""
        return float(np.abs(self.drift).max(initial=0))


@dataclass(frozen=True)
class Pooled:
    """All studies together. Pairs are (reference, other); what is undefined is None.

    Attributes:
        studies: how many.
        slices: how many.
        slice_flips: slices that change sides of the slice threshold.
        gate_flips: slices that only one of both sends on.
        patient_flips: studies whose patient state differs.
        side_flips: sides whose state differs.
        largest_drift: largest absolute change of a slice's probability.
        mean_drift: mean of the same.
        slice_auc: over the slices with a label.
        patient_auc: over the studies with a label.
        outlined: the voxels of all studies, before any rule.
        reported: the same after the rules.
        least_dice: the least Dice of one study, of the masks before and after the rules.
        both_empty: studies without an outline in either, which have no Dice.
        one_empty: studies with an outline in only one, whose Dice is 0.
        truth_studies: studies that are truly positive and have a mask.
        truth_dice: mean over those.
        truth_hd95_mm: mean over those of them where both outline a true slice.
        missed_slices: true slices on which nothing is outlined.
    """

    studies: int
    slices: int
    slice_flips: int
    gate_flips: int
    patient_flips: int
    side_flips: int
    largest_drift: float
    mean_drift: float
    slice_auc: tuple[float, float] | None
    patient_auc: tuple[float, float] | None
    outlined: MaskPair
    reported: MaskPair
    least_dice: float | None
    both_empty: int
    one_empty: int
    truth_studies: int
    truth_dice: tuple[float, float] | None
    truth_hd95_mm: tuple[float, float] | None
    missed_slices: tuple[int, int]


def mask_pair(reference: NDArray[np.bool_], other: NDArray[np.bool_], voxel_mm3: float) -> MaskPair:
    """Count two masks of one shape."""
    counts = int(reference.sum()), int(other.sum())
    return MaskPair(*counts, int((reference & other).sum()), (counts[0] * voxel_mm3, counts[1] * voxel_mm3))


def study_difference(
    study: str,
    reference: Said,
    other: Said,
    rules: Bundle,
    spacing_mm: tuple[float, float, float],
    truth: Truth | None = None,
) -> StudyDifference:
    """Compare two answers to one study at the frozen thresholds of ``rules``.

    Args:
        study: its label, no patient's name.
        reference: what is trusted.
        other: what is judged.
        rules: thresholds.
        spacing_mm: (slice, row, column) of the masks.
        truth: what is true of the study, if that is known.
    """
    called, called_other = (said.probabilities >= rules.slice_threshold for said in (reference, other))
    voxel_mm3 = float(np.prod(spacing_mm))
    nothing = np.zeros(len(reference.probabilities), np.bool_)
    return StudyDifference(
        study=study,
        probabilities=(reference.probabilities, other.probabilities),
        slice_flips=_where(called != called_other),
        gate_flips=_where(reference.gated != other.gated),
        patients=(reference.patient, other.patient),
        states=(reference.state, other.state),
        side_flips=tuple(
            name
            for name, first, second in zip(("right", "left"), reference.sides, other.sides, strict=True)
            if first != second
        ),
        outlined=mask_pair(reference.outlined, other.outlined, voxel_mm3),
        reported=mask_pair(reference.reported, other.reported, voxel_mm3),
        positive=nothing if truth is None else truth.positive,
        known=nothing if truth is None else truth.known,
        against_truth=None
        if truth is None or truth.mask is None or not truth.mask.any()
        else _against_truth((reference.outlined, other.outlined), truth.mask, spacing_mm[1:]),
    )


def pooled(studies: Sequence[StudyDifference]) -> Pooled:
    """Put the studies together; see :class:`Pooled`."""
    drift = np.concatenate([np.abs(study.drift) for study in studies]) if studies else np.zeros(0)
    outlined, reported = [study.outlined for study in studies], [study.reported for study in studies]
    each = [pair.dice for pair in (*outlined, *reported)]
    truths = [study.against_truth for study in studies if study.against_truth is not None]
    return Pooled(
        studies=len(studies),
        slices=len(drift),
        slice_flips=sum(len(study.slice_flips) for study in studies),
        gate_flips=sum(len(study.gate_flips) for study in studies),
        patient_flips=sum(study.states[0] != study.states[1] for study in studies),
        side_flips=sum(len(study.side_flips) for study in studies),
        largest_drift=max((study.largest_drift for study in studies), default=0.0),
        mean_drift=float(drift.mean()) if len(drift) else 0.0,
        slice_auc=_slice_auc(studies),
        patient_auc=_patient_auc(studies),
        outlined=_together(outlined),
        reported=_together(reported),
        least_dice=min((value for value in each if value is not None), default=None),
        both_empty=sum(pair.dice is None for pair in outlined),
        one_empty=sum((pair.reference == 0) != (pair.other == 0) for pair in outlined),
        truth_studies=len(truths),
        truth_dice=_mean_pair([truth.dice for truth in truths]),
        truth_hd95_mm=_mean_pair([truth.hd95_mm for truth in truths if truth.hd95_mm is not None]),
        missed_slices=(sum(truth.missed[0] for truth in truths), sum(truth.missed[1] for truth in truths)),
    )


def _where(flags: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.flatnonzero(flags))


def _together(pairs: Sequence[MaskPair]) -> MaskPair:
    return MaskPair(
        sum(pair.reference for pair in pairs),
        sum(pair.other for pair in pairs),
        sum(pair.shared for pair in pairs),
        (sum(pair.volumes_mm3[0] for pair in pairs), sum(pair.volumes_mm3[1] for pair in pairs)),
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


def _slice_auc(studies: Sequence[StudyDifference]) -> tuple[float, float] | None:
    labels = [study.positive[study.known] for study in studies]
    return _auc_pair([[study.probabilities[i][study.known] for study in studies] for i in (0, 1)], labels)


def _patient_auc(studies: Sequence[StudyDifference]) -> tuple[float, float] | None:
    known = [study for study in studies if study.known.any()]
    labels = [np.array([study.positive.any()]) for study in known]
    return _auc_pair([[np.array([study.patients[i]]) for study in known] for i in (0, 1)], labels)


def _auc_pair(
    scores: Sequence[Sequence[NDArray[np.floating]]], labels: Sequence[NDArray[np.bool_]]
) -> tuple[float, float] | None:
    """The area under both curves; None without both classes."""
    if not labels:
        return None
    truth = np.concatenate(labels)
    first, second = (area_under_curve(np.concatenate(each), truth) for each in scores)
    return None if first is None or second is None else (first, second)


def _mean_pair(pairs: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    if not pairs:
        return None
    first, second = np.mean(np.asarray(pairs), axis=0)
    return float(first), float(second)
