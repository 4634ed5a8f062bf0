"""Deliveries that were given up: the object and its reason, kept for a person."""

from __future__ import annotations

import contextlib
import json
import os
import re
from datetime import datetime, timezone
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from onfh_runtime.listen.records import DeliveryRow
from onfh_runtime.outputs.files import ensure_writable, write_atomically
from onfh_runtime.outputs.series_folder import folder_name

__all__ = ["bury"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What the configuration lets a destination be called."""


def bury(dead_letter: Path, row: DeliveryRow, *, study_uid: str | None, text: str) -> Path:
    """Keep a delivery's object and reason as ``<destination>/<SOP Instance UID>.dcm`` and ``.json``.

    The object is a hard link where the disk allows it, so it costs no space and outlives the result's folder. Doing it
    again changes nothing but the reason.

    Args:
        dead_letter: the folder of all dead letters; made when missing.
        row: the delivery.
        study_uid: Study Instance UID.
        text: why it was given up.

    Returns:
        The path of the reason.

    Raises:
        OutputError: the folder cannot be written.
    """
    name = row.destination
    folder = dead_letter / (name if _NAME.fullmatch(name) else folder_name(name))
    ensure_writable(folder)
    stem = folder_name(row.sop_uid)
    kept = folder / f"{stem}.dcm"
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        _keep(row.path, kept)
        if not _is_object(kept, row.sop_uid):  # a newer result lies in its place
            kept.unlink()
    reason = {
        "schema": "onfh-dead-letter/1",
        "destination": row.destination,
        "study_instance_uid": study_uid,
        "series_instance_uid": row.series_uid,
        "sop_instance_uid": row.sop_uid,
        "sop_class_uid": row.sop_class,
        "generation": row.generation,
        "tries": row.tries,
        "given_up": datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "text": text,
        "file": kept.name if kept.exists() else None,
    }
    path = folder / f"{stem}.json"
    write_atomically(path, (json.dumps(reason, indent=1) + "\n").encode())
    return path


def _is_object(path: Path, sop_uid: str) -> bool:
    with contextlib.suppress(InvalidDicomError):
        return bool(dcmread(path, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID") == sop_uid)
    return False


def _keep(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:  # a disk without hard links
        write_atomically(target, source.read_bytes())
