"""Any order of calls, with a crash between any two of them: the journal, the spool and a plain model agree."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kept_objects import keep, open_state

from onfh_runtime.listen.records import NewDelivery, Recorded, SeriesState
from onfh_runtime.listen.retention import recover_spool

UIDS = st.sampled_from(["1.1", "1.2"])
SOPS = st.sampled_from(["0", "1", "2"])
BYTES = st.sampled_from([b"pixels", b"other pixels"])
STALE = st.sampled_from([0, 0, 0, 1])
"""How many generations behind a call is."""
MEMORY = Path("/dev/shm")
RECEIVING, READY, WORKING, ANSWERED, SET_ASIDE = SeriesState


@dataclass
class Series:
    """What should stand in the journal of a series."""

    state: SeriesState = RECEIVING
    generation: int = 1
    tries: int = 0
    outcome: str | None = None
    objects: dict[str, bytes] = field(default_factory=dict)
    without_file: set[str] = field(default_factory=set)

    def reopen(self) -> None:
        self.generation += self.state is not RECEIVING
        self.state, self.tries = RECEIVING, 0


class JournalMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        # In memory where there is such a folder: what a flush does is not seen here, and it takes its time.
        self.home = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.crashes = 0
        self.spool, self.journal = open_state(self.home / "0")
        self.model: dict[str, Series] = {}
        self.pending: dict[int, tuple[str, int]] = {}

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.home)

    @rule(uid=UIDS, sop=SOPS, data=BYTES)
    def receive(self, uid: str, sop: str, data: bytes) -> None:
        recorded = keep(self.spool, self.journal, sop, data, series_uid=uid)
        series = self.model.get(uid)
        if series is None:
            self.model[uid] = Series(objects={sop: data})
            expected = Recorded.NEW
        elif sop not in series.objects:
            series.reopen()
            expected = Recorded.NEW
        elif series.objects[sop] != data:
            series.reopen()
            expected = Recorded.REPLACED
        elif series.state is SET_ASIDE or (sop in series.without_file and series.state is not ANSWERED):
            series.reopen()
            expected = Recorded.NEW
        else:
            expected = Recorded.DUPLICATE
        assert recorded is expected
        self.model[uid].objects[sop] = data
        self.model[uid].without_file.discard(sop)

    @rule(uid=UIDS, stale=STALE)
    def ready(self, uid: str, stale: int) -> None:
        generation = self.generation(uid, stale)
        self.expect(self.journal.mark_ready(uid, generation, 9.0), uid, generation, {RECEIVING}, READY)

    @rule(uid=UIDS, stale=STALE)
    def begin(self, uid: str, stale: int) -> None:
        generation = self.generation(uid, stale)
        if self.expect(self.journal.begin(uid, generation), uid, generation, {READY}, WORKING):
            self.model[uid].tries += 1

    @rule(uid=UIDS, answer=st.booleans(), sent_to=st.integers(0, 2))
    def work(self, uid: str, answer: bool, sent_to: int) -> None:
        """The usual way, which calls drawn at random seldom find."""
        if uid not in self.model or self.model[uid].state in (ANSWERED, SET_ASIDE):
            self.receive(uid, f"{len(self.model[uid].objects) if uid in self.model else 0}", b"pixels")
        self.ready(uid, 0)
        self.begin(uid, 0)
        if answer:
            self.answer(uid, 0, sent_to)

    @rule(uid=UIDS, stale=STALE, sent_to=st.integers(0, 2))
    def answer(self, uid: str, stale: int, sent_to: int) -> None:
        generation = self.generation(uid, stale)
        folder = self.journal.root / "results" / uid
        done = self.journal.answered(
            uid,
            generation,
            outcome=f"{generation}",
            folder=folder,
            latency_ms=1.0,
            outside_engine_ms=1.0,
            deadline_missed=False,
            deliveries=[NewDelivery(f"{i}", folder / "sr.dcm", "1", "2") for i in range(sent_to)],
        )
        if self.expect(done, uid, generation, {WORKING}, ANSWERED):
            self.model[uid].outcome = f"{generation}"
            self.pending = {id: key for id, key in self.pending.items() if key[0] != uid}
            new = [each for each in self.journal.deliveries_of(uid) if each.state == "pending"]
            assert len(new) == sent_to
            self.pending |= {each.id: (uid, generation) for each in new}

    @rule(uid=UIDS, stale=STALE, counts=st.booleans())
    def put_off(self, uid: str, stale: int, counts: bool) -> None:
        generation = self.generation(uid, stale)
        done = self.journal.put_off(uid, generation, 5.0, "code", "text", counts=counts)
        if self.expect(done, uid, generation, {WORKING}, READY) and not counts:
            self.model[uid].tries -= 1

    @rule(uid=UIDS, stale=STALE)
    def set_aside(self, uid: str, stale: int) -> None:
        generation = self.generation(uid, stale)
        done = self.journal.set_aside(uid, generation, "code", "text")
        self.expect(done, uid, generation, {RECEIVING, READY, WORKING}, SET_ASIDE)

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.pending)))
        how = data.draw(st.sampled_from(["sent", "failed", "dead"]))
        if how == "failed":
            self.journal.failed(id, 1e10, "text")
            return
        self.journal.sent(id) if how == "sent" else self.journal.dead(id, "text")
        del self.pending[id]

    @rule(uid=UIDS, stale=STALE, rows_too=st.booleans())
    def forget(self, uid: str, stale: int, rows_too: bool) -> None:
        generation = self.generation(uid, stale)
        series = self.model.get(uid)
        free = (
            series is not None
            and (series.state, series.generation) == (ANSWERED, generation)
            and all(key[0] != uid for key in self.pending.values())
        )
        assert self.journal.forget_objects(uid, generation) is free
        if free:
            assert series is not None
            series.without_file = set(series.objects)
        if rows_too:
            assert self.journal.forget(uid, generation) is free
            if free:
                del self.model[uid]

    @rule(unacknowledged=st.booleans(), lose=st.booleans())
    def crash(self, unacknowledged: bool, lose: bool) -> None:
        """What is on the disk at this moment is all there is; a file may be lost, and another have no row."""
        if unacknowledged:
            self.spool.write(b"DICM", b"nobody was told")
        self.crashes += 1
        here = self.home / f"{self.crashes}"
        shutil.copytree(self.home / f"{self.crashes - 1}", here, ignore=shutil.ignore_patterns("*-shm"))
        self.journal.close()
        self.spool, self.journal = open_state(here)
        if lose and len(self.journal.files()) > 1:  # where none is left, the folder is the wrong one
            lost = min(self.journal.files())
            for uid, series in self.model.items():
                for row in self.journal.objects_of(uid):
                    if row.path == lost:
                        series.without_file.add(row.sop_uid)
                        if series.state is not ANSWERED:
                            series.state = SET_ASIDE
            lost.unlink()
        recover_spool(self.spool, self.journal)
        self.journal.recover()
        for series in self.model.values():
            if series.state is WORKING:
                series.state = READY
        assert set(self.spool.folder.iterdir()) == set(self.journal.files())

    @invariant()
    def journal_is_the_model(self) -> None:
        if not hasattr(self, "journal"):
            return
        rows = {row.series_uid: row for row in self.journal.recent(10)}
        assert rows.keys() == self.model.keys()
        for uid, series in self.model.items():
            row = rows[uid]
            assert (row.state, row.generation, row.tries) == (series.state, series.generation, series.tries)
            assert (row.outcome, row.objects, row.missing) == (
                series.outcome,
                len(series.objects),
                len(series.without_file),
            )
            assert row.nbytes == sum(4 + len(data) for data in series.objects.values())
            found = {each.sop_uid: each.path and each.path.read_bytes() for each in self.journal.objects_of(uid)}
            assert found == {
                sop: None if sop in series.without_file else b"DICM" + data for sop, data in series.objects.items()
            }
        assert {each.id for each in self.journal.due(1e11)} == set(self.pending)
        full = {path for path in self.spool.folder.iterdir() if path.stat().st_size}
        assert full == set(self.journal.files())

    def generation(self, uid: str, stale: int) -> int:
        return self.model[uid].generation - stale if uid in self.model else 1

    def expect(self, done: bool, uid: str, generation: int, before: set[SeriesState], after: SeriesState) -> bool:
        """A change happens exactly when the generation is current and the state is one of some."""
        series = self.model.get(uid)
        may = series is not None and series.generation == generation and series.state in before
        assert done is may
        if series is not None and may:
            series.state = after
        return may


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
