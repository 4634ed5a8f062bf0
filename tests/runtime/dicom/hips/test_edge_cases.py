"""The table of what breaks the tools people trust, row by row, and what this runtime does with each (docs/dicom.md).

A row changes a series of the phantom and states the outcome: ``right`` (every voxel at its place in the patient and
within one HU, with exactly these warnings in the result), ``refused`` (not analysed, by this code), ``skipped`` (no
candidate, by this code) or ``passed over`` (the files themselves, by this code).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.infer import infer

IMAGES = 12
"""Of a series that is only read; one that is analysed has all of them."""

AXIAL = ((1, 0, 0), (0, 1, 0))
CORONAL = ((1, 0, 0), (0, 0, -1))


@dataclass(frozen=True)
class Outcome:
    """What becomes of ``series`` candidates, and the codes that say so."""

    kind: str
    codes: tuple[str, ...] = ()
    series: int = 1


def right(*warnings, series=1):
    return Outcome("right", warnings, series)


def answered(*warnings):
    return Outcome("answered", warnings)


def refused(code):
    return Outcome("refused", (code,))


def skipped(code, series=1):
    return Outcome("skipped", (code,), series)


def passed_over(code, series=0):
    return Outcome("passed over", (code,), series)


def row(fact, case, make, outcome, *, files=None, syntax=ExplicitVRLittleEndian, needs=None):
    """One line of the table: how the series is made, what is done to its files, what must come of it."""
    return pytest.param(make, files, syntax, needs, outcome, id=f"{fact}: {case}")


def some(change=lambda series: series):
    """A few axial images, changed."""
    return lambda hip: change(hip.series(IMAGES))


def whole(change=lambda series: series):
    """Every axial image, changed."""
    return lambda hip: change(hip.series())


def image_type(*values):
    return some(lambda series: series.put(ImageType=list(values)))


# --- the table

ROWS = [
    row("gantry tilt", "top to the back", lambda hip: hip.tilted(-15, slices=30), right("tilt_resampled")),
    row(
        "gantry tilt",
        "top to the front, the tag says the contrary",
        lambda hip: hip.tilted(12, slices=30).put(GantryDetectorTilt=-12.0),
        right("tilt_resampled"),
    ),
    row("gantry tilt", "in the tag alone", some(lambda s: s.put(GantryDetectorTilt=20.0)), right()),
    row("gantry tilt", "sideways", some(lambda s: s.shifted_each(x=0.6)), refused("gantry_tilt")),
    row("missing slice", "one", some(lambda s: s.without(5)), refused("missing_slice")),
    row("missing slice", "two in a row", some(lambda s: s.without(5, 6)), refused("missing_slice")),
    row("duplicate position", "one object twice", some(), right(), files=lambda f: f.twice()),
    row("duplicate position", "two images", some(lambda s: s.again(4)), refused("duplicate_position")),
    row("duplicate position", "every image", some(lambda s: s.again()), refused("duplicate_position")),
    row("variable spacing", "one slice off", some(lambda s: s.move(5, z=0.4)), refused("variable_spacing")),
    row("two kernels", "interleaved", some(lambda s: s.two_kernels()), right(series=2)),
    row(
        "two kernels",
        "one kernel, two acquisition numbers",
        some(lambda s: s.each(lambda k, ds: setattr(ds, "AcquisitionNumber", k // 6))),
        right(),
    ),
    row(
        "no slices",
        "localizer",
        some(lambda s: s.put(only=0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        skipped("localizer"),
    ),
    row(
        "no slices",
        "dose page",
        some(lambda s: s.without_a_place(ImageType=["DERIVED", "SECONDARY", "DOSE_INFO"])),
        skipped("secondary_capture"),
    ),
    row(
        "no slices",
        "screen shot under Modality CT",
        some(lambda s: s.without_a_place(SOPClassUID=SecondaryCaptureImageStorage)),
        skipped("secondary_capture"),
    ),
    row(
        "no slices",
        "screen shot as CT Image Storage",
        some(lambda s: s.without_a_place(ConversionType="WSD")),
        skipped("secondary_capture"),
    ),
    row(
        "no slices",
        "text burnt in",
        some(lambda s: s.put(only=0, BurnedInAnnotation="YES")),
        skipped("burned_in_annotation"),
    ),
    row("rescale", "slope differs from slice to slice", some(lambda s: s.other_slopes()), right()),
    row("rescale", "one slice unsigned", some(lambda s: s.put(only=3, PixelRepresentation=0)), refused("mixed_pixels")),
    row("padding", "as its VR says", some(lambda s: s.padded("SS", -2000)), right()),
    row("padding", "unsigned VR, signed pixels", some(lambda s: s.padded("US", 63536)), right()),
    row("padding", "signed VR, unsigned pixels", some(lambda s: s.unsigned().padded("SS", -2000)), right()),
    row(
        "one slice differs",
        "orientation",
        some(lambda s: s.put(only=3, ImageOrientationPatient=[1, 0, 0, 0, 0.99, 0.141067])),
        refused("mixed_orientation"),
    ),
    row(
        "one slice differs",
        "pixel spacing",
        some(lambda s: s.put(only=3, PixelSpacing=[3.0, 2.5])),
        refused("mixed_spacing"),
    ),
    row("no position", "one", some(lambda s: s.put(only=3, ImagePositionPatient=None)), refused("missing_position")),
    row("no position", "all", some(lambda s: s.put(ImagePositionPatient=None)), refused("missing_position")),
    row("truncated", "pixel data", some(), refused("truncated"), files=lambda f: f.cut(0.7)),
    row("truncated", "at the pixel data", some(), refused("truncated"), files=lambda f: f.cut(0.0)),
    row(
        "truncated",
        "compressed pixel data",
        some(),
        refused("truncated"),
        files=lambda f: f.cut(0.7),
        syntax=RLELossless,
    ),
    row("hostile", "65535 rows and columns", some(lambda s: s.put(Rows=65535, Columns=65535)), refused("size_limit")),
    row("hostile", "deflated", some(), passed_over("unsupported_transfer_syntax"), files=lambda f: f.deflate()),
    row("compressed", "RLE", some(), right(), syntax=RLELossless),
    row("compressed", "JPEG-LS", some(), right(), syntax=JPEGLSLossless, needs="jpeg_ls"),
    row(
        "compressed",
        "JPEG lossless",
        some(lambda s: s.unsigned()),
        right(),
        files=lambda f: f.compress(JPEGLosslessSV1, "ljpeg_encode"),
    ),
    row(
        "compressed",
        "JPEG 2000",
        some(lambda s: s.unsigned()),
        right(),
        files=lambda f: f.compress(JPEG2000Lossless, "jpeg2k_encode", level=0, reversible=True, codecformat="j2k"),
    ),
    row(
        "compressed",
        "HTJ2K",
        some(lambda s: s.unsigned()),
        right(),
        files=lambda f: f.compress(HTJ2KLossless, "htj2k_encode", reversible=True),
    ),
    row(
        "compressed",
        "a syntax of GE's own",
        some(),
        refused("unsupported_transfer_syntax"),
        files=lambda f: f.call("1.2.840.113619.5.2", implicit=True),
    ),
    row(
        "compressed",
        "a syntax of Elscint's own",
        some(),
        refused("unsupported_transfer_syntax"),
        files=lambda f: f.call("1.3.46.670589.33.1.4.1"),
    ),
    row(
        "compressed", "with loss before", some(lambda s: s.put(LossyImageCompression="01")), right("lossy_compression")
    ),
    row("encoding", "implicit VR", some(), right(), syntax=ImplicitVRLittleEndian),
    row("encoding", "big endian", some(), right(), syntax=ExplicitVRBigEndian),
    row("encoding", "empty SOP class", some(), right("missing_sop_class"), files=lambda f: f.empty_sop_class()),
    row(
        "encoding",
        "one frame of reference apart",
        some(lambda s: s.put(only=3, FrameOfReferenceUID="1.2.3")),
        right("mixed_frame_of_reference"),
    ),
    row(
        "encoding",
        "no frame of reference",
        some(lambda s: s.put(FrameOfReferenceUID=None)),
        right("missing_frame_of_reference"),
    ),
    row("enhanced", "every frame", some(lambda s: s.enhanced()), right()),
    row(
        "enhanced",
        "frames without their places",
        some(lambda s: s.enhanced().put(PerFrameFunctionalGroupsSequence=None)),
        refused("multiframe"),
    ),
    row("position", "head first prone", lambda hip: hip.oriented((-1, 0, 0), (0, -1, 0)), right()),
    row("position", "feet first supine", lambda hip: hip.oriented((-1, 0, 0), (0, 1, 0)), right()),
    row("position", "feet first prone", lambda hip: hip.oriented((1, 0, 0), (0, -1, 0)), right()),
    row("position", "on the left side", lambda hip: hip.oriented((0, 1, 0), (-1, 0, 0)), right()),
    row("position", "on the right side, feet first", lambda hip: hip.oriented((0, -1, 0), (-1, 0, 0)), right()),
    row("position", "numbered against the normal", lambda hip: hip.oriented(*AXIAL, against_normal=True), right()),
    row("position", "oblique coronal", lambda hip: hip.oblique_coronal(20), right("oblique")),
    row(
        "position", "oblique beyond 30 degrees", lambda hip: hip.oblique_coronal(40), refused("unsupported_orientation")
    ),
    row("spacing", "thickness is not the distance", some(lambda s: s.put(SliceThickness=9.0)), right()),
    row("spacing", "no thickness", some(lambda s: s.put(SliceThickness=None)), right()),
    row("spacing", "rows farther apart than columns", some(), right()),
    row("not a hip", "chest", whole(lambda s: s.chest()), refused("anatomy_not_found")),
    row("not a hip", "heads cut by the last slice", lambda hip: hip.series(44), answered("incomplete_coverage")),
    row(
        "reformat",
        "derived coronal",
        lambda hip: hip.oriented(*CORONAL).put(ImageType=["DERIVED", "SECONDARY", "MPR"]),
        right(),
    ),
    row("not HU", "iodine", image_type("DERIVED", "PRIMARY", "AXIAL", "CT_SOM7 IODINE"), refused("not_hounsfield")),
    row("not HU", "virtual non-contrast", image_type("DERIVED", "SECONDARY", "VNC"), refused("not_hounsfield")),
    row(
        "not HU",
        "electron density",
        image_type("DERIVED", "PRIMARY", "AXIAL", "ELECTRON_DENSITY"),
        refused("not_hounsfield"),
    ),
    row("not HU", "maximum projection", image_type("DERIVED", "SECONDARY", "MIP"), refused("not_hounsfield")),
    row("not HU", "another rescale type", some(lambda s: s.put(RescaleType="MGML")), refused("not_hounsfield")),
    row("range", "12 bits in 16, metal", some(lambda s: s.twelve_bits()), right()),
    row("range", "12 bits in 16, others set", some(lambda s: s.twelve_bits(above=5)), right()),
    row("range", "metal beyond 16 bits after rescale", some(lambda s: s.metal()), right()),
]


@pytest.mark.parametrize(("make", "files", "syntax", "needs", "outcome"), ROWS)
def test_row(hip, tiny, tmp_path, make, files, syntax, needs, outcome):
    if needs is not None:
        pytest.importorskip(needs)
    series = make(hip)
    written = series.write(tmp_path / "series", syntax)
    if files is not None:
        files(written)
    CHECKS[outcome.kind](series, written.folder, tiny, tmp_path / "out", outcome)


def check_right(series, folder, bundle, out, outcome):
    candidates, skipped = find_series([folder])
    assert skipped == []
    assert len(candidates) == outcome.series
    for candidate in candidates:
        assert_as_in_the_patient(series, candidate, outcome.codes)


def assert_as_in_the_patient(series, candidate, warnings=()):
    volume, images = read_volume(candidate)
    assert [code for code, _ in (*candidate.warnings, *volume.warnings)] == list(warnings)
    assert len(images) == len(volume.voxels)
    places = np.random.default_rng(0).integers(0, volume.voxels.shape, (4000, 3))
    points = places @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    hu = volume.hounsfield()[tuple(places.T)]
    expected = series.expected(points)
    # A volume that is a voxel off anywhere would differ by hundreds of HU at edges, and by the noise everywhere.
    worst = float(np.abs(hu - expected).max())
    assert worst <= 1.01
    assert expected.std() > 100
    for index, image in enumerate(images):
        position = [float(x) for x in image.header.ImagePositionPatient]
        assert volume.affine[:3] @ [index, 0, 0, 1] == pytest.approx(position, abs=0.01)


def check_refused(series, folder, bundle, out, outcome):
    report = infer([folder], out, bundle=bundle)
    (result,) = report.results
    assert (result.status, result.reason.code) == ("not_analysed", outcome.codes[0])
    assert (result.patient, result.sides, report.exit_code) == (None, None, 1)
    written = {path.name: path.read_text() for path in out.rglob("*.json")}
    assert "PHANTOM" not in "".join(written.values())
    assert not list(out.rglob("seg.dcm"))


def check_skipped(series, folder, bundle, out, outcome):
    candidates, skipped = find_series([folder])
    assert [one.code for one in skipped] == list(outcome.codes)
    assert len(candidates) == outcome.series
    for candidate in candidates:
        assert_as_in_the_patient(series, candidate)


def check_passed_over(series, folder, bundle, out, outcome):
    told = []
    report = infer([folder], out, bundle=bundle, on_unreadable=lambda *what: told.append(what[1]))
    assert set(told) == set(outcome.codes)
    assert len(told) == len(series.images)
    assert (report.results, report.exit_code) == ([], 3)


def check_answered(series, folder, bundle, out, outcome):
    (result,) = infer([folder], out, bundle=bundle).results
    assert result.status == "succeeded"
    assert {warning.code for warning in result.warnings} >= set(outcome.codes)
    assert result.patient.state != "negative"
    assert "negative" not in {result.sides.right.state, result.sides.left.state}


CHECKS = {
    "right": check_right,
    "refused": check_refused,
    "skipped": check_skipped,
    "passed over": check_passed_over,
    "answered": check_answered,
}


@pytest.fixture(scope="module")
def tiny(write_tiny_bundle):
    """A bundle that finds everybody negative, so that whatever is not negative is the runtime's doing."""
    return write_tiny_bundle(patient_rule={"k": 3, "threshold": 1.0})


