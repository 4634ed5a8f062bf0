"""Small CT series in memory, results and a bundle; every object under test is written to a file and read back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from onfh_runtime.bundle import Bundle
from onfh_runtime.dicom.header import read_header
from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.result import Result
from onfh_runtime.volume import Volume

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.1.1"
SHAPE = (12, 24, 31)  # an odd pixel count: frames of a binary SEG then do not start on a byte
_TURN = np.array([[0.9361, -0.2896, 0.1993], [0.3130, 0.9447, -0.0974], [-0.1601, 0.1536, 0.9751]])
"""Turns about all three axes; made orthonormal below."""


def _affine(slice_step: Any, row_step: Any, column_step: Any, origin: Any = (-100, -90, -300)) -> list[list[float]]:
    """From the steps in LPS mm between neighbouring slices, rows and columns."""
    return [*np.transpose([slice_step, row_step, column_step, origin]).tolist(), [0, 0, 0, 1]]


AFFINES = {
    "axial": _affine((0, 0, 1.5), (0, 0.8, 0), (0.7, 0, 0)),
    "coronal": _affine((0, 3, 0), (0, 0, -0.7), (0.7, 0, 0), (-100, -40, 80)),
    "oblique": _affine(
        (0, 3 * np.cos(0.3), -3 * np.sin(0.3)),
        (0, -0.8 * np.sin(0.3), -0.8 * np.cos(0.3)),
        (0.7, 0, 0),
        (-100, -40, 80),
    ),
    "turned": _affine(*(np.linalg.qr(_TURN)[0] * (0.7, 0.8, 1.5)).T[::-1]),
    "anisotropic": _affine((0, 0, 5), (0, 1.3, 0), (0.4, 0, 0)),
    "feet first": _affine((0, 0, -1.5), (0, 0.8, 0), (-0.7, 0, 0)),
    "decubitus": _affine((0, 0, 1.5), (-0.8, 0, 0), (0, 0.7, 0)),
    "left-handed": _affine((0, 0, 1.5), (0, -0.8, 0), (0.7, 0, 0)),
}

Study = tuple[tuple[SourceImage, ...], Volume]


def _common(sop_class: str) -> Dataset:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = sop_class
    header.StudyInstanceUID, header.SeriesInstanceUID = STUDY, SERIES
    header.PatientName, header.PatientID = "Doe^Jane", "4711"
    header.PatientBirthDate, header.PatientSex, header.PatientAge = "19610203", "F", "065Y"
    header.StudyDate, header.StudyTime, header.StudyID = "20261120", "101500", "17"
    header.AccessionNumber, header.ReferringPhysicianName = "A-1", "House^Gregory"
    header.StudyDescription, header.Modality, header.SeriesNumber = "Hip", "CT", 3
    header.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.9"
    header.Manufacturer, header.Rows, header.Columns = "Maker", SHAPE[1], SHAPE[2]
    return header


def _as_read(header: Dataset, path: Path) -> Dataset:
    """The header as the runtime reads it from a file, with elements that are not decoded yet."""
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID or CTImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.save_as(path, enforce_file_format=True)
    return read_header(path)[0]


@pytest.fixture(params=sorted(AFFINES))
def plane(request: pytest.FixtureRequest) -> str:
    """Every geometry, one after the other."""
    return str(request.param)


@pytest.fixture
def study_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    """``study_of(plane, edit)``: (images, volume); ``edit`` changes each header before it is encoded."""

    def make(plane: str = "axial", edit: Callable[[Dataset], Any] = lambda header: None) -> Study:
        affine = np.array(AFFINES[plane], np.float64)
        folder = tmp_path_factory.mktemp("study")
        images = []
        for index in range(SHAPE[0]):
            header = _common(CTImageStorage)
            header.SOPInstanceUID, header.InstanceNumber = f"{SERIES}.{index + 1}", SHAPE[0] - index
            header.ImagePositionPatient = [f"{value:.10g}" for value in (affine @ [index, 0, 0, 1])[:3]]
            row_mm, column_mm = np.linalg.norm(affine[:3, 1:3], axis=0)
            cosines = [*affine[:3, 2] / column_mm, *affine[:3, 1] / row_mm]
            header.ImageOrientationPatient = [f"{value:.10g}" for value in cosines]
            header.PixelSpacing = [f"{row_mm:.10g}", f"{column_mm:.10g}"]
            header.SliceThickness = "2"
            edit(header)
            path = folder / f"{index}.dcm"
            images.append(SourceImage(path, _as_read(header, path)))
        return tuple(images), _volume(affine)

    return make


def _volume(affine: np.ndarray[Any, Any]) -> Volume:
    return Volume(np.zeros(SHAPE, np.int16), affine, np.ones(SHAPE[0]), np.zeros(SHAPE[0]))


@pytest.fixture
def mask() -> np.ndarray[Any, Any]:
    """(12, 24, 31) uint8: a right lesion on slices 3 to 6, a left one on 5 to 8, both without any symmetry."""
    mask = np.zeros(SHAPE, np.uint8)
    random = np.random.default_rng(0)
    mask[3:7, 5:12, 2:9] = random.integers(0, 2, (4, 7, 7))
    mask[5:9, 8:15, 20:29] = 2 * random.integers(0, 2, (4, 7, 9))
    return mask


@pytest.fixture
def bundle() -> Bundle:
    stage = {
        "architecture": "vit",
        "models": {"fp32": "classifier/model.onnx"},
        "input_name": "pixels",
        "output_name": "logits",
        "input": {"size": [224, 224], "windows": [{"center": 500, "width": 2000}], "mean": [0.5], "std": [0.5]},
    }
    return Bundle.model_validate(
        {
            "schema": "onfh-bundle/1",
            "name": "demo",
            "version": "1.2",
            "notices": ["Trained on phantoms only."],
            "slice_spacing_mm": 3.0,
            "coverage": {"margin_mm": 10},
            "classifier": stage,
            "segmenter": stage,
            "gate": {"threshold": 0.3},
            "slice_threshold": 0.5,
            "patient_rule": {"k": 3, "threshold": 0.42},
            "minimum_volume_mm3": 100.0,
            "files": {},
        }
    )


def _side(state: str, **more: Any) -> dict[str, Any]:
    return {"state": state, **more}


@pytest.fixture
def result_of() -> Callable[..., Result]:
    """``result_of(**changes)``: a result with both sides positive, with fields of the top level replaced."""

    def make(**changes: Any) -> Result:
        content = {
            "schema": "onfh-result/1",
            "created": "2026-11-23T09:30:00Z",
            "status": "succeeded",
            "study_instance_uid": STUDY,
            "series_instance_uid": SERIES,
            "patient": {"state": "positive", "probability": 0.97123456789, "threshold": 0.42},
            "sides": {
                "right": _side("positive", volume_mm3=1234.56789012345, slices=4, centroid_mm=(-95.1, -84.2, -294.3)),
                "left": _side("positive", volume_mm3=987.654321, slices=3, centroid_mm=(80.5, -84.25, -291.0)),
            },
            "slices": [
                {
                    "index": index,
                    "position_mm": -40.0 + 3 * index,
                    "sop_instance_uid": None,
                    "probability": 0.9,
                    "positive": True,
                    "area_mm2": 10.0 * index,
                }
                for index in range(4)
            ],
            "geometry": {"acquired": "axial", "spacing_mm": (1.5, 0.8, 0.7), "coronal_slices": 60},
            "bundle": {"name": "demo", "version": "1.2", "sha256": "ab" * 32},
            "engine": {"backend": "onnxruntime", "precision": "fp32", "device": "CPU"},
            "warnings": [{"code": "thick_slices", "text": "The slices are thicker than 3 mm."}],
            "software": {"name": "onfh-edge", "version": "0.1.0"},
        }
        return Result.model_validate({**content, **changes})

    return make


@pytest.fixture
def negative(result_of: Callable[..., Result]) -> Result:
    return result_of(
        patient={"state": "negative", "probability": 0.01, "threshold": 0.42},
        sides={"right": _side("negative"), "left": _side("negative")},
    )


@pytest.fixture
def refused(result_of: Callable[..., Result]) -> Result:
    return result_of(
        status="not_analysed",
        reason={"code": "incomplete_coverage", "text": "The femoral heads are cut by the field of view."},
        patient=None,
        sides=None,
        slices=[],
        geometry=None,
    )


@pytest.fixture
def one_hip(result_of: Callable[..., Result]) -> Result:
    reason = {"code": "side_ambiguous", "text": "Only one hip is in the field of view."}
    return result_of(
        sides={"right": _side("undetermined", reason=reason), "left": _side("undetermined", reason=reason)},
        warnings=[reason],
    )


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Dataset], Path]:
    """Write a dataset as the runtime does and give its path."""

    def store(dataset: Dataset) -> Path:
        path = tmp_path / f"{dataset.Modality}-{len(list(tmp_path.iterdir()))}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return store


@pytest.fixture
def quiet() -> Callable[..., Dataset]:
    """Set an attribute to a value pydicom would comment on, as old archives hold."""

    def put(header: Dataset, keyword: str, value: Any) -> Dataset:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            setattr(header, keyword, value)
        return header

    return put
