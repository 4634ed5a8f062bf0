"""Tell another program on this machine or the private network what happened, without waiting for it.

A call says which series (UIDs), which event and how it went; no other identifier leaves the node. What cannot be told
after a few tries is dropped: the journal, the metrics and the result's folder hold the same.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from onfh_runtime.errors import UsageError
from onfh_runtime.listen.config import Webhook
from onfh_runtime.listen.log import log_event
from onfh_runtime.listen.records import SeriesRow

__all__ = ["Caller", "check_webhook", "payload_from_series"]

_log = logging.getLogger(__name__)

_WAITING = 1000
"""Calls that may wait; beyond that new ones are dropped."""

_TRIES = 4
_FIRST_WAIT_S = 1.0

_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
"""Loopback, RFC 1918 and RFC 4193. Link-local addresses, where clouds keep secrets, are left out."""

Event = Literal["result", "deadline_missed", "set_aside"]


def payload_from_series(event: Event, series: SeriesRow) -> dict[str, object]:
    """What is told of a series (schema ``onfh-webhook/1``): UIDs and figures, nothing of the patient."""
    return {
        "schema": "onfh-webhook/1",
        "event": event,
        "created": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "study_instance_uid": series.study_uid,
        "series_instance_uid": series.series_uid,
        "route": series.route,
        "generation": series.generation,
        "outcome": series.outcome,
        "code": series.code,
        "latency_ms": series.latency_ms,
        "deadline_missed": series.deadline_missed,
    }


def check_webhook(config: Webhook) -> None:
    """Resolve the address of a webhook once. A host that is unknown now may be known at the next call.

    Raises:
        UsageError: ``webhook_not_private``, when it is neither on this machine nor on a private network.
    """
    with contextlib.suppress(OSError):
        _address(urlsplit(config.url))


class Caller:
    """Calls a webhook from a thread of its own. ``start`` once, ``tell`` at any time, ``stop`` once."""

    def __init__(self, config: Webhook, *, on_call: Callable[[str], None] = lambda outcome: None) -> None:
        """Prepare; the address is checked.

        Args:
            config: where to, and of which events.
            on_call: told ``sent``, ``failed`` or ``dropped`` for each event.

        Raises:
            UsageError: ``webhook_not_private``.
        """
        check_webhook(config)
        self._config, self._on_call = config, on_call
        self._waiting: queue.Queue[bytes] = queue.Queue(_WAITING)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def tell(self, event: Event, series: SeriesRow) -> None:
        """Tell of an event, soon; returns at once."""
        if event not in self._config.events:
            return
        try:
            self._waiting.put_nowait(json.dumps(payload_from_series(event, series), allow_nan=False).encode())
        except queue.Full:
            self._on_call("dropped")

    def stop(self, timeout_s: float = 5.0) -> None:
        """Tell what waits, for at most ``timeout_s``, and end."""
        until = time.monotonic() + timeout_s
        while self._waiting.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.02)
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(max(0.1, until - time.monotonic()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                body = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            self._on_call("sent" if self._told(body) else "failed")
            self._waiting.task_done()

    def _told(self, body: bytes) -> bool:
        for attempt in range(_TRIES):
            if attempt and self._stopping.wait(_FIRST_WAIT_S * 2 ** (attempt - 1)):
                return False
            try:
                status = _post(self._config.url, body, self._config.timeout_s)
            except Exception as error:  # nothing that one call meets may end the thread
                log_event(_log, logging.WARNING, "webhook_failed", tries=attempt + 1, code=_code(error))
                continue
            if 200 <= status < 300:
                return True
            log_event(_log, logging.WARNING, "webhook_failed", tries=attempt + 1, count=status)
            if status < 500 and status != 429:
                return False  # it will say the same again
        return False


def _code(error: Exception) -> str:
    return error.code if isinstance(error, UsageError) else "webhook_unreachable"


def _address(url: SplitResult) -> tuple[str, int]:
    """The first address of the URL's host, after every one of them was found to be private; and the port.

    Raises:
        OSError: the host is not known.
        UsageError: ``webhook_not_private``.
    """
    port = url.port or (443 if url.scheme == "https" else 80)
    found = {str(info[4][0]) for info in socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)}
    for text in found:
        if not _is_private(text):
            raise UsageError(
                "webhook_not_private",
                f"The webhook's host {url.hostname} is at {text}, neither this machine nor a private network.",
                "Name a host on loopback or in 10/8, 172.16/12, 192.168/16 or fc00::/7.",
            )
    return sorted(found)[0], port


def _is_private(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in _NETWORKS)


def _post(url: str, body: bytes, timeout_s: float) -> int:
    """POST to the address that was just checked; no proxy, no redirect is followed. Returns the HTTP status."""
    parts = urlsplit(url)
    address = _address(parts)
    connection = http.client.HTTPConnection(parts.hostname or "", address[1], timeout=timeout_s)
    connection.sock = socket.create_connection(address, timeout_s)
    try:
        if parts.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=parts.hostname)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Content-Type": "application/json", "Host": parts.netloc, "Connection": "close"}
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()
