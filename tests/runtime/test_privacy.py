"""Nothing of the patient in a log, an error, a file name or a report: every attribute that may hold it is marked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless, generate_uid

from onfh_runtime.bundle import load_bundle, sha256_of
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.cli.main import main
from onfh_runtime.errors import SeriesError
from onfh_runtime.infer import infer
from onfh_runtime.outputs import sr
from onfh_runtime.outputs.source import ADOPTED
from onfh_runtime.pipeline import as_onfh_error
from onfh_runtime.private_log import traceback_without_messages

_PEOPLE = (
    "PatientName PatientBirthName PatientMotherBirthName ReferringPhysicianName PerformingPhysicianName OperatorsName "
    "PhysiciansOfRecord NameOfPhysiciansReadingStudy RequestingPhysician ResponsiblePerson"
)
_TEXTS = (
    "PatientID IssuerOfPatientID OtherPatientIDs PatientAddress PatientTelephoneNumbers Occupation MedicalAlerts "
    "Allergies EthnicGroup PatientComments AdditionalPatientHistory MilitaryRank BranchOfService RegionOfResidence "
    "PatientReligiousPreference InstitutionName InstitutionAddress InstitutionalDepartmentName StationName "
    "AccessionNumber StudyID StudyDescription RequestedProcedureDescription PerformedProcedureStepDescription "
    "AdmittingDiagnosesDescription ImageComments StudyComments AdmissionID CurrentPatientLocation DeviceSerialNumber "
    "ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSiteID "
    "ClinicalTrialSiteName ClinicalTrialSubjectID ClinicalTrialSubjectReadingID PatientSex TimezoneOffsetFromUTC"
)
_KEYWORDS = [*_PEOPLE.split(), *_TEXTS.split()]
_OTHERS = {"PatientBirthDate": "19010203", "PatientBirthTime": "030201", "PatientAge": "113Y", "PatientSize": "1.913"}
_MARKER = re.compile(rb"Zq_\d+_z|19010203|030201|113Y|1\.913")
_FILES = 12
"""Images of a series that is refused anyway."""

Edit = Callable[[Dataset], Any]


def _mark(dataset: Dataset) -> None:
    for number, keyword in enumerate(_KEYWORDS):
        setattr(dataset, keyword, f"Zq_{number}_z")
    for keyword, value in _OTHERS.items():
        setattr(dataset, keyword, value)
    other = Dataset()
    other.PatientID, other.TypeOfPatientID = "Zq_900_z", "TEXT"
    dataset.OtherPatientIDsSequence = [other]
    dataset.private_block(0x0011, "MAKER", create=True).add_new(0x01, "LO", "Zq_901_z")


def _put(**values: Any) -> Edit:
    def edit(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return edit


def _drop(keyword: str) -> Edit:
    return lambda dataset: delattr(dataset, keyword)


_SKIPPED = {
    "localizer": _put(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "not_ct": _put(SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR"),
    "secondary_capture": _put(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
    "burned_in_annotation": _put(BurnedInAnnotation="YES"),
}
"""Code -> what is done to every image of a series."""

_REFUSED = {
    "missing_position": _drop("ImagePositionPatient"),
    "missing_attribute": _drop("RescaleSlope"),
    "duplicate_position": lambda dataset: dataset.ImagePositionPatient.__setitem__(1, -182.77022),
    "variable_spacing": lambda dataset: dataset.ImagePositionPatient.__setitem__(1, -178.9),
    "mixed_orientation": _put(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
    "mixed_patient": _put(PatientID="Zq_902_z"),
    "mixed_size": _put(Rows=77),
    "mixed_spacing": _put(PixelSpacing=[0.123, 0.123]),
    "not_hounsfield": _put(RescaleType="US"),
    "unsupported_pixels": _put(PhotometricInterpretation="PALETTE COLOR"),
    "truncated": lambda dataset: setattr(dataset, "PixelData", dataset.PixelData[:1000]),
}
"""Code -> what is done to one image of a series."""


def _series(source: Path, folder: Path, edits: dict[int | None, Edit], count: int | None = _FILES) -> Path:
    """A copy of a series, of its first images at least, under UIDs of its own and with everything marked."""
    folder.mkdir(parents=True)
    uid = generate_uid(entropy_srcs=[folder.name])
    with pydicom.config.disable_value_validation():  # some markers are no valid values: what comments on them, quotes
        for index, path in enumerate(sorted(source.glob("*.dcm"))[:count]):
            dataset = pydicom.dcmread(path)
            _mark(dataset)
            dataset.SeriesDescription = f"{folder.name} Zq_903_z"
            dataset.SeriesInstanceUID = uid
            dataset.SOPInstanceUID = f"{uid[:50]}.{index}"
            for key in (None, index):
                edits.get(key, lambda dataset: None)(dataset)
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
            dataset.save_as(folder / path.name)
    return folder


@pytest.fixture(scope="module")
def marked(phantom_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good series, one for every way to be skipped or refused, and files that cannot be read."""
    root, source = tmp_path_factory.mktemp("marked"), phantom_study / "coronal"
    _series(source, root / "good", {}, count=None)
    for code, edit in _SKIPPED.items():
        _series(source, root / code, {None: edit}, count=2)
    for code, edit in _REFUSED.items():
        _series(source, root / code, {5: edit})
    (_series(source, root / "missing_slice", {}) / "0006.dcm").unlink()
    _series(source, root / "too_few_slices", {}, count=2)
    _series(source, root / "invalid_uid", {None: _put(SOPInstanceUID="Zq_904_z")}, count=3)
    for syntax in (RLELossless, DeflatedExplicitVRLittleEndian):
        folder = _series(source, root / syntax.name, {})
        for path in folder.glob("*.dcm"):
            stored = path.read_bytes()
            path.write_bytes(stored.replace(b"1.2.840.10008.1.2.1\0", (syntax + "\0" * 19)[:20].encode(), 1))
    damaged = _series(source, root / "damaged", {})
    for path in damaged.glob("*.dcm"):
        path.write_bytes(path.read_bytes()[:900])
    (damaged / "text.dcm").write_text("Zq_905_z")
    return root


