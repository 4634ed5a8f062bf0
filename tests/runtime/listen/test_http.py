"""The HTTP server, asked by a real client and by bare sockets."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listen_journal import STUDY, answer
from prometheus_client.parser import text_string_to_metric_families

from onfh_runtime.errors import UsageError
from onfh_runtime.listen import http_server
from onfh_runtime.listen.http import HttpServer
from onfh_runtime.listen.journal import Journal
from onfh_runtime.listen.metrics import Metrics

TOKEN = "0123456789abcdef0123456789abcdef"
SERIES = "1.2.826.0.1.3680043.8.498.1.1"
REPORT = f"/reports/{STUDY}/{SERIES}/report.html"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
Start = Callable[..., HttpServer]


@pytest.fixture
def problems() -> list[str]:
    return []


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


@pytest.fixture
def server(start: Start) -> HttpServer:
    return start()


@pytest.fixture
def start(tmp_path: Path, journal: Journal, problems: list[str]) -> Iterator[Start]:
    servers = []

    def started(token: str | None = None, address: str = "127.0.0.1") -> HttpServer:
        metrics = Metrics(journal, tmp_path)
        results = tmp_path / "results"
        server = HttpServer(
            address, 0, token=token, journal=journal, results=results, metrics=metrics, problems=lambda: problems
        )
        server.start()
        servers.append(server)
        return server

    yield started
    for server in servers:
        server.close()


def ask(
    server: HttpServer, path: str, *, method: str = "GET", body: str | None = None, **headers: str
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    answer.text = answer.read().decode()  # type: ignore[attr-defined]
    connection.close()
    return answer


def text(server: HttpServer, path: str, **headers: str) -> str:
    return str(ask(server, path, **headers).text)  # type: ignore[attr-defined]


def raw(server: HttpServer, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(sent)
        got = b""
        while block := connection.recv(65536):
            got += block
        return got


def test_metrics_are_metrics(start: Start) -> None:
    answer = ask(start(), "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(answer.text)}  # type: ignore[attr-defined]
    assert {"onfh_series", "onfh_disk_free_bytes", "onfh_objects_received"} <= names


def test_health_says_live_and_ready(start: Start, problems: list[str], journal: Journal) -> None:
    server = start()
    assert ask(server, "/health").status == ask(server, "/health/ready").status == 200
    assert json.loads(text(server, "/health")) == {"live": True, "ready": True, "problems": []}
    problems.append("disk_full")
    assert ask(server, "/health").status == ask(server, "/health/ready").status == 503
    assert json.loads(text(server, "/health"))["problems"] == ["disk_full"]
    assert ask(server, "/health/live").status == 200
    journal.close()
    assert ask(server, "/metrics").status == 503


def test_the_list_of_series_and_its_report(start: Start, journal: Journal) -> None:
    folder = answer(journal, SERIES)
    server = start()
    document = json.loads(text(server, "/api/series"))
    assert document["schema"] == "onfh-series/1"
    (series,) = document["series"]
    assert series["reports"] == [REPORT]
    assert series["latency_ms"] == 1234.0
    assert text(server, REPORT) == (folder / "report.html").read_text()
    (folder / "part-2").mkdir()
    (folder / "part-10").mkdir()
    for place in (folder / "part-10", folder / "part-2"):
        (place / "report.html").write_text(place.name)
    (folder / "report.html").unlink()
    (series,) = json.loads(text(server, "/api/series"))["series"]
    assert [text(server, url) for url in series["reports"]] == ["part-2", "part-10"]


def test_every_answer_has_its_guards(start: Start, journal: Journal) -> None:
    answer(journal, SERIES)
    server = start()
    for path in ("/", "/listen.js", "/listen.css", "/login", "/api/series", "/metrics", "/health", REPORT, "/none"):
        headers = ask(server, path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert "Python" not in headers["Server"]
    assert "sandbox" in ask(server, REPORT).headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/reports/../journal.sqlite",
        "/reports/1/../../journal.sqlite",
        f"/reports/{STUDY}/{SERIES}/../report.html",
        f"/reports/{STUDY}/{SERIES}/sr.dcm",
        f"/reports/{STUDY}/{SERIES}/",
        f"/reports/{STUDY}/{SERIES}//report.html",
        f"/reports/{STUDY}/{SERIES}/part-0/report.html",
        f"/reports/{STUDY}/{SERIES}/part-1/../report.html",
        f"/reports/{STUDY}/%2e%2e/report.html",
        f"/reports/{STUDY}/{SERIES}%00/report.html",
        f"/reports//{STUDY}/report.html",
        "/reports/",
        f"/reports/{STUDY}/escape/report.html",
        f"/reports/{STUDY}/1.9/report.html",
        "//etc/passwd",
        "/listen.py",
        "/http.py",
    ],
)
def test_nothing_but_reports_is_served(start: Start, journal: Journal, tmp_path: Path, path: str) -> None:
    folder = answer(journal, SERIES)
    (folder / "sr.dcm").write_bytes(b"private")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "report.html").write_text("private")
    for name in ("escape", "1.9"):
        (folder.parent / name).symlink_to(outside)
    got = raw(start(), f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert got.startswith(b"HTTP/1.0 404 ")
    assert b"private" not in got


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(path=st.lists(st.sampled_from(["..", ".", "reports", STUDY, SERIES, "report.html", "part-1", "%2e", "", "x"])))
def test_no_path_leads_out(server: HttpServer, tmp_path: Path, path: list[str]) -> None:
    (tmp_path / "report.html").write_text("private")
    got = raw(server, f"GET /{'/'.join(path)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert b"private" not in got


def test_another_hosts_name_is_turned_away(start: Start) -> None:
    server = start()
    for host in ("evil.example", "evil.example:8080", "10.0.0.1"):
        assert ask(server, "/api/series", Host=host).status == 421
        assert ask(server, "/login", method="POST", body="", Host=host).status == 421
    assert b" 421 " in raw(server, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert ask(server, "/metrics", Host="localhost:1").status == 200


def test_with_a_token_nothing_is_said_without_it(start: Start, journal: Journal) -> None:
    answer(journal, SERIES)
    server = start(TOKEN)
    for path in ("/api/series", "/metrics", "/health", "/health/live", "/none"):
        refused = ask(server, path)
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert ask(server, path, Authorization=f"Bearer {TOKEN[:-1]}0").status == 401
        assert ask(server, path, **BEARER).status != 401
    for path in ("/", REPORT):
        assert (ask(server, path).status, ask(server, path).headers["Location"]) == (303, "/login")
        assert ask(server, path, **BEARER).status == 200


def test_login_gives_a_cookie_and_logout_takes_it(start: Start) -> None:
    server = start(TOKEN)
    wrong = ask(server, "/login", method="POST", body="token=wrong")
    assert (wrong.headers["Location"], wrong.headers["Set-Cookie"]) == ("/login?wrong", None)
    right = ask(server, "/login", method="POST", body=f"token={TOKEN}")
    cookie = right.headers["Set-Cookie"]
    assert right.headers["Location"] == "/"
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    pair = cookie.split(";")[0]
    assert ask(server, "/api/series", Cookie=pair).status == 200
    assert ask(server, "/api/series", Cookie=pair + "0").status == 401
    assert "Max-Age=0" in ask(server, "/logout", method="POST", body="").headers["Set-Cookie"]


def test_without_a_token_a_login_gives_nothing(start: Start) -> None:
    assert ask(start(), "/login", method="POST", body="token=").headers["Set-Cookie"] is None


def test_bodies_and_methods_are_bounded(start: Start) -> None:
    server = start(TOKEN)
    assert ask(server, "/login", method="POST", body="x" * 5000).status == 413
    for length in (b"-1", b"x", b"99999999999999999999"):
        sent = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + length + b"\r\n\r\n"
        assert b" 413 " in raw(server, sent)
    assert ask(server, "/api/series", method="POST", body="").status == 404
    for method in ("PUT", "DELETE", "OPTIONS"):
        assert ask(server, "/", method=method).status == 501


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"<script>alert(1)</script>\r\n\r\n",
    ],
)
def test_what_is_no_request_is_answered_without_quoting_it(start: Start, sent: bytes) -> None:
    server = start()
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        try:
            connection.sendall(sent)
            got = connection.recv(65536)
        except ConnectionError:  # it hung up on the rest
            got = b""
    assert b"<script>" not in got
    assert ask(server, "/health").status == 200


def test_slow_and_many_connections_do_not_keep_others_out(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(http_server, "CONNECTION_S", 1.0)
    server = start()
    slow = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(4)]
    for connection in slow:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: loc")
    time.sleep(0.3)
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(server, "/health")
    until = time.monotonic() + 5
    while True:
        for connection in slow:  # a byte now and then does not make them live longer
            try:
                connection.sendall(b"a")
            except OSError:
                continue
        try:
            assert ask(server, "/health").status == 200
            break
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < until, "slow connections keep others out"
            time.sleep(0.1)
    for connection in slow:
        connection.close()


def test_a_taken_port_is_told(start: Start, tmp_path: Path, journal: Journal) -> None:
    port = start().port
    with pytest.raises(UsageError, match="address_unusable"):
        HttpServer(
            "127.0.0.1",
            port,
            token=None,
            journal=journal,
            results=tmp_path,
            metrics=Metrics(journal, tmp_path),
            problems=list,
        )


def test_off_loopback_a_token_is_a_must(start: Start) -> None:
    with pytest.raises(UsageError, match="token_required"):
        start(None, "0.0.0.0")
    server = start(TOKEN, "0.0.0.0")
    assert ask(server, "/metrics").status == 401


def test_ipv6(start: Start) -> None:
    server = start(None, "::1")
    connection = http.client.HTTPConnection("::1", server.port, timeout=10)
    connection.request("GET", "/health/live")
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET http://[ HTTP/1.0\r\nHost: localhost\r\n\r\n", b" 400 "),
        (b"POST /login HTTP/1.0\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b" 413 "),
    ],
)
def test_what_cannot_be_read_is_answered(
    start: Start, sent: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert status in raw(start(), sent)
    assert caplog.records == []


def test_results_behind_a_link_are_shown(start: Start, tmp_path: Path, journal: Journal) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    answer(journal, SERIES)
    server = start()
    (shown,) = json.loads(text(server, "/api/series"))["series"]
    assert shown["reports"] == [REPORT]
    assert ask(server, REPORT).status == 200
