import numpy as np
import pytest

from onfh_runtime.phantom.grid import Box, Grid
from onfh_runtime.phantom.shapes import FAR_MM, cone, coverage, ellipsoid, merge, merge_cone, paint, smooth_min, sphere


@pytest.fixture
def box() -> Box:
    return next(Grid("axial", (-30, -30, -30), (61, 61, 61), (1, 1, 1)).chunks(10**6))


def test_the_volume_of_a_sphere(box: Box) -> None:
    volume = coverage(sphere(box, (1, 2, 3), 20.0), 1.0).sum()
    assert volume == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.005)


def test_the_volume_of_an_ellipsoid_and_of_a_capsule(box: Box) -> None:
    assert (ellipsoid(box, (0, 0, 0), (10, 15, 20)) < 0).sum() == pytest.approx(4 / 3 * np.pi * 3000, rel=0.02)
    capsule = coverage(cone(box, (-10, 0, 0), (10, 0, 0), 8.0, 8.0), 1.0).sum()
    assert capsule == pytest.approx(np.pi * 64 * 20 + 4 / 3 * np.pi * 512, rel=0.01)


def test_a_smooth_union_is_no_smaller_and_ends_where_solids_are_far_apart() -> None:
    a, b = np.float32([0, 1, 9]), np.float32([0, 2, 0])
    joined = smooth_min(a, b, 4.0)
    assert (joined <= np.minimum(a, b)).all()
    assert joined[2] == 0
    np.testing.assert_array_equal(smooth_min(a, b, 0.0), np.minimum(a, b))


def test_merging_changes_only_the_neighbourhood(box: Box) -> None:
    d = np.full(box.shape, FAR_MM, np.float32)
    merge(d, box, (-5, -5, -5), (5, 5, 5), lambda near: sphere(near, (0, 0, 0), 5.0))
    assert d[30, 30, 30] == pytest.approx(-5)
    assert d[0, 0, 0] == FAR_MM
    merge_cone(d, box, (20, 20, 20), (24, 24, 24), 3.0, 3.0)
    assert d[52, 52, 52] == pytest.approx(-3, abs=1e-5)


def test_paint_mixes_by_coverage() -> None:
    hu = np.zeros(3, np.float32)
    paint(hu, np.float32([0, 0.5, 1]), 100.0)
    np.testing.assert_allclose(hu, [0, 50, 100])


def test_a_mirrored_frame_sees_the_same_voxels(box: Box) -> None:
    seen = box.seen_from((10, 0, 0), -1.0)
    near = seen.within((-2, -2, -2), (4, 2, 2))
    assert near is not None
    assert near.shape == (5, 5, 7)
    assert seen.within((200, 0, 0), (300, 1, 1)) is None
    np.testing.assert_array_equal(seen.p.ravel()[near.index[2]], near.p.ravel())
