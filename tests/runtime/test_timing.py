from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from onfh_runtime.timing import Stopwatch

TOOL = Path(__file__).resolve().parents[1] / "helpers" / "nvtx_tool.c"
SCRIPT = """
import threading
from onfh_runtime.timing import Stopwatch
clock = Stopwatch()
with clock.step("read"):
    pass
with clock.enqueue("classify"):
    with clock.step("segment"):
        pass
def write():
    with clock.step("write"):
        pass
thread = threading.Thread(target=write)
thread.start()
thread.join()
"""


def test_steps_add_up_by_name_and_lane():
    clock = Stopwatch()
    clock.add("read", 1.0, 1.5, lane="a")
    clock.add("read", 2.0, 2.25, lane="b")
    clock.add("write", 3.0, 3.125)
    timing = clock.timing
    assert (timing.read, timing.write, timing.total) == (750, 125, 875)
    assert [(span.lane, span.seconds) for span in clock.spans][:2] == [("a", 0.5), ("b", 0.25)]
    assert clock.spans[2].lane == threading.current_thread().name


def test_a_step_that_fails_took_its_time_all_the_same():
    clock = Stopwatch()
    with pytest.raises(ValueError, match="no"), clock.step("read"):
        raise ValueError("no")
    with pytest.raises(ValueError, match="no"), clock.enqueue("classify"):
        raise ValueError("no")
    assert [span.step for span in clock.spans] == ["read"]
    assert [span.step for span in clock.enqueues] == ["classify"]


def test_queueing_is_no_step():
    clock = Stopwatch()
    with clock.enqueue("classify"):
        pass
    assert clock.spans == ()
    assert clock.timing.total == 0


def test_a_profiler_sees_every_step(tmp_path):
    """NVTX's own binding, with a profiler in C: the ranges, their domain, and the threads they are on."""
    compiler = shutil.which("gcc") or shutil.which("g++")
    if find_spec("nvtx") is None or compiler is None:
        pytest.skip("nvtx or a C compiler is not installed")
    library = tmp_path / "tool.so"
    subprocess.run([compiler, "-xc", "-O1", "-shared", "-fPIC", str(TOOL), "-o", str(library)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NVTX_INJECTION64_PATH": str(library), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = [line.split() for line in done.stderr.splitlines()]
    assert [line[:-1] for line in lines] == [
        ["push", "onfh", "read"],
        ["pop", "onfh"],
        ["push", "onfh", "classify"],
        ["push", "onfh", "segment"],
        ["pop", "onfh"],
        ["pop", "onfh"],
        ["push", "onfh", "write"],
        ["pop", "onfh"],
    ]
    assert len({line[-1] for line in lines[:6]}) == 1
    assert lines[6][-1] != lines[0][-1]


def test_without_nvtx_a_step_is_timed_all_the_same():
    script = f"import sys\nsys.modules['nvtx'] = None\n{SCRIPT}\nprint([span.step for span in clock.spans])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == "['read', 'segment', 'write']"
