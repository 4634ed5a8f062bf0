"""Which files below the given paths are CT series to analyse, and which are not."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MediaStorageDirectoryStorage

from onfh_runtime.dicom.frames import ENHANCED_CLASSES, images_in
from onfh_runtime.dicom.header import codes, decimals, integer, printable, read_header
from onfh_runtime.dicom.series import Candidate, Skipped, SourceImage
from onfh_runtime.errors import SeriesError, UsageError

__all__ = ["find_series"]

_CT_CLASSES = ENHANCED_CLASSES | {CTImageStorage}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage; its multi-frame classes append to this UID."""

_SCREEN_TERMS = frozenset({"DOSE_INFO", "SCREEN SAVE"})
"""Image Type values of pictures of text that scanners store as CT Image Storage."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH = 64
"""PS3.5, 9.1. UIDs name output folders, so nothing else may pass (leading zeros do: they are common and harmless)."""

_MEDIA_CLASS = 0x00020002
_SOP_CLASS = 0x00080016
_SOP_INSTANCE = 0x00080018
_MODALITY = 0x00080060
_IMAGE_TYPE = 0x00080008
_CONVERSION_TYPE = 0x00080064
_KERNEL = 0x00181210
_STUDY = 0x0020000D
_SERIES = 0x0020000E
_POSITION = 0x00200032
_SAMPLES = 0x00280002
_ROWS = 0x00280010
_BURNED_IN = 0x00280301

_RECORDS = 0x00041220
"""Directory Record Sequence: a DICOMDIR under another name."""

_ONE_PART = (_KERNEL, _IMAGE_TYPE, 0x00209056, 0x00209128)
"""What all images of a part share; the last two are Stack ID and Temporal Position Index of enhanced objects."""

_SKIP_TEXT = {
    "burned_in_annotation": "The pictures have text burnt in that names the patient (Burned In Annotation is YES).",
    "localizer": "The images are localizers (Image Type holds LOCALIZER).",
    "not_an_image": "The objects hold no images.",
    "not_ct": "The images are not CT.",
    "secondary_capture": "The images are screen captures or dose pages, not CT slices.",
}

Read = Callable[[Path], tuple[Dataset, int]]
Report = Callable[[Path, str, str], None]


@dataclass
class _Group:
    """What was found so far under one series UID."""

    images: list[SourceImage] = field(default_factory=list)
    known: dict[tuple[str, int | None], tuple[float, ...] | None] = field(default_factory=dict)
    skipped: dict[str, tuple[str, set[str]]] = field(default_factory=dict)


def find_series(
    paths: Sequence[Path], *, report: Report | None = None, read: Read = read_header
) -> tuple[list[Candidate], list[Skipped]]:
    """Find every series in files and in folders below ``paths``, in the order of their sorted paths.

    Each header is read once. A frame of an enhanced multi-frame object is an image like any other. Images of one series
    whose Convolution Kernel or Image Type (or stack or temporal position, of frames) differ become one candidate each
    (``part`` 1, 2, ... in the order of those values). Of two files with the same SOP Instance UID and position the
    first is kept. A CT series that must not be analysed is still a candidate here:
    :func:`onfh_runtime.dicom.check.check_candidate` refuses it by name.

    Args:
        paths: files and folders; links are followed, each folder is read once, DICOMDIR and special files are ignored.
        report: called with (path, code, sentence) for each file that should have been readable DICOM and is not: it
            is named ``*.dcm``, carries the DICM mark, or was given by name. Codes are ``not_dicom``, ``unreadable``,
            ``unsupported_transfer_syntax`` (deflated) and ``invalid_uid``.
        read: gives the header of a file as :func:`read_header` does, from memory if need be.

    Raises:
        UsageError: ``input_not_found``, one of ``paths`` does not exist.
    """
    tell = report if report is not None else _ignore
    groups: dict[tuple[str, str], _Group] = {}
    for path, named in _files(paths, tell):
        try:
            header, offset = read(path)
        except SeriesError as error:
            if error.code != "not_dicom" or named or path.suffix.lower() == ".dcm":
                tell(path, error.code, error.text)
            continue
        if MediaStorageDirectoryStorage in codes(header.file_meta, _MEDIA_CLASS) or _RECORDS in header:
            continue
        study, series, instance = (_first(header, tag) for tag in (_STUDY, _SERIES, _SOP_INSTANCE))
        if not (_is_uid(study) and _is_uid(series) and _is_uid(instance)):
            tell(path, "invalid_uid", "The file lacks a valid Study, Series or SOP Instance UID.")
            continue
        group = groups.setdefault((study, series), _Group())
        for image in images_in(path, header, offset):
            _add(group, image, instance)
    candidates: list[Candidate] = []
    skipped: list[Skipped] = []
    for (study, series), group in groups.items():
        candidates += _candidates(study, series, group.images)
        for code, (description, instances) in sorted(group.skipped.items()):
            skipped.append(Skipped(study, series, description, len(instances), code, _SKIP_TEXT[code]))
    return candidates, skipped


def _add(group: _Group, image: SourceImage, instance: str) -> None:
    code = _skip_code(image.header)
    if code is not None:  # the header is not kept: a study may hold thousands of images of other modalities
        description = printable(image.header, "SeriesDescription")
        group.skipped.setdefault(code, (description, set()))[1].add(instance)
        return
    position = decimals(image.header, _POSITION, 3)
    key = instance, image.frame
    if key in group.known and group.known[key] == position:
        return
    group.known.setdefault(key, position)
    group.images.append(image)


def _skip_code(header: Dataset) -> str | None:
    """Why an object is no CT image, or None when it is one."""
    sop_class, modality = _first(header, _SOP_CLASS), _first(header, _MODALITY)
    image_type = {value.upper() for value in codes(header, _IMAGE_TYPE)}
    if sop_class == _SECONDARY_CAPTURE or sop_class.startswith(_SECONDARY_CAPTURE + "."):
        return "secondary_capture"
    if sop_class not in _CT_CLASSES and integer(header, _ROWS) is None:
        return "not_an_image"
    if (sop_class and sop_class not in _CT_CLASSES) or modality not in (("CT", "") if sop_class else ("CT",)):
        return "not_ct"
    if "LOCALIZER" in image_type:
        return "localizer"
    captured = bool(codes(header, _CONVERSION_TYPE)) and decimals(header, _POSITION, 3) is None
    if integer(header, _SAMPLES) not in (1, None) or image_type & _SCREEN_TERMS or captured:
        return "secondary_capture"
    if "YES" in codes(header, _BURNED_IN):
        return "burned_in_annotation"
    return None


def _candidates(study: str, series: str, images: list[SourceImage]) -> list[Candidate]:
    """One candidate, or one per distinct :data:`_ONE_PART`."""
    parts: dict[tuple[tuple[str, ...], ...], list[SourceImage]] = {}
    for image in images:
        parts.setdefault(tuple(codes(image.header, tag) for tag in _ONE_PART), []).append(image)
    split = len(parts) > 1
    return [
        Candidate(
            study,
            series,
            number if split else None,
            printable(parts[key][0].header, "SeriesDescription"),
            tuple(parts[key]),
        )
        for number, key in enumerate(sorted(parts), start=1)
    ]


def _files(paths: Sequence[Path], tell: Report) -> Iterator[tuple[Path, bool]]:
    """Every regular file once per way to reach it, sorted, with whether it was named by the caller."""
    seen: set[tuple[int, int]] = set()
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise UsageError("input_not_found", f"{path} cannot be opened ({error.strerror}).") from error
        if stat.S_ISDIR(mode):
            yield from ((file, False) for file in _below(path, seen, tell))
        elif stat.S_ISREG(mode):
            yield path, True


def _below(folder: Path, seen: set[tuple[int, int]], tell: Report) -> Iterator[Path]:
    pending = [folder]
    while pending:
        path = pending.pop()
        try:
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                if path.name.upper() != "DICOMDIR":
                    yield path
            elif stat.S_ISDIR(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                pending += sorted(path.iterdir(), reverse=True)
        except OSError as error:
            tell(path, "unreadable", f"It cannot be read: {error.strerror}.")


def _first(header: Dataset, tag: int) -> str:
    values = codes(header, tag)
    return values[0] if values else ""


def _is_uid(text: str) -> bool:
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


def _ignore(path: Path, code: str, text: str) -> None:
    """Report nothing."""
