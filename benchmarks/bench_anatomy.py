"""The search for the femoral heads on coronal stacks of 3 mm slices."""

from __future__ import annotations

from typing import Any

import pytest
from suite_cases import Sizes, phantom

from onfh_runtime.anatomy import find_femoral_heads
from onfh_runtime.phantom import coronal_from

DOES_NOT_MEASURE = ("real patients, whose bones give other candidates to examine than a phantom's",)


@pytest.mark.parametrize("part", ["whole", "middle_third"])
def test_femoral_heads(benchmark: Any, part: str, sizes: Sizes) -> None:
    """All of the stack, and as much of it as a series of coronal slices usually covers."""
    made = coronal_from(phantom(sizes.axial, sizes.matrix), 3.0)
    hu, affine = made.hu, made.affine.copy()
    if part == "middle_third":
        first = len(hu) // 3
        hu, affine[:3, 3] = hu[first : 2 * first], affine[:3, 3] + affine[:3, 0] * first
    found = benchmark(find_femoral_heads, hu, affine)
    assert len(found.heads) == 2
    benchmark.extra_info |= {"shape": list(hu.shape), "million_voxels": hu.size / 1e6}
