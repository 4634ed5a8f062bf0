from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onfh_runtime.preprocess import resample_matrix
from onfh_runtime.preprocess.bands import Bands


def both_ways(matrix, columns=5):
    image = np.random.default_rng(1).normal(0, 1000, (matrix.shape[1], columns)).astype(np.float32)
    out = np.full((len(matrix), columns), np.nan, np.float32)
    turned = np.full((columns, len(matrix)), np.nan, np.float32)
    bands = Bands(matrix)
    bands.times(image, out)
    bands.times_rows(np.ascontiguousarray(image.T), turned)
    return matrix @ image.astype(np.float64), out, turned.T


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.sampled_from([0.0, 0.1, 1.0]), st.integers(0, 2**32 - 1))
def test_any_matrix_is_its_blocks(outputs, inputs, share, seed):
    random = np.random.default_rng(seed)
    matrix = random.random((outputs, inputs)) * (random.random((outputs, inputs)) < share)
    wanted, out, turned = both_ways(matrix)
    np.testing.assert_allclose(out, wanted, atol=0.05)
    np.testing.assert_allclose(turned, wanted, atol=0.05)


@pytest.mark.parametrize(
    ("outputs", "output_mm", "inputs", "input_mm"),
    [(224, 1.72, 512, 0.75), (512, 0.75, 400, 0.75), (60, 6.0, 512, 0.7), (3, 90.0, 512, 0.7), (64, 0.5, 8, 1.0)],
)
def test_resampling(outputs, output_mm, inputs, input_mm):
    wanted, out, turned = both_ways(resample_matrix(outputs, output_mm, inputs, input_mm))
    np.testing.assert_allclose(out, wanted, atol=1e-3)
    np.testing.assert_allclose(turned, wanted, atol=1e-3)


def test_views_are_written_in_place():
    matrix = resample_matrix(60, 6.0, 512, 0.7)
    image = np.random.default_rng(1).normal(0, 1000, (512, 32)).astype(np.float32)
    whole = np.full((60, 3, 32), np.nan, np.float32)
    Bands(matrix).times(image, whole[:, 1])
    np.testing.assert_allclose(whole[:, 1], matrix @ image, atol=1e-3)
    assert np.isnan(whole[:, [0, 2]]).all()
