"""What is measured of another process: its time, its memory, and that it failed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import Kept, run_whole

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
KEPT = f"""
import sys, time
sys.path.insert(0, {str(PEERS)!r})
from common import serve
print("a notice")
serve({{"nap": lambda: time.sleep(0.2), "large": lambda: bytearray(b"1") * 200_000_000, "fail": lambda: 1 / 0}})
"""


def test_time_and_memory_of_a_whole_process():
    small = run_whole([sys.executable, "-c", "import time; time.sleep(0.3)"])
    large = run_whole([sys.executable, "-c", "made = bytearray(b'1') * 200_000_000"])
    assert small.wall_s >= 0.3
    assert small.cpu_s < 0.3
    assert 150 < large.peak_mb - small.peak_mb < 250


def test_what_a_process_says():
    run = run_whole([sys.executable, "-c", "import sys; print('out'); print('beside', file=sys.stderr)"])
    assert {"out", "beside"} <= set(run.said.split())


def test_a_process_that_fails():
    with pytest.raises(RuntimeError, match=r"ended with 3:\n(.|\n)*no such study"):
        run_whole([sys.executable, "-c", "import sys; print('no such study'); sys.exit(3)"])


def test_a_kept_process(tmp_path):
    with Kept([sys.executable, "-c", KEPT], tmp_path / "log") as kept:
        assert kept.tasks == ["fail", "large", "nap"]
        assert 0.2 <= kept.seconds("nap") < 5
        kept.seconds("large")
        peak = kept.finish()
    if peak is None:
        pytest.skip("this system does not say how much memory a process had")
    assert 200 < peak < 400


def test_a_kept_process_that_fails(tmp_path):
    with Kept([sys.executable, "-c", KEPT], tmp_path / "log") as kept, pytest.raises(RuntimeError, match="division by"):
        kept.seconds("fail")


def test_a_kept_process_that_never_starts(tmp_path):
    with pytest.raises(RuntimeError, match="no such peer"):
        Kept([sys.executable, "-c", "raise SystemExit('no such peer')"], tmp_path / "log")


def test_threads_are_left_to_each_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    said = run_whole([sys.executable, "-c", "import os; print(os.environ.get('OMP_NUM_THREADS'))"]).said
    assert said.split() == ["None"]
