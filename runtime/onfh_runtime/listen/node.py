"""The node: everything put together, started, and stopped without losing anything.

Nothing is kept in memory alone. What was acknowledged is in the spool and the journal, so a start takes up whatever an
earlier process left, however it ended.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection
from contextlib import ExitStack

from onfh_runtime.bundle import LoadedBundle
from onfh_runtime.listen.access import token_from_file
from onfh_runtime.listen.arrivals import Arrivals
from onfh_runtime.listen.clock import Clock
from onfh_runtime.listen.config import ListenConfig
from onfh_runtime.listen.engine import early_classifier, opened_pipeline
from onfh_runtime.listen.http import HttpServer
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.lane import Lane
from onfh_runtime.listen.lock import FolderLock
from onfh_runtime.listen.log import log_event
from onfh_runtime.listen.metrics import Metrics
from onfh_runtime.listen.receive import Receiver
from onfh_runtime.listen.records import ObjectRow, SeriesRow, StorageError
from onfh_runtime.listen.results import Results
from onfh_runtime.listen.retention import clean, recover_spool
from onfh_runtime.listen.send import Sender
from onfh_runtime.listen.spool import Spool
from onfh_runtime.listen.watch import Event, Watch
from onfh_runtime.listen.webhook import Caller
from onfh_runtime.listen.work import Worker

__all__ = ["GRACE_S", "Node"]

_log = logging.getLogger(__name__)

GRACE_S = 30.0
"""How long a stop waits for the series that is being analysed."""

_TURN_S = 5.0
"""How long a stop waits for a look at the clock or a deletion that is under way."""

_HANGS_S = 600.0
"""One series takes seconds, on a slow machine minutes; one that takes longer keeps all others waiting."""

_CLEAN_S = 60.0
"""How often retention looks."""

_CLEAN_REST_S = 1.0
"""Retention is woken when room gets short; it looks so often at most."""

_WATCH_REST_S = 0.02
"""The watch is woken by every image; it needs to look fifty times a second at most."""


class Node:
    """One node, on one folder. ``start`` once, ``stop`` once.

    Args:
        config: of the node.
        bundle: what computes.

    Raises:
        StorageError: the folder is another node's, or cannot be used.
        UsageError: an address, port, certificate or token cannot be used, or there is no such backend.
        BundleError: the bundle lacks what the backend needs.
        BackendError: a stage cannot be loaded.
    """

    def __init__(self, config: ListenConfig, bundle: LoadedBundle) -> None:
        self._config, self._stopping = config, False
        with ExitStack() as opened:
            lock = FolderLock(config.state_dir)
            opened.callback(lock.release)
            self._open(config, bundle, opened)
            self._opened = opened.pop_all()

    def _open(self, config: ListenConfig, bundle: LoadedBundle, opened: ExitStack) -> None:
        disk, clock, root = config.disk, Clock(), config.state_dir
        self._spool = Spool(
            root / "objects", refuse_below_free_bytes=disk.refuse_below_free_bytes, max_bytes=disk.max_spool_bytes
        )
        self._journal = journal = Journal(root / "journal.sqlite", remove=self._spool.remove)
        opened.callback(journal.close)
        recovered = recover_spool(self._spool, journal)
        journal.recover()
        log_event(_log, logging.INFO, "recovered", count=recovered.lost, objects=recovered.removed)
        self._pipeline, engine = opened_pipeline(bundle, config.backend, threads=config.threads, gpu=config.gpu)
        self._early = early_classifier(bundle, engine, threads=config.threads)
        self._metrics = Metrics(
            journal,
            root,
            routes=[route.name for route in config.routes],
            destinations=[destination.name for destination in config.destinations],
            bundle=f"{bundle.content.name}-{bundle.content.version}",
            backend=engine.backend,
        )
        self._caller = Caller(config.webhook, on_call=self._metrics.webhook) if config.webhook is not None else None
        self._sender = Sender(
            journal,
            config.destinations,
            ae_title=config.node.ae_title,
            dead_letter=root / "dead-letter",
            on_delivery=self._metrics.delivery,
        )
        self._arrivals = Arrivals(early=self._early, busy=lambda: self._worker.busy)
        watch = Watch(
            config, journal, self._arrivals, on_ready=lambda: self._working.wake(), tell=self._tell, clock=clock
        )
        results = Results(root / "results", bundle)
        self._worker = Worker(
            config,
            bundle,
            journal,
            self._arrivals,
            watch,
            self._pipeline.analyse,
            results,
            metrics=self._metrics,
            tell=self._tell,
            deliver=self._sender.wake,
            clock=clock,
        )
        self._working = Lane("work", self._worker.turn)
        self._watching = Lane("watch", watch.turn, least_s=_WATCH_REST_S)
        self._cleaning = Lane("clean", lambda: self._clean(clock, results), least_s=_CLEAN_REST_S)
        self._receiver = Receiver(
            config,
            self._spool,
            journal,
            on_object=self._on_object,
            on_released=self._on_released,
            on_refused=self._on_refused,
        )
        opened.callback(self._receiver.stop, 0.0)
        self._metrics.associations_from(self._receiver.open_associations)
        http = config.http
        self._http = HttpServer(
            str(http.address),
            http.port,
            token=token_from_file(http.token_file) if http.token_file is not None else None,
            journal=journal,
            results=results.root,
            metrics=self._metrics,
            problems=self.problems,
        )
        opened.callback(self._http.close)

    def start(self) -> None:
        """Go on with what is there, then receive."""
        for lane in (self._arrivals, self._working, self._watching, self._cleaning, self._sender):
            lane.start()
        if self._caller is not None:
            self._caller.start()
        self._http.start()
        self._receiver.start()

    def stop(self, grace_s: float = GRACE_S) -> bool:
        """Receive no more, finish what is being analysed within the grace, and leave the rest to the next start.

        Returns:
            Whether everything came to its end; otherwise a thread is still analysing, and its work will be done again.
        """
        self._stopping = True
        log_event(_log, logging.INFO, "stopping")
        for lane in (self._working, self._watching, self._cleaning):
            lane.ask_to_stop()
        self._receiver.stop()
        self._arrivals.stop()
        ended = self._working.join(grace_s)
        for lane in (self._watching, self._cleaning):
            ended = lane.join(_TURN_S) and ended
        self._sender.stop()
        if self._caller is not None:
            self._caller.stop()
        if ended:
            self._pipeline.close()
            if self._early is not None:
                self._early.close()
            self._opened.close()
        else:  # the folder stays locked until the process ends, and the thread with it
            self._http.close()
        log_event(_log, logging.INFO, "stopped")
        return ended

    @property
    def port(self) -> int:
        """The port of the DICOM node."""
        return self._receiver.port

    @property
    def http_port(self) -> int:
        """The port of the live page."""
        return self._http.port

    def problems(self) -> list[str]:
        """Codes of what keeps the node from receiving and answering."""
        found = ["stopping"] if self._stopping else []
        if self._spool.short_bytes():
            found.append("spool_low")
        if not (self._working.alive and self._watching.alive) or self._worker.busy_s() > _HANGS_S:
            found.append("not_working")
        return found

    def _on_object(self, row: ObjectRow) -> None:
        self._metrics.object_received(row.nbytes)
        self._arrivals.on_object(row)
        self._watching.wake()
        with contextlib.suppress(StorageError):  # the next object will be refused for it
            if self._spool.short_bytes(self._spool.margin() // 2):
                self._cleaning.wake()

    def _on_refused(self, code: str) -> None:
        self._metrics.rejected(code)
        if code in ("spool_low", "storage_full"):
            self._cleaning.wake()

    def _on_released(self, series_uids: Collection[str]) -> None:
        self._watching.wake()

    def _tell(self, event: Event, row: SeriesRow) -> None:
        if self._caller is not None:
            self._caller.tell(event, row)

    def _clean(self, clock: Clock, results: Results) -> float:
        disk, now_s = self._config.disk, clock.wall()
        cleaned = clean(self._journal, self._spool, disk, now_s, forgotten=results.forget)
        if cleaned.images or cleaned.results:
            log_event(_log, logging.INFO, "cleaned", objects=cleaned.images, count=cleaned.results)
        return _CLEAN_S
