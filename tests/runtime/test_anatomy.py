"""Heads of phantom patients are found, sided and judged whole; everything that is no hip is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter

from onfh_runtime.anatomy import Anatomy, find_femoral_heads
from onfh_runtime.errors import SeriesError
from onfh_runtime.findings import IMPLANT_MM3
from onfh_runtime.phantom.anatomy import Phantom, render
from onfh_runtime.phantom.spec import SCANNERS, SIDES, random_spec
from onfh_runtime.phantom.stack import coronal_grid

CENTRE_MM = 5.0
STEP = 3.0
"""mm, the spacing of the drawn scenes."""


@cache
def phantom(seed: int, scanner: str = "site_a", **options: str) -> Phantom:
    spec = random_spec(seed, scanner=scanner, **{"implant": "none", **options})
    return render(spec, coronal_grid(spec, slab_mm=3.0, pixel_mm=2.0))


def crop(volume, affine, low=(0, 0, 0), high=(None, None, None)):
    index = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    moved = affine.copy()
    moved[:3, 3] = (affine @ [*low, 1])[:3]
    return np.ascontiguousarray(volume[index]), moved


def voxel(p: Phantom, side: str) -> np.ndarray:
    return (np.linalg.inv(p.affine) @ [*p.heads[side].centre, 1])[:3]


def error_mm(head, truth) -> float:
    return float(np.linalg.norm(np.subtract(head.centre_mm, truth.centre)))


def assert_refused(hu, affine) -> None:
    with pytest.raises(SeriesError) as caught:
        find_femoral_heads(np.asarray(hu, np.float32), affine)
    assert caught.value.code == "anatomy_not_found"


@pytest.mark.parametrize("scanner", sorted(SCANNERS))
@pytest.mark.parametrize("seed", [3, 14, 15])
def test_both_heads_are_found_whole_and_sided(scanner, seed):
    p = phantom(seed, scanner)
    found = find_femoral_heads(p.hu, p.affine)
    assert found.unsided is None
    for side in SIDES:
        head = getattr(found, side)
        assert error_mm(head, p.heads[side]) < CENTRE_MM
        assert abs(head.radius_mm - p.heads[side].radius) < 6
        assert head.covered
        assert head.metal_mm3 < IMPLANT_MM3
    assert found.midline_x_mm == pytest.approx(p.spec.midline_mm, abs=5)
    assert found.right.centre_mm[0] < found.left.centre_mm[0]
    assert found.heads == (found.right, found.left)


def test_sides_do_not_depend_on_the_isocentre():
    p = phantom(3)
    moved = p.affine.copy()
    moved[0, 3] += 400
    found, far = find_femoral_heads(p.hu, p.affine), find_femoral_heads(p.hu, moved)
    assert np.allclose(np.subtract(far.right.centre_mm, found.right.centre_mm), (400, 0, 0), atol=0.01)


def test_the_answer_is_the_same_every_time():
    p = phantom(14)
    assert find_femoral_heads(p.hu, p.affine) == find_femoral_heads(p.hu, p.affine)


@pytest.mark.parametrize("side", SIDES)
def test_metal_is_measured_in_its_own_head(side):
    p = phantom(15, implant=side)
    found = find_femoral_heads(p.hu, p.affine)
    other = "left" if side == "right" else "right"
    assert error_mm(getattr(found, side), p.heads[side]) < CENTRE_MM
    assert getattr(found, side).metal_mm3 > IMPLANT_MM3
    assert getattr(found, other).metal_mm3 < IMPLANT_MM3


def test_strong_noise_and_thick_voxels():
    p = phantom(3)
    noisy = p.hu + np.random.default_rng(1).normal(0, 80, p.hu.shape).astype(np.float32)
    rows = p.hu.shape[1] // 3 * 3
    thick = p.hu[:, :rows].reshape(len(p.hu), -1, 3, p.hu.shape[2]).mean(axis=2)
    affine = p.affine.copy()
    affine[:3, 3] += affine[:3, 1]
    affine[:3, 1] *= 3
    for hu, geometry in ((noisy, p.affine), (thick, affine)):
        found = find_femoral_heads(hu, geometry)
        assert max(error_mm(getattr(found, side), p.heads[side]) for side in SIDES) < CENTRE_MM


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_oblique_volumes_are_read_through_their_affine(axis):
    p = phantom(14)
    spread = np.radians(20)
    first, second = (k for k in range(3) if k != axis)
    turn = np.eye(4)
    turn[[first, second], [first, second]] = np.cos(spread)
    turn[first, second], turn[second, first] = -np.sin(spread), np.sin(spread)
    centre = np.eye(4)
    centre[:3, 3] = p.spec.centre
    turned = centre @ turn @ np.linalg.inv(centre) @ p.affine
    pull = np.linalg.inv(p.affine) @ turned
    hu = affine_transform(p.hu, pull[:3, :3], pull[:3, 3], output_shape=p.hu.shape, order=1, cval=-1000.0)
    found = find_femoral_heads(hu, turned)
    assert max(error_mm(getattr(found, side), p.heads[side]) for side in SIDES) < CENTRE_MM


@pytest.mark.parametrize("side", SIDES)
def test_a_single_hip_in_a_small_view_has_no_side(side):
    p = phantom(14, field_of_view=side)
    found = find_femoral_heads(p.hu, p.affine)
    assert (found.right, found.left) == (None, None)
    assert error_mm(found.unsided, p.heads[side]) < CENTRE_MM
    assert found.unsided.covered


def without(p: Phantom, side: str) -> np.ndarray:
    """The patient with muscle in place of all bone of one side."""
    hu = p.hu.copy()
    middle = round(float(voxel(p, "right")[2] + voxel(p, "left")[2]) / 2)
    half = hu[:, :, :middle] if side == "right" else hu[:, :, middle:]
    half[half > 100] = 50
    return hu


@pytest.mark.parametrize("side", SIDES)
def test_a_single_hip_is_sided_when_both_flanks_are_in_view(side):
    p = phantom(8)
    assert p.spec.half_width_mm < 170, "both flanks must lie in the view of 380 mm"
    found = find_femoral_heads(without(p, "left" if side == "right" else "right"), p.affine)
    assert found.unsided is None
    assert list(found.heads) == [getattr(found, side)]
    assert error_mm(getattr(found, side), p.heads[side]) < CENTRE_MM
    assert found.midline_x_mm == pytest.approx(p.spec.midline_mm, abs=12)


def test_a_single_hip_whose_shape_contradicts_the_outline_has_no_side():
    p = phantom(8)
    hu = without(p, "left")
    middle = hu.shape[2] // 2
    # The right hip moved across the body: by its place it is a left one, by its shape a right one.
    found = find_femoral_heads(np.concatenate([hu[:, :, middle:], hu[:, :, :middle]], axis=2), p.affine)
    assert (found.right, found.left) == (None, None)
    assert found.unsided is not None


@pytest.mark.parametrize("cut", ["below", "above", "behind"])
def test_cut_heads_are_not_covered(cut):
    p = phantom(15)
    s, r, _ = np.mean([voxel(p, side) for side in SIDES], axis=0)
    low, high = {
        "below": ((0, 0, 0), (None, int(r + 8), None)),
        "above": ((0, int(r - 5), 0), (None, None, None)),
        "behind": ((0, 0, 0), (int(s + 6), None, None)),
    }[cut]
    found = find_femoral_heads(*crop(p.hu, p.affine, low, high))
    assert not any(head.covered for head in found.heads)
    assert all(0.3 < head.coverage < 0.99 for head in found.heads)


def test_one_cut_head_leaves_the_other_whole():
    p = phantom(15)
    found = find_femoral_heads(*crop(p.hu, p.affine, low=(0, 0, int(voxel(p, "right")[2] - 5))))
    assert not found.right.covered
    assert found.left.covered


def test_padding_is_not_coverage():
    p = phantom(15)
    hu = p.hu.copy()
    hu[:, int(voxel(p, "left")[1] + 8) :] = -1000
    assert not find_femoral_heads(hu, p.affine).left.covered


@pytest.mark.parametrize("part", ["above", "below"])
@pytest.mark.parametrize("seed", [3, 14])
def test_a_pelvis_or_thigh_without_heads_is_refused(part, seed):
    p = phantom(seed)
    rows = [voxel(p, side)[1] for side in SIDES]
    low, high = (0, int(min(rows) - 17)) if part == "above" else (int(max(rows) + 17), p.hu.shape[1])
    assert_refused(*crop(p.hu, p.affine, (0, low, 0), (None, high, None)))


# Drawn scenes: (slice, row, column) with y back, z up, x left, blurred to 5 mm, noise of 20 HU.

AFFINE = np.array([[0.0, 0, STEP, -195], [STEP, 0, 0, -120], [0, -STEP, 0, 150], [0, 0, 0, 1]])
SHAPE = (80, 100, 130)
_S, _R, _C = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
Y, Z, X = -120 + STEP * _S, 150 - STEP * _R, -195 + STEP * _C


def ellipse(a: float, b: float, x: float = 0, y: float = 0) -> np.ndarray:
    return ((X - x) / a) ** 2 + ((Y - y) / b) ** 2 + 0 * Z <= 1


def ball(radius: float, x: float, y: float, z: float) -> np.ndarray:
    return (X - x) ** 2 + (Y - y) ** 2 + (Z - z) ** 2 <= radius**2


def bone(hu: np.ndarray, outer: np.ndarray, inner: np.ndarray) -> None:
    hu[outer], hu[outer & inner] = 800, 250


def spine(hu: np.ndarray) -> None:
    level = (Z + 300) % 35
    body = ellipse(24, 18, 0, 60) & (level < 27)
    bone(hu, body, ellipse(21, 15, 0, 60) & (level > 3) & (level < 24))


def chest(hu: np.ndarray) -> None:
    hu[ellipse(175, 110)] = 40
    for x in (-75, 75):
        hu[ellipse(60, 80, x)] = -850
    ring = ellipse(150, 95) & ~ellipse(142, 87) & ((Z + 300 + 0.3 * np.abs(X)) % 28 < 10)
    hu[ring] = 500
    spine(hu)


def shoulders(hu: np.ndarray) -> None:
    chest(hu)
    for sign in (-1, 1):
        bone(hu, ball(24, sign * 158, 10, 60), ball(22, sign * 158, 10, 60))
        shaft = ((X - sign * 165) ** 2 + (Y - 10) ** 2 <= 12**2) & (Z < 60)
        bone(hu, shaft, (X - sign * 165) ** 2 + (Y - 10) ** 2 <= 8**2)
        cup = ball(36, sign * 158, 10, 60) & ~ball(28, sign * 158, 10, 60) & (sign * X < 140)
        hu[cup] = 450


def heart(hu: np.ndarray) -> None:
    chest(hu)
    for radius, x, y, z in ((40, 20, -30, -10), (26, -20, -10, 30), (24, 35, 0, 45)):
        hu[ball(radius + 6, x, y, z)] = 120
        hu[ball(radius, x, y, z)] = 420


def skull(hu: np.ndarray) -> None:
    hu[ball(85, 0, 0, 0)] = 40
    hu[ball(78, 0, 0, 0) & ~ball(71, 0, 0, 0)] = 1000
    for sign in (-1, 1):
        hu[ball(18, sign * 33, -62, -30)] = 20


def abdomen(hu: np.ndarray) -> None:
    hu[ellipse(170, 105)] = 45
    hu[ball(45, 40, -30, 60)] = -950
    spine(hu)


def knees(hu: np.ndarray) -> None:
    for leg in (-90, 90):
        hu[((X - leg) / 62) ** 2 + (Y / 65) ** 2 + 0 * Z <= 1] = 45
        for side in (-22, 22):
            bone(hu, ball(27, leg + side, 5, 15), ball(25, leg + side, 5, 15))
        shaft = ((X - leg) ** 2 + Y**2 <= 18**2) & (Z > 25)
        bone(hu, shaft, (X - leg) ** 2 + Y**2 <= 14**2)
        tibia = (((X - leg) / 42) ** 2 + ((Y - 5) / 28) ** 2 <= 1) & (Z < -16) & (Z > -150)
        bone(hu, tibia, (((X - leg) / 38) ** 2 + ((Y - 5) / 24) ** 2 <= 1) & (Z < -20))
        bone(hu, ball(18, leg, -42, 20), ball(15, leg, -42, 20))


def water(hu: np.ndarray) -> None:
    hu[ellipse(100, 100)] = 0


def air(hu: np.ndarray) -> None:
    pass


def drawn(paint) -> np.ndarray:
    hu = np.full(SHAPE, -1000.0)
    paint(hu)
    noise = np.random.default_rng(2).normal(0, 20, SHAPE)
    return (gaussian_filter(hu, 0.7) + noise).astype(np.float32)


@pytest.mark.parametrize("paint", [chest, shoulders, heart, skull, abdomen, knees, water, air])
def test_other_anatomy_is_refused(paint):
    assert_refused(drawn(paint), AFFINE)


@pytest.mark.parametrize("level", [-1000.0, 40.0, 300.0])
def test_pure_noise_is_refused(level):
    noise = np.random.default_rng(3).normal(level, 150, (60, 60, 60))
    assert_refused(noise, np.diag([3.0, 3.0, 3.0, 1.0]) @ np.eye(4)[[2, 0, 1, 3]])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 40), (3, 60, 60), (60, 60, 2)])
def test_volumes_too_thin_for_a_head_are_refused(shape):
    assert_refused(np.full(shape, 300.0), AFFINE)


def test_heads_lists_what_was_found():
    p = phantom(3)
    right = find_femoral_heads(p.hu, p.affine).right
    assert Anatomy(right, None, None, None).heads == (right,)
    assert Anatomy(None, None, replace(right, covered=False), None).heads[0].covered is False
