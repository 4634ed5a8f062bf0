"""Every benchmark of every suite runs, once and tiny."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITES = sorted((ROOT / "benchmarks").glob("bench_*.py"))


def test_there_is_a_suite_for_every_room():
    names = {path.stem.removeprefix("bench_") for path in SUITES}
    rooms = {"read", "decode", "preprocess", "anatomy", "backends", "pipeline", "outputs", "listen"}
    assert rooms | {"export", "evaluate"} <= names


@pytest.mark.slow
def test_every_benchmark_runs_once():
    command = [sys.executable, "-m", "pytest", *map(str, SUITES), "--smoke", "--benchmark-disable", "-q"]
    done = subprocess.run([*command, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_suite_says_what_it_does_not_measure(path):
    left_out = importlib.import_module(path.stem).DOES_NOT_MEASURE
    assert left_out
    assert all(isinstance(each, str) and each for each in left_out)
