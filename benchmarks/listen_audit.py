"""Holds a node to what it said: every acknowledged object kept, every series answered once, every answer delivered."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from listen_site import Archive, Node, Series
from pydicom import Dataset, dcmread

from onfh_runtime.listen.records import SeriesRow, SeriesState

SR = "1.2.840.10008.5.1.4.1.1.88.34"


def audit(node: Node, archive: Archive, sent: Sequence[Series]) -> dict[str, Any]:
    """Look at journal, spool, results and archive; the node must be at rest.

    Returns:
        Counts, and ``faults``: a sentence for each promise that was not kept.
    """
    faults: list[str] = []
    received = archive.objects()
    by_uid: dict[str, list[Dataset]] = defaultdict(list)
    for item in received:
        by_uid[str(item.SOPInstanceUID)].append(item)
    faults += [f"{uid} came to the archive with two contents" for uid, same in by_uid.items() if _differ(same)]
    faults += _doubles(by_uid)
    generations = 0
    with contextlib.closing(node.view()) as journal:
        for series in sent:
            row = journal.series(series.uid)
            if row is None:
                faults.append(
                    f"{series.uid} is not in the journal, though {len(series.acknowledged)} were acknowledged"
                )
                continue
            generations += row.generation
            kept = {one.sop_uid: one.path for one in journal.objects_of(series.uid)}
            faults += _objects(series, kept)
            faults += _answer(series, row)
            deliveries = journal.deliveries_of(series.uid)
            current = [one for one in deliveries if one.generation == row.generation]
            if {one.state for one in deliveries} - {"sent"}:
                faults.append(f"{series.uid} has deliveries that are {sorted({one.state for one in deliveries})}")
            if sorted(one.path.name for one in current) != ["seg.dcm", "sr.dcm"]:
                faults.append(f"{series.uid} was to send {[one.path.name for one in current]}")
            faults += [f"{one.path.name} of {series.uid} is not in the archive" for one in current
                       if one.sop_uid not in by_uid]  # fmt: skip
        files = set(journal.files())
    spool = {path for path in (node.state_dir.resolve() / "objects").iterdir() if path.stat().st_size}
    faults += [f"{len(spool - files)} files of the spool belong to nothing"] if spool - files else []
    return {
        "series": len(sent),
        "acknowledged_objects": sum(len(series.acknowledged) for series in sent),
        "generations": generations,
        "archive_objects": len(by_uid),
        "archive_received_again": len(received) - len(by_uid),
        "faults": faults,
    }


def _objects(series: Series, kept: dict[str, Path | None]) -> list[str]:
    """What became of the objects that were acknowledged."""
    faults = []
    for path in series.acknowledged:
        original = dcmread(path)
        where = kept.get(str(original.SOPInstanceUID))
        if where is None or not where.exists():
            faults.append(f"{original.SOPInstanceUID} was acknowledged and is lost")
        elif dcmread(where) != original:
            faults.append(f"{original.SOPInstanceUID} is not what was sent")
    return faults


def _answer(series: Series, row: SeriesRow) -> list[str]:
    """Whether there is one answer, of all images."""
    if not series.done:
        return []
    if row.state is not SeriesState.ANSWERED or row.outcome != "succeeded" or row.folder is None:
        return [f"{series.uid} is {row.state.value} ({row.outcome}, {row.code})"]
    faults = []
    if row.objects != len(series.paths) or row.missing:
        faults.append(f"{series.uid} has {row.objects} objects, {row.missing} missing, of {len(series.paths)}")
    result = json.loads((row.folder / "result.json").read_text())
    report = dcmread(row.folder / "sr.dcm")
    if result["status"] != "succeeded" or len(images_of(report, series.uid)) != len(series.paths):
        faults.append(f"the result of {series.uid} is of {len(images_of(report, series.uid))} images")
    entries = json.loads((row.folder.parent / "study.json").read_text())["series"]
    if [entry["series_instance_uid"] for entry in entries] != [series.uid]:
        faults.append(f"the study of {series.uid} lists {len(entries)} series")
    return faults


def images_of(report: Dataset, series_uid: str) -> frozenset[str]:
    """The images of a series that a report is about, by SOP Instance UID."""
    return frozenset(
        str(one.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        if series.SeriesInstanceUID == series_uid
        for one in series.ReferencedSOPSequence
    )


def _doubles(by_uid: dict[str, list[Dataset]]) -> list[str]:
    """Reports of the same images under two UIDs."""
    seen: dict[frozenset[str], str] = {}
    faults = []
    for uid, (report, *_) in by_uid.items():
        if report.SOPClassUID != SR:
            continue
        about = frozenset(
            str(one.ReferencedSOPInstanceUID)
            for study in report.CurrentRequestedProcedureEvidenceSequence
            for series in study.ReferencedSeriesSequence
            for one in series.ReferencedSOPSequence
            if one.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
        )
        if about in seen:
            faults.append(f"{uid} and {seen[about]} report on the same images")
        seen[about] = uid
    return faults


def _differ(same: Sequence[Dataset]) -> bool:
    return any(other != same[0] for other in same[1:])
