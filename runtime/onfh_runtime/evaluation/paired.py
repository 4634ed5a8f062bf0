"""How far two sets of answers to the same studies differ, in clinical terms.

Everything here works on arrays, whatever computed them: a network, an ONNX file, an engine or the result files of
another run. The exporter's parity gate and ``onfh evaluate --against`` both stand on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.evaluation.overlap import mask_overlap
from onfh_runtime.evaluation.roc import area_under_curve

__all__ = ["Difference", "Labels", "MaskPair", "Pooled", "Said", "difference", "mask_pair", "pooled", "together"]


@dataclass(frozen=True)
class Labels:
    """What is true of a study.

    Attributes:
        positive: (slices,) bool; False where not known.
        known: (slices,) bool, slices that have a label at all.
        patient: the patient's label; None where not known.
    """

    positive: NDArray[np.bool_]
    known: NDArray[np.bool_]
    patient: bool | None


@dataclass(frozen=True)
class Said:
    """What one way of computing says of one study.

    Attributes:
        probabilities: (slices,) floating point, stage 1.
        called: (slices,) bool, slices called positive.
        patient: the patient's probability; NaN where none is given.
        state: the patient's state.
        sides: states of the right and the left hip.
        reported: bool of any shape, the mask after the rules; None where there is no knowing.
    """

    probabilities: NDArray[np.floating]
    called: NDArray[np.bool_]
    patient: float
    state: str
    sides: tuple[str, str]
    reported: NDArray[np.bool_] | None


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
class Difference:
    """Two answers to one study. Pairs are (reference, other).

    Attributes:
        study: its label.
        probabilities: (slices,) floating point each.
        slice_flips: indices of the slices that only one of both calls positive.
        patients: the patient's probability.
        states: the patient's state.
        side_flips: "right" and "left" where a side's state differs.
        reported: the masks after the rules; None where one of them is not known.
        labels: what is true.
    """

    study: str
    probabilities: tuple[NDArray[np.floating], NDArray[np.floating]]
    slice_flips: tuple[int, ...]
    patients: tuple[float, float]
    states: tuple[str, str]
    side_flips: tuple[str, ...]
    reported: MaskPair | None
    labels: Labels

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
        slice_flips: slices that only one of both calls positive.
        patient_flips: studies whose patient state differs.
        side_flips: sides whose state differs.
        largest_drift: largest absolute change of a slice's probability.
        mean_drift: mean of the same.
        slice_auc: over the slices with a label.
        patient_auc: over the studies with a label.
        reported: the voxels of all studies whose masks are known, after the rules.
    """

    studies: int
    slices: int
    slice_flips: int
    patient_flips: int
    side_flips: int
    largest_drift: float
    mean_drift: float
    slice_auc: tuple[float, float] | None
    patient_auc: tuple[float, float] | None
    reported: MaskPair


def mask_pair(reference: NDArray[np.bool_], other: NDArray[np.bool_], voxel_mm3: float) -> MaskPair:
    """Count two masks of one shape.

    Raises:
        ValueError: shapes that differ, or masks that are not bool.
    """
    found = mask_overlap(reference, other)
    volumes = found.predicted * voxel_mm3, found.true * voxel_mm3
    return MaskPair(found.predicted, found.true, found.shared, volumes)


def difference(study: str, reference: Said, other: Said, voxel_mm3: float, labels: Labels | None = None) -> Difference:
    """Compare two answers to one study.

    Args:
        study: its label, no patient's name.
        reference: what is trusted.
        other: what is judged, on the same slices.
        voxel_mm3: of the masks.
        labels: what is true of the study, if that is known.

    Raises:
        ValueError: the two speak of different slices, or of masks of different shapes.
    """
    slices = len(reference.probabilities)
    if len(other.probabilities) != slices:
        raise ValueError(f"{study}: one answer has {slices} slices, the other {len(other.probabilities)}")
    nothing = np.zeros(slices, np.bool_)
    masks = None
    if reference.reported is not None and other.reported is not None:
        masks = mask_pair(reference.reported, other.reported, voxel_mm3)
    return Difference(
        study=study,
        probabilities=(reference.probabilities, other.probabilities),
        slice_flips=tuple(int(index) for index in np.flatnonzero(reference.called != other.called)),
        patients=(reference.patient, other.patient),
        states=(reference.state, other.state),
        side_flips=tuple(
            name
            for name, first, second in zip(("right", "left"), reference.sides, other.sides, strict=True)
            if first != second
        ),
        reported=masks,
        labels=labels or Labels(nothing, nothing, None),
    )


def pooled(studies: Sequence[Difference]) -> Pooled:
    """Put the studies together; see :class:`Pooled`."""
    drift = np.concatenate([np.zeros(0), *(np.abs(study.drift) for study in studies)])
    labelled = [study for study in studies if study.labels.patient is not None]
    return Pooled(
        studies=len(studies),
        slices=len(drift),
        slice_flips=sum(len(study.slice_flips) for study in studies),
        patient_flips=sum(study.states[0] != study.states[1] for study in studies),
        side_flips=sum(len(study.side_flips) for study in studies),
        largest_drift=float(drift.max(initial=0)),
        mean_drift=float(drift.mean()) if len(drift) else 0.0,
        slice_auc=_auc_pair(
            [[study.probabilities[i][study.labels.known] for study in studies] for i in (0, 1)],
            [study.labels.positive[study.labels.known] for study in studies],
        ),
        patient_auc=_auc_pair(
            [[np.array([study.patients[i]], np.float64) for study in labelled] for i in (0, 1)],
            [np.array([study.labels.patient], np.bool_) for study in labelled],
        ),
        reported=together([study.reported for study in studies if study.reported is not None]),
    )


def together(pairs: Sequence[MaskPair]) -> MaskPair:
    """The voxels and volumes of several pairs of masks as those of one."""
    return MaskPair(
        sum(pair.reference for pair in pairs),
        sum(pair.other for pair in pairs),
        sum(pair.shared for pair in pairs),
        (sum(pair.volumes_mm3[0] for pair in pairs), sum(pair.volumes_mm3[1] for pair in pairs)),
    )


def _auc_pair(
    scores: Sequence[Sequence[NDArray[np.floating]]], labels: Sequence[NDArray[np.bool_]]
) -> tuple[float, float] | None:
    """The area under both curves; None without both classes."""
    if not labels:
        return None
    truth = np.concatenate(labels)
    first, second = (area_under_curve(np.concatenate(each), truth) for each in scores)
    return None if first is None or second is None else (first, second)
