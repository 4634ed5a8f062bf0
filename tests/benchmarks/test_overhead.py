"""What an analysis costs beyond its backend calls: the sums, and a run from end to end."""

from __future__ import annotations

import json
import sys

import overhead
import pytest
from suite_cases import TINY, axial_series, candidate_of, open_demo

from onfh_runtime.pipeline import Pipeline


def test_a_row_is_set_against_its_own_calls_and_against_calls_alone(monkeypatch):
    """Three studies of 6 s with 5 s of calls in the row; alone the calls take 4 s before it and 5 s after it."""
    alone = iter([(4.0, 30), (5.0, 30)])
    rows = iter([(1.0, 1.0, [1.0]), (18.0, 15.0, [7.0, 12.0, 18.0])])
    monkeypatch.setattr(overhead, "one_alone", lambda *_: next(alone))
    monkeypatch.setattr(overhead, "in_lanes", lambda *_: next(rows))
    monkeypatch.setattr(overhead, "written_below", lambda *_: None)
    figures = overhead.lanes(open_demo(), None, 3, 1, None)
    assert figures["wall_over_calls"]["median"] == 18 / 15
    assert figures["wall_over_calls_alone"]["median"] == 18 / 13.5
    assert figures["outside_calls_alone_s_per_study"]["median"] == 1.5
    assert figures["steady_outside_calls_alone_s_per_study"]["median"] == 12 - 7 - 4.5


def test_calls_alone_are_those_of_one_study(tmp_path):
    candidate = candidate_of(axial_series(tmp_path / "study", TINY.axial, TINY.matrix))
    with Pipeline(open_demo(), backend="onnxruntime") as pipeline:
        seconds, rows = overhead.one_alone(pipeline, candidate)
        wall, calls, answered = overhead.in_lanes(pipeline, candidate, 2, lambda analysis: analysis)
    assert rows > 10
    assert seconds > 0
    assert len(answered) == 2
    assert 0 < calls < wall == answered[-1]


@pytest.mark.slow
def test_smoke(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["overhead.py", "--smoke", "--json", str(tmp_path / "o.json")])
    assert overhead.main() == 0
    made = json.loads((tmp_path / "o.json").read_text())
    assert made["schema"] == "onfh-benchmark/1"
    assert made["does_not_measure"]
    demo = made["results"]["demo"]
    assert demo["whole_process"]["outside_calls_s"]["median"] > 0
    assert demo["one_study"]["rows_per_study"] == sum(demo["whole_process"]["rows"].values())
    assert demo["row"]["studies"] == made["settings"]["row"]
