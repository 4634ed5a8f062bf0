import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from onfh_runtime.phantom.field import FWHM_PER_SIGMA, gaussian, random_field
from onfh_runtime.phantom.grid import Grid


def test_a_field_has_zero_mean_and_unit_sd() -> None:
    box = next(Grid("axial", (-40, -40, -40), (81, 81, 81), (1, 1, 1)).chunks(10**6))
    values = random_field((1, 2), 4.0, 45.0).at(box)
    assert values.mean() == pytest.approx(0, abs=0.1)
    assert values.std() == pytest.approx(1, abs=0.1)


def test_a_field_is_fixed_in_the_patient_whatever_the_plane() -> None:
    field = random_field((1, 2), 4.0, 45.0)
    axial = next(Grid("axial", (-9, -8, -6), (13, 17, 19), (1, 1, 1)).chunks(10**6))
    coronal = next(Grid("coronal", (-9, -8, 6), (17, 13, 19), (1, 1, 1)).chunks(10**6))
    turned = np.moveaxis(field.at(coronal), 0, 1)[::-1]
    np.testing.assert_allclose(field.at(axial), turned, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_gaussian_is_that_of_scipy(axis: int) -> None:
    image = np.random.default_rng(1).standard_normal((20, 24, 28)).astype(np.float32)
    fwhm, spacing = 3.0, 0.8
    sigma = fwhm / FWHM_PER_SIGMA / spacing
    expected = gaussian_filter1d(image, sigma, axis=axis, mode="nearest", radius=int(np.ceil(2.5 * sigma)))
    np.testing.assert_allclose(gaussian(image, fwhm, spacing, axis), expected, atol=1e-5)
