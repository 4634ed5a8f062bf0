"""The README's speed tables say what the records say."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_records import write_all
from readme_table import BEGIN, END, markdown, number, speed, with_speed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tables(tmp_path):
    write_all(tmp_path)
    return speed(tmp_path, plots=tmp_path)


def test_tables_are_not_stale():
    """`make plots` writes them anew."""
    readme = (ROOT / "README.md").read_text()
    assert with_speed(readme, speed(ROOT / "benchmarks" / "results")) == readme


def test_figures_stand_with_spread_hardware_and_versions(tables):
    told = "| pydicom + MONAI + torch, as its bundles do it: whole process, demo bundle | 3.3 (3.13 to 3.63) |"
    assert told in tables.splitlines()
    assert "On Made CPU, 2 cores, Python 3.11.7, NumPy 2.4.6" in tables
    assert "beside monai 1.6.1." in tables
    assert "| OpenVINO FP32: stage 1, stage 2, demo bundle | 0.9 (0.855 to 0.99), 1.1 (1.04 to 1.21) |" in tables


def test_other_answers_are_no_ratio(tables):
    (line,) = [line for line in tables.splitlines() if "one of many" in line]
    assert "not compared: other answers" in line


def test_what_was_left_out_is_no_row(tables):
    assert "torch.compile" not in tables


def test_rooms_say_how_far_they_are_from_their_calls(tables):
    (line,) = [line for line in tables.splitlines() if line.startswith("| 20 studies in a row, demo")]
    assert line.endswith("| 12,000 | 11,400 to 13,200 | 3.33 (3.17 to 3.67) | 4 (3.8 to 4.4) |")


def test_only_what_stands_between_the_comments_is_written():
    readme = f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    assert with_speed(readme, "new") == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    with pytest.raises(SystemExit, match="lacks"):
        with_speed("nothing", "new")


@pytest.mark.parametrize(("value", "said"), [(1346.3, "1,346"), (7.8312, "7.83"), (0.0123, "0.0123"), (1.0, "1")])
def test_numbers(value, said):
    assert number(value) == said


def test_a_table():
    assert markdown([("a", "b"), ("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
