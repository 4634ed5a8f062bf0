"""Requests and answers within one association: fragments in, one response for each message out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from onfh_runtime.listen.messages import C_ECHO, C_STORE, Command, ProtocolError, command_from_bytes, response_to
from onfh_runtime.private_log import traceback_without_messages

__all__ = ["Answer", "Context", "Exchange", "Incoming"]

_log = logging.getLogger(__name__)

_LONGEST_COMMAND = 1 << 16
"""Bytes of a command set; a C-STORE request takes 200."""

_PROCESSING_FAILURE = 0x0110
_NO_DATA = 0xC000


@dataclass(frozen=True)
class Context:
    """An accepted presentation context."""

    sop_class: str
    transfer_syntax: str


@dataclass(frozen=True)
class Answer:
    """Status of a response, and for a failure a comment for the peer's log: ASCII, without identifiers."""

    status: int = 0
    comment: str = ""


class Incoming(Protocol):
    """An object that is being received, from one thread."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the data set, valid during the call; what goes wrong is said at the end."""

    def finish(self) -> Answer:
        """The object is whole: keep it, or say why not."""

    def abandon(self) -> None:
        """The rest will never come."""


class Exchange:
    """The messages of one association, from one thread."""

    def __init__(
        self,
        contexts: Mapping[int, Context],
        incoming: Callable[[Command, Context], Incoming],
        send: Callable[[bytes], None],
    ) -> None:
        """Prepare.

        Args:
            contexts: the accepted presentation contexts by their ID.
            incoming: called for each C-STORE request.
            send: sends the bytes of a PDU.
        """
        self._contexts = contexts
        self._incoming = incoming
        self._send = send
        self._command = bytearray()
        self._request: tuple[int, Command, Incoming] | None = None

    @property
    def is_between(self) -> bool:
        """Whether no message is under way."""
        return self._request is None and not self._command

    def take(self, context: int, of_command: bool, is_last: bool, data: memoryview) -> None:
        """Take a fragment, and answer when it completes a message.

        Raises:
            ProtocolError: it fits nothing that was agreed or said before.
        """
        if context not in self._contexts:
            raise ProtocolError("it used a presentation context that was not accepted")
        if of_command:
            if self._request is not None:
                raise ProtocolError("a command came within an object")
            self._command += data
            if len(self._command) > _LONGEST_COMMAND:
                raise ProtocolError("its command does not end")
            if is_last:
                command = command_from_bytes(bytes(self._command))
                self._command.clear()
                self._begin(context, command)
            return
        if self._request is None or self._request[0] != context:
            raise ProtocolError("data came without a command")
        _, command, incoming = self._request
        incoming.write(data)
        if is_last:
            self._request = None
            self._answer(context, command, _outcome(incoming))

    def close(self) -> None:
        """Forget an object that never came whole."""
        if self._request is not None:
            self._request[2].abandon()
            self._request = None

    def _begin(self, context: int, command: Command) -> None:
        if command.field == C_ECHO and not command.has_data:
            self._answer(context, command, Answer())
        elif command.field != C_STORE:
            raise ProtocolError("it asked for a service that was not offered")
        elif not command.has_data:
            self._answer(context, command, Answer(_NO_DATA, "There is no data set."))
        else:
            self._request = context, command, self._incoming(command, self._contexts[context])

    def _answer(self, context: int, command: Command, answer: Answer) -> None:
        self._send(response_to(command, context, answer.status, answer.comment))


def _outcome(incoming: Incoming) -> Answer:
    try:
        return incoming.finish()
    except Exception as error:
        _log.error("An object was refused because of a fault of ours: %s", traceback_without_messages(error))
        return Answer(_PROCESSING_FAILURE, "The node failed.")
