from dataclasses import replace

import numpy as np
import pytest

from onfh_runtime.phantom.spec import SCANNERS, random_spec


def test_the_same_seed_is_the_same_patient() -> None:
    assert random_spec(11, scanner="site_b") == random_spec(11, scanner="site_b")
    assert random_spec(11) != random_spec(12)


def test_a_scanner_may_be_named_or_given() -> None:
    own = replace(SCANNERS["site_a"], noise_sd_hu=5.0)
    assert random_spec(3, scanner=own).scanner.noise_sd_hu == 5.0
    with pytest.raises(KeyError):
        random_spec(3, scanner="site_z")


@pytest.mark.parametrize(
    ("asked", "right", "left"),
    [("none", False, False), ("right", True, False), ("left", False, True), ("both", True, True)],
)
def test_lesions_are_where_they_were_asked_for(asked: str, right: bool, left: bool) -> None:
    lesions = random_spec(5, lesions=asked).lesions  # type: ignore[arg-type]
    assert (lesions["right"] is not None, lesions["left"] is not None) == (right, left)


def test_about_half_of_the_patients_are_positive_and_both_kinds_carry_confounders() -> None:
    specs = [random_spec(seed) for seed in range(400)]
    positive = [spec for spec in specs if spec.positive]
    assert 0.4 < len(positive) / len(specs) < 0.6
    both = [spec for spec in positive if spec.right.lesion and spec.left.lesion]
    assert 0.4 < len(both) / len(positive) < 0.7
    for group in (positive, [spec for spec in specs if not spec.positive]):
        burdened = np.mean([bool(hip.confounders) for spec in group for hip in spec.hips])
        assert 0.6 < burdened < 0.9


def test_sizes_are_those_of_people() -> None:
    specs = [random_spec(seed) for seed in range(300)]
    for sex, mean in (("M", 24.5), ("F", 21.9)):
        radii = [hip.head_radius for spec in specs if spec.sex == sex for hip in spec.hips]
        assert np.mean(radii) == pytest.approx(mean, abs=0.4)
    fractions = [lesion.fraction for spec in specs for lesion in spec.lesions.values() if lesion]
    assert min(fractions) >= 0.03
    assert max(fractions) <= 0.38


def test_a_drawn_implant_never_lies_on_a_drawn_lesion() -> None:
    metal = [spec for spec in (random_spec(seed) for seed in range(600)) if spec.implant != "none"]
    assert metal
    assert all(spec.hip(spec.implant).lesion is None for spec in metal if spec.implant != "none")
