from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onfh_runtime.bundle import Coverage
from onfh_runtime.errors import SeriesError
from onfh_runtime.preprocess import coronal as module
from onfh_runtime.preprocess import coronal_stack, head_box, mask_to_volume, plan_coronal
from onfh_runtime.volume import CoronalStack, Volume


def make_volume(shape, affine, *, acquired="axial", slope=1.0, intercept=-1024.0, padding=None, seed=0):
    voxels = np.random.default_rng(seed).integers(0, 3000, shape).astype(np.int16)
    return Volume(
        voxels,
        np.asarray(affine, float),
        np.full(shape[0], slope),
        np.full(shape[0], intercept),
        padding=padding,
        acquired=acquired,
    )


def axial_affine(spacing=(3.0, 0.8, 0.9), origin=(-100.0, -150.0, 20.0)):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:3, 3], affine[3, 3] = origin, 1
    return affine


def value_at(volume, point):
    """HU of the voxel whose centre is nearest to an LPS point."""
    index = np.linalg.inv(volume.affine) @ np.array([*point, 1.0])
    k, r, c = np.rint(index[:3]).astype(int)
    return float(volume.hounsfield(int(k))[r, c])


ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_keeps_voxels_in_place(order, signs):
    affine = np.zeros((4, 4))
    for axis, (patient, sign) in enumerate(zip(order, signs, strict=True)):
        affine[patient, axis] = sign * (3.0, 2.0, 2.5)[axis]
    affine[:3, 3], affine[3, 3] = (5.0, -7.0, 11.0), 1
    volume = make_volume((4, 5, 6), affine)
    plan = plan_coronal(volume, 1.0)
    stack = coronal_stack(volume, plan)
    assert np.allclose(np.sign(np.diag(plan.affine[[1, 2, 0], :3])), (1, -1, 1))
    for index in np.ndindex(*stack.hu.shape):
        point = (stack.affine @ np.array([*index, 1.0]))[:3]
        assert stack.hu[index] == value_at(volume, point)


def test_slabs_average_with_exact_overlap_from_the_front_edge():
    volume = make_volume((2, 10, 3), axial_affine(spacing=(2.0, 0.8, 1.0)))
    plan = plan_coronal(volume, 3.0)
    stack = coronal_stack(volume, plan)
    assert stack.hu.shape == (2, 2, 3)
    weights = np.array([0.8, 0.8, 0.8, 0.6]) / 3
    hu = volume.hounsfield()
    expected = np.einsum("w,zwx->zx", weights, hu[:, :4])[::-1]
    np.testing.assert_allclose(stack.hu[0], expected, rtol=1e-5)
    front_face = volume.affine[1, 3] - 0.4
    np.testing.assert_allclose(stack.positions_mm, [front_face + 1.5, front_face + 4.5])


