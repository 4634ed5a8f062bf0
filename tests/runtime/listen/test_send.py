"""Deliveries to real destinations that are there, down, slow, odd or broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from listen_journal import answer, receive, work
from pacs import SC, SEG, SR, OddScp, StoreScp, free_port, write_object

from onfh_runtime.listen import store_scu
from onfh_runtime.listen.config import Destination
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.records import DeliveryRow, NewDelivery
from onfh_runtime.listen.send import Sender

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
"""pynetdicom leaves it to the garbage collector to close a socket that could not be connected."""

SERIES = "1.2.826.0.1.3680043.8.498.1.1"
RETRY = {"first_s": 0.1, "most_s": 0.4, "give_up_after_s": 60.0}
Send = Callable[..., Sender]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


@pytest.fixture
def tries() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def send(journal: Journal, tmp_path: Path, tries: list[tuple[str, str]]) -> Iterator[Send]:
    senders = []

    def started(*destinations: Destination) -> Sender:
        sender = Sender(
            journal,
            destinations,
            ae_title="ONFH",
            dead_letter=tmp_path / "dead-letter",
            on_delivery=lambda *what: tries.append(what),
        )
        sender.start()
        senders.append(sender)
        return sender

    yield started
    for sender in senders:
        sender.stop(2.0)


def to(port: int, name: str = "pacs", **changes: Any) -> Destination:
    fields: dict[str, Any] = {"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": port, "retry": RETRY}
    return Destination.model_validate(fields | changes)


def due(
    journal: Journal, *uids: str, series: str = SERIES, names: tuple[str, ...] = ("pacs",), nbytes: int = 1000
) -> None:
    """Answer a series whose result has these objects: SR, SEG, SC and so on in turn."""
    folder = journal.root / "results" / "files" / series
    made = [
        NewDelivery(name, write_object(folder / f"{uid}.dcm", uid, sop_class, nbytes), uid, sop_class)
        for uid, sop_class in zip(uids, (SR, SEG, SC) * len(uids), strict=False)
        for name in names
    ]
    answer(journal, series, deliveries=made)


def states(journal: Journal, series: str = SERIES) -> dict[str, str]:
    return {row.sop_uid: row.state for row in journal.deliveries_of(series)}


def wait_for(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def all_sent(journal: Journal, series: str = SERIES) -> bool:
    return set(states(journal, series).values()) == {"sent"}


def row_of(journal: Journal, uid: str) -> DeliveryRow:
    (row,) = [row for row in journal.deliveries_of(SERIES) if row.sop_uid == uid]
    return row


@pytest.mark.parametrize("options", [(), ("+xi",)], ids=["explicit", "implicit-only"])
def test_sr_seg_and_captures_arrive_as_they_are(
    journal: Journal, send: Send, tmp_path: Path, tries: list[tuple[str, str]], options: tuple[str, ...]
) -> None:
    due(journal, "1.2.1", "1.2.2", "1.2.3")
    with StoreScp(tmp_path / "pacs", *options) as pacs:
        send(to(pacs.port))
        wait_for(lambda: all_sent(journal))
        assert pacs.uids() == {"1.2.1", "1.2.2", "1.2.3"}
        for path in pacs.folder.iterdir():
            uid = path.name.partition(".")[2]
            assert pydicom.dcmread(path) == pydicom.dcmread(row_of(journal, uid).path)
    assert tries == [("pacs", "sent")] * 3


def test_all_that_is_due_goes_through_one_association_in_order(journal: Journal, send: Send) -> None:
    due(journal, *(f"1.2.{i}" for i in range(20)))
    with OddScp(lambda event, uid: 0) as pacs:
        send(to(pacs.port))
        wait_for(lambda: all_sent(journal))
        assert pacs.got == [f"1.2.{i}" for i in range(20)]
        assert pacs.associations == 1


def test_what_comes_later_is_sent_when_woken(journal: Journal, send: Send) -> None:
    with OddScp(lambda event, uid: 0) as pacs:
        sender = send(to(pacs.port))
        time.sleep(0.2)
        due(journal, "1.2.1")
        sender.wake()
        wait_for(lambda: all_sent(journal), 1.5)


def test_a_destination_that_is_down_gets_all_when_it_is_back(
    journal: Journal, send: Send, tmp_path: Path, tries: list[tuple[str, str]]
) -> None:
    port = free_port()
    due(journal, "1.2.1", "1.2.2", "1.2.3")
    send(to(port))
    wait_for(lambda: len(tries) >= 3)
    assert set(tries) == {("pacs", "failed")}
    assert "cannot be reached" in (row_of(journal, "1.2.1").text or "")
    with StoreScp(tmp_path / "pacs", port=port) as pacs:
        wait_for(lambda: all_sent(journal))
        assert pacs.uids() == {"1.2.1", "1.2.2", "1.2.3"}


def test_one_that_is_down_holds_up_no_other(journal: Journal, send: Send) -> None:
    due(journal, "1.2.1", "1.2.2", names=("down", "pacs"))
    with OddScp(lambda event, uid: 0) as pacs:
        send(to(free_port(), "down", retry=RETRY | {"first_s": 30.0, "most_s": 30.0}), to(pacs.port))
        wait_for(lambda: sorted(pacs.got) == ["1.2.1", "1.2.2"], 5.0)
        wait_for(lambda: {row.state for row in journal.deliveries_of(SERIES) if row.destination == "pacs"} == {"sent"})
    assert {row.state for row in journal.deliveries_of(SERIES) if row.destination == "down"} == {"pending"}


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0107, 0x0111])
def test_a_warning_or_a_duplicate_counts_as_sent(journal: Journal, send: Send, status: int) -> None:
    due(journal, "1.2.1")
    with OddScp(lambda event, uid: status) as pacs:
        send(to(pacs.port))
        wait_for(lambda: all_sent(journal))
        assert pacs.got == ["1.2.1"]


def test_a_refused_object_waits_and_the_others_go_on(journal: Journal, send: Send) -> None:
    refusals = [0xA700, 0xC123]
    due(journal, "1.2.1", "1.2.2")
    with OddScp(lambda event, uid: refusals.pop(0) if uid == "1.2.1" and refusals else 0) as pacs:
        send(to(pacs.port))
        wait_for(lambda: states(journal)["1.2.2"] == "sent")
        assert row_of(journal, "1.2.1").text == "pacs refused an object with status 0xA700."
        wait_for(lambda: all_sent(journal))
        assert pacs.got[:2] == ["1.2.1", "1.2.2"]
        assert row_of(journal, "1.2.1").tries == 3


def test_an_association_that_breaks_in_the_middle_loses_nothing(journal: Journal, send: Send) -> None:
    broken: list[str] = []

    def answered(event: Any, uid: str) -> int:
        if uid == "1.2.2" and not broken:
            broken.append(uid)
            event.assoc.abort()
        return 0

    due(journal, "1.2.1", "1.2.2", "1.2.3")
    with OddScp(answered) as pacs:
        send(to(pacs.port))
        wait_for(lambda: all_sent(journal))
        assert sorted(pacs.got) == ["1.2.1", "1.2.2", "1.2.2", "1.2.3"]


def test_an_object_that_breaks_every_association_keeps_no_other_from_its_turn(journal: Journal, send: Send) -> None:
    def answered(event: Any, uid: str) -> int:
        if uid == "1.2.1":
            event.assoc.abort()
        return 0

    due(journal, "1.2.1", "1.2.2", "1.2.3")
    with OddScp(answered) as pacs:
        send(to(pacs.port))
        wait_for(lambda: states(journal) == {"1.2.1": "pending", "1.2.2": "sent", "1.2.3": "sent"})
        wait_for(lambda: len(pacs.got) > 4)
        assert states(journal)["1.2.1"] == "pending"


def test_what_is_given_up_is_kept_with_its_reason(
    journal: Journal, send: Send, tmp_path: Path, tries: list[tuple[str, str]]
) -> None:
    due(journal, "1.2.1", "1.2.2")
    send(to(free_port(), retry=RETRY | {"give_up_after_s": 0.5}))
    wait_for(lambda: set(states(journal).values()) == {"dead"})
    folder = tmp_path / "dead-letter" / "pacs"
    assert sorted(path.name for path in folder.iterdir()) == ["1.2.1.dcm", "1.2.1.json", "1.2.2.dcm", "1.2.2.json"]
    reason = json.loads((folder / "1.2.1.json").read_text())
    assert reason["sop_instance_uid"] == "1.2.1"
    assert reason["series_instance_uid"] == SERIES
    assert "cannot be reached" in reason["text"]
    assert pydicom.dcmread(folder / reason["file"]).SOPInstanceUID == "1.2.1"
    assert (folder / "1.2.1.dcm").stat().st_nlink == 2
    assert tries.count(("pacs", "dead")) == 2
    assert "Doe" not in (folder / "1.2.1.json").read_text()


def test_a_class_the_destination_does_not_take_is_given_up_alone(journal: Journal, send: Send, tmp_path: Path) -> None:
    due(journal, "1.2.1", "1.2.2")
    with OddScp(lambda event, uid: 0, sop_classes=(SR,)) as pacs:
        send(to(pacs.port, retry=RETRY | {"give_up_after_s": 0.5}))
        wait_for(lambda: states(journal) == {"1.2.1": "sent", "1.2.2": "dead"})
    text = json.loads((tmp_path / "dead-letter" / "pacs" / "1.2.2.json").read_text())["text"]
    assert text == f"pacs takes no objects of SOP class {SEG}."


def test_what_a_destination_does_not_take_holds_up_nothing_else(journal: Journal, send: Send) -> None:
    """A SEG that comes due alone, where only SR is taken, must not make the next SR wait for the destination."""
    due(journal, "1.2.1", "1.2.2")
    slow = RETRY | {"first_s": 1.0, "most_s": 60.0}
    with OddScp(lambda event, uid: 0, sop_classes=(SR,)) as pacs:
        sender = send(to(pacs.port, retry=slow))
        wait_for(lambda: row_of(journal, "1.2.2").tries >= 2)
        due(journal, "1.2.5", series=f"{SERIES}.5")
        sender.wake()
        wait_for(lambda: "1.2.5" in pacs.got, 1.5)


def test_a_rejected_association_says_why(journal: Journal, send: Send) -> None:
    due(journal, "1.2.1")
    with OddScp(lambda event, uid: 0) as pacs:
        pacs.ae.require_called_aet = True
        send(to(pacs.port, ae_title="OTHER"))
        wait_for(lambda: row_of(journal, "1.2.1").tries > 0)
    assert row_of(journal, "1.2.1").text == "pacs rejected the association (Called AE title not recognised)."


def test_our_title_is_the_destinations_or_the_nodes(journal: Journal, send: Send) -> None:
    titles = []

    def answered(event: Any, uid: str) -> int:
        titles.append(event.assoc.requestor.ae_title)
        return 0

    with OddScp(answered) as pacs:
        due(journal, "1.2.1", names=("one", "other"))
        send(to(pacs.port, "one"), to(pacs.port, "other", calling_ae_title="SENDER"))
        wait_for(lambda: sorted(titles) == ["ONFH", "SENDER"])


def test_a_destination_that_is_no_longer_configured_gives_dead_letters(
    journal: Journal, send: Send, tmp_path: Path
) -> None:
    due(journal, "1.2.1", names=("gone",))
    send(to(free_port()))
    assert states(journal) == {"1.2.1": "dead"}
    assert (tmp_path / "dead-letter" / "gone" / "1.2.1.dcm").exists()


def test_a_result_that_is_being_replaced_is_not_sent(journal: Journal, send: Send) -> None:
    due(journal, "1.2.1")
    receive(journal, SERIES, ago_s=1)
    write_object(row_of(journal, "1.2.1").path, "1.2.99")
    with OddScp(lambda event, uid: 0) as pacs:
        sender = send(to(pacs.port))
        wait_for(lambda: row_of(journal, "1.2.1").tries > 0)
        assert states(journal) == {"1.2.1": "pending"}
        due(journal, "1.2.99")
        sender.wake()
        wait_for(lambda: all_sent(journal))
        assert pacs.got == ["1.2.99"]


def test_a_result_whose_file_is_gone_is_given_up(journal: Journal, send: Send, tmp_path: Path) -> None:
    due(journal, "1.2.1", "1.2.2")
    row_of(journal, "1.2.1").path.unlink()
    with OddScp(lambda event, uid: 0) as pacs:
        send(to(pacs.port))
        wait_for(lambda: states(journal) == {"1.2.1": "dead", "1.2.2": "sent"})
    assert json.loads((tmp_path / "dead-letter" / "pacs" / "1.2.1.json").read_text())["file"] is None


def test_a_result_whose_successor_was_set_aside_is_given_up(journal: Journal, send: Send) -> None:
    due(journal, "1.2.1")
    receive(journal, SERIES, ago_s=1)
    journal.set_aside(SERIES, work(journal, SERIES), "stage_failed", "The segmenter failed.")
    write_object(row_of(journal, "1.2.1").path, "1.2.99")  # the report of the failure
    with OddScp(lambda event, uid: 0) as pacs:
        send(to(pacs.port))
        wait_for(lambda: states(journal) == {"1.2.1": "dead"})
        assert pacs.got == []


def test_a_destination_that_never_answers_is_left(
    journal: Journal, send: Send, monkeypatch: pytest.MonkeyPatch, tries: list[tuple[str, str]]
) -> None:
    monkeypatch.setattr(store_scu, "_ANSWER_S", 0.3)
    due(journal, "1.2.1")

    def answered(event: Any, uid: str) -> int:
        time.sleep(1.5)
        return 0

    with OddScp(answered) as pacs:
        send(to(pacs.port))
        wait_for(lambda: ("pacs", "failed") in tries)
    assert "no answer" in (row_of(journal, "1.2.1").text or "")


def test_stopping_leaves_the_rest_due(journal: Journal, send: Send) -> None:
    due(journal, *(f"1.2.{i}" for i in range(50)))

    def answered(event: Any, uid: str) -> int:
        time.sleep(0.05)
        return 0

    with OddScp(answered) as pacs:
        sender = send(to(pacs.port))
        wait_for(lambda: len(pacs.got) > 3)
        started = time.monotonic()
        sender.stop(5.0)
        assert time.monotonic() - started < 3
    sent = [uid for uid, state in states(journal).items() if state == "sent"]
    assert sent == pacs.got
    assert len(sent) < 50


def test_a_kill_between_answer_and_note_sends_the_same_object_again(
    tmp_path: Path, send: Send, journal: Journal
) -> None:
    """The destination has the object, the journal does not know: after the restart the same UID goes there again."""
    due(journal, "1.2.1", "1.2.2")
    script = """
import os, signal, sys, time
from pathlib import Path
from onfh_runtime.listen.config import Destination
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.send import Sender
class Killed(Journal):
    def sent(self, id):
        os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
to = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=int(sys.argv[2]))
Sender(Killed(folder / "journal.sqlite"), [to], ae_title="ONFH", dead_letter=folder / "dead-letter").start()
time.sleep(30)
"""
    with OddScp(lambda event, uid: 0) as pacs:
        command = [sys.executable, "-c", script, str(tmp_path), str(pacs.port)]
        path = os.pathsep.join(sys.path)
        done = subprocess.run(command, timeout=30, env=os.environ | {"PYTHONPATH": path})
        assert done.returncode == -9
        assert pacs.got == ["1.2.1"]
        assert set(states(journal).values()) == {"pending"}
        send(to(pacs.port))
        wait_for(lambda: all_sent(journal))
        assert pacs.got == ["1.2.1", "1.2.1", "1.2.2"]
