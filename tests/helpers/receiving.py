"""A receiver with a spool and a journal of its own, which sees to it that nothing of it is left."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

from scanner import free_port

from onfh_runtime.listen.config import ListenConfig
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.receive import Receiver
from onfh_runtime.listen.records import ObjectRow
from onfh_runtime.listen.spool import Spool


class ReceivingNode:
    """Use it in a ``with`` block; ``node`` holds fields of the configuration's section of that name."""

    def __init__(self, state_dir: Path, *, node=None, refuse_below_free_bytes: int = 0, **config: object) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self._threads = set(threading.enumerate())
        content = {"state_dir": state_dir, "node": {"port": free_port(), **(node or {})}, **config}
        self.config = ListenConfig.model_validate(content)
        self.spool = Spool(state_dir / "objects", refuse_below_free_bytes=refuse_below_free_bytes)
        self.journal = Journal(state_dir / "journal.sqlite", remove=self.spool.remove)
        self.rows: list[ObjectRow] = []
        self.released: list[frozenset[str]] = []
        self.refused: list[str] = []
        self.receiver = Receiver(
            self.config,
            self.spool,
            self.journal,
            on_object=self.on_object,
            on_released=lambda uids: self.released.append(frozenset(uids)),
            on_refused=self.refused.append,
        )
        self.port = self.receiver.port
        self.receiver.start()

    def on_object(self, row: ObjectRow) -> None:
        self.rows.append(row)

    def __enter__(self) -> ReceivingNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.receiver.stop()
        self.journal.close()
        gc.collect()
        until(lambda: not self._left())

    def _left(self) -> set[threading.Thread]:
        return set(threading.enumerate()) - self._threads

    @property
    def files(self) -> list[Path]:
        """What lies in the spool, but for the empty files that are made ahead."""
        return sorted(path for path in self.spool.folder.rglob("*") if path.stat().st_size)

    def associating(self) -> int:
        """Connections that are associations, or may become some."""
        return len(self.receiver._server.active_associations)

    def idle(self) -> None:
        """Wait until no association is open."""
        until(lambda: self.receiver.open_associations() == 0)


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for something another thread does."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)
