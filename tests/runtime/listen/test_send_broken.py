"""Deliveries that fail by a fault of ours, of a file or of the disk: the others do not wait for them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from listen_journal import answer
from pacs import SR, OddScp, write_object
from pydicom import dcmread

from onfh_runtime.listen.config import Destination
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.records import DeliveryRow, NewDelivery
from onfh_runtime.listen.send import Sender

RETRY = {"first_s": 0.1, "most_s": 0.2, "give_up_after_s": 0.5}
SERIES = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


@pytest.fixture
def tries() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def send(journal: Journal, tmp_path: Path, tries: list[tuple[str, str]]) -> Iterator[Callable[..., Sender]]:
    senders = []

    def started(*destinations: Destination) -> Sender:
        sender = Sender(
            journal,
            destinations,
            ae_title="ONFH",
            dead_letter=tmp_path / "dead-letter",
            on_delivery=lambda *what: tries.append(what),
        )
        senders.append(sender)
        sender.start()
        return sender

    yield started
    for sender in senders:
        sender.stop(2.0)


def to(port: int) -> Destination:
    fields = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "retry": RETRY}
    return Destination.model_validate(fields)


def due(journal: Journal, *uids: str, name: str = "pacs") -> list[Path]:
    """Answer a series whose result has these reports."""
    paths = [write_object(journal.root / "results" / f"{uid}.dcm", uid) for uid in uids]
    made = [NewDelivery(name, path, uid, SR) for path, uid in zip(paths, uids, strict=True)]
    answer(journal, SERIES, deliveries=made)
    return paths


def row_of(journal: Journal, uid: str) -> DeliveryRow:
    (row,) = [row for row in journal.deliveries_of(SERIES) if row.sop_uid == uid]
    return row


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def without_a_class(path: Path) -> None:
    data = dcmread(path)
    del data.SOPClassUID
    data.save_as(path)


def test_a_file_that_cannot_be_sent_keeps_no_other_from_its_turn(
    journal: Journal, send: Callable[..., Sender], tries: list[tuple[str, str]], tmp_path: Path
) -> None:
    bad, _ = due(journal, "1.2.1", "1.2.2")
    without_a_class(bad)
    with OddScp(lambda event, uid: 0) as pacs:
        send(to(pacs.port))
        wait_for(lambda: row_of(journal, "1.2.2").state == "sent")
        wait_for(lambda: row_of(journal, "1.2.1").state == "dead")
        assert pacs.got == ["1.2.2"]
    assert ("pacs", "failed") in tries
    reason = json.loads((tmp_path / "dead-letter" / "pacs" / "1.2.1.json").read_text())
    assert reason["text"] == "The object could not be sent (AttributeError)."


def test_a_dead_letter_that_cannot_be_written_keeps_no_other_from_its_turn(
    journal: Journal, send: Callable[..., Sender], tmp_path: Path
) -> None:
    (tmp_path / "dead-letter").write_text("a file in the way")
    gone, _ = due(journal, "1.2.1", "1.2.2")
    gone.unlink()
    with OddScp(lambda event, uid: 0) as pacs:
        send(to(pacs.port))
        wait_for(lambda: row_of(journal, "1.2.2").state == "sent")
        assert row_of(journal, "1.2.1").state == "pending"
        (tmp_path / "dead-letter").unlink()
        wait_for(lambda: row_of(journal, "1.2.1").state == "dead")


def test_the_node_starts_where_no_dead_letter_can_be_written(
    journal: Journal, send: Callable[..., Sender], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    due(journal, "1.2.1", name="former")
    (tmp_path / "dead-letter").write_text("a file in the way")
    send(to(1)).stop(2.0)
    assert row_of(journal, "1.2.1").state == "pending"
    assert "deliveries_held_up" in caplog.text
    (tmp_path / "dead-letter").unlink()
    send(to(1))
    assert row_of(journal, "1.2.1").state == "dead"


def test_a_destination_of_unknown_name_is_tried_and_given_up(
    journal: Journal, send: Callable[..., Sender], tries: list[tuple[str, str]]
) -> None:
    due(journal, "1.2.1")
    send(to(1).model_copy(update={"host": "a..b"}))
    wait_for(lambda: row_of(journal, "1.2.1").state == "dead")
    assert row_of(journal, "1.2.1").text == "The host of pacs is not known here."
    assert ("pacs", "failed") in tries
