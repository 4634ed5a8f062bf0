"""A thread that takes turns until it is told to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from onfh_runtime.errors import OnfhError
from onfh_runtime.listen.log import log_event
from onfh_runtime.private_log import traceback_without_messages

__all__ = ["Lane"]

_log = logging.getLogger(__name__)

_TROUBLED_S = 1.0
"""How long a lane rests after a turn that failed: the disk may be full, or the journal in use."""


class Lane:
    """Calls ``turn`` again after the seconds it returns, or when woken. What it raises is logged and ends nothing.

    Args:
        name: of the thread.
        turn: one turn; returns how many seconds nothing will be due.
        least_s: rest between two turns, so that a wake-up for every image of a fast sender costs little.
    """

    def __init__(self, name: str, turn: Callable[[], float], *, least_s: float = 0.0) -> None:
        self._turn, self._least_s = turn, least_s
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Take a turn now, or once the present one is over."""
        self._woken.set()

    def ask_to_stop(self) -> None:
        """Take no further turn."""
        self._stopping.set()
        self._woken.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the present turn to end; whether it has."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether turns are taken."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while True:
            self._woken.clear()  # before the look at what else would wake it, or that would be missed
            if self._stopping.is_set():
                return
            try:
                wait_s = self._turn()
            except OnfhError as error:
                log_event(_log, logging.ERROR, "held_up", kind=self._thread.name, code=error.code)
                wait_s = _TROUBLED_S
            except Exception as error:
                _log.error("%s is held up: %s", self._thread.name, traceback_without_messages(error))
                wait_s = _TROUBLED_S
            if wait_s > 0:
                self._woken.wait(wait_s)
                self._stopping.wait(self._least_s)
