from dataclasses import replace

import numpy as np
import pytest

from onfh_runtime.phantom import anatomy
from onfh_runtime.phantom.anatomy import LABELS, Phantom, render
from onfh_runtime.phantom.lesion import lesion_radius
from onfh_runtime.phantom.spec import SCANNERS, SIDES, Hip, PhantomSpec, random_spec
from onfh_runtime.phantom.stack import axial_grid, coronal_grid

QUIET = replace(SCANNERS["site_a"], noise_sd_hu=0.0, blur_fwhm_mm=0.0)


def coarse(spec: PhantomSpec) -> Phantom:
    return render(spec, coronal_grid(spec, 3.0, 2.0))


def lps(phantom: Phantom, mask: np.ndarray) -> np.ndarray:
    index = np.argwhere(mask)
    return index @ phantom.affine[:3, :3].T + phantom.affine[:3, 3]


def healthy(hip: Hip) -> Hip:
    return replace(hip, lesion=None)


@pytest.fixture(scope="module")
def bilateral() -> Phantom:
    spec = random_spec(21, lesions="both", implant="none")
    return render(spec, coronal_grid(spec, 1.5, 1.0))


def test_the_same_spec_gives_the_same_bytes_and_another_seed_others() -> None:
    first, second = coarse(random_spec(8)), coarse(random_spec(8))
    assert first.hu.tobytes() == second.hu.tobytes()
    assert first.truth.tobytes() == second.truth.tobytes()
    assert coarse(random_spec(9)).hu.tobytes() != first.hu.tobytes()


def test_the_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = random_spec(4, lesions="both", implant="left")
    whole = coarse(spec)
    monkeypatch.setattr(anatomy, "BLOCK_VOXELS", 60_000)
    parts = coarse(spec)
    np.testing.assert_array_equal(whole.truth, parts.truth)
    np.testing.assert_allclose(whole.hu, parts.hu, atol=1e-2)


def test_arrays_are_what_they_are_said_to_be(bilateral: Phantom) -> None:
    assert bilateral.hu.dtype == np.float32
    assert bilateral.truth.dtype == np.uint8
    assert bilateral.hu.shape == bilateral.truth.shape == bilateral.grid.shape
    assert np.isfinite(bilateral.hu).all()


@pytest.mark.parametrize("side", SIDES)
def test_necrosis_lies_in_its_head_in_front_and_above(bilateral: Phantom, side: str) -> None:
    head = bilateral.heads[side]  # type: ignore[index]
    points = lps(bilateral, bilateral.truth == LABELS[side])  # type: ignore[index]
    assert len(points) > 100
    offset = points - np.array(head.centre)
    assert np.linalg.norm(offset, axis=1).max() <= head.radius
    assert offset[:, 2].mean() > 0
    assert offset[:, 1].mean() < 0


def test_right_is_at_negative_x(bilateral: Phantom) -> None:
    assert (lps(bilateral, bilateral.truth == LABELS["right"])[:, 0] < 0).all()
    assert (lps(bilateral, bilateral.truth == LABELS["left"])[:, 0] > 0).all()
    assert bilateral.heads["right"].centre[0] < 0 < bilateral.heads["left"].centre[0]


def test_the_volume_of_necrosis_is_near_the_drawn_fraction() -> None:
    ratios = []
    for seed in range(60, 66):
        spec = random_spec(seed, lesions="both", implant="none")
        phantom = coarse(spec)
        for hip in spec.hips:
            assert hip.lesion is not None
            volume = (phantom.truth == LABELS[hip.side]).sum() * np.prod(phantom.grid.spacing)
            ratios.append(volume / (4 / 3 * np.pi * hip.head_radius**3) / hip.lesion.fraction)
    assert 0.75 < np.median(ratios) < 1.25


def test_the_lens_of_two_spheres_has_the_asked_volume() -> None:
    lesion = random_spec(3, lesions="right").lesions["right"]
    assert lesion is not None
    small = lesion_radius(replace(lesion, fraction=0.001, depth=0.5), 20.0)
    assert 4 / 3 * np.pi * small**3 == pytest.approx(0.001 * 4 / 3 * np.pi * 20**3, rel=1e-3)
    points = np.random.default_rng(1).uniform(-20, 20, (200_000, 3))
    head = np.linalg.norm(points, axis=1) < 20
    r = lesion_radius(replace(lesion, fraction=0.3, depth=0.9), 20.0)
    lens = head & (np.linalg.norm(points - [0, 0, 18], axis=1) < r)
    assert lens.sum() / head.sum() == pytest.approx(0.3, abs=0.01)


