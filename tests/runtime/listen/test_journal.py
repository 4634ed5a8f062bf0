"""The journal knows what was received, what became of it and what is still to be sent, over any restart."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kept_objects import answer, keep, open_state, row_of

from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.journal_view import JournalView
from onfh_runtime.listen.records import NewDelivery, Recorded, SeriesRow, SeriesState, StorageError
from onfh_runtime.listen.spool import Spool

State = tuple[Spool, Journal]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    spool, journal = open_state(tmp_path / "state", clock=lambda: 100.0)
    yield spool, journal
    journal.close()


def series(journal: Journal, uid: str = "1.2") -> SeriesRow:
    row = journal.series(uid)
    assert row is not None
    return row


def files(spool: Spool) -> set[Path]:
    return {path for path in spool.folder.iterdir() if path.stat().st_size}


def deliveries(journal: Journal, *names: str) -> list[NewDelivery]:
    return [NewDelivery(name, journal.root / "results" / "1.2" / "sr.dcm", "1.9", "1.10") for name in names]


def test_an_object_makes_its_series(state: State) -> None:
    spool, journal = state
    assert keep(spool, journal, "1.2.1", b"one", now_s=10.0) is Recorded.NEW
    assert keep(spool, journal, "1.2.2", b"three", now_s=12.0) is Recorded.NEW
    row = series(journal)
    assert (row.state, row.generation, row.objects, row.missing) == (SeriesState.RECEIVING, 1, 2, 0)
    assert (row.nbytes, row.first_s, row.last_s, row.released_s) == (16, 10.0, 12.0, None)
    first, second = journal.objects_of("1.2")
    assert (first.sop_uid, first.path.read_bytes(), first.peer, first.route) == (
        "1.2.1",
        b"DICMone",
        "scanner",
        "default",
    )
    assert second.received_s == 12.0
    assert journal.files() == {first.path: 7, second.path: 9}
    assert journal.series("1.3") is None


def test_the_same_object_again_changes_nothing(state: State) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1", now_s=10.0)
    before, there = series(journal), files(spool)
    assert keep(spool, journal, "1.2.1", now_s=11.0) is Recorded.DUPLICATE
    assert series(journal) == before
    assert files(spool) == there


def test_other_bytes_under_a_known_uid_replace_it(state: State) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1", b"before")
    assert keep(spool, journal, "1.2.1", b"after") is Recorded.REPLACED
    (row,) = journal.objects_of("1.2")
    assert row.path.read_bytes() == b"DICMafter"
    assert files(spool) == {row.path}
    assert (series(journal).objects, series(journal).nbytes) == (1, 9)


def test_one_uid_in_two_series_is_two_objects(state: State) -> None:
    spool, journal = state
    keep(spool, journal, "1.5", series_uid="1.2")
    assert keep(spool, journal, "1.5", series_uid="1.3") is Recorded.NEW
    assert len(files(spool)) == 2


def test_a_series_goes_from_images_to_answer(state: State) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1")
    journal.association_released(["1.2", "1.7"], 5.0)
    assert series(journal).released_s == 5.0
    assert journal.mark_ready("1.2", 1, 65.0)
    assert (series(journal).state, series(journal).deadline_at_s) == (SeriesState.READY, 65.0)
    assert not journal.mark_ready("1.2", 1, 65.0)
    assert journal.begin("1.2", 1)
    assert not journal.begin("1.2", 1)
    assert (series(journal).state, series(journal).tries) == (SeriesState.WORKING, 1)
    assert journal.put_off("1.2", 1, 70.0, "out_of_memory", "No memory.")
    row = series(journal)
    assert (row.state, row.retry_at_s, row.code, row.text) == (SeriesState.READY, 70.0, "out_of_memory", "No memory.")
    assert journal.begin("1.2", 1)
    folder = journal.root / "results" / "1.2"
    told = {"outcome": "succeeded", "folder": folder, "latency_ms": 900.0, "outside_engine_ms": 100.0}
    assert journal.answered("1.2", 1, **told, deadline_missed=True, deliveries=deliveries(journal, "pacs"))
    row = series(journal)
    assert (row.state, row.tries, row.code, row.text) == (SeriesState.ANSWERED, 2, None, None)
    assert (row.outcome, row.folder, row.latency_ms, row.outside_engine_ms) == tuple(told.values())
    assert (row.deadline_missed, row.answered_s) == (True, 100.0)
    assert not journal.set_aside("1.2", 1, "late", "Too late.")


def test_a_late_image_reopens_and_the_old_answer_stays_visible(state: State) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1")
    answer(journal, deliveries=deliveries(journal, "pacs"))
    keep(spool, journal, "1.2.2", now_s=200.0)
    row = series(journal)
    assert (row.state, row.generation, row.tries, row.outcome) == (SeriesState.RECEIVING, 2, 0, "succeeded")
    assert [each.generation for each in journal.due(300.0)] == [1]
    answer(journal, deliveries=deliveries(journal, "pacs", "archive"))
    assert [(each.generation, each.destination) for each in journal.due(300.0)] == [(2, "pacs"), (2, "archive")]


def test_an_image_during_the_work_makes_its_answer_void(state: State) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1")
    journal.mark_ready("1.2", 1, None)
    journal.begin("1.2", 1)
    keep(spool, journal, "1.2.2")
    folder = journal.root / "results" / "1.2"
    told = {"outcome": "succeeded", "folder": folder, "latency_ms": 1.0, "outside_engine_ms": 1.0}
    assert not journal.answered("1.2", 1, **told, deadline_missed=False, deliveries=deliveries(journal, "pacs"))
    assert not journal.put_off("1.2", 1, 9.0, "code", "text")
    assert not journal.set_aside("1.2", 1, "code", "text")
    assert (series(journal).state, series(journal).generation) == (SeriesState.RECEIVING, 2)
    assert journal.due(1e9) == []


def test_sending_a_series_again_that_was_set_aside_is_another_try(state: State) -> None:
    spool, journal = state
    for sop in ("1.2.1", "1.2.2"):
        keep(spool, journal, sop)
    journal.mark_ready("1.2", 1, None)
    journal.begin("1.2", 1)
    assert journal.set_aside("1.2", 1, "decoder_crashed", "The decoder crashed.")
    assert (series(journal).state, series(journal).code) == (SeriesState.SET_ASIDE, "decoder_crashed")
    assert keep(spool, journal, "1.2.1") is Recorded.NEW
    assert keep(spool, journal, "1.2.2") is Recorded.DUPLICATE
    row = series(journal)
    assert (row.state, row.generation, row.tries, row.code) == (SeriesState.RECEIVING, 2, 0, None)
    assert files(spool) == {each.path for each in journal.objects_of("1.2")}


def test_deliveries_are_tried_until_they_arrive_or_are_given_up(state: State) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1")
    answer(journal, deliveries=deliveries(journal, "pacs", "archive", "research"))
    first, second, third = journal.due(100.0)
    assert (first.destination, first.state, first.tries, first.due_s) == ("pacs", "pending", 0, 100.0)
    assert first.path == journal.root / "results" / "1.2" / "sr.dcm"
    journal.sent(first.id)
    journal.failed(second.id, 130.0, "refused")
    journal.dead(third.id, "unknown host")
    assert journal.due(129.0) == []
    (again,) = journal.due(130.0)
    assert (again.id, again.tries, again.text) == (second.id, 1, "refused")
    states = [(each.state, each.tries, each.text) for each in journal.deliveries_of("1.2")]
    assert states == [("sent", 1, None), ("pending", 1, "refused"), ("dead", 1, "unknown host")]
    counts = journal.counts()
    assert (counts["deliveries_pending"], counts["deliveries_sent"], counts["deliveries_dead"]) == (1, 1, 1)


def test_the_earliest_deadline_comes_first(state: State) -> None:
    spool, journal = state
    for uid, first_s, deadline in (("1.1", 1.0, None), ("1.2", 2.0, 50.0), ("1.3", 3.0, 40.0), ("1.4", 0.5, None)):
        keep(spool, journal, f"{uid}.1", series_uid=uid, now_s=first_s)
        journal.mark_ready(uid, 1, deadline)
    assert [row.series_uid for row in journal.in_state(SeriesState.READY)] == ["1.3", "1.2", "1.4", "1.1"]
    assert [row.series_uid for row in journal.recent(2)] == ["1.3", "1.2"]
    assert journal.counts()["ready"] == 4


def test_a_restart_finds_work_begun_waiting_and_associations_over(state: State) -> None:
    spool, journal = state
    for uid in ("1.2", "1.3"):
        keep(spool, journal, f"{uid}.1", series_uid=uid)
    journal.mark_ready("1.2", 1, None)
    journal.begin("1.2", 1)
    journal.recover()
    assert (series(journal).state, series(journal).tries) == (SeriesState.READY, 1)
    assert series(journal, "1.3").released_s == 100.0


def test_the_folder_may_move(state: State, tmp_path: Path) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1")
    answer(journal)
    journal.close()
    journal.close()
    shutil.move(tmp_path / "state", tmp_path / "moved")
    moved = Journal(tmp_path / "moved" / "journal.sqlite")
    (row,) = moved.objects_of("1.2")
    assert row.path.read_bytes() == b"DICMpixels"
    assert series(moved).folder == tmp_path / "moved" / "results" / "1.2"
    moved.close()


def test_a_path_outside_the_folder_is_a_mistake(state: State, tmp_path: Path) -> None:
    _, journal = state
    written = Spool(tmp_path / "elsewhere").write(b"", b"pixels")
    with pytest.raises(ValueError, match="elsewhere"):
        journal.record_object(row_of(written, "1.2.1"))


def test_another_process_reads_while_the_node_writes(state: State) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1")
    view = JournalView(journal.path)
    keep(spool, journal, "1.2.2")
    assert [row.objects for row in view.recent(10)] == [2]
    with pytest.raises(StorageError, match="readonly"):
        view._rows("DELETE FROM series")
    view.close()


def test_commits_reach_the_disk(state: State) -> None:
    _, journal = state
    pragmas = {
        name: journal._writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")
    }
    assert pragmas == {"synchronous": 2, "journal_mode": "wal"}


def test_many_threads_record_at_once(state: State) -> None:
    spool, journal = state

    def receive(i: int) -> None:
        for k in range(20):
            keep(spool, journal, f"1.{i}.{k}", b"%d %d" % (i, k), series_uid=f"1.{i % 3}")

    threads = [threading.Thread(target=receive, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(row.objects for row in journal.recent(10)) == 160
    assert set(journal.files()) == files(spool)


def test_threads_that_send_the_same_object_keep_one_file(state: State) -> None:
    spool, journal = state
    recorded = []
    threads = [threading.Thread(target=lambda: recorded.append(keep(spool, journal, "1.2.1"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(recorded) == [Recorded.DUPLICATE] * 7 + [Recorded.NEW]
    assert len(files(spool)) == 1


def test_an_object_that_cannot_be_journalled_leaves_no_file(state: State) -> None:
    spool, journal = state
    journal.close()
    with pytest.raises(StorageError):
        keep(spool, journal, "1.2.1")
    assert files(spool) == set()


def test_a_journal_that_is_none_or_of_another_time_is_said(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with pytest.raises(StorageError) as absent:
        JournalView(path)
    path.write_bytes(b"no database, " * 1000)
    with pytest.raises(StorageError) as damaged:
        Journal(path)
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError) as newer:
        Journal(path)
    assert [error.value.code for error in (absent, damaged, newer)] == [
        "storage_failed",
        "journal_damaged",
        "journal_newer",
    ]


def test_an_image_that_comes_in_the_last_moment_keeps_a_series_open(state: State) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1", now_s=10.0)
    seen = series(journal)
    keep(spool, journal, "1.2.2", now_s=10.5)
    assert not journal.mark_ready("1.2", seen.generation, 99.0, last_s=seen.last_s)
    row = series(journal)
    assert (row.state, row.deadline_at_s) == (SeriesState.RECEIVING, None)
    assert journal.mark_ready("1.2", row.generation, None, last_s=row.last_s)


def test_after_a_start_nothing_waits_for_a_clock_that_was_ahead(state: State) -> None:
    spool, journal = state
    for uid in ("1.2", "1.3", "1.4"):
        keep(spool, journal, f"{uid}.1", series_uid=uid, now_s=1e9)
    answer(journal, "1.3", deliveries=deliveries(journal, "pacs"))
    (delivery,) = journal.due(1e9)
    journal.failed(delivery.id, 1e9, "It is down.")
    journal.mark_ready("1.4", 1, None)
    journal.begin("1.4", 1)
    journal.put_off("1.4", 1, 1e9, "code", "text")
    journal.recover()  # at 100 s
    assert series(journal, "1.2").last_s == 100.0
    assert series(journal, "1.4").retry_at_s == 100.0
    assert [row.due_s for row in journal.due(100.0)] == [100.0]
    assert series(journal, "1.3").last_s == 1e9  # answered: nothing waits for it


def test_the_study_of_a_series_is_that_of_its_latest_object(state: State) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1")
    corrected = replace(row_of(spool.write(b"DICM", b"corrected"), "1.2.1"), study_uid="1.99")
    assert journal.record_object(corrected) is Recorded.REPLACED
    assert series(journal).study_uid == "1.99"


def test_counting_what_is_kept_reads_no_table(state: State) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1", b"one")
    asked: list[str] = []
    journal._reader.set_trace_callback(asked.append)
    assert journal.counts()["object_bytes"] == 7
    (counting,) = [sql for sql in asked if "SUM(nbytes)" in sql]
    ((*_, how),) = journal._rows(f"EXPLAIN QUERY PLAN {counting}")
    assert "USING COVERING INDEX" in how
