"""Results on their way out: every due delivery to its destination by C-STORE (PS3.4, Annex B), until it is there.

One worker per destination, so one that is down holds up nobody else. All that is due for a destination goes through one
association, in order. A destination that cannot be reached is left alone for a growing time; an object that it refuses
waits on its own. A process killed between the destination's answer and the journal's note sends an object twice: its
UID is the same, so the destination keeps one.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from onfh_runtime.errors import OnfhError, OutputError
from onfh_runtime.listen.config import Destination
from onfh_runtime.listen.dead_letter import bury
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.log import log_event
from onfh_runtime.listen.records import DeliveryRow, SeriesState, StorageError
from onfh_runtime.listen.store_scu import StoreScu, UnreachableError
from onfh_runtime.private_log import traceback_without_messages

__all__ = ["Sender"]

_log = logging.getLogger(__name__)

_IDLE_S = 2.0
"""How often a worker looks for what became due when nobody wakes it."""

_UNDER_WAY = (SeriesState.RECEIVING, SeriesState.READY, SeriesState.WORKING)

_Counter = Callable[[str, str], None]


class Sender:
    """Sends what the journal says is due. ``start`` once, ``wake`` when there is something new, ``stop`` once."""

    def __init__(
        self,
        journal: Journal,
        destinations: Sequence[Destination],
        *,
        ae_title: str,
        dead_letter: Path,
        on_delivery: _Counter = lambda destination, outcome: None,
    ) -> None:
        """Prepare one worker per destination.

        Args:
            journal: where deliveries are.
            destinations: where they go.
            ae_title: what the node calls itself where a destination does not say otherwise.
            dead_letter: folder of what was given up.
            on_delivery: told of each try: destination, and ``sent``, ``failed`` or ``dead``.

        Raises:
            UsageError: ``tls_unusable``.
        """
        self._journal, self._dead_letter, self._on_delivery = journal, dead_letter, on_delivery
        self._workers = [
            _Worker(journal, destination, StoreScu(destination, ae_title), dead_letter, on_delivery)
            for destination in destinations
        ]

    def start(self) -> None:
        """Give up what goes to destinations that are no longer configured, and start the workers.

        What cannot be given up now, because no dead letter can be written, is left to the next start.
        """
        known = {worker.name for worker in self._workers}
        for row in self._journal.due(float("inf")):
            if row.destination not in known:
                text = f"The configuration names no destination {row.destination} any more."
                _given_up(self._journal, row, text, self._dead_letter, self._on_delivery)
        for worker in self._workers:
            worker.start()

    def wake(self) -> None:
        """Look for due deliveries now."""
        for worker in self._workers:
            worker.wake()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish the object each worker is sending, for at most ``timeout_s``, then break off. The rest stays due."""
        for worker in self._workers:
            worker.ask_to_stop()
        until = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.join_or_abort(max(0.0, until - time.monotonic()))


