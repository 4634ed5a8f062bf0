"""One association: pynetdicom negotiates, releases and aborts it; what comes in between is read here.

While images come, one thread waits in the socket. pynetdicom's own two look a thousand times a second each, and take
more than twice the processor time for an object.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from pynetdicom import evt
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AssociationSocket

from onfh_runtime.listen.exchange import Context, Exchange, Incoming
from onfh_runtime.listen.messages import Command, PduReader, ProtocolError, pdvs_of
from onfh_runtime.private_log import traceback_without_messages

__all__ = ["REQUEST_S", "NodeAssociation", "NodeSocket", "Rejection", "Service"]

_log = logging.getLogger(__name__)

_LONGEST_REQUEST = 1 << 20
"""Bytes of an association request: 128 contexts with 40 transfer syntaxes each take a third of that."""

REQUEST_S = 10.0
"""Longest wait for a request to associate, and for the rest of a PDU that is not an image's."""

_GOODBYE_S = 0.5
"""How long an abort may take: a peer that reads nothing would hold it up for the whole of ``idle_timeout_s``."""

_POLL_S = 0.1

_TICK_S = 1.0
"""How often pynetdicom's thread looks around while images come; whoever needs it at once wakes it."""


@dataclass(frozen=True)
class Rejection:
    """A-ASSOCIATE-RJ: result, source and reason (PS3.8, table 9-21)."""

    result: int
    source: int
    reason: int


_TROUBLED = Rejection(2, 2, 1)
"""Transient, service provider (ACSE), no reason given."""


class Service(Protocol):
    """Who may send, and what becomes of it. Called from the threads of the associations."""

    max_pdu: int
    idle_timeout_s: float

    def knows(self, address: str) -> bool:
        """Whether anybody may send from this address."""

    def admit(self, association: NodeAssociation, request: A_ASSOCIATE) -> Rejection | None:
        """Why this association must not be; None admits it."""

    def incoming(self, association: NodeAssociation, command: Command, context: Context) -> Incoming:
        """What takes the object of a C-STORE request."""

    def ended(self, association: NodeAssociation) -> None:
        """An admitted association is over, in whatever way."""


class _Reader(Enum):
    """Who may read from the socket."""

    PYNETDICOM = 1
    NOBODY = 2
    IMAGES = 3


