"""Which limits of a bundle a comparison does not keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onfh_export.parity import NOT_A_PROBABILITY, Comparison, Parity
from onfh_export.parity_compare import StudyDifference
from onfh_runtime.bundle import ParityLimits
from onfh_runtime.evaluation.paired import MaskPair

__all__ = ["Breach", "breaches"]

_ROUNDING = 1 + 1e-9
"""One pair's share of an AUC is spared whatever the rounding of the two areas."""
NAMED = 3
"""Studies that are named for a figure which belongs to all of them together."""


@dataclass(frozen=True)
class Breach:
    """A limit that a column does not keep.

    Attributes:
        column: which.
        limit: a field of :class:`~onfh_runtime.bundle.ParityLimits`, or ``not_a_probability``, which has no limit.
        value: what was found.
        allowed: what the limit says.
        studies: labels of the studies to look at, worst first.
        text: one sentence.
    """

    column: str
    limit: str
    value: float | None
    allowed: float | None
    studies: tuple[str, ...]
    text: str


def breaches(parity: Parity, limits: ParityLimits) -> tuple[Breach, ...]:
    """Every limit that a column does not keep, columns in order.

    Dice between masks is judged for each study and for all voxels together, before and after the rules: before them,
    because a rule may hide on these studies a drift that it will not hide on the next; after them, because that is what
    is reported. One voxel moves the Dice of a mask of 100 voxels by
    0.005, so a single differing voxel never is a breach, unless the limit is 1. It is spared once in a study and once
    in all of them together: many small masks that each differ in one voxel fail. Two empty masks agree; an outline in
    only one of them is Dice 0.

    In the same way one pair of a positive and a negative that changes its order is spared in an AUC: with six patients
    of either kind it alone is 0.028.
    """
    return tuple(breach for comparison in parity.comparisons for breach in _breaches(comparison, limits))


def _breaches(comparison: Comparison, limits: ParityLimits) -> Iterator[Breach]:
    name, together = comparison.column.name, comparison.pooled
    count = len(comparison.studies) + len(comparison.failed)
    if comparison.failed:
        labels = tuple(label for label, _ in comparison.failed)
        text = f"{name} gives no probability for {len(labels)} of {count} studies. {comparison.failed[0][1]}"
        yield Breach(name, NOT_A_PROBABILITY, None, None, labels, text)
    changed = [study for study in comparison.studies if study.states[0] != study.states[1]]
    if len(changed) > limits.patient_flips:
        text = f"{name} changes the answer for {len(changed)} of {count} patients."
        yield Breach(name, "patient_flips", len(changed), limits.patient_flips, _labels(changed), text)
    sided = [study for study in comparison.studies if study.side_flips]
    if together.side_flips > limits.side_flips:
        text = f"{name} changes the answer for {together.side_flips} sides."
        yield Breach(name, "side_flips", together.side_flips, limits.side_flips, _labels(sided), text)
    share = together.slice_flips / together.slices if together.slices else 0.0
    if share > limits.slice_flips:
        flipped = sorted((s for s in comparison.studies if s.slice_flips), key=lambda s: -len(s.slice_flips))
        text = f"{name} moves {together.slice_flips} of {together.slices} slices across the slice threshold."
        yield Breach(name, "slice_flips", share, limits.slice_flips, _labels(flipped), text)
    by_drift = sorted(comparison.studies, key=lambda study: -study.largest_drift)
    drifted = [study for study in by_drift if study.largest_drift > limits.probability_drift]
    if drifted:
        text = f"{name} moves a probability by {together.largest_drift:.4f}."
        value = together.largest_drift
        yield Breach(name, "probability_drift", value, limits.probability_drift, _labels(drifted), text)
    yield from _mask_breach(comparison, limits.mask_dice)
    for level, pair in (("slice", together.slice_auc), ("patient", together.patient_auc)):
        change = 0.0 if pair is None else pair[1] - pair[0]
        one = 1 / _pairs(comparison.studies, level) if pair is not None else 0.0
        if abs(change) > max(limits.auc_change, one * _ROUNDING if limits.auc_change > 0 else 0.0):
            text = f"{name} changes the {level} AUC by {change:+.4f}."
            yield Breach(name, "auc_change", abs(change), limits.auc_change, _labels(by_drift[:NAMED]), text)


def _mask_breach(comparison: Comparison, limit: float) -> Iterator[Breach]:
    """See :func:`breaches` for the rule."""
    name = comparison.column.name
    spared = 1 if limit < 1 else 0

    def judged(pairs: Sequence[MaskPair]) -> float:
        counted = [pair.dice for pair in pairs if pair.differing > spared]
        return min((value for value in counted if value is not None), default=1.0)

    each = [(judged((study.outlined, study.reported)), study) for study in comparison.studies]
    below = sorted((pair for pair in each if pair[0] < limit), key=lambda pair: pair[0])
    together = judged((comparison.pooled.outlined, comparison.pooled.reported))
    if below:
        text = f"{name} outlines {len(below)} of {len(each)} studies otherwise, down to a Dice of {below[0][0]:.4f}."
        yield Breach(name, "mask_dice", below[0][0], limit, _labels([study for _, study in below]), text)
    elif together < limit:
        differing = [study for study in comparison.studies if study.outlined.differing or study.reported.differing]
        text = f"{name} outlines all studies together with a Dice of {together:.4f}, though none of them fails alone."
        yield Breach(name, "mask_dice", together, limit, _labels(differing), text)


def _pairs(studies: Sequence[StudyDifference], level: str) -> int:
    """Pairs of a positive and a negative that an AUC counts."""
    if level == "slice":
        labels = [label for study in studies for label in study.labels.positive[study.labels.known]]
    else:
        labels = [study.labels.patient for study in studies if study.labels.patient is not None]
    positive = int(sum(labels))
    return positive * (len(labels) - positive)


def _labels(studies: Sequence[StudyDifference]) -> tuple[str, ...]:
    return tuple(study.study for study in studies)
