from __future__ import annotations

import os
import zlib

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, MRImageStorage, SecondaryCaptureImageStorage

from onfh_runtime.dicom import find_series
from onfh_runtime.errors import UsageError


def test_a_series_is_one_candidate_without_part(write_ct):
    written = write_ct()
    (candidate,), skipped = find_series([written.folder])
    assert skipped == []
    assert (candidate.part, candidate.description, len(candidate.images)) == (None, "series 1", 5)
    assert [image.path for image in candidate.images] == sorted(written.paths)
    assert all("PixelData" not in image.header for image in candidate.images)


def test_files_and_folders_may_overlap(write_ct):
    written = write_ct()
    (candidate,), _ = find_series([written.paths[2], written.folder, written.folder.parent])
    assert len(candidate.images) == 5


def test_two_kernels_under_one_uid_are_two_parts_in_a_stable_order(write_ct):
    def edit(index, ds):
        ds.ConvolutionKernel = "B20s" if index % 2 else "B60s"

    (first, second), skipped = find_series([write_ct(edit, count=7).folder])
    assert skipped == []
    assert [(first.part, len(first.images)), (second.part, len(second.images))] == [(1, 3), (2, 4)]
    assert {image.header.ConvolutionKernel for image in first.images} == {"B20s"}


def test_two_image_types_under_one_uid_are_two_parts(write_ct):
    def edit(index, ds):
        ds.ImageType = ["DERIVED", "SECONDARY", "MPR"] if index < 2 else ["ORIGINAL", "PRIMARY", "AXIAL"]

    candidates, _ = find_series([write_ct(edit).folder])
    assert [len(candidate.images) for candidate in candidates] == [2, 3]


def test_localizers_are_split_off(write_ct):
    def edit(index, ds):
        if index == 0:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    (candidate,), (skipped,) = find_series([write_ct(edit).folder])
    assert (candidate.part, len(candidate.images)) == (None, 4)
    assert (skipped.code, skipped.images, skipped.description) == ("localizer", 1, "series 1")
    assert skipped.series_instance_uid == candidate.series_instance_uid


def _mr(ds: Dataset) -> None:
    ds.SOPClassUID, ds.Modality = MRImageStorage, "MR"


def _capture(ds: Dataset) -> None:
    ds.SOPClassUID = SecondaryCaptureImageStorage


def _colour(ds: Dataset) -> None:
    ds.SamplesPerPixel = 3


def _dose(ds: Dataset) -> None:
    ds.ImageType = ["DERIVED", "SECONDARY", "DOSE_INFO"]


def _report(ds: Dataset) -> None:
    ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.88.33", "SR"
    del ds.Rows, ds.PixelData


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_mr, "not_ct"),
        (_capture, "secondary_capture"),
        (_colour, "secondary_capture"),
        (_dose, "secondary_capture"),
        (_report, "not_an_image"),
    ],
)
def test_what_is_no_ct_slice_is_skipped_by_name(write_ct, change, code):
    candidates, (skipped,) = find_series([write_ct(lambda index, ds: change(ds)).folder])
    assert candidates == []
    assert (skipped.code, skipped.images) == (code, 5)
    assert skipped.text.endswith(".")


def test_a_derived_coronal_reformat_is_a_candidate(write_ct):
    def edit(index, ds):
        ds.ImageType = ["DERIVED", "SECONDARY", "MPR"]

    candidates, skipped = find_series([write_ct(edit, iop=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0)).folder])
    assert len(candidates) == 1
    assert skipped == []


def test_an_identical_object_is_kept_once(write_ct):
    written = write_ct()
    (written.folder / "again.dcm").write_bytes(written.paths[1].read_bytes())
    assert len(written.candidate().images) == 5


def test_one_uid_at_two_positions_is_kept_for_the_check(write_ct):
    def edit(index, ds):
        ds.SOPInstanceUID = "1.2.3"

    assert len(write_ct(edit).candidate().images) == 5


def test_unreadable_files_are_reported_and_others_ignored(write_ct, tmp_path):
    written = write_ct()
    folder = written.folder
    (folder / "text.dcm").write_text("not DICOM")
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "notes.txt").write_text("not DICOM either")
    (folder / "garbage").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 300)
    reported = {}
    candidates, _ = find_series([folder], report=lambda path, code, text: reported.update({path.name: code}))
    assert len(candidates[0].images) == 5
    assert reported.pop("garbage") in ("unreadable", "invalid_uid")
    assert reported == {"empty.dcm": "not_dicom", "text.dcm": "not_dicom"}


def test_a_named_file_is_reported_whatever_its_name(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not DICOM")
    reported = []
    assert find_series([path], report=lambda *what: reported.append(what[1])) == ([], [])
    assert reported == ["not_dicom"]


def test_a_missing_input_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError) as error:
        find_series([tmp_path / "nowhere"])
    assert error.value.code == "input_not_found"


def test_a_deflate_bomb_is_refused_unread(write_ct):
    written = write_ct()
    ds = dcmread(written.paths[0])
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(written.paths[0], implicit_vr=False, little_endian=True)
    start = written.paths[0].read_bytes().index(b"1.2.840.10008.1.2.1.99")
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = compressor.compress(b"\0" * 50_000_000) + compressor.flush()
    written.paths[0].write_bytes(written.paths[0].read_bytes()[: start + 60] + bomb)
    reported = []
    find_series([written.folder], report=lambda *what: reported.append(what[1]))
    assert reported == ["unsupported_transfer_syntax"]


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_uid_that_would_leave_the_output_folder_is_refused(write_ct, keyword):
    written = write_ct()
    raw = written.paths[0].read_bytes()
    uid = str(dcmread(written.paths[0])[keyword].value).encode()
    evil = b"../../" + b"x" * (len(uid) - 6)
    written.paths[0].write_bytes(raw.replace(uid, evil))
    reported = []
    candidates, _ = find_series([written.folder], report=lambda *what: reported.append(what[1]))
    assert reported == ["invalid_uid"]
    assert len(candidates[0].images) == 4


def test_loops_special_files_and_dicomdir_are_passed_over(write_ct):
    folder = write_ct().folder
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "pipe.dcm")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    reported = []
    (candidate,), _ = find_series([folder], report=lambda *what: reported.append(what[1]))
    assert len(candidate.images) == 5
    assert reported == []


def test_the_real_series_are_found(real_series):
    (axial,), skipped = find_series([real_series("hip_ct_axial")])
    assert skipped == []
    assert len(axial.images) == 56
