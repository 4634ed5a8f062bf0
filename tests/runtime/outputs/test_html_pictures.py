from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from onfh_runtime.outputs import html_pictures
from onfh_runtime.outputs.html_pictures import HU_OF_CODE, codes_from_hu, pictures_from_stack, text_from_plane
from onfh_runtime.volume import CoronalStack


def plane_from_text(text: str, columns: int) -> NDArray[np.uint8]:
    rows = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(-1, columns)
    return np.cumsum(rows, axis=0, dtype=np.uint8)


def stack_from(hu: NDArray[np.float32], spacing: tuple[float, float, float] = (3.0, 1.0, 0.7)) -> CoronalStack:
    slice_mm, row_mm, column_mm = spacing
    affine = np.array([[0, 0, column_mm, 0], [slice_mm, 0, 0, 0], [0, -row_mm, 0, 0], [0, 0, 0, 1]], float)
    return CoronalStack(hu, affine)


def test_codes_keep_hounsfield_units_where_the_windows_are() -> None:
    hu = np.arange(-500, 1501, dtype=np.float32)
    error = np.abs(HU_OF_CODE[codes_from_hu(hu)] - hu)
    assert error.max() <= 6.5
    assert error[(hu >= -160) & (hu <= 240)].max() <= 2.5


def test_codes_saturate_beyond_the_windows() -> None:
    assert codes_from_hu(np.array([-3000, -1000, 3071, 40_000], np.float32)).tolist() == [0, 0, 255, 255]


def test_text_unpacks_to_the_same_plane() -> None:
    plane = np.random.default_rng(0).integers(0, 256, (17, 23), np.uint8)
    np.testing.assert_array_equal(plane_from_text(text_from_plane(plane), 23), plane)


def test_pictures_hold_the_stack_and_the_mask() -> None:
    hu = np.random.default_rng(1).normal(100, 400, (3, 20, 30)).astype(np.float32)
    mask = np.zeros(hu.shape, np.uint8)
    mask[1, 4:9, 3:8], mask[1, 5:7, 20:25] = 1, 2
    data = pictures_from_stack(stack_from(hu), mask)
    assert (data["rows"], data["columns"], data["spacing"]) == (20, 30, [1.0, 0.7])
    for picture, plane in zip(data["pictures"], hu, strict=True):
        np.testing.assert_array_equal(plane_from_text(picture, 30), codes_from_hu(plane))
    assert data["masks"][0] == data["masks"][2] == ""
    np.testing.assert_array_equal(plane_from_text(data["masks"][1], 30), mask[1])


def test_large_pictures_shrink_and_keep_their_shape_and_mask() -> None:
    rows, columns = 101, 1030
    hu = np.tile(np.arange(columns, dtype=np.float32), (2, rows, 1))
    mask = np.zeros(hu.shape, np.uint8)
    mask[0, 50, 700] = 2
    data = pictures_from_stack(stack_from(hu), mask)
    assert (data["rows"], data["columns"]) == (101, 344)
    height, width = data["shown"][0] * data["spacing"][0], data["shown"][1] * data["spacing"][1]
    assert (height, width) == pytest.approx((rows * 1.0, columns * 0.7))
    np.testing.assert_array_equal(np.argwhere(plane_from_text(data["masks"][0], 344)), [[50, 233]])
    shown = HU_OF_CODE[plane_from_text(data["pictures"][0], 344)][0]
    np.testing.assert_allclose(shown[:-1], np.arange(343) * 3 + 1, atol=6.5)


def test_many_pictures_shrink_along_the_finer_axis_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_pictures, "_MAX_PIXELS", 4000)
    hu = np.zeros((10, 20, 30), np.float32)
    data = pictures_from_stack(stack_from(hu), np.zeros(hu.shape, np.uint8))
    assert (data["rows"], data["columns"]) == (20, 15)
