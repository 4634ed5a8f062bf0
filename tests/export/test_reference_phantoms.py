"""The phantoms of the reference: as many sick as healthy, all scanners, and some that are awkward."""

import pytest

from onfh_export.recipe import Recipe
from onfh_export.reference import SEED
from onfh_export.reference_phantoms import phantom_specs, phantom_studies
from onfh_runtime.phantom import SCANNERS, cohort


def test_half_are_sick_on_every_scanner_and_some_are_awkward():
    specs = phantom_specs(12, SEED)
    assert [spec.positive for spec in specs] == [True, False] * 6
    assert {spec.scanner.name for spec in specs} == set(SCANNERS)
    sides = {tuple(side for side, lesion in spec.lesions.items() if lesion) for spec in specs if spec.positive}
    assert sides == {("right",), ("left",), ("right", "left")}
    assert [spec.field_of_view for spec in specs].count("right") == 1
    assert [spec.implant for spec in specs].count("left") == 1
    healthy = [spec for spec in specs if not spec.positive]
    assert sum(any(hip.confounders for hip in spec.hips) for spec in healthy) >= 3
    assert phantom_specs(12, SEED) == specs


def test_the_demo_stages_were_not_trained_on_them():
    recipe = Recipe()
    trained = {
        case.spec.seed for case in cohort(recipe.cohort_seed, recipe.patients_per_site, recipe.external_patients)
    }
    assert not trained & {spec.seed for spec in phantom_specs(100, SEED)}


@pytest.mark.parametrize(("wanted_mm", "native_mm"), [(2.0, 2.0), (6.0, 3.0)])
def test_a_study_is_found_where_it_was_written_and_goes(tmp_path, wanted_mm, native_mm):
    studies = phantom_studies(tmp_path, wanted_mm, 1, SEED)
    study = next(studies)
    (candidate,) = study.candidates
    assert float(candidate.images[0].header.SliceThickness) == native_mm
    assert study.truth.mask.any()
    assert study.label == f"phantom {SEED}000000 (lesion right)"
    assert next(studies, None) is None
    assert not list(tmp_path.iterdir())
