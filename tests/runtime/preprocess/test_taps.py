from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onfh_runtime.preprocess.taps import sparse_taps


def dense(first, values, inputs):
    matrix = np.zeros((len(first), inputs), np.float32)
    np.put_along_axis(matrix, first[:, None] + np.arange(values.shape[1]), values, axis=1)
    return matrix


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 2**32 - 1))
def test_a_matrix_is_its_taps(outputs, inputs, share, seed):
    random = np.random.default_rng(seed)
    matrix = random.random((outputs, inputs)) * (random.random((outputs, inputs)) < share)
    first, values = sparse_taps(matrix)
    assert first.dtype == np.int32
    assert values.dtype == np.float32
    assert first.min() >= 0
    assert (first + values.shape[1]).max() <= inputs
    np.testing.assert_array_equal(dense(first, values, inputs), matrix.astype(np.float32))
