"""What is deleted and when, and what a start finds: files without a row, rows without a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from onfh_runtime.listen.config import Disk
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.records import SeriesRow
from onfh_runtime.listen.spool import Spool, storage_failure

__all__ = ["Cleaned", "Recovered", "clean", "recover_spool"]

_DAY_S = 86400.0


@dataclass(frozen=True)
class Recovered:
    """Files removed because nobody was told that they are here, and files the journal lists that are gone or cut."""

    removed: int
    lost: int


@dataclass(frozen=True)
class Cleaned:
    """Series whose images, and series whose results, retention deleted."""

    images: int
    results: int


def recover_spool(spool: Spool, journal: Journal) -> Recovered:
    """Make spool and journal agree; before anything is received.

    A file the journal lacks was never acknowledged: the sender will send it again, and it is removed. An object the
    journal lists without a whole file is lost: its series, unless answered, is set aside (``spool_object_lost``) until
    it is sent again.

    Raises:
        StorageError: ``storage_failed`` and what the journal raises.
    """
    expected = journal.files()
    removed = 0
    try:
        found = {Path(entry.path): entry.stat().st_size for entry in os.scandir(spool.folder)}
    except OSError as error:
        raise storage_failure(error, spool.folder) from error
    lost = [path for path, nbytes in expected.items() if found.get(path) != nbytes]
    if lost:
        journal.lost(
            lost, "spool_object_lost", "Images of this series are missing from the spool, or cut: send it again."
        )
    for path in found.keys() - (expected.keys() - set(lost)):
        spool.remove(path)
        removed += 1
    return Recovered(removed, len(lost))


def clean(journal: Journal, spool: Spool, disk: Disk, now_s: float) -> Cleaned:
    """Delete what has been kept long enough, and images before that when the spool is short of room.

    Only answered series whose deliveries have arrived (or are given up) are touched, the oldest answer first: images
    after ``keep_objects_days``, the result and its rows after ``keep_results_days``, and not before the images.

    Raises:
        StorageError: from the journal; a later call goes on.
    """
    images = sum(_forget_images(journal, row) for row in journal.clearable(now_s - disk.keep_objects_days * _DAY_S))
    if spool.short_bytes():
        for row in journal.clearable(now_s):
            images += _forget_images(journal, row)
            if not spool.short_bytes():
                break
    old = journal.clearable(now_s - disk.keep_results_days * _DAY_S)
    results = sum(journal.forget(row.series_uid, row.generation) for row in old)
    if images or results:
        journal.compact()
    return Cleaned(images, results)


def _forget_images(journal: Journal, row: SeriesRow) -> bool:
    return row.missing < row.objects and journal.forget_objects(row.series_uid, row.generation)
