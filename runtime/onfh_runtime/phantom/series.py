"""A phantom as a DICOM series, and the names through which the other phantom modules are used."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from onfh_runtime.phantom.anatomy import Phantom
from onfh_runtime.phantom.spec import PhantomSpec
from onfh_runtime.phantom.stack import axial_grid, coronal_from, coronal_grid
from onfh_runtime.phantom.truth import write_truth

__all__ = ["axial_grid", "coronal_from", "coronal_grid", "phantom_uid", "write_series", "write_truth"]

INTERCEPT = -1024
DATE, TIME = "20260101", "120000"
"""A phantom is made of numbers, not at a time: a fixed moment keeps its files the same."""
AXIAL_ORIENTATION = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
CORONAL_ORIENTATION = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]


def phantom_uid(spec: PhantomSpec, *what: object) -> str:
    """A UID that follows from everything in the spec and from ``what``."""
    return str(generate_uid(entropy_srcs=["onfh-phantom", repr(spec), *(str(w) for w in what)]))


def _decimal(value: float) -> float:
    return round(float(value), 5)


def _header(phantom: Phantom, plane: str, series_number: int, description: str, identity: tuple[str, str]) -> Dataset:
    spec, scanner = phantom.spec, phantom.spec.scanner
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if plane == "axial" else ["DERIVED", "SECONDARY", "MPR"]
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = DATE
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = TIME
    ds.AccessionNumber = ""
    ds.Modality = "CT"
    ds.Manufacturer = "onfh-edge phantom"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Synthetic hip CT"
    ds.SeriesDescription = description
    ds.ManufacturerModelName = scanner.name
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"
    ds.PatientName, ds.PatientID = identity
    ds.PatientBirthDate = ""
    ds.PatientSex = spec.sex
    if spec.field_of_view == "both":
        ds.BodyPartExamined = "PELVIS"
    else:
        ds.BodyPartExamined = "HIP"
        ds.Laterality = "R" if spec.field_of_view == "right" else "L"
    ds.SliceThickness = _decimal(phantom.grid.spacing[0])
    ds.KVP = _decimal(scanner.kvp)
    ds.ProtocolName = "Hip"
    ds.ConvolutionKernel = scanner.kernel
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = phantom_uid(spec, "study")
    ds.SeriesInstanceUID = phantom_uid(spec, "series", phantom.grid, series_number)
    ds.StudyID = str(spec.seed % 10**15)
    ds.SeriesNumber = series_number
    ds.AcquisitionNumber = 1
    ds.FrameOfReferenceUID = phantom_uid(spec, "frame")
    ds.PositionReferenceIndicator = ""
    ds.ImageOrientationPatient = AXIAL_ORIENTATION if plane == "axial" else CORONAL_ORIENTATION
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = phantom.grid.shape[1:]
    ds.PixelSpacing = [_decimal(phantom.grid.spacing[1]), _decimal(phantom.grid.spacing[2])]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    ds.WindowCenter, ds.WindowWidth = 500.0, 2000.0
    ds.RescaleIntercept = float(INTERCEPT)
    ds.RescaleSlope = 1.0
    ds.RescaleType = "HU"
    return ds


def write_series(
    phantom: Phantom,
    folder: Path,
    *,
    plane: Literal["axial", "coronal"] | None = None,
    series_number: int = 1,
    description: str | None = None,
    patient_name: str | None = None,
    patient_id: str | None = None,
) -> list[Path]:
    """Write one CT Image Storage object for each slice, int16 with RescaleIntercept -1024.

    Every UID follows from the spec, the grid and the series number; series of one patient share study and frame of
    reference.

    Args:
        phantom: what to write.
        folder: made when absent.
        plane: must be the plane of the phantom's grid; None takes it.
        series_number: also names the series.
        description: SeriesDescription; None names plane and thickness.
        patient_name: None makes ``PHANTOM^<seed>``.
        patient_id: None makes ``PHANTOM-<seed>``.

    Returns:
        Paths in slice order: feet to head when axial, front to back when coronal.

    Raises:
        ValueError: ``plane`` is not that of the phantom.
    """
    grid = phantom.grid
    if plane is not None and plane != grid.plane:
        raise ValueError(f"The phantom was rendered in {grid.plane} slices. Pass it through coronal_from first.")
    seed = phantom.spec.seed
    identity = (patient_name or f"PHANTOM^{seed:04d}", patient_id or f"PHANTOM-{seed:04d}")
    text = description or f"Hip {grid.plane} {grid.spacing[0]:g} mm"
    base = _header(phantom, grid.plane, series_number, text, identity)
    stored = np.clip(np.rint(phantom.hu) - INTERCEPT, 0, np.iinfo(np.int16).max).astype("<i2")
    folder.mkdir(parents=True, exist_ok=True)
    normal_axis = 2 if grid.plane == "axial" else 1
    paths = []
    for k, pixels in enumerate(stored):
        ds = Dataset(base)
        ds.SOPInstanceUID = phantom_uid(phantom.spec, "image", grid, series_number, k)
        ds.InstanceNumber = k + 1
        position = list(grid.origin)
        position[normal_axis] += grid.spacing[0] * k
        ds.ImagePositionPatient = [_decimal(v) for v in position]
        ds.PixelData = pixels.tobytes()
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
        path = folder / f"{k + 1:04d}.dcm"
        FileDataset(str(path), ds, preamble=b"\0" * 128, file_meta=meta).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
