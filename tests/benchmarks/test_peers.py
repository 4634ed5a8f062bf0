"""The peers that the project's own environment can run answer as this runtime does; all of them, where theirs is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import peers
import pytest
from peer_answers import StudyLimits, stack_differs, study_differs

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    pytest.importorskip("torch")
    from peer_cases import write_case, write_study

    folder = tmp_path_factory.mktemp("peers")
    return write_case("demo", write_study(folder / "study", 60, 512), folder / "demo")


def answers(script, case, out, *words):
    command = [sys.executable, PEERS / script, case.path, "--out", out, *words]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return out


@pytest.mark.slow
def test_monai_and_torch(case, tmp_path):
    pytest.importorskip("monai")
    theirs = answers("monai_torch.py", case, tmp_path / "tuned.npz", "--route", "tuned")
    said = study_differs(case.answers, theirs, StudyLimits(probability=0.05, dice=0.95))
    assert said["within_limits"], said


@pytest.mark.slow
def test_simpleitk(case, tmp_path):
    pytest.importorskip("SimpleITK")
    theirs = tmp_path / "simpleitk.npz"
    with peers.Kept(
        [sys.executable, PEERS / "simpleitk_read.py", case.path, "--out", theirs], tmp_path / "log"
    ) as kept:
        assert kept.tasks == ["averaged", "points", "read"]
    said = stack_differs(case.answers, theirs, "averaged", most_hu=1)
    assert said["within_limits"], said
    with np.load(case.answers) as a, np.load(theirs) as b:
        assert np.ptp(a["stack"]) > 1000
        assert a["stack"].shape == b["points"].shape


@pytest.mark.slow
def test_a_peer_that_cannot_run_is_left_out_by_its_reason(case, tmp_path):
    absent = {"absent": [sys.executable, "-c", "raise SystemExit('this torch sees no GPU')"]}
    figures = peers.in_turns(case, "read", absent, 1, tmp_path)
    assert figures["absent"] == {"left_out": "this torch sees no GPU"}
    assert figures["onfh"]["seconds"]["read"]["count"] == 1


def test_the_reason_is_the_line_that_names_the_error():
    said = "a peer ended with 1:\nTraceback\nValueError: no such operator\n\nSet TORCH_LOGS for more"
    assert peers._reason(said) == "ValueError: no such operator"


def test_no_ratio_beside_other_answers():
    ratio = {"over_onfh": {"median": 3.0}}
    assert "over_onfh" in peers._compared({"within_limits": True}, **ratio)
    refused = peers._compared({"within_limits": False}, **ratio)
    assert "over_onfh" not in refused
    assert refused["ratios"] == "refused: other answers"


@pytest.mark.slow
@pytest.mark.skipif(not peers.PEERS_PYTHON.exists(), reason="`make bench-peers` has not made the peers' environment")
def test_the_whole_comparison_runs(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "peers.py", "--smoke", "--json", tmp_path / "peers.json"]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads((tmp_path / "peers.json").read_text())["results"]["demo"]
    assert "wall_over_onfh" in found["whole_process"]["monai_torch_tuned"]
    assert "seconds_over_onfh" in found["steady_state"]["monai_torch_tuned"]
    assert "over_onfh" in found["read"]["simpleitk"]["averaged"]
    for way in ("torch eager", "torch.compile", "OpenVINO FP32"):
        assert {"classifier_over_onfh", "segmenter_over_onfh"} <= found["stages"][way].keys(), found["stages"][way]
