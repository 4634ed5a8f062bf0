"""Figures on their way from a part's process to the table."""

from __future__ import annotations

import pytest
from gpu_figures import Figure, Recorder, read_figures, table


@pytest.fixture
def file(tmp_path):
    return tmp_path / "part.jsonl"


def test_what_was_said_is_read_and_what_was_only_planned_is_absent(file):
    out = Recorder(file, "kernels")
    out.plan("bandwidth", "later")
    out.say("bandwidth", [3.0, 1.0, 2.0], "GB/s", least=1.5, note="a note")
    with file.open("a") as cut_short:
        cut_short.write('{"part": "ker')
    said, later = read_figures(file, "kernels", "it was stopped after 5 s")
    assert (said.low, said.value, said.high, said.met) == (1.0, 2.0, 3.0, True)
    assert (later.name, later.value, later.absent, later.met) == ("later", None, "it was stopped after 5 s", None)


def test_a_failure_costs_its_own_figures_and_no_others(file, capsys):
    out = Recorder(file, "case a")
    with out.or_absent("first", "second"):
        out.say("first", 1.0, "ms")
        raise ValueError("no room\nnowhere")
    with out.or_absent("third"):
        out.say("third", 3.0, "ms")
    figures = {figure.name: figure for figure in read_figures(file, "case a", "never read")}
    assert [figures[name].value for name in ("first", "second", "third")] == [1.0, None, 3.0]
    assert figures["second"].absent == "ValueError: no room"
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bounds", "value", "met"),
    [({"least": 0.7}, 0.7, True), ({"least": 0.7}, 0.69, False), ({"most": 2.0}, 2.1, False), ({}, 5.0, None)],
)
def test_a_target_is_met_or_missed(bounds, value, met):
    assert Figure("part", "name", value, **bounds).met is met


def test_a_part_that_wrote_nothing_has_no_figures(file):
    assert read_figures(file, "case a", "it ended with 1") == []


def test_the_table_says_what_was_missed_and_why_a_figure_is_absent():
    text = table(
        [
            Figure("kernels", "share", 0.5, "", least=0.7, low=0.4, high=0.6),
            Figure("case a", "tensorrt", absent="it is not installed"),
        ]
    )
    _, share, absent = text.splitlines()
    assert share.split() == ["kernels:", "share", "0.5", "0.4", "to", "0.6", ">=", "0.7", "MISSED"]
    assert absent.endswith("not taken: it is not installed")