def test_necrosis_is_as_dense_as_the_bone_it_replaces_but_rougher() -> None:
    change, rougher = [], []
    for seed in range(30, 38):
        spec = random_spec(seed, scanner=QUIET, lesions="both", implant="none")
        sick = coarse(spec)
        well = render(replace(spec, right=healthy(spec.right), left=healthy(spec.left)), sick.grid)
        assert not well.truth.any()
        for value in LABELS.values():
            inside = sick.truth == value
            if inside.sum() > 30:
                change.append(float(sick.hu[inside].mean() - well.hu[inside].mean()))
                rougher.append(float(sick.hu[inside].std() - well.hu[inside].std()))
    assert abs(np.median(change)) < 20
    assert np.median(rougher) > 15


def test_outside_the_heads_a_lesion_changes_nothing() -> None:
    spec = random_spec(33, scanner=QUIET, lesions="right", implant="none")
    sick = coarse(spec)
    well = render(replace(spec, right=healthy(spec.right)), sick.grid)
    points = lps(sick, np.abs(sick.hu - well.hu) > 1)
    assert len(points)
    distance = np.linalg.norm(points - np.array(spec.right.centre), axis=1)
    assert distance.max() <= spec.right.head_radius + 4


def test_tissues_have_their_densities() -> None:
    spec = random_spec(12, scanner=QUIET, lesions="none", implant="none")
    phantom = render(spec, axial_grid(spec, 12, 128, 128))
    assert phantom.hu.min() == pytest.approx(-1000, abs=1)
    assert (np.abs(phantom.hu + 95) < 30).sum() > 1000
    assert (np.abs(phantom.hu - 58) < 30).sum() > 1000
    assert 400 < np.percentile(phantom.hu[phantom.hu > 150], 99) < 1300


def test_the_joint_is_open() -> None:
    spec = random_spec(14, scanner=QUIET, lesions="none", implant="none")
    hip = replace(spec.right, confounders=(), joint_space=4.2)
    spec = replace(spec, right=hip)
    phantom = render(spec, coronal_grid(spec, 1.5, 0.5))
    index = np.linalg.solve(phantom.affine, [*hip.centre, 1.0])[:3]
    s, r, c = (round(float(v)) for v in index)
    up = phantom.hu[s, r - round((hip.head_radius + 12) / 0.5) : r, c][::-1]
    heights = 0.5 * np.arange(1, len(up) + 1) - hip.head_radius
    assert up[(heights > 1) & (heights < 3)].max() < 250
    assert up[np.abs(heights) < 2].max() > 350
    assert up[(heights > 4) & (heights < 7)].max() > 350


def test_metal_lies_above_what_twelve_bits_hold_and_only_on_its_side() -> None:
    phantom = coarse(random_spec(6, lesions="none", implant="left"))
    points = lps(phantom, phantom.hu > 3071)
    assert len(points) > 50
    assert (points[:, 0] > 0).all()


def test_one_hip_alone_holds_one_head() -> None:
    spec = random_spec(6, lesions="both", implant="none", field_of_view="left")
    phantom = coarse(spec)
    assert set(np.unique(phantom.truth)) == {0, LABELS["left"]}
    corners = lps(phantom, np.ones(phantom.truth.shape, bool))
    assert corners[:, 0].min() > spec.right.centre[0] + spec.right.head_radius
    assert 170 < np.ptp(corners[:, 0]) < 200


def test_noise_has_the_scanners_spread_and_falls_with_the_slab() -> None:
    for name, scanner in SCANNERS.items():
        spec = random_spec(2, scanner=replace(scanner, hu_offset=0.0, hu_gain=1.0), lesions="none", implant="none")
        grid = axial_grid(spec, 10, 256, 256)
        air = render(spec, grid).hu[:, :12]
        volume = float(np.prod(grid.spacing))
        assert air.std() == pytest.approx(scanner.noise_sd_hu / np.sqrt(volume), rel=0.08), name
