import numpy as np
import pytest

from onfh_runtime.phantom.anatomy import Phantom, render
from onfh_runtime.phantom.grid import Grid
from onfh_runtime.phantom.spec import random_spec
from onfh_runtime.phantom.stack import axial_grid, coronal_from, coronal_grid, slab_weights


def test_weights_are_exact_overlaps() -> None:
    weights = slab_weights(10, 0.7, 3.0)
    assert weights.shape == (2, 10)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights[0], [*[0.7 / 3] * 4, 0.2 / 3, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(weights[1][:5], [0, 0, 0, 0, 0.5 / 3])


def test_native_coronal_slices_are_slab_averages_of_the_axial_volume() -> None:
    spec = random_spec(17, lesions="both", implant="none")
    axial = render(spec, axial_grid(spec, 24, 128, 96))
    coronal = coronal_from(axial, 4.0)
    row = axial.grid.spacing[1]
    front = axial.grid.origin[1] - row / 2
    for k in (0, 11, len(coronal.hu) - 1):
        low, high = front + 4.0 * k, front + 4.0 * (k + 1)
        total = np.zeros(coronal.hu.shape[1:])
        for j in range(axial.hu.shape[1]):
            overlap = min(high, front + row * (j + 1)) - max(low, front + row * j)
            if overlap > 0:
                total += overlap / 4.0 * axial.hu[::-1, j]
        np.testing.assert_allclose(coronal.hu[k], total, atol=0.05)
        assert coronal.affine[1, 3] + 4.0 * k == pytest.approx(low + 2.0)
    index = np.array([3, 5, 7, 1.0])
    x, y, z, _ = coronal.affine @ index
    slice_row_column = np.linalg.solve(axial.affine, [x, y, z, 1.0])
    assert slice_row_column[0] == pytest.approx(axial.hu.shape[0] - 1 - 5)
    assert slice_row_column[2] == pytest.approx(7)


def test_a_coronal_rendering_is_averaged_too_and_the_majority_names_the_voxel() -> None:
    spec = random_spec(17, lesions="both", implant="none")
    thin = Phantom(
        np.arange(5 * 2 * 2, dtype=np.float32).reshape(5, 2, 2),
        np.zeros((5, 2, 2), np.uint8),
        Grid("coronal", (0.0, 10.0, 0.0), (5, 2, 2), (1.0, 1.0, 1.0)),
        {},
        spec,
    )
    thin.truth[:2, 0, 0] = 1
    thin.truth[0, 0, 1] = 2
    thick = coronal_from(thin, 2.5)
    assert thick.hu.shape == (2, 2, 2)
    np.testing.assert_allclose(thick.hu[0], (thin.hu[0] + thin.hu[1] + 0.5 * thin.hu[2]) / 2.5, rtol=1e-5)
    assert thick.truth[0].tolist() == [[1, 0], [0, 0]]
    assert thick.grid.origin[1] == pytest.approx(10.0 - 0.5 + 1.25)


def test_grids_hold_the_heads() -> None:
    spec = random_spec(17)
    for grid in (axial_grid(spec), coronal_grid(spec)):
        for hip in spec.hips:
            index = np.linalg.solve(grid.affine, [*hip.centre, 1.0])[:3]
            reach = hip.head_radius / np.array(grid.spacing)
            assert (index > reach).all()
            assert (index + reach < np.array(grid.shape) - 1).all()
    assert axial_grid(spec).shape == (120, 512, 512)
