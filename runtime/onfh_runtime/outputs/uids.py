"""UIDs of what is written: the same content keeps its UID, anything else gets a new one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

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


def content_digest(result: Result) -> str:
    """SHA-256 (hexadecimal) of what is said: patient, sides, slices, reasons and warnings.

    Time of creation, timing, preference, engine, bundle and software do not count.
    """
    said = result.model_dump(mode="json", include=_SAID)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def output_uids(
    kind: str, result: Result, images: Sequence[SourceImage], digests: Sequence[str]
) -> tuple[str, list[str]]:
    """The Series Instance UID of one output series, and the SOP Instance UID of each of its objects.

    When one object changes, all get new UIDs: an object belongs to one series only.

    Args:
        kind: names the series.
        result: what is said, by which bundle, software, backend and precision.
        images: the source images; their order does not matter.
        digests: one of the content of each object.
    """
    parts = [
        *sorted(image.sop_instance_uid for image in images),
        result.bundle.sha256,
        result.software.name,
        result.software.version,
        result.engine.backend,
        result.engine.precision,
        content_digest(result),
    ]
    series = result_uid(f"{kind}/series", *parts, *digests)
    return series, [result_uid(f"{kind}/instance", series, digest) for digest in digests]
