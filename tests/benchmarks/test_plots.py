"""Plots come from records and from nothing else, and those in docs are of the records there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_records import write_all
from PIL import Image
from plots import DRAWN, PLOTS, draw, source, wanted
from records import MACHINE

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def named_in(path):
    """The source that a plot names in its metadata."""
    if path.suffix == ".png":
        with Image.open(path) as image:
            return image.text["Source"]
    found = re.search(r"<dc:source>\s*(.*?)\s*</dc:source>", path.read_text(), re.DOTALL)
    return found and found[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    write_all(results)
    return results, draw(results, tmp_path_factory.mktemp("plots"), MACHINE)


def test_every_plot_is_drawn_and_names_its_record(made):
    results, paths = made
    assert {path.name for path in paths} == {f"{name}.{kind}" for name in DRAWN for kind in ("svg", "png")}
    expected = wanted(results, MACHINE)
    for path in paths:
        assert named_in(path) == expected[path.stem]


def test_the_same_records_give_the_same_files(made, tmp_path):
    results, paths = made
    for path, again in zip(paths, draw(results, tmp_path, MACHINE), strict=True):
        assert path.read_bytes() == again.read_bytes(), path.name


def test_another_record_is_another_source(made, tmp_path):
    results, _ = made
    changed = tmp_path / f"bench-pipeline-{MACHINE}.json"
    changed.write_bytes((results / changed.name).read_bytes() + b"\n")
    assert source(changed) != wanted(results, MACHINE)["share-of-steps"]


def test_no_record_is_no_plot(tmp_path):
    assert draw(tmp_path, tmp_path / "plots", MACHINE) == []


def test_plots_are_not_stale():
    """`make plots` draws them anew."""
    expected = {f"{name}.{kind}": each for name, each in wanted(RESULTS, MACHINE).items() for kind in ("png", "svg")}
    assert {path.name: named_in(path) for path in sorted(PLOTS.glob("*.*g"))} == expected
