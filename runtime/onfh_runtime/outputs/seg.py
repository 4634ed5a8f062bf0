"""The mask as a DICOM Segmentation on the grid of the source series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage

from onfh_runtime.bundle import Bundle
from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.outputs import codes
from onfh_runtime.outputs.seal import DRAFT_UID, seal
from onfh_runtime.outputs.source import (
    adopt,
    blank,
    decimal,
    equipment,
    fit,
    reference_to,
    references,
    series_number,
)
from onfh_runtime.outputs.uids import result_uid
from onfh_runtime.result import Result
from onfh_runtime.volume import Volume

__all__ = ["LOSSY", "SIDES", "seg_from_mask", "tracking"]

SIDES = {1: "right", 2: "left", 3: "undetermined"}
"""Label of the mask -> side."""

_LABELS = {
    "right": "Necrosis, right femoral head",
    "left": "Necrosis, left femoral head",
    "undetermined": "Necrosis, femoral head, side undetermined",
}
_COLORS = {"right": (54.0, 81.0, 70.0), "left": (67.0, 43.0, 74.0), "undetermined": (60.0, 94.0, -60.0)}
"""CIELab: red, orange and magenta, which stand out from grey and from each other."""

LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
"""Once lossy, always lossy: a mask made from such pixels must say so (PS3.3 C.7.6.1.1.5)."""


def tracking(result: Result, side: str) -> tuple[str, str]:
    """Tracking identifier and UID of what is said of one side; the SEG and the SR of a series share them."""
    part = "" if result.part is None else str(result.part)
    return f"ONFH {side}", result_uid("tracking", result.series_instance_uid, part, side)


def seg_from_mask(
    mask: NDArray[np.uint8],
    volume: Volume,
    images: Sequence[SourceImage],
    *,
    result: Result,
    bundle: Bundle,
) -> Dataset:
    """A binary Segmentation with one segment for each side that has voxels.

    Each source frame that has voxels of a side gives one frame, in the place and with the pixel grid of the source.

    Args:
        mask: (slices, rows, columns) uint8 on the grid of ``volume``: 0 none, 1 right, 2 left, 3 side undetermined.
        volume: the stored series.
        images: the images the volume was made of, in slice order.
        result: what is said of the series.
        bundle: what computed it.

    Returns:
        The dataset with its file meta information, ready for ``save_as(..., enforce_file_format=True)``.

    Raises:
        ValueError: the mask is empty (an empty SEG makes viewers hang: none may be written), holds another label, has
            another shape than the volume, or there is not one image for each slice.
    """
    import highdicom

    if mask.shape != volume.voxels.shape:
        raise ValueError(f"The mask has the shape {mask.shape}, the volume {volume.voxels.shape}.")
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    if not len(filled):
        raise ValueError("The mask is empty: there is nothing to write.")
    labels, shown = _renumbered(mask[filled])
    if len(images) != len(volume.voxels):
        raise ValueError(f"There are {len(images)} images for {len(volume.voxels)} slices.")
    if _farthest_mm(images, volume) > 0.99 * volume.spacing_mm[0]:
        raise ValueError("The images are not in the volume's slice order.")
    sources = [images[int(index)] for index in filled]
    header = images[0].header
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=fit(result.software.name),
        version=fit(result.software.version),
        family=codes.ARTIFICIAL_INTELLIGENCE,
        source=fit(result.software.name),
        parameters={
            "bundle": f"{bundle.name} {bundle.version}",
            "bundle_sha256": result.bundle.sha256,
            "backend": result.engine.backend,
            "precision": result.engine.precision,
            "mask_threshold": str(bundle.mask_threshold),
            "minimum_component_mm3": str(bundle.minimum_component_mm3),
            "minimum_volume_mm3": str(bundle.minimum_volume_mm3),
        },
    )
    description = "ONFH necrosis, research use only"
    seg: Dataset = highdicom.seg.Segmentation(
        source_images=_placed(sources, volume, result),
        pixel_array=shown,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _segment(number, SIDES[label], algorithm, result) for number, label in enumerate(labels, 1)
        ],
        series_instance_uid=DRAFT_UID,
        series_number=series_number("seg", header),
        sop_instance_uid=DRAFT_UID,
        instance_number=1,
        content_label="ONFH",
        content_description="Research use only, not for diagnosis",
        series_description=description,
        omit_empty_frames=True,
        **equipment(result),
    )
    _refer(seg, sources)
    _name_dimensions(seg, result)
    adopt(seg, header, [bundle.name, bundle.version, result.software.name, result.software.version])
    seal([seg], "seg", result=result, images=images)
    return seg


def _farthest_mm(images: Sequence[SourceImage], volume: Volume) -> float:
    """The largest distance between an image's own position and its slice's in the volume, mm."""
    slices = volume.affine[:3, 3] + np.outer(np.arange(len(images)), volume.affine[:3, 0])
    own = np.array([[float(value) for value in image.header.ImagePositionPatient] for image in images])
    return float(np.linalg.norm(slices - own, axis=1).max())


def _renumbered(mask: NDArray[np.uint8]) -> tuple[list[int], NDArray[np.uint8]]:
    """Labels that occur, ascending, and the mask with them renumbered from 1 (DICOM wants consecutive segments)."""
    if mask.max() > max(SIDES):
        raise ValueError(f"The mask holds the label {mask.max()}; only {sorted(SIDES)} have a meaning.")
    labels = [label for label in SIDES if (mask == label).any()]
    table = np.zeros(max(SIDES) + 1, np.uint8)
    table[labels] = np.arange(1, len(labels) + 1)
    return labels, table[mask]


def _segment(number: int, side: str, algorithm: Any, result: Result) -> Any:
    import highdicom

    identifier, uid = tracking(result, side)
    segment = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=_LABELS[side],
        segmented_property_category=codes.MORPHOLOGICALLY_ABNORMAL,
        segmented_property_type=codes.NECROSIS,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_id=identifier,
        tracking_uid=uid,
        anatomic_regions=[codes.HEAD_OF_FEMUR],
        display_color=highdicom.color.CIELabColor(*_COLORS[side]),
    )
    laterality: Code | None = codes.LATERALITY.get(side)
    if laterality is not None:
        region = segment.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [highdicom.sr.CodedConcept.from_code(laterality)]
    return segment


def _placed(sources: Sequence[SourceImage], volume: Volume, result: Result) -> list[Dataset]:
    """A stand-in for each source image, where the volume has it and under a UID of its own for now.

    highdicom raises on headers that real archives hold; the stand-ins are valid, and :func:`_refer` puts the true
    references in.
    """
    header = sources[0].header
    step, column_step, row_step = volume.affine[:3, 0], volume.affine[:3, 1], volume.affine[:3, 2]
    _, rows, columns = volume.voxels.shape
    spacing = [decimal(np.linalg.norm(vector)) for vector in (column_step, row_step)]
    cosines = [decimal(value) for vector in (row_step, column_step) for value in vector / np.linalg.norm(vector)]
    # across the slices, which is less than their distance where a tilted gantry shifts them against each other
    between = decimal(abs(step @ np.cross(row_step, column_step)) / np.linalg.norm(np.cross(row_step, column_step)))
    frame_of_reference = header.get("FrameOfReferenceUID") or result_uid("space", result.series_instance_uid)
    placed = []
    for index, source in enumerate(sources):
        image = reference_to(result, CTImageStorage, _stand_in_uid(index))
        image.FrameOfReferenceUID = frame_of_reference
        image.Rows, image.Columns = rows, columns
        image.PixelSpacing = spacing
        image.SliceThickness = _thickness(header, between)
        image.SpacingBetweenSlices = between
        image.ImageOrientationPatient = cosines
        image.ImagePositionPatient = [decimal(value) for value in source.header.ImagePositionPatient]
        for keyword in LOSSY:
            if header.get(keyword):
                setattr(image, keyword, header.get(keyword))
        placed.append(image)
    blank(placed[0])
    return placed


def _stand_in_uid(index: int) -> str:
    return f"2.25.{index + 1}"


def _thickness(header: Dataset, fallback: str) -> str:
    try:
        thickness = float(header.SliceThickness)
    except (AttributeError, TypeError, ValueError):
        return fallback
    return decimal(thickness) if thickness > 0 else fallback


def _refer(seg: Dataset, sources: Sequence[SourceImage]) -> None:
    """Replace the stand-ins by the objects they stand for."""
    truth = {_stand_in_uid(index): image for index, image in enumerate(sources)}
    items = [group.DerivationImageSequence[0].SourceImageSequence[0] for group in seg.PerFrameFunctionalGroupsSequence]
    for item in {id(item): item for item in items}.values():  # the segments of one source frame share its item
        (named,) = references([truth[str(item.ReferencedSOPInstanceUID)]])
        item.update(named)
    seg.SourceImageSequence = references(sources)
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references(sources, frames=False)


def _name_dimensions(seg: Dataset, result: Result) -> None:
    """Derive the dimension organization UID from the series': highdicom's is random, and no two runs would agree."""
    uid = result_uid("dimensions", result.series_instance_uid)
    seg.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for item in seg.DimensionIndexSequence:
        item.DimensionOrganizationUID = uid