def _infer(inputs: list[Path], out: Path, *options: str) -> SimpleNamespace:
    command = [sys.executable, "-m", "onfh_runtime.cli.main", "infer", *map(str, inputs), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, timeout=300)
    return SimpleNamespace(code=done.returncode, said=done.stdout + done.stderr)


def _markers(found: bytes) -> set[bytes]:
    """Markers in some bytes, in UTF-16 too; the pictures of a page are left out, any text may be in there by chance."""
    found = re.sub(rb"[A-Za-z0-9+/=]{60,}", b"", found)
    return set(_MARKER.findall(found)) | set(_MARKER.findall(found.replace(b"\0", b"")))


def test_a_run_over_good_refused_and_failing_series_tells_nothing(
    marked: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = _infer([marked], out, "--bundle", str(bundle_folder), "--verbose", "--secondary-capture")
    assert done.code == 1, done.said.decode()
    (study,) = (json.loads(path.read_text()) for path in out.rglob("study.json"))
    met = {(entry["reason"] or {"code": "succeeded"})["code"] for entry in study["series"]}
    assert {"succeeded", *_SKIPPED, *_REFUSED, "missing_slice", "too_few_slices"} - met == set()
    for code in (b"[invalid_uid]", b"[unreadable]", b"[not_dicom]", b"[unsupported_transfer_syntax]"):
        assert code in done.said
    assert b"INFO onfh_runtime" in done.said, "it was verbose"
    assert _markers(done.said) == set()
    for path in out.rglob("*"):
        assert _markers(str(path.relative_to(out)).encode()) == set()
        if path.suffix in (".json", ".html"):
            assert _markers(path.read_bytes()) <= {b"Zq_903_z"}, path  # what was scanned is shown, who was is not


def test_dicom_outputs_hold_what_an_archive_files_them_by_and_nothing_else(
    marked: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    assert _infer([marked / "good"], tmp_path, "--bundle", str(bundle_folder)).code == 0
    allowed = {f"Zq_{number}_z".encode() for number, keyword in enumerate(_KEYWORDS) if keyword in ADOPTED}
    allowed |= {b"Zq_900_z", *(value.encode() for value in _OTHERS.values())}
    assert b"Zq_0_z" in allowed
    for path in tmp_path.rglob("*.dcm"):
        assert b"Zq_0_z" in _markers(path.read_bytes()) <= allowed


def test_anonymous_outputs_tell_nothing_at_all(
    marked: Path, tmp_path: Path, errors_of: Callable[[Path], list[str]]
) -> None:
    out, again = tmp_path / "one", tmp_path / "two"
    inputs = [marked / name for name in ("good", "mixed_patient", "localizer")]
    done = _infer(inputs, out, "--verbose", "--anonymous", "--secondary-capture")
    assert done.code == 1, done.said
    assert _markers(done.said) == set()
    for path in out.rglob("*"):
        assert path.is_dir() or _markers(path.read_bytes()) == set(), path
    paths = sorted(out.rglob("*.dcm"))
    objects = [pydicom.dcmread(path) for path in paths]
    assert {item.Modality for item in objects} == {"SEG", "SR", "OT"}
    bundle = load_bundle(demo_bundle())
    infer(inputs, again, bundle=bundle, anonymous=True, secondary_capture=True)
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in sorted(again.rglob("*.dcm"))]
    assert uids == [item.SOPInstanceUID for item in objects]
    assert len({str(name) for item in objects for name in (item.PatientName, item.PatientID)}) == 1
    sources = {pydicom.dcmread(path).SOPInstanceUID for path in (marked / "good").glob("*.dcm")}
    for item in objects:
        assert item.PatientID.startswith("ANON-")
        assert (item.PatientIdentityRemoved, item.PatientBirthDate, item.PatientSex) == ("YES", "", "")
        assert "UIDs of the source are kept" in str(item.DeidentificationMethod)
        if item.Modality == "SEG":
            assert {source.ReferencedSOPInstanceUID for source in item.SourceImageSequence} <= sources
    assert [error for path in paths if "captur" not in path.parent.name for error in errors_of(path)] == []
    assert errors_of(next(path for path in paths if "captur" in path.parent.name)) == []


def test_a_message_from_elsewhere_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        try:
            raise KeyError("Zq_906_z")
        except KeyError as error:
            raise ValueError("Zq_907_z") from error

    try:
        fail()
    except ValueError as error:
        failure = as_onfh_error(error)
    assert failure.code == "internal_error"
    assert _markers((str(failure) + caplog.text).encode()) == set()
    for told in ("KeyError", "ValueError", "test_privacy.py", "in fail"):
        assert told in caplog.text


def test_a_message_of_our_own_is_logged() -> None:
    told = traceback_without_messages(SeriesError("a_code", "A sentence."))
    assert told == "SeriesError: A sentence. [a_code]"


@pytest.mark.parametrize("case", ["a stage that cannot be opened", "a report that cannot be written"])
def test_a_failure_tells_nothing(
    case: str,
    marked: Path,
    bundle_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ValueError("Zq_909_z")

    if case == "a report that cannot be written":
        monkeypatch.setattr(sr, "sr_from_result", fail)
    else:
        model = bundle_folder / "classifier" / "model.onnx"
        model.write_bytes(b"no model")
        document = json.loads((bundle_folder / "bundle.json").read_text())
        document["files"]["classifier/model.onnx"] = sha256_of(model)
        (bundle_folder / "bundle.json").write_text(json.dumps(document))
    out = tmp_path / "out"
    assert main(["infer", str(marked / "good"), "--bundle", str(bundle_folder), "--out", str(out)]) == 1
    (result,) = (json.loads(path.read_text()) for path in out.rglob("result.json"))
    assert result["status"] == "failed"
    assert result["reason"]["code"] in ("model_unloadable", "internal_error")
    said = capsys.readouterr()
    assert _markers((said.out + said.err + caplog.text + json.dumps(result)).encode()) == set()


_COMMENTING = """
import logging, sys, warnings
from onfh_runtime import infer
from onfh_runtime.cli.main import main

def find_series(paths, report=None):
    warnings.warn("Zq_910_z")
    logging.getLogger("pydicom").error("Zq_911_z")
    logging.getLogger("highdicom.seg.sop").error("Zq_912_z")
    return [], []

infer.find_series = find_series
sys.exit(main(["infer", sys.argv[1], "--out", sys.argv[2], "--verbose"]))
"""


def test_what_other_packages_comment_on_is_not_repeated(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _COMMENTING, str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == 3, done.stderr
    assert b"UserWarning" in done.stderr
    assert _markers(done.stdout + done.stderr) == set()


def test_an_error_outside_every_series_is_told_by_its_type(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ValueError("Zq_908_z")

    monkeypatch.setattr("onfh_runtime.infer.find_series", fail)
    assert main(["infer", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "[internal_error]" in said.err
    assert _markers((said.out + said.err + caplog.text).encode()) == set()
