"""Truth lands where the images say it is, and a case is prepared once."""

import json
from dataclasses import replace

import numpy as np
import pytest

from onfh_export.dataset import TruthMask, read_cases
from onfh_export.prepare import mask_on_stack, prepare, prepared_case
from onfh_export.recipe import smoke_recipe
from onfh_runtime.phantom.cohort import cohort, write_cohort
from onfh_runtime.volume import CoronalStack

RECIPE = smoke_recipe()


def _stack(shape=(6, 20, 30)):
    affine = np.array([[0, 0, 1.5, -20], [3.0, 0, 0, 10], [0, -1.5, 0, 100], [0, 0, 0, 1]])
    return CoronalStack(np.zeros(shape, np.float32), affine)


def _truth_sphere(centre, radius, shape=(70, 60, 90)):
    """An axial grid, 1 x 0.5 x 0.5 mm, with a sphere at ``centre`` (LPS mm)."""
    affine = np.array([[0, 0, 0.5, -20], [0, 0.5, 0, 5], [1.0, 0, 0, 50], [0, 0, 0, 1]])
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    return TruthMask(((points - centre) ** 2).sum(-1) <= radius**2, affine)


def test_a_mask_on_another_grid_keeps_its_place_and_volume():
    stack, centre, radius = _stack(), np.array([2.0, 18.0, 88.0]), 6.0
    found = mask_on_stack(_truth_sphere(centre, radius), stack)
    volume = found.sum() * np.prod(stack.spacing_mm)
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.05)
    index = np.argwhere(found > 0)
    weights = found[found > 0]
    mean = (index * weights[:, None]).sum(0) / weights.sum()
    np.testing.assert_allclose((stack.affine @ [*mean, 1])[:3], centre, atol=0.4)
    assert found[found < 1].max() > 0  # slabs that are cut hold a share


def test_a_mask_outside_the_stack_or_empty_gives_nothing():
    assert not mask_on_stack(_truth_sphere(np.array([2.0, 200.0, 88.0]), 6), _stack()).any()
    far = TruthMask(np.ones((2, 2, 2), bool), np.diag([1.0, 1, 1, 1]) + np.array([[0, 0, 0, 9e3]] * 3 + [[0] * 4]))
    assert not mask_on_stack(far, _stack()).any()


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """One positive case, as `onfh train --phantoms` writes it."""
    data = tmp_path_factory.mktemp("data")
    positive = next(case for case in cohort(5, 4, 0) if case.spec.positive)
    write_cohort([positive], data)
    return data


def test_a_phantom_is_labelled_as_its_own_truth_says(phantoms):
    (case,) = read_cases(phantoms, 0)
    ready = prepared_case(replace(case, split="test"), RECIPE)
    truth = json.loads((case.truth.parent / "truth.json").read_text())
    assert ready.pixels.shape[1:] == (1, *RECIPE.size)
    assert ready.masks.shape == (len(ready.pixels), *RECIPE.size)
    assert ready.positive.any()
    assert not ready.positive.all()
    assert ready.known.all()
    assert not ready.masks[~ready.positive].any() or ready.masks[~ready.positive].sum(axis=(1, 2)).max() < 10
    volume = ready.masks.sum() * ready.pixel_mm**2 * ready.slice_mm
    assert volume == pytest.approx(sum(truth["lesion_volume_mm3"].values()), rel=0.25)  # pixels of 4 mm
    heads = [head["centre_mm"][1] for head in truth["heads"].values()]
    assert ready.positions_mm.min() < min(heads) < max(heads) < ready.positions_mm.max()


def test_some_training_cases_show_one_hip(phantoms):
    (case,) = read_cases(phantoms, 0)
    whole, single = (prepared_case(replace(case, split=split), RECIPE) for split in ("test", "train"))
    assert case.index % RECIPE.single_hip_every == 0
    outside = (0 - RECIPE.mean) / RECIPE.std
    empty = [np.isclose(ready.pixels, outside, atol=1e-3).all(axis=(0, 1, 2)).mean() for ready in (whole, single)]
    assert empty[1] > empty[0] + 0.3  # columns of the input with nothing in them
    assert single.masks.sum() <= whole.masks.sum()


def test_slice_labels_mark_only_the_slices_they_name(phantoms):
    (case,) = read_cases(phantoms, 0)
    positions = prepared_case(case, RECIPE).positions_mm
    path = phantoms / "slices.csv"
    path.write_text(f"position_mm,label\n{positions[1] + 1},1\n{positions[3]},0\n")
    ready = prepared_case(type(case)(0, "p", "s", "train", case.series, path), RECIPE)
    assert np.flatnonzero(ready.known).tolist() == [1, 3]
    assert np.flatnonzero(ready.positive).tolist() == [1]
    assert not ready.has_mask


def test_a_case_is_prepared_once_and_again_when_the_recipe_changes(phantoms, monkeypatch):
    from dataclasses import replace

    cases = read_cases(phantoms, 0)
    (first,) = prepare(phantoms, cases, RECIPE, workers=1, say=lambda _: None)
    monkeypatch.setattr("onfh_export.prepare.prepared_case", None)
    (again,) = prepare(phantoms, cases, RECIPE, workers=1, say=lambda _: None)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    with pytest.raises(TypeError):
        prepare(phantoms, cases, replace(RECIPE, pixel_mm=5.0), workers=1, say=lambda _: None)


def test_a_series_the_runtime_refuses_is_left_out_and_said(phantoms, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "cases.csv").write_text("patient,site,split,series,truth\np,a,train,s,t.csv\n")
    (tmp_path / "t.csv").write_text("position_mm,label\n")
    lines = []
    assert prepare(tmp_path, read_cases(tmp_path, 0), RECIPE, workers=1, say=lines.append) == ()
    assert "case 0 is left out" in lines[-1]
