"""The webhook, against a real HTTP server on loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from onfh_runtime.errors import UsageError
from onfh_runtime.listen import webhook
from onfh_runtime.listen.config import Webhook
from onfh_runtime.listen.records import SeriesRow, SeriesState
from onfh_runtime.listen.webhook import Caller, check_webhook, payload_from_series

SERIES = SeriesRow(
    series_uid="1.2.3.4",
    study_uid="1.2.3",
    route="ct",
    state=SeriesState.ANSWERED,
    generation=2,
    objects=60,
    missing=0,
    nbytes=1,
    first_s=1.0,
    last_s=2.0,
    released_s=3.0,
    tries=1,
    retry_at_s=None,
    deadline_at_s=None,
    code=None,
    text="a sentence",
    outcome="succeeded",
    folder=Path("/secret"),
    latency_ms=812.5,
    outside_engine_ms=10.0,
    deadline_missed=True,
    answered_s=4.0,
)


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted; answers with the statuses it is given, then 200."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.statuses: list[int] = []
        self.wait_s = 0.0
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook?key=1"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.wait_s)
        self.server.got.append((self.path, dict(self.headers), json.loads(body)))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"{self.server.url}&moved")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(webhook, "_FIRST_WAIT_S", 0.05)
    return []


@pytest.fixture
def call(outcomes: list[str]) -> Iterator[Callable[..., Caller]]:
    callers = []

    def started(url: str, **changes: object) -> Caller:
        caller = Caller(Webhook(url=url, **changes), on_call=outcomes.append)
        caller.start()
        callers.append(caller)
        return caller

    yield started
    for caller in callers:
        caller.stop(0.1)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_event_arrives_with_uids_and_figures_only(
    receiver: Receiver, call: Callable[..., Caller], outcomes: list[str]
) -> None:
    call(receiver.url).tell("result", SERIES)
    wait_for(lambda: outcomes == ["sent"])
    ((path, headers, body),) = receiver.got
    assert path == "/hook?key=1"
    assert headers["Content-Type"] == "application/json"
    assert body.pop("created").endswith("Z")
    assert body == {
        "schema": "onfh-webhook/1",
        "event": "result",
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.4",
        "route": "ct",
        "generation": 2,
        "outcome": "succeeded",
        "code": None,
        "latency_ms": 812.5,
        "deadline_missed": True,
    }


def test_nothing_but_what_is_listed_can_leave() -> None:
    """Every text of a row is exchanged; only the listed ones show."""
    texts = {f.name for f in fields(SERIES) if isinstance(getattr(SERIES, f.name), (str, Path)) and f.name != "state"}
    marked = replace(SERIES, **{name: f"mark-{name}" for name in texts})  # type: ignore[arg-type]
    told = json.dumps(payload_from_series("result", marked))
    assert {name for name in texts if f"mark-{name}" in told} == {"study_uid", "series_uid", "route", "outcome"}


def test_events_nobody_asked_for_are_not_told(
    receiver: Receiver, call: Callable[..., Caller], outcomes: list[str]
) -> None:
    caller = call(receiver.url, events=("set_aside",))
    caller.tell("result", SERIES)
    caller.tell("set_aside", SERIES)
    wait_for(lambda: outcomes == ["sent"])
    assert [body["event"] for _, _, body in receiver.got] == ["set_aside"]


def test_a_failing_receiver_is_tried_again(
    receiver: Receiver, call: Callable[..., Caller], outcomes: list[str]
) -> None:
    receiver.statuses = [500, 429]
    call(receiver.url).tell("result", SERIES)
    wait_for(lambda: outcomes == ["sent"])
    assert len(receiver.got) == 3


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (302, 1), (503, 4)])
def test_tries_are_bounded_and_no_redirect_is_followed(
    receiver: Receiver, call: Callable[..., Caller], outcomes: list[str], status: int, tries: int
) -> None:
    receiver.statuses = [status] * 10
    call(receiver.url).tell("result", SERIES)
    wait_for(lambda: outcomes == ["failed"])
    assert len(receiver.got) == tries
    assert {path for path, _, _ in receiver.got} == {"/hook?key=1"}


def test_a_receiver_that_is_down_or_slow_blocks_nobody(
    receiver: Receiver, call: Callable[..., Caller], outcomes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "_WAITING", 5)
    receiver.wait_s = 0.5
    caller = call(receiver.url, timeout_s=0.1)
    started = time.monotonic()
    for _ in range(50):
        caller.tell("result", SERIES)
    assert time.monotonic() - started < 0.1
    assert outcomes.count("dropped") >= 40
    wait_for(lambda: "failed" in outcomes)


def test_stop_tells_what_waits(receiver: Receiver, call: Callable[..., Caller], outcomes: list[str]) -> None:
    caller = call(receiver.url)
    for _ in range(20):
        caller.tell("result", SERIES)
    caller.stop(5.0)
    assert outcomes == ["sent"] * 20


@pytest.mark.parametrize(
    "host",
    ["8.8.8.8", "169.254.169.254", "0.0.0.0", "100.64.0.1", "192.0.2.1", "[2001:db8::1]", "[::]", "[fe80::1]",
     "[::ffff:8.8.8.8]", "224.0.0.1"],
)  # fmt: skip
def test_an_address_that_is_not_private_is_refused_at_start(host: str) -> None:
    with pytest.raises(UsageError, match="webhook_not_private"):
        check_webhook(Webhook(url=f"http://{host}/x"))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.9.8.7", "172.31.0.1", "192.168.1.1", "[::1]", "[fd12::1]"]
)
def test_private_addresses_are_taken(host: str) -> None:
    check_webhook(Webhook(url=f"https://{host}:8443/x"))


def test_a_host_that_is_unknown_now_keeps_no_node_from_starting(
    call: Callable[..., Caller], outcomes: list[str]
) -> None:
    call("http://no-such-host.invalid/x").tell("result", SERIES)
    wait_for(lambda: outcomes == ["failed"])


@pytest.mark.parametrize(
    "url",
    ["http://localhost/bef\u00fcnde", "http://localhost:99999/x", "http://localhost:abc/", "http://[::1/x", "http://a..b/",
     f"http://{'a' * 64}/", "http://user@localhost/", "http://localhost/#x", "http://localhost/a b", "ftp://localhost/"],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="in ASCII, without a user"):
        Webhook(url=url)


def test_nothing_that_a_call_meets_ends_the_thread(
    receiver: Receiver, call: Callable[..., Caller], outcomes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = call(receiver.url)
    with monkeypatch.context() as context:
        context.setattr(webhook, "_post", lambda *args: 1 / 0)
        caller.tell("result", SERIES)
        wait_for(lambda: outcomes == ["failed"])
    caller.tell("result", SERIES)
    wait_for(lambda: outcomes == ["failed", "sent"])


def test_a_name_that_moves_elsewhere_is_refused_at_use(
    receiver: Receiver, call: Callable[..., Caller], outcomes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = call(receiver.url.replace("127.0.0.1", "localhost"))
    moved = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: moved)
    caller.tell("result", SERIES)
    wait_for(lambda: outcomes == ["failed"])
    assert receiver.got == []


def test_one_public_address_among_private_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 80)) for text in ("10.0.0.1", "8.8.8.8")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: found)
    with pytest.raises(UsageError, match="webhook_not_private"):
        check_webhook(Webhook(url="http://two-faced.example/x"))


def test_an_untrusted_certificate_is_refused(
    receiver: Receiver, call: Callable[..., Caller], outcomes: list[str], tmp_path: Path
) -> None:
    import ssl

    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    subprocess.run(
        [*made, "-subj", "/CN=localhost", "-keyout", tmp_path / "key", "-out", tmp_path / "cert"],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
    call(receiver.url.replace("http://", "https://")).tell("result", SERIES)
    wait_for(lambda: outcomes == ["failed"])
    assert receiver.got == []
