"""What is deleted and what never is; what a start makes of a spool and a journal that disagree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_objects import answer, keep, open_state

from onfh_runtime.listen.config import Disk
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.records import NewDelivery, Recorded, SeriesRow, SeriesState, StorageError
from onfh_runtime.listen.retention import Cleaned, Recovered, clean, recover_spool
from onfh_runtime.listen.spool import Spool

DAY_S = 86400.0
MIB = 1 << 20


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(tmp_path: Path, clock: Clock) -> Iterator[tuple[Spool, Journal]]:
    spool, journal = open_state(tmp_path, clock=clock)
    yield spool, journal
    journal.close()


def files(spool: Spool) -> int:
    return sum(path.stat().st_size > 0 for path in spool.folder.iterdir())


def test_images_go_after_their_days_and_results_after_theirs(state: tuple[Spool, Journal], clock: Clock) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1")
    answer(journal)
    disk = Disk(keep_objects_days=7, keep_results_days=30)
    assert clean(journal, spool, disk, 6.9 * DAY_S) == Cleaned(0, 0)
    assert clean(journal, spool, disk, 7.1 * DAY_S) == Cleaned(1, 0)
    row = journal.series("1.2")
    assert row is not None
    assert (row.state, row.objects, row.missing, files(spool)) == (SeriesState.ANSWERED, 1, 1, 0)
    assert row.folder is not None
    assert row.folder.is_dir()
    assert clean(journal, spool, disk, 29.9 * DAY_S) == Cleaned(0, 0)
    assert clean(journal, spool, disk, 30.1 * DAY_S) == Cleaned(0, 1)
    assert journal.series("1.2") is None
    assert not row.folder.exists()
    assert journal.objects_of("1.2") == []


def test_what_waits_for_something_is_never_deleted(state: tuple[Spool, Journal]) -> None:
    spool, journal = state
    for uid in ("1.1", "1.2", "1.3", "1.4", "1.5"):
        keep(spool, journal, f"{uid}.1", series_uid=uid)
    journal.mark_ready("1.2", 1, None)
    journal.mark_ready("1.3", 1, None)
    journal.begin("1.3", 1)
    journal.set_aside("1.4", 1, "code", "text")
    answer(journal, "1.5", deliveries=[NewDelivery("pacs", journal.root / "results" / "1.5" / "sr.dcm", "1", "2")])
    disk = Disk(max_spool_bytes=1)
    assert clean(journal, spool, disk, 1000 * DAY_S) == Cleaned(0, 0)
    assert files(spool) == 5
    (delivery,) = journal.due(1e9)
    journal.sent(delivery.id)
    assert clean(journal, spool, disk, 1000 * DAY_S) == Cleaned(1, 1)
    assert files(spool) == 4


def test_a_short_spool_gives_up_the_oldest_answers_first(tmp_path: Path, clock: Clock) -> None:
    spool = Spool(tmp_path / "objects", max_bytes=12 * MIB)
    journal = Journal(tmp_path / "journal.sqlite", remove=spool.remove, clock=clock)
    for i, uid in enumerate(("1.3", "1.1", "1.2", "1.4")):
        keep(spool, journal, f"{uid}.1", bytes(3 * MIB - 4), series_uid=uid)
        clock.now_s = float(i)
        if uid != "1.4":
            answer(journal, uid)
        if spool.short_bytes():
            assert clean(journal, spool, Disk(), 610.0) == Cleaned(1, 0)
    # 1.4 lies there unanswered; of the others the youngest answer is left.
    missing = {row.series_uid: row.missing for row in journal.recent(10)}
    assert missing == {"1.3": 1, "1.1": 1, "1.2": 0, "1.4": 0}
    journal.close()


def test_a_resend_after_the_clean_up_changes_nothing_and_brings_the_images_back(
    state: tuple[Spool, Journal],
) -> None:
    spool, journal = state
    for sop in ("1.2.1", "1.2.2"):
        keep(spool, journal, sop)
    answer(journal)
    clean(journal, spool, Disk(), 8 * DAY_S)
    assert keep(spool, journal, "1.2.1", now_s=9 * DAY_S) is Recorded.DUPLICATE
    row = journal.series("1.2")
    assert row is not None
    assert (row.state, row.generation, row.missing, files(spool)) == (SeriesState.ANSWERED, 1, 1, 1)
    # The days of what came back count anew.
    assert clean(journal, spool, Disk(), 10 * DAY_S) == Cleaned(0, 0)
    assert clean(journal, spool, Disk(), 17 * DAY_S) == Cleaned(1, 0)


def test_a_late_image_after_the_clean_up_is_seen_to_be_a_fragment(state: tuple[Spool, Journal]) -> None:
    spool, journal = state
    for sop in ("1.2.1", "1.2.2"):
        keep(spool, journal, sop)
    answer(journal)
    clean(journal, spool, Disk(), 8 * DAY_S)
    keep(spool, journal, "1.2.3", now_s=9 * DAY_S)
    row = journal.series("1.2")
    assert row is not None
    assert (row.state, row.objects, row.missing) == (SeriesState.RECEIVING, 3, 2)
    assert clean(journal, spool, Disk(), 100 * DAY_S) == Cleaned(0, 0)
    for sop in ("1.2.1", "1.2.2"):
        assert keep(spool, journal, sop) is Recorded.NEW
    row = journal.series("1.2")
    assert row is not None
    assert (row.objects, row.missing) == (3, 0)


def test_a_series_that_came_back_while_it_was_being_deleted_stays(state: tuple[Spool, Journal]) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1")
    answer(journal)
    (row,) = journal.clearable(1e9)
    keep(spool, journal, "1.2.2")
    assert not journal.forget_objects("1.2", row.generation)
    answer(journal)
    assert not journal.forget_objects("1.2", row.generation)
    assert not journal.forget("1.2", row.generation + 1)
    assert files(spool) == 2


def test_the_journal_does_not_grow(state: tuple[Spool, Journal], clock: Clock) -> None:
    spool, journal = state
    disk = Disk(keep_objects_days=1, keep_results_days=2)
    sizes = []
    for day in range(7):
        clock.now_s = day * DAY_S
        for i in range(8):
            uid = f"1.{day}.{i}"
            keep(spool, journal, f"{uid}.1", series_uid=uid, now_s=clock.now_s)
            answer(journal, uid)
        clean(journal, spool, disk, clock.now_s)
        sizes.append(sum(path.stat().st_size for path in journal.root.glob("journal.sqlite")))
    assert max(sizes[4:]) <= 1.05 * max(sizes[2:4])
    assert clean(journal, spool, disk, 100 * DAY_S).results == 24
    assert journal.path.stat().st_size < sizes[-1]
    assert journal._rows("PRAGMA freelist_count") == [(0,)]
    assert journal.path.with_name("journal.sqlite-wal").stat().st_size == 0


def test_a_file_nobody_was_told_of_is_removed_at_the_start(state: tuple[Spool, Journal]) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1")
    spool.write(b"DICM", b"not journalled")
    (spool.folder / "half.dcm").write_bytes(b"DIC")
    again = Spool(spool.folder)
    assert recover_spool(again, journal) == Recovered(removed=2 + 14, lost=0)
    assert set(again.folder.iterdir()) == set(journal.files())
    assert again.used_bytes == 10
    assert recover_spool(again, journal) == Recovered(0, 0)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"DICMpix")], ids=["gone", "cut"])
def test_a_lost_image_sets_its_series_aside_until_it_is_sent_again(state: tuple[Spool, Journal], damage) -> None:
    spool, journal = state
    for sop in ("1.2.1", "1.2.2"):
        keep(spool, journal, sop)
    for uid in ("1.3", "1.4"):
        keep(spool, journal, f"{uid}.1", series_uid=uid)
    answer(journal, "1.4")
    damage(journal.objects_of("1.2")[0].path)
    damage(journal.objects_of("1.4")[0].path)
    assert recover_spool(Spool(spool.folder), journal).lost == 2
    row = journal.series("1.2")
    assert row is not None
    assert (row.state, row.code, row.missing) == (SeriesState.SET_ASIDE, "spool_object_lost", 1)
    assert [each.path is None for each in journal.objects_of("1.2")] == [True, False]
    assert [journal.series(uid).state for uid in ("1.3", "1.4")] == [SeriesState.RECEIVING, SeriesState.ANSWERED]
    assert set(spool.folder.iterdir()) == set(journal.files())
    assert keep(spool, journal, "1.2.1") is Recorded.NEW
    row = journal.series("1.2")
    assert row is not None
    assert (row.state, row.generation, row.missing, row.code) == (SeriesState.RECEIVING, 2, 0, None)


def test_a_linked_folder_of_images_is_not_taken_for_a_strange_one(tmp_path: Path) -> None:
    spool, journal = open_state(tmp_path)
    keep(spool, journal, "1.2.1")
    (tmp_path / "objects").rename(tmp_path / "elsewhere")
    (tmp_path / "objects").symlink_to(tmp_path / "elsewhere")
    again = Spool(tmp_path / "objects")
    assert recover_spool(again, journal).lost == 0
    assert files(again) == 1
    keep(again, journal, "1.2.2")
    journal.close()


def test_images_on_a_disk_that_is_not_mounted_are_not_given_up(tmp_path: Path) -> None:
    spool, journal = open_state(tmp_path)
    for sop in ("1.2.1", "1.2.2"):
        keep(spool, journal, sop)
    (tmp_path / "objects").rename(tmp_path / "mounted later")
    with pytest.raises(StorageError, match="None of the 2 images"):
        recover_spool(Spool(tmp_path / "objects"), journal)
    (tmp_path / "objects").rmdir()
    (tmp_path / "mounted later").rename(tmp_path / "objects")
    again = Spool(tmp_path / "objects")
    assert recover_spool(again, journal).lost == 0
    assert files(again) == 2
    assert journal.series("1.2").state is SeriesState.RECEIVING
    journal.close()


def test_a_full_quota_makes_room_for_more_than_the_next_object(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "objects", max_bytes=40 * MIB)
    journal = Journal(tmp_path / "journal.sqlite", remove=spool.remove, clock=lambda: 0.0)
    for i in range(9):
        keep(spool, journal, f"1.{i}.1", bytes(4 * MIB - 4), series_uid=f"1.{i}")
        answer(journal, f"1.{i}")
    assert spool.short_bytes() == 0
    assert clean(journal, spool, Disk(), 599.0) == Cleaned(0, 0)  # their rest may be on its way
    assert clean(journal, spool, Disk(), 601.0) == Cleaned(2, 0)
    assert spool.short_bytes(10 * MIB) == 0
    assert clean(journal, spool, Disk(), 10.0) == Cleaned(0, 0)
    journal.close()


def test_a_node_killed_while_it_forgets_a_series_forgets_it_again(state: tuple[Spool, Journal]) -> None:
    spool, journal = state
    keep(spool, journal, "1.2.1")
    answer(journal)
    told = []

    class Killed(BaseException):
        pass

    def killed(row: SeriesRow) -> None:
        assert row.folder is not None
        told.append(row.folder.exists())
        if len(told) == 1:
            raise Killed

    with pytest.raises(Killed):
        clean(journal, spool, Disk(), 100 * DAY_S, forgotten=killed)
    assert journal.series("1.2") is not None
    assert clean(journal, spool, Disk(), 100 * DAY_S, forgotten=killed).results == 1
    assert journal.series("1.2") is None
    assert told == [False, False]
