"""A DICOM Segmentation as voxels: its frames put in their places, the ones it leaves out as empty slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from onfh_runtime.errors import UsageError
from onfh_runtime.outputs import codes

__all__ = ["mask_from_seg"]

_PLACE_MM = 0.05
"""Positions nearer to each other than this are one: a decimal string of a header is rounded at 0.001 mm or finer."""

_UNEVEN = 0.1
"""Share of the slice distance by which a frame may lie off the even grid."""


def mask_from_seg(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.float64], str | None]:
    """Necrosis in a DICOM SEG (binary, fractional or label map).

    Segments whose type is Necrosis (SCT 6574001) count, right and left together; a file of one segment needs no type.
    A fractional value counts from one half. Slices between the first and the last frame that have none are empty; the
    grid ends where the frames end.

    Returns:
        (slices, rows, columns) bool, (4, 4) float64 affine to LPS mm, and the frame of reference's UID.

    Raises:
        UsageError: ``mask_unreadable``, ``mask_ambiguous`` or ``mask_without_geometry``.
    """
    dataset = pydicom.dcmread(path)
    if dataset.get("SegmentSequence") is None or dataset.get("PerFrameFunctionalGroupsSequence") is None:
        raise UsageError("mask_unreadable", f"{path} is no DICOM Segmentation.")
    wanted = _necrosis(dataset, path)
    frames = dataset.pixel_array
    frames = frames[None] if frames.ndim == 2 else frames
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    kind = str(dataset.SegmentationType)
    if kind == "LABELMAP":
        chosen = list(range(len(groups)))
        filled = np.isin(frames, sorted(wanted))
    else:
        chosen = [k for k, group in enumerate(groups) if _segment_number(dataset, group) in wanted]
        least = float(dataset.MaximumFractionalValue) / 2 if kind == "FRACTIONAL" else 0.5
        filled = frames[chosen] >= least
    if not chosen:
        raise UsageError("mask_unreadable", f"{path} has no frame of a necrosis.")
    index, affine = _grid(dataset, [groups[k] for k in chosen], path)
    voxels = np.zeros((int(index.max()) + 1, *filled.shape[1:]), bool)
    for place, frame in zip(index, filled, strict=True):
        voxels[place] |= frame
    space = dataset.get("FrameOfReferenceUID")
    return voxels, affine, str(space) if space else None


def _necrosis(dataset: Dataset, path: Path) -> set[int]:
    """Numbers of the segments that count."""
    segments = list(dataset.SegmentSequence)
    typed = {
        int(segment.SegmentNumber)
        for segment in segments
        for kind in segment.get("SegmentedPropertyTypeCodeSequence") or []
        if (str(kind.get("CodeValue", "")), str(kind.get("CodingSchemeDesignator", "")))
        == (codes.NECROSIS.value, codes.NECROSIS.scheme_designator)
    }
    if typed:
        return typed
    # number 0 of a label map is its background
    numbers = {int(segment.SegmentNumber) for segment in segments if int(segment.SegmentNumber)}
    if len(numbers) == 1:
        return numbers
    raise UsageError(
        "mask_ambiguous",
        f"{path} has {len(numbers)} segments and none is typed as necrosis (SCT 6574001).",
        "Name a file whose necrosis is typed, or one of a single segment.",
    )


def _segment_number(dataset: Dataset, group: Dataset) -> int:
    item = _functional(dataset, group, "SegmentIdentificationSequence")
    return int(item.ReferencedSegmentNumber)


def _functional(dataset: Dataset, group: Dataset, name: str) -> Dataset:
    """The item of a functional group, the frame's own or the one all frames share."""
    for place in (group, *(dataset.get("SharedFunctionalGroupsSequence") or [])):
        if place.get(name):
            found: Dataset = place[name].value[0]
            return found
    raise UsageError("mask_without_geometry", f"A frame of a DICOM Segmentation lacks its {name}.")


def _grid(dataset: Dataset, groups: list[Dataset], path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The slice of each frame, and the affine of them all."""

    def numbers(name: str, keyword: str) -> NDArray[np.float64]:
        values = [getattr(_functional(dataset, group, name), keyword) for group in groups]
        return np.array([[float(value) for value in each] for each in values])

    positions = numbers("PlanePositionSequence", "ImagePositionPatient")
    cosines = numbers("PlaneOrientationSequence", "ImageOrientationPatient")
    pixels = numbers("PixelMeasuresSequence", "PixelSpacing")
    if np.abs(cosines - cosines[0]).max() > 1e-3 or np.abs(pixels - pixels[0]).max() > 1e-3:
        raise UsageError("mask_without_geometry", f"{path} has frames that are turned or scaled against each other.")
    along_row, along_column = cosines[0, :3], cosines[0, 3:]  # of rising column index, of rising row index
    normal = np.cross(along_row, along_column)
    heights = positions @ normal
    measures = _functional(dataset, groups[0], "PixelMeasuresSequence")
    step, index = _places(heights - heights.min(), measures, path)
    first, last = int(heights.argmin()), int(heights.argmax())
    travel = (positions[last] - positions[first]) / index[last] if index[last] else normal * step
    expected = positions[first] + index[:, None] * travel
    if np.abs(expected - positions).max() > max(_PLACE_MM, _UNEVEN * step):
        raise UsageError("mask_without_geometry", f"{path} has frames that lie beside each other.")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = travel, along_column * pixels[0, 0], along_row * pixels[0, 1]
    affine[:3, 3] = positions[first]
    return index, affine


def _places(heights: NDArray[np.float64], measures: Any, path: Path) -> tuple[float, NDArray[np.int64]]:
    """The distance of the slices and the number of each frame's, from heights above the lowest in mm.

    The stated distance is taken where the frames fit it, for frames without a voxel may have been left out; otherwise
    the smallest one between two frames.
    """
    steps = np.diff(np.unique(heights))
    steps = steps[steps > _PLACE_MM]
    stated = [measures.get(name) for name in ("SpacingBetweenSlices", "SliceThickness")]
    candidates = [float(value) for value in stated if value]
    candidates = [value for value in candidates if value > 0]
    if len(steps):
        candidates = [*candidates[:1], float(steps.min()), *candidates[1:]]
    for step in candidates:
        index = np.rint(heights / step)
        if np.abs(heights - index * step).max() <= max(_PLACE_MM, _UNEVEN * step):
            return step, index.astype(np.int64)
    raise UsageError("mask_without_geometry", f"{path} has frames at uneven distances, or none is stated.")
