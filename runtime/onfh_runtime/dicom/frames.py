"""The frames of an enhanced CT object, each as if it were a CT Image object of its own.

An enhanced object says once for all frames (Shared Functional Groups) or frame by frame (Per-frame Functional Groups)
what a CT Image object says in its header (PS3.3, A.38 and C.7.6.16). The rest of the runtime knows only the latter.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from onfh_runtime.dicom.elements import DamagedError, ElementReader
from onfh_runtime.dicom.header import Elements, codes, dataset_of, decimals
from onfh_runtime.dicom.series import SourceImage

__all__ = ["ENHANCED_CLASSES", "images_in", "number_of_frames"]

ENHANCED_CLASSES = frozenset({EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage})

MAX_FRAMES = 5000
"""A whole body at 0.4 mm."""

_SOP_CLASS = 0x00080016
_NUMBER_OF_FRAMES = 0x00280008
_SHARED = 0x52009229
_PER_FRAME = 0x52009230
_IMAGE_TYPE = 0x00080008
_FRAME_TYPE = 0x00089007
_KERNEL = 0x00181210
_STACK = 0x00209056
_TEMPORAL_POSITION = 0x00209128

_GROUPS = {
    0x00289110: (0x00280030, 0x00180050),  # Pixel Measures: Pixel Spacing, Slice Thickness
    0x00209113: (0x00200032,),  # Plane Position (Patient): Image Position
    0x00209116: (0x00200037,),  # Plane Orientation (Patient): Image Orientation
    0x00289145: (0x00281052, 0x00281053, 0x00281054),  # Pixel Value Transformation: Rescale Intercept, Slope, Type
    0x00189329: (_FRAME_TYPE,),  # CT Image Frame Type
    0x00189314: (_KERNEL,),  # CT Reconstruction
    0x00209111: (_STACK, _TEMPORAL_POSITION),  # Frame Content
    0x00209170: (_IMAGE_TYPE, _KERNEL),  # Unassigned Shared Converted Attributes (legacy converted)
    0x00209171: (_IMAGE_TYPE, _KERNEL),  # Unassigned Per-Frame Converted Attributes
}
"""Functional group -> what of its first item is taken over."""


def number_of_frames(header: Dataset) -> int:
    """Number of Frames of an object; 1 where the header does not say, 0 where it says nothing sensible."""
    if _NUMBER_OF_FRAMES not in header:
        return 1
    count = decimals(header, _NUMBER_OF_FRAMES, 1)
    return int(count[0]) if count is not None and count[0] >= 1 else 0


def images_in(path: Path, header: Dataset, pixel_offset: int) -> tuple[SourceImage, ...]:
    """The images of one file: one for each frame of an enhanced CT object, otherwise one for the object.

    An enhanced object whose functional groups are missing or damaged stays one image without a frame number, which
    :func:`onfh_runtime.dicom.check.check_candidate` refuses by name.
    """
    whole = SourceImage(path, header, pixel_offset)
    classes = codes(header, _SOP_CLASS)
    if not classes or classes[0] not in ENHANCED_CLASSES or _PER_FRAME not in header:
        return (whole,)
    raw: Elements = {}
    for tag in header.keys():  # noqa: SIM118, iterating over a Dataset decodes its values
        element = header.get_item(tag)
        if tag not in (_SHARED, _PER_FRAME) and isinstance(element, RawDataElement):
            raw[tag] = element
    try:
        shared = next(_items_of(header, _SHARED), {})
        own = list(_items_of(header, _PER_FRAME))
    except DamagedError:
        return (whole,)
    if len(own) != number_of_frames(header):
        return (whole,)
    images = []
    for number, groups in enumerate(own, start=1):
        flat = dataset_of({**raw, **shared, **groups})
        flat.file_meta = header.file_meta
        images.append(SourceImage(path, flat, pixel_offset, number))
    return tuple(images)


def _items_of(header: Dataset, tag: int) -> Iterator[Elements]:
    """What is taken over from each item of a functional groups sequence."""
    element = header.get_item(BaseTag(tag)) if tag in header else None
    if not isinstance(element, RawDataElement) or not element.value:
        return
    reader = ElementReader(BytesIO(element.value))
    reader.big_endian(not element.is_little_endian)
    implicit = element.is_implicit_VR or element.VR == "UN"
    for count, (start, end) in enumerate(reader.items(0, reader.size, implicit)):
        if count == MAX_FRAMES:
            raise DamagedError(f"it has more than {MAX_FRAMES} frames")
        yield _flattened(reader, start, end, implicit, element.is_little_endian)


def _flattened(reader: ElementReader, start: int, end: int, implicit: bool, little: bool) -> Elements:
    found: Elements = {}
    implicit = reader.is_implicit(start, implicit)
    for group, _, _, at, length in reader.elements(start, end, implicit):
        wanted = _GROUPS.get(group, ())
        first = next(reader.items(at, at + length, implicit), None) if wanted else None
        if first is None:
            continue
        inside = reader.is_implicit(first[0], implicit)
        for tag, vr, _, value, size in reader.elements(*first, inside):
            if tag in wanted:
                key = BaseTag(_IMAGE_TYPE if tag == _FRAME_TYPE else tag)
                found[key] = RawDataElement(key, vr, size, reader.value(value, size), value, inside, little)
    return found
