"""The rows of the journal, and what goes wrong when something cannot be kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from onfh_runtime.errors import OnfhError

__all__ = ["DeliveryRow", "NewDelivery", "ObjectRow", "Recorded", "SeriesRow", "SeriesState", "StorageError"]


class StorageError(OnfhError):
    """The spool or the journal cannot keep something; nothing of it was kept, and nothing may be acknowledged.

    Codes: ``spool_low`` (the watermark), ``storage_full`` (the disk or a quota), ``storage_failed`` (the operating
    system refuses for another reason), ``journal_damaged``, ``journal_newer``, ``state_dir_in_use``.
    """

    exit_code = 2


class SeriesState(str, Enum):
    """Where a series stands. Only ``ANSWERED`` and ``SET_ASIDE`` wait for nothing."""

    RECEIVING = "receiving"
    READY = "ready"
    WORKING = "working"
    ANSWERED = "answered"
    SET_ASIDE = "set_aside"


class Recorded(str, Enum):
    """What recording an object did.

    ``DUPLICATE``: the same bytes are known, nothing changed. ``REPLACED``: the UID was known with other bytes.
    """

    NEW = "new"
    DUPLICATE = "duplicate"
    REPLACED = "replaced"


@dataclass(frozen=True)
class ObjectRow:
    """A DICOM object. ``path`` is absolute, None once the file was cleaned up; ``sha256`` is of the data set alone."""

    sop_uid: str
    series_uid: str
    study_uid: str
    path: Path | None
    nbytes: int
    sha256: str
    received_s: float
    sop_class: str
    transfer_syntax: str
    peer: str
    route: str


@dataclass(frozen=True)
class SeriesRow:
    """A series; ``*_s`` are seconds of wall time (Unix), ``objects`` and ``nbytes`` count every object ever recorded.

    ``generation`` starts at 1 and grows when an object arrives after the series was taken for complete. ``outcome``,
    ``folder``, the latencies and ``answered_s`` are those of the latest answer and stay while a later generation is
    under way. ``missing`` counts objects whose file was cleaned up or lost: what is left must not be analysed.
    """

    series_uid: str
    study_uid: str
    route: str
    state: SeriesState
    generation: int
    objects: int
    missing: int
    nbytes: int
    first_s: float
    last_s: float
    released_s: float | None
    tries: int
    retry_at_s: float | None
    deadline_at_s: float | None
    code: str | None
    text: str | None
    outcome: str | None
    folder: Path | None
    latency_ms: float | None
    outside_engine_ms: float | None
    deadline_missed: bool
    answered_s: float | None


@dataclass(frozen=True)
class NewDelivery:
    """A file of a result to be sent; ``path`` is absolute, below the journal's folder."""

    destination: str
    path: Path
    sop_uid: str
    sop_class: str


@dataclass(frozen=True)
class DeliveryRow:
    """A file of a result and one destination; ``text`` says why the last try failed."""

    id: int
    series_uid: str
    generation: int
    destination: str
    path: Path
    sop_uid: str
    sop_class: str
    state: Literal["pending", "sent", "dead"]
    tries: int
    due_s: float
    text: str | None
