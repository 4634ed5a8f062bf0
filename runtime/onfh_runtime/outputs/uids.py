"""UIDs of what is written: the same content keeps its UID, anything else gets a new one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.result import Result

__all__ = ["content_digest", "output_uids", "result_uid"]

_SAID = {
    "status",
    "reason",
    "study_instance_uid",
    "series_instance_uid",
    "part",
    "patient",
    "sides",
    "slices",
    "geometry",
    "warnings",
}
"""Fields of a result that say something about the patient; time, duration and preference are not among them."""


def result_uid(kind: str, *parts: str) -> str:
    """A UID that depends on its arguments only: ``2.25.`` and a UUID as a decimal number (at most 44 characters).

    The UUID is version 8 (RFC 9562: content of our own making) from the SHA-256 of the arguments; PS3.5 section B.2
    allows any UUID below 2.25.
    """
    digest = hashlib.sha256(json.dumps([kind, *parts]).encode()).digest()
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF << 76) | 8 << 76
    number = number & ~(0x3 << 62) | 2 << 62
    return f"2.25.{number}"


def content_digest(result: Result, mask: NDArray[Any] | None) -> str:
    """SHA-256 (hexadecimal) of what is said: patient, sides, slices, reasons, warnings and the mask.

    Args:
        result: its time of creation, timing, preference, engine, bundle and software do not count.
        mask: (slices, rows, columns), any integer type, labels 0 to 255, or None. Only slices that hold anything are
            hashed, by index and value: fast, and the same for every integer type.
    """
    digest = hashlib.sha256()
    said = result.model_dump(mode="json", include=_SAID)
    digest.update(json.dumps(said, sort_keys=True).encode())
    if mask is not None:
        digest.update(repr(mask.shape).encode())
        for index in np.flatnonzero(mask.any(axis=tuple(range(1, mask.ndim)))):
            digest.update(int(index).to_bytes(8, "big"))
            digest.update(np.ascontiguousarray(mask[index], np.uint8).tobytes())
    return digest.hexdigest()


def output_uids(
    kind: str, result: Result, images: Sequence[SourceImage], mask: NDArray[Any] | None, also: Iterable[str] = ()
) -> tuple[str, str]:
    """Series and SOP Instance UID of one output object.

    Args:
        kind: "seg" or "sr"; each kind is a series of its own, because a DICOM series has one modality.
        result: what is said, by which bundle, software, backend and precision.
        images: the source images; their order does not matter.
        mask: what the object shows, or None.
        also: more UIDs or hashes the content depends on.
    """
    parts = [
        *sorted(image.sop_instance_uid for image in images),
        result.bundle.sha256,
        result.software.name,
        result.software.version,
        result.engine.backend,
        result.engine.precision,
        content_digest(result, mask),
        *also,
    ]
    return result_uid(f"{kind}/series", *parts), result_uid(f"{kind}/instance", *parts)