def test_a_bad_series_beside_a_good_one_leaves_both_their_answers(hip, tiny, tmp_path):
    good = hip.series()
    bad = hip.series(IMAGES).without(5).put(SeriesInstanceUID="1.2.826.0.1.3680043.10.999.77")
    bad.each(lambda index, ds: setattr(ds, "SOPInstanceUID", f"1.2.826.0.1.3680043.10.999.77.{index}"))
    good.write(tmp_path / "study")
    bad.write(tmp_path / "study" / "more")
    report = infer([tmp_path / "study"], tmp_path / "out", bundle=tiny)
    assert report.exit_code == 1
    assert [(r.status, r.reason and r.reason.code, r.preferred) for r in report.results] == [
        ("succeeded", None, True),
        ("not_analysed", "missing_slice", False),
    ]
    assert len({r.study_instance_uid for r in report.results}) == 1


def test_the_page_has_every_row_and_code():
    page = (Path(__file__).parents[4] / "docs" / "dicom.md").read_text()
    table = page[page.index("## Edge cases") : page.index("## Geometry")]
    documented = set(re.findall(r"^\| (\w[^|]*?) \|", table, re.MULTILINE)) - {"row"}
    assert documented == {param.id.split(":")[0] for param in ROWS}
    codes = {code for param in ROWS for code in param.values[-1].codes}
    assert codes <= set(re.findall(r"`(\w+)`", table))
