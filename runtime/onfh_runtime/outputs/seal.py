"""The last step of every output object: its UIDs, which follow from all it holds, and its time, which they ignore."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from onfh_runtime.dicom.series import SourceImage
from onfh_runtime.outputs.uids import output_uids, result_uid
from onfh_runtime.result import Result

__all__ = ["DRAFT_UID", "seal"]

DRAFT_UID = UID(result_uid("draft"))
"""Series and SOP Instance UID of an object that is not sealed yet."""

_NO_TIME = datetime(1900, 1, 1)


def seal(objects: Sequence[Dataset], kind: str, *, result: Result, images: Sequence[SourceImage]) -> None:
    """Give the objects of one output series their UIDs and their time, in place; nothing may be changed afterwards.

    Two objects share a UID only when every byte of their data sets is the same, times apart. Dates and times are those
    of ``result.created`` in the time zone of the source, or of this machine where the source has none.

    Args:
        objects: whole but for this, with :data:`DRAFT_UID` as Series and SOP Instance UID and file meta information.
        kind: "seg", "sr" or "sc"; each kind is a series of its own, because a DICOM series has one modality.
        result: what is said.
        images: the source images.
    """
    digests = []
    for item in objects:
        _stamp(item, _NO_TIME)
        digests.append(_digest(item))
    series_uid, instance_uids = output_uids(kind, result, images, digests)
    moment = _local(result.created, images[0].header)
    for item, instance_uid in zip(objects, instance_uids, strict=True):
        item.SeriesInstanceUID, item.SOPInstanceUID = series_uid, instance_uid
        item.file_meta.MediaStorageSOPInstanceUID = UID(instance_uid)
        _stamp(item, moment)


def _digest(item: Dataset) -> str:
    """SHA-256 of the data set as it would be stored in Explicit VR Little Endian."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, item)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def _stamp(item: Dataset, moment: datetime) -> None:
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    for event in ("InstanceCreation", "Series", "Content"):
        setattr(item, f"{event}Date", date)
        setattr(item, f"{event}Time", time)
    for equipment in item.get("ContributingEquipmentSequence") or []:
        equipment.ContributionDateTime = f"{date}{time}"


def _local(created: str, header: Dataset) -> datetime:
    moment = datetime.fromisoformat(created.replace("Z", "+00:00"))  # Python 3.10 does not know "Z"
    if moment.tzinfo is None:
        return moment
    offset = re.fullmatch(r"([+-])(\d\d)(\d\d)", str(header.get("TimezoneOffsetFromUTC", "")).strip())
    if offset is None:
        return moment.astimezone()
    delta = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
    if delta >= timedelta(hours=24):  # no time zone: the source's header is wrong
        return moment.astimezone()
    return moment.astimezone(timezone(-delta if offset[1] == "-" else delta))
