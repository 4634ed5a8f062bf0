"""Which series of a study are analysed and which is preferred, by the rules of the bundle."""

from __future__ import annotations

import pytest

from onfh_runtime.bundle import Bundle, SeriesRules
from onfh_runtime.dicom.choice import by_preference, eligible

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def put(**attributes):
    def edit(index, ds):
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)

    return edit


def codes_of(candidates, **rules):
    chosen, left_out = eligible(candidates, SeriesRules(**rules))
    assert len(chosen) + len(left_out) == len(candidates)
    assert all(one.text.endswith(".") and "Secret" not in one.text for one in left_out)
    return [one.code for one in left_out]


@pytest.mark.parametrize(
    ("write", "rules", "code"),
    [
        ({"iop": SAGITTAL}, {}, "excluded_plane"),
        ({"iop": CORONAL}, {"planes": ["axial"]}, "excluded_plane"),
        ({}, {"planes": ["coronal"]}, "excluded_plane"),
        ({"step": 6.5}, {}, "excluded_spacing"),
        ({"step": 2.6}, {"max_slice_spacing_mm": 2.5}, "excluded_spacing"),
        ({}, {"max_thickness_mm": 8.0}, "excluded_thickness"),  # 9 mm thick, 2.5 mm apart
        ({}, {"min_coverage_mm": 13.0}, "excluded_coverage"),
        ({}, {"refused_kernels": ["^b[0-5]", "B6"]}, "excluded_kernel"),
    ],
)
def test_a_series_outside_a_rule_is_skipped_by_name(write_ct, write, rules, code):
    assert codes_of([write_ct(**write).candidate()], **rules) == [code]


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"max_slice_spacing_mm": 2.5, "max_thickness_mm": 9.0, "min_coverage_mm": 12.5, "planes": ["axial"]},
        {"refused_kernels": ["^B2"], "preferred_kernels": ["B2"]},
    ],
)
def test_a_series_within_the_rules_stays(write_ct, rules):
    assert codes_of([write_ct().candidate()], **rules) == []


def test_an_image_that_states_no_thickness_passes(write_ct):
    written = write_ct(lambda index, ds: delattr(ds, "SliceThickness"))
    assert codes_of([written.candidate()], max_thickness_mm=1.0) == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda index, ds: delattr(ds, "ImagePositionPatient"),
        lambda index, ds: setattr(ds, "ImageOrientationPatient", list(SAGITTAL if index < 3 else CORONAL)),
        put(ImageOrientationPatient=[2, 0, 0, 0, 1, 0]),
    ],
)
def test_what_cannot_be_measured_is_left_to_the_check_which_refuses_it(write_ct, edit):
    assert codes_of([write_ct(edit).candidate()], planes=["coronal"], max_slice_spacing_mm=0.1) == []


def order(candidates, **rules):
    return [one.description for one in by_preference(candidates, SeriesRules(**rules))]


@pytest.fixture
def three(write_ct):
    """Two axial series, the second with a sharper kernel and thicker, and a coarser coronal one."""
    written = [
        write_ct(put(ConvolutionKernel="B30s", SeriesDescription="soft"), step=1.0, series=1),
        write_ct(put(ConvolutionKernel=["Br64", "3"], SeriesDescription="bone"), step=2.0, series=2),
        write_ct(put(PixelSpacing=[1.5, 1.5], SeriesDescription="coronal"), iop=CORONAL, series=3, count=7),
    ]
    return [one.candidate() for one in written]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, ["soft", "coronal", "bone"]),
        ({"preferred_kernels": ["^br6", "^b6"]}, ["bone", "coronal", "soft"]),
        ({"preferred_kernels": ["nothing"]}, ["soft", "coronal", "bone"]),
        ({"planes": ["coronal", "axial"], "prefer": ["plane", "kernel"], "preferred_kernels": ["br"]},
         ["coronal", "bone", "soft"]),
        ({"prefer": ["images", "coronal_pixel"]}, ["coronal", "soft", "bone"]),
        ({"prefer": []}, ["soft", "bone", "coronal"]),
    ],
)  # fmt: skip
def test_the_preferred_series_comes_first(three, rules, expected):
    assert order(three, **rules) == expected
    assert order(three[::-1], **rules) == expected


def test_a_series_without_geometry_comes_last(write_ct, three):
    lost = write_ct(lambda index, ds: delattr(ds, "ImagePositionPatient"), series=4).candidate()
    assert order([lost, *three])[-1] == "series 4"


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ({"refused_kernels": ["("]}, "regular expression"),
        ({"planes": ["sagittal"]}, "axial"),
        ({"planes": []}, "1 item"),
    ],
)
def test_rules_that_mean_nothing_are_refused(rules, what):
    with pytest.raises(ValueError, match=what):
        SeriesRules(**rules)


def test_a_bundle_without_rules_has_the_defaults():
    assert Bundle.model_fields["series"].default == SeriesRules()
