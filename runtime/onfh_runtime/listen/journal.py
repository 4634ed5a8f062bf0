"""What was received, what became of it, and what is still to be sent: one SQLite file.

Every change is on the disk when its call returns (write-ahead log, ``synchronous=FULL``; docs/decisions/0007), so a
killed node continues from here. Writers take turns; objects that arrive together share one commit.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from onfh_runtime.listen.journal_objects import record
from onfh_runtime.listen.journal_tables import prepare
from onfh_runtime.listen.journal_view import JournalView, connection_to, storage_error
from onfh_runtime.listen.records import NewDelivery, ObjectRow, Recorded, StorageError
from onfh_runtime.listen.together import Together

__all__ = ["Journal"]


class Journal(JournalView):
    """The one writer of a journal. Every method may be called from any thread and raises :class:`StorageError`."""

    def __init__(
        self,
        path: Path,
        *,
        remove: Callable[[Path], object] = Path.unlink,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or create the journal; its folder must exist.

        Args:
            path: ``state_dir/journal.sqlite``.
            remove: deletes the file of an object (``Spool.remove``).
            clock: seconds of wall time, for when an answer was given.

        Raises:
            StorageError: ``storage_failed``, ``storage_full``, ``journal_damaged``, ``journal_newer``.
        """
        self._remove = remove
        self._clock = clock
        self._writing = threading.Lock()
        self._recording = Together(self._record_all)
        self._writer = connection_to(path, readonly=False)
        try:
            prepare(self._writer)
            super().__init__(path)
        except BaseException as error:
            self._writer.close()
            if isinstance(error, sqlite3.Error):
                raise storage_error(error, path) from error
            raise

    def close(self) -> None:
        """Close the journal; a second call does nothing."""
        super().close()
        with self._writing:
            self._writer.close()

    def record_object(self, row: ObjectRow) -> Recorded:
        """Keep an object whose file is durable. From now on the file is the journal's, even if this fails.

        A new or replaced object makes its series ``RECEIVING``, one generation on if the series was past that. The
        file nobody needs any more (the new one of a duplicate, the old one of a replaced object) is deleted. A known
        object counts as new when its file was cleaned up, unless its series is answered, or when its series was set
        aside: sending it again is how people ask for another try.
        """
        assert row.path is not None
        try:
            recorded, unneeded = self._recording.do((row, self._relative(row.path)))
        except StorageError:
            self._delete(row.path)
            raise
        if unneeded is not None:
            self._delete(self.root / unneeded)
        return recorded

    def association_released(self, series_uids: Sequence[str], now_s: float) -> None:
        """Note that the association which sent these series has ended."""
        with self._change() as db:
            db.executemany(
                "UPDATE series SET released_s = ? WHERE series_uid = ? AND state = 'receiving'",
                [(now_s, uid) for uid in series_uids],
            )

    def mark_ready(
        self, series_uid: str, generation: int, deadline_at_s: float | None, *, last_s: float | None = None
    ) -> bool:
        """``RECEIVING`` to ``READY``; False, and nothing changes, when the generation or the state moved on.

        Nor does anything change when an image came after ``last_s``, if that is given.
        """
        with self._change() as db:
            cursor = db.execute(
                "UPDATE series SET state = 'ready', deadline_at_s = ? WHERE series_uid = ? AND generation = ?"
                " AND state = 'receiving' AND last_s = COALESCE(?, last_s)",
                (deadline_at_s, series_uid, generation, last_s),
            )
            return cursor.rowcount == 1

    def begin(self, series_uid: str, generation: int) -> bool:
        """``READY`` to ``WORKING``; counts as a try even if the process dies in the next moment."""
        return self._move(
            "state = 'working', tries = tries + 1, retry_at_s = NULL", (), series_uid, generation, ("ready",)
        )

    def answered(
        self,
        series_uid: str,
        generation: int,
        *,
        outcome: str,
        folder: Path,
        latency_ms: float | None,
        outside_engine_ms: float | None,
        deadline_missed: bool,
        deliveries: Sequence[NewDelivery],
    ) -> bool:
        """``WORKING`` to ``ANSWERED`` with what is to be sent; what earlier generations still had to send is dropped.

        False, and nothing changes, when an image came meanwhile: the answer is out of date, the series is analysed
        again.
        """
        now_s = self._clock()
        values = (outcome, self._relative(folder), latency_ms, outside_engine_ms, deadline_missed, now_s)
        with self._change() as db:
            if not _moved(
                db,
                "state = 'answered', code = NULL, text = NULL, outcome = ?, folder = ?, latency_ms = ?,"
                " outside_engine_ms = ?, deadline_missed = ?, answered_s = ?",
                values,
                series_uid,
                generation,
                ("working",),
            ):
                return False
            db.execute("DELETE FROM deliveries WHERE series_uid = ? AND state = 'pending'", (series_uid,))
            db.executemany(
                "INSERT INTO deliveries (series_uid, generation, destination, path, sop_uid, sop_class, state, tries,"
                " due_s) VALUES (?, ?, ?, ?, ?, ?, 'pending', 0, ?)",
                [
                    (
                        series_uid,
                        generation,
                        new.destination,
                        self._relative(new.path),
                        new.sop_uid,
                        new.sop_class,
                        now_s,
                    )
                    for new in deliveries
                ],
            )
            return True

    def put_off(
        self, series_uid: str, generation: int, retry_at_s: float, code: str, text: str, *, counts: bool = True
    ) -> bool:
        """``WORKING`` to ``READY``, to be tried again at a time, with what went wrong.

        Args:
            series_uid: the series.
            generation: of it.
            retry_at_s: wall time.
            code: of what went wrong.
            text: a sentence.
            counts: whether it counts as a try; what is not the series' fault does not.
        """
        values = (0 if counts else 1, retry_at_s, code, text)
        return self._move(
            "state = 'ready', tries = tries - ?, retry_at_s = ?, code = ?, text = ?",
            values,
            series_uid,
            generation,
            ("working",),
        )

    def set_aside(self, series_uid: str, generation: int, code: str, text: str) -> bool:
        """Give an unanswered series up for good, with its reason; only new images bring it back."""
        return self._move(
            "state = 'set_aside', retry_at_s = NULL, code = ?, text = ?",
            (code, text),
            series_uid,
            generation,
            ("receiving", "ready", "working"),
        )

    def sent(self, id: int) -> None:
        """A delivery arrived."""
        self._deliver("state = 'sent', tries = tries + 1, text = NULL", (), id)

    def failed(self, id: int, due_s: float, text: str) -> None:
        """A delivery did not arrive and is tried again at a time."""
        self._deliver("tries = tries + 1, due_s = ?, text = ?", (due_s, text), id)

    def dead(self, id: int, text: str) -> None:
        """A delivery is given up."""
        self._deliver("state = 'dead', tries = tries + 1, text = ?", (text,), id)

    def recover(self) -> None:
        """After a start: what was being worked on waits again, and no association is open any more.

        What was put off is due at once: the clock may have been days ahead, and set right meanwhile.
        """
        now_s = self._clock()
        with self._change() as db:
            db.execute("UPDATE series SET state = 'ready' WHERE state = 'working'")
            db.execute("UPDATE series SET released_s = ? WHERE state = 'receiving' AND released_s IS NULL", (now_s,))
            db.execute("UPDATE series SET last_s = ? WHERE state = 'receiving' AND last_s > ?", (now_s, now_s))
            db.execute("UPDATE series SET retry_at_s = ? WHERE retry_at_s > ?", (now_s, now_s))
            db.execute("UPDATE deliveries SET due_s = ? WHERE state = 'pending' AND due_s > ?", (now_s, now_s))

    def lost(self, paths: Sequence[Path], code: str, text: str) -> None:
        """Note that files of objects are gone; their unanswered series are set aside until they are sent again."""
        with self._change() as db:
            for path in paths:
                series = "(SELECT series_uid FROM objects WHERE path = ?)"
                relative = self._relative(path)
                db.execute(f"UPDATE series SET missing = missing + 1 WHERE series_uid = {series}", (relative,))
                db.execute(
                    f"UPDATE series SET state = 'set_aside', retry_at_s = NULL, code = ?, text = ?"
                    f" WHERE state != 'answered' AND series_uid = {series}",
                    (code, text, relative),
                )
                db.execute("UPDATE objects SET path = NULL WHERE path = ?", (relative,))

    def forget_objects(self, series_uid: str, generation: int) -> bool:
        """Delete the images of an answered series nothing waits for; that they were here stays known.

        So a resend changes nothing, and a late image does not pass for the whole series (``missing``).
        """
        with self._change() as db:
            if not _clearable(db, series_uid, generation):
                return False
            rows = db.execute(
                "SELECT path FROM objects WHERE series_uid = ? AND path IS NOT NULL", (series_uid,)
            ).fetchall()
            db.execute("UPDATE objects SET path = NULL WHERE series_uid = ?", (series_uid,))
            db.execute("UPDATE series SET missing = objects WHERE series_uid = ?", (series_uid,))
        # Only after the commit: a node killed here leaves files the journal lacks, which the next start removes.
        for (path,) in rows:
            self._delete(self.root / path)
        return True

    def forget(self, series_uid: str, generation: int, *, also: Callable[[], object] = lambda: None) -> bool:
        """Delete an answered series nothing waits for and whose images are gone: its result folder and its rows.

        ``also`` is called between the two, and nothing more is deleted when it raises; it must not call the journal.
        """
        with self._change() as db:
            if not _clearable(db, series_uid, generation, "AND missing = objects"):
                return False
            ((folder,),) = db.execute("SELECT folder FROM series WHERE series_uid = ?", (series_uid,)).fetchall()
            # Before the commit: nobody can begin the series meanwhile, and a node killed here does it again.
            if folder is not None:
                shutil.rmtree(self.root / folder, ignore_errors=True)
            also()
            for table in ("deliveries", "objects", "series"):
                db.execute(f"DELETE FROM {table} WHERE series_uid = ?", (series_uid,))
            return True

    def compact(self) -> None:
        """Give pages that retention freed back to the disk, and empty the write-ahead log."""
        with self._writing:
            try:
                # Each freed page is a row without columns, which fetchall() would not go on from.
                self._writer.executescript("PRAGMA incremental_vacuum")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.Error as error:
                raise storage_error(error, self.path) from error

    def _record_all(self, rows: Sequence[tuple[ObjectRow, str]]) -> list[tuple[Recorded, str | None]]:
        with self._change() as db:
            return [record(db, row, path) for row, path in rows]

    def _delete(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            self._remove(path)

    def _move(
        self, change: str, values: Sequence[object], series_uid: str, generation: int, states: Sequence[str]
    ) -> bool:
        with self._change() as db:
            return _moved(db, change, values, series_uid, generation, states)

    def _deliver(self, change: str, values: Sequence[object], id: int) -> None:
        with self._change() as db:
            db.execute(f"UPDATE deliveries SET {change} WHERE id = ? AND state = 'pending'", (*values, id))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One commit."""
        with self._writing:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise storage_error(error, self.path) from error
                raise


def _moved(
    db: sqlite3.Connection,
    change: str,
    values: Sequence[object],
    series_uid: str,
    generation: int,
    states: Sequence[str],
) -> bool:
    """Change a series if it is still in this generation and one of these states."""
    marks = ", ".join("?" * len(states))
    cursor = db.execute(
        f"UPDATE series SET {change} WHERE series_uid = ? AND generation = ? AND state IN ({marks})",
        (*values, series_uid, generation, *states),
    )
    return cursor.rowcount == 1


def _clearable(db: sqlite3.Connection, series_uid: str, generation: int, also: str = "") -> bool:
    """Whether a series is answered and nothing waits for it."""
    return bool(
        db.execute(
            "SELECT 1 FROM series WHERE series_uid = ? AND generation = ? AND state = 'answered' AND NOT EXISTS"
            f" (SELECT 1 FROM deliveries WHERE series_uid = series.series_uid AND state = 'pending') {also}",
            (series_uid, generation),
        ).fetchone()
    )
