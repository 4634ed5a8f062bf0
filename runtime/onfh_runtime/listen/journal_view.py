"""The journal as it is read: by the node itself, and by ``onfh listen --status`` beside a running node."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onfh_runtime.listen.records import DeliveryRow, ObjectRow, SeriesRow, SeriesState, StorageError

__all__ = ["SCHEMA_VERSION", "JournalView", "connection_to", "storage_error"]

SCHEMA_VERSION = 1
"""``user_version`` of the database."""

_BUSY_S = 10.0
"""How long to wait for another process that reads or copies the journal."""

_SERIES = (
    "series_uid, study_uid, route, state, generation, objects, missing, nbytes, first_s, last_s, released_s, tries, "
    "retry_at_s, deadline_at_s, code, text, outcome, folder, latency_ms, outside_engine_ms, deadline_missed, answered_s"
)
_OBJECT = "sop_uid, series_uid, study_uid, path, nbytes, sha256, received_s, sop_class, transfer_syntax, peer, route"
_DELIVERY = "id, series_uid, generation, destination, path, sop_uid, sop_class, state, tries, due_s, text"


class JournalView:
    """Reads a journal; a writer beside it is never waited for, and never kept waiting."""

    def __init__(self, path: Path) -> None:
        """Open the journal of a node.

        Args:
            path: ``state_dir/journal.sqlite``; every path in it lies below ``state_dir``.

        Raises:
            StorageError: ``storage_failed`` (there is none), ``journal_damaged``, ``journal_newer``.
        """
        self.path = path
        self.root = path.parent.resolve()
        self._reading = threading.Lock()
        self._reader = connection_to(path, readonly=True)

    def close(self) -> None:
        """Close the journal; a second call does nothing."""
        with self._reading:
            self._reader.close()

    def series(self, series_uid: str) -> SeriesRow | None:
        """One series, None when it was never seen or is forgotten."""
        rows = self._series("WHERE series_uid = ?", (series_uid,))
        return rows[0] if rows else None

    def recent(self, limit: int) -> list[SeriesRow]:
        """The series whose last image came last, newest first."""
        return self._series("ORDER BY last_s DESC, series_uid LIMIT ?", (limit,))

    def in_state(self, *states: SeriesState) -> list[SeriesRow]:
        """Every series in one of some states: the earliest deadline first, then the oldest."""
        marks = ", ".join("?" * len(states))
        return self._series(
            f"WHERE state IN ({marks}) ORDER BY deadline_at_s IS NULL, deadline_at_s, first_s, series_uid",
            tuple(state.value for state in states),
        )

    def objects_of(self, series_uid: str) -> list[ObjectRow]:
        """The objects of a series in the order they were recorded."""
        rows = self._rows(f"SELECT {_OBJECT} FROM objects WHERE series_uid = ? ORDER BY rowid", (series_uid,))
        return [self._object(row) for row in rows]

    def due(self, now_s: float) -> list[DeliveryRow]:
        """Pending deliveries whose time has come, the longest due first."""
        return self._deliveries("WHERE state = 'pending' AND due_s <= ? ORDER BY due_s, id", (now_s,))

    def deliveries_of(self, series_uid: str) -> list[DeliveryRow]:
        """Every delivery of a series, oldest first."""
        return self._deliveries("WHERE series_uid = ? ORDER BY id", (series_uid,))

    def counts(self) -> dict[str, int]:
        """Series by state, ``deliveries_pending``, ``_sent`` and ``_dead``, ``objects`` and ``object_bytes``.

        The last two count what is on disk; ``deadline_missed`` counts answers that came too late.
        """
        counts = {state.value: 0 for state in SeriesState}
        counts |= {f"deliveries_{state}": 0 for state in ("pending", "sent", "dead")}
        counts |= dict(self._rows("SELECT state, COUNT(*) FROM series GROUP BY state"))
        for state, n in self._rows("SELECT state, COUNT(*) FROM deliveries GROUP BY state"):
            counts[f"deliveries_{state}"] = n
        ((counts["objects"], counts["object_bytes"]),) = self._rows(
            "SELECT COUNT(*), COALESCE(SUM(nbytes), 0) FROM objects WHERE path IS NOT NULL"
        )
        ((counts["deadline_missed"],),) = self._rows("SELECT COUNT(*) FROM series WHERE deadline_missed")
        return counts

    def clearable(self, before_s: float) -> list[SeriesRow]:
        """Answered series without pending deliveries that nothing happened to since a time, oldest first."""
        return self._series(
            "WHERE state = 'answered' AND MAX(answered_s, last_s) < ? AND NOT EXISTS (SELECT 1 FROM deliveries"
            " WHERE deliveries.series_uid = series.series_uid AND deliveries.state = 'pending')"
            " ORDER BY MAX(answered_s, last_s), series_uid",
            (before_s,),
        )

    def files(self) -> dict[Path, int]:
        """Every file of an object, and its size in bytes."""
        rows = self._rows("SELECT path, nbytes FROM objects WHERE path IS NOT NULL")
        return {self.root / path: nbytes for path, nbytes in rows}

    def _series(self, clause: str, values: Sequence[object]) -> list[SeriesRow]:
        rows = []
        for row in self._rows(f"SELECT {_SERIES} FROM series {clause}", values):
            named = dict(zip(_SERIES.split(", "), row, strict=True))
            named["state"] = SeriesState(named["state"])
            named["folder"] = self._absolute(named["folder"])
            named["deadline_missed"] = bool(named["deadline_missed"])
            rows.append(SeriesRow(**named))
        return rows

    def _deliveries(self, clause: str, values: Sequence[object]) -> list[DeliveryRow]:
        rows = []
        for row in self._rows(f"SELECT {_DELIVERY} FROM deliveries {clause}", values):
            named = dict(zip(_DELIVERY.split(", "), row, strict=True))
            named["path"] = self.root / named["path"]
            rows.append(DeliveryRow(**named))
        return rows

    def _object(self, row: Sequence[Any]) -> ObjectRow:
        named = dict(zip(_OBJECT.split(", "), row, strict=True))
        named["path"] = self._absolute(named["path"])
        return ObjectRow(**named)

    def _absolute(self, path: str | None) -> Path | None:
        return None if path is None else self.root / path

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with self._reading:
            try:
                return self._reader.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise storage_error(error, self.path) from error


def connection_to(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """Open the database, and make sure that it is one this version understands.

    Raises:
        StorageError: ``storage_failed``, ``storage_full``, ``journal_damaged``, ``journal_newer``.
    """
    where = path.resolve().as_uri() + ("?mode=ro" if readonly else "")
    connection = None
    try:
        connection = sqlite3.connect(where, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, uri=True)
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise storage_error(error, path) from error
    if version > SCHEMA_VERSION:
        connection.close()
        raise StorageError(
            "journal_newer", f"{path} was written by a newer version (schema {version}).", "Update onfh-edge."
        )
    return connection


def storage_error(error: sqlite3.Error, path: Path) -> StorageError:
    """What an error of SQLite means here."""
    text = str(error)
    if "is full" in text:
        return StorageError("storage_full", f"The disk of {path} is full.", "Free space; the sender will try again.")
    if "malformed" in text or "not a database" in text:
        return StorageError(
            "journal_damaged",
            f"{path} is damaged ({text}).",
            "Move it and the folder objects/ beside it away, start again, and ask the senders to send once more.",
        )
    return StorageError("storage_failed", f"{path} cannot be used ({text}).", "Check its folder's rights and disk.")
