from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onfh_runtime
from onfh_runtime.cpu import cores
from onfh_runtime.measure import machine_fingerprint

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a program that prints something in front of the path."""

    def put(name, says, code=0):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {code}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return put


def test_it_is_plain_json_and_names_what_decides_speed():
    found = machine_fingerprint()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["cpu"]["cores_usable"] == cores()
    assert found["cpu"]["name"]
    assert found["memory_gb"] > 0.5
    assert found["packages"]["numpy"] == np.__version__
    assert found["python"] == platform.python_version()


def test_it_names_no_user_no_host_and_no_path():
    text = json.dumps(machine_fingerprint())
    assert str(ROOT) not in text
    assert str(Path.home()) not in text
    for name in {getpass.getuser(), platform.node()} - {"root"}:
        assert f'"{name}"' not in text


def test_the_commit_is_that_of_this_checkout():
    asked = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip("this is no git checkout")
    assert machine_fingerprint()["commit"] == asked.stdout.strip()


def test_a_record_is_no_change_and_code_is(tmp_path, monkeypatch):
    folder = tmp_path / "runtime" / "onfh_runtime"
    results = tmp_path / "benchmarks" / "results"
    for path in (folder / "__init__.py", results / "made.json"):
        path.parent.mkdir(parents=True)
        path.write_text("before")
    user = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for words in (("init", "-q"), ("add", "."), (*user, "commit", "-q", "-m", "x")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(onfh_runtime, "__file__", str(folder / "__init__.py"))
    (results / "made.json").write_text("after")
    assert machine_fingerprint()["changed"] is False
    (folder / "__init__.py").write_text("after")
    assert machine_fingerprint()["changed"] is True


def test_an_installed_copy_in_another_checkout_takes_no_commit_from_it(tmp_path):
    """A virtual environment often lies in somebody's repository, whose commit says nothing of this package."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    copy = tmp_path / "site" / "onfh_runtime"
    shutil.copytree(ROOT / "runtime" / "onfh_runtime", copy)
    code = "from onfh_runtime.measure import machine_fingerprint as f; found = f(); print(found['commit'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(copy.parent)},
    )
    assert done.stdout.strip() == "None"


def test_gpus_as_nvidia_smi_tells_them(program):
    program(
        "nvidia-smi",
        "NVIDIA X, 570.1, 24564, 450.00, 210, 3105, 405, 10501, P8, 31\n"
        "NVIDIA Y, 570.1, 1, [N/A], 1, 2, 3, 4, P0, [Not Supported]",
    )
    first, second = machine_fingerprint()["gpus"]
    assert first["name"] == "NVIDIA X"
    assert first["driver"] == 570.1
    assert (first["sm_clock_max_mhz"], first["memory_clock_mhz"], first["performance_state"]) == (3105, 405, "P8")
    assert second["power_limit_w"] is None
    assert second["temperature_c"] is None


def test_a_program_that_fails_says_nothing(program):
    program("nvidia-smi", "No devices were found", code=6)
    assert machine_fingerprint()["gpus"] == []


def test_the_power_mode_of_a_jetson(program):
    program("nvpmodel", "NV Power Mode: MAXN_SUPER\n2")
    assert machine_fingerprint()["jetson_power_mode"] == "MAXN_SUPER"
