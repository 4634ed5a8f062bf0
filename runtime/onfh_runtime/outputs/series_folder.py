"""The folder of one series: report, DICOM objects, and last of all ``result.json``.

``result.json`` marks a finished folder: it is taken away first and written last, so a folder that has one is whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset

from onfh_runtime.analysis import Analysis
from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.outputs.files import ensure_writable, write_atomically
from onfh_runtime.result import Result, Study

__all__ = ["folder_name", "series_folder", "write_series", "write_study"]

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


def write_series(out: Path, analysis: Analysis, bundle: LoadedBundle) -> Analysis:
    """Write everything that is said of one series, and return the analysis with its write time.

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
        (folder / "result.json").unlink(missing_ok=True)
        seg = None
        if images is not None and images.volume_mask.any():
            seg = seg_from_mask(images.volume_mask, images.volume, images.sources, result=result, bundle=bundle.content)
            write_atomically(folder / "seg.dcm", _dicom_bytes(seg))
        else:
            (folder / "seg.dcm").unlink(missing_ok=True)
        sources = images.sources if images is not None else analysis.candidate.images
        write_atomically(
            folder / "sr.dcm", _dicom_bytes(sr_from_result(result, sources, seg=seg, bundle=bundle.content))
        )
        page = html_from_result(
            result.model_copy(update={"timing_ms": analysis.clock.timing}),
            stack=images.stack if images else None,
            mask=images.mask if images else None,
            bundle=bundle.content,
            description=analysis.candidate.description,
        )
        write_atomically(folder / "report.html", page.encode())
    analysis = analysis.replace(timing_ms=analysis.clock.timing)
    write_atomically(folder / "result.json", to_json(analysis.result))
    return analysis


def write_study(out: Path, study: Study) -> Path:
    """Write ``study.json`` and return its path. Raises OutputError."""
    folder = out / folder_name(study.study_instance_uid)
    ensure_writable(folder)
    write_atomically(folder / "study.json", to_json(study))
    return folder / "study.json"


def to_json(model: Result | Study) -> bytes:
    """A model as indented UTF-8 JSON; NaN and infinity are refused rather than written."""
    return (json.dumps(model.model_dump(by_alias=True), indent=1, allow_nan=False) + "\n").encode()


def _dicom_bytes(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