class _Worker:
    """One destination's thread."""

    def __init__(
        self, journal: Journal, destination: Destination, scu: StoreScu, dead_letter: Path, on_delivery: _Counter
    ) -> None:
        self.name = destination.name
        self._journal, self._scu, self._retry = journal, scu, destination.retry
        self._dead_letter, self._on_delivery = dead_letter, on_delivery
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._started_s = time.time()
        self._failures, self._quiet_until = 0, 0.0
        self._thread = threading.Thread(target=self._run, name=f"send-{self.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def ask_to_stop(self) -> None:
        self._stopping.set()
        self._woken.set()

    def join_or_abort(self, timeout_s: float) -> None:
        if not self._thread.is_alive():
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._scu.abort()
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            wait_s = _IDLE_S
            try:
                wait_s = self._turn()
            except OnfhError as error:  # the journal or the disk cannot be used now
                log_event(_log, logging.ERROR, "deliveries_held_up", destination=self.name, code=error.code)
            except Exception as error:
                _log.error("deliveries held up: %s", traceback_without_messages(error))
            self._woken.wait(wait_s)
            self._woken.clear()

    def _turn(self) -> float:
        """Send all that is due, in one association. Returns the seconds until it is worth trying again."""
        quiet_s = self._quiet_until - time.monotonic()
        if quiet_s > 0:
            return quiet_s
        rows = [row for row in self._journal.due(time.time()) if row.destination == self.name]
        if not rows:
            return _IDLE_S
        waiting = deque(sorted(rows, key=lambda row: row.id))
        try:
            with self._scu.association({row.sop_class for row in rows}):
                while waiting and not self._stopping.is_set():
                    try:
                        self._send(waiting[0])
                    except (StorageError, UnreachableError):
                        raise
                    except Exception as error:  # this object's fault: the others must not wait for it
                        _log.error("a delivery failed: %s", traceback_without_messages(error))
                        text = f"The object could not be sent ({type(error).__name__})."
                        self._not_sent(waiting[0], text, self._backoff_s(waiting[0].tries))
                    waiting.popleft()
                    self._failures = 0
        except UnreachableError as error:
            return self._destination_failed(waiting, str(error))
        return 0.0  # there may be more by now

    def _send(self, row: DeliveryRow) -> None:
        data = self._read(row)
        if data is None:
            return
        refusal = self._scu.store(data, row.path.stat().st_size)
        if refusal is not None:
            self._not_sent(row, refusal, self._backoff_s(row.tries))
            return
        self._journal.sent(row.id)
        self._on_delivery(self.name, "sent")
        _say(logging.INFO, "delivery_sent", row)

    def _read(self, row: DeliveryRow) -> Dataset | None:
        """The object of a delivery; None when the file is not that object (any more), which is then dealt with."""
        with contextlib.suppress(OSError, InvalidDicomError):
            data = dcmread(row.path)
            if data.get("SOPInstanceUID") == row.sop_uid:
                return data
        series = self._journal.series(row.series_uid)
        replaced = series is not None and series.generation != row.generation
        if series is not None and (series.state in _UNDER_WAY or (replaced and series.state is SeriesState.ANSWERED)):
            # Its series is being answered anew, which drops this delivery or has just done so.
            self._journal.failed(row.id, time.time() + self._retry.first_s, "A newer result is under way.")
        else:
            self._give_up(row, "The file of this result is gone, or holds another object.")
        return None

    def _destination_failed(self, waiting: Iterable[DeliveryRow], text: str) -> float:
        """Leave the destination alone for a while, and return how long.

        Only the object it failed on, the first, counts a try and waits by itself too: one that breaks every association
        must not keep the others from their turn. They stay due.
        """
        wait_s = self._backoff_s(self._failures)
        self._failures += 1
        self._quiet_until = time.monotonic() + wait_s
        first, *others = waiting
        self._not_sent(first, text, max(wait_s, self._backoff_s(first.tries)))
        for row in others:
            if self._too_old(row):
                self._give_up(row, text)
        return wait_s

    def _not_sent(self, row: DeliveryRow, text: str, wait_s: float) -> None:
        if self._too_old(row):
            self._give_up(row, text)
            return
        self._journal.failed(row.id, time.time() + wait_s, text)
        self._on_delivery(self.name, "failed")
        _say(logging.WARNING, "delivery_failed", row, seconds=wait_s)
        _log.warning("%s", text)

    def _too_old(self, row: DeliveryRow) -> bool:
        """Whether its time is over, counted from its answer or from this start, so that a night off costs nothing."""
        series = self._journal.series(row.series_uid)
        answered_s = (series.answered_s if series is not None else None) or 0.0
        return time.time() - max(answered_s, self._started_s) > self._retry.give_up_after_s

    def _give_up(self, row: DeliveryRow, text: str) -> None:
        if not _given_up(self._journal, row, text, self._dead_letter, self._on_delivery):
            self._journal.failed(row.id, time.time() + self._retry.most_s, text)

    def _backoff_s(self, failures: int) -> float:
        """Seconds to wait: doubled with each failure, up to the most, and shortened by chance by up to half."""
        longest = min(self._retry.most_s, self._retry.first_s * 2.0 ** min(failures, 30))
        return longest * random.uniform(0.5, 1.0)


def _given_up(journal: Journal, row: DeliveryRow, text: str, dead_letter: Path, on_delivery: _Counter) -> bool:
    """Give a delivery up; False where its dead letter cannot be written, and it stays due."""
    series = journal.series(row.series_uid)
    try:
        bury(dead_letter, row, study_uid=series.study_uid if series is not None else None, text=text)
    except (OSError, OutputError) as error:
        code = error.code if isinstance(error, OutputError) else "output_unwritable"
        log_event(_log, logging.ERROR, "deliveries_held_up", destination=row.destination, code=code)
        return False
    journal.dead(row.id, text)
    on_delivery(row.destination, "dead")
    _say(logging.ERROR, "delivery_given_up", row)
    return True


def _say(level: int, event: str, row: DeliveryRow, **more: object) -> None:
    log_event(
        _log,
        level,
        event,
        destination=row.destination,
        series_uid=row.series_uid,
        sop_uid=row.sop_uid,
        generation=row.generation,
        tries=row.tries + 1,
        **more,
    )
