"""Records of suites: what is kept of pytest-benchmark's figures, and that the right runtime was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import run
from run import figures, machine_name, main, run_suite

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ("--smoke", "--benchmark-min-rounds=6", "--benchmark-max-time=0.01")


def test_a_record_of_a_suite(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "USUAL", SMOKE[1:])
    assert main(["evaluate", "--smoke", "--out", str(tmp_path), "--machine", "here"]) == 0
    made = json.loads((tmp_path / "bench-evaluate-here.json").read_text())
    assert made["schema"] == "onfh-benchmark/1"
    assert made["name"] == "bench-evaluate"
    assert made["settings"]["smoke"] is True
    assert made["machine"]["cpu"]["name"]
    assert made["does_not_measure"]
    seconds = made["results"]["hd95"]["seconds"]
    assert seconds["count"] >= 6
    assert 0 < seconds["min"] <= seconds["low"] <= seconds["median"] <= seconds["high"] <= seconds["max"]
    assert made["results"]["hd95"]["pairs"] == 20


def test_figures_of_few_rounds_have_no_interval():
    entry = {"stats": {"data": [3.0, 1.0, 2.0]}, "extra_info": {"slices": 4}}
    seconds = {"min": 1.0, "median": 2.0, "max": 3.0, "count": 3, "low": None, "high": None}
    assert figures(entry) == {"seconds": seconds, "slices": 4}


def test_a_suite_that_fails_is_no_record(tmp_path):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (folder / "bench_bad.py").write_text("def test_bad(benchmark):\n    benchmark(int, 'x')\n")
    with pytest.raises(SystemExit, match="suite bad ended with 1"):
        run_suite("bad", (), root=tmp_path)


def test_another_runtime_than_the_checkouts_is_no_record(tmp_path):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("conftest.py", "suite_cases.py"):
        shutil.copy(ROOT / "benchmarks" / name, folder)
    (folder / "bench_good.py").write_text("def test_good(benchmark):\n    benchmark(int, '1')\n")
    with pytest.raises(SystemExit, match="was measured, not that of"):
        run_suite("good", SMOKE, root=tmp_path)


def test_figures_of_smoke_are_no_results(capsys):
    with pytest.raises(SystemExit):
        main(["--smoke"])
    assert "no results" in capsys.readouterr().err


def test_machines_are_named_by_what_computes():
    assert machine_name({"gpus": [], "cpu": {"cores_usable": 2}}) == "2-core-cpu"
    assert machine_name({"gpus": [{"name": "NVIDIA RTX 6000 Ada"}], "cpu": {}}) == "nvidia-rtx-6000-ada"
