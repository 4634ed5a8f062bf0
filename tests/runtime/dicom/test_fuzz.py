"""A short run of the fuzz target: tests/fuzz_dicom.py says what a failure is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TARGET = Path(__file__).parents[2] / "fuzz_dicom.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the target limits memory as Linux does")
def test_damaged_and_hostile_files_are_taken_by_name():
    command = [sys.executable, str(TARGET), "--files", "600", "--series", "120", "--seed", "20261123"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert " read\n" in run.stdout
    assert " refused: " in run.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the target limits memory as Linux does")
def test_the_target_tells_a_failure(tmp_path):
    """With a reader that hangs, dies, and raises what is not ours, every case is counted and the exit code is 1."""
    broken = tmp_path / "fuzz_dicom.py"
    case = "def run_case(folder: Path) -> list[str]:\n"
    body = "    import random; kind = random.Random(str(folder)).randrange(3)\n"
    body += "    if kind == 0: os.kill(os.getpid(), 11)\n    if kind == 1: time.sleep(9)\n    raise KeyError(kind)\n"
    broken.write_text(TARGET.read_text().replace(case, case + body))
    command = [sys.executable, str(broken), "--files", "6", "--series", "0"]
    environment = {**os.environ, "PYTHONPATH": str(TARGET.parent / "helpers")}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 1, run.stdout
    assert "6 failed" in run.stdout
    assert "--case files:" in run.stdout
