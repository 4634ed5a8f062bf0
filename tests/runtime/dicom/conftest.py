"""A small CT series on disk, and the places of real ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from onfh_runtime.dicom import Candidate, find_series

ROOT = "1.2.826.0.1.3680043.10.999"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)

Edit = Callable[[int, Dataset], None]


@dataclass(frozen=True)
class Written:
    """What was written: files and stored pixels, both in the order of the slice normal."""

    folder: Path
    paths: list[Path]
    stored: NDArray[np.uint16]

    def candidate(self) -> Candidate:
        candidates, skipped = find_series([self.folder])
        assert skipped == []
        assert len(candidates) == 1
        return candidates[0]


def image(index: int, pixels: NDArray[np.uint16], iop: tuple[float, ...], step: float, series: int) -> Dataset:
    normal = np.cross(iop[:3], iop[3:])
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = f"{ROOT}.3.{series}.{index + 1}"
    ds.StudyInstanceUID = f"{ROOT}.1"
    ds.SeriesInstanceUID = f"{ROOT}.2.{series}"
    ds.FrameOfReferenceUID = f"{ROOT}.4"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Modality = "CT"
    ds.SeriesDescription = f"series {series}"
    ds.PatientName = "Secret^Person"
    ds.PatientID = "SECRET-ID"
    ds.ConvolutionKernel = "B60s"
    ds.InstanceNumber = 100 - index
    ds.SliceThickness = 9.0
    ds.GantryDetectorTilt = 12.0
    ds.ImagePositionPatient = [round(float(x), 4) for x in np.array([-11.5, -22.25, 33.0]) + index * step * normal]
    ds.ImageOrientationPatient = list(iop)
    ds.PixelSpacing = [0.75, 0.5]
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = 1
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    ds.PixelData = pixels.astype("<u2").tobytes()
    return ds


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> None:
    ds.file_meta = FileMetaDataset()
    compressed = syntax in (JPEGLSLossless, RLELossless)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if compressed else syntax
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").byteswap().tobytes()
    if "PixelData" in ds:
        ds["PixelData"].VR = "OW"
    if compressed:
        ds.compress(syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(
        path,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )


@pytest.fixture
def write_ct(tmp_path: Path) -> Callable[..., Written]:
    """Write a CT series; files are named so that their order is neither that of positions nor of instances."""

    def write(
        edit: Edit | None = None,
        *,
        iop: tuple[float, ...] = AXIAL,
        count: int = 5,
        step: float = 2.5,
        shape: tuple[int, int] = (6, 8),
        syntax: str = ExplicitVRLittleEndian,
        series: int = 1,
        stored: NDArray[np.uint16] | None = None,
    ) -> Written:
        if stored is None:
            stored = np.random.default_rng(series).integers(0, 3000, (count, *shape)).astype(np.uint16)
        folder = tmp_path / f"series{series}"
        paths = [folder / f"{(index * 3) % 7}-{index}.dcm" for index in range(count)]
        for index, path in enumerate(paths):
            ds = image(index, stored[index], iop, step, series)
            if edit is not None:
                edit(index, ds)
            save(ds, path, syntax)
        return Written(folder, paths, stored)

    return write


@pytest.fixture(scope="session")
def write_object() -> Callable[[Dataset, Path], None]:
    """Write one object as it is."""
    return save


@pytest.fixture
def real_series() -> Callable[[str], Path]:
    """Folder of a real series, found through ONFH_DATA or beside the repository."""

    def folder(name: str) -> Path:
        root = Path(os.environ.get("ONFH_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
        if not (root / name).is_dir():
            pytest.skip(f"no {name}: set ONFH_DATA to a folder that holds it, or put it under ../shared/data")
        return root / name

    return folder
