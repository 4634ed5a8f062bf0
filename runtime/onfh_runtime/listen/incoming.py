"""One object on its way into the spool: its file, its checks, and what its sender is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from onfh_runtime.dicom.elements import DamagedError
from onfh_runtime.listen.exchange import Answer, Context
from onfh_runtime.listen.identity import Identity, identity_in, is_uid
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.messages import Command
from onfh_runtime.listen.part10 import file_head
from onfh_runtime.listen.records import ObjectRow, Recorded, StorageError
from onfh_runtime.listen.spool import Spool, SpoolFile
from onfh_runtime.private_log import traceback_without_messages

__all__ = ["IncomingObject", "Keeping", "Sender"]

_log = logging.getLogger(__name__)

_OUT_OF_RESOURCES = 0xA700
_OTHER_OBJECT = 0xA900
_NOT_UNDERSTOOD = 0xC000
_PROCESSING_FAILURE = 0x0110
_NO_SUCH_INSTANCE = 0x0117
"""Statuses of PS3.4, table B.2-1, and PS3.7, annex C."""

_FIRST_LOOK = 1 << 14
"""Bytes that hold the UIDs of most objects."""

_LAST_LOOK = 1 << 24
"""The UIDs come before the pixels and before the groups of frames; what is so long before them is no image."""


class _RefusedError(Exception):
    """Why an object is not kept: a status, a code for the metrics, a comment for the sender and a sentence for the log.

    None of them names anybody.
    """

    def __init__(self, status: int, code: str, comment: str, text: str = "") -> None:
        super().__init__(status, code, comment, text)
        self.answer, self.code = Answer(status, comment), code
        self.text = text or comment


@dataclass(frozen=True)
class Keeping:
    """Where objects go; ``on_object`` is told of each new one, ``on_refused`` by a code why one is not kept.

    Both return at once.
    """

    spool: Spool
    journal: Journal
    max_object_bytes: int
    on_object: Callable[[ObjectRow], None]
    on_refused: Callable[[str], None]


@dataclass
class Sender:
    """An association's peer and route by name, its AE title, and the series it gave so far."""

    peer: str
    route: str
    ae_title: str
    series: set[str]


class IncomingObject:
    """Takes the data set of one C-STORE request; success means that it is on the disk and in the journal."""

    def __init__(self, keeping: Keeping, sender: Sender, command: Command, context: Context) -> None:
        self._keeping, self._sender, self._command, self._context = keeping, sender, command, context
        self._file: SpoolFile | None = None
        self._refusal: _RefusedError | None = None
        self._size = 0
        self._head = bytearray()
        self._look_at = _FIRST_LOOK
        self._identity: Identity | None = None
        self._attempt(self._open)

    def write(self, data: memoryview) -> None:
        """Take the next bytes; once the object is refused, the rest goes nowhere."""
        if self._refusal is None:
            self._attempt(lambda: self._append(data))

    def finish(self) -> Answer:
        """Keep the object, or say why not."""
        if self._refusal is None:
            self._attempt(self._keep)
        refusal = self._refusal
        if refusal is None:
            return Answer()
        self._keeping.on_refused(refusal.code)
        _log.warning(
            "An object from %s was refused with status 0x%04X: %s",
            self._sender.peer,
            refusal.answer.status,
            refusal.text,
        )
        return refusal.answer

    def abandon(self) -> None:
        """Forget an object whose rest will never come."""
        if self._file is not None:
            self._file.discard()

    def _attempt(self, step: Callable[[], None]) -> None:
        """Take a step; whatever goes wrong refuses the object, and nothing of it stays."""
        try:
            step()
        except _RefusedError as error:
            self._refusal = error
        except StorageError as error:
            low = error.code in ("spool_low", "storage_full")
            status = _OUT_OF_RESOURCES if low else _PROCESSING_FAILURE
            comment = "No room." if low else "The node cannot store it."
            self._refusal = _RefusedError(status, error.code, comment, error.text)
        except Exception as error:
            self._refusal = _RefusedError(
                _PROCESSING_FAILURE,
                "internal_error",
                "The node failed.",
                f"a fault of ours, {traceback_without_messages(error)}",
            )
        if self._refusal is not None:
            self.abandon()

    def _open(self) -> None:
        command, context = self._command, self._context
        if not is_uid(command.sop_uid):
            raise _RefusedError(_NO_SUCH_INSTANCE, "wrong_uid", "The SOP Instance UID of the request is not valid.")
        if command.sop_class != context.sop_class:
            raise _RefusedError(_OTHER_OBJECT, "wrong_class", "The SOP class is not that of the presentation context.")
        head = file_head(command.sop_class, command.sop_uid, context.transfer_syntax, self._sender.ae_title)
        self._file = self._keeping.spool.open(head)

    def _append(self, data: memoryview) -> None:
        assert self._file is not None
        self._size += len(data)
        if self._size > self._keeping.max_object_bytes:
            raise _RefusedError(_OUT_OF_RESOURCES, "too_large", f"More than {self._keeping.max_object_bytes} bytes.")
        self._file.write(data)
        if self._identity is None:
            self._head += data
            if len(self._head) >= self._look_at:
                self._look(whole=False)
                self._look_at = min(4 * len(self._head), _LAST_LOOK)

    def _look(self, *, whole: bool) -> None:
        """See who the object is, and that it is the one the request named."""
        try:
            identity = identity_in(bytes(self._head), self._context.transfer_syntax, whole=whole)
        except DamagedError as error:
            raise _RefusedError(
                _NOT_UNDERSTOOD, "damaged", "The data set is damaged.", f"it is damaged: {error}."
            ) from None
        if identity is None:
            if len(self._head) >= _LAST_LOOK:
                raise _RefusedError(_NOT_UNDERSTOOD, "wrong_uid", "There is no Series Instance UID where one belongs.")
            return
        if not (identity.study_uid and identity.series_uid):
            raise _RefusedError(_NOT_UNDERSTOOD, "wrong_uid", "It lacks a valid Study or Series Instance UID.")
        if identity.sop_class != self._command.sop_class:
            raise _RefusedError(_OTHER_OBJECT, "wrong_class", "Request and data set name different SOP classes.")
        if identity.sop_uid != self._command.sop_uid:
            raise _RefusedError(_OTHER_OBJECT, "wrong_instance", "Request and data set name different SOP instances.")
        self._identity = identity
        self._head.clear()

    def _keep(self) -> None:
        assert self._file is not None
        if self._identity is None:
            self._look(whole=True)
        identity = self._identity
        assert identity is not None
        written = self._file.keep()
        row = ObjectRow(
            sop_uid=identity.sop_uid,
            series_uid=identity.series_uid,
            study_uid=identity.study_uid,
            path=written.path,
            nbytes=written.nbytes,
            sha256=written.sha256,
            received_s=time.time(),
            sop_class=identity.sop_class,
            transfer_syntax=self._context.transfer_syntax,
            peer=self._sender.peer,
            route=self._sender.route,
        )
        try:
            recorded = self._keeping.journal.record_object(row)
        except BaseException:
            self._keeping.spool.remove(written.path)
            raise
        self._sender.series.add(identity.series_uid)
        if recorded is Recorded.REPLACED:
            _log.warning("Object %s from %s came again with other content.", identity.sop_uid, self._sender.peer)
        if recorded is not Recorded.DUPLICATE:
            self._keeping.on_object(row)
