"""The standard library's HTTP server with bounds: how many connections at once, and how long each may live."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from onfh_runtime.private_log import traceback_without_messages

__all__ = ["CONNECTION_S", "MAX_CONNECTIONS", "BoundedServer"]

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 32
CONNECTION_S = 60.0
"""Longest life of a connection; a report of 10 MB takes that at 170 kB/s."""


class BoundedServer(ThreadingHTTPServer):
    """A thread for each connection; one too many is closed at once, one that lives too long is broken off."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        """Bind an IPv4 or IPv6 address. Raises OSError."""
        self._open: dict[socket.socket, float] = {}
        self._opening = threading.Lock()
        if ipaddress.ip_address(address).version == 6:
            self.address_family = socket.AF_INET6
        super().__init__((address, port), handler)

    def server_bind(self) -> None:
        """Bind, without the reverse look-up of our own name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a new thread, or close the connection when there are too many."""
        with self._opening:
            full = len(self._open) >= MAX_CONNECTIONS
            if not full:
                self._open[request] = time.monotonic()
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._opening:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End connections that live too long; called a few times a second."""
        latest = time.monotonic() - CONNECTION_S
        with self._opening:
            for request, since in self._open.items():
                if since < latest:
                    _break_off(request)

    def server_close(self) -> None:
        """Close the port and break every connection off."""
        super().server_close()
        with self._opening:
            for request in self._open:
                _break_off(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong in a handler, without quoting it."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):  # a reader that left is no error
            _log.error("a page failed: %s", traceback_without_messages(error))


def _break_off(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has just ended
