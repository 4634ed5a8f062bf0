"""What recording an object does to the journal's tables, in an open transaction."""

from __future__ import annotations

import sqlite3

from onfh_runtime.listen.records import ObjectRow, Recorded

__all__ = ["record"]


def record(db: sqlite3.Connection, row: ObjectRow, path: str) -> tuple[Recorded, str | None]:
    """Record one object.

    Args:
        db: the journal, in a transaction.
        row: the object.
        path: its file as the journal writes it, relative to the journal's folder.

    Returns:
        What it did, and the file nobody needs once this is committed.
    """
    key = (row.series_uid, row.sop_uid)
    known = db.execute("SELECT sha256, path, nbytes FROM objects WHERE series_uid = ? AND sop_uid = ?", key).fetchone()
    if known is None:
        db.execute(
            "INSERT INTO objects (series_uid, sop_uid, study_uid, path, nbytes, sha256, received_s, sop_class,"
            " transfer_syntax, peer, route) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*key, *_content(row, path)),
        )
        _reopen(db, row, objects=1, missing=0, nbytes=row.nbytes)
        return Recorded.NEW, None
    sha256, old, nbytes = known
    restored = -1 if old is None else 0
    ((state,),) = db.execute("SELECT state FROM series WHERE series_uid = ?", (row.series_uid,)).fetchall()
    if sha256 == row.sha256 and old is not None and state != "set_aside":
        return Recorded.DUPLICATE, path
    db.execute(
        "UPDATE objects SET study_uid = ?, path = ?, nbytes = ?, sha256 = ?, received_s = ?, sop_class = ?,"
        " transfer_syntax = ?, peer = ?, route = ? WHERE series_uid = ? AND sop_uid = ?",
        (*_content(row, path), *key),
    )
    if sha256 == row.sha256 and state == "answered":
        # What was analysed is back; the answer stands, and retention counts the days anew.
        db.execute(
            "UPDATE series SET missing = missing + ?, nbytes = nbytes + ?, last_s = MAX(last_s, ?)"
            " WHERE series_uid = ?",
            (restored, row.nbytes - nbytes, row.received_s, row.series_uid),
        )
        return Recorded.DUPLICATE, old
    _reopen(db, row, objects=0, missing=restored, nbytes=row.nbytes - nbytes)
    return Recorded.NEW if sha256 == row.sha256 else Recorded.REPLACED, old


def _content(row: ObjectRow, path: str) -> tuple[object, ...]:
    return (
        row.study_uid,
        path,
        row.nbytes,
        row.sha256,
        row.received_s,
        row.sop_class,
        row.transfer_syntax,
        row.peer,
        row.route,
    )


def _reopen(db: sqlite3.Connection, row: ObjectRow, *, objects: int, missing: int, nbytes: int) -> None:
    """Count an object in its series, which receives again: one generation on unless it was receiving anyway."""
    first = (row.series_uid, row.study_uid, row.route, row.nbytes, row.received_s, row.received_s)
    db.execute(
        "INSERT INTO series (series_uid, study_uid, route, state, generation, objects, missing, nbytes, first_s,"
        " last_s, tries, deadline_missed) VALUES (?, ?, ?, 'receiving', 1, 1, 0, ?, ?, ?, 0, 0)"
        # The study of the latest object: a sender that corrects it sends all of them again.
        " ON CONFLICT (series_uid) DO UPDATE SET study_uid = excluded.study_uid,"
        " generation = generation + (state != 'receiving'),"
        " state = 'receiving', objects = objects + ?, missing = missing + ?, nbytes = nbytes + ?,"
        " last_s = MAX(last_s, ?), released_s = NULL, tries = 0, retry_at_s = NULL, deadline_at_s = NULL,"
        " code = NULL, text = NULL",
        (*first, objects, missing, nbytes, row.received_s),
    )
