"""What the node does before it acknowledges objects of 0.5 MB: the file durable, the journal's entry committed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.part10 import file_head
from onfh_runtime.listen.records import ObjectRow
from onfh_runtime.listen.spool import Spool

DOES_NOT_MEASURE = (
    "the network and DICOM's messages: receive.py sends over loopback, beside dcmtk's receiver",
    "other disks: files go to the temporary folder, which may lie in memory; spool.py measures a disk that is named",
)
OBJECTS = 32
CT_IMAGE, EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
IMAGE = os.urandom(512 * 1028)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[tuple[Spool, Journal]]:
    """An empty spool and its journal."""
    spool, journal = Spool(tmp_path / "objects"), Journal(tmp_path / "journal.sqlite")
    yield spool, journal
    journal.close()


@pytest.mark.parametrize("threads", [1, 8])
def test_keep(benchmark: Any, room: tuple[Spool, Journal], threads: int) -> None:
    """So many associations at once, 32 objects together."""
    spool, journal = room
    numbers = count()

    def keep(number: int) -> None:
        uid = f"1.2.{number}"
        written = spool.write(file_head(CT_IMAGE, uid, EXPLICIT_LITTLE_ENDIAN, "CT"), IMAGE)
        kept = (written.path, written.nbytes, written.sha256, time.time())
        row = ObjectRow(uid, "1.1", "1", *kept, CT_IMAGE, EXPLICIT_LITTLE_ENDIAN, "peer", "route")
        journal.record_object(row)

    def keep_all() -> None:
        list(pool.map(keep, [next(numbers) for _ in range(OBJECTS)]))

    with ThreadPoolExecutor(threads) as pool:
        benchmark.pedantic(keep_all, rounds=9, warmup_rounds=1)
    assert len(list(spool.folder.iterdir())) >= OBJECTS
    benchmark.extra_info |= {"objects": OBJECTS, "mb": OBJECTS * len(IMAGE) / 1e6}
