"""What the latency of the node is made of, and the link that sends at a scanner's pace."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import listen_latency
import pytest


def test_quiet_time_is_named_apart_and_needed_is_engine_and_writing(tmp_path):
    timing = {"read": 10.0, "preprocess": 20.0, "classify": 30.0, "segment": 70.0, "postprocess": 5.0, "write": 100.0}
    (tmp_path / "result.json").write_text(json.dumps({"timing_ms": {**timing, "total": 235.0}}))
    row = SimpleNamespace(folder=tmp_path, latency_ms=1250.0, outside_engine_ms=1150.0)
    found = listen_latency.figures(row, quiet_s=1.0)
    assert (found["latency"], found["after_quiet"], found["engine"], found["needed"]) == (1250.0, 250.0, 100.0, 200.0)
    assert found["over_needed"] == 1.25
    assert found["rest"] == 15.0


def test_a_link_lets_so_many_bytes_a_second_in_and_all_of_them_through():
    server = socket.create_server(("127.0.0.1", 0))
    link = listen_latency.Link(server.getsockname()[1], bytes_per_s=1e6)
    got = bytearray()

    def serve():
        connection = server.accept()[0]
        with connection:
            while data := connection.recv(1 << 16):
                got.extend(data)
            connection.sendall(b"done")

    thread = threading.Thread(target=serve)
    thread.start()
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", link.port)) as sender:
        sender.sendall(bytes(300_000))
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(10) == b"done"
    assert time.monotonic() - start > 0.25
    thread.join(5)
    link.close()
    server.close()
    assert len(got) == 300_000


@pytest.mark.slow
def test_a_case_runs_once(tmp_path):
    script = Path(listen_latency.__file__)
    words = ["--series", "1", "--slices", "30", "--matrix", "128", "--threads", "1"]
    words += ["--only", "coronal", "whole", "burst", "count", "--json", str(tmp_path / "latency.json")]
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "latency.json").read_text())
    (figures,) = document["results"].values()
    assert figures["latency"]["max"] >= figures["engine"]["max"] > 0
