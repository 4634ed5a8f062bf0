"""A volume through both stages: what they see of it, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.anatomy import Anatomy, find_femoral_heads
from onfh_runtime.bundle import Bundle
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

__all__ = ["Answer", "Prepared", "answer", "prepare"]


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
class Answer:
    """What both stages say of a prepared volume.

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


def answer(
    prepared: Prepared, rules: Bundle, *, classifier: StageRunner, segmenter: StageRunner, clock: Stopwatch
) -> Answer:
    """Run stage 1 on every slice, stage 2 on the gated ones, and put them together.

    Raises:
        BackendError: a stage failed.
    """
    with clock.step("preprocess"):
        values = stage_input(prepared.seen, classifier.spec.input)
    with clock.step("classify"):
        probabilities = classifier.probabilities(values)
    gated = gated_slices(probabilities, rules.gate)
    mask = np.zeros(prepared.stack.hu.shape, np.bool_)
    if len(gated):
        _, *in_plane = prepared.box
        mask[np.ix_(gated, *(np.arange(side.start, side.stop) for side in in_plane))] = _segment(
            prepared.seen, gated, segmenter, rules.mask_threshold, clock
        )
    with clock.step("postprocess"):
        return Answer(probabilities, mask, findings(probabilities, mask, prepared.stack, prepared.anatomy, rules))


def _segment(
    stack: CoronalStack, gated: NDArray[np.int64], segmenter: StageRunner, threshold: float, clock: Stopwatch
) -> NDArray[np.bool_]:
    """Mask (gated slices, rows, columns) on the pixels of what the stages see."""
    with clock.step("preprocess"):
        # Only the voxels matter here: the gated slices need not be neighbours, so the affine is not theirs.
        values = stage_input(CoronalStack(stack.hu[gated], stack.affine), segmenter.spec.input)
    with clock.step("segment"):
        maps = segmenter.probabilities(values)
    with clock.step("postprocess"):
        height, width = maps.shape[1:]
        tables = letterbox(
            (stack.hu.shape[1], stack.hu.shape[2]), stack.spacing_mm[1:], segmenter.spec.input, (height, width)
        )
        return np.asarray(map_to_stack(maps, tables) >= threshold)
