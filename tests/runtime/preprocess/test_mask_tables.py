from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onfh_runtime.bundle import StageInput, Window
from onfh_runtime.preprocess import letterbox
from onfh_runtime.preprocess.mask_tables import mask_tables


def dense(first, values, inputs):
    matrix = np.zeros((len(first), inputs), np.float32)
    np.put_along_axis(matrix, first[:, None] + np.arange(values.shape[1]), values, axis=1)
    return matrix


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    spacing=st.tuples(st.floats(0.3, 4), st.floats(0.3, 4)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    map_size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    minimum=st.floats(0, 3),
)
def test_the_packed_words_are_both_matrices(shape, spacing, size, map_size, minimum):
    spec = StageInput(
        size=size, windows=(Window(center=0, width=1),), mean=(0,), std=(1,), min_pixel_spacing_mm=minimum
    )
    box = letterbox(shape, spacing, spec, map_size)
    tables = mask_tables(box)
    assert (tables.size, tables.map_size) == (shape, map_size)
    assert tables.packed.dtype == np.int32
    (rows, columns), (row_taps, column_taps) = shape, tables.taps
    ends = np.cumsum([rows, columns, rows * row_taps, columns * column_taps])
    assert len(tables.packed) == ends[-1]
    first_row, first_column, row_weights, column_weights = np.split(tables.packed, ends[:-1])
    for first, weights, taps, matrix in (
        (first_row, row_weights, row_taps, box.back_rows),
        (first_column, column_weights, column_taps, box.back_columns),
    ):
        values = weights.view(np.float32).reshape(-1, taps)
        np.testing.assert_array_equal(dense(first, values, matrix.shape[1]), matrix.astype(np.float32))


def test_an_enlarged_map_is_drawn_on_by_two_taps_an_axis():
    spec = StageInput(size=(128, 128), windows=(Window(center=0, width=1),), mean=(0,), std=(1,))
    tables = mask_tables(letterbox((300, 500), (0.7, 0.7), spec))
    assert tables.taps == (2, 2)
    assert tables.packed.nbytes == (300 + 500) * 3 * 4
