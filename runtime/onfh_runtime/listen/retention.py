"""What is deleted and when, and what a start finds: files without a row, rows without a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onfh_runtime.listen.config import Disk
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.records import SeriesRow, StorageError
from onfh_runtime.listen.spool import Spool, storage_failure

__all__ = ["Cleaned", "Recovered", "clean", "recover_spool"]

_DAY_S = 86400.0

_GOES_ON_S = 600.0
"""A series that was refused halfway for want of room is answered as far as it came; its rest comes in some minutes."""


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

    Where none is left, the wrong folder is there, or none: nothing is changed then, since what is called lost is not
    looked for again.

    Raises:
        StorageError: ``storage_failed`` and what the journal raises.
    """
    expected = journal.files()
    removed = 0
    try:
        found = {Path(entry.path): entry.stat().st_size for entry in os.scandir(spool.folder)}
    except OSError as error:
        raise storage_failure(error, spool.folder) from error
    if expected and not expected.keys() & found.keys():
        raise StorageError(
            "storage_failed",
            f"None of the {len(expected)} images that the journal lists is in {spool.folder}.",
            "Mount its disk, or put the folder back. If they are gone for good, move journal.sqlite away and ask the"
            " senders to send again.",
        )
    lost = [path for path, nbytes in expected.items() if found.get(path) != nbytes]
    if lost:
        journal.lost(
            lost, "spool_object_lost", "Images of this series are missing from the spool, or cut: send it again."
        )
    for path in found.keys() - (expected.keys() - set(lost)):
        spool.remove(path)
        removed += 1
    return Recovered(removed, len(lost))


def clean(
    journal: Journal,
    spool: Spool,
    disk: Disk,
    now_s: float,
    *,
    forgotten: Callable[[SeriesRow], object] = lambda row: None,
) -> Cleaned:
    """Delete what has been kept long enough, and images before that when the spool has less room than its margin.

    Only answered series whose deliveries have arrived (or are given up) are touched, the oldest answer first: images
    after ``keep_objects_days``, or ten minutes where room is short; the result and its rows after
    ``keep_results_days``, and not before the images.
    ``forgotten`` is told of each series whose result folder is deleted, before the journal forgets it.

    Raises:
        StorageError: from the journal; a later call goes on, as after what ``forgotten`` raises.
    """
    images = sum(_forget_images(journal, row) for row in journal.clearable(now_s - disk.keep_objects_days * _DAY_S))
    margin = spool.margin()
    if spool.short_bytes(margin):
        for row in journal.clearable(now_s - _GOES_ON_S):
            images += _forget_images(journal, row)
            if not spool.short_bytes(margin):
                break
    results = 0
    for row in journal.clearable(now_s - disk.keep_results_days * _DAY_S):
        results += journal.forget(row.series_uid, row.generation, also=partial(forgotten, row))
    if images or results:
        journal.compact()
    return Cleaned(images, results)


def _forget_images(journal: Journal, row: SeriesRow) -> bool:
    return row.missing < row.objects and journal.forget_objects(row.series_uid, row.generation)
