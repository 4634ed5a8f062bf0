"""The mask's outline burnt into the source slices, for viewers that cannot show a Segmentation.

One RGB picture (Secondary Capture Image Storage, the class that every archive takes) for each source slice that has a
mask. They are pictures for the eye: what measures, reads the SEG.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from onfh_runtime.bundle import Bundle
from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.outputs.seal import seal
from onfh_runtime.outputs.seg import LOSSY, SIDES
from onfh_runtime.outputs.source import adopt, decimal, equipment, fit, references, series_number
from onfh_runtime.result import Result
from onfh_runtime.volume import Volume

__all__ = ["captures_from_mask"]

_CENTER, _WIDTH = 500.0, 2000.0
"""The bone window of the page, HU."""

_COLORS = {1: (230, 159, 0), 2: (86, 180, 233), 3: (227, 143, 192)}
"""RGB of each label, the colours of the page: told apart by colour-blind readers too."""

_NOTE = "Research use only, not for diagnosis"
_MIN_COLUMNS = 384
"""Narrower slices are enlarged by a whole factor: the note would not be legible in fewer columns."""

_PATIENT_AXES = (("L", "R"), ("P", "A"), ("H", "F"))
"""Letters of Patient Orientation: where +x and -x, +y and -y, +z and -z of LPS point."""


def captures_from_mask(
    mask: NDArray[np.uint8], volume: Volume, images: Sequence[SourceImage], *, result: Result, bundle: Bundle
) -> list[Dataset]:
    """One picture for each source slice that has a mask, in slice order; none for an empty mask.

    Args:
        mask: (slices, rows, columns) uint8 on the grid of ``volume``: 0 none, 1 right, 2 left, 3 side undetermined.
        volume: the stored series.
        images: the images the volume was made of, in slice order.
        result: what is said of the series.
        bundle: what computed it.

    Returns:
        Datasets with their file meta information, ready for ``save_as(..., enforce_file_format=True)``. Instance Number
        is the place of the slice in the volume, from 1.
    """
    captures = []
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        picture = _picture(volume.hounsfield(int(index)), mask[index])
        captures.append(_capture(picture, int(index), volume, images[int(index)], result, bundle))
    if captures:
        seal(captures, "sc", result=result, images=images)
    return captures


def _picture(hu: NDArray[np.float32], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(rows, columns, 3) uint8, both multiplied by the factor that makes room for the note."""
    from PIL import Image, ImageDraw, ImageFont

    factor = -(-_MIN_COLUMNS // hu.shape[1])
    grey = np.clip((hu - (_CENTER - _WIDTH / 2)) * (255 / _WIDTH), 0, 255).round().astype(np.uint8)
    rgb = np.repeat(np.repeat(np.repeat(grey[..., None], 3, axis=2), factor, axis=0), factor, axis=1)
    large = np.repeat(np.repeat(labels, factor, axis=0), factor, axis=1)
    lines = [(_NOTE, (255, 255, 255))]
    for label, color in _COLORS.items():
        if (labels == label).any():
            rgb[_outline(large == label)] = color
            lines.append((f"Outlined: {SIDES[label]}", color))
    image = Image.fromarray(rgb)
    draw = ImageDraw.Draw(image)
    size = rgb.shape[1] // 24
    for row, (text, color) in enumerate(lines):
        place = (size // 2, size // 2 + row * size * 5 // 4)
        draw.text(place, text, fill=color, font=ImageFont.load_default(size), stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(image, np.uint8)


def _outline(shape: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a shape that have a neighbour outside it (or outside the picture), left, right, above or below."""
    padded = np.pad(shape, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return shape & ~inside


def _capture(
    picture: NDArray[np.uint8], index: int, volume: Volume, source: SourceImage, result: Result, bundle: Bundle
) -> Dataset:
    _, row_mm, column_mm = volume.spacing_mm
    rows, columns, _ = picture.shape
    factor = rows // volume.voxels.shape[1]
    made_by = equipment(result)
    capture = Dataset()
    capture.file_meta = FileMetaDataset()
    capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    capture.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    capture.SOPClassUID = SecondaryCaptureImageStorage
    capture.StudyInstanceUID = result.study_instance_uid
    capture.Modality = "OT"
    capture.Laterality = ""  # a series may show both hips
    capture.SeriesNumber = series_number("sc", source.header)
    capture.SeriesDescription = "ONFH outline, research use only"
    capture.InstanceNumber = index + 1
    capture.PatientOrientation = [_letters(volume.affine[:3, axis]) for axis in (2, 1)]
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.ConversionType = "WSD"
    capture.Manufacturer = capture.SecondaryCaptureDeviceManufacturer = made_by["manufacturer"]
    capture.ManufacturerModelName = made_by["manufacturer_model_name"]
    capture.SecondaryCaptureDeviceManufacturerModelName = made_by["manufacturer_model_name"]
    capture.SoftwareVersions = capture.SecondaryCaptureDeviceSoftwareVersions = made_by["software_versions"]
    capture.DeviceSerialNumber = made_by["device_serial_number"]
    capture.DerivationDescription = _derivation(result, bundle)
    capture.SourceImageSequence = references([source])
    # What is burnt in here names nobody; of the source's own pixels only the source can say so.
    if source.header.get("BurnedInAnnotation") == "NO":
        capture.BurnedInAnnotation = "NO"
    for keyword in LOSSY:
        if source.header.get(keyword):
            setattr(capture, keyword, source.header.get(keyword))
    capture.PixelSpacing = [decimal(row_mm / factor), decimal(column_mm / factor)]
    capture.SamplesPerPixel, capture.PhotometricInterpretation, capture.PlanarConfiguration = 3, "RGB", 0
    capture.Rows, capture.Columns = rows, columns
    capture.BitsAllocated = capture.BitsStored = 8
    capture.HighBit, capture.PixelRepresentation = 7, 0
    capture.PixelData = picture.tobytes() + b"\0" * (picture.size % 2)
    adopt(capture, source.header, [bundle.name, bundle.version, result.engine.device])
    return capture


def _derivation(result: Result, bundle: Bundle) -> str:
    software, engine = result.software, result.engine
    words = (
        f"{_NOTE}.",
        f"Outline of the ONFH segmentation burnt into the CT slice, window {_CENTER:g}/{_WIDTH:g} HU.",
        f"Software {software.name} {software.version},",
        f"bundle {bundle.name} {bundle.version} (sha256 {result.bundle.sha256}),",
        f"{engine.backend} {engine.precision} on {engine.device},",
        f"mask threshold {bundle.mask_threshold:g}.",
    )
    return fit(" ".join(words), 1024)


def _letters(direction: NDArray[np.float64]) -> str:
    """Where an axis of the picture points, largest component first; components below 1 in 1,000 are rounding."""
    unit = direction / np.linalg.norm(direction)
    axes = [axis for axis in np.argsort(-np.abs(unit)) if abs(unit[axis]) > 1e-3]
    return "".join(_PATIENT_AXES[axis][int(unit[axis] < 0)] for axis in axes)
