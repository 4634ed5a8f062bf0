from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from onfh_runtime.components import minimum_voxels, without_small_components


def labelled_by_scipy(mask, slice_index, minimum):
    """What is left of a mask, by a labelling of the whole stack with empty slices where the gate left holes."""
    stack = np.zeros((slice_index[-1] + 1, *mask.shape[1:]), bool)
    stack[slice_index] = mask
    labels, _ = ndimage.label(stack, np.ones((3, 3, 3)))
    large = np.bincount(labels.ravel()) >= minimum
    large[0] = False
    return large[labels][slice_index]


@st.composite
def masks(draw):
    slices, rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 12)), draw(st.integers(1, 14))
    steps = draw(st.lists(st.integers(1, 3), min_size=slices, max_size=slices))
    share = draw(st.sampled_from([0.02, 0.1, 0.2, 0.35, 0.6, 0.97]))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((slices, rows, columns))
    return noise < share, np.cumsum(steps) - 1


@settings(max_examples=400, deadline=None)
@given(masks(), st.integers(0, 40))
def test_what_is_left_is_what_scipys_labelling_leaves(case, minimum):
    mask, slice_index = case
    before = mask.copy()
    kept, removed = without_small_components(mask, slice_index, minimum)
    np.testing.assert_array_equal(kept, labelled_by_scipy(mask, slice_index, minimum))
    assert kept.dtype == np.bool_
    assert removed == mask.sum() - kept.sum()
    np.testing.assert_array_equal(mask, before)
    assert not np.shares_memory(kept, mask)


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(0, 40))
def test_nothing_changes_the_second_time_or_in_a_mirror(case, minimum):
    mask, slice_index = case
    kept, _ = without_small_components(mask, slice_index, minimum)
    again, removed = without_small_components(kept, slice_index, minimum)
    np.testing.assert_array_equal(again, kept)
    assert removed == 0
    mirrored, _ = without_small_components(mask[::-1, ::-1, ::-1], slice_index[-1] - slice_index[::-1], minimum)
    np.testing.assert_array_equal(mirrored[::-1, ::-1, ::-1], kept)


@pytest.mark.parametrize(("slice_index", "left"), [([4, 5], 2), ([4, 6], 0)])
def test_slices_touch_only_when_they_are_neighbours_in_the_stack(slice_index, left):
    mask = np.zeros((2, 5, 5), bool)
    mask[0, 1, 1] = mask[1, 2, 2] = True
    kept, removed = without_small_components(mask, np.array(slice_index), 2)
    assert (kept.sum(), removed) == (left, 2 - left)


@pytest.mark.parametrize(("one", "other"), [((0, 0, -1), (0, 1, 0)), ((0, -1, -1), (1, 0, 0)), ((0, -1, 1), (1, 0, 1))])
def test_the_end_of_one_row_or_slice_does_not_touch_the_start_of_the_next(one, other):
    mask = np.zeros((2, 3, 4), bool)
    mask[one] = mask[other] = True
    assert without_small_components(mask, np.array([0, 1]), 2)[1] == 2


def test_a_long_winding_piece_is_one():
    mask = np.zeros((5, 31, 40), bool)
    mask[::2, ::2] = True
    mask[::2, 1::4, 0] = mask[::2, 3::4, -1] = True
    mask[1, -1, -1] = mask[3, 0, 0] = True
    pieces, slice_index = mask.sum(), np.arange(5)
    assert without_small_components(mask, slice_index, pieces)[1] == 0
    assert without_small_components(mask, slice_index, pieces + 1)[1] == pieces


def test_a_mask_may_be_empty_or_a_view():
    for shape in ((0, 4, 4), (2, 4, 4)):
        kept, removed = without_small_components(np.zeros(shape, bool), np.arange(shape[0]), 5)
        assert kept.shape == shape
        assert not kept.any()
        assert removed == 0
    view = np.ones((4, 6, 9), bool)[::2, 1:5, ::3]
    assert without_small_components(view, np.array([0, 1]), 24)[1] == 0
    assert without_small_components(view, np.array([0, 2]), 24)[1] == 24


@pytest.mark.parametrize(
    ("minimum_mm3", "voxel_mm3", "expected"), [(0, 0.7, 0), (50, 25, 2), (51, 25, 3), (0.3, 0.1, 3), (2.1, 0.7, 3)]
)
def test_a_piece_of_just_the_minimum_stays(minimum_mm3, voxel_mm3, expected):
    assert minimum_voxels(minimum_mm3, voxel_mm3) == expected
