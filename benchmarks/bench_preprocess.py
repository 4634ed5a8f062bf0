"""Preprocessing on the host, from a volume in memory to stage inputs, and a mask back.

The axial volume is as deep, front to back, as ``stack`` slices of the coronal stack: nothing is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from suite_cases import Sizes

from onfh_runtime.bundle import StageInput, Window
from onfh_runtime.preprocess import (
    CoronalPlan,
    coronal_stack,
    letterbox,
    map_to_stack,
    mask_to_volume,
    plan_coronal,
    stage_input,
)
from onfh_runtime.volume import CoronalStack, Volume

DOES_NOT_MEASURE = (
    "reading, which hides most of it when series follow each other",
    "the GPU's fused kernel: make gpu-check",
    "other libraries: preprocess_peers.py has them in the same run",
)
GATED = 10


def stage_spec(side: int) -> StageInput:
    """Three channels of one window, as the large stages have."""
    window = Window(center=500.0, width=2000.0)
    return StageInput(
        size=(side, side), windows=(window,) * 3, mean=(0.5,) * 3, std=(0.5,) * 3, min_pixel_spacing_mm=0.0
    )


@pytest.fixture(scope="module")
def plan(thin_volume: Volume, sizes: Sizes) -> CoronalPlan:
    """The plan of the coronal stack."""
    made = plan_coronal(thin_volume, thin_volume.voxels.shape[1] * thin_volume.spacing_mm[1] / sizes.stack)
    assert made.shape[0] == sizes.stack
    return made


@pytest.fixture(scope="module")
def stack(thin_volume: Volume, plan: CoronalPlan) -> CoronalStack:
    """The coronal stack."""
    return coronal_stack(thin_volume, plan)


def test_coronal_stack(benchmark: Any, thin_volume: Volume, plan: CoronalPlan) -> None:
    """Slab averages of all of the volume."""
    made = benchmark(coronal_stack, thin_volume, plan)
    benchmark.extra_info |= {"from": list(thin_volume.voxels.shape), "to": list(made.hu.shape)}


def test_stage_input(benchmark: Any, stack: CoronalStack, input_side: int) -> None:
    """Window, scale and normalise every slice of the stack to three channels."""
    values = benchmark(stage_input, stack, stage_spec(input_side))
    benchmark.extra_info |= {"from": list(stack.hu.shape), "to": list(values.shape)}


def test_stack_and_input(benchmark: Any, thin_volume: Volume, plan: CoronalPlan, input_side: int) -> None:
    """Both, one after the other."""
    values = benchmark(lambda: stage_input(coronal_stack(thin_volume, plan), stage_spec(input_side)))
    benchmark.extra_info |= {"from": list(thin_volume.voxels.shape), "to": list(values.shape)}


def test_map_to_stack(benchmark: Any, stack: CoronalStack, input_side: int) -> None:
    """Ten maps of stage 2 back onto the pixels of the stack."""
    tables = letterbox(stack.hu.shape[1:], stack.spacing_mm[1:], stage_spec(input_side))
    maps = np.random.default_rng(0).random((GATED, input_side, input_side), np.float32)
    back = benchmark(map_to_stack, maps, tables)
    benchmark.extra_info |= {"from": list(maps.shape), "to": list(back.shape)}


def test_mask_to_volume(benchmark: Any, thin_volume: Volume, plan: CoronalPlan) -> None:
    """A mask on ten slices of the stack back onto the voxels of the volume."""
    mask = np.zeros(plan.shape, np.uint8)
    mask[plan.shape[0] // 2 :][:GATED, 10:60, 10:60] = 1
    back = benchmark(mask_to_volume, mask, plan, thin_volume)
    assert back.any()
    benchmark.extra_info |= {"from": list(mask.shape), "to": list(back.shape)}
