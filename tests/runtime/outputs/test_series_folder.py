"""What one run of ``onfh infer`` leaves on the disk, what the next one makes of it, and whose it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from onfh_runtime.bundle import load_bundle
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.cli.main import main
from onfh_runtime.infer import infer
from onfh_runtime.result import Study

_TIMES = {f"{event}{what}" for event in ("InstanceCreation", "Series", "Content") for what in ("Date", "Time")}


def _infer(source: Path, out: Path, **options: bool) -> Any:
    return infer([source], out, bundle=load_bundle(demo_bundle()), **options)


@pytest.fixture(scope="module")
def written(phantom_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that is written of a coronal series with a lesion."""
    out = tmp_path_factory.mktemp("written")
    assert _infer(phantom_study / "coronal", out, secondary_capture=True).exit_code == 0
    return out


def _objects(out: Path) -> dict[str, pydicom.FileDataset]:
    return {str(path.relative_to(out)): pydicom.dcmread(path) for path in sorted(out.rglob("*.dcm"))}


def test_pictures_lie_beside_the_seg_one_for_each_slice_it_shows(written: Path) -> None:
    (folder,) = (path.parent for path in written.rglob("seg.dcm"))
    pictures = sorted((folder / "secondary-capture").iterdir())
    seg = pydicom.dcmread(folder / "seg.dcm")
    shown = {pydicom.dcmread(path).SourceImageSequence[0].ReferencedSOPInstanceUID for path in pictures}
    assert shown == {source.ReferencedSOPInstanceUID for source in seg.SourceImageSequence}
    assert all(path.name == f"{pydicom.dcmread(path).InstanceNumber:04d}.dcm" for path in pictures)


def test_our_own_outputs_are_never_input(
    written: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", str(written), "--bundle", str(bundle_folder), "--out", str(tmp_path)]) == 3
    assert "Nothing to analyse" in capsys.readouterr().out
    (study,) = [Study.model_validate_json(path.read_bytes()) for path in tmp_path.rglob("study.json")]
    assert sorted(entry.reason.code for entry in study.series if entry.reason) == [
        "not_an_image",
        "not_ct",
        "secondary_capture",
    ]


def test_a_run_without_pictures_leaves_no_stale_ones(written: Path, phantom_study: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "out")
    _infer(phantom_study / "coronal", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} == {
        "report.html",
        "result.json",
        "seg.dcm",
        "sr.dcm",
        "study.json",
    }
    assert not list(tmp_path.rglob("secondary-capture"))


def test_a_second_run_writes_the_same_objects_with_another_time(
    written: Path, phantom_study: Path, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted((phantom_study / "coronal").iterdir(), reverse=True)):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "in" / f"{number}.bin")  # names and their order mean nothing
    _infer(tmp_path / "in", tmp_path / "out", secondary_capture=True)
    first, second = _objects(written), _objects(tmp_path / "out")
    assert first.keys() == second.keys()
    for name, item in first.items():
        other = second[name]
        assert item.SOPInstanceUID == other.SOPInstanceUID
        assert {element.keyword for element in item if element != other[element.tag]} <= {
            *_TIMES,
            "ContributingEquipmentSequence",
        }


def test_a_refused_series_keeps_its_report_whatever_its_files_are_called(phantom_study: Path, tmp_path: Path) -> None:
    paths = sorted((phantom_study / "coronal").iterdir())[:8]
    del paths[4]  # a gap
    uids = []
    for run, order in enumerate((paths, paths[::-1])):
        (tmp_path / f"in{run}").mkdir()
        for number, path in enumerate(order):
            shutil.copy(path, tmp_path / f"in{run}" / f"{number}.dcm")
        (result,) = _infer(tmp_path / f"in{run}", tmp_path / f"out{run}").results
        assert result.reason.code == "missing_slice"
        (report,) = _objects(tmp_path / f"out{run}").values()
        uids.append(report.SOPInstanceUID)
    assert uids[0] == uids[1]


def test_identity_and_references_are_those_of_the_source(written: Path, phantom_study: Path) -> None:
    sources = {
        source.SOPInstanceUID: source
        for source in (pydicom.dcmread(path) for path in (phantom_study / "coronal").iterdir())
    }
    one = next(iter(sources.values()))
    series = set()
    for item in _objects(written).values():
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID"):
            assert item[keyword].value == one[keyword].value
        series.add(item.SeriesInstanceUID)
        if item.Modality == "SR":
            (evidence,) = item.CurrentRequestedProcedureEvidenceSequence
            assert evidence.StudyInstanceUID == one.StudyInstanceUID
            listed = {part.SeriesInstanceUID: part.ReferencedSOPSequence for part in evidence.ReferencedSeriesSequence}
            assert {ref.ReferencedSOPInstanceUID for ref in listed[one.SeriesInstanceUID]} == sources.keys()
            continue
        for reference in item.SourceImageSequence:
            assert reference.ReferencedSOPClassUID == sources[reference.ReferencedSOPInstanceUID].SOPClassUID
        if item.Modality == "SEG":
            assert item.FrameOfReferenceUID == one.FrameOfReferenceUID
            assert item.ReferencedSeriesSequence[0].SeriesInstanceUID == one.SeriesInstanceUID
            for group in item.PerFrameFunctionalGroupsSequence:
                source = sources[group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
                place = group.PlanePositionSequence[0].ImagePositionPatient
                assert np.array(place, float) == pytest.approx(np.array(source.ImagePositionPatient, float))
    assert len(series) == 3
    assert one.SeriesInstanceUID not in series
