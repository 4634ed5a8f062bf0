"""What the live page shows, as JSON, and which report a path means."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from onfh_runtime.listen.journal_view import JournalView
from onfh_runtime.listen.records import SeriesRow

__all__ = ["SHOWN", "document_from_journal", "report_file"]

SHOWN = 100
"""Series on the page, the newest."""

_REPORT = "report.html"
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_PART = re.compile(r"part-[1-9][0-9]{0,3}")


def document_from_journal(journal: JournalView, results: Path, problems: Sequence[str]) -> dict[str, object]:
    """What ``/api/series`` says (schema ``onfh-series/1``): UIDs, times and figures, nothing of a patient.

    Args:
        journal: of the node.
        results: folder of all results.
        problems: codes of what keeps the node from being ready.

    Returns:
        A JSON object. Times are seconds of Unix time by the node's clock, ``now_s`` among them.

    Raises:
        StorageError: the journal cannot be read.
    """
    return {
        "schema": "onfh-series/1",
        "now_s": time.time(),
        "problems": list(problems),
        "counts": journal.counts(),
        "series": [_entry(row, journal, results) for row in journal.recent(SHOWN)],
    }


def report_file(results: Path, parts: Sequence[str]) -> Path | None:
    """The report that the path ``/reports/`` + ``parts`` means, None when it means none.

    Args:
        results: folder of all results.
        parts: Study and Series Instance UID, ``part-<k>`` for a series that was split, ``report.html``.
    """
    *folders, name = parts or [""]
    if name != _REPORT or len(folders) not in (2, 3):
        return None
    if not all(len(uid) <= 64 and _UID.fullmatch(uid) for uid in folders[:2]):
        return None
    if len(folders) == 3 and not _PART.fullmatch(folders[2]):
        return None
    path = results.joinpath(*folders, name)
    try:  # a link that somebody put there must not lead out
        inside = path.resolve(strict=True).is_relative_to(results.resolve())
    except OSError:
        return None
    return path if inside and path.is_file() else None


def _entry(row: SeriesRow, journal: JournalView, results: Path) -> dict[str, object]:
    deliveries = Counter(delivery.state for delivery in journal.deliveries_of(row.series_uid))
    return {
        "study_uid": row.study_uid,
        "series_uid": row.series_uid,
        "route": row.route,
        "state": row.state.value,
        "generation": row.generation,
        "objects": row.objects,
        "last_s": row.last_s,
        "answered_s": row.answered_s,
        "tries": row.tries,
        "retry_at_s": row.retry_at_s,
        "deadline_at_s": row.deadline_at_s,
        "deadline_missed": row.deadline_missed,
        "outcome": row.outcome,
        "code": row.code,
        "text": row.text,
        "latency_ms": row.latency_ms,
        "outside_engine_ms": row.outside_engine_ms,
        "deliveries": {state: deliveries[state] for state in ("pending", "sent", "dead")},
        "reports": _reports(row, results),
    }


def _reports(row: SeriesRow, results: Path) -> list[str]:
    """Paths of the reports of an answered series: one, or one for each part."""
    if row.folder is None:
        return []
    places = [row.folder, *sorted(row.folder.glob("part-*"), key=lambda part: (len(part.name), part.name))]
    found = []
    for place in places:
        path = place / _REPORT
        if path.is_relative_to(results) and report_file(results, path.relative_to(results).parts) is not None:
            found.append("/reports/" + path.relative_to(results).as_posix())
    return found
