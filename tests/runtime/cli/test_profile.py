from __future__ import annotations

import argparse
import json

import pytest

from onfh_runtime.cli import profile
from onfh_runtime.cli.infer import demo_bundle
from onfh_runtime.errors import OutputError


def run(*arguments):
    parser = argparse.ArgumentParser()
    profile.add_arguments(parser)
    return profile.run(parser.parse_args([*map(str, arguments)]))


@pytest.mark.slow
def test_the_demo_bundle_is_held_against_the_machine(phantom_study, tmp_path, capsys):
    out = tmp_path / "new" / "trace.json"
    assert run(phantom_study, "--backend", "onnxruntime", "--runs", 2, "--out", out, "--json") == 0
    said, complaint = capsys.readouterr()
    assert complaint == ""
    found = json.loads(said)
    results = found["results"]
    rows = {row["step"]: row for row in results["roofline"]}
    assert list(rows) == ["read", "preprocess", "classify", "segment", "postprocess", "write"]
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    for step in ("classify", "segment"):
        assert 0 < rows[step]["of_product"] < 2  # NumPy's product is the ceiling; another machine may differ a little
        assert rows[step]["gigaoperations"] > 0
    assert results["bound"]["step"] == max(rows, key=lambda step: rows[step]["ms"])
    assert {"read", "compute", "write"} == set(results["busy_lanes"])
    (host,) = results["ceilings"]
    assert host["of"] == "host"
    layers = results["layers"]
    assert layers["classifier"]["operators"][0]["ms"] > 0
    # a row's kernels take about what a row of the stage took
    a_row = rows["classify"]["ms"] / found["settings"]["slices"]
    assert a_row / 4 < layers["classifier"]["kernels_ms"] < a_row * 4
    trace = json.loads(out.read_text())
    assert {event["args"]["series"] for event in trace["traceEvents"] if event["ph"] == "X"} == {0, 1}
    assert str(phantom_study) not in said + out.read_text()
    assert (
        json.loads(demo_bundle().joinpath("bundle.json").read_text())["name"] in found["settings"]["series"]["bundle"]
    )


def test_the_table_names_what_bounds_the_study(phantom_study, write_tiny_bundle, tmp_path, capsys):
    out = tmp_path / "trace.json"
    bundle = write_tiny_bundle().root
    arguments = ("--runs", 1, "--positive-fraction", 0.5, "--out", out)
    assert run(phantom_study, "--bundle", bundle, "--backend", "onnxruntime", *arguments) == 0
    said = capsys.readouterr().out
    assert "One study is bound by" in said
    assert "GATE OVERRIDDEN" in said
    assert "GB/s in a memory copy" in said
    assert "layers of the segmenter" in said
    assert str(out) in said


def test_a_timeline_that_cannot_be_written_is_said_before_anything_is_measured(phantom_study, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError):
        run(phantom_study, "--out", tmp_path / "file" / "trace.json")
    with pytest.raises(OutputError, match="is a folder"):
        run(phantom_study, "--out", tmp_path)
