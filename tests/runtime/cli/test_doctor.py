"""``onfh doctor`` in words and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from onfh_runtime import survey as module
from onfh_runtime.cli.doctor import lines
from onfh_runtime.cli.main import main
from onfh_runtime.survey import survey


def spoken(found):
    return "\n".join(f"{name}: {text}" for name, text in lines(found))


@pytest.fixture(scope="module")
def found():
    return survey()


def test_json_is_all_that_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "onfh_runtime.cli.main", "doctor", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert set(json.loads(done.stdout)) >= {"backends", "cache", "decoders", "driver", "gpus", "machine", "tensorrt"}


def test_a_missing_required_package_is_the_only_failure(monkeypatch, capsys):
    original = module._version
    monkeypatch.setattr(module, "_version", lambda name: None if name == "torch" else original(name))
    assert main(["doctor"]) == 0
    assert "pip install 'onfh-edge[export]'" in capsys.readouterr().out
    monkeypatch.setattr(module, "_version", lambda name: None if name == "highdicom" else original(name))
    assert main(["doctor"]) == 1
    assert "MISSING: pip install --force-reinstall onfh-edge" in capsys.readouterr().out


def test_what_auto_runs_and_why_not_better(found):
    said = spoken(found)
    assert f"backend: auto is {found['backends']['auto']}" in said
    for refusal in found["backends"]["refused"]:
        assert f"{refusal['text']} [{refusal['code']}]" in said


def test_backends_refused_for_one_reason_share_a_line(found):
    refused = [
        {"backend": name, "code": code, "text": text, "fix": ""}
        for name, code, text in (("a", "x", "No a."), ("b", "y", "No b."), ("c", "x", "No a."))
    ]
    said = spoken({**found, "backends": {"auto": "d", "refused": refused}})
    assert ": not a, c: No a. [x]\n: not b: No b. [y]" in said


def test_a_machine_with_a_gpu(found):
    gpu = {"ordinal": 0, "name": "A GPU", "compute_capability": "8.7", "memory_bytes": 16 << 30, "integrated": True}
    flavour = {"name": "tensorrt-rtx", "version": "1.7", "brings": "", "builds_for": ["sm75", "sm89"]}
    said = spoken(
        {
            **found,
            "driver": {"cuda": 13020, "version": "580.95"},
            "gpus": [gpu],
            "gpu_packages": [{"name": "cupy", "version": "14.2, built for CUDA 13.0", "brings": ""}],
            "tensorrt": [{**flavour, "knows_gpu": False}],
            "onnxruntime": {"version": "1", "providers": ["CUDAExecutionProvider"], "command": "x"},
        }
    )
    assert "driver: 580.95, serves CUDA 13.2" in said
    assert "gpu 0: A GPU, compute capability 8.7, 16.0 GiB shared with the processor" in said
    assert "cupy: 14.2, built for CUDA 13.0" in said
    assert "tensorrt-rtx: 1.7, builds for sm75, sm89; does not know this GPU" in said
    assert "providers: CUDAExecutionProvider" in said


def test_problems_are_spoken(found):
    broken = {"problem": "OSError: broken"}
    parts = ("gpus", "backends", "decoders", "cache", "onnxruntime")
    said = spoken({**found, **dict.fromkeys(parts, broken)})
    assert said.count("OSError: broken") == len(parts)
