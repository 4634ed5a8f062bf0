"""Objects in a spool and its journal, without DICOM in them; as a program, a writer that is there to be killed."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.records import ObjectRow, Recorded, SeriesState
from onfh_runtime.listen.spool import Spool, Written

CT = "1.2.840.10008.5.1.4.1.1.2"


def open_state(state_dir: Path, **journal: object) -> tuple[Spool, Journal]:
    """The spool and the journal of a node's folder."""
    state_dir.mkdir(exist_ok=True)
    spool = Spool(state_dir / "objects")
    return spool, Journal(state_dir.resolve() / "journal.sqlite", remove=spool.remove, **journal)


def row_of(written: Written, sop_uid: str, series_uid: str = "1.2", *, now_s: float = 0.0) -> ObjectRow:
    """What is journalled of a file."""
    return ObjectRow(
        sop_uid,
        series_uid,
        "1.1",
        written.path,
        written.nbytes,
        written.sha256,
        now_s,
        CT,
        "1.2.840.10008.1.2.1",
        "scanner",
        "default",
    )


def keep(
    spool: Spool,
    journal: Journal,
    sop_uid: str,
    data: bytes = b"pixels",
    *,
    series_uid: str = "1.2",
    now_s: float = 0.0,
) -> Recorded:
    """Receive an object."""
    return journal.record_object(row_of(spool.write(b"DICM", data), sop_uid, series_uid, now_s=now_s))


def answer(journal: Journal, series_uid: str = "1.2", **given: object) -> bool:
    """Take a receiving series to its answer."""
    row = journal.series(series_uid)
    assert row is not None
    assert journal.mark_ready(series_uid, row.generation, None)
    assert journal.begin(series_uid, row.generation)
    folder = journal.root / "results" / series_uid
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text("{}")
    told: dict[str, object] = {"outcome": "succeeded", "folder": folder, "latency_ms": 1.0, "outside_engine_ms": 0.5}
    return journal.answered(series_uid, row.generation, **{**told, "deadline_missed": False, "deliveries": (), **given})


def content(series: int, sop: int) -> bytes:
    """The data set of an object of the writer: some hundred kilobytes that no other object has."""
    return b"%d.%d " % (series, sop) * 40_000


def write_until_killed(state_dir: Path, run: int) -> None:
    """Receive series from four threads, and work on them; an acknowledged object is a line on standard output."""
    spool, journal = open_state(state_dir)

    def receive(thread: int) -> None:
        for series in range(1_000_000):
            uid = f"1.{run}.{thread}.{series}"
            for sop in range(5):
                keep(spool, journal, f"{uid}.{sop}", content(series, sop), series_uid=uid)
                os.write(1, f"{uid} {sop}\n".encode())
            answer(journal, uid)
            if series % 3 == 0:
                journal.forget_objects(uid, 1)
                os.write(1, f"{uid} -1\n".encode())

    threads = [threading.Thread(target=receive, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def working(journal: Journal) -> int:
    """How many series are being worked on."""
    return len(journal.in_state(SeriesState.WORKING))


if __name__ == "__main__":
    write_until_killed(Path(sys.argv[1]), int(sys.argv[2]))