def test_native_coronal_is_taken_as_it_is_and_thin_coronal_is_averaged():
    affine = np.array([[0, 0, 1.0, 0], [3.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])
    native = make_volume((5, 4, 6), affine, acquired="coronal")
    plan = plan_coronal(native, 3.0)
    assert plan.native
    np.testing.assert_array_equal(coronal_stack(native, plan).hu, native.hounsfield())
    thin = affine.copy()
    thin[1, 0] = 1.0
    volume = make_volume((6, 4, 6), thin, acquired="coronal")
    plan = plan_coronal(volume, 3.0)
    assert not plan.native
    expected = volume.hounsfield().reshape(2, 3, 4, 6).mean(axis=1)
    np.testing.assert_allclose(coronal_stack(volume, plan).hu, expected, rtol=1e-5)


def test_reversed_native_coronal_names_its_own_slices():
    affine = np.array([[0, 0, 1.0, 0], [-3.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])
    plan = plan_coronal(make_volume((5, 4, 6), affine), 3.0)
    assert [plan.source_slice(i) for i in range(5)] == [4, 3, 2, 1, 0]


def test_padding_is_air_and_metal_does_not_overflow():
    volume = make_volume((2, 3, 3), axial_affine(), slope=2.0, intercept=0.0, padding=(-2000, -2000))
    volume.voxels[:] = 20000
    volume.voxels[0, 0, 0] = -2000
    stack = coronal_stack(volume, plan_coronal(volume, 0.5))
    assert stack.hu.max() == 40000
    assert stack.hu.min() == -1000


def test_slope_and_intercept_of_each_slice_are_used():
    volume = make_volume((3, 3, 3), axial_affine())
    varied = Volume(volume.voxels, volume.affine, np.array([1.0, 2.0, 0.5]), np.array([0.0, -10.0, 5.0]))
    hu = coronal_stack(varied, plan_coronal(varied, 0.5)).hu
    expected = volume.voxels * np.array([1.0, 2.0, 0.5])[:, None, None] + np.array([0.0, -10.0, 5.0])[:, None, None]
    np.testing.assert_allclose(hu, expected.transpose(1, 0, 2)[:, ::-1], rtol=1e-6)


@pytest.mark.parametrize("up", [1.0, -1.0])
@pytest.mark.parametrize("padding", [None, (0, 40)])
def test_many_slices_are_averaged_as_few_are(padding, up, monkeypatch):
    monkeypatch.setattr(module, "over_cores", lambda work, count: work(slice(0, count)))
    slices, random = 2 * module.TOGETHER + 5, np.random.default_rng(2)
    volume = make_volume((slices, 12, 6), axial_affine(spacing=(up, 1.0, 1.0)), padding=padding)
    volume = replace(volume, slope=random.uniform(0.5, 2, slices), intercept=random.uniform(-1100, -900, slices))
    plan = plan_coronal(volume, 3.0)
    expected = np.einsum("sp,kpc->skc", plan.weights, volume.hounsfield()[:: -1 if up > 0 else 1])
    np.testing.assert_allclose(coronal_stack(volume, plan).hu, expected, atol=2e-3)


@settings(max_examples=40, deadline=None)
@given(
    plane_mm=st.floats(0.3, 1.5),
    slabs=st.integers(2, 6),
    flip=st.booleans(),
)
def test_a_mask_comes_back_where_it_was_and_with_its_volume(plane_mm, slabs, flip):
    planes = int(np.ceil(slabs * 3.0 / plane_mm))
    affine = axial_affine(spacing=(2.0, -plane_mm if flip else plane_mm, 1.0))
    volume = make_volume((4, planes, 5), affine)
    plan = plan_coronal(volume, 3.0)
    mask = np.zeros(plan.shape, np.uint8)
    mask[1, 1:3, 2:4] = 2
    back = mask_to_volume(mask, plan, volume)
    assert back.shape == volume.voxels.shape
    assert set(np.unique(back)) == {0, 2}
    points = np.argwhere(back) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    centre = plan.affine @ np.array([1, 1.5, 2.5, 1.0])
    np.testing.assert_allclose(points[:, [0, 2]].mean(axis=0), centre[[0, 2]], atol=1e-6)
    assert abs(points[:, 1].mean() - centre[1]) <= plane_mm / 2 + 1e-6
    voxel = float(np.prod(volume.spacing_mm))
    assert abs(len(points) * voxel - mask.sum() / 2 * 6.0) <= 4 * 2.0 * plane_mm


def test_a_series_thinner_than_one_slab_is_refused():
    with pytest.raises(SeriesError, match="too_few_slices"):
        plan_coronal(make_volume((2, 2, 3), axial_affine()), 3.0)


class Sphere:
    def __init__(self, x):
        self.centre_mm, self.radius_mm = (x, 30.0, -40.0), 24.0


HEADS = (Sphere(60.0), Sphere(240.0))


def room(slices=60):
    affine = np.array([[0, 0, 2.0, 0], [3.0, 0, 0, 0], [0, -2.0, 0, 60.0], [0, 0, 0, 1]])
    return CoronalStack(np.zeros((slices, 100, 150), np.float32), affine)


def test_the_box_holds_the_heads_and_the_margins():
    box = head_box(room(), HEADS, Coverage(margin_mm=12.0, in_plane_mm=30.0))
    part = room().part(box)
    assert part.positions_mm[[0, -1]].tolist() == [0.0, 66.0]
    first, last = part.affine[:3, 3], (part.affine @ np.array([*(n - 1 for n in part.hu.shape), 1.0]))[:3]
    assert first.tolist() == [6.0, 0.0, 14.0]
    assert last.tolist() == [294.0, 66.0, -94.0]


def test_without_an_in_plane_margin_slices_stay_whole():
    box = head_box(room(), HEADS, Coverage(margin_mm=12.0))
    assert box[1:] == (slice(0, 100), slice(0, 150))


def test_the_box_stays_inside_the_stack():
    assert head_box(room(), HEADS, Coverage(margin_mm=500, in_plane_mm=500)) == (
        slice(0, 60),
        slice(0, 100),
        slice(0, 150),
    )
    assert head_box(room(1), HEADS, Coverage(margin_mm=0))[0] == slice(0, 1)


# --- a tilted gantry


def tilted_volume(degrees, *, slices=20, rows=60, flip=False, field=(0.7, -1.1, 1.9)):
    """A volume sheared front to back whose HU are a linear function of the place, which interpolation keeps exactly."""
    angle = np.radians(degrees)
    affine = np.eye(4)
    affine[:3, 0] = (0, 0, -2.0 if flip else 2.0)
    affine[:3, 1] = 0.8 * np.array([0, np.cos(angle), -np.sin(angle)])
    affine[:3, 2] = (0.9, 0, 0)
    affine[:3, 3] = (-20.0, -30.0, 40.0)
    shape = (slices, rows, 7)
    points = np.stack(np.indices(shape), -1) @ affine[:3, :3].T + affine[:3, 3]
    slope = 0.01  # rounding of stored values stays far below one HU
    voxels = np.rint(points @ field / slope).astype(np.int16)
    return Volume(voxels, affine, np.full(slices, slope), np.zeros(slices)), np.array(field)


@pytest.mark.parametrize("degrees", [-25.0, -3.0, 8.0, 30.0])
@pytest.mark.parametrize("flip", [False, True])
def test_a_tilted_volume_is_put_upright_where_it_is(degrees, flip):
    volume, field = tilted_volume(degrees, flip=flip)
    plan = plan_coronal(volume, 3.0)
    stack = coronal_stack(volume, plan)
    assert plan.tilted
    axes = stack.affine[:3, :3] / stack.spacing_mm
    np.testing.assert_allclose(axes, np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]]).T, atol=1e-12)
    assert stack.spacing_mm == pytest.approx((3.0, 2.0, 0.9))
    points = np.stack(np.indices(stack.hu.shape), -1) @ stack.affine[:3, :3].T + stack.affine[:3, 3]
    # Away from the ends every plane of a slab reaches the row, and the answer is the field at that very place.
    whole = np.zeros(stack.hu.shape, bool)
    shift = int(np.ceil(3.0 / np.cos(np.radians(degrees)) * abs(np.sin(np.radians(degrees))) / 2.0)) + 1
    measured = stack.hu > -990
    for k, slab in enumerate(measured[:, :, 0]):
        first, last = np.flatnonzero(slab)[[0, -1]]
        whole[k, first + shift : last + 1 - shift] = True
    assert whole.sum() > 0.4 * measured.sum()
    assert np.abs(stack.hu - points @ field)[whole].max() < 0.5
    assert measured.mean() < 1  # what lies outside the parallelogram was never measured
    assert set(np.unique(stack.hu[~measured])) <= {np.float32(-1000)}


