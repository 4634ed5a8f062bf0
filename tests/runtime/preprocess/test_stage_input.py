from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onfh_runtime.bundle import StageInput, Window
from onfh_runtime.preprocess import letterbox, map_to_stack, mask_to_input, resample_matrix, stage_input
from onfh_runtime.volume import CoronalStack

BONE = Window(center=500, width=2000)


def spec(size=(16, 24), windows=(BONE,), mean=(0.0,), std=(1.0,), minimum=0.0):
    return StageInput(size=size, windows=windows, mean=mean, std=std, min_pixel_spacing_mm=minimum)


def stack_of(hu, row_mm=1.0, column_mm=1.0):
    affine = np.array([[0, 0, column_mm, 0], [3.0, 0, 0, 0], [0, -row_mm, 0, 0], [0, 0, 0, 1]])
    return CoronalStack(np.asarray(hu, np.float32), affine)


@pytest.mark.parametrize(("inputs", "outputs"), [(100, 25), (64, 48), (30, 90), (33, 33)])
def test_scaling_is_pillows_antialiased_bilinear(inputs, outputs):
    image = np.random.default_rng(1).random((inputs, inputs)).astype(np.float32)
    matrix = resample_matrix(outputs, inputs / outputs, inputs, 1.0)
    expected = np.asarray(Image.fromarray(image).resize((outputs, outputs), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(matrix @ image @ matrix.T, expected, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 60),
    inputs=st.integers(1, 60),
    output_mm=st.floats(0.2, 5),
    input_mm=st.floats(0.2, 5),
)
def test_weights_sum_to_one_inside_and_zero_outside(outputs, inputs, output_mm, input_mm):
    matrix = resample_matrix(outputs, output_mm, inputs, input_mm)
    assert (matrix >= 0).all()
    totals = matrix.sum(axis=1)
    assert np.all(np.isclose(totals, 1) | (totals == 0))
    centre = np.abs((np.arange(outputs) - (outputs - 1) / 2) * output_mm)
    assert (totals[centre < inputs * input_mm / 2 * 0.999] > 0.5).all()


def test_window_and_normalisation_per_channel():
    soft = Window(center=50, width=400)
    values = stage_input(
        stack_of(np.full((1, 16, 24), 150.0)), spec(windows=(BONE, soft, soft), mean=(0.5, 0.25, 0), std=(0.5, 2, 1))
    )
    assert values.dtype == np.float32
    assert values.shape == (1, 3, 16, 24)
    np.testing.assert_allclose(values[0, :, 5, 5], [(0.325 - 0.5) / 0.5, (0.75 - 0.25) / 2, 0.75], rtol=1e-5)


def test_a_slice_is_scaled_to_fit_and_padded_with_air():
    values = stage_input(stack_of(np.full((1, 32, 24), 500.0)), spec(size=(16, 24)))
    assert np.allclose(values[0, 0, :, 6:18], 0.5)
    assert np.allclose(values[0, 0, :, :6], 0)
    assert np.allclose(values[0, 0, :, 18:], 0)


def test_air_outside_is_windowed_like_any_air():
    lung = Window(center=-600, width=1600)
    values = stage_input(stack_of(np.full((1, 8, 8), -1000.0)), spec(windows=(lung,), minimum=1.0))
    np.testing.assert_allclose(values, 0.25, rtol=1e-5)


def test_a_small_field_of_view_is_not_blown_up():
    assert letterbox((8, 8), (1.0, 1.0), spec(minimum=1.5)).pixel_mm == 1.5
    assert letterbox((8, 8), (1.0, 1.0), spec()).pixel_mm == 0.5
    assert letterbox((160, 120), (1.0, 1.0), spec(minimum=1.5)).pixel_mm == 10.0


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(20, 60),
    columns=st.integers(20, 60),
    row_mm=st.floats(0.5, 3),
    column_mm=st.floats(0.5, 3),
)
def test_a_disc_comes_back_where_it_was(rows, columns, row_mm, column_mm):
    box = spec(size=(96, 96))
    tables = letterbox((rows, columns), (row_mm, column_mm), box)
    y = (np.arange(rows) - rows / 2)[:, None] * row_mm
    x = (np.arange(columns) - columns / 3)[None] * column_mm
    radius = 0.25 * min(rows * row_mm, columns * column_mm)
    disc = ((y**2 + x**2) <= radius**2)[None]
    seen = mask_to_input(disc.astype(np.float32), tables)
    back = map_to_stack(seen, tables) >= 0.5
    dice = 2 * (back & disc).sum() / (back.sum() + disc.sum())
    assert dice > 0.9


def test_a_coarser_map_covers_the_same_field():
    tables = letterbox((64, 64), (1.0, 1.0), spec(size=(64, 64)), map_size=(16, 16))
    coarse = np.zeros((1, 16, 16), np.float32)
    coarse[0, 4:8, 8:12] = 1
    back = map_to_stack(coarse, tables)[0] >= 0.5
    rows, columns = np.argwhere(back).mean(axis=0)
    assert (rows, columns) == pytest.approx((23.5, 39.5))


def test_many_slices_are_scaled_as_each_alone_bit_for_bit():
    stack = stack_of(np.random.default_rng(3).uniform(-1000, 2000, (23, 30, 40)))
    wanted = spec(windows=(BONE, Window(center=40, width=400)), mean=(0.1, 0.2), std=(0.5, 0.25))
    tables = letterbox((30, 40), (1.0, 1.0), wanted)
    values = stage_input(stack, wanted)
    maps = map_to_stack(values[:, 0], tables)
    for index, image in enumerate(stack.hu):
        assert np.array_equal(values[index], stage_input(stack_of(image[None]), wanted)[0])
        assert np.array_equal(maps[index], map_to_stack(values[index : index + 1, 0], tables)[0])
