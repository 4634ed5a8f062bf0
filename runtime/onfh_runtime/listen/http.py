"""Metrics, health, the live page and the reports over HTTP, read only.

For a few people and one Prometheus on a hospital's network: a request may not be long, slow, one of many at once, or
under another name than this machine's, and off loopback it must show the token (``access.py``). Nothing is cached.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from onfh_runtime.errors import OnfhError, UsageError
from onfh_runtime.listen.access import Access
from onfh_runtime.listen.http_server import BoundedServer
from onfh_runtime.listen.journal_view import JournalView
from onfh_runtime.listen.log import log_event
from onfh_runtime.listen.metrics import CONTENT_TYPE, Metrics
from onfh_runtime.listen.page import document_from_journal, report_file

__all__ = ["HttpServer"]

_log = logging.getLogger(__name__)

_WAIT_S = 10.0
"""Longest wait for the next byte of a request."""

_MAX_BODY = 4096

_JSON, _HTML, _TEXT = "application/json", "text/html; charset=utf-8", "text/plain; charset=utf-8"
_ASSETS = {
    "/listen.css": ("listen.css", "text/css; charset=utf-8"),
    "/listen.js": ("listen.js", "text/javascript; charset=utf-8"),
    "/login": ("login.html", _HTML),
}
"""What a browser may load before it has shown the token."""

_PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_REPORT_POLICY = "sandbox allow-scripts allow-modals; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
"""A report names its style and script by hash itself; here it is also cut off from the page it came from."""

_Answer = tuple[HTTPStatus, str, bytes]


class HttpServer:
    """Serves from threads of its own. ``start`` once, ``close`` once."""

    def __init__(
        self,
        address: str,
        port: int,
        *,
        token: str | None,
        journal: JournalView,
        results: Path,
        metrics: Metrics,
        problems: Callable[[], Sequence[str]],
    ) -> None:
        """Bind the address; nothing is answered yet.

        Args:
            address: IPv4 or IPv6 address.
            port: 0 for any, see :attr:`port`.
            token: what a request must show; None on loopback only.
            journal: of the node.
            results: folder of all results.
            metrics: of the node.
            problems: asked for the codes of what keeps the node from being ready, an empty list when nothing does.

        Raises:
            UsageError: ``token_required``; ``address_unusable``, when the port is taken or the address not ours.
        """
        access = Access(address, token)
        try:
            self._server = _Server(address, port, access, journal, results, metrics, problems)
        except OSError as error:
            raise UsageError(
                "address_unusable",
                f"The page cannot be served at {address} port {port} ({error.strerror or type(error).__name__}).",
                "Choose another port under http, or end the program that uses this one.",
            ) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="http", daemon=True)

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering, and break off what is being answered."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(BoundedServer):
    """What the handler answers from."""

    def __init__(
        self,
        address: str,
        port: int,
        access: Access,
        journal: JournalView,
        results: Path,
        metrics: Metrics,
        problems: Callable[[], Sequence[str]],
    ) -> None:
        self.access, self.journal, self.metrics = access, journal, metrics
        self.results = results.parent.resolve() / results.name  # as the journal says it, also where it is a link
        self._problems = problems
        super().__init__(address, port, _Handler)

    def problems(self) -> list[str]:
        """Codes of what keeps the node from being ready."""
        try:
            return list(self._problems())
        except OnfhError as error:
            return [error.code]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "onfh-edge", ""
    timeout = _WAIT_S

    def do_GET(self) -> None:
        """Answer a request for something."""
        path = self._asked_path()
        if path is None:
            return
        if path in _ASSETS:
            name, kind = _ASSETS[path]
            self._answer(HTTPStatus.OK, kind, _asset(name))
        elif not self._knows_the_token():
            self._ask_for_the_token(path)
        elif path.startswith("/reports/"):
            self._report(path.split("/")[2:])
        else:
            try:
                self._answer(*self._content(path))
            except OnfhError as error:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"{error.code}\n".encode())

    def do_POST(self) -> None:
        """Log a browser in or out."""
        path, length = self._asked_path(), self.headers.get("Content-Length", "")
        if path is None:
            return
        if path not in ("/login", "/logout"):
            self._answer(HTTPStatus.NOT_FOUND, _TEXT, b"not found\n")
        elif not length.isdecimal() or len(length) > 9 or int(length) > _MAX_BODY:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TEXT, b"too long\n")
        elif path == "/logout":
            self._go_to("/login", self.server.access.no_cookie())
        else:
            fields = parse_qs(self.rfile.read(int(length)).decode("ascii", "replace"))
            if self.server.access.token_is_right(fields.get("token", [""])[0].strip()):
                self._go_to("/", self.server.access.cookie())
            else:
                log_event(_log, logging.WARNING, "http_login_refused", address=self.client_address[0])
                self._go_to("/login?wrong")

    def _content(self, path: str) -> _Answer:
        server = self.server
        if path == "/":
            return HTTPStatus.OK, _HTML, _asset("listen.html")
        if path == "/api/series":
            document = document_from_journal(server.journal, server.results, server.problems())
            document["logged_in"] = not server.access.is_open()
            return HTTPStatus.OK, _JSON, json.dumps(document, allow_nan=False).encode()
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE, server.metrics.text()
        if path == "/health/live":
            return HTTPStatus.OK, _JSON, b'{"live": true}'
        if path in ("/health", "/health/ready"):
            problems = server.problems()
            body = json.dumps({"live": True, "ready": not problems, "problems": problems}).encode()
            return HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK, _JSON, body
        return HTTPStatus.NOT_FOUND, _TEXT, b"not found\n"

    def _report(self, parts: Sequence[str]) -> None:
        path = report_file(self.server.results, parts)
        try:
            body = None if path is None else path.read_bytes()
        except OSError:  # replaced at this moment
            body = None
        if body is None:
            self._answer(HTTPStatus.NOT_FOUND, _TEXT, b"There is no such report; it may have been cleaned up.\n")
        else:
            self._answer(HTTPStatus.OK, _HTML, body, policy=_REPORT_POLICY)

    def _asked_path(self) -> str | None:
        """The path of a request that may come in; None when it may not or has none, which is said then."""
        if not self._may_come_in():
            return None
        try:
            return urlsplit(self.path).path
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return None

    def _may_come_in(self) -> bool:
        if self.server.access.host_is_ours(self.headers.get("Host")):
            return True
        self._answer(HTTPStatus.MISDIRECTED_REQUEST, _TEXT, b"This machine is reached by its number or as localhost.\n")
        return False

    def _knows_the_token(self) -> bool:
        access = self.server.access
        return (
            access.is_open()
            or access.bearer_is_right(self.headers.get("Authorization"))
            or access.cookie_is_right(self.headers.get("Cookie"))
        )

    def _ask_for_the_token(self, path: str) -> None:
        if path == "/" or path.startswith("/reports/"):
            self._go_to("/login")
        else:
            self._answer(HTTPStatus.UNAUTHORIZED, _TEXT, b"token required\n", **{"WWW-Authenticate": "Bearer"})

    def _go_to(self, path: str, cookie: str | None = None) -> None:
        more = {"Location": path} | ({"Set-Cookie": cookie} if cookie is not None else {})
        self._answer(HTTPStatus.SEE_OTHER, _TEXT, b"", **more)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes, *, policy: str = _PAGE_POLICY, **more: str) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Connection": "close",
        }
        for name, value in (headers | more).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say what http.server found wrong with a request, in a word and without quoting it."""
        self.close_connection = True
        self._answer(HTTPStatus(code), _TEXT, f"{HTTPStatus(code).phrase}\n".encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a request line is the sender's text."""


def _asset(name: str) -> bytes:
    return (files("onfh_runtime.listen") / name).read_bytes()
