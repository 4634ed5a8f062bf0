"""Distances between boundaries, against MONAI, MedPy, surface-distance, SciPy and cases worked out by hand."""

import builtins
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter
from scipy.spatial.distance import cdist

from onfh_runtime.errors import MissingExtraError
from onfh_runtime.evaluation import hd95_mm, surface, surface_distances

SHAPES = [((48, 57), (0.7, 0.7)), ((48, 57), (0.9, 0.35)), ((14, 30, 26), (3.0, 0.8, 0.6))]


def blobs(shape, seed, level=0.55):
    """Two random shapes that overlap in part, with holes, islands and voxels at the edge of the array."""
    rng = np.random.default_rng(seed)
    base = rng.random(shape)
    for mix in (0.0, 0.6):
        field = gaussian_filter(base * (1 - mix) + rng.random(shape) * mix, 2.5, mode="wrap")
        yield field > np.quantile(field, level + 0.4 * rng.random())


def pairs(shape):
    for seed in range(6):
        yield tuple(blobs(shape, seed))
    one = np.zeros(shape, bool)
    one[(3,) * len(shape)] = True
    other = np.zeros(shape, bool)
    other[tuple(length - 1 for length in shape)] = True
    yield one, other
    yield one, np.ones(shape, bool)
    yield np.ones(shape, bool), np.ones(shape, bool)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_it_is_monais(peer, shape, spacing):
    torch, monai = peer("torch"), peer("monai.metrics")
    for one, other in pairs(shape):
        found = surface_distances(one, other, spacing)
        tensors = [torch.from_numpy(mask)[None, None] for mask in (one, other)]
        theirs = monai.compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=spacing)
        assert found.hd95_mm == pytest.approx(theirs.item(), abs=1e-4)
        assert hd95_mm(one, other, spacing) == found.hd95_mm
        theirs = monai.compute_average_surface_distance(
            *tensors, include_background=True, symmetric=True, spacing=spacing
        )
        assert found.assd_mm == pytest.approx(theirs.item(), abs=1e-4)


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_it_is_medpys(peer, shape, spacing):
    binary = peer("medpy.metric.binary")
    for one, other in pairs(shape):
        found = surface_distances(one, other, spacing)
        assert found.hd95_pooled_mm == pytest.approx(binary.hd95(one, other, spacing))
        assert found.assd_mm == pytest.approx(binary.assd(one, other, spacing))
        assert max(found.from_prediction.max(), found.from_truth.max()) == pytest.approx(binary.hd(one, other, spacing))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_it_is_near_surface_distance_which_weighs_by_area_and_bounds_between_voxels(peer, shape, spacing):
    module = peer("surface_distance.metrics")
    for seed in range(6):
        one, other = blobs(shape, seed)
        theirs = module.compute_surface_distances(other, one, spacing)
        assert hd95_mm(one, other, spacing) == pytest.approx(
            module.compute_robust_hausdorff(theirs, 95), abs=np.linalg.norm(spacing)
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(9, 11), (5, 6, 7)]), st.floats(0.05, 0.95))
def test_it_is_every_distance_written_out(seed, shape, share):
    rng = np.random.default_rng(seed)
    one, other = rng.random((2, *shape)) < share
    spacing = tuple(rng.uniform(0.3, 4, len(shape)))
    found = surface_distances(one, other, spacing)
    if not one.any() or not other.any():
        assert found is None
        return
    edges = [np.argwhere(mask & ~binary_erosion(mask)) * spacing for mask in (one, other)]
    table = cdist(*edges)
    assert np.sort(found.from_prediction) == pytest.approx(np.sort(table.min(axis=1)))
    assert np.sort(found.from_truth) == pytest.approx(np.sort(table.min(axis=0)))
    back = surface_distances(other, one, spacing)
    assert (back.hd95_mm, back.assd_mm) == pytest.approx((found.hd95_mm, found.assd_mm))


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_the_search_tree_and_the_table_agree(monkeypatch, shape, spacing):
    for one, other in pairs(shape):
        answers = []
        for limit in (0, 1 << 40):
            monkeypatch.setattr(surface, "_TABLE", limit)
            answers.append(surface_distances(one, other, spacing))
        assert answers[0].from_prediction == pytest.approx(answers[1].from_prediction, abs=1e-12)
        assert answers[0].from_truth == pytest.approx(answers[1].from_truth, abs=1e-12)


def test_single_voxels_are_their_distance_apart_in_mm():
    one, other = np.zeros((2, 20, 20), bool)
    one[5, 5] = True
    other[8, 9] = True
    found = surface_distances(one, other, (2.0, 1.0))
    for figure in (found.hd95_mm, found.hd95_pooled_mm, found.assd_mm):
        assert figure == pytest.approx(np.hypot(6, 4))


def test_the_definitions_differ_where_only_one_direction_sees_a_far_island():
    one = np.zeros((40, 60), bool)
    one[5:15, 5:15] = True
    other = one.copy()
    other[30, 50:55] = True
    found = surface_distances(one, other, (1, 1))
    assert found.from_prediction.max() == 0
    assert found.hd95_mm == pytest.approx(np.percentile(found.from_truth, 95))
    assert 0 < found.hd95_pooled_mm < found.hd95_mm


def test_a_mask_against_itself_and_its_dilation():
    (one, _) = blobs((60, 60), 1)
    assert surface_distances(one, one, (0.7, 0.8)).hd95_mm == 0
    square = np.zeros((30, 30), bool)
    square[10:20, 10:20] = True
    found = surface_distances(binary_dilation(square), square, (0.5, 0.5))
    assert found.hd95_mm == found.assd_mm == pytest.approx(0.5)


def test_an_empty_mask_has_no_distance():
    some = np.ones((4, 4), bool)
    for pair in ((some, ~some), (~some, some), (~some, ~some)):
        assert surface_distances(*pair, (1, 1)) is None
        assert hd95_mm(*pair, (1, 1)) is None


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan"))])
def test_a_spacing_that_does_not_fit_is_refused(spacing):
    some = np.ones((4, 4), bool)
    with pytest.raises(ValueError, match="2 positive numbers"):
        hd95_mm(some, some, spacing)


def test_masks_that_do_not_fit_are_refused():
    some = np.ones((4, 4), bool)
    with pytest.raises(ValueError, match="shape"):
        hd95_mm(some, some[:3], (1, 1))
    with pytest.raises(ValueError, match="bool"):
        hd95_mm(some, some.astype(np.uint8), (1, 1))


def test_masks_in_any_memory_order():
    one, other = blobs((30, 41), 3)
    assert hd95_mm(np.asfortranarray(one), other[::1], (1, 2)) == hd95_mm(one, other, (1, 2))
    assert hd95_mm(one[::-1, ::-1], other[::-1, ::-1], (1, 2)) == pytest.approx(hd95_mm(one, other, (1, 2)))


def test_without_scipy_it_says_what_to_install_whatever_the_size(monkeypatch):
    real = builtins.__import__

    def without_scipy(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    surface._search_tree.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with warnings.catch_warnings(), pytest.raises(MissingExtraError, match=r"onfh-edge\[evaluate\]"):
        hd95_mm(np.ones((2, 2), bool), np.ones((2, 2), bool), (1, 1))
