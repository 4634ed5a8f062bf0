"""The folder of one series: report, DICOM objects, and last of all ``result.json``.

``result.json`` marks a finished folder: it is taken away first and written last, so a folder that has one is whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from onfh_runtime.analysis import Analysis, Images
from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.errors import OutputError
from onfh_runtime.outputs.files import ensure_writable, write_atomically
from onfh_runtime.result import Result, SeriesEntry, Study

__all__ = ["folder_name", "get_ready", "series_folder", "write_result", "write_series", "write_study"]

_FILES = ("result.json", "sr.dcm", "seg.dcm", "report.html")
_CAPTURES = "secondary-capture"
"""Folder of the pictures for viewers that cannot show a SEG."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def folder_name(uid: str) -> str:
    """A UID as a folder name; one that is no valid UID (and might be a path) becomes a digest of itself."""
    if len(uid) <= 64 and _UID.fullmatch(uid):
        return uid
    return "uid-" + hashlib.sha256(uid.encode()).hexdigest()[:16]


def series_folder(out: Path, result: Result) -> Path:
    """``OUT/<study>/<series>``, with ``part-<k>`` below it for a series that was split."""
    folder = out / folder_name(result.study_instance_uid) / folder_name(result.series_instance_uid)
    return folder if result.part is None else folder / f"part-{result.part}"


@cache
def get_ready() -> None:
    """Load what :func:`write_series` needs; it takes half a second, which a first series need not wait for.

    Besides its modules, highdicom reads tables of the standard when it makes its first object of any kind.
    """
    import highdicom

    for name in ("html_report", "secondary_capture", "seg", "sr"):
        import_module(f"onfh_runtime.outputs.{name}")
    highdicom.sc.SCImage(
        pixel_array=np.zeros((1, 1), np.uint8),
        photometric_interpretation="MONOCHROME2",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.4",
        series_number=1,
        sop_instance_uid="1.2.3.4.5",
        instance_number=1,
        manufacturer="",
        patient_orientation=("L", "P"),
    )


def write_series(out: Path, analysis: Analysis, bundle: LoadedBundle, *, secondary_capture: bool = False) -> Analysis:
    """Write everything that is said of one series, and return the analysis with its write time.

    Args:
        out: output folder.
        analysis: what is said.
        bundle: what computed it.
        secondary_capture: whether the outline is also written as pictures, where there is a mask.

    Raises:
        OutputError: the folder cannot be written.
    """
    from onfh_runtime.outputs.html_report import html_from_result
    from onfh_runtime.outputs.seg import seg_from_mask
    from onfh_runtime.outputs.sr import sr_from_result

    result, images = analysis.result, analysis.images
    folder = series_folder(out, result)
    ensure_writable(folder)
    with analysis.clock.step("write"):
        _clear(folder, parts=result.part is None)
        seg = None
        if images is not None and images.volume_mask.any():
            seg = seg_from_mask(images.volume_mask, images.volume, images.sources, result=result, bundle=bundle.content)
            write_atomically(folder / "seg.dcm", _dicom_bytes(seg))
            if secondary_capture:
                _write_captures(folder / _CAPTURES, analysis.result, images, bundle)
        sources = images.sources if images is not None else _sorted(analysis.candidate.images)
        report = sr_from_result(result, sources, seg=seg, bundle=bundle.content, replaces=analysis.replaces)
        write_atomically(folder / "sr.dcm", _dicom_bytes(report))
        page = html_from_result(
            result.model_copy(update={"timing_ms": analysis.clock.timing}),
            stack=images.stack if images else None,
            mask=images.mask if images else None,
            bundle=bundle.content,
            description=analysis.candidate.description,
        )
        write_atomically(folder / "report.html", page.encode())
    return write_result(out, analysis)


def _write_captures(folder: Path, result: Result, images: Images, bundle: LoadedBundle) -> None:
    from onfh_runtime.outputs.secondary_capture import captures_from_mask

    ensure_writable(folder)
    for capture in captures_from_mask(
        images.volume_mask, images.volume, images.sources, result=result, bundle=bundle.content
    ):
        write_atomically(folder / f"{capture.InstanceNumber:04d}.dcm", _dicom_bytes(capture))


def _sorted(images: Sequence[SourceImage]) -> list[SourceImage]:
    """Images that have no slice order, in one that does not depend on the names of their files."""
    return sorted(images, key=lambda image: (image.sop_instance_uid, image.frame or 0))


def write_result(out: Path, analysis: Analysis) -> Analysis:
    """Write ``result.json`` alone, and return the analysis with its write time. Raises OutputError."""
    analysis = analysis.replace(timing_ms=analysis.clock.timing)
    write_atomically(series_folder(out, analysis.result) / "result.json", to_json(analysis.result))
    return analysis


def _clear(folder: Path, *, parts: bool) -> None:
    """Take an earlier run's answer away: that of this series, and those of its parts, or else of its whole."""
    stale = [folder, *(folder.glob("part-*") if parts else [folder.parent])]
    try:
        for place in stale:
            for name in _FILES:
                (place / name).unlink(missing_ok=True)
            captures = place / _CAPTURES
            for path in captures.glob("*.dcm"):
                path.unlink()
            if captures.is_dir():
                captures.rmdir()
    except OSError as error:
        raise OutputError("output_unwritable", f"{folder} holds what cannot be replaced ({error.strerror}).") from error


def write_study(out: Path, study: Study) -> Path:
    """Write ``study.json`` and return its path.

    Series of the study that an earlier run analysed and this one did not see stay listed; when this run has a preferred
    series, none of theirs is.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = out / folder_name(study.study_instance_uid)
    ensure_writable(folder)
    path = folder / "study.json"
    try:
        earlier = Study.model_validate_json(path.read_bytes()).series
    except (OSError, ValueError):
        earlier = ()
    seen = {entry.series_instance_uid for entry in study.series}
    kept = [entry for entry in earlier if entry.series_instance_uid not in seen]
    if any(entry.preferred for entry in study.series):
        kept = [_demoted(folder, entry) for entry in kept]
    write_atomically(path, to_json(study.model_copy(update={"series": (*study.series, *kept)})))
    return path


def _demoted(folder: Path, entry: SeriesEntry) -> SeriesEntry:
    """The entry, and its ``result.json`` with it, as not the preferred one."""
    if not entry.preferred or entry.folder is None:
        return entry
    path = folder / entry.folder / "result.json"
    try:
        result = Result.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return entry.model_copy(update={"preferred": False})
    write_atomically(path, to_json(result.model_copy(update={"preferred": False})))
    return entry.model_copy(update={"preferred": False})


def to_json(model: Result | Study) -> bytes:
    """A model as indented UTF-8 JSON; NaN and infinity are refused rather than written."""
    return (json.dumps(model.model_dump(by_alias=True), indent=1, allow_nan=False) + "\n").encode()


def _dicom_bytes(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
