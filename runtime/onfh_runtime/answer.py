"""A volume through both stages: what they see of it, what they say, and what follows from that.

This is the reference, on the host; :mod:`onfh_runtime.device_compute` does the same on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.anatomy import Anatomy, find_femoral_heads
from onfh_runtime.bundle import Bundle
from onfh_runtime.components import minimum_voxels, without_small_components
from onfh_runtime.findings import Findings, findings, gated_slices
from onfh_runtime.preprocess import (
    CoronalPlan,
    coronal_stack,
    head_box,
    letterbox,
    map_to_stack,
    plan_coronal,
    stage_input,
)
from onfh_runtime.stages import StageRunner
from onfh_runtime.timing import Stopwatch
from onfh_runtime.volume import CoronalStack, Volume

__all__ = ["Answer", "Prepared", "Said", "answer", "classifier_input", "conclude", "prepare", "say"]


@dataclass(frozen=True)
class Prepared:
    """What of a volume does not depend on any weight.

    Attributes:
        plan: how the volume's coronal slices were made.
        anatomy: the femoral heads.
        box: the part of the whole coronal stack that the stages see.
        seen: that part.
        stack: the analysed slices, each of them whole.
    """

    plan: CoronalPlan
    anatomy: Anatomy
    box: tuple[slice, slice, slice]
    seen: CoronalStack
    stack: CoronalStack


@dataclass(frozen=True)
class Said:
    """What both stages say of a prepared volume, before any rule of :func:`findings`.

    Attributes:
        probabilities: (slices,) float32, stage 1.
        gated: (n,) int64, ascending: the slices that went on to stage 2.
        mask: (n, rows, columns) bool, stage 2, on those slices of ``Prepared.seen``, without small components.
        removed: voxels of small components.
    """

    probabilities: NDArray[np.float32]
    gated: NDArray[np.int64]
    mask: NDArray[np.bool_]
    removed: int = 0


@dataclass(frozen=True)
class Answer:
    """What follows for the patient.

    Attributes:
        probabilities: (slices,) float32, stage 1.
        mask: (slices, rows, columns) bool on ``Prepared.stack``, stage 2, before any rule of :func:`findings`.
        found: what follows from both.
    """

    probabilities: NDArray[np.float32]
    mask: NDArray[np.bool_]
    found: Findings


def prepare(volume: Volume, rules: Bundle, clock: Stopwatch) -> Prepared:
    """Reformat a volume and find what the stages will see of it.

    Raises:
        SeriesError: the series shows no femoral head, or is too thin.
    """
    with clock.step("preprocess"):
        plan = plan_coronal(volume, rules.slice_spacing_mm)
        whole = coronal_stack(volume, plan)
        anatomy = find_femoral_heads(whole.hu, whole.affine)
        box = head_box(whole, anatomy.heads, rules.coverage)
        return Prepared(plan, anatomy, box, whole.part(box), whole.part((box[0], slice(None), slice(None))))


def classifier_input(
    prepared: Prepared, classifier: StageRunner, known: Mapping[int, float], clock: Stopwatch
) -> NDArray[np.float32]:
    """Stage 1's input for the slices of ``prepared.seen`` that are not in ``known``, in their order."""
    unknown = np.array([index for index in range(len(prepared.seen.hu)) if index not in known], np.int64)
    with clock.step("preprocess"):
        return stage_input(_slices(prepared.seen, unknown), classifier.spec.input)


def say(
    prepared: Prepared,
    rules: Bundle,
    *,
    classifier: StageRunner,
    segmenter: StageRunner,
    clock: Stopwatch,
    values: NDArray[np.float32],
    known: Mapping[int, float],
) -> Said:
    """Run stage 1 on every slice and stage 2 on the gated ones, on the host.

    Args:
        prepared: from :func:`prepare`.
        rules: the bundle's rules.
        classifier: stage 1.
        segmenter: stage 2.
        clock: told of every step.
        values: from :func:`classifier_input`.
        known: probabilities of slices of ``prepared.seen`` that stage 1 saw before, by index.

    Raises:
        BackendError: a stage failed.
    """
    probabilities = np.empty(len(prepared.seen.hu), np.float32)
    probabilities[list(known)] = list(known.values())
    with clock.step("classify"):
        probabilities[[index not in known for index in range(len(probabilities))]] = classifier.probabilities(values)
    gated = gated_slices(probabilities, rules.gate)
    mask, removed = np.zeros((0, *prepared.seen.hu.shape[1:]), np.bool_), 0
    if len(gated):
        mask = _segment(prepared.seen, gated, segmenter, rules.mask_threshold, clock)
        fewest = minimum_voxels(rules.minimum_component_mm3, float(np.prod(prepared.seen.spacing_mm)))
        if fewest > 1:
            with clock.step("postprocess"):
                mask, removed = without_small_components(mask, gated, fewest)
    return Said(probabilities, gated, mask, removed)


def conclude(said: Said, prepared: Prepared, rules: Bundle) -> Answer:
    """What follows from what both stages said."""
    mask = np.zeros(prepared.stack.hu.shape, np.bool_)
    if len(said.gated):
        _, *in_plane = prepared.box
        mask[np.ix_(said.gated, *(np.arange(side.start, side.stop) for side in in_plane))] = said.mask
    found = findings(said.probabilities, mask, prepared.stack, prepared.anatomy, rules, removed=said.removed)
    return Answer(said.probabilities, mask, found)


def answer(
    prepared: Prepared, rules: Bundle, *, classifier: StageRunner, segmenter: StageRunner, clock: Stopwatch
) -> Answer:
    """:func:`say`, then :func:`conclude`.

    Raises:
        BackendError: a stage failed.
    """
    values = classifier_input(prepared, classifier, {}, clock)
    said = say(prepared, rules, classifier=classifier, segmenter=segmenter, clock=clock, values=values, known={})
    with clock.step("postprocess"):
        return conclude(said, prepared, rules)


def _slices(stack: CoronalStack, chosen: NDArray[np.int64]) -> CoronalStack:
    """Some slices, for their voxels alone: they need not be neighbours, so the affine is not theirs."""
    return stack if len(chosen) == len(stack.hu) else CoronalStack(stack.hu[chosen], stack.affine)


def _segment(
    stack: CoronalStack, gated: NDArray[np.int64], segmenter: StageRunner, threshold: float, clock: Stopwatch
) -> NDArray[np.bool_]:
    """Mask (gated slices, rows, columns) on the pixels of what the stages see."""
    with clock.step("preprocess"):
        values = stage_input(_slices(stack, gated), segmenter.spec.input)
    with clock.step("segment"):
        maps = segmenter.probabilities(values)
    with clock.step("postprocess"):
        height, width = maps.shape[1:]
        tables = letterbox(
            (stack.hu.shape[1], stack.hu.shape[2]), stack.spacing_mm[1:], segmenter.spec.input, (height, width)
        )
        return np.asarray(map_to_stack(maps, tables) >= threshold)
