"""The command around the GPU figures, where there is no GPU: what it says, and how its parts end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import gpu_check
import pytest
from gpu_check import Check, gpu_test_files, install, main, outcomes, run_all, slug, survey_of

from onfh_runtime.engines import find_gpus

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def check(tmp_path):
    return Check(tmp_path, tmp_path / "check.json", tmp_path / "site", 60, gpu_check._environment(tmp_path, None))


@pytest.mark.skipif(bool(find_gpus()), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_ends_with_2(tmp_path, capsys):
    assert main(["--json", str(tmp_path / "out" / "check.json")]) == 2
    said = capsys.readouterr().out
    assert "No GPU can be used here: There is no NVIDIA driver here" in said
    written = json.loads((tmp_path / "out" / "check.json").read_text())
    assert written["schema"] == "onfh-gpu-check/1"
    assert written["environment"]["backends"]["auto"] == "onnxruntime"
    assert "[no_driver]" in written["verdict"]
    assert [part["part"] for part in written["parts"]] == ["environment", "opening"]


def test_a_part_that_takes_too_long_is_ended_with_all_it_started(check, monkeypatch, tmp_path):
    monkeypatch.setitem(gpu_check.LIMITS, "kernels", 2)
    child = f"import time; time.sleep(30); open({str(tmp_path / 'late')!r}, 'w')"
    script = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    ended = check.run("kernels", [sys.executable, "-c", script])
    assert ended.problem == "it was stopped after 2 s"
    assert ended.seconds < 10
    assert ended.output == "begun\n"
    until = time.monotonic() + 10  # a killed process takes a moment to end
    while str(tmp_path / "late") in (running := _running()) and time.monotonic() < until:
        time.sleep(0.1)
    assert str(tmp_path / "late") not in running


def _running():
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_what_is_left_of_the_time_bounds_a_part(check):
    check.seconds = gpu_check.CLOSING_S
    assert "were used up" in check.run("kernels", [sys.executable, "-c", "raise SystemExit(3)"]).problem
    check.seconds = 60
    assert check.run("kernels", [sys.executable, "-c", "raise SystemExit(3)"]).problem == "it ended with 3"


def test_the_environment_is_read_though_packages_print(check):
    check.environment["PYTHONWARNINGS"] = "default"
    found = survey_of(check)
    assert found["missing"] == []
    assert found["fingerprint"]["cpu"]["name"]


PART = """
import sys
import time
from pathlib import Path
from gpu_figures import Recorder
part, _, file = sys.argv[1:4]
out = Recorder(Path(file), part.replace("_", " "))
out.plan("first", "second")
out.say("first", 1.0, "ms")
sys.exit(3 if part == "case_b" else 0)
"""


def test_partial_figures_are_kept_and_the_rest_is_absent_by_name(check, monkeypatch, tmp_path):
    """Every part is a stand-in; one of them ends early."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "gpu.py").write_text(PART)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_check, "OPENED", "pass")
    monkeypatch.setattr(gpu_check, "run_tests", lambda check: {"passed": 2, "failed": {}, "skipped": {"a": "why"}})
    assert run_all(check, None) == 1
    by_name = {(figure.part, figure.name): figure for figure in check.figures}
    assert by_name["kernels", "first"].value == 1.0
    assert by_name["kernels", "second"].absent == "the part did not come to it"
    assert by_name["case b", "second"].absent == "it ended with 3"
    assert by_name["case b", "the rest"].value is None
    assert by_name["peers b", "first"].value == 1.0
    assert "tests: 2 passed, 0 failed, 1 skipped" in check.report["verdict"]
    assert json.loads(check.json.read_text())["figures"][0]["part"] == "kernels"


def test_files_with_a_gpu_test_are_found():
    found = {Path(name).name for name in gpu_test_files(ROOT / "tests")}
    assert {"test_device.py", "test_device_backends_on_gpu.py"} <= found
    assert "test_bundle.py" not in found


def test_outcomes_are_told_by_test(tmp_path):
    (tmp_path / "test_three.py").write_text(
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): assert 1 == 2, 'unlike'\n"
        "def test_c(): pytest.skip('no GPU')\n"
    )
    xml = tmp_path / "out.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={xml}", "-c", "/dev/null"]
    subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True)
    found = outcomes(xml)
    assert found["passed"] == 1
    assert [name.rsplit("::")[-1] for name in found["failed"]] == ["test_b"]
    assert "unlike" in next(iter(found["failed"].values()))
    assert next(iter(found["skipped"].values())) == "no GPU"
    assert outcomes(tmp_path / "none.xml")["failed"] == {"pytest": "it wrote no results"}


def test_wheels_are_unpacked_where_the_parts_look(check, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "only_here.py").write_text("answer = 42\n")
    (source / "pyproject.toml").write_text("[project]\nname = 'only-here'\nversion = '1'\n")
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-q"]
    done = subprocess.run([*build, "-w", str(wheels), str(source)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no wheel can be built here: {done.stderr.splitlines()[-1]}")
    install(check, wheels)
    ended = check.run("environment", [sys.executable, "-c", "import only_here; print(only_here.answer)"])
    assert (ended.problem, ended.output) == ("", "42\n")


def test_a_gpu_names_its_file():
    assert slug("NVIDIA RTX 6000 Ada (Generation)") == "nvidia-rtx-6000-ada-generation"
