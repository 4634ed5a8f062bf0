"""The tables of the journal, and how its database is opened for writing."""

from __future__ import annotations

import sqlite3

from onfh_runtime.listen.journal_view import SCHEMA_VERSION

__all__ = ["prepare"]

_TABLES = """
CREATE TABLE series (
    series_uid TEXT PRIMARY KEY, study_uid TEXT NOT NULL, route TEXT NOT NULL, state TEXT NOT NULL,
    generation INTEGER NOT NULL, objects INTEGER NOT NULL, missing INTEGER NOT NULL, nbytes INTEGER NOT NULL,
    first_s REAL NOT NULL, last_s REAL NOT NULL, released_s REAL, tries INTEGER NOT NULL, retry_at_s REAL,
    deadline_at_s REAL, code TEXT, text TEXT, outcome TEXT, folder TEXT, latency_ms REAL, outside_engine_ms REAL,
    deadline_missed INTEGER NOT NULL, answered_s REAL);
CREATE INDEX series_by_state ON series (state, answered_s);
CREATE INDEX series_by_time ON series (last_s);
CREATE TABLE objects (
    sop_uid TEXT NOT NULL, series_uid TEXT NOT NULL, study_uid TEXT NOT NULL, path TEXT, nbytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL, received_s REAL NOT NULL, sop_class TEXT NOT NULL, transfer_syntax TEXT NOT NULL,
    peer TEXT NOT NULL, route TEXT NOT NULL, UNIQUE (series_uid, sop_uid));
CREATE INDEX objects_by_path ON objects (path, nbytes);
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY, series_uid TEXT NOT NULL, generation INTEGER NOT NULL, destination TEXT NOT NULL,
    path TEXT NOT NULL, sop_uid TEXT NOT NULL, sop_class TEXT NOT NULL, state TEXT NOT NULL, tries INTEGER NOT NULL,
    due_s REAL NOT NULL, text TEXT);
CREATE INDEX deliveries_by_series ON deliveries (series_uid);
CREATE INDEX deliveries_by_time ON deliveries (state, due_s);
"""

_LOG_LIMIT = 16 << 20
"""Bytes the write-ahead log keeps after a checkpoint, which SQLite makes every 1,000 pages (4 MB)."""


def prepare(db: sqlite3.Connection) -> None:
    """Settings of the connection, and the tables of a new file."""
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
    if db.execute("PRAGMA user_version").fetchone() == (0,):
        db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
