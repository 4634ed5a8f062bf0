"""What this machine has: each part looked at by itself, and no user names in what is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onfh_runtime import survey as module
from onfh_runtime.engines import find_gpus
from onfh_runtime.survey import survey, without_user_names

FAKE = Path(__file__).resolve().parents[1] / "helpers" / "fake_cuda.c"
TELL = "import json\nfrom onfh_runtime.survey import survey\nprint(json.dumps(survey()))"


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A folder with a CUDA driver of two GPUs that needs none."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    library = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([compiler, *library, str(FAKE), "-lpthread"], check=True)
    return folder


def told(driver, before="", **setting):
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), "PYTHONPATH": os.pathsep.join(sys.path), **setting}
    done = subprocess.run([sys.executable, "-c", f"{before}\n{TELL}"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU here")
def test_a_machine_without_a_gpu():
    found = survey()
    assert found["driver"]["code"] == "no_driver"
    assert found["driver"]["command"]
    assert found["gpus"] == []
    assert found["missing"] == []
    assert found["backends"]["auto"] == "onnxruntime"
    assert [refusal["code"] for refusal in found["backends"]["refused"]] == ["no_driver"] * 3
    assert found["decoders"]["uncompressed"]
    assert json.loads(json.dumps(found)) == found


def test_gpus_and_what_is_missing_for_them(driver):
    found = told(driver, "import sys\nsys.modules['cupy'] = sys.modules['pycuda'] = None")
    assert found["driver"]["cuda"] // 1000 == 13
    assert [gpu["compute_capability"] for gpu in found["gpus"]] == ["8.9", "12.0"]
    assert [gpu["integrated"] for gpu in found["gpus"]] == [False, False]
    assert found["gpus"][0]["memory_bytes"] > 0
    parts = {part["name"]: part for part in found["gpu_packages"]}
    assert parts["cupy"]["command"] == "pip install 'onfh-edge[gpu]'"
    assert "pycuda>=2026.1" in parts["pycuda"]["command"]
    codes = {refusal["backend"]: refusal["code"] for refusal in found["backends"]["refused"]}
    assert codes["onnxruntime-cuda"] == "missing_extra"


def test_commands_fit_an_older_driver(driver):
    found = told(driver, "import sys\nsys.modules['cupy'] = None", FAKE_VERSION="12040")
    assert found["gpu_packages"][0]["command"] == "pip install 'cupy-cuda12x>=14.0.1'"


def test_a_gpu_that_shares_its_memory(driver):
    assert all(gpu["integrated"] for gpu in told(driver, FAKE_INTEGRATED="1")["gpus"])


def test_broken_packages_cost_their_own_lines_only(tmp_path):
    for name, text in (
        ("cupy", "raise RuntimeError('CUDA path could not be detected\\nmore')"),
        ("tensorrt", "print('a banner'); raise OSError('libnvinfer.so.10: cannot open shared object file')"),
        ("imagecodecs", "raise ImportError('numpy.core.multiarray failed to import')"),
    ):
        (tmp_path / f"{name}.py").write_text(text + "\n")
    before = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})"
    found = told(tmp_path, before)
    assert found["gpu_packages"][0]["problem"] == "RuntimeError: CUDA path could not be detected"
    assert "libnvinfer.so.10" in found["tensorrt"][0]["problem"]
    assert found["missing"] == []
    assert found["cache"]["bytes"] >= 0


def test_whatever_a_look_raises_is_a_problem_and_no_end(monkeypatch):
    for name in ("_gpus", "_onnxruntime", "_backends", "_decoders", "_cache", "cpu_name", "_driver"):
        monkeypatch.setattr(module, name, lambda: 1 / 0)
    found = survey()
    for part in ("gpus", "onnxruntime", "backends", "decoders", "cache", "driver"):
        assert found[part]["problem"] == "ZeroDivisionError: division by zero"


def test_no_user_is_named(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/jdoe")
    told = without_user_names(
        {"a": ["/srv/people/jdoe/x", "dlopen(/home/asmith/lib/y.so) failed"], "b": "C is /Users/bob", "c": 3}
    )
    assert told == {"a": ["~/x", "dlopen(~/lib/y.so) failed"], "b": "C is ~", "c": 3}


def test_the_cache_is_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("ONFH_CACHE_DIR", str(tmp_path))
    (tmp_path / "plan").write_bytes(bytes(1000))
    assert survey()["cache"] == {"folder": without_user_names(str(tmp_path)), "bytes": 1000}