@pytest.mark.parametrize("degrees", [-20.0, 15.0])
@pytest.mark.parametrize("flip", [False, True])
def test_a_mask_goes_back_onto_tilted_slices(degrees, flip):
    volume, _ = tilted_volume(degrees, flip=flip)
    plan = plan_coronal(volume, 1.0)
    points = np.stack(np.indices(plan.shape), -1) @ plan.affine[:3, :3].T + plan.affine[:3, 3]
    middle = volume.affine[:3] @ [10, 30, 3, 1]
    ball = (np.linalg.norm(points - middle, axis=-1) <= 9).astype(np.uint8)
    back = mask_to_volume(ball, plan, volume)
    assert back.shape == volume.voxels.shape
    inside = np.argwhere(back) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    assert np.abs(inside.mean(axis=0) - points[ball > 0].mean(axis=0)).max() < 0.4
    assert np.linalg.norm(inside - middle, axis=1).max() < 9 + 1.5
    voxels = abs(np.linalg.det(plan.affine[:3, :3])), abs(np.linalg.det(volume.affine[:3, :3]))
    assert back.sum() * voxels[1] == pytest.approx(ball.sum() * voxels[0], rel=0.03)


@pytest.mark.parametrize(
    "shear",
    [
        pytest.param((0.4, 0.0, 0.0), id="sideways"),
        pytest.param((0.0, 2.0, 0.0), id="45 degrees"),
    ],
)
def test_a_shear_that_no_gantry_makes_is_refused(shear):
    affine = axial_affine(spacing=(2.0, 0.8, 0.9))
    affine[:3, 0] += shear
    with pytest.raises(SeriesError) as error:
        plan_coronal(make_volume((20, 30, 7), affine), 3.0)
    assert error.value.code == "gantry_tilt"


def test_a_sheared_coronal_series_is_refused():
    affine = np.array([[0, 0, 1.0, 0], [3.0, 0, 0, 0], [0.4, -1.0, 0, 0], [0, 0, 0, 1]])
    with pytest.raises(SeriesError) as error:
        plan_coronal(make_volume((20, 30, 7), affine, acquired="coronal"), 3.0)
    assert error.value.code == "gantry_tilt"