class NodeSocket(AssociationSocket):
    """pynetdicom's socket, from which it reads only what is its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.unread = b""
        self.hung_up = False
        """Whether the peer ended the connection while pynetdicom read."""
        self._reader = _Reader.PYNETDICOM
        self._images_over = threading.Event()
        super().__init__(*args, **options)

    def give_to(self, reader: _Reader) -> None:
        """Change who reads."""
        self._reader = reader
        (self._images_over.clear if reader is _Reader.IMAGES else self._images_over.set)()

    @property
    def ready(self) -> bool:
        """Whether pynetdicom's thread shall read now. While images come, the answer takes its time."""
        # What it has to send was queued before the images began, and goes first.
        if self._reader is _Reader.IMAGES and self.assoc.dul.to_provider_queue.empty():
            self._images_over.wait(_TICK_S)
        if self._reader is not _Reader.PYNETDICOM:
            return False
        return bool(self.unread) or bool(super().ready)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes, fewer when the peer is gone; neither for ever nor without end, as pynetdicom would."""
        if nr_bytes > _LONGEST_REQUEST:
            raise OSError("a PDU of the peer is too large")
        data = bytearray(self.unread[:nr_bytes])
        self.unread = self.unread[nr_bytes:]
        until, sock = time.monotonic() + REQUEST_S, self.socket
        while sock is not None and len(data) < nr_bytes:
            sock.settimeout(max(until - time.monotonic(), 0.001))
            more = sock.recv(nr_bytes - len(data))
            if not more:
                self.hung_up = True
                break
            data += more
        return data

    def _shutdown_socket(self) -> None:
        """Close the socket; pynetdicom leaves it open where the peer reset the connection."""
        sock = self.socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class _Acse(ACSE):
    def negotiate_association(self) -> None:
        """Ask the service before pynetdicom accepts."""
        association = self.assoc
        assert isinstance(association, NodeAssociation)
        rejection = association.judge()
        if rejection is None:
            # From here on only our own loop may read: the first image may follow at once.
            association.connection.give_to(_Reader.NOBODY)
            super().negotiate_association()
        else:
            self.send_reject(rejection.result, rejection.source, rejection.reason)
            association.kill()


class NodeAssociation(Association):
    """An association that a peer asked for."""

    def __init__(self, *args: Any, service: Service) -> None:
        super().__init__(*args)
        self.acse = _Acse(self)
        self.peer = ""
        """A name for the log; whoever admits the association sets it."""
        self._service = service
        self._admitted = False
        self._stopping = False
        self._between = threading.Event()
        self._between.set()

    @property
    def connection(self) -> NodeSocket:
        """The socket, wrapped."""
        connection = self.dul.socket
        assert isinstance(connection, NodeSocket)
        return connection

    def judge(self) -> Rejection | None:
        """Why this association must not be; None admits it."""
        try:
            request = self.requestor.primitive
            assert request is not None
            rejection = self._service.admit(self, request)
        except Exception as error:
            _log.error("An association was rejected by a fault of ours: %s", traceback_without_messages(error))
            return _TROUBLED
        self._admitted = rejection is None
        return rejection

    def take_no_more(self) -> None:
        """End with the object under way; from another thread."""
        self._stopping = True

    def end(self, timeout_s: float) -> None:
        """Abort, from another thread; an object under way has so long to come and be stored."""
        if self._admitted:
            self._between.wait(timeout_s)
            breaker = threading.Timer(_GOODBYE_S, self.connection._shutdown_socket)
            breaker.daemon = True
            breaker.start()
            self.abort()
            self.join()
            breaker.cancel()
        else:
            self.connection.close()

    def run_reactor(self) -> None:
        """The thread of the association."""
        try:
            self.dul.start()
            self._dul_ready.wait()
            self.requestor.primitive = self._request()
            if self.requestor.primitive is not None:
                self.acse.negotiate_association()
            if self.is_established:
                self._run_reactor()
        finally:
            self.dul.kill_dul()
            self.connection.close()
            self.dul.join()
            if self._admitted:
                self._service.ended(self)

    def _request(self) -> A_ASSOCIATE | None:
        """What the peer asks for; None when it asks for nothing and goes, or takes too long."""
        until, connection = time.monotonic() + REQUEST_S, self.connection
        while time.monotonic() < until and connection.socket is not None and not connection.hung_up:
            primitive = self.dul.receive_pdu(wait=True, timeout=_POLL_S)
            if primitive is not None:
                return primitive if isinstance(primitive, A_ASSOCIATE) else None
        return None

    def _run_reactor(self) -> None:
        self.network_timeout = None  # our own counts silence; pynetdicom's counts from PDU to PDU, and it sees none
        connection = self.connection
        connection.give_to(_Reader.IMAGES)
        try:
            self._receive(connection)
        except TimeoutError:
            _log.warning("The association with %s is aborted: nothing came for too long.", self.peer)
            self.abort()
        except OSError:
            _log.warning("The association with %s broke.", self.peer)
            self.abort()
        except ProtocolError as error:
            _log.warning("The association with %s is aborted: %s.", self.peer, error)
            self.abort()
        except Exception as error:
            _log.error(
                "The association with %s is aborted by a fault of ours: %s",
                self.peer,
                traceback_without_messages(error),
            )
            self.abort()
        finally:
            self._between.set()
            connection.give_to(_Reader.PYNETDICOM)
        super()._run_reactor()

    def _receive(self, connection: NodeSocket) -> None:
        """Take messages until something else than P-DATA comes, or the end."""
        sock = connection.socket
        if sock is None:
            return
        sock.settimeout(self._service.idle_timeout_s)
        contexts = {
            accepted.context_id or 0: Context(str(accepted.abstract_syntax), str(accepted.transfer_syntax[0]))
            for accepted in self.accepted_contexts
        }

        def incoming(command: Command, context: Context) -> Incoming:
            return self._service.incoming(self, command, context)

        reader = PduReader(sock, self._service.max_pdu)
        with contextlib.closing(Exchange(contexts, incoming, sock.sendall)) as exchange:
            while (pdu := reader.next()) is not None:
                self._between.clear()
                for pdv in pdvs_of(pdu):
                    exchange.take(*pdv)
                if exchange.is_between:
                    self._between.set()
                    if self._stopping:
                        return
        connection.unread = reader.rest()

    def _bind_defaults(self) -> None:
        """Without pynetdicom's own handlers of events: they do nothing but log what a peer says."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def _abort_blocking(self, block: bool = True) -> None:
        if isinstance(self.dul.socket, NodeSocket):
            self.connection.give_to(_Reader.NOBODY)
        super()._abort_blocking(block)
