"""Enhanced multi-frame CT is read, checked and analysed as its single-frame encoding is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from enhanced_ct import enhanced, in_order, item, save, shuffled
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)

from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.dicom.check import check_candidate
from onfh_runtime.dicom.frames import images_in
from onfh_runtime.errors import SeriesError
from onfh_runtime.infer import infer

UID = "1.2.826.0.1.3680043.10.999.77"
PER_IMAGE = ("ImagePositionPatient", "PixelData", "SOPInstanceUID", "InstanceNumber")
MOVED = (
    *("ImageOrientationPatient", "PixelSpacing", "SliceThickness", "ConvolutionKernel"),
    *("RescaleIntercept", "RescaleSlope", "RescaleType", "WindowCenter", "WindowWidth", "KVP", "GantryDetectorTilt"),
    *("AcquisitionDate", "AcquisitionTime"),
)


@pytest.fixture
def single(write_ct):
    """A single-frame series and its data sets."""
    written = write_ct(count=6)
    return written, in_order(written)


def read_back(folder):
    (candidate,), skipped = find_series([folder])
    assert skipped == []
    return read_volume(candidate)


@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_an_enhanced_object_reads_as_its_single_frames(single, tmp_path, syntax, lengths):
    written, sources = single
    save(enhanced(shuffled(sources)), tmp_path / "enhanced" / "one.dcm", syntax, lengths)
    expected, _ = read_volume(written.candidate())
    volume, images = read_back(tmp_path / "enhanced")
    assert np.array_equal(volume.voxels, expected.voxels)
    assert volume.voxels.dtype == expected.voxels.dtype
    assert np.allclose(volume.affine, expected.affine)
    assert (volume.slope == expected.slope).all()
    assert (volume.intercept == expected.intercept).all()
    assert (volume.acquired, volume.warnings) == (expected.acquired, ())
    order = [sources.index(source) + 1 for source in shuffled(sources)]
    assert [order[(image.frame or 0) - 1] for image in images] == [1, 2, 3, 4, 5, 6]
    assert {image.sop_instance_uid for image in images} == {UID}
    assert images[0].label == f"Image {UID} frame {images[0].frame}"


def test_frames_of_several_objects_are_one_series(single, tmp_path):
    written, sources = single
    save(enhanced(sources[:4], f"{UID}.1"), tmp_path / "enhanced" / "1.dcm")
    save(enhanced(sources[4:], f"{UID}.2"), tmp_path / "enhanced" / "2.dcm")
    volume, images = read_back(tmp_path / "enhanced")
    assert np.array_equal(volume.voxels, written.stored)
    assert [image.frame for image in images] == [1, 2, 3, 4, 1, 2]


def test_what_is_said_per_frame_goes_before_what_is_shared(single, tmp_path):
    _, sources = single
    ds = enhanced(sources)
    groups = ds.PerFrameFunctionalGroupsSequence
    for number, group in enumerate(groups):
        group.PixelValueTransformationSequence = [
            item(RescaleIntercept=-1000 - number, RescaleSlope=1, RescaleType="HU")
        ]
    save(ds, tmp_path / "enhanced" / "one.dcm")
    assert read_back(tmp_path / "enhanced")[0].intercept.tolist() == [-1000, -1001, -1002, -1003, -1004, -1005]


def test_legacy_converted_objects_are_read(single, tmp_path):
    """The kernel of a converted object is among what its converter could not place."""
    written, sources = single
    ds = enhanced(sources, sop_class=LegacyConvertedEnhancedCTImageStorage)
    shared = ds.SharedFunctionalGroupsSequence[0]
    del shared.CTReconstructionSequence
    for number, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        kernel = "B20s" if number < 3 else "B60s"
        group.UnassignedPerFrameConvertedAttributesSequence = [item(ConvolutionKernel=kernel)]
    save(ds, tmp_path / "enhanced" / "one.dcm")
    first, second = find_series([tmp_path / "enhanced"])[0]
    assert [(part.part, len(part.images)) for part in (first, second)] == [(1, 3), (2, 3)]
    assert np.array_equal(read_volume(second)[0].voxels, written.stored[3:])


@pytest.mark.parametrize("attribute", ["StackID", "TemporalPositionIndex"])
def test_stacks_and_phases_are_parts(single, tmp_path, attribute):
    _, sources = single
    ds = enhanced(sources)
    for number, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        value = 1 + number % 2
        setattr(group.FrameContentSequence[0], attribute, str(value) if attribute == "StackID" else value)
    save(ds, tmp_path / "enhanced" / "one.dcm")
    candidates, _ = find_series([tmp_path / "enhanced"])
    assert [[image.frame for image in one.images] for one in candidates] == [[1, 3, 5], [2, 4, 6]]


def test_a_localizer_frame_is_split_off(single, tmp_path):
    _, sources = single
    ds = enhanced(sources)
    group = ds.PerFrameFunctionalGroupsSequence[0]
    group.CTImageFrameTypeSequence = [item(FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"])]
    save(ds, tmp_path / "enhanced" / "one.dcm")
    (candidate,), (skipped,) = find_series([tmp_path / "enhanced"])
    assert [image.frame for image in candidate.images] == [2, 3, 4, 5, 6]
    assert skipped.code == "localizer"


@pytest.mark.parametrize("contrast", ["MAXIMUM", "STD_DEVIATION", "SUBTRACTION"])
def test_frames_whose_contrast_is_not_density_are_refused(single, tmp_path, contrast):
    _, sources = single
    ds = enhanced(sources)
    frame_type = ds.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0]
    frame_type.FrameType = ["DERIVED", "PRIMARY", "VOLUME", contrast]
    save(ds, tmp_path / "enhanced" / "one.dcm")
    (candidate,), _ = find_series([tmp_path / "enhanced"])
    with pytest.raises(SeriesError) as error:
        check_candidate(candidate)
    assert error.value.code == "not_hounsfield"


def break_count(ds):
    ds.NumberOfFrames = 7


def break_groups(ds):
    del ds.PerFrameFunctionalGroupsSequence


def break_sequence(ds):
    ds.PerFrameFunctionalGroupsSequence = []


@pytest.mark.parametrize("damage", [break_count, break_groups, break_sequence])
def test_frames_that_are_not_told_apart_are_refused(single, tmp_path, damage):
    _, sources = single
    ds = enhanced(sources)
    damage(ds)
    save(ds, tmp_path / "enhanced" / "one.dcm")
    (candidate,), _ = find_series([tmp_path / "enhanced"])
    assert len(candidate.images) == 1
    with pytest.raises(SeriesError) as error:
        check_candidate(candidate)
    assert error.value.code == "multiframe"


@pytest.mark.parametrize(
    ("group", "code"),
    [
        ("PlanePositionSequence", "missing_position"),
        ("PlaneOrientationSequence", "missing_position"),
        ("PixelMeasuresSequence", "missing_attribute"),
        ("PixelValueTransformationSequence", "missing_attribute"),
    ],
)
def test_a_missing_functional_group_is_refused_by_what_it_would_say(single, tmp_path, group, code):
    _, sources = single
    ds = enhanced(sources)
    where_it_is = ds.PerFrameFunctionalGroupsSequence[2] if group == "PlanePositionSequence" else None
    delattr(where_it_is or ds.SharedFunctionalGroupsSequence[0], group)
    save(ds, tmp_path / "enhanced" / "one.dcm")
    (candidate,), _ = find_series([tmp_path / "enhanced"])
    with pytest.raises(SeriesError) as error:
        read_volume(candidate)
    assert error.value.code == code


def test_two_frames_at_one_place_are_refused(single, tmp_path):
    _, sources = single
    save(enhanced([*sources, sources[2]]), tmp_path / "enhanced" / "one.dcm")
    (candidate,), _ = find_series([tmp_path / "enhanced"])
    with pytest.raises(SeriesError) as error:
        check_candidate(candidate)
    assert error.value.code == "duplicate_position"


def test_a_cut_enhanced_object_is_truncated(single, tmp_path):
    _, sources = single
    path = tmp_path / "enhanced" / "one.dcm"
    save(enhanced(sources), path)
    path.write_bytes(path.read_bytes()[:-20])
    (candidate,), _ = find_series([path.parent])
    with pytest.raises(SeriesError, match="frame 6") as error:
        read_volume(candidate)
    assert error.value.code == "truncated"


def compress(sources, syntax):
    frames = []
    for source in sources:
        one = Dataset(source)
        one.file_meta = source.file_meta
        one.compress(syntax, generate_instance_uid=False)
        frames.append(next(iter_frames(one)))
    return frames


def iter_frames(ds):
    from pydicom.encaps import generate_frames

    return generate_frames(ds.PixelData, number_of_frames=1)


@pytest.mark.parametrize("table", ["basic", "extended", "none"])
@pytest.mark.parametrize(("syntax", "split"), [(RLELossless, 1), (JPEGLSLossless, 1), (JPEGLSLossless, 3)])
def test_compressed_frames_are_found(single, tmp_path, syntax, split, table):
    if syntax == JPEGLSLossless:
        pytest.importorskip("jpeg_ls")
    written, sources = single
    frames = compress(sources, syntax)
    ds = enhanced(sources)
    if table == "extended":
        if split > 1:
            pytest.skip("an extended offset table goes with one fragment a frame")
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        ds.PixelData = encapsulate(frames, fragments_per_frame=split, has_bot=table == "basic")
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    save(ds, tmp_path / "enhanced" / "one.dcm", syntax)
    assert np.array_equal(read_back(tmp_path / "enhanced")[0].voxels, written.stored)


def test_fragments_that_make_no_whole_frames_are_refused(single, tmp_path):
    _, sources = single
    ds = enhanced(sources)
    ds.PixelData = encapsulate(compress(sources, RLELossless)[:5], has_bot=False)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    save(ds, tmp_path / "enhanced" / "one.dcm", RLELossless)
    (candidate,), _ = find_series([tmp_path / "enhanced"])
    with pytest.raises(SeriesError) as error:
        read_volume(candidate)
    assert error.value.code == "unreadable_pixels"


def test_a_single_frame_object_is_one_image_without_a_frame(single):
    written, _ = single
    assert {image.frame for image in written.candidate().images} == {None}
    assert len(images_in(Path("x"), written.candidate().images[0].header, 0)) == 1


@pytest.fixture(scope="module")
def enhanced_study(phantom_study, tmp_path_factory):
    """The phantom's axial series as one enhanced object."""
    folder = tmp_path_factory.mktemp("enhanced")
    sources = [dcmread(path) for path in sorted((phantom_study / "axial").iterdir())]
    save(enhanced(shuffled(sources)), folder / "one.dcm")
    return folder


