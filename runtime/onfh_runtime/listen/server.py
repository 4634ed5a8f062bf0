"""The listening socket: a thread for each connection, TLS, and a bound on how many there are."""

from __future__ import annotations

import contextlib
import copy
import logging
import socket
import ssl
import threading
import time
from typing import Any

from pynetdicom import AE
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from onfh_runtime.listen.association import REQUEST_S, NodeAssociation, NodeSocket, Service
from onfh_runtime.listen.log import log_event

__all__ = ["NodeServer"]

_log = logging.getLogger(__name__)

_POLL_S = 0.1

_STRANGERS = 4
"""Connections from addresses no peer has: enough for them to be told that they are rejected."""


class _Handler(RequestHandler):
    """Makes a connection an association of ours."""

    server: NodeServer

    def _create_association(self) -> NodeAssociation:
        association = NodeAssociation(self.ae, MODE_ACCEPTOR, service=self.server.service)
        association._server = self.server
        association.name = f"AcceptorThread@{self.client_address[0]}"  # pynetdicom finds its threads by this word
        association.set_socket(NodeSocket(association, client_socket=self.request))
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = copy.deepcopy(self.server.contexts)
        association.requestor.address_info = self.remote
        return association


class NodeServer(ThreadedAssociationServer):
    """Accepts connections from :meth:`start` to :meth:`stop`."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        service: Service,
        *,
        max_connections: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Bind and listen.

        Args:
            ae: what is offered, and as whom.
            address: IP address and port, 0 for a free one.
            service: asked about each association.
            max_connections: one more is closed at once.
            tls: every connection must be TLS by this context.

        Raises:
            OSError: the address cannot be had.
        """
        self.service = service
        self._tls = tls
        self._max_connections = max_connections
        self._lock = threading.Lock()
        self._greeting: dict[socket.socket, str] = {}
        """Connections that are no associations yet, and from where."""
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL_S,), name="dicom-listener")
        super().__init__(ae, address, ae.ae_title, ae.supported_contexts, request_handler=_Handler)
        ae._servers.append(self)  # where its shutdown looks for it

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Accept none any more, and end those there are: at once, or when the object under way is stored."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        else:
            self.server_close()
        with self._lock:
            greeting = list(self._greeting)
        for connection in greeting:
            _break(connection)
        until = time.monotonic() + timeout_s
        ending = [association for association in self.active_associations if isinstance(association, NodeAssociation)]
        for association in ending:
            association.take_no_more()
        for association in ending:
            association.end(max(until - time.monotonic(), 0.0))
            association.join()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more connection; strangers have little, so that they leave some to peers."""
        knows, address = self.service.knows, client_address[0]
        with self._lock:
            there = list(self._greeting.values())
        there += [association.requestor.address or "" for association in self.active_associations]
        if len(there) < self._max_connections and (
            knows(address) or sum(not knows(other) for other in there) < _STRANGERS
        ):
            return True
        log_event(_log, logging.WARNING, "too_many_connections", address=client_address[0])
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread."""
        with self._lock:
            self._greeting[request] = client_address[0]
        try:
            super().process_request(request, client_address)
        except BaseException:  # there is no thread for it
            with self._lock:
                del self._greeting[request]
            raise

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Agree on TLS, in the connection's own thread: a peer that says nothing must not hold the others up."""
        connection = request
        try:
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            if self._tls is not None:
                connection = self._secured(request, client_address)
            if connection is not None:
                super().finish_request(connection, client_address)
        finally:
            with self._lock:
                for one in (request, connection):
                    self._greeting.pop(one, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that could not be served: say so."""
        _log.exception("A connection could not be served.")

    def _secured(self, request: socket.socket, client_address: Any) -> ssl.SSLSocket | None:
        assert self._tls is not None
        request.settimeout(REQUEST_S)
        connection = self._tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._greeting[connection] = self._greeting.pop(request)
        try:
            connection.do_handshake()
        except OSError as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            _log.warning("A TLS connection from %s failed: %s.", client_address[0], reason)
            connection.close()
            return None
        return connection


def _break(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
