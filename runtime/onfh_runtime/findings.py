"""From probabilities, a mask and the anatomy to what is said of the patient and of each hip.

Stage 1 speaks of a whole slice and stage 2 only of slices that passed the gate, so a side's state follows from both
(see :func:`side_states`). No missing result ever reads as negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.anatomy import Anatomy, Head
from onfh_runtime.bundle import Bundle, Gate, PatientRule
from onfh_runtime.result import Note, Patient, Side, Sides
from onfh_runtime.volume import CoronalStack

__all__ = ["IMPLANT_MM3", "LEFT", "RIGHT", "UNSIDED", "Findings", "findings", "gated_slices", "patient_probability"]

RIGHT, LEFT, UNSIDED = 1, 2, 3
"""Values of a labelled mask; 0 is no necrosis."""

HEAD_TOLERANCE_MM = 10.0
"""A necrosis lies in a femoral head: mask voxels farther than this outside the found sphere are not counted. The found
centre is off by up to 5 mm on phantoms; the rest is allowance for heads that are no spheres."""

IMPLANT_MM3 = 200.0
"""Metal near a head from which on streaks are feared: far above what noise makes (none was seen at hips without an
implant), far below the one real fixation at hand (about 3,000 mm3)."""


@dataclass(frozen=True)
class Findings:
    """The answer of one series. ``mask`` is (slices, rows, columns) uint8 on the stack: 0, RIGHT, LEFT or UNSIDED."""

    patient: Patient
    sides: Sides
    mask: NDArray[np.uint8]
    warnings: tuple[Note, ...]


def gated_slices(probabilities: NDArray[np.float32], gate: Gate) -> NDArray[np.int64]:
    """Indices, ascending, of the slices that go on to stage 2."""
    chosen = np.flatnonzero(probabilities >= gate.threshold)
    if gate.max_slices is not None and len(chosen) > gate.max_slices:
        order = np.argsort(-probabilities[chosen], kind="stable")
        chosen = np.sort(chosen[order[: gate.max_slices]])
    return chosen


def patient_probability(probabilities: NDArray[np.float32], rule: PatientRule) -> float:
    """Mean of the ``k`` most probable slices, of all of them when there are fewer."""
    return float(np.sort(probabilities)[::-1][: rule.k].mean(dtype=np.float64))


def findings(
    probabilities: NDArray[np.float32],
    mask: NDArray[np.bool_],
    stack: CoronalStack,
    anatomy: Anatomy,
    bundle: Bundle,
    *,
    removed: int = 0,
) -> Findings:
    """Put stage 1, stage 2 and the anatomy together.

    Args:
        probabilities: (slices,) float32, stage 1.
        mask: (slices, rows, columns) bool on the stack, stage 2 (False on slices the gate held back).
        stack: the slices that were analysed.
        anatomy: the femoral heads found.
        bundle: rules and thresholds.
        removed: voxels of small components that are in the mask no more.
    """
    probability = patient_probability(probabilities, bundle.patient_rule)
    positive = probability >= bundle.patient_rule.threshold
    notes = _coverage_notes(anatomy)
    voxel_mm3 = float(np.prod(stack.spacing_mm))
    if removed:
        volume, least = removed * voxel_mm3, bundle.minimum_component_mm3
        text = f"{volume:.0f} mm3 outlined in connected pieces below {least:g} mm3 do not count."
        notes.append(Note(code="small_components_removed", text=text))
    if not positive and mask.any():
        volume = float(mask.sum()) * voxel_mm3
        notes.append(
            Note(
                code="mask_withheld",
                text=f"Stage 2 outlined {volume:.0f} mm3 on slices that passed the gate, but the patient's probability "
                "is below the threshold; no necrosis is reported.",
            )
        )
        mask = np.zeros_like(mask)
    labelled, outside_mm3 = _labelled(mask, stack, anatomy)
    notes += _without_specks(labelled, voxel_mm3, bundle.minimum_volume_mm3)
    if outside_mm3 > 0:
        notes.append(
            Note(
                code="mask_outside_head",
                text=f"{outside_mm3:.0f} mm3 outlined outside the femoral heads are not counted.",
            )
        )
    if anatomy.unsided is not None:
        volume = float((labelled == UNSIDED).sum()) * voxel_mm3
        text = "One hip is in view and its side cannot be told from the images; no side is given."
        if volume > 0:
            text += f" The necrosis outlined in it has {volume:.0f} mm3."
        notes.append(Note(code="side_ambiguous", text=text))
    sides = side_states(labelled, stack, anatomy, positive=positive)
    return Findings(
        Patient(
            state=_patient_state(positive, anatomy),
            probability=min(1.0, max(0.0, probability)),
            threshold=bundle.patient_rule.threshold,
        ),
        sides,
        labelled,
        tuple(notes),
    )


def side_states(labelled: NDArray[np.uint8], stack: CoronalStack, anatomy: Anatomy, *, positive: bool) -> Sides:
    """The state of each side.

    Positive when it has a mask (one below the minimum volume was taken away before). Negative when this head is fully
    covered and either the patient's probability is below the threshold or the mask lies only on the other side.
    Undetermined when the patient is positive and no side has a mask. Not analysed when the head is absent from the
    images or cut by their edge.
    """
    measured = {label: _measure(labelled == label, stack) for label in (RIGHT, LEFT)}
    reached = {label: volume > 0 for label, (volume, _, _) in measured.items()}
    sides = {}
    for label, head in ((RIGHT, anatomy.right), (LEFT, anatomy.left)):
        volume, slices, centroid = measured[label]
        state, reason = _side_state(
            head, reached[label], reached[LEFT if label == RIGHT else RIGHT], positive, anatomy.unsided is not None
        )
        sides[label] = Side.model_validate(
            {"state": state, "reason": reason, "volume_mm3": volume, "slices": slices, "centroid_mm": centroid}
        )
    return Sides(right=sides[RIGHT], left=sides[LEFT])


def _side_state(
    head: Head | None, reached: bool, other_reached: bool, positive: bool, ambiguous: bool
) -> tuple[str, Note | None]:
    if reached:
        return "positive", None
    if ambiguous:
        return "undetermined", Note(code="side_ambiguous", text="The side of the one hip in view cannot be told.")
    if head is None:
        return "not_analysed", Note(code="anatomy_not_found", text="This femoral head is not in the images.")
    if not head.covered:
        return "not_analysed", Note(
            code="incomplete_coverage", text="This femoral head is cut by the edge of the images."
        )
    if positive and not other_reached:
        return "undetermined", Note(
            code="no_mask", text="Stage 1 is positive for the patient, but stage 2 outlined no necrosis that counts."
        )
    return "negative", None


def _patient_state(positive: bool, anatomy: Anatomy) -> str:
    if positive:
        return "positive"
    both = anatomy.right is not None and anatomy.left is not None
    return "negative" if both and all(head.covered for head in anatomy.heads) else "undetermined"


def _coverage_notes(anatomy: Anatomy) -> list[Note]:
    notes = []
    for name, head in (("right", anatomy.right), ("left", anatomy.left), ("visible", anatomy.unsided)):
        if head is not None and not head.covered:
            notes.append(
                Note(code="incomplete_coverage", text=f"The {name} femoral head is cut by the edge of the images.")
            )
        if head is not None and head.metal_mm3 >= IMPLANT_MM3:
            notes.append(
                Note(code="implant", text=f"There is metal at the {name} hip; streaks may disturb both stages there.")
            )
    if len(anatomy.heads) == 1:
        notes.append(
            Note(code="single_hip", text="Only one femoral head is in the images; nothing is said of the other.")
        )
    return notes


def _labelled(mask: NDArray[np.bool_], stack: CoronalStack, anatomy: Anatomy) -> tuple[NDArray[np.uint8], float]:
    """Give every mask voxel the side of the nearest head; also the volume (mm3) that is near no head."""
    labelled = np.zeros(mask.shape, np.uint8)
    index = np.argwhere(mask)
    if not len(index):
        return labelled, 0.0
    points = index @ stack.affine[:3, :3].T + stack.affine[:3, 3]
    heads = [(RIGHT, anatomy.right), (LEFT, anatomy.left), (UNSIDED, anatomy.unsided)]
    present = [(label, head) for label, head in heads if head is not None]
    beyond = np.stack(
        [np.linalg.norm(points - np.asarray(head.centre_mm), axis=1) - head.radius_mm for _, head in present]
    )
    labels = np.array([label for label, _ in present], np.uint8)[beyond.argmin(axis=0)]
    inside = beyond.min(axis=0) <= HEAD_TOLERANCE_MM
    labelled[tuple(index[inside].T)] = labels[inside]
    return labelled, float((~inside).sum()) * float(np.prod(stack.spacing_mm))


def _without_specks(labelled: NDArray[np.uint8], voxel_mm3: float, minimum_mm3: float) -> list[Note]:
    """Take away, in place, what one side has below the minimum volume, and say so: it is neither shown nor counted."""
    notes = []
    for label, name in ((RIGHT, "on the right"), (LEFT, "on the left"), (UNSIDED, "in the hip in view")):
        volume = float((labelled == label).sum()) * voxel_mm3
        if 0 < volume < minimum_mm3:
            labelled[labelled == label] = 0
            text = f"{volume:.0f} mm3 outlined {name} do not count: the minimum is {minimum_mm3:g} mm3."
            notes.append(Note(code="mask_below_minimum", text=text))
    return notes


def _measure(mask: NDArray[np.bool_], stack: CoronalStack) -> tuple[float, int, tuple[float, float, float] | None]:
    """Volume in mm3, number of slices and centroid in LPS mm of a mask on the stack."""
    index = np.argwhere(mask)
    if not len(index):
        return 0.0, 0, None
    x, y, z = stack.affine[:3, :3] @ index.mean(axis=0) + stack.affine[:3, 3]
    volume = len(index) * float(np.prod(stack.spacing_mm))
    return volume, len(np.unique(index[:, 0])), (float(x), float(y), float(z))