def test_the_generator_writes_what_the_standard_calls_enhanced_ct(enhanced_study):
    """Otherwise the tests here would prove little."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("no dciodvfy: install dicom3tools")
    said = subprocess.run(["dciodvfy", "-new", str(enhanced_study / "one.dcm")], capture_output=True, text=True)
    assert "EnhancedCTImage" in said.stderr + said.stdout
    errors = [line for line in (said.stderr + said.stdout).splitlines() if line.startswith("Error")]
    assert errors == []


@pytest.mark.parametrize("output", ["seg.dcm", "sr.dcm"])
def test_an_enhanced_study_has_the_answer_of_its_single_frames(
    phantom_study, enhanced_study, open_gate, tmp_path, output
):
    bundle = open_gate()
    (one,) = infer([phantom_study / "axial"], tmp_path / "single", bundle=bundle).results
    report = infer([enhanced_study], tmp_path / "enhanced", bundle=bundle)
    (other,) = report.results
    assert (one.status, other.status) == ("succeeded", "succeeded")
    assert [s.probability for s in one.slices] == [s.probability for s in other.slices]
    assert (one.patient, one.sides, one.geometry) == (other.patient, other.sides, other.geometry)
    (folder,) = report.folders.values()
    written = dcmread(folder / output)
    if output == "seg.dcm":
        (plain,) = (tmp_path / "single").rglob("seg.dcm")
        assert np.array_equal(written.pixel_array, dcmread(plain).pixel_array)
        said = written.PerFrameFunctionalGroupsSequence
        named = [group.DerivationImageSequence[0].SourceImageSequence[0] for group in said]
        frames = dcmread(enhanced_study / "one.dcm").PerFrameFunctionalGroupsSequence
        for group, source in zip(said, named, strict=True):
            assert source.ReferencedSOPClassUID == EnhancedCTImageStorage
            place = frames[source.ReferencedFrameNumber - 1].PlanePositionSequence[0].ImagePositionPatient
            assert group.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(place)
    if shutil.which("dciodvfy") is not None:
        said = subprocess.run(["dciodvfy", str(folder / output)], capture_output=True, text=True)
        assert [line for line in (said.stderr + said.stdout).splitlines() if line.startswith("Error")] == []
