from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onfh_runtime.evaluation.grid import boxes_meet, on_one_grid
from onfh_runtime.evaluation.masks import Mask


def placed(axes, spacing, origin):
    """An affine from the patient axis each array axis runs along: 1 is +x, -2 is -y."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, axis in enumerate(axes):
        affine[abs(axis) - 1, column] = np.sign(axis) * spacing[column]
    affine[:3, 3] = origin
    return affine


def ball(affine, shape, centre, radius):
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return Mask(np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - centre, axis=-1) <= radius, affine)


CORONAL = placed((2, -3, 1), (3.0, 1.0, 1.0), (-40, -30, 40))
AXIAL = placed((3, 2, 1), (2.0, 0.8, 0.8), (-40, -35, -40))


def test_masks_on_one_grid_are_left_as_they_are():
    one, other = ball(CORONAL, (20, 80, 80), (0, 0, 0), 10), ball(CORONAL, (20, 80, 80), (2, 0, 0), 10)
    both = on_one_grid(one, other)
    assert both.spacing_mm == (3.0, 1.0, 1.0)
    assert both.prediction.sum() == one.voxels.sum()
    assert both.truth.sum() == other.voxels.sum()
    assert (both.prediction & both.truth).sum() == (one.voxels & other.voxels).sum()


@pytest.mark.parametrize("axes", [(3, 2, 1), (-3, 2, -1), (1, 2, 3), (2, -3, 1), (-2, 3, 1)])
def test_the_grid_is_coronal_whatever_the_order_of_the_axes(axes):
    spacing = {1: 0.8, 2: 3.0, 3: 1.1}
    directions = {abs(axis): np.sign(axis) for axis in axes}
    corner = [-30 * directions[axis] for axis in (1, 2, 3)]
    affine = placed(axes, [spacing[abs(axis)] for axis in axes], corner)
    truth = ball(affine, (80, 80, 80), (1.0, 2.0, 3.0), 12)
    both = on_one_grid(None, truth)
    assert both.spacing_mm == (3.0, 1.1, 0.8)
    assert both.truth.sum() == truth.voxels.sum() > 0
    assert not both.prediction.any()


def test_the_prediction_takes_the_nearest_voxel():
    truth = Mask(np.ones((1, 4, 4), bool), placed((2, -3, 1), (3, 1, 1), (0, 0, 0)))
    fine = Mask(np.zeros((1, 8, 8), bool), placed((2, -3, 1), (3, 0.5, 0.5), (-0.25, 0, 0.25)))
    fine.voxels[0, :, 4:] = True  # x from 1.75 mm: columns 2 and 3 of the truth, whose centres are at 2 and 3 mm
    both = on_one_grid(fine, truth)
    assert both.prediction[0].any(axis=0).tolist() == [False, False, True, True]


def test_a_shift_of_half_a_voxel_shifts_no_more_than_that():
    truth = ball(CORONAL, (20, 80, 80), (0, 0, 0), 12)
    shifted = CORONAL.copy()
    shifted[0, 3] += 0.5
    moved = Mask(truth.voxels, shifted)
    both = on_one_grid(moved, truth)
    columns = [np.argwhere(mask)[:, 2].mean() for mask in (both.prediction, both.truth)]
    assert abs(columns[0] - columns[1]) in (0.0, 1.0)  # a tie goes one way, everywhere
    assert both.prediction.sum() == both.truth.sum()


def test_what_is_predicted_beyond_the_truths_grid_is_kept():
    truth = Mask(np.ones((2, 3, 3), bool), placed((2, -3, 1), (3, 1, 1), (0, 0, 0)))
    prediction = ball(CORONAL, (20, 80, 80), (0, 0, 0), 10)
    both = on_one_grid(prediction, truth)
    assert both.prediction.sum() == prediction.voxels.sum()
    assert both.truth.sum() == 18


def test_nothing_outlined_has_no_grid():
    empty = Mask(np.zeros((2, 3, 3), bool), CORONAL)
    assert on_one_grid(None, None) is None
    assert on_one_grid(empty, empty) is None
    assert on_one_grid(None, empty) is None


def test_a_sheared_truth_gets_an_upright_grid():
    sheared = AXIAL.copy()
    sheared[1, 0] = 0.5  # mm to the back for each slice: a gantry tilted by 14 degrees
    truth = ball(sheared, (40, 100, 100), (0, 0, 0), 12)
    prediction = ball(AXIAL, (40, 100, 100), (0, 0, 0), 12)
    both = on_one_grid(prediction, truth)
    assert both.spacing_mm == pytest.approx((0.8, 2.0, 0.8))
    shared = (both.prediction & both.truth).sum()
    assert 2 * shared / (both.prediction.sum() + both.truth.sum()) > 0.95


def test_grids_that_show_different_places():
    here = ball(CORONAL, (20, 80, 80), (0, 0, 0), 5)
    there = CORONAL.copy()
    there[0, 3] += 500
    assert boxes_meet(here, ball(AXIAL, (40, 100, 100), (0, 0, 0), 5))
    assert not boxes_meet(here, Mask(here.voxels, there))


@settings(max_examples=12, deadline=None)
@given(
    angle=st.floats(-0.5, 0.5),
    spacing=st.tuples(*[st.floats(0.5, 3.0)] * 3),
    shift=st.tuples(*[st.floats(-5, 5)] * 3),
)
def test_any_grid_shows_the_same_ball(angle, spacing, shift):
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ placed((3, 2, 1), spacing, (0, 0, 0))[:3, :3]
    shape = tuple(int(80 / step) for step in spacing)
    affine[:3, 3] = np.array(shift) - affine[:3, :3] @ (np.array(shape) / 2)
    truth = ball(CORONAL, (30, 80, 80), (0, 0, 0), 15)
    prediction = ball(affine, shape, (0, 0, 0), 15)
    both = on_one_grid(prediction, truth)
    size = 4 / 3 * np.pi * 15**3
    assert both.prediction.sum() * 3.0 == pytest.approx(size, rel=0.12)
    shared = (both.prediction & both.truth).sum()
    assert 2 * shared / (both.prediction.sum() + both.truth.sum()) > 0.88
