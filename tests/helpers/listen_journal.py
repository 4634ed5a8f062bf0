"""A journal with series in every state, as a node would have written it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.records import NewDelivery, ObjectRow

CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
STUDY = "1.2.826.0.1.3680043.8.498.100"


def receive(
    journal: Journal,
    series_uid: str,
    *,
    study_uid: str = STUDY,
    objects: int = 3,
    route: str = "scanner",
    ago_s: float = 9,
) -> None:
    """Record some objects of a series that came a while ago."""
    folder = journal.root / "objects"
    folder.mkdir(exist_ok=True)
    for i in range(objects):
        sop_uid = f"{series_uid}.{ago_s:.0f}.{i}"
        path = folder / f"{sop_uid}.dcm"
        path.write_bytes(sop_uid.encode())
        digest = hashlib.sha256(sop_uid.encode()).hexdigest()
        now_s = time.time() - ago_s
        journal.record_object(
            ObjectRow(
                sop_uid, series_uid, study_uid, path, 100, digest, now_s, CT, "1.2.840.10008.1.2.1", "scanner", route
            )
        )


def work(journal: Journal, series_uid: str, *, deadline_in_s: float | None = None) -> int:
    """Make a received series one that is being worked on; returns its generation."""
    row = journal.series(series_uid)
    assert row is not None
    deadline = None if deadline_in_s is None else time.time() + deadline_in_s
    assert journal.mark_ready(series_uid, row.generation, deadline)
    assert journal.begin(series_uid, row.generation)
    return row.generation


def answer(
    journal: Journal,
    series_uid: str,
    *,
    outcome: str = "succeeded",
    deliveries: Sequence[NewDelivery] = (),
    deadline_in_s: float | None = None,
    missed: bool = False,
    report: str = "<!DOCTYPE html><title>report</title>",
    **received: object,
) -> Path:
    """A received, answered series with a report; returns the folder of its result."""
    receive(journal, series_uid, **received)  # type: ignore[arg-type]
    generation = work(journal, series_uid, deadline_in_s=deadline_in_s)
    row = journal.series(series_uid)
    assert row is not None
    folder = journal.root / "results" / row.study_uid / series_uid
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(report)
    assert journal.answered(
        series_uid,
        generation,
        outcome=outcome,
        folder=folder,
        latency_ms=1234.0,
        outside_engine_ms=321.0,
        deadline_missed=missed,
        deliveries=deliveries,
    )
    return folder
