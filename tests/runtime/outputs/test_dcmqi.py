"""What dcmqi, which shares no code with highdicom, makes of a SEG and an SR."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from onfh_runtime.dicom import find_series, read_volume
from onfh_runtime.outputs.seg import seg_from_mask
from onfh_runtime.outputs.sr import sr_from_result
from onfh_runtime.result import Result

Mask = np.ndarray[Any, Any]

_PIXELS = Dataset()
_PIXELS.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
_PIXELS.SamplesPerPixel, _PIXELS.PhotometricInterpretation = 1, "MONOCHROME2"
_PIXELS.BitsAllocated = _PIXELS.BitsStored = 16
_PIXELS.HighBit, _PIXELS.PixelRepresentation = 15, 1
_PIXELS.RescaleSlope, _PIXELS.RescaleIntercept, _PIXELS.RescaleType = 1, 0, "HU"


@pytest.fixture(scope="module")
def dcmqi() -> Callable[..., None]:
    """``dcmqi(program, *arguments)`` runs one of its programs."""
    try:
        programs = {path.stem: path.locate() for path in files("dcmqi") or [] if path.parts[:2] == ("dcmqi", "bin")}
    except PackageNotFoundError:
        pytest.skip("dcmqi is not installed: pip install dcmqi")

    def run(program: str, *arguments: str | Path) -> None:
        done = subprocess.run([str(programs[program]), *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "rror" not in done.stdout + done.stderr

    return run


def _read_nrrd(path: Path) -> tuple[Mask, Mask]:
    """Voxels of a NRRD file with axes (i, j, k), and its affine from (i, j, k, 1) to LPS mm."""
    head, _, data = path.read_bytes().partition(b"\n\n")
    lines = [line.split(":", 1) for line in head.decode().splitlines() if ":" in line and not line.startswith("#")]
    fields = {key.strip(): value.strip(" =") for key, value in lines}
    assert fields["space"] == "left-posterior-superior"
    kind = {"unsigned char": "u1", "uint8": "u1", "short": "<i2", "unsigned short": "<u2"}[fields["type"]]
    raw = gzip.decompress(data) if fields["encoding"] in ("gzip", "gz") else data
    voxels = np.frombuffer(raw, kind).reshape([int(size) for size in fields["sizes"].split()], order="F")
    affine = np.eye(4)
    for axis, vector in enumerate(fields["space directions"].split()):
        affine[:3, axis] = [float(value) for value in vector.strip("()").split(",")]
    affine[:3, 3] = [float(value) for value in fields["space origin"].strip("()").split(",")]
    return voxels, affine


def _indices(path: Path, affine: Mask) -> tuple[Mask, ...]:
    """Where the voxels of a NRRD file lie in an array with this affine to LPS mm; each must meet one of its voxels."""
    voxels, own = _read_nrrd(path)
    places = np.argwhere(voxels)
    points = np.c_[places, np.ones(len(places))] @ own.T
    indices = (points @ np.linalg.inv(affine).T)[:, :3]
    nearest = np.rint(indices).astype(int)
    assert np.abs(indices - nearest).max() < 1e-3  # of a voxel
    return tuple(nearest.T)


def test_it_gives_the_same_mask_back_in_patient_space(
    plane: str,
    study_of: Callable[..., Any],
    result_of: Callable[..., Result],
    bundle: Any,
    mask: Mask,
    stored: Callable[[Dataset], Path],
    dcmqi: Callable[..., None],
    tmp_path: Path,
) -> None:
    images, volume = study_of(plane)
    path = stored(seg_from_mask(mask, volume, images, result=result_of(), bundle=bundle))
    (tmp_path / "out").mkdir()
    dcmqi("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", tmp_path / "out", "-p", "a")
    back = np.zeros_like(mask)
    for label in (1, 2):
        back[_indices(tmp_path / "out" / f"a-{label}.nrrd", volume.affine)] = label
    np.testing.assert_array_equal(back, mask)
    said = json.loads((tmp_path / "out" / "a-meta.json").read_text())
    segments = [segment for (segment,) in said["segmentAttributes"]]
    assert [segment["labelID"] for segment in segments] == [1, 2]
    assert {segment["SegmentedPropertyTypeCodeSequence"]["CodeValue"] for segment in segments} == {"6574001"}
    sides = [segment["AnatomicRegionModifierSequence"]["CodeMeaning"] for segment in segments]
    assert sides == ["Right", "Left"]


def test_a_ball_stays_where_it_is_from_the_files_to_another_program(
    plane: str,
    study_of: Callable[..., Any],
    result_of: Callable[..., Result],
    bundle: Any,
    stored: Callable[[Dataset], Path],
    dcmqi: Callable[..., None],
    tmp_path: Path,
) -> None:
    images, true = study_of(plane)
    places = np.moveaxis(np.indices(true.voxels.shape), 0, -1) @ true.affine[:3, :3].T + true.affine[:3, 3]
    ball = np.linalg.norm(places - (true.affine @ [5.3, 13.2, 11.7, 1])[:3], axis=-1) < 6  # mm
    (tmp_path / "in").mkdir()
    for image, shown in zip(images, ball, strict=True):
        stored_image = pydicom.dcmread(image.path)
        stored_image.update(_PIXELS)
        stored_image.add_new("PixelData", "OW", np.where(shown, 700, 0).astype("<i2").tobytes())
        stored_image.save_as(tmp_path / "in" / image.path.name)
    (candidate,), _ = find_series([tmp_path / "in"])
    volume, sources = read_volume(candidate)
    mask = (volume.hounsfield() > 300).astype(np.uint8)
    path = stored(seg_from_mask(mask, volume, sources, result=result_of(), bundle=bundle))
    dcmqi("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", tmp_path, "-p", "a")
    back = np.zeros_like(ball)
    back[_indices(tmp_path / "a-1.nrrd", true.affine)] = True
    np.testing.assert_array_equal(back, ball)


def test_it_reads_the_report(
    study_of: Callable[..., Any],
    result_of: Callable[..., Result],
    bundle: Any,
    mask: Mask,
    stored: Callable[[Dataset], Path],
    dcmqi: Callable[..., None],
    tmp_path: Path,
) -> None:
    images, volume = study_of("coronal")
    result = result_of()
    seg = seg_from_mask(mask, volume, images, result=result, bundle=bundle)
    path = stored(sr_from_result(result, images, seg=seg, bundle=bundle))
    dcmqi("tid1500reader", "--inputDICOM", path, "--outputMetadata", tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["imageLibrary"] == [image.sop_instance_uid for image in images]
    assert read["compositeContext"] == [seg.SOPInstanceUID]
    assert read["observerContext"]["DeviceObserverSerialNumber"] == result.bundle.sha256
    groups = {group["TrackingIdentifier"]: group for group in read["Measurements"]}
    assert list(groups) == ["ONFH patient", "ONFH right", "ONFH left"]
    patient = {
        item["quantity"]["CodeMeaning"]: float(item["value"]) for item in groups["ONFH patient"]["measurementItems"]
    }
    assert patient == {"Probability": 0.97123456789, "Threshold Value": 0.42}
    for number, (name, side) in enumerate(result.sides, 1):
        group = groups[f"ONFH {name}"]
        assert group["Laterality"]["CodeMeaning"] == name.capitalize()
        assert (group["ReferencedSegment"], group["segmentationSOPInstanceUID"]) == (number, seg.SOPInstanceUID)
        assert group["SourceSeriesForImageSegmentation"] == result.series_instance_uid
        volume_mm3 = group["measurementItems"][0]
        assert (float(volume_mm3["value"]), volume_mm3["units"]["CodeValue"]) == (side.volume_mm3, "mm3")
        assert group["qualitativeEvaluations"][0]["conceptValue"]["CodeMeaning"] == "Present"


@pytest.mark.parametrize("kind", ["negative", "refused"])
def test_it_reads_a_report_without_a_mask(
    kind: str,
    request: pytest.FixtureRequest,
    study_of: Callable[..., Any],
    bundle: Any,
    stored: Callable[[Dataset], Path],
    dcmqi: Callable[..., None],
    tmp_path: Path,
) -> None:
    path = stored(sr_from_result(request.getfixturevalue(kind), study_of()[0], seg=None, bundle=bundle))
    dcmqi("tid1500reader", "--inputDICOM", path, "--outputMetadata", tmp_path / "report.json")
    groups = json.loads((tmp_path / "report.json").read_text()).get("Measurements") or []
    answers = [group["qualitativeEvaluations"][0]["conceptValue"]["CodeMeaning"] for group in groups]
    assert answers == (["Absent"] * 3 if kind == "negative" else [])
